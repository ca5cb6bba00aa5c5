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
COSINES = 200_000_000
"""So many are looked at to measure hubs: of more than 14,000 tracks, a part of the lists."""
FEWEST = 2_000
AT_ONCE = 16_000_000


@dataclass(frozen=True)
class Hubs:
    """Of `lists` lists: the `skew` of N, and the share of tracks that stand in `none`, which is NaN
    where not every track's list was made."""

    lists: int
    skew: float
    none: float

    def __str__(self) -> str:
        nobody = "" if np.isnan(self.none) else f", {self.none:.1%} of tracks in no list"
        return f"skew {self.skew:.2f} at {DEPTH}{nobody}"

    def numbers(self) -> dict[str, float]:
        """What is known of them, by its name."""
        return {name: value for name, value in vars(self).items() if not np.isnan(value)}


def measure_hubs(vectors: np.ndarray, crowding: np.ndarray | None = None) -> Hubs:
    """How unevenly tracks stand in each other's lists, these in order of the corrected score where
    `crowding` `[tracks]` is given. Of a large catalogue, evenly spaced lists."""
    tracks = len(vectors)
    lists = min(tracks, max(FEWEST, COSINES // tracks))
    asked = np.unique(np.linspace(0, tracks - 1, lists).astype(int))
    half = 0.0 if crowding is None else crowding / 2
    counts = np.zeros(tracks, dtype=np.int64)
    for _, cosines in _blocks(vectors, asked):
        counts += np.bincount(_nearest(cosines - half, DEPTH).ravel(), minlength=tracks)
    none = float(np.mean(counts == 0)) if len(asked) == tracks else float("nan")
    return Hubs(len(asked), occurrence_skew(counts, len(asked)), none)


def occurrence_skew(counts: np.ndarray, lists: int) -> float:
    """Skewness of N over all tracks' lists, from `counts` `[tracks]` in `lists` of them.

    The lists are taken as a random sample: `count (count - 1) .. (count - r + 1)` of r of the
    `lists` drawn is then, on average, its value over all `tracks` lists times
    `lists! (tracks - r)! / ((lists - r)! tracks!)`, so that moments are unbiased where a count is
    mostly chance. 0 where N is the same for all.

    By hand: all of 4 lists, N = 0, 0, 0, 4: mean 1, squares 1 1 1 9 (variance 3), cubes -1 -1 -1
    27 (mean 6): 6 / 3^1.5 = 1.155.
    """
    tracks = len(counts)
    if tracks < 3:
        return 0.0
    factorial, moments, kept = np.ones(tracks), [], 1.0
    for step in range(3):
        factorial = factorial * (counts - step)
        kept *= (lists - step) / (tracks - step)
        moments.append(float(factorial.mean()) / kept)
    first, second, third = moments
    second, third = second + first, third + 3 * second + first  # powers of N
    variance = second - first**2
    if variance <= 0:
        return 0.0
    return (third - 3 * first * second + 2 * first**3) / variance**1.5


def crowding_of(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine of each track to the `NEAREST` nearest to it, float32 `[tracks]`, or to all
    others where there are fewer. Time grows with the square of the tracks."""
    k = min(NEAREST, len(vectors) - 1)
    crowding = np.zeros(len(vectors), dtype=np.float32)
    for rows, cosines in _blocks(vectors, np.arange(len(vectors))):
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


def _blocks(vectors: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of `rows` and their cosines to all tracks, `[rows, tracks]`, -inf to themselves."""
    at_once = max(1, AT_ONCE // len(vectors))
    for start in range(0, len(rows), at_once):
        block = rows[start : start + at_once]
        cosines = vectors[block] @ vectors.T
        cosines[np.arange(len(block)), block] = -np.inf
        yield block, cosines


def _nearest(scores: np.ndarray, n: int) -> np.ndarray:
    n = min(n, scores.shape[1] - 1)
    return np.argpartition(scores, -n, axis=1)[:, scores.shape[1] - n :]
