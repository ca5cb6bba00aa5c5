"""Vectors that a data set ships in place of audio, read as the store of log-mels is.

    corpus/features.npz  track_ids text [tracks], features [tracks, size], any finite numbers

A track's vector is a spectrogram of one frame with `size` bands, so that nothing between here and
the network has to know.
"""

import numpy as np

from cbmr.corpus import Corpus
from cbmr.errors import InputError
from cbmr.files import content_hash, read_arrays

FILE = "features.npz"


class FeatureStore:
    """Read access to the features of a corpus's tracks, in the order of the tracks table.

    `frames` `[tracks]` is 1 for each; there is no `mel_spec`, since there is no sound.
    """

    mel_spec = None

    def __init__(self, corpus: Corpus) -> None:
        self.folder = corpus.folder / FILE
        if not self.folder.exists():
            raise InputError(
                f"encoder=vector reads {self.folder}, which is not there: expected track_ids and "
                "features [tracks, size], or another encoder, which reads audio"
            )
        track_ids, features = read_arrays(self.folder, "track_ids", "features")
        rows = corpus.track_rows(track_ids)
        order = np.argsort(rows[rows >= 0], kind="stable")
        self.track_ids = track_ids[rows >= 0][order]
        if features.ndim != 2 or len(features) != len(track_ids):
            raise InputError(
                f"{self.folder}: features have shape {features.shape}, expected "
                f"({len(track_ids)}, size), a row for each of track_ids"
            )
        if not len(self.track_ids) or len(np.unique(self.track_ids)) < len(self.track_ids):
            raise InputError(
                f"{self.folder}: expected tracks of the tracks table, each once: was it made with "
                "other ids?"
            )
        self.features = features[rows >= 0][order].astype(np.float32)
        self.frames = np.ones(len(self.track_ids), dtype=np.int64)
        self.fingerprint = content_hash(self.track_ids, self.features)

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def mels(self) -> int:
        """Numbers in a vector."""
        return int(self.features.shape[1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Features float32 `[rows, size, 1]` of these rows, in this order."""
        return self.features[rows][:, :, None]

    def excerpts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A track's one vector is all that there is of it."""
        return self[rows], self.frames[rows], np.arange(len(rows))
