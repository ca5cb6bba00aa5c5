"""Thumbs to index arrays, against the worked example and a plain loop."""

import numpy as np
import pytest

from cbmr.corpus import Exposures, Thumbs, Triplets
from cbmr.evidence import odd_one_out_votes, weaker_votes
from cbmr.preferences import WITHIN, choose_within, make_preferences, pairs_among


def test_the_docstrings_example():
    """Listener 0, seed 9: ups on 1 and 2, a down on 3; listener 1, seed 9: one up. Weights 1/3 x 3
    and 1 average 1/2, so they become 2/3 and 2; the two pairs average 1."""
    thumbs = Thumbs(
        np.array([0, 0, 0, 1]),
        np.array([9, 9, 9, 9]),
        np.array([1, 2, 3, 1]),
        np.array([True, True, False, True]),
    )
    preferences = make_preferences(thumbs, within="both")
    np.testing.assert_allclose(preferences.weight, [2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(preferences.pair_weight, [1, 1, 1, 0])
    pairs = pairs_among(preferences.group, preferences.up)
    assert thumbs.track[pairs].tolist() == [[1, 3], [2, 3]]
    assert preferences.pairs == 2
    assert [station.tolist() for station in preferences.stations] == [[1, 2, 3, 9], [1, 9]]


def test_other_evidence_stands_beside_the_thumbs_of_its_station():
    """Listener 0 on seed 9: an up on 1, a down on 3, and a skip of 4 that weighs 0.5. The station's
    two pairs share its 1 as 1 to 0.5, so 2/3 and 1/3. The odd-one-out answer (7 and 8,
    not 5) is two groups of a pair each, whatever pairs are formed within."""
    thumbs = Thumbs(np.zeros(2, int), np.array([9, 9]), np.array([1, 3]), np.array([True, False]))
    heard = Exposures(np.zeros(1, int), np.array([9]), np.array([4]), np.array([0.2]))
    skip = weaker_votes(heard, thumbs, skips=0.5, completions=0.0, plays=0.0)
    of_three = (np.array([row]) for row in (7, 8, 5))
    answer = odd_one_out_votes(Triplets(np.array([-1]), *of_three), weight=1.0)
    for within in WITHIN:
        preferences = make_preferences(thumbs, skip, answer, within=within)
        pairs = pairs_among(preferences.group, preferences.up)
        named = preferences.seed[pairs[:, 0]], *preferences.track[pairs].T
        weight = preferences.pair_weight[pairs[:, 0]] * preferences.strength[pairs].prod(axis=1)
        found = dict(zip(zip(*(n.tolist() for n in named), strict=True), weight, strict=True))
        third = 4 / 3  # four pairs in three groups
        expected = {
            (9, 1, 3): third * 2 / 3,
            (9, 1, 4): third / 3,
            (7, 8, 5): third,
            (8, 7, 5): third,
        }
        assert found == pytest.approx(expected)
    assert [station.tolist() for station in preferences.stations] == [
        [5, 7, 8], [5, 7, 8], [1, 3, 4, 9],
    ]  # fmt: skip


def test_many_weak_votes_do_not_drown_a_stations_thumbs():
    """Two stations of two ups and a down; on the second 50 plays of weight 0.05 as well. Both weigh
    as much as before, and its thumbs keep 3 of 3 + 2.5 of it. Plays alone weigh as one of them."""
    seed = np.repeat([20, 21], 3)
    thumbs = Thumbs(np.zeros(6, int), seed, np.tile([1, 2, 3], 2), np.tile([True, True, False], 2))

    def plays(station):
        heard = Exposures(*np.array([[0] * 50, [station] * 50, range(30, 80)]), np.full(50, np.nan))
        return weaker_votes(heard, thumbs, skips=0.0, completions=0.0, plays=0.05)

    preferences = make_preferences(thumbs, plays(21), plays(22), within="both")
    total = np.bincount(preferences.group, preferences.weight)
    assert total / total[0] == pytest.approx([1, 1, 0.05], rel=1e-5)
    of_thumbs = preferences.weight[3:6].sum() / total[1]
    assert of_thumbs == pytest.approx(3 / 5.5, rel=1e-5)
    pairs = pairs_among(preferences.group, preferences.up)
    weight = preferences.pair_weight[pairs[:, 0]] * preferences.strength[pairs].prod(axis=1)
    of_group = np.bincount(preferences.group[pairs[:, 0]], weight)
    assert of_group[0] == pytest.approx(of_group[1], rel=1e-4)


def random_thumbs(votes=300):
    rng = np.random.default_rng(0)
    return Thumbs(*rng.integers(0, 6, (3, votes)), rng.random(votes) < 0.6)


@pytest.mark.parametrize("within", WITHIN)
def test_pairs_and_their_weights_against_a_loop(within):
    """Every up and down of one group, each group's pairs weighing the same together."""
    thumbs = random_thumbs()
    key = {
        "both": lambda vote: (thumbs.user[vote], thumbs.seed[vote]),
        "station": lambda vote: thumbs.seed[vote],
        "listener": lambda vote: thumbs.user[vote],
    }[within]
    expected = {
        (up, down)
        for up in range(300)
        for down in range(300)
        if thumbs.up[up] and not thumbs.up[down] and key(up) == key(down)
    }
    preferences = make_preferences(thumbs, within=within)
    pairs = pairs_among(preferences.group, preferences.up)
    assert len(pairs) == preferences.pairs
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    weight = preferences.pair_weight[pairs[:, 0]]
    assert np.isclose(weight.mean(), 1)
    groups = {}
    for (up, _), each in zip(pairs.tolist(), weight, strict=True):
        groups[key(up)] = groups.get(key(up), 0) + each
    np.testing.assert_allclose([*groups.values()], next(iter(groups.values())), rtol=1e-5)
    assert np.isclose(preferences.weight.mean(), 1)


def test_half_of_the_votes_have_to_find_a_partner_on_their_own_station():
    """Two listeners on seed 1: one has an up and a down, the other so many ups alone."""

    def thumbs(others):
        return Thumbs(
            np.array([0, 0, *[1] * others]),
            np.ones(2 + others, dtype=np.int64),
            np.arange(2, 4 + others),
            np.array([True, False, *[True] * others]),
        )

    assert choose_within(thumbs(2)) == "both"
    assert choose_within(thumbs(3)) == "station"
    assert make_preferences(thumbs(2)).pairs == 1
    preferences = make_preferences(thumbs(3))
    assert (preferences.within, preferences.pairs) == ("station", 4)


def test_a_group_of_which_nothing_is_certain_weighs_nothing():
    """Two stations; the vote of the second is as likely meant the other way."""
    thumbs = Thumbs(
        *(np.array(one) for one in ([0] * 3, [0, 0, 1], [2, 3, 4], [True, False, True]))
    )
    preferences = make_preferences(thumbs, certainty=np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(preferences.weight, [1.5, 1.5, 0])
    assert not make_preferences(thumbs, certainty=np.zeros(3)).weight.any()


def test_one_kind_of_vote_makes_no_pairs():
    thumbs = Thumbs(np.zeros(3, int), np.zeros(3, int), np.arange(3), np.ones(3, dtype=bool))
    preferences = make_preferences(thumbs)
    assert preferences.pairs == 0
    assert pairs_among(preferences.group, preferences.up).shape == (0, 2)
    assert pairs_among(np.empty(0, int), np.empty(0, bool)).shape == (0, 2)
    assert len(preferences.weight) == 3
    assert not preferences.pair_weight.any()
