"""Vectors to an index for serving: track ids in, track ids out.

Two backends answer one question, which tracks are nearest to a unit query. Exact search passes over
all vectors and misses nothing. Annoy (angular, on unit vectors, so `cosine = 1 - distance^2 / 2`)
passes over `search_k` candidates of its trees, and is the export. Every build measures both on this
machine: how many trees and candidates reach the recall that is asked for, and which backend is
faster then. It is on one thread with a fixed seed, so that Annoy's file repeats to the byte.

An index outlives changes of its run's vectors. Each of them left a mark; those that are as they
were are Annoy's to find, what is new or other is searched exactly beside it, and what is gone is
never found. The next build folds all of it in.

    index/tracks.ann     Annoy's file; it knows neither ids nor metric nor dimension
    index/manifest.json  format version, dimension, metric, hashes; backend, trees, candidates,
                         recall and speed as measured; track ids and the marks of their vectors
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from annoy import AnnoyIndex

from cbmr.corpus import rows_of
from cbmr.errors import InputError
from cbmr.files import as_json, content_hash, file_hash, read_json, whole_file
from cbmr.vectors import Vectors

FORMAT_VERSION = 2
METRIC: Final = "angular"
BACKENDS = ("annoy", "exact")
BUILD_SEED = 1
TREES = (10, 20, 40)
WORTH_TREES = 1.5
"""Twice the trees take twice the time and more room: they stay where they save a third of the
candidates."""
WORTH_A_MISS = 1.5
"""Exact search misses nothing, so Annoy has to be faster than it by this factor to answer."""
RECALL_DEPTH = 10
QUERIES = 200
MULTIPLIER = np.uint64(6364136223846793005)
"""Of the polynomial whose value is a vector's mark (Knuth's, for congruences modulo 2^64)."""

LIKELY = {
    "format_version": "another release of cbmr made it",
    "metric": "it was made by something else",
    "dimension": "it was made for other vectors",
    "encoder": "the stage has been trained anew, or it was another stage's",
    "file": "tracks.ann was cut off or replaced",
}

Search = Callable[[np.ndarray, int], np.ndarray]
"""`search(query, n)`: rows of the `n` tracks nearest to a unit `[size]` query, in any order, with
or without others."""


@dataclass(frozen=True)
class Built:
    """What a build measured: which backend answers, the trees and candidates that Annoy needs, its
    recall with them, and milliseconds a query."""

    backend: str
    trees: int
    search_k: int
    recall: float
    annoy_ms: float
    exact_ms: float


@dataclass(frozen=True)
class Index:
    """Nearest tracks of a query vector, by cosine. Open one with `load_index`.

    `changed` tracks are new, other or gone since the build; `slow` says that searching them beside
    the index takes as long as the index itself does, so that a build pays.
    """

    vectors: Vectors
    search: Search
    changed: int
    slow: bool

    def __len__(self) -> int:
        return len(self.vectors.track_ids)

    def nearest(self, query: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines, each `[min(n, tracks)]`, nearest first, for a unit `[size]` query."""
        rows = self.search(query, min(n, len(self)))
        cosines = self.vectors.vectors[rows] @ query
        # Equal cosines in order of id, whichever backend found them.
        order = np.lexsort((rows, -cosines))[:n]
        return rows[order], cosines[order]


