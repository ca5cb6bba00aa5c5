"""What more tracks are worth to both stages: `python -m benchmarks.tracks [FOLDER]`.

Three demo worlds each of 600 and of 2,400 tracks, with artists, listeners and votes in proportion;
both stages by their defaults at half of the channels. Prints the tables and writes them into
RESULTS.md. FOLDER (default `runs/worlds`) keeps all in `tracks/`, 20 GB, and the same command goes
on after an interruption: three quarters of an hour on two cores. All of it is simulated.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import hydra

from benchmarks.results import compose_and_run, stores_of, write_between
from benchmarks.thumbs import (
    BOOTSTRAPS,
    KNOWN,
    PROCESSES,
    SERVED,
    WORLDS,
    Variant,
    evaluate_runs,
    loss_table,
    train_stage_1,
    train_stage_2,
)
from benchmarks.worlds import mean_table
from cbmr.sources.demo import make_demo
from tasks import scan
from tasks.command import CONF
from tasks.evaluate import SIMULATED
from tasks.runs import say

TRACKS = (600, 2_400)
HALF = ("encoder.arguments.channels=[128,128,256,256]", "encoder.arguments.hidden=1024")
STAGE_2 = "stage 2"
BEGIN, END = "<!-- tracks -->", "<!-- end of tracks -->"


def main() -> None:
    """Make and train what is missing, evaluate everything, write the tables."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds") / "tracks"
    jobs = list(product(TRACKS, range(WORLDS)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context) as pool:
        futures = [pool.submit(_train, folder, *job) for job in jobs]
        for (tracks, world), future in zip(jobs, futures, strict=True):
            say(f"{tracks:,} tracks, world {world}: {future.result()}")
    lines = [
        f"{SIMULATED} The mean over {WORLDS} worlds, a training each, on test tracks; paired 95 % "
        f"intervals of {BOOTSTRAPS} bootstrap draws over listeners and artists. *Closed* is the "
        "share of the way from ridge to what the sound can tell.",
    ]
    with hydra.initialize_config_dir(CONF, version_base=None):
        for tracks in TRACKS:
            home = _home(folder, tracks)
            tables = [evaluate_runs(home, world, {STAGE_2: STAGE_2}) for world in range(WORLDS)]
            mean = mean_table(tables)
            lines += ["", f"{tracks:,} tracks, by sound alone:", ""]
            lines += loss_table(mean, (*KNOWN[:3], STAGE_2, *KNOWN[3:]))
            lines += ["", f"{tracks:,} tracks, as served:", ""]
            lines += loss_table(mean, ("ridge", "stage 1", STAGE_2), SERVED)
    text = "\n".join(lines)
    write_between(BEGIN, END, text)
    print(text)


def _home(folder: Path, tracks: int) -> Path:
    return folder / str(tracks)


def _train(folder: Path, tracks: int, world: int) -> str:
    """The world of so many tracks, its store and both stages on it, unless they are there; the last
    one's validation in a line."""
    home, share = _home(folder, tracks), tracks / TRACKS[0]
    corpus = home / f"world{world}"
    corpus.mkdir(parents=True, exist_ok=True)
    make_demo(
        corpus,
        rng_seed=world,
        tracks=tracks,
        artists=round(80 * share),
        listeners=round(1000 * share),
        votes=round(20_000 * share),
        workers=1,
    )
    with hydra.initialize_config_dir(CONF, version_base=None):
        compose_and_run(scan, [f"corpus='{corpus}'", f"run='{stores_of(corpus)}'", "workers=1"])
    train_stage_1(home, world, HALF)
    return train_stage_2(home, world, Variant(STAGE_2))


if __name__ == "__main__":
    main()
