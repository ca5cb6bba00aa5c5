"""Ranking metrics against plain loops, worked examples and invariances."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from cbmr.metrics import auc, average_precision, ndcg, pooled_auc, rank, recall


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (40, 17)).astype(float)  # many ties
    relevant = rng.random((40, 17)) < 0.3
    relevant[0], relevant[1] = False, True
    return scores, relevant


def loop_auc(scores, relevant):
    ups = [s for s, r in zip(scores, relevant, strict=True) if r]
    downs = [s for s, r in zip(scores, relevant, strict=True) if not r]
    if not ups or not downs:
        return math.nan
    right = sum((u > d) + 0.5 * (u == d) for u, d in itertools.product(ups, downs))
    return right / (len(ups) * len(downs))


def loop_average_precision(order, depth):
    """`order`: relevance from the best to the worst."""
    hits, total = 0, 0.0
    for place, hit in enumerate(order[:depth], start=1):
        hits += hit
        total += hit * hits / place
    return total / min(sum(order), depth) if sum(order) else math.nan


def loop_ndcg(order, depth):
    gain = sum(hit / math.log2(place + 1) for place, hit in enumerate(order[:depth], start=1))
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(sum(order), depth) + 1))
    return gain / ideal if ideal else math.nan


def test_auc_is_the_share_of_pairs(world):
    scores, relevant = world
    expected = [loop_auc(s, r) for s, r in zip(scores, relevant, strict=True)]
    np.testing.assert_allclose(auc(rank(scores, relevant)), expected)


def test_auc_equals_the_rank_sum_formula(world):
    scores, relevant = world
    ups = relevant.sum(axis=1)
    ranks = (rankdata(scores, axis=1) * relevant).sum(axis=1)
    kept = slice(2, None)
    expected = (ranks - ups * (ups + 1) / 2)[kept] / (ups * (17 - ups))[kept]
    np.testing.assert_allclose(auc(rank(scores, relevant))[kept], expected)


@pytest.mark.parametrize("depth", [1, 5, 17, 500])
def test_ordered_metrics_against_loops(world, depth):
    scores, relevant = world
    orders = [
        relevant[row][np.argsort(-scores[row], kind="stable")].tolist()
        for row in range(len(scores))
    ]
    ranking = rank(scores, relevant)
    np.testing.assert_allclose(
        average_precision(ranking, depth=depth),
        [loop_average_precision(order, depth) for order in orders],
    )
    np.testing.assert_allclose(
        ndcg(ranking, depth=depth), [loop_ndcg(order, depth) for order in orders]
    )
    np.testing.assert_allclose(
        recall(ranking, depth=depth),
        [sum(o[:depth]) / sum(o) if sum(o) else math.nan for o in orders],
    )


def test_worked_examples():
    scores = np.array([[3.0, 2.0, 1.0]])
    first_and_last = rank(scores, np.array([[True, False, True]]))
    assert auc(first_and_last)[0] == 0.5
    assert average_precision(first_and_last, depth=500)[0] == pytest.approx((1 + 2 / 3) / 2)
    second = rank(scores, np.array([[False, True, False]]))
    assert ndcg(second, depth=10)[0] == pytest.approx(1 / math.log2(3))
    up = np.array([True, True, False])
    assert pooled_auc(np.array([2.0, 0.0, 1.0]), up, np.array([1, 3, 1])) == 0.25


@pytest.mark.parametrize("metric", ["auc", "map", "recall", "ndcg"])
def test_a_perfect_order_scores_one_and_a_shift_changes_nothing(world, metric):
    scores, relevant = world
    measure = {
        "auc": auc,
        "map": lambda r: average_precision(r, depth=500),
        "recall": lambda r: recall(r, depth=17),
        "ndcg": lambda r: ndcg(r, depth=10),
    }[metric]
    perfect = measure(rank(relevant.astype(float), relevant))
    assert np.nanmin(perfect) == np.nanmax(perfect) == 1.0
    np.testing.assert_array_equal(
        measure(rank(scores, relevant)), measure(rank(scores * 3 + 7, relevant))
    )


@pytest.mark.parametrize("metric", ["average_precision", "auc", "recall", "ndcg"])
def test_copies_equal_columns_drawn_again(world, metric):
    """A track that counts twice is the same as one that stands there twice."""
    scores, relevant = world
    scores = scores + np.linspace(0, 0.5, 17)  # no ties, so that the order is one
    copies = np.random.default_rng(1).integers(0, 4, 17)
    drawn = np.repeat(np.arange(17), copies)
    measure = {
        "average_precision": lambda r: average_precision(r, depth=10),
        "auc": auc,
        "recall": lambda r: recall(r, depth=10),
        "ndcg": lambda r: ndcg(r, depth=10),
    }[metric]
    again = measure(rank(scores[:, drawn], relevant[:, drawn]))
    np.testing.assert_allclose(measure(rank(scores, relevant).drawn(copies)), again)


def test_pooled_auc_against_pairs():
    rng = np.random.default_rng(2)
    scores, up = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.5
    assert pooled_auc(scores, up) == pytest.approx(loop_auc(scores, up))
    assert math.isnan(pooled_auc(scores, np.ones(60, dtype=bool)))


def test_nan_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        rank(np.array([[np.nan, 1.0]]), np.array([[True, False]]))
    with pytest.raises(ValueError, match="expected the same"):
        rank(np.ones((1, 2)), np.ones((1, 3), dtype=bool))
