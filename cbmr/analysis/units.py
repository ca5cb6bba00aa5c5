"""The tracks to which a unit reacts most, and what they have in common (Dieleman 2014).

By the highest maximum over the analysed time, which finds what sounds for a moment, and by the
highest mean, which finds what sounds all along, as harmonies do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cbmr.analysis.groups import Groups
from cbmr.embed import heard
from cbmr.encoder import Encoder
from cbmr.encoder.door import SMALLEST_STD
from cbmr.errors import InputError
from cbmr.logmel import MelSpec
from cbmr.spectrograms import Store

TRACKS = 10
"""In a unit's list, as in the article."""
OVER_TIME = ("maximum", "mean")
WHOLE = ("activation",)
"""What there is of a unit that hears a clip as a whole."""


@dataclass(frozen=True)
class Strongest:
    """The tracks to which the units of a layer react most, `[units, tracks]` each.

    `rows` are of the store, the strongest reaction first, and `values` what it is. `starts` is the
    first of the frames that a unit sees where its reaction to the clip is at its maximum, -1 in a
    layer that hears a clip as a whole.
    """

    rows: np.ndarray
    values: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Selectivity:
    """What most tracks of a list have in common: the `share` of the list that has this `value`, and
    the share of all tracks that has it."""

    name: str
    value: str
    share: float
    share_of_all: float


def check_units(
    encoder: Encoder, store: Store, layers: Sequence[str], units: Sequence[int]
) -> None:
    """InputError unless every one of these layers is there and has all of these `units`: told by a
    few clips, before all are heard."""
    _, said = next(heard(encoder, store, layers))
    for layer, activation in said.items():
        if units and max(units) >= activation.shape[1]:
            raise InputError(
                f"units={[*units]}: {layer} has {activation.shape[1]} units: expected numbers from "
                f"0 to {activation.shape[1] - 1}, or one layer=, as layers differ in size"
            )


def strongest_tracks(
    encoder: Encoder,
    store: Store,
    layers: Sequence[str],
    *,
    n: int = TRACKS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Strongest]]:
    """For every unit of these layers the `n` tracks of the store with the highest maximum over
    time, and those with the highest mean: by layer, then by `OVER_TIME`, or in a layer that hears a
    clip as a whole, by `WHOLE`.

    One pass over the store, of which nothing is kept but the tracks that lead so far. InputError
    for a name that is none of `encoder.network.layers()`.
    """
    best: dict[str, dict[str, Strongest]] = {layer: {} for layer in layers}
    for rows, said in heard(encoder, store, layers, progress=progress):
        for layer, activation in said.items():
            over_time = _over_time(activation, len(rows))
            maximum, at = over_time.max(dim=2)
            frames = int(store.frames[rows[0]])  # those of all clips of a batch
            starts = _starts(encoder, layer, activation, len(rows), frames)[at.numpy()].T
            rows_of_units = np.broadcast_to(rows, starts.shape)
            found = (maximum, over_time.mean(dim=2)) if starts.min() >= 0 else (maximum,)
            for by, values in zip(OVER_TIME if len(found) > 1 else WHOLE, found, strict=True):
                new = Strongest(rows_of_units, values.numpy().T, starts)
                old = best[layer].get(by)
                best[layer][by] = _first(new if old is None else _joined(old, new), n)
    return best


def _over_time(activation: torch.Tensor, clips: int) -> torch.Tensor:
    """`[clips * windows, units]` or `[clips * windows, units, positions]` to `[clips, units,
    windows * positions]`."""
    windows = torch.unflatten(activation.float().cpu(), 0, (clips, -1))
    if windows.ndim == 3:
        windows = windows[..., None]
    return windows.transpose(1, 2).flatten(2)


def _starts(
    encoder: Encoder, layer: str, activation: torch.Tensor, clips: int, frames: int
) -> np.ndarray:
    """The first frame that each position sees, `[windows * positions]`; -1 where it sees all."""
    fields = encoder.network.fields()
    if layer not in fields:
        return np.array([-1])
    windows = activation.shape[0] // clips
    positions = activation.shape[2] if activation.ndim == 3 else 1
    # Only a network that looks at windows has several.
    window_frames = getattr(encoder.network, "window_frames", 0)
    starts = np.arange(windows)[:, None] * window_frames + np.arange(positions) * fields[layer][0]
    return starts.ravel() % frames  # a clip shorter than the network needs was looped


def _joined(one: Strongest, other: Strongest) -> Strongest:
    both = zip(vars(one).values(), vars(other).values(), strict=True)
    return Strongest(*(np.concatenate(pair, axis=1) for pair in both))


def _first(tracks: Strongest, n: int) -> Strongest:
    order = np.lexsort((tracks.rows, -tracks.values), axis=1)[:, :n]  # equal ones by their rows
    return Strongest(*(np.take_along_axis(of, order, axis=1) for of in vars(tracks).values()))


def moment_s(spec: MelSpec, start_frame: int, excerpt_start_s: float) -> float:
    """When a frame begins, in seconds of the track, of which the excerpt began at
    `excerpt_start_s`. By hand: frame 20 of 50 ms each, in an excerpt from 100 s on, at 101 s."""
    return excerpt_start_s + start_frame * spec.hop / spec.sample_rate


def sound_at_peaks(
    encoder: Encoder, store: Store, layer: str, rows: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """The mean of what a unit sees where these tracks `[n]` are at their maximum: standardised
    log-mels `[mels, frames]`, 0 being what a band has on average."""
    width = encoder.network.fields()[layer][1]
    scale = encoder.input_std.cpu().numpy().clip(min=SMALLEST_STD)[:, None]
    seen = np.zeros((store.mels, width))
    for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
        clip = store[np.array([row])][0].astype(np.float32)
        # A clip shorter than what the unit sees was looped.
        frames = np.arange(start, start + width) % store.frames[row]
        seen += (clip[:, frames] - encoder.input_mean.cpu().numpy()[:, None]) / scale
    return seen / len(rows)


def selectivity(groups: Groups, tracks: np.ndarray) -> Selectivity | None:
    """What the most of these `tracks` `[n]` have in common; None where nothing is known of any.

    By hand: of four tracks three are polkas, as are one in ten of all: 75 % against 10 %.
    """
    known = groups.of[tracks][groups.of[tracks] >= 0]
    if not len(known):
        return None
    counts = np.bincount(known)
    commonest = int(counts.argmax())
    return Selectivity(
        name=groups.name,
        value=groups.values[commonest],
        share=counts[commonest] / len(tracks),
        share_of_all=float((groups.of == commonest).mean()),
    )
