"""Ranking metrics on NumPy arrays.

`rank` sorts once; the metrics then read the ranking. `scores` is `[listeners, tracks]`, higher is
better; `relevant` is bool of the same shape. Metrics give one value a listener, `[listeners]`, and
NaN for a listener without a relevant track (for AUC: or without any other), to be skipped. AUC
counts ties half; the other metrics need an order, and take the one of the ranking.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """Which `track` stands where, `[listeners, tracks]`, in order of falling score; of the relevant
    ones, listener by listener from the top, each array `[relevant]`: the `listener`, the `place`
    there, the places between which scores tie with its own, `tie_begin` and `tie_end` (exclusive),
    and between which of the relevant ones, `tie_first` and `tie_last` (exclusive). Those of
    listener i are `first[i]` to `first[i + 1]`, `[listeners + 1]`."""

    track: np.ndarray
    listener: np.ndarray
    place: np.ndarray
    tie_begin: np.ndarray
    tie_end: np.ndarray
    tie_first: np.ndarray
    tie_last: np.ndarray
    first: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """An `order` counted. Of each relevant track, `[relevant]`: how many `copies` of it there are,
    how many tracks and how many relevant ones stand `before` it (`hits_before`), and how many of
    the others tie with it and stand `below`. Of each listener, `[listeners]`, how many are
    `relevant` and how many are `others`."""

    order: Order
    copies: np.ndarray
    before: np.ndarray
    hits_before: np.ndarray
    tied: np.ndarray
    below: np.ndarray
    relevant: np.ndarray
    others: np.ndarray

    def drawn(self, copies: np.ndarray) -> "Ranking":
        """The same order where each track is there so many times, whole numbers `[tracks]`: how a
        bootstrap draws tracks again without sorting again."""
        return _counted(self.order, copies)


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
    listeners, tracks = scores.shape
    track = np.broadcast_to(np.arange(tracks, dtype=np.int32), scores.shape)
    if rng is not None:
        track = rng.permuted(track, axis=1)
    shuffled = np.take_along_axis(scores, track, axis=1)
    track = np.take_along_axis(track, np.argsort(-shuffled, axis=1, kind="stable"), axis=1)
    ordered = np.take_along_axis(scores, track, axis=1)
    listener, place = np.nonzero(np.take_along_axis(relevant, track, axis=1))
    edge = np.ones((listeners, tracks + 1), dtype=bool)  # between places, where scores differ
    edge[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]
    edges = np.flatnonzero(edge)
    at = listener * (tracks + 1) + place
    after = np.searchsorted(edges, at, side="right")
    run = edges[after - 1]
    order = Order(
        track=track,
        listener=listener,
        place=place,
        tie_begin=run - listener * (tracks + 1),
        tie_end=edges[after] - listener * (tracks + 1),
        tie_first=np.searchsorted(run, run, side="left"),
        tie_last=np.searchsorted(run, run, side="right"),
        first=np.searchsorted(listener, np.arange(listeners + 1)),
    )
    return _counted(order, np.ones(tracks, dtype=np.int32))


def _counted(order: Order, copies: np.ndarray) -> Ranking:
    listeners, tracks = order.track.shape
    before = np.zeros((listeners, tracks + 1), dtype=np.int32)
    np.cumsum(copies.astype(np.int32)[order.track], axis=1, out=before[:, 1:])
    at = order.listener
    own = before[at, order.place + 1] - before[at, order.place]
    hits = np.concatenate([[0], np.cumsum(own)])
    hits_of_earlier = hits[order.first]
    relevant = np.diff(hits_of_earlier)
    others = before[:, -1] - relevant

    def others_before(place: np.ndarray, entry: np.ndarray) -> np.ndarray:
        counted: np.ndarray = before[at, place] - (hits[entry] - hits_of_earlier[at])
        return counted

    above = others_before(order.tie_begin, order.tie_first)
    through = others_before(order.tie_end, order.tie_last)
    return Ranking(
        order=order,
        copies=own,
        before=before[at, order.place],
        hits_before=hits[:-1] - hits_of_earlier[at],
        tied=through - above,
        below=others[at] - through,
        relevant=relevant,
        others=others,
    )


def auc(ranking: Ranking) -> np.ndarray:
    """Area under the ROC curve: the share of (relevant, other) pairs in the right order, ties half.

    By hand: scores 3, 2, 1 with the first and last relevant: one of two pairs is right, 0.5.
    """
    right = ranking.copies * (ranking.below + 0.5 * ranking.tied)
    return _ratio(_by_listener(ranking, right), ranking.relevant * ranking.others)


def average_precision(ranking: Ranking, *, depth: int) -> np.ndarray:
    """Average precision at `depth`: the precision at each relevant track found among the first
    `depth`, summed, over the number that could be there; its mean over listeners is mAP@depth.

    By hand: the relevant tracks come first and third of three: (1/1 + 2/3) / 2 = 0.833.
    """
    before, within = ranking.before, _within(ranking, depth)
    # Copy j of a track adds (hits + j) / (before + j) = 1 + (hits - before) / (before + j).
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, depth + 1))])
    begin = np.minimum(before, depth)
    precision = within + (ranking.hits_before - before) * (
        harmonic[begin + within] - harmonic[begin]
    )
    return _ratio(_by_listener(ranking, precision), np.minimum(ranking.relevant, depth))


def recall(ranking: Ranking, *, depth: int) -> np.ndarray:
    """The share of the relevant tracks among the first `depth`."""
    return _ratio(_by_listener(ranking, _within(ranking, depth)), ranking.relevant)


def ndcg(ranking: Ranking, *, depth: int) -> np.ndarray:
    """Normalised discounted cumulative gain at `depth`, gain 1, discount `1 / log2(1 + rank)`
    (Jarvelin & Kekalainen 2002).

    By hand: one relevant track, ranked second: (1 / log2(3)) / (1 / log2(2)) = 0.631.
    """
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, depth + 2)))])
    begin = np.minimum(ranking.before, depth)
    gained = discounts[begin + _within(ranking, depth)] - discounts[begin]
    possible = np.minimum(ranking.relevant, depth)
    return _ratio(_by_listener(ranking, gained), discounts[possible])


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


def _within(ranking: Ranking, depth: int) -> np.ndarray:
    """How many copies of each relevant track are among the first `depth`."""
    copies: np.ndarray = np.clip(depth - ranking.before, 0, ranking.copies)
    return copies


def _by_listener(ranking: Ranking, values: np.ndarray) -> np.ndarray:
    return np.bincount(ranking.order.listener, values, minlength=len(ranking.relevant))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
