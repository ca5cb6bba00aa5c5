"""An encoder over the store, or over one audio file, to unit vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.spectrograms import SpectrogramStore, read_logmel
from cbmr.vectors import Vectors

BATCH = 64


def embed_store(
    encoder: Encoder,
    store: SpectrogramStore,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """Unit vectors of every track of the store, in its order."""
    if encoder.mel_spec != store.mel_spec:
        raise InputError(
            f"the encoder reads {encoder.mel_spec}, {store.folder} holds {store.mel_spec}: scan "
            "with the encoder's settings"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()
    vectors = np.empty((len(store), encoder.embedding_size), dtype=np.float32)
    for start in range(0, len(store), BATCH):
        rows = np.arange(start, min(start + BATCH, len(store)))
        logmel = torch.from_numpy(store[rows]).to(device)
        frames = torch.from_numpy(store.frames[rows]).to(device)
        vectors[rows] = _unit(encoder, logmel, frames)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(store))
    return Vectors(store.track_ids, vectors)


def embed_file(encoder: Encoder, path: Path, *, excerpt_s: float) -> np.ndarray:
    """Unit vector `[embedding_size]` of one audio file's middle `excerpt_s` seconds."""
    spectrogram, frames = read_logmel(path, encoder.mel_spec, excerpt_s)
    return _unit(encoder, torch.from_numpy(spectrogram)[None], torch.tensor([frames]))[0]


@torch.no_grad()
def _unit(encoder: Encoder, logmel: torch.Tensor, frames: torch.Tensor) -> np.ndarray:
    embedding = encoder(logmel, frames)
    unit: np.ndarray = torch.nn.functional.normalize(embedding, dim=1).cpu().numpy()
    return unit
