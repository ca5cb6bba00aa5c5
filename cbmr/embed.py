"""An encoder over the store, or over one audio file: unit vectors, and what its layers say."""

from collections.abc import Callable, Iterator
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
    encoder, device = _ready(encoder, store)
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


@torch.no_grad()
def layer_activations(
    encoder: Encoder,
    store: Store,
    layer: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """What one layer of the network says of every track of the store, float32 `[tracks, units]`.

    Of activations over time, the mean and then the maximum of each unit over the clip; where the
    network looks at windows, the mean of a dense layer's over all of them. InputError for a name
    that is none of `encoder.network.layers()`.
    """
    layers = encoder.network.layers()
    if layer not in layers:
        raise InputError(f"layer={layer}: {encoder.name} has {', '.join(layers)}")
    encoder, device = _ready(encoder, store)
    said: list[torch.Tensor] = []
    batches = list(_equally_long(store.frames))
    with layers[layer].register_forward_hook(lambda _, __, out: said.append(out)):
        for done, rows in enumerate(batches):
            frames = store.frames[rows]
            # Cut to what is real, so that no activation comes from padding.
            logmel = torch.from_numpy(store[rows][:, :, : frames[0]]).to(device)
            encoder.predict(logmel, torch.from_numpy(frames).to(device))
            said[done] = _over_time(said[done].float(), len(rows)).cpu()
            if progress is not None:
                progress(sum(map(len, batches[: done + 1])), len(store))
    activations: np.ndarray = torch.cat(said).numpy()[np.argsort(np.concatenate(batches))]
    return activations


def _equally_long(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of rows that have as many frames each."""
    for count in np.unique(frames):
        rows = np.flatnonzero(frames == count)
        yield from (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _over_time(activation: torch.Tensor, clips: int) -> torch.Tensor:
    """`[clips * windows, units]` to their mean `[clips, units]`; `[clips * windows, units,
    positions]` to mean and maximum `[clips, 2 units]`."""
    windows = torch.unflatten(activation, 0, (clips, -1))
    if windows.ndim == 3:
        return windows.mean(dim=1)
    return torch.cat([windows.mean(dim=(1, 3)), windows.amax(dim=(1, 3))], dim=1)


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


def _ready(encoder: Encoder, store: Store) -> tuple[Encoder, torch.device]:
    """The encoder for inference where it is fastest; InputError unless it reads this store."""
    if encoder.mel_spec != store.mel_spec:
        raise InputError(
            f"the encoder reads {encoder.mel_spec}, {store.folder} holds {store.mel_spec}: scan "
            "with the encoder's settings"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return encoder.to(device).eval(), device


@torch.no_grad()
def _embed(
    encoder: Encoder, logmel: torch.Tensor, frames: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and confidence, which is 1 where the encoder does not tell."""
    predicted = encoder.predict(logmel, frames)
    unit = torch.nn.functional.normalize(encoder.expected(predicted), dim=1)
    sure = encoder.confidence(predicted) if encoder.components else torch.ones(len(unit))
    return unit.cpu().numpy(), sure.cpu().numpy()
