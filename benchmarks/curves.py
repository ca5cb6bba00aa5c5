"""Stage 2 by the number of votes, and by how many of them are slips, where plays are few:
`python -m benchmarks.curves [FOLDER]` (default `runs/worlds`).

The worlds of `benchmarks.thumbs`, but with two plays a listener in place of fifty: where eighty
people have played a track, these have said what its votes could say, and no curve of votes moves.
Training votes alone differ from row to row. *Corrected* is by the model of a vote, its rate of
slips estimated; *as recorded* takes every vote at its word. Stage 1 is trained once on each world,
stage 2 by its defaults under both losses. What is done is kept, and the same command goes on after
an interruption: some 25 minutes on two cores. The tables go to RESULTS.md, between their marks, the
curves as a picture beside this file. All of it is simulated.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np

from benchmarks.results import HERE, write_between
from benchmarks.thumbs import (
    BOOTSTRAPS,
    METRICS,
    SERVED,
    WORLDS,
    Variant,
    Votes,
    apart,
    evaluate_all,
    heading,
    line,
    run_folder,
    scanned,
    served,
    train_all,
)
from benchmarks.worlds import world_folder
from cbmr.evaluation import Table
from cbmr.files import read_json, whole_file
from cbmr.sources.demo import make_demo
from tasks.command import CONF
from tasks.evaluate import SIMULATED

PLAYS = 2.0
LOSSES = ("drlim", "ranknet")
NUMBERS = (500, 5_000, 50_000)
MANY_VOTES = 85_000
"""Of a world drawn with so many, some 50,000 are of training tracks on training seeds."""
FLIPS = (0.0, 0.1, 0.2, 0.4)
CORRECTED, RECORDED = "corrected", "as recorded"
THUMBS = "thumbs AUC"
BEGIN, END = "<!-- curves -->", "<!-- end of curves -->"
PICTURE = HERE / "curves.png"


def main() -> None:
    """Make and train what is missing, evaluate everything, write the tables and the picture."""
    worlds = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    folder = worlds / "few plays"
    with hydra.initialize_config_dir(CONF, version_base=None):
        for world in range(WORLDS):
            base, few = world_folder(worlds, world), folder / f"world{world}"
            few.mkdir(parents=True, exist_ok=True)
            make_demo(few, rng_seed=world, plays_per_listener=PLAYS, audio_of=base)
            scanned(few)
    variants = [
        *(_by_number(loss, number) for loss in LOSSES for number in NUMBERS),
        *(_by_flips(loss, flips, votes_are)
          for loss in LOSSES for flips in FLIPS for votes_are in (CORRECTED, RECORDED)),
    ]  # fmt: skip
    train_all(folder, variants)
    table = evaluate_all(folder, {variant.name: variant.name for variant in variants})
    text = "\n".join(_markdown(table, folder))
    write_between(BEGIN, END, text)
    _draw(table)
    print(text)


def _by_number(loss: str, number: int) -> Variant:
    votes = Votes(f"{number} votes", {"votes": MANY_VOTES}, first=number)
    return Variant(f"{loss}, {number} votes", votes, (f"loss={loss}",))


def _by_flips(loss: str, flips: float, votes_are: str) -> Variant:
    votes = Votes(f"{flips:.0%} flips", {"flip_rate": flips})
    overrides = (f"loss={loss}", *(("flip_rate=0",) if votes_are == RECORDED else ()))
    return Variant(f"{loss}, {flips:.0%} flips, {votes_are}", votes, overrides)


def _markdown(table: Table, folder: Path) -> list[str]:
    first = [f"{table.at('stage 1' + SERVED, column, THUMBS):.3f}" for column in table.columns]
    lines = [
        f"{SIMULATED} The mean over {WORLDS} worlds, a training each, on test tracks as they are "
        f"served; paired 95 % intervals of {BOOTSTRAPS} bootstrap draws over listeners and "
        f"artists. Stage 1 has thumbs AUC {' and '.join(first)}, known and new artists.",
        "",
        "By the number of training votes, less stage 1:",
        "",
    ]
    lines += heading("votes", [f"{column}: {name}" for column in table.columns for name in METRICS])
    for loss in LOSSES:
        for number in NUMBERS:
            row = _by_number(loss, number).name
            lines.append(line(row, served(table, row, METRICS, "stage 1")))
    lines += ["", "By the share of votes that are recorded the wrong way round, less stage 1:", ""]
    heads = (CORRECTED, RECORDED, "difference")
    lines += heading("flips", [
        *(f"{column}: {head}" for column in table.columns for head in heads),
        "estimated, a world each",
    ])  # fmt: skip
    for loss in LOSSES:
        for flips in FLIPS:
            both = [_by_flips(loss, flips, votes_are).name for votes_are in (CORRECTED, RECORDED)]
            lines.append(_flips_line(table, folder, f"{loss}, {flips:.0%}", *both))
    return lines


def _flips_line(table: Table, folder: Path, name: str, corrected: str, recorded: str) -> str:
    runs = [run_folder(folder, world, corrected) for world in range(WORLDS)]
    rates = [read_json(run / "rank" / "metrics.json")["flip_rate"] for run in runs]
    cells = [
        apart(table, row + SERVED, column, THUMBS, other + SERVED)
        for column in table.columns
        for row, other in ((corrected, "stage 1"), (recorded, "stage 1"), (corrected, recorded))
    ]
    return line(name, [*cells, ", ".join(f"{rate:.0%}" for rate in rates)])


def _draw(table: Table) -> None:
    """A row of panels a column of the table: thumbs AUC by votes, and by flips under each loss,
    with intervals to stage 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    blue, orange, grey = "#0072b2", "#d55e00", "#6b6b6b"
    figure, panels = plt.subplots(
        len(table.columns), 3, figsize=(13, 7), squeeze=False, layout="constrained", sharey="row"
    )
    shares = [100 * flips for flips in FLIPS]
    styles = ((blue, "o-"), (orange, "s--"))
    for column, (by_number, *by_flips) in zip(table.columns, panels, strict=True):
        first = table.at("stage 1" + SERVED, column, THUMBS)
        curves: list[tuple[Any, Sequence[float], list[str], str, tuple[str, str]]] = [
            (by_number, NUMBERS, [_by_number(loss, n).name for n in NUMBERS], loss, style)
            for loss, style in zip(LOSSES, styles, strict=True)
        ]
        for panel, loss in zip(by_flips, LOSSES, strict=True):
            for votes_are, style in zip((CORRECTED, RECORDED), styles, strict=True):
                rows = [_by_flips(loss, flips, votes_are).name for flips in FLIPS]
                curves.append((panel, shares, rows, votes_are, style))
            panel.set_xlabel(f"% of votes flipped, {loss}")
        by_number.set_xscale("log")
        by_number.set_xlabel("training votes, corrected")
        by_number.set_ylabel(f"{column}: {THUMBS}")
        for panel, places, rows, name, (colour, marks) in curves:
            moved = [
                table.difference(row + SERVED, "stage 1" + SERVED, column, THUMBS) for row in rows
            ]
            value, low, high = first + np.array(moved).T
            panel.plot(places, value, marks, color=colour, label=name)
            panel.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        for panel in (by_number, *by_flips):
            panel.axhline(first, color=grey, linewidth=1, label="stage 1")
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False)
    figure.suptitle(f"Stage 2 on {WORLDS} simulated worlds of few plays, 95 % intervals to stage 1")
    with whole_file(PICTURE) as file:
        figure.savefig(file, format="png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
