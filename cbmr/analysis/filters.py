"""The first layer's filters as Dieleman (2014) shows them.

All filters stand side by side: time across, frequency downwards (the lowest band on top), red where
a weight is negative, white at zero, blue where it is positive, the scale symmetric, dark red lines
between. Weights act on standardised bands, so they compare across bands.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.files import whole_file
from cbmr.logmel import MelSpec, band_centres_hz

RED, WHITE, BLUE, DARK_RED = "#d6001c", "#ffffff", "#0b4ab8", "#6e0010"
CLOSE = 8
"""Filters in a close-up where none are chosen."""
WIDEST_PX, TALLEST_PX = 4000, 512
MARKED_HZ = (100, 500, 1000, 2000, 4000, 8000)


def first_filters(encoder: Encoder) -> np.ndarray:
    """The weights `[filters, mels, frames]` of the network's first convolution, from the lowest
    band up; of a maxout unit, each piece is a filter.

    InputError for a network that has none.
    """
    for layer in encoder.network.modules():
        if isinstance(layer, nn.Conv1d):
            filters: np.ndarray = layer.weight.detach().cpu().numpy()
            return filters
    raise InputError(
        f"encoder={encoder.name} has no convolution, so there are no filters to look at: expected "
        "an encoder of sound"
    )


def strongest(filters: np.ndarray, n: int = CLOSE) -> list[int]:
    """The numbers of the `n` filters of the largest norm, ascending: a filter that learned nothing
    stays as small as it began."""
    norms = np.linalg.norm(filters, axis=(1, 2))
    return sorted(np.argsort(-norms, kind="stable")[:n].tolist())


def filter_strip(filters: np.ndarray) -> np.ndarray:
    """Filters `[filters, mels, frames]` side by side `[mels, filters (frames + 1) - 1]`, with a
    column of NaN between two.

    By hand: of the filters ((1,), (2,)) and ((3,), (4,)), of two bands and one frame each, the rows
    are 1 NaN 3 and 2 NaN 4.
    """
    count, mels, frames = filters.shape
    strip = np.full((mels, count, frames + 1), np.nan, dtype=np.float32)
    strip[:, :, :frames] = filters.transpose(1, 0, 2)
    return strip.reshape(mels, -1)[:, :-1]


def draw_filters(filters: np.ndarray, spec: MelSpec, path: Path) -> None:
    """Write a PNG of all filters, every weight a square of whole pixels."""
    strip = filter_strip(filters)
    mels, columns = strip.shape
    cell = max(1, min(WIDEST_PX // columns, TALLEST_PX // mels))
    width, height = columns * cell, mels * cell
    left, bottom, top, bar = 190, 120, 110, 260
    whole = max(left + width + bar, 1500), bottom + height + top
    pyplot = _pyplot()
    figure = pyplot.figure(figsize=(whole[0] / 100, whole[1] / 100), dpi=100)
    panel = figure.add_axes(
        (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1])
    )
    image = _show(panel, strip, filters)
    panel.spines[:].set_visible(False)  # they would cover the outermost weights
    step = filters.shape[2] + 1
    every = max(1, -(-len(filters) // 16))
    shown = np.arange(0, len(filters), every)
    panel.set_xticks(shown * step + (step - 2) / 2, shown, fontsize=22)
    _mark_bands(panel, spec, fontsize=22)
    panel.set_xlabel(_time(filters, spec), fontsize=24)
    title = f"The {len(filters)} filters of the first layer"
    figure.text(left / whole[0], 1 - 40 / whole[1], title, fontsize=28, va="center")
    beside = figure.add_axes(
        ((left + width + 40) / whole[0], bottom / whole[1], 28 / whole[0], height / whole[1])
    )
    _colour_bar(figure, image, beside, fontsize=22)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
    pyplot.close(figure)


def draw_close_up(filters: np.ndarray, chosen: Sequence[int], spec: MelSpec, path: Path) -> None:
    """Write a PNG of the `chosen` filters alone, each as large as can be read.

    InputError for a number that is none of the filters'.
    """
    for number in chosen:
        if not 0 <= number < len(filters):
            raise InputError(
                f"filters={[*chosen]}: {number} is no filter of the first layer: expected numbers "
                f"from 0 to {len(filters) - 1}"
            )
    pyplot = _pyplot()
    figure, panels = pyplot.subplots(
        1,
        len(chosen),
        figsize=(max(5.5, 2.4 + 1.25 * len(chosen)), 6.2),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for panel, number in zip(panels[0], chosen, strict=True):
        image = _show(panel, filters[number], filters[[*chosen]])
        panel.set_aspect("auto")
        panel.set_title(f"{number}", fontsize=13)
        panel.set_xticks([])
    _mark_bands(panels[0, 0], spec, fontsize=11)
    figure.suptitle("Filters of the first layer, close up", fontsize=14)
    figure.supxlabel(_time(filters, spec), fontsize=11)
    _colour_bar(figure, image, None, fontsize=11, ax=panels[0].tolist(), fraction=0.03, aspect=40)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=130)
    pyplot.close(figure)


def _show(panel: Any, weights: np.ndarray, of: np.ndarray) -> Any:
    """Weights `[mels, columns]` in colour, the scale that of all filters `of` the picture."""
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("filters", [RED, WHITE, BLUE], N=255)
    limit = float(np.abs(of).max()) or 1.0
    return panel.imshow(
        weights,
        cmap=scale.with_extremes(bad=DARK_RED),
        vmin=-limit,
        vmax=limit,
        origin="upper",
        interpolation="nearest",
    )


def _mark_bands(panel: Any, spec: MelSpec, *, fontsize: int) -> None:
    centres = band_centres_hz(spec)
    marked = [hz for hz in MARKED_HZ if centres[0] <= hz <= centres[-1]]
    rows = np.interp(marked, centres, np.arange(len(centres)))
    names = [f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz} Hz" for hz in marked]
    panel.set_yticks(rows, names, fontsize=fontsize)


def _time(filters: np.ndarray, spec: MelSpec) -> str:
    frames, hop_ms = filters.shape[2], 1000 * spec.hop / spec.sample_rate
    return f"time across: {frames} frames, {hop_ms:.0f} ms apart, in each filter"


def _colour_bar(figure: Any, image: Any, beside: Any, *, fontsize: int, **where: Any) -> None:
    bar = figure.colorbar(image, cax=beside, **where)
    bar.ax.tick_params(labelsize=fontsize)
    bar.set_label("weight", fontsize=fontsize)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot
