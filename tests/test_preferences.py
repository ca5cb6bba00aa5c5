"""Thumbs to index arrays, against the worked example and a plain loop."""

import numpy as np

from cbmr.corpus import Thumbs
from cbmr.preferences import make_preferences


def test_the_docstrings_example():
    """Listener 0, seed 9: ups on 1 and 2, a down on 3; listener 1, seed 9: one up. Weights 1/3 x 3
    and 1 average 1/2, so they become 2/3 and 2; the two pairs average 1."""
    thumbs = Thumbs(
        np.array([0, 0, 0, 1]),
        np.array([9, 9, 9, 9]),
        np.array([1, 2, 3, 1]),
        np.array([True, True, False, True]),
    )
    preferences = make_preferences(thumbs)
    np.testing.assert_allclose(preferences.weight, [2 / 3, 2 / 3, 2 / 3, 2])
    assert preferences.pairs.tolist() == [[9, 1, 3], [9, 2, 3]]
    np.testing.assert_allclose(preferences.pair_weight, [1, 1])
    assert [station.tolist() for station in preferences.stations] == [[1, 2, 3, 9], [1, 9]]


def test_pairs_against_a_loop():
    rng = np.random.default_rng(0)
    thumbs = Thumbs(*rng.integers(0, 6, (3, 300)), rng.random(300) < 0.6)
    expected = sorted(
        (thumbs.user[up], thumbs.seed[up], thumbs.track[up], thumbs.track[down])
        for up in range(300)
        for down in range(300)
        if thumbs.up[up]
        and not thumbs.up[down]
        and thumbs.user[up] == thumbs.user[down]
        and thumbs.seed[up] == thumbs.seed[down]
    )
    preferences = make_preferences(thumbs)
    assert sorted(map(tuple, preferences.pairs.tolist())) == sorted(x[1:] for x in expected)
    assert np.isclose(preferences.pair_weight.mean(), 1)
    groups = {}
    for user, seed, weight in zip(thumbs.user, thumbs.seed, preferences.weight, strict=True):
        groups[user, seed] = groups.get((user, seed), 0) + weight
    np.testing.assert_allclose(
        list(groups.values()), groups[thumbs.user[0], thumbs.seed[0]], rtol=1e-5
    )


def test_one_kind_of_vote_makes_no_pairs():
    thumbs = Thumbs(np.zeros(3, int), np.zeros(3, int), np.arange(3), np.ones(3, dtype=bool))
    preferences = make_preferences(thumbs)
    assert preferences.pairs.shape == (0, 3)
    assert len(preferences.weight) == 3
