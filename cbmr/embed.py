"""An encoder over the store, or over one audio file, to unit vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.spectrograms import Store, read_logmel
from cbmr.vectors import Vectors

BATCH = 64


def embed_store(
    encoder: Encoder,
    store: Store,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """Unit vectors of every track of the store, in its order, with the encoder's confidence where
    it predicts a mixture."""
    if encoder.mel_spec != store.mel_spec:
        raise InputError(
            f"the encoder reads {encoder.mel_spec}, {store.folder} holds {store.mel_spec}: scan "
            "with the encoder's settings"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()
    vectors = np.empty((len(store), encoder.embedding_size), dtype=np.float32)
    confidence = np.empty(len(store), dtype=np.float32)
    for start in range(0, len(store), BATCH):
        rows = np.arange(start, min(start + BATCH, len(store)))
        logmel = torch.from_numpy(store[rows]).to(device)
        frames = torch.from_numpy(store.frames[rows]).to(device)
        vectors[rows], confidence[rows] = _embed(encoder, logmel, frames)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(store))
    return Vectors(store.track_ids, vectors, confidence if encoder.components else None)


def embed_file(encoder: Encoder, path: Path, *, excerpt_s: float) -> np.ndarray:
    """Unit vector `[embedding_size]` of one audio file's middle `excerpt_s` seconds."""
    if encoder.mel_spec is None:
        raise InputError(
            f"{path}: this run's encoder reads vectors that came with the data set, not sound: "
            "expected a track of the corpus"
        )
    spectrogram, frames = read_logmel(path, encoder.mel_spec, excerpt_s)
    one = torch.from_numpy(spectrogram)[None], torch.tensor([frames])
    return _embed(encoder, *one)[0][0]


@torch.no_grad()
def _embed(
    encoder: Encoder, logmel: torch.Tensor, frames: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and confidence, which is 1 where the encoder does not tell."""
    predicted = encoder.predict(logmel, frames)
    unit = torch.nn.functional.normalize(encoder.expected(predicted), dim=1)
    sure = encoder.confidence(predicted) if encoder.components else torch.ones(len(unit))
    return unit.cpu().numpy(), sure.cpu().numpy()