def build_index(
    folder: Path,
    vectors: Vectors,
    *,
    encoder_hash: str,
    recall: float = 0.95,
    backend: str | None = None,
) -> Built:
    """Write `tracks.ann` and its manifest.

    Annoy gets the trees and candidates with which its `recall` at 10, against exact search, is the
    one asked for. `backend` says which one answers; None is Annoy where it reaches that recall and
    is faster by half. InputError for settings that mean nothing.
    """
    if backend not in (None, *BACKENDS):
        raise InputError(f"backend={backend}: expected {' or '.join(BACKENDS)}")
    if not 0 < recall <= 1:
        raise InputError(f"recall={recall}: expected a number above 0, at most 1")
    annoy, built = _fitted(vectors.vectors, recall, backend)
    with whole_file(folder / "manifest.json") as said, whole_file(folder / "tracks.ann") as file:
        annoy.save(file.name)
        with Path(file.name).open("rb") as saved:
            os.fsync(saved.fileno())  # Annoy puts a new file there, which is not the open one
        manifest = {
            "format_version": FORMAT_VERSION,
            "settings": {"backend": backend, "recall": recall},
            "backend": built.backend,
            "dimension": vectors.vectors.shape[1],
            "metric": METRIC,
            "trees": built.trees,
            "search_k": built.search_k,
            f"recall@{RECALL_DEPTH}": built.recall,
            "annoy_ms": built.annoy_ms,
            "exact_ms": built.exact_ms,
            "encoder": encoder_hash,
            "vectors": content_hash(vectors.track_ids, vectors.vectors),
            "file": file_hash(Path(file.name)),
            "track_ids": vectors.track_ids.tolist(),
            "marks": _marks(vectors.vectors).tobytes().hex(),
        }
        said.write(as_json(manifest))
        said.flush()
        # All has found room. What stops here leaves no manifest, so that the index is made again,
        # never one that speaks of another file.
        (folder / "manifest.json").unlink(missing_ok=True)
    return built


def load_index(folder: Path, vectors: Vectors, *, encoder_hash: str) -> Index:
    """Open an index for these vectors, some of which may have changed since it was built.

    Raises InputError, naming both values, when format, metric, dimension, encoder or file are not
    those of the manifest.
    """
    manifest = read_json(folder / "manifest.json")
    expected = {
        "format_version": FORMAT_VERSION,
        "metric": METRIC,
        "dimension": vectors.vectors.shape[1],
        "encoder": encoder_hash,
        "file": file_hash(folder / "tracks.ann"),
    }
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise InputError(
                f"{folder}: {name} is {value}, its manifest says {manifest.get(name)}: "
                f"{LIKELY[name]}; make the index again with python -m tasks.index, of the same "
                "stage= and run="
            )
    row_of_item = _row_of_item(manifest, vectors)
    search = _exact(vectors.vectors)
    if manifest["backend"] == "annoy":
        annoy = _new_annoy(vectors.vectors)
        annoy.load(str(folder / "tracks.ann"))
        search = _annoy(
            annoy, manifest["trees"], manifest["search_k"], row_of_item, vectors.vectors
        )
    changed = max(len(row_of_item), len(vectors.track_ids)) - int(np.sum(row_of_item >= 0))
    share = manifest["annoy_ms"] / manifest["exact_ms"]
    return Index(vectors, search, changed, slow=changed > share * len(row_of_item))


# --- the two backends ---------------------------------------------------------------------------


def _exact(vectors: np.ndarray) -> Search:
    def search(query: np.ndarray, n: int) -> np.ndarray:
        if n >= len(vectors):
            return np.arange(len(vectors))
        # A copy: a view would keep the places of all tracks in memory.
        return np.argpartition(vectors @ query, -n)[-n:].copy()

    return search


def _annoy(
    annoy: AnnoyIndex, trees: int, search_k: int, row_of_item: np.ndarray, vectors: np.ndarray
) -> Search:
    """Annoy's items that are still rows, and exact search over the rows that are none of its items.

    Where Annoy would look at as many candidates as there are tracks, exact search does.
    """
    gone = float(np.mean(row_of_item < 0))
    is_beside = np.ones(len(vectors), dtype=bool)
    is_beside[row_of_item[row_of_item >= 0]] = False
    beside = np.flatnonzero(is_beside)
    exact, exact_beside = _exact(vectors), _exact(vectors[beside])

    def search(query: np.ndarray, n: int) -> np.ndarray:
        asked = n + math.ceil(2 * gone * n)
        candidates = _candidates(trees, search_k, asked)
        if candidates >= len(vectors):
            return exact(query, n)
        rows = row_of_item[annoy.get_nns_by_vector(query, asked, candidates)]
        rows = rows[rows >= 0]
        if len(rows) < n:  # those that are gone stood close together
            return search(query, 2 * n)
        return np.concatenate([rows, beside[exact_beside(query, n)]])

    return search


