"""Thumbs to training preferences, as index arrays.

A thumb says whether a track belongs on a station: each vote is a pair (seed, voted track), similar
on an up, dissimilar on a down. A *preference* is a pair of votes of one group, an up and a down.
Within one listener's station (`both`), what a listener's kindness or a station's quality adds to
all of its votes cancels; within a `station`, which is a seed whoever listens, and within a
`listener`, whatever the seed, more votes find a partner and less cancels. Each group weighs the
same whatever its size, so that heavy voters do not dominate; nearly, as each batch is a mean of its
own. Other evidence (`cbmr.evidence`) is
votes of its own weight beside the thumbs.
"""

from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Thumbs
from cbmr.evidence import Evidence, station_group

WITHIN = ("both", "station", "listener")
LEAST_USED = 0.5
"""Pairs within one listener's station are the default where they use this share of the votes."""


@dataclass(frozen=True)
class Preferences:
    """Training votes, each array `[votes]`: track rows `seed` and `track`, whether `up`, the
    `group` that pairs are formed within, its share in a loss of single votes (`weight`, which
    averages 1), its `strength` (of a thumb, how certain it is), and the weight of a pair of thumbs
    of its group (`pair_weight`, 0 where there is none). A pair weighs that times the strength of
    both, which averages 1 over pairs.

    `within` is one of `WITHIN`, and `pairs` how many there are. `stations` holds the rows of each
    (listener, seed)'s tracks, the seed among them.
    """

    seed: np.ndarray
    track: np.ndarray
    up: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    strength: np.ndarray
    pair_weight: np.ndarray
    within: str
    pairs: int
    stations: tuple[np.ndarray, ...]


def make_preferences(
    thumbs: Thumbs,
    *others: Evidence,
    certainty: np.ndarray | None = None,
    within: str | None = None,
) -> Preferences:
    """Group votes and weigh every group as its strongest vote; within it, votes share by their
    strength, which of a thumb is its `certainty` `[thumbs]`, 0 to 1, or 1. `within` as
    `choose_within` has it, if not given.

    By hand, within both: listener u, seed s, ups on a and b, a down on c. The three votes weigh
    1/3 each and the two pairs, of a and c and of b and c, 1/2 each, before the weights are scaled
    to average 1. Two skips of strength 1/2 more, and a thumb weighs 1/4, a skip 1/8; a pair of
    thumbs 1/4, one with a skip 1/8.
    """
    within = within or choose_within(thumbs)
    votes = _together(thumbs, others, np.ones(len(thumbs)) if certainty is None else certainty)
    group = _groups(votes, within)
    groups = int(group.max()) + 1
    strongest = np.zeros(groups)
    np.maximum.at(strongest, group, votes.weight)
    total = np.bincount(group, votes.weight)  # 0 of a group of which nothing is certain
    share = np.divide(strongest, total, out=np.zeros(groups), where=total > 0)
    weight = votes.weight * share[group]
    ups, downs = (np.bincount(group, side) for side in (votes.up, ~votes.up))
    pairs = int((ups * downs).sum())
    strength = (np.bincount(group, side * votes.weight) for side in (votes.up, ~votes.up))
    product = np.prod(list(strength), axis=0)
    each = np.divide(strongest, product, out=np.zeros(groups), where=product > 0)
    each *= pairs / (strongest[product > 0].sum() or 1.0)
    return Preferences(
        seed=votes.seed,
        track=votes.track,
        up=votes.up,
        group=group,
        weight=(weight / (weight.mean() or 1.0)).astype(np.float32),
        strength=votes.weight.astype(np.float32),
        pair_weight=each[group].astype(np.float32),
        within=within,
        pairs=pairs,
        stations=_stations(votes),
    )


def choose_within(thumbs: Thumbs) -> str:
    """`both` where at least half of the votes find a partner on their listener's own station, else
    `station`."""
    group = _groups(_together(thumbs, (), np.ones(len(thumbs))), "both")
    ups = np.bincount(group, thumbs.up)
    has_pair = (ups > 0) & (ups < np.bincount(group))
    return "both" if has_pair[group].mean() >= LEAST_USED else "station"


def pairs_among(group: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Every up and down of one group among some votes, `[pairs, 2]` of their places, the up first.

    By hand: groups 7, 7, 4, 7 and up, down, up, down give (0, 1) and (0, 3).
    """
    ups, downs = np.flatnonzero(up), np.flatnonzero(~up)
    downs = downs[np.argsort(group[downs], kind="stable")]
    begin, end = (np.searchsorted(group[downs], group[ups], side) for side in ("left", "right"))
    partners = end - begin
    of_ups = np.arange(partners.sum()) - np.repeat(np.cumsum(partners) - end, partners)
    return np.stack([np.repeat(ups, partners), downs[of_ups]], axis=1)


def _together(thumbs: Thumbs, others: tuple[Evidence, ...], certainty: np.ndarray) -> Evidence:
    """All votes in one, thumbs first."""
    station = station_group(thumbs.user, thumbs.seed)
    as_votes = Evidence(thumbs.user, thumbs.seed, thumbs.track, thumbs.up, certainty, station)
    parts = [vars(part).values() for part in (as_votes, *others)]
    return Evidence(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _groups(votes: Evidence, within: str) -> np.ndarray:
    """Which group each vote is in, counted from 0; one that is on no station keeps its own."""
    key = {"both": votes.group, "station": votes.seed, "listener": votes.user}[within]
    return np.unique(np.where(votes.group < 0, votes.group, key), return_inverse=True)[1]


def _stations(votes: Evidence) -> tuple[np.ndarray, ...]:
    group = _groups(votes, "both")
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return tuple(
        np.unique(np.concatenate([votes.seed[one[:1]], votes.track[one]])) for one in members
    )
