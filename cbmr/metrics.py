"""Ranking metrics on NumPy arrays.

`rank` sorts once; the metrics then read the ranking. `scores` is `[listeners, tracks]`, higher is
better; `relevant` is bool of the same shape. Metrics give one value a listener, `[listeners]`, and
NaN for a listener without a relevant track (for AUC: or without any other), to be skipped.

`copies` `[tracks]` (default: one each) are whole numbers of times that each track is there: how a
bootstrap draws tracks again without sorting again. AUC counts ties half; the other metrics need an
order, and take the one of the ranking.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Tracks in order of falling score, each array `[listeners, tracks]`: which track stands there,
    whether it is relevant, and where its run of tied scores begins and ends (exclusive)."""

    track: np.ndarray
    relevant: np.ndarray
    tie_begin: np.ndarray
    tie_end: np.ndarray


def rank(
    scores: np.ndarray, relevant: np.ndarray, rng: np.random.Generator | None = None
) -> Ranking:
    """Sort each listener's tracks; `rng` breaks ties at random, without it place does.

    ValueError for shapes that differ, NaN, or `relevant` that is not bool.
    """
    if scores.ndim != 2 or scores.shape != relevant.shape or relevant.dtype != bool:
        raise ValueError(
            f"scores {scores.shape} and relevant {relevant.shape} of {relevant.dtype}: expected "
            "the same [listeners, tracks], relevant bool"
        )
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which no order has a place for")
    track = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    if rng is not None:
        track = rng.permuted(track, axis=1)
    shuffled = np.take_along_axis(scores, track, axis=1)
    track = np.take_along_axis(track, np.argsort(-shuffled, axis=1, kind="stable"), axis=1)
    ordered = np.take_along_axis(scores, track, axis=1)
    places = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    starts = np.ones(scores.shape, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(scores.shape, dtype=bool)
    ends[:, :-1] = starts[:, 1:]
    tie_end = np.where(ends, places + 1, scores.shape[1])
    return Ranking(
        track=track,
        relevant=np.take_along_axis(relevant, track, axis=1),
        tie_begin=np.maximum.accumulate(np.where(starts, places, 0), axis=1),
        tie_end=np.minimum.accumulate(tie_end[:, ::-1], axis=1)[:, ::-1],
    )


def auc(ranking: Ranking, copies: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: the share of (relevant, other) pairs in the right order, ties half.

    By hand: scores 3, 2, 1 with the first and last relevant: one of two pairs is right, 0.5.
    """
    count = _copies(ranking, copies)
    other = _before(count * ~ranking.relevant)
    at_begin = np.take_along_axis(other, ranking.tie_begin, axis=1)
    at_end = np.take_along_axis(other, ranking.tie_end, axis=1)
    others = other[:, -1:]
    below = others - at_end + 0.5 * (at_end - at_begin)
    positive = count * ranking.relevant
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * others[:, 0])


def average_precision(
    ranking: Ranking, *, depth: int, copies: np.ndarray | None = None
) -> np.ndarray:
    """Average precision at `depth`: the precision at each relevant track found among the first
    `depth`, summed, over the number that could be there; its mean over listeners is mAP@depth.

    By hand: the relevant tracks come first and third of three: (1/1 + 2/3) / 2 = 0.833.
    """
    count = _copies(ranking, copies)
    place, hits = _before(count), _before(count * ranking.relevant)
    possible = np.minimum(hits[:, -1], depth)
    place, hits = place[:, :-1], hits[:, :-1]
    within = np.clip(depth - place, 0, count)
    # Copy j of a track adds (hits + j) / (place + j) = 1 + (hits - place) / (place + j).
    longest = int(count.sum(axis=1).max(initial=0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, longest + 1))])
    summed = within + (hits - place) * (harmonic[place + within] - harmonic[place])
    return _ratio((summed * ranking.relevant).sum(axis=1), possible)


def recall(ranking: Ranking, *, depth: int, copies: np.ndarray | None = None) -> np.ndarray:
    """The share of the relevant tracks among the first `depth`."""
    count = _copies(ranking, copies)
    found = np.diff(np.minimum(_before(count), depth), axis=1)
    return _ratio((found * ranking.relevant).sum(axis=1), (count * ranking.relevant).sum(axis=1))


def ndcg(ranking: Ranking, *, depth: int, copies: np.ndarray | None = None) -> np.ndarray:
    """Normalised discounted cumulative gain at `depth`, gain 1, discount `1 / log2(1 + rank)`
    (Jarvelin & Kekalainen 2002).

    By hand: one relevant track, ranked second: (1 / log2(3)) / (1 / log2(2)) = 0.631.
    """
    count = _copies(ranking, copies)
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, depth + 2)))])
    gained = np.diff(discounts[np.minimum(_before(count), depth)], axis=1)
    possible = np.minimum((count * ranking.relevant).sum(axis=1), depth)
    return _ratio((gained * ranking.relevant).sum(axis=1), discounts[possible])


def pooled_auc(scores: np.ndarray, positive: np.ndarray, copies: np.ndarray | None = None) -> float:
    """AUC of one list `[items]`, ties half; NaN when it has no pair.

    By hand: positives 2 (once) and 0 (three times), a negative 1: 1 of 4 is right, 0.25.
    """
    count = np.ones(len(scores)) if copies is None else copies
    values, place = np.unique(scores, return_inverse=True)
    up = np.bincount(place[positive], count[positive], minlength=len(values))
    down = np.bincount(place[~positive], count[~positive], minlength=len(values))
    below = np.cumsum(down) - down
    return float(_ratio((up * (below + down / 2)).sum(), up.sum() * down.sum()))


def _copies(ranking: Ranking, copies: np.ndarray | None) -> np.ndarray:
    if copies is None:
        return np.ones(ranking.track.shape, dtype=np.int64)
    return copies[ranking.track]


def _before(count: np.ndarray) -> np.ndarray:
    """Running sums that start with 0, `[listeners, tracks + 1]`."""
    return np.pad(np.cumsum(count, axis=1), ((0, 0), (1, 0)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
