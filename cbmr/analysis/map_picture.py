"""A map as a picture: every track a dot in the colour of its group, the groups named on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.analysis.groups import Groups
from cbmr.files import whole_file

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222", "#b8a800",
)  # fmt: skip
"""Okabe and Ito's palette, which the colour-blind tell apart, its yellow darker for white paper."""
GREY = "#b4b4b4"
MOST_LABELS = 30
MOST_COMPARED = 500
"""Tracks of a group among which its densest place is looked for."""
CORE = 0.2
"""Of a group: what has to be near for a place to be dense."""
FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS",
)  # fmt: skip
"""What is installed of these writes the labels, each what the ones before it cannot."""
STEPS = (0, 1, -1, 2, -2, 3, -3)
"""Heights of a label by which a label moves to where it is free."""


def draw_maps(layouts: Mapping[str, np.ndarray], groups: Groups | None, path: Path) -> None:
    """Write a PNG of the layouts, places `[tracks, 2]` in -1..1 each, side by side.

    The eight largest groups have colours and the thirty largest labels, each where its tracks are
    densest; a label that would lie on another one moves a little, or stays away, as does one that
    no font can write. Without groups all dots are alike.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    height = max(float(np.abs(at[:, 1]).max()) for at in layouts.values()) + 0.06
    figure, panels = pyplot.subplots(
        1, len(layouts), figsize=(9.5 * len(layouts), 1 + 8.8 * height), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    groups = groups or Groups("nothing", (), np.zeros(len(next(iter(layouts.values()))), dtype=int))
    colours = np.array([*COLOURS, GREY])
    shown = np.where((groups.of < 0) | (groups.of >= len(COLOURS)), len(COLOURS), groups.of)
    order = np.argsort(-shown, kind="stable")  # grey below
    size = float(np.clip(40_000 / len(shown), 2, 40))
    for panel, (name, at) in zip(panels[0], layouts.items(), strict=True):
        panel.scatter(
            *at[order].T, s=size, c=colours[shown[order]], alpha=0.8, linewidths=0, rasterized=True
        )
        panel.set_title(f"near by {name}", fontsize=16)
        panel.set_aspect("equal")
        panel.set_xlim(-1.06, 1.06)
        panel.set_ylim(-height, height)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_color("#cccccc")
    named = f", coloured and named by {groups.name}" if groups.values else ""
    figure.suptitle(f"Tracks by t-SNE{named}", fontsize=18)
    figure.canvas.draw()  # labels are measured on the final layout
    for panel, at in zip(panels[0], layouts.values(), strict=True):
        _label(panel, at, groups)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def _label(panel: Any, places: np.ndarray, groups: Groups) -> None:
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    families = [name for name in FONTS if name in installed]
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in families]
    taken: list[Any] = []
    for number, value in enumerate(groups.values[:MOST_LABELS]):
        text = value if len(value) <= 32 else f"{value[:30]}…"
        if not all(any(font.get_char_index(ord(sign)) for font in fonts) for sign in text):
            continue
        colour = COLOURS[number] if number < len(COLOURS) else GREY
        label = panel.text(
            *_densest(places[groups.of == number]),
            text,
            parse_math=False,  # a name may hold dollars
            family=families,
            fontsize=12,
            ha="center",
            va="center",
            color="#111111",
            bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": colour, "lw": 2, "alpha": 0.9},
        )
        if not _move_to_free_place(panel, label, taken):
            label.remove()


def _densest(places: np.ndarray) -> np.ndarray:
    """The one of `places` `[tracks, 2]` whose nearest fifth of them is nearest: the middle of a
    group that lies in several heaps may be a hole between them."""
    some = places[:: -(-len(places) // MOST_COMPARED)]
    apart = np.sort(np.linalg.norm(some[:, None] - some[None], axis=2), axis=1)
    near = apart[:, : 1 + int(CORE * len(some))].sum(axis=1)
    densest: np.ndarray = some[int(np.argmin(near))]
    return densest


def _move_to_free_place(panel: Any, label: Any, taken: list[Any]) -> bool:
    """Whether there is one within the panel; if so it is `taken`."""
    inside = panel.get_window_extent()
    x, y = label.get_position()
    box = label.get_bbox_patch().get_window_extent()
    to_data = panel.transData.inverted()
    origin = to_data.transform((0, 0))
    margin, line = to_data.transform((box.width / 2 + 4, box.height + 3)) - origin
    low, high = panel.get_xlim()
    x = float(np.clip(x, low + margin, high - margin))
    for step in STEPS:
        label.set_position((x, y + step * line))
        label.update_bbox_position_size(panel.figure.canvas.get_renderer())
        box = label.get_bbox_patch().get_window_extent().padded(1)
        fits = inside.y0 < box.y0 and box.y1 < inside.y1
        if fits and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return True
    return False
