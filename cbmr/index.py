"""Vectors to an index for serving: track ids in, track ids out.

Annoy (angular, on unit vectors, so `cosine = 1 - distance^2 / 2`) is the export; exact search is
the oracle, and what answers where the catalogue is so small that Annoy is hardly faster: both are
timed at every build, and which one answers is written into the manifest, with Annoy's recall
against exact search. The build is on one thread with a fixed seed, so that it repeats to the byte.

    index/tracks.ann     Annoy's file; it knows neither ids nor metric nor dimension
    index/manifest.json  format version, backend, dimension, metric, track ids, recall, hashes
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from annoy import AnnoyIndex

from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_json, whole_file, write_json
from cbmr.vectors import Vectors

FORMAT_VERSION = 1
METRIC: Final = "angular"
BUILD_SEED = 1
RECALL_DEPTH = 10
QUERIES = 200
"""Tracks asked for, evenly spaced over the catalogue, to measure recall and speed."""


WORTH_A_MISS = 1.5
"""Exact search misses nothing, so Annoy has to be faster than it by this factor to answer."""


@dataclass(frozen=True)
class Built:
    """What a build measured: which backend answers, Annoy's recall, and milliseconds a query."""

    backend: str
    recall: float
    annoy_ms: float
    exact_ms: float


class Index:
    """Nearest tracks of a query vector, by cosine. Open one with `load_index`."""

    def __init__(self, vectors: Vectors, annoy: AnnoyIndex | None) -> None:
        self.vectors, self._annoy = vectors, annoy

    def __len__(self) -> int:
        return len(self.vectors.track_ids)

    def nearest(self, query: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines, each `[min(n, tracks)]`, nearest first, for a unit `[size]` query."""
        n = min(n, len(self))
        rows = _exact(self.vectors.vectors, query, n)
        if self._annoy is not None and n < len(self):
            rows = np.array(self._annoy.get_nns_by_vector(query, n), dtype=np.int64)
        cosines = self.vectors.vectors[rows] @ query
        # Equal cosines in order of id, whichever backend found them.
        order = np.lexsort((rows, -cosines))
        return rows[order], cosines[order]


def build_index(folder: Path, vectors: Vectors, *, encoder_hash: str, trees: int) -> Built:
    """Write `tracks.ann` and its manifest, and measure them against exact search."""
    annoy = _new_annoy(vectors)
    annoy.set_seed(BUILD_SEED)
    for row, vector in enumerate(vectors.vectors):
        annoy.add_item(row, vector)
    annoy.build(trees, n_jobs=1)
    # The manifest is the last thing to need room on the disk and the first to change: whatever
    # stops here, the two that stand agree, or differ in the file's hash, which loading sees.
    with whole_file(folder / "tracks.ann") as file:
        annoy.save(file.name)
        built = _measure(vectors, annoy)
        write_json(
            folder / "manifest.json",
            {
                "format_version": FORMAT_VERSION,
                "backend": built.backend,
                "dimension": vectors.vectors.shape[1],
                "metric": METRIC,
                "trees": trees,
                f"recall@{RECALL_DEPTH}": built.recall,
                "encoder": encoder_hash,
                "vectors": content_hash(vectors.track_ids, vectors.vectors),
                "file": file_hash(Path(file.name)),
                "track_ids": vectors.track_ids.tolist(),
            },
        )
    return built


def load_index(
    folder: Path,
    vectors: Vectors,
    *,
    encoder_hash: str,
    passed_over: Callable[[str], None] | None = None,
) -> Index:
    """Open an index over exactly these vectors.

    Raises InputError, naming both values, when format, dimension, metric, encoder, vectors or file
    are not those of the manifest. Where only the vectors or the file differ, as while new tracks
    are added, exact search over these vectors is right whatever the index holds: with `passed_over`
    it answers, and that is told what differs.
    """
    manifest = read_json(folder / "manifest.json")
    expected = {
        "format_version": FORMAT_VERSION,
        "metric": METRIC,
        "dimension": vectors.vectors.shape[1],
        "encoder": encoder_hash,
        "vectors": content_hash(vectors.track_ids, vectors.vectors),
        "file": file_hash(folder / "tracks.ann"),
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            differs = (
                f"{folder}: the index was made for {name} {manifest.get(name)}, the run has "
                f"{value}: make it again with python -m tasks.index, of the same stage= and run="
            )
            if passed_over is None or name not in ("vectors", "file"):
                raise InputError(differs)
            passed_over(differs)
            return Index(vectors, None)
    if manifest["backend"] == "exact":
        return Index(vectors, None)
    annoy = _new_annoy(vectors)
    annoy.load(str(folder / "tracks.ann"))
    return Index(vectors, annoy)


def _new_annoy(vectors: Vectors) -> AnnoyIndex:
    return AnnoyIndex(vectors.vectors.shape[1], METRIC)


def _exact(vectors: np.ndarray, query: np.ndarray, n: int) -> np.ndarray:
    cosines = vectors @ query
    if n >= len(vectors):
        return np.arange(len(vectors))
    return np.argpartition(-cosines, n - 1)[:n]


def _measure(vectors: Vectors, annoy: AnnoyIndex) -> Built:
    asked = np.unique(np.linspace(0, len(vectors.vectors) - 1, QUERIES).astype(int))
    queries = vectors.vectors[asked]
    n = min(RECALL_DEPTH, len(vectors.vectors))
    began = time.perf_counter()
    exact = [_exact(vectors.vectors, query, n) for query in queries]
    between = time.perf_counter()
    found = [annoy.get_nns_by_vector(query, n) for query in queries]
    ended = time.perf_counter()
    recall = np.mean([len(np.intersect1d(a, b)) / n for a, b in zip(exact, found, strict=True)])
    exact_ms = (between - began) / len(asked) * 1e3
    annoy_ms = (ended - between) / len(asked) * 1e3
    backend = "annoy" if exact_ms > WORTH_A_MISS * annoy_ms else "exact"
    return Built(backend, float(recall), annoy_ms, exact_ms)
