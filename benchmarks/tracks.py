"""What more tracks are worth to both stages, and votes where plays are few:
`python -m benchmarks.tracks [FOLDER]`.

Three demo worlds each of 600 tracks, of 600 with a tenth of the plays, and of 4,800 with artists,
listeners and votes in proportion; both stages by their defaults at half of the channels. Prints the
tables and writes them into RESULTS.md. FOLDER (default `runs/worlds`) keeps all in `tracks/`,
beside the worlds whose music the small ones share, and the same command goes on after an
interruption: an hour and a half on two cores. All of it is simulated.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import torch

from benchmarks.results import write_between
from benchmarks.thumbs import (
    BOOTSTRAPS,
    EXPLAINED,
    KNOWN,
    PERFECT,
    PROCESSES,
    SERVED,
    WORLDS,
    Variant,
    evaluate_runs,
    loss_table,
    scanned,
    train_stage_1,
    train_stage_2,
)
from benchmarks.worlds import mean_table, world_folder
from cbmr.evaluation import Table
from cbmr.sources.demo import make_demo
from tasks.command import CONF
from tasks.evaluate import SIMULATED
from tasks.terminal import say

SIZES: dict[str, dict[str, Any]] = {
    "600 tracks": {},
    "600 tracks, few plays": {"plays_per_listener": 5.0},
    "4,800 tracks": {"tracks": 4_800, "artists": 640, "listeners": 8_000, "votes": 160_000},
}
HALF = ("encoder.arguments.channels=[128,128,256,256]", "encoder.arguments.hidden=1024")
STAGE_2 = "stage 2"
BEGIN, END = "<!-- tracks -->", "<!-- end of tracks -->"


def main() -> None:
    """Make and train what is missing, evaluate everything, write the tables."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    jobs = [(folder / "tracks" / size, world) for size in SIZES for world in range(WORLDS)]
    with hydra.initialize_config_dir(CONF, version_base=None):
        for home, world in jobs:
            corpus, drawn = home / f"world{world}", SIZES[home.name]
            corpus.mkdir(parents=True, exist_ok=True)
            of_default = None if "tracks" in drawn else world_folder(folder, world).resolve()
            make_demo(corpus, rng_seed=world, audio_of=of_default, **drawn)
            scanned(corpus)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context) as pool:
        futures = [pool.submit(_train, *job) for job in jobs]
        for (home, world), future in zip(jobs, futures, strict=True):
            say(f"{home.name}, world {world}: {future.result()}")
        tables = list(pool.map(_evaluate, *zip(*jobs, strict=True)))
    lines = [
        f"{SIMULATED} The mean over {WORLDS} worlds, a training each, on test tracks; paired 95 % "
        f"intervals of {BOOTSTRAPS} bootstrap draws over listeners and artists. {EXPLAINED}",
    ]
    for place, size in enumerate(SIZES):
        table = mean_table(tables[place * WORLDS : (place + 1) * WORLDS])
        lines += ["", f"{size}, by sound alone:", ""]
        lines += loss_table(table, (*KNOWN[:3], STAGE_2, *KNOWN[3:]))
        lines += ["", f"{size}, as served:", ""]
        lines += loss_table(table, ("ridge", "stage 1", STAGE_2, PERFECT), SERVED)
    text = "\n".join(lines)
    write_between(BEGIN, END, text)
    print(text)


def _train(home: Path, world: int) -> str:
    """Both stages on that world, unless they are there; the last one's validation in a line."""
    train_stage_1(home, world, HALF)
    return train_stage_2(home, world, Variant(STAGE_2))


def _evaluate(home: Path, world: int) -> Table:
    torch.set_num_threads(1)
    return evaluate_runs(home, world, {STAGE_2: STAGE_2})


if __name__ == "__main__":
    main()