def _candidates(trees: int, search_k: int, n: int) -> int:
    """How many keep the recall at `n` that `search_k` has at `RECALL_DEPTH`.

    Of a million tracks, 10 took 3,000 for .95, 64 took 6,500 and 256 took 11,500: fewer than the
    square root gives. Below `trees * n` there may not be `n` different ones.
    """
    return max(round(search_k * math.sqrt(n / RECALL_DEPTH)), trees * n)


# --- building -----------------------------------------------------------------------------------


def _new_annoy(vectors: np.ndarray) -> AnnoyIndex:
    return AnnoyIndex(vectors.shape[1], METRIC)


def _fitted(vectors: np.ndarray, recall: float, backend: str | None) -> tuple[AnnoyIndex, Built]:
    """The index with the fewest trees that are worth it, and what it took."""
    queries, nearest, exact_ms = _questions(vectors)
    best: tuple[AnnoyIndex, Built] | None = None
    for trees in TREES:
        annoy = _new_annoy(vectors)
        annoy.set_seed(BUILD_SEED)
        for row, vector in enumerate(vectors):
            annoy.add_item(row, vector)
        annoy.build(trees, n_jobs=1)
        search_k, reached, annoy_ms = _tuned(annoy, trees, queries, nearest, recall)
        if best is not None and best[1].search_k < WORTH_TREES * search_k:
            break
        faster = reached >= recall and exact_ms > WORTH_A_MISS * annoy_ms
        answers = backend or ("annoy" if faster else "exact")
        best = annoy, Built(answers, trees, search_k, reached, annoy_ms, exact_ms)
    assert best is not None
    return best


def _questions(vectors: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Queries `[queries, size]`, the rows nearest to each, and the milliseconds that took a query.

    Each is a third of the way from one track to another, both evenly over the catalogue: a track's
    own vector would be easier to find than what several seeds or a path ask for.
    """
    exact, n = _exact(vectors), min(RECALL_DEPTH, len(vectors))
    rows = np.unique(np.linspace(0, len(vectors) - 1, QUERIES).astype(int))
    queries = 2 * vectors[rows] + vectors[np.roll(rows, len(rows) // 2)]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    began = time.perf_counter()
    nearest = [exact(query, n) for query in queries]
    exact_ms = (time.perf_counter() - began) / len(queries) * 1e3
    return queries, nearest, exact_ms


def _tuned(
    annoy: AnnoyIndex, trees: int, queries: np.ndarray, nearest: list[np.ndarray], recall: float
) -> tuple[int, float, float]:
    """The fewest candidates, by steps of a half, that reach a recall; what they reach, and
    milliseconds a query. Where none do, as many as there are."""
    n, most = len(nearest[0]), trees * annoy.get_n_items()
    search_k = trees * n
    while True:
        began = time.perf_counter()
        found = [
            annoy.get_nns_by_vector(query, n, _candidates(trees, search_k, n)) for query in queries
        ]
        annoy_ms = (time.perf_counter() - began) / len(queries) * 1e3
        shared = [np.isin(a, b).mean() for a, b in zip(nearest, found, strict=True)]
        reached = float(np.mean(shared))
        if reached >= recall or search_k >= most:
            return search_k, reached, annoy_ms
        search_k = min(most, search_k * 3 // 2)


# --- what has changed since ---------------------------------------------------------------------


def _row_of_item(manifest: dict[str, Any], vectors: Vectors) -> np.ndarray:
    """`[items]`: the row of each item's track, -1 where its vector is another now, or none."""
    track_ids = np.array(manifest["track_ids"], dtype=str)
    if manifest["vectors"] == content_hash(vectors.track_ids, vectors.vectors):
        return np.arange(len(track_ids))
    rows = rows_of(vectors.track_ids, track_ids)
    marks = np.frombuffer(bytes.fromhex(manifest["marks"]), dtype="<u8")
    return np.where(_marks(vectors.vectors)[rows] == marks, rows, -1)


def _marks(vectors: np.ndarray) -> np.ndarray:
    """`[tracks]` of 64 bits: of each vector, the polynomial modulo 2^64 whose coefficients are its
    numbers' bits. Of two vectors that differ, it does but once in about 2^64 cases."""
    marks = np.zeros(len(vectors), dtype="<u8")
    for bits in np.ascontiguousarray(vectors, dtype="<f4").view("<u4").T:
        marks = marks * MULTIPLIER + bits
    return marks
