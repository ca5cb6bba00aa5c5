"""Priors by hand, their weight where they are the truth and where they are noise, and folding in
against the dense normal equations."""

import numpy as np
import polars as pl
import pytest

from cbmr.corpus import Plays, make_corpus
from cbmr.factors import Factors, confidence, factorize, unit_rows
from cbmr.priors import (
    anchor_weights,
    blend,
    blend_plays,
    choose_weight,
    fold_in,
    group_means,
    priors_of_new_tracks,
    seed_queries,
)

HALF = np.sqrt(0.5)
TRACKS = [
    # artist, album, split
    ("X", "one", "train"),
    ("X", "two", "train"),
    ("X", "two", "test"),
    ("Y", "two", "test"),
    ("Y", "", "test"),
    ("", "", "train"),
    ("", "", "test"),
]


@pytest.fixture
def corpus(tmp_path):
    artist, album, split = zip(*TRACKS, strict=True)
    columns = {"track_id": [f"t{row}" for row in range(len(TRACKS))], "path": ["x"] * len(TRACKS)}
    return make_corpus(
        tmp_path, pl.DataFrame({**columns, "artist": artist, "album": album, "split": split})
    )


TRAIN = np.array([0, 1, 5])
TARGETS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_means_by_hand(corpus):
    """The artist first, its album where the artist is new, nothing where both are or have no
    name."""
    means = group_means(corpus, TRAIN, TARGETS, prior="artist")
    expected = [[HALF, HALF]] * 3 + [[0, 1], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(means, expected, atol=1e-7)
    means = group_means(corpus, TRAIN, TARGETS, prior="album")
    expected = [[1, 0], [0, 1], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(means, expected, atol=1e-7)


def test_no_training_track_has_a_prior_so_none_gets_its_own_vector_back(corpus):
    prior = priors_of_new_tracks(corpus, TRAIN, TARGETS, prior="artist")
    assert np.flatnonzero(prior.any(axis=1)).tolist() == [2, 3]
    predicted = unit_rows(np.random.default_rng(0).standard_normal((7, 2)))
    blended = blend(predicted, prior, 0.9)
    stays = [0, 1, 4, 5, 6]
    np.testing.assert_array_equal(blended[stays], predicted[stays])
    assert not np.isclose(blended[[2, 3]], predicted[[2, 3]]).any()


def test_blend_by_hand():
    predicted, prior = np.array([[0.0, 1.0]] * 3), np.array([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(
        blend(predicted, prior, 0.75),
        [[0.75 / np.hypot(0.75, 0.25), 0.25 / np.hypot(0.75, 0.25)], [0, 1], [0, -1]],
        atol=1e-7,
    )
    # What cancels to nothing has no direction, and stays as predicted.
    np.testing.assert_array_equal(blend(predicted, prior, 0.5)[2], predicted[2])


def closeness(truth):
    """A measure of its own: how near each vector is to the truth; votes say the same."""
    return lambda vectors: {
        "listening_auc": float((vectors * truth).sum(axis=1).mean()),
        "thumbs_auc": float((vectors * truth).sum(axis=1).mean()),
    }


def test_the_weight_is_nothing_for_noise_and_most_for_the_truth():
    rng = np.random.default_rng(0)
    truth, noise = (unit_rows(rng.standard_normal((500, 8))) for _ in range(2))
    chosen = choose_weight(truth, noise, closeness(truth))
    assert (chosen.weight, chosen.after) == (0.0, chosen.before)
    chosen = choose_weight(noise, truth, closeness(truth))
    assert chosen.weight == 0.9
    assert chosen.after["listening_auc"] > chosen.before["listening_auc"] + 0.5
    # Of weights that change nothing the smallest.
    assert choose_weight(truth, truth, lambda _: {"listening_auc": 0.5}).weight == 0.0
    # Two equally noisy witnesses are best believed alike.
    witness = [unit_rows(truth + 0.5 * rng.standard_normal((500, 8))) for _ in range(2)]
    assert choose_weight(*witness, closeness(truth)).weight == 0.5


def test_thumbs_that_would_fall_keep_the_weight_down():
    def measure(vectors):
        moved = float(vectors[0, 0])
        return {"listening_auc": moved, "thumbs_auc": 0.7 if moved < 0.6 else 0.6}

    predicted, prior = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    assert choose_weight(predicted, prior, measure).weight == 0.4  # tan of 0.6's angle: 0.67, 1.0
    without_votes = choose_weight(predicted, prior, lambda v: {"listening_auc": float(v[0, 0])})
    assert without_votes.weight == 0.9


def test_nothing_to_learn_from_is_no_weight():
    vectors = np.array([[0.0, 1.0]])
    assert choose_weight(vectors, np.zeros((1, 2)), closeness(vectors)) is None
    assert choose_weight(vectors, vectors, lambda _: {"thumbs_auc": 0.5}) is None


def test_folding_in_solves_the_dense_normal_equations():
    """(X'C X + lambda I) y = X'C p over all listeners, C and p being 1 and 0 for who never
    played."""
    rng = np.random.default_rng(0)
    users = rng.standard_normal((30, 5))
    count = rng.integers(1, 9, (30, 4)) * (rng.random((30, 4)) < 0.3)
    count[:, 2] = 0
    user, track = np.nonzero(count)
    order = rng.permutation(len(user))
    plays = Plays(user[order], track[order], count[user, track][order])
    model = {"regularization": 3.0, "alpha": 2.0, "eps": 0.5}
    folded = fold_in(users, plays, 4, **model)
    for item in range(4):
        weight = confidence(count[:, item], alpha=2.0, eps=0.5)
        left = users.T @ np.diag(weight) @ users + 3.0 * np.eye(5)
        right = users.T @ (weight * (count[:, item] > 0))
        np.testing.assert_allclose(folded[item], np.linalg.solve(left, right), atol=1e-10)
    assert not folded[2].any()


def test_folding_in_all_plays_of_a_fitted_track_gives_its_factors():
    rng = np.random.default_rng(1)
    user, track = np.nonzero(rng.random((40, 12)) < 0.4)
    plays = Plays(user, track, rng.integers(1, 9, len(user)))
    ids = [np.array([f"{kind}{row:02d}" for row in range(n)]) for kind, n in (("t", 12), ("u", 40))]
    model = {"regularization": 5.0, "alpha": 2.0, "eps": 1e-6}
    fitted = factorize(plays, *ids, size=4, **model)
    folded = fold_in(fitted.user_factors, plays, 12, **model)
    np.testing.assert_allclose(folded, fitted.item_factors, atol=2e-3)


def test_plays_weigh_n_of_n_plus_k():
    content, folded = np.array([[0.0, 1.0]]), np.array([[5.0, 0.0]])
    np.testing.assert_allclose(blend_plays(content, folded, 10, 10.0), [[HALF, HALF]], atol=1e-7)
    third = np.array([[1.0, 3.0]]) / np.sqrt(10)
    np.testing.assert_allclose(blend_plays(content, folded, 1, 3.0), third, atol=1e-7)
    np.testing.assert_array_equal(blend_plays(content, 0 * folded, 0, 3.0), content)


def test_a_seed_asks_with_its_listeners_as_far_as_it_has_some():
    """Three listeners count as much as the sound, 27 nine times: (9, 1) / sqrt(82). A track without
    factors asks with its sound, to the bit."""
    factors = Factors(
        np.array(["a", "c"]), np.array([[5.0, 0.0], [0.2, 0.0]], np.float32), np.array([3, 27]),
        np.array(["u"]), np.ones((1, 2), np.float32),
    )  # fmt: skip
    content = np.array([[0.0, 1.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
    queries = seed_queries(content, np.array(["a", "b", "c"]), factors)
    expected = [[HALF, HALF], [0.6, 0.8], np.array([9, 1]) / np.sqrt(82)]
    np.testing.assert_allclose(queries, expected, atol=1e-6)
    np.testing.assert_array_equal(queries[1], content[1])


def test_the_anchor_holds_a_track_as_far_as_its_listeners_are_many():
    """Ten listeners hold by a half, thirty by three quarters; without factors nothing does."""
    factors = Factors(
        np.array(["a", "c"]), np.ones((2, 2), np.float32), np.array([10, 30]),
        np.array(["u"]), np.ones((1, 2), np.float32),
    )  # fmt: skip
    weights = anchor_weights(factors, np.array(["c", "b", "a"]))
    np.testing.assert_array_equal(weights, np.float32([0.75, 0, 0.5]))
