"""A station's votes to a linear head in closed form, its picks, and what each pick rests on.

A track is its unit vector and a constant 1, `x` `[size + 1]`; a vote on it is y, +1 up or -1 down.
Bayesian linear regression (Bishop 2006, equations 3.50 and 3.51): `y = w . x + noise`, with

    w ~ N((start, 0), S),   S = trust^2 start start' + spread^2 (I + C) / 2,   bias^2 for the 1

where `start` is the seed's vector and C the catalogue's covariance, scaled to mean variance 1.
Without votes the best track is the nearest to the seed. `trust` says how far the votes may turn the
seed's own part of w, down to "not like this at all", while the rest is still little known; the
directions in which the catalogue spreads are learned first; the constant takes up how kind a
listener is. The posterior's precision and linear term are sums over the votes, so a vote is added
or taken away exactly.

The next track is chosen by Thompson sampling: weights are drawn from the posterior, and their best
track is played. `exploration` scales the draw's standard deviation, as Chapelle & Li (2011) reshape
the posterior: with few votes on a small catalogue a full draw (1) costs more ups than it finds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cbmr.errors import InputError

DRAWS = 1_000
SCORES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Station:
    """What a station knows. Tracks are rows of its catalogue.

    `features` `[tracks, size + 1]`; `precision` `[size + 1, size + 1]` and `linear` `[size + 1]`
    are the posterior's natural parameters, `mean` `[size + 1]` its mean, and `root` the inverse of
    the precision's Cholesky factor, so that the covariance is `root.T @ root`. `votes` says of each
    track voted on whether up; `played` has the seed and all that was played.
    """

    features: np.ndarray
    precision: np.ndarray
    linear: np.ndarray
    mean: np.ndarray
    root: np.ndarray
    noise: float
    exploration: float
    votes: Mapping[int, bool]
    played: frozenset[int]


@dataclass(frozen=True)
class Pick:
    """A track chosen, and the share of `draws` from the posterior that choose it: an estimate of
    the probability of the choice. The draw that chose it is one of them, so it is never 0, and
    comes out too high where hardly any other draw chooses the track: who weighs picks by one over
    it wants many more draws."""

    track: int
    propensity: float
    draws: int


@dataclass(frozen=True)
class Reason:
    """A vote, and the rank that a pick would have had among the candidates without it."""

    track: int
    up: bool
    rank_without: int


def start_station(
    vectors: np.ndarray,
    start: np.ndarray,
    *,
    played: frozenset[int] = frozenset(),
    trust: float = 1.0,
    spread: float = 0.3,
    bias: float = 0.5,
    noise: float = 1.0,
    exploration: float = 0.1,
) -> Station:
    """A station without votes, over a catalogue of unit `vectors` `[tracks, size]`.

    `start` `[size]` is the seed's unit vector, or `with_taste` of it; `played` is never played, the
    seed's row above all. `trust`, `spread`, `bias` and `noise` are standard deviations, on the
    scale of votes of +1 and -1. The defaults were chosen on simulated stations
    (`benchmarks/radio.py`), `noise` being that of a vote about which nothing is known.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    size = vectors.shape[1]
    covariance = np.cov(vectors, rowvar=False, bias=True).reshape(size, size)
    shape = (np.eye(size) + covariance * size / max(float(np.trace(covariance)), 1e-12)) / 2
    prior = np.zeros((size + 1, size + 1))
    prior[:size, :size] = trust**2 * np.outer(start, start) + spread**2 * shape
    prior[size, size] = bias**2
    precision = np.linalg.inv(prior)
    return _fitted(
        Station(
            features=np.hstack([vectors, np.ones((len(vectors), 1))]),
            precision=precision,
            linear=precision @ np.append(start, 0.0),
            mean=np.zeros(size + 1),
            root=np.zeros((size + 1, size + 1)),
            noise=noise,
            exploration=exploration,
            votes={},
            played=played,
        )
    )


def with_taste(seed: np.ndarray, taste: np.ndarray, weight: float = 0.5) -> np.ndarray:
    """`unit(seed + weight * unit(taste))` `[size]`: where the station of a listener begins whose
    factors `taste` are known, of the space that the vectors are of. Zero factors say nothing."""
    moved = seed + weight * taste / max(float(np.linalg.norm(taste)), 1e-12)
    unit: np.ndarray = moved / np.linalg.norm(moved)
    return unit


def vote(station: Station, track: int, up: bool) -> Station:
    """The station after a vote; of several votes on one track the latest counts."""
    if track in station.votes:
        station = forget(station, track)
    changed = _changed(station, track, up, 1.0)
    return replace(changed, votes={**station.votes, track: up})


