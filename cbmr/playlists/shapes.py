"""What each place of a list asks for.

A shape is the places that its seeds hold, and for every other place a unit query: the same one for
all (nearest), the direction of the last tracks (chain), or a point on the way from one seed to the
next (path).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cbmr.errors import InputError
from cbmr.playlists.catalogue import Track

MODES = ("nearest", "chain", "path")
EPS = 1e-6

Listed = Mapping[int, Track]
"""The tracks of a list so far, by their places from 0."""


@dataclass(frozen=True)
class Shape:
    """`query(place, listed)` is a unit vector `[embedding_size]`; the same object where nothing has
    changed, so that the search goes on. A list with `holes` goes on after a place nothing fits."""

    seeds: Listed
    query: Callable[[int, Listed], np.ndarray]
    holes: bool = False


def make_shape(
    mode: str, seeds: Sequence[Track], weights: Sequence[float] | None, n: int, lookback: int
) -> Shape:
    """The shape of a list of `n` tracks, its seeds included.

    Weights are of `mode="nearest"`, `lookback` of `mode="chain"`. InputError for an unknown mode,
    a path of one seed, weights without a meaning, and seeds that cancel each other out.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode}: expected one of {', '.join(MODES)}")
    if weights is not None and mode != "nearest":
        raise InputError(f"weights= have no meaning with mode={mode}: expected mode=nearest")
    if mode == "path":
        return _path(seeds, n)
    first = dict(enumerate(seeds))
    if mode == "chain":
        return Shape(first, lambda place, listed: _direction_of_last(place, listed, lookback))
    query = _mean_direction([seed.query for seed in seeds], weights)
    return Shape(first, lambda place, listed: query)


def waypoint_places(waypoints: int, n: int) -> list[int]:
    """Where waypoints stand in a path of `n` tracks: both ends, and evenly between.

    By hand: three in ten tracks stand at 0, 4 and 9.
    """
    return [number * (n - 1) // (waypoints - 1) for number in range(waypoints)]


def interpolate(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The point at `share` of the great circle from unit `a` to unit `b` (slerp, Shoemake 1985):
    `(sin((1 - t) w) a + sin(t w) b) / sin w`, w the angle between them.

    By hand: half-way from (1, 0) to (0, 1) is (1, 1) / sqrt(2). Between opposite points, where no
    circle is the shortest, it is the nearer one.
    """
    angle = math.acos(min(1.0, max(-1.0, float(a @ b))))
    if math.sin(angle) < EPS:
        return a if share < 0.5 else b
    point = math.sin((1 - share) * angle) * a + math.sin(share * angle) * b
    return _unit(point / math.sin(angle))


def _path(seeds: Sequence[Track], n: int) -> Shape:
    if len(seeds) < 2:
        raise InputError("mode=path: expected two or more seeds to pass through, seed=[a,b]")
    places = waypoint_places(len(seeds), n)
    vectors = [seed.query for seed in seeds]

    def query(place: int, listed: Listed) -> np.ndarray:
        leg = int(np.searchsorted(places, place)) - 1
        share = (place - places[leg]) / (places[leg + 1] - places[leg])
        return interpolate(vectors[leg], vectors[leg + 1], share)

    return Shape(dict(zip(places, seeds, strict=True)), query, holes=True)


def _direction_of_last(place: int, listed: Listed, lookback: int) -> np.ndarray:
    return _mean_direction([listed[at].query for at in range(max(0, place - lookback), place)])


def _mean_direction(
    vectors: Sequence[np.ndarray], weights: Sequence[float] | None = None
) -> np.ndarray:
    mean = np.average(np.stack(vectors), axis=0, weights=weights).astype(vectors[0].dtype)
    if float(np.linalg.norm(mean)) < EPS:
        raise InputError("the seeds point in opposite directions, which leaves none: use mode=path")
    return _unit(mean)


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit
