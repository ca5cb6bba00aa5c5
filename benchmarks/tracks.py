"""What more tracks are worth to both stages: `python -m benchmarks.tracks [FOLDER]`.

A demo world each of 150, 600 and 2,400 tracks, with artists, listeners and votes in proportion;
both stages as in `benchmarks.thumbs`, at a quarter of the channels. Prints a Markdown table and
writes it into RESULTS.md. FOLDER (default `runs/worlds`) keeps the world of 600 tracks, which is
that of other benchmarks, and in `tracks/` the rest: 2,400 take 20 minutes to render and 10 to train
on. All of it is simulated.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hydra

from benchmarks.results import compose_and_run, stores_of, write_between
from benchmarks.thumbs import (
    BOOTSTRAPS,
    DEFAULT,
    KNOWN,
    PROCESSES,
    RATES,
    Variant,
    apart,
    closed,
    evaluate_runs,
    train_stage_1,
    train_stage_2,
)
from cbmr.evaluation import Table
from cbmr.sources.demo import make_demo
from tasks import scan
from tasks.command import CONF
from tasks.evaluate import SIMULATED
from tasks.runs import say

WORLD = 0
BASE = 600
TRACKS = (150, BASE, 2_400)
STAGE_2 = Variant(f"{DEFAULT} {RATES[0]}", overrides=(f"loss={DEFAULT}",))
BEGIN, END = "<!-- tracks -->", "<!-- end of tracks -->"


def main() -> None:
    """Make and train what is missing, evaluate everything, write the table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context) as pool:
        trained = pool.map(_train, [folder] * len(TRACKS), TRACKS)
        for tracks, _ in zip(TRACKS, trained, strict=True):
            say(f"both stages are trained on {tracks:,} tracks")
    with hydra.initialize_config_dir(CONF, version_base=None):
        tables = {
            tracks: evaluate_runs(_home(folder, tracks), WORLD, {"stage 2": STAGE_2.name})
            for tracks in TRACKS
        }
    text = "\n".join(_markdown(tables))
    write_between(BEGIN, END, text)
    print(text)


def _home(folder: Path, tracks: int) -> Path:
    return folder if tracks == BASE else folder / "tracks" / str(tracks)


def _train(folder: Path, tracks: int) -> None:
    """The world of so many tracks, its store and both stages on it, unless they are there."""
    home, share = _home(folder, tracks), tracks / BASE
    corpus = home / f"world{WORLD}"
    corpus.mkdir(parents=True, exist_ok=True)
    make_demo(
        corpus,
        rng_seed=WORLD,
        tracks=tracks,
        artists=round(80 * share),
        listeners=round(1000 * share),
        votes=round(20_000 * share),
        workers=1,
    )
    with hydra.initialize_config_dir(CONF, version_base=None):
        compose_and_run(scan, [f"corpus='{corpus}'", f"run='{stores_of(corpus)}'", "workers=1"])
    train_stage_1(home, WORLD)
    train_stage_2(home, WORLD, STAGE_2)


def _markdown(tables: dict[int, Table]) -> list[str]:
    first = tables[BASE]
    heads = [
        f"{column}: {head}"
        for column in first.columns
        for head in (*KNOWN, "stage 2", "stage 2 to stage 1", "stage 1 closes", "stage 2 closes")
    ]
    lines = [
        f"{SIMULATED} Thumbs AUC on test tracks as sound alone predicts them, of one world and "
        f"one training of each size; 95 % intervals of {BOOTSTRAPS} bootstrap draws over listeners "
        "and artists. What a stage *closes* is the share of the way from ridge to what the sound "
        "can tell.",
        "",
        f"| tracks | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for tracks, table in tables.items():
        cells = []
        for column in table.columns:
            rows = (*KNOWN, "stage 2")
            cells += [f"{table.at(row, column, 'thumbs AUC'):.3f}" for row in rows]
            cells.append(apart(table, "stage 2", column, "thumbs AUC", "stage 1"))
            cells += [f"{closed(table, row, column):.0%}" for row in ("stage 1", "stage 2")]
        lines.append(f"| {tracks:,} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
