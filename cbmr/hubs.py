"""Hubs: tracks that stand in far more lists than others, how many there are, and a correction.

Conventions: `vectors` are unit, float32 `[tracks, size]`; a track's list is of the `DEPTH` tracks
with the highest cosine to it, itself left out; `N` `[tracks]` is in how many lists each stands, its
k-occurrence. Its skewness is 0 where lists are shared out evenly and grows with hubs
(Radovanovic, Nanopoulos & Ivanovic 2010, equation 1); above 1 it is felt.

The correction is a local scaling: a track's `crowding` is its mean cosine to the `NEAREST` tracks
nearest to it, and what a query q is near to is ordered by `cos(q, x) - crowding(x) / 2`. As
`2 cos(q, x) - crowding(q) - crowding(x)` it is symmetric (CSLS: Conneau et al. 2018, equation 3);
the query's own part moves no order. Compared with others in `benchmarks/hubs.py`.

    index/crowding.npz  track_ids, crowding float32 [tracks], encoder: the hash of whose vectors
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmr.corpus import rows_of
from cbmr.files import read_arrays, write_arrays
from cbmr.vectors import Vectors

DEPTH, NEAREST = 10, 50
MEASURED = 10_000
"""Of more tracks, so many are measured among themselves. A part of the lists over all tracks would
not do: most tracks would stand in none or one of them by chance alone."""
AT_ONCE = 16_000_000


@dataclass(frozen=True)
class Hubs:
    """Of the lists of `tracks`: the `skew` of N, and the share that stand in `none` of them."""

    tracks: int
    skew: float
    none: float

    def __str__(self) -> str:
        return f"skew {self.skew:.2f} at {DEPTH}, {self.none:.1%} in no list"


def measure_hubs(vectors: np.ndarray, *, corrected: bool = False) -> Hubs:
    """How unevenly tracks stand in each other's lists, as `occurrences` counts them."""
    return hubs_of(occurrences(vectors, corrected=corrected)[1])


def occurrences(vectors: np.ndarray, *, corrected: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `vectors` and their N, with lists as they are or `corrected`: all of them, of a large
    catalogue `MEASURED` evenly spaced ones among each other."""
    rows = np.linspace(0, len(vectors) - 1, min(MEASURED, len(vectors))).astype(int)
    vectors = vectors[rows]
    tracks, n = len(vectors), min(DEPTH, len(vectors) - 1)
    half = crowding_of(vectors) / 2 if corrected else 0.0
    counts = np.zeros(tracks, dtype=np.int64)
    for _, cosines in _blocks(vectors):
        listed = np.argpartition(cosines - half, -n, axis=1)[:, tracks - n :]
        counts += np.bincount(listed.ravel(), minlength=tracks)
    return rows, counts


def hubs_of(counts: np.ndarray) -> Hubs:
    """What there is to say of N."""
    return Hubs(len(counts), occurrence_skew(counts), float(np.mean(counts == 0)))


def occurrence_skew(counts: np.ndarray) -> float:
    """`mean((N - mean N)^3) / std(N)^3` of `counts` `[tracks]`; 0 where all are the same.

    By hand: N = 0, 0, 0, 4: mean 1, squares 1 1 1 9 (mean 3), cubes -1 -1 -1 27 (mean 6):
    6 / 3^1.5 = 1.155.
    """
    off = counts - counts.mean()
    spread = float(counts.std())
    return float(np.mean(off**3)) / spread**3 if spread else 0.0


def crowding_of(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine of each track to the `NEAREST` nearest to it, float32 `[tracks]`, or to all
    others where there are fewer. Time grows with the square of the number of tracks."""
    k = min(NEAREST, len(vectors) - 1)
    crowding = np.zeros(len(vectors), dtype=np.float32)
    for rows, cosines in _blocks(vectors):
        if k:
            crowding[rows] = np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
    return crowding


def save_crowding(folder: Path, vectors: Vectors, crowding: np.ndarray, encoder: str) -> None:
    """Write `crowding.npz` into an index."""
    write_arrays(
        folder / "crowding.npz",
        track_ids=vectors.track_ids,
        crowding=crowding,
        encoder=np.array(encoder),
    )


def load_crowding(folder: Path, vectors: Vectors, encoder: str) -> np.ndarray | None:
    """An index's crowding `[vectors]`, the mean for a track that came since; None where the index
    has none, or one of another encoder."""
    path = folder / "crowding.npz"
    if not path.exists():
        return None
    track_ids, crowding, made_by = read_arrays(path, "track_ids", "crowding", "encoder")
    if str(made_by) != encoder:
        return None
    at = rows_of(track_ids, vectors.track_ids)
    in_order: np.ndarray = np.where(at >= 0, crowding[at], crowding.mean())
    return in_order


def _blocks(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows and their cosines to all tracks, `[rows, tracks]`, -inf to themselves."""
    at_once = max(1, AT_ONCE // len(vectors))
    for start in range(0, len(vectors), at_once):
        cosines = vectors[start : start + at_once] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        yield slice(start, start + len(cosines)), cosines
