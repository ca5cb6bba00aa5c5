"""Thumbs to training preferences, as index arrays.

A thumb says whether a track belongs on a station: each vote is a pair (seed, voted track), similar
on an up, dissimilar on a down. A *preference* is a pair of votes of one group, an up and a down.
Within one listener's station (`both`), what a listener's kindness or a station's quality adds to
all of its votes cancels; within a `station`, which is a seed whoever listens, and within a
`listener`, whatever the seed, more votes find a partner and less cancels. Each group weighs the
same whatever its size, so that heavy voters do not dominate.
"""

from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Thumbs

WITHIN = ("both", "station", "listener")
LEAST_USED = 0.5
"""Pairs within one listener's station are the default where they use this share of the votes."""


@dataclass(frozen=True)
class Preferences:
    """Training votes, each array `[votes]`: track rows `seed` and `track`, whether `up`, the
    `group` that pairs are formed within, its share in a loss of single votes (`weight`, which
    averages 1), and the weight of each pair it is part of (`pair_weight`, 0 where its group has no
    pair; pairs average 1).

    `within` is one of `WITHIN`, and `pairs` how many there are. `stations` holds the rows of each
    (listener, seed)'s tracks, the seed among them.
    """

    seed: np.ndarray
    track: np.ndarray
    up: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    pair_weight: np.ndarray
    within: str
    pairs: int
    stations: tuple[np.ndarray, ...]


def make_preferences(thumbs: Thumbs, *, within: str | None = None) -> Preferences:
    """Group votes and weigh every group alike; `within` as `choose_within` has it, if not given.

    By hand, within both: listener u, seed s, ups on a and b, a down on c. The three votes weigh
    1/3 each and the two pairs, of a and c and of b and c, 1/2 each, before the weights are scaled
    to average 1.
    """
    within = within or choose_within(thumbs)
    group = _groups(thumbs, within)
    sizes = np.bincount(group)
    ups = np.bincount(group, thumbs.up, minlength=len(sizes))
    pairs = ups * (sizes - ups)
    # Every group's pairs weigh 1 together, then all of them 1 on average.
    each = np.divide(1.0, pairs, out=np.zeros(len(pairs)), where=pairs > 0)
    each *= pairs.sum() / max(1, np.count_nonzero(pairs))
    weight = 1.0 / sizes[group]
    return Preferences(
        seed=thumbs.seed,
        track=thumbs.track,
        up=thumbs.up,
        group=group,
        weight=(weight / weight.mean()).astype(np.float32),
        pair_weight=each[group].astype(np.float32),
        within=within,
        pairs=int(pairs.sum()),
        stations=_stations(thumbs),
    )


def choose_within(thumbs: Thumbs) -> str:
    """`both` where at least half of the votes find a partner on their listener's own station, else
    `station`."""
    group = _groups(thumbs, "both")
    ups = np.bincount(group, thumbs.up)
    has_pair = (ups > 0) & (ups < np.bincount(group))
    return "both" if has_pair[group].mean() >= LEAST_USED else "station"


def pairs_among(group: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Every up and down of one group among some votes, `[pairs, 2]` of their places, the up first.

    By hand: groups 7, 7, 4, 7 and up, down, up, down give (0, 1) and (0, 3).
    """
    order = np.lexsort([~up, group])  # a group's ups, then its downs
    begin = np.flatnonzero(np.diff(group[order], prepend=group.min(initial=0) - 1))
    sizes = np.diff(begin, append=len(order))
    ups = np.add.reduceat(up[order], begin, dtype=np.int64) if len(order) else begin
    pairs = ups * (sizes - ups)
    of = np.repeat(np.arange(len(begin)), pairs)
    number = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    downs = (sizes - ups)[of]
    first, second = number // np.maximum(downs, 1), number % np.maximum(downs, 1)
    return np.stack([order[begin[of] + first], order[begin[of] + ups[of] + second]], axis=1)


def _groups(thumbs: Thumbs, within: str) -> np.ndarray:
    """Which group each vote is in, counted from 0."""
    keys = {"both": [thumbs.user, thumbs.seed], "station": [thumbs.seed], "listener": [thumbs.user]}
    return np.unique(np.stack(keys[within]), axis=1, return_inverse=True)[1].reshape(-1)


def _stations(thumbs: Thumbs) -> tuple[np.ndarray, ...]:
    group = _groups(thumbs, "both")
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return tuple(
        np.unique(np.concatenate([thumbs.seed[one[:1]], thumbs.track[one]])) for one in members
    )
