"""An encoder over the store, or over one audio file: unit vectors, and what its layers say."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.spectrograms import Store, read_logmels
from cbmr.vectors import Vectors

BATCH = 64


def embed_store(
    encoder: Encoder,
    store: Store,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """Unit vectors of every track of the store, in its order, with the encoder's confidence where
    it predicts a mixture.

    Of a track with several excerpts it is the direction of their vectors' mean. The mean of their
    log-mels would be the spectrogram of no sound: its frames are of moments that never met.
    """
    encoder, device = _ready(encoder, store)
    vectors = np.empty((len(store), encoder.embedding_size), dtype=np.float32)
    confidence = np.empty(len(store), dtype=np.float32)
    for start in range(0, len(store), BATCH):
        rows = np.arange(start, min(start + BATCH, len(store)))
        clips = (torch.from_numpy(array).to(device) for array in store.excerpts(rows))
        vectors[rows], confidence[rows] = _embed(encoder, *clips)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(store))
    return Vectors(store.track_ids, vectors, confidence if encoder.components else None)


def embed_each(encoder: Encoder, store: Store, rows: np.ndarray) -> Vectors:
    """As `embed_store`, of these rows of the store and each by itself: not even by rounding does a
    track's vector depend on those that it is embedded with."""
    encoder, device = _ready(encoder, store)
    said = []
    for row in rows:
        clips = (torch.from_numpy(array).to(device) for array in store.excerpts(np.array([row])))
        said.append(_embed(encoder, *clips))
    vectors, confidence = (np.concatenate(parts) for parts in zip(*said, strict=True))
    return Vectors(store.track_ids[rows], vectors, confidence if encoder.components else None)


@torch.no_grad()
def heard(
    encoder: Encoder,
    store: Store,
    layers: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Rows of the store, a batch of equally long clips at a time until all had their turn, and what
    each of these layers puts out for them: `[clips * windows, units]`, or over time `[clips *
    windows, units, positions]`.

    InputError for a name that is none of `encoder.network.layers()`.
    """
    known = encoder.network.layers()
    for layer in layers:
        if layer not in known:
            raise InputError(f"layer={layer}: {encoder.name} has {', '.join(known)}")
    encoder, device = _ready(encoder, store)
    said: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            hook = partial(_keep, said, layer)
            stack.enter_context(known[layer].register_forward_hook(hook))
        done = 0
        for rows in _equally_long(store.frames):
            frames = store.frames[rows]
            # Cut to what is real, so that no activation comes from padding.
            logmel = torch.from_numpy(store[rows][:, :, : frames[0]]).to(device)
            encoder.predict(logmel, torch.from_numpy(frames).to(device))
            yield rows, dict(said)
            done += len(rows)
            if progress is not None:
                progress(done, len(store))


def _keep(
    said: dict[str, torch.Tensor], layer: str, module: object, given: object, out: torch.Tensor
) -> None:
    said[layer] = out


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
    batches, said = [], []
    for rows, outputs in heard(encoder, store, [layer], progress=progress):
        batches.append(rows)
        said.append(_over_time(outputs[layer].float(), len(rows)).cpu())
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


def embed_file(encoder: Encoder, path: Path, *, excerpt_s: float, excerpts: int = 1) -> np.ndarray:
    """Unit vector `[embedding_size]` of one audio file's middle `excerpt_s` seconds, or of several
    `excerpts`, as `embed_store` has it of a track's."""
    if encoder.mel_spec is None:
        raise InputError(
            f"{path}: this run's encoder reads vectors that came with the data set, not sound: "
            "expected a track of the corpus"
        )
    logmels, frames = read_logmels(path, encoder.mel_spec, excerpt_s, excerpts)
    clips = torch.from_numpy(logmels), torch.from_numpy(frames)
    return _embed(encoder, *clips, torch.zeros(len(frames), dtype=torch.long))[0][0]


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
    encoder: Encoder, logmel: torch.Tensor, frames: torch.Tensor, of: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and mean confidence of the tracks that excerpts are `of`; confidence is 1 where
    the encoder does not tell."""
    predicted = encoder.predict(logmel, frames)
    unit = F.normalize(encoder.expected(predicted), dim=1)
    sure = encoder.confidence(predicted) if encoder.components else torch.ones_like(unit[:, 0])
    counts = torch.bincount(of)
    total = unit.new_zeros(len(counts), unit.shape[1]).index_add(0, of, unit)
    mean_sure = sure.new_zeros(len(counts)).index_add(0, of, sure) / counts
    return F.normalize(total, dim=1).cpu().numpy(), mean_sure.cpu().numpy()
