"""Evidence beside thumbs of what belongs together, as votes, and which question to ask next.

Conventions: a vote says whether a track belongs on a seed's station (`up`) or not, in rows of the
corpus. A thumb weighs 1; the weights of all other evidence are beside that. Pairs of an up and a
down are formed within a `group`: the listener's station, so that weaker evidence stands beside the
thumbs given there, or one odd-one-out answer seen from one of its tracks.

Skips and non-votes are known to be weaker signals than thumbs; by how much is not, since no public
data has thumbs and skips of the same station. The weights are therefore settings, to be chosen on
validation votes, and no figure is built in.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import comb

import numpy as np

from cbmr.corpus import Exposures, Thumbs, Triplets
from cbmr.errors import InputError

SKIPPED_BELOW = 0.5
"""A track heard for less than this share was skipped; between the two nothing is said."""
PLAYED_THROUGH = 0.8
NEAREST = 10
"""A question's second track is one of so many nearest to its first."""


@dataclass(frozen=True)
class Evidence:
    """Votes that are no thumbs. Arrays are `[votes]`.

    `user` (-1 where nobody is named), `seed` and `track` are rows of the corpus, `up` is True where
    the track belongs with the seed, and `weight` is beside 1 for a thumb. `group` is the number of
    a station (`station_group`), negative where the vote is on none.
    """

    user: np.ndarray
    seed: np.ndarray
    track: np.ndarray
    up: np.ndarray
    weight: np.ndarray
    group: np.ndarray


def station_group(user: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """One number, at least 0, for each (listener, seed), whatever the table; all arrays `[n]`.

    By hand: listener 2 and seed 5 are 2 * 2**32 + 5.
    """
    return user.astype(np.int64) << 32 | seed


def weaker_votes(
    exposures: Exposures, thumbs: Thumbs, *, skips: float, completions: float, plays: float
) -> Evidence:
    """Votes of what was heard on a station without a thumb, each kind by a weight of its own.

    A track that was skipped (`skips`) is down. One that was played through (`completions`), or of
    which only the play is known (`plays`), is up: of a play alone the station knows no more than
    what it believed itself, so it is the weakest. A kind of weight 0 is left out, and so are an
    exposure that the listener voted on, in `thumbs`, and a seed that its own station played.

    A table of plays cannot serve where `played_ratio` is lacking: it does not know the station, and
    a track skipped elsewhere may still belong here.

    By hand: listener 1 hears tracks 4, 5 and 6 on the station of seed 3, 20 %, 60 % and all of it,
    and votes on none: a down on 4 of weight `skips`, nothing on 5, an up on 6 of weight
    `completions`.

    Raises InputError for skips or completions where no `played_ratio` is known.
    """
    ratio = exposures.played_ratio
    if (skips or completions) and len(ratio) and np.isnan(ratio).all():
        raise InputError(
            f"skips={skips}, completions={completions}: expected a column 'played_ratio' in the "
            "exposures, but no share is known of any; without it only plays= can have a weight"
        )
    group = station_group(exposures.user, exposures.seed)
    skipped, through = ratio < SKIPPED_BELOW, ratio >= PLAYED_THROUGH
    weight = np.select([skipped, through, np.isnan(ratio)], [skips, completions, plays], 0.0)
    voted = _among(
        (group, exposures.track), (station_group(thumbs.user, thumbs.seed), thumbs.track)
    )
    kept = (weight > 0) & ~voted & (exposures.seed != exposures.track)
    return Evidence(
        user=exposures.user[kept],
        seed=exposures.seed[kept],
        track=exposures.track[kept],
        up=~skipped[kept],
        weight=weight[kept],
        group=group[kept],
    )


def odd_one_out_votes(triplets: Triplets, *, weight: float) -> Evidence:
    """Four votes an answer: from `a`, `b` is up and `odd` is down; from `b`, `a` is up and `odd`
    down; `[4 * answers]`, an answer's one after the other.

    Each of the two tracks is the seed of a group of its own, numbered -1, -2 and so on: the answers
    are about no listener's station, and have no kindness or quality in common with any. The four
    come from one act and are wrong together; `weight` is of each of them, and so of each of the two
    groups: an answer of weight 1/2 counts as much as a station.

    By hand: the answer (a 7, b 8, odd 9) is 7: 8 up, 9 down, group -1; 8: 7 up, 9 down, group -2.
    """
    a, b, odd = triplets.a, triplets.b, triplets.odd
    groups = 2 * len(a)
    return Evidence(
        user=np.repeat(triplets.user, 4),
        seed=np.stack([a, a, b, b], axis=1).ravel(),
        track=np.stack([b, odd, a, odd], axis=1).ravel(),
        up=np.tile([True, False], groups),
        weight=np.full(2 * groups, float(weight)),
        group=-1 - np.repeat(np.arange(groups), 2),
    )


def on_rows(evidence: Evidence, rows: np.ndarray) -> Evidence:
    """The evidence with its tracks moved to other rows, `rows` `[tracks]` saying where each went;
    what is about a track that went nowhere (-1) is left out."""
    seed, track = rows[evidence.seed], rows[evidence.track]
    on_station = evidence.group >= 0
    group = np.where(on_station, station_group(evidence.user, seed), evidence.group)
    moved = replace(evidence, seed=seed, track=track, group=group)
    kept = (seed >= 0) & (track >= 0)
    return Evidence(*(column[kept] for column in vars(moved).values()))


def next_three(
    tracks: np.ndarray,
    asked: Collection[frozenset[int]],
    rng: np.random.Generator,
    vectors: np.ndarray | None = None,
) -> np.ndarray | None:
    """Three of `tracks` `[tracks]`, in a random order, of which to ask the odd one out.

    None when all threes are in `asked`. Without vectors, any three that have not been asked. With
    unit `vectors` `[tracks, size]`, three where these cannot tell the answer: any track, one of its
    nearest, and the third whose likeness to either is most nearly that between the two; the answer
    then moves the vectors, whatever it is.

    By hand: at 0, 10, 21 and 90 degrees on a circle, of the two at 0 and 10 the third is at 21: it
    is 11 degrees from one of them, as good as 10. The one at 90 is the odd one by the vectors
    already.
    """
    among = set(tracks.tolist())
    if sum(three <= among for three in asked) == comb(len(tracks), 3):
        return None
    threes = _any_three(len(tracks), rng)
    if vectors is not None:
        threes = chain(_uncertain_threes(vectors, rng), threes)
    for places in threes:
        three = tracks[places]
        if frozenset(three.tolist()) not in asked:
            return rng.permutation(three)
    raise AssertionError("there are endless threes to try")


def _among(
    rows: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Which of `rows`, pairs of a group and a track, are in `others`."""
    station = np.unique(np.concatenate([rows[0], others[0]]), return_inverse=True)[1]
    key = station_group(station, np.concatenate([rows[1], others[1]]))
    return np.isin(key[: len(rows[0])], key[len(rows[0]) :])


def _any_three(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        yield rng.choice(count, 3, replace=False)


def _uncertain_threes(vectors: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Places of threes by the rule of `next_three`, the least certain third of each two first."""
    for first in rng.permutation(len(vectors)):
        to_first = vectors @ vectors[first]
        nearest = np.argsort(-to_first, kind="stable")
        for second in rng.permutation(nearest[nearest != first][:NEAREST]):
            to_either = np.maximum(to_first, vectors @ vectors[second])
            for third in np.argsort(np.abs(to_either - to_first[second]), kind="stable"):
                if third not in (first, second):
                    yield np.array([first, second, third])
