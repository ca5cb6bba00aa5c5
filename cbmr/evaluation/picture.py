"""The table as a picture: one panel a column and metric, a point and its interval a row."""

from pathlib import Path

from cbmr.evaluation.table import Table
from cbmr.files import whole_file

DRAWN = ("AUC", "mAP@500", "thumbs AUC")
BLUE, ORANGE, GREY, GREEN = "#0072b2", "#d55e00", "#6b6b6b", "#009e73"
"""Of Okabe and Ito's palette, which the colour-blind tell apart."""


def draw(table: Table, path: Path, *, title: str) -> None:
    """Write a PNG of every row's AUC, mAP@500 and thumbs AUC with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        len(table.columns),
        len(DRAWN),
        figsize=(13, 0.6 + (0.8 + 0.26 * len(table.rows)) * len(table.columns)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    places = range(len(table.rows), 0, -1)
    for line, column in zip(panels, table.columns, strict=True):
        for panel, metric in zip(line, DRAWN, strict=True):
            for place, row in zip(places, table.rows, strict=True):
                low, high = table.interval(row, column, metric)
                colour = _colour(row)
                panel.plot([low, high], [place, place], color=colour, linewidth=2)
                panel.plot(table.at(row, column, metric), place, "o", color=colour, markersize=5)
            panel.set_title(f"{column}: {metric}", fontsize=10)
            panel.grid(axis="x", color="#e0e0e0")
            panel.set_axisbelow(True)
            panel.spines[["top", "right", "left"]].set_visible(False)
            panel.tick_params(axis="y", length=0)
            panel.set_yticks(list(places), table.rows, fontsize=9)
    figure.suptitle(title, fontsize=11)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def _colour(row: str) -> str:
    if row.startswith(("ceiling", "oracle")):
        return GREEN
    return ORANGE if "stage 2" in row else BLUE if "stage 1" in row else GREY
