"""Both stages on three demo worlds, twice each: the first tables of RESULTS.md.

`python -m benchmarks.worlds [FOLDER]` makes what is missing in FOLDER (default `runs/worlds`) and
prints. Every number is a mean over the worlds and training seeds, then over one world's trainings.
Listeners and artists are drawn again within each world, the same for its two trainings; worlds are
drawn apart, so an interval is that of the mean over these three worlds. All of it is simulated.
"""

import sys
from pathlib import Path

import hydra
import numpy as np

from cbmr.corpus import rows_of
from cbmr.encoder import load_encoder
from cbmr.evaluation import Table, ask, compare, make_rows
from cbmr.factors import load_factors
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore, store_folder
from tasks import factorize, rank, regress, scan
from tasks.command import CONF, defaults_of
from tasks.demo import make_world
from tasks.evaluate import COMPARED, PAIRS, SIMULATED, STAGES
from tasks.stages import predicted_vectors
from tasks.terminal import say

WORLDS, TRAININGS, BOOTSTRAPS = 3, 2, 200
EXCERPT_S = 30.0


def main() -> None:
    """Train what is missing, evaluate everything, print two Markdown tables of all worlds and of
    each."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    tables = []
    with hydra.initialize_config_dir(CONF, version_base=None):
        for world in range(WORLDS):
            for training in range(TRAININGS):
                corpus, run = _train(folder, world, training)
                tables.append(_evaluate(corpus, run, world))
                say(f"{len(tables)} of {WORLDS * TRAININGS} trainings done")
    _print(mean_table(tables), f"{WORLDS} worlds, {TRAININGS} trainings each")
    for world in range(WORLDS):
        own = tables[world * TRAININGS : (world + 1) * TRAININGS]
        _print(mean_table(own), f"world {world}, {TRAININGS} trainings")


def world_folder(folder: Path, world: int) -> Path:
    """The corpus of one demo world, made now if it is not there."""
    corpus_folder = folder / f"world{world}"
    cfg = hydra.compose("demo")
    cfg.corpus, cfg.world.rng_seed = str(corpus_folder), world
    make_world(cfg)
    return corpus_folder


def _train(folder: Path, world: int, training: int) -> tuple[Path, Path]:
    """Both stages on a world, unless they are there: the corpus and the run."""
    corpus_folder = world_folder(folder, world)
    run = folder / f"world{world}-training{training}"
    cfg = hydra.compose("demo")
    cfg.update({"corpus": str(corpus_folder), "run": str(run)})
    run.mkdir(parents=True, exist_ok=True)
    for task in (scan, factorize, regress, rank):
        settings = defaults_of(task.__name__.rsplit(".", 1)[1], cfg)
        settings.rng_seed = training
        task.run(settings)
    return corpus_folder, run


def _evaluate(corpus_folder: Path, run: Path, world: int) -> Table:
    corpus = read_corpus(corpus_folder, needs=["plays", "thumbs"])
    spec = load_encoder(run / "regress" / "encoder.pt").mel_spec
    assert spec is not None
    store = SpectrogramStore(store_folder(run / "spectrograms", spec, EXCERPT_S))
    factors = load_factors(run / "factors.npz")
    readable = rows_of(store.track_ids, corpus.track_ids) >= 0
    question = ask(corpus, readable, factors, listeners=2000, rng_seed=0)
    stages = {name: predicted_vectors(run / s) for s, name in STAGES.items()}
    settings = hydra.compose("evaluate")
    baselines = {"words": settings.words, "hidden": settings.hidden}
    rows = make_rows(corpus, store, factors, question, stages, {}, **baselines, rng_seed=0)
    return compare(rows, question, bootstraps=BOOTSTRAPS, rng_seed=world)


def mean_table(tables: list[Table]) -> Table:
    """Rows, columns and draws averaged over worlds and trainings."""
    value = np.mean([table.value for table in tables], axis=0)
    draws = np.mean([table.draws for table in tables], axis=0)
    return Table(tables[0].split, tables[0].rows, tables[0].columns, value, draws)


def _print(table: Table, caption: str) -> None:
    heads = [f"{column}: {metric}" for column in table.columns for metric in COMPARED]
    print(f"\n{SIMULATED} Mean of {caption}.\n")
    print(f"| row | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for row in table.rows:
        cells = [
            f"{table.at(row, column, metric):.3f}"
            for column in table.columns
            for metric in COMPARED
        ]
        print(f"| {row} | {' | '.join(cells)} |")
    print(f"\n| difference, 95 % interval | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for row, other in PAIRS:
        cells = [
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(*table.difference(row, other, column, metric))
            for column in table.columns
            for metric in COMPARED
        ]
        print(f"| {row} - {other} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
