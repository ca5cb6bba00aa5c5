"""The artefact between training and serving: track ids and their unit vectors, on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmr.corpus import Corpus, rows_of
from cbmr.errors import InputError
from cbmr.files import read_arrays, write_arrays

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Vectors:
    """`track_ids` text `[tracks]`, unique; `vectors` float32 `[tracks, embedding_size]`, unit.

    `confidence` float32 `[tracks]` in 0..1 is how sure of them an encoder is that tells (a mixture
    density network); it is kept in a file of its own.
    """

    track_ids: np.ndarray
    vectors: np.ndarray
    confidence: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.track_ids) != len(self.vectors):
            raise InputError(
                f"{len(self.track_ids)} track ids but vectors of shape {self.vectors.shape}"
            )
        if len(np.unique(self.track_ids)) != len(self.track_ids):
            raise InputError("track ids repeat among the vectors: expected each once")
        # Not "above": a vector with NaN has to be refused.
        off = ~(np.abs(np.linalg.norm(self.vectors, axis=1) - 1) <= UNIT_TOLERANCE)
        if off.any():
            row = int(np.argmax(off))
            norm = np.linalg.norm(self.vectors[row])
            diverged = ": did training diverge? A lower learning_rate helps"
            raise InputError(
                f"the vector of track {str(self.track_ids[row])!r} has norm {norm:.4f}, expected 1"
                f"{'' if np.isfinite(norm) else diverged}"
            )

    def of(self, track_ids: np.ndarray) -> np.ndarray:
        """The vectors `[n, embedding_size]` of these tracks; InputError for one that has none."""
        rows = rows_of(self.track_ids, track_ids)
        if (rows < 0).any():
            lacking = str(track_ids[int(np.argmin(rows))])
            raise InputError(
                f"track {lacking!r} has no vector: was it scanned since? Run python -m tasks.embed"
            )
        vectors: np.ndarray = self.vectors[rows]
        return vectors


def save_vectors(path: Path, vectors: Vectors) -> None:
    """Write `embeddings.npz`, without the confidence; NaN and infinity are refused."""
    write_arrays(path, track_ids=vectors.track_ids, vectors=vectors.vectors)


def load_vectors(path: Path) -> Vectors:
    """Read `embeddings.npz`; InputError when it is damaged, not finite or not unit-norm."""
    return Vectors(*read_arrays(path, "track_ids", "vectors"))


def aligned(corpus: Corpus, vectors: Vectors) -> np.ndarray:
    """Vectors `[tracks, size]` in the order of the corpus, zeros for a track that has none."""
    at = rows_of(vectors.track_ids, corpus.track_ids)
    in_order: np.ndarray = np.where((at >= 0)[:, None], vectors.vectors[at], np.float32(0))
    return in_order