def forget(station: Station, track: int) -> Station:
    """The station as if the vote on `track` had never been; InputError where there is none.

    What was played stays played.
    """
    if track not in station.votes:
        raise InputError(f"there is no vote on track {track} to forget")
    changed = _changed(station, track, station.votes[track], -1.0)
    return replace(changed, votes={row: up for row, up in station.votes.items() if row != track})


def play(station: Station, track: int) -> Station:
    """The station after it has played a track, which it will not do again."""
    return replace(station, played=station.played | {track})


def candidates(station: Station) -> np.ndarray:
    """Rows `[candidates]`, ascending, that may be played: not played, nor banned by a down."""
    open_ = np.ones(len(station.features), dtype=bool)
    open_[[*station.played, *(track for track, up in station.votes.items() if not up)]] = False
    return np.flatnonzero(open_)


def pick(station: Station, rng: np.random.Generator, *, draws: int = DRAWS) -> Pick:
    """The next track, by Thompson sampling; InputError when every track was played or banned."""
    rows = _open_rows(station)
    best = np.concatenate(list(_best_of_draws(station, rows, rng, draws)))
    return Pick(int(rows[best[0]]), float(np.mean(best == best[0])), draws)


def rank_of(station: Station, track: int) -> int:
    """The rank of a candidate by the posterior mean, from 1; ties go to the lower row."""
    rows = _open_rows(station)
    return int(_ranks((station.features[rows] @ station.mean)[:, None], rows == track)[0])


def explain(station: Station, track: int) -> list[Reason]:
    """Every vote, with the rank that the candidate `track` would have had without it, by the
    posterior mean; the vote that carried it most comes first.

    Each vote is left out exactly, without a refit: with posterior covariance V and mean m,
    `m_without = m - V x (y - x . m) / (noise^2 - x . V x)`, which is the Sherman-Morrison formula.

    By hand: size 1, no constant, prior N(0, 1), noise 1, one up on x = 1. V is 1/2 and m 1/2;
    without the vote m is 1/2 - 1/2 (1 - 1/2) / (1 - 1/2) = 0, the prior's.
    """
    rows = _open_rows(station)
    voted = list(station.votes)
    x = station.features[voted]
    y = np.where(list(station.votes.values()), 1.0, -1.0)
    towards = x @ station.root.T @ station.root
    step = (y - x @ station.mean) / (station.noise**2 - np.sum(towards * x, axis=1))
    means = station.mean - towards * step[:, None]
    ranks = _ranks(station.features[rows] @ means.T, rows == track)
    reasons = [
        Reason(row, up, int(rank))
        for (row, up), rank in zip(station.votes.items(), ranks, strict=True)
    ]
    return sorted(reasons, key=lambda reason: -reason.rank_without)


def _changed(station: Station, track: int, up: bool, sign: float) -> Station:
    """One vote's rank-one term added (`sign` 1) or taken away (-1)."""
    x = station.features[track] / station.noise**2
    return _fitted(
        replace(
            station,
            precision=station.precision + sign * np.outer(x, station.features[track]),
            linear=station.linear + (sign if up else -sign) * x,
        )
    )


def _fitted(station: Station) -> Station:
    root = np.linalg.inv(np.linalg.cholesky(station.precision))
    return replace(station, mean=root.T @ (root @ station.linear), root=root)


def _open_rows(station: Station) -> np.ndarray:
    rows = candidates(station)
    if not len(rows):
        raise InputError("this station has nothing left to play: all was played or voted down")
    return rows


def _best_of_draws(
    station: Station, rows: np.ndarray, rng: np.random.Generator, draws: int
) -> Iterator[np.ndarray]:
    """The place in `rows` that each draw from the posterior likes best, in blocks of draws."""
    features = station.features[rows].T
    at_once = max(1, SCORES_AT_ONCE // len(rows))
    for done in range(0, draws, at_once):
        normal = rng.standard_normal((min(at_once, draws - done), len(station.mean)))
        weights = station.mean + station.exploration * normal @ station.root
        yield np.argmax(weights @ features, axis=1)


def _ranks(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Ranks `[n]`, from 1, of the one `chosen` candidate by `scores` `[candidates, n]`."""
    if not chosen.any():
        raise InputError("only a track that may still be played has a rank on this station")
    place = int(np.argmax(chosen))
    ahead = np.sum(scores > scores[place], axis=0)
    return 1 + ahead + np.sum(scores[:place] == scores[place], axis=0)
