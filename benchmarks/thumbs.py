"""Stage 2 under every loss, in four difficult worlds, and of shuffled votes:
`python -m benchmarks.thumbs [FOLDER]` (default `runs/worlds`).

Stage 1 is trained once on each of three demo worlds, by its defaults at the size of
`benchmarks.results`; every row goes on from it, in a process with a core of its own. Rows differ in
the loss or in the votes on training tracks. Votes on validation and test tracks are the base
world's, but for the shuffled row, whose validation votes are shuffled too. A loss is trained at two
rates and read on test at the better of them on validation. What is done is kept, and the same
command goes on after an interruption. The tables go to RESULTS.md, between their marks. All of it
is simulated. `benchmarks.curves` has the number of votes, and slips.
"""

import io
import multiprocessing
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import polars as pl
import torch
from omegaconf import OmegaConf
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.results import HERE, compose_and_run, stores_of, write_between
from benchmarks.worlds import mean_table, world_folder
from cbmr.corpus import Corpus, rows_of
from cbmr.evaluation import Table, ask, compare, make_rows
from cbmr.factors import Factors, load_factors, unit_rows
from cbmr.files import read_arrays, read_json, whole_file
from cbmr.priors import training_targets
from cbmr.sources.demo import make_demo
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore
from cbmr.vectors import Vectors
from tasks import factorize, rank, regress, scan
from tasks.command import CONF
from tasks.evaluate import SIMULATED
from tasks.rank import LOSSES
from tasks.stages import predicted_vectors
from tasks.terminal import say

WORLDS, BOOTSTRAPS, PROCESSES = 3, 200, 2
RATES = (0.1, 0.03)
DEFAULT = "drlim"
DIFFICULTIES = {
    "noise": {"flip_rate": 0.4},
    "heavy and kindly voters": {"vote_spread": 1.5, "kindness_spread": 1.5},
    "popular tracks exposed more": {"radio_popularity": 2.0},
    "downs that censor": {"radio_censoring": 4.0},
}
SHUFFLED = "shuffled"
BEGIN, END = "<!-- thumbs -->", "<!-- end of thumbs -->"
METRICS = ("thumbs AUC", "AUC")
KERNELS = {"kernelridge__alpha": [0.03, 0.1, 0.3, 1], "kernelridge__gamma": [0.01, 0.03, 0.1]}
PERFECT = "perfect hearing"
KNOWN = ("ridge", "artist mean + ridge", "stage 1", PERFECT, "ceiling: sound")
EXPLAINED = (
    "*Closed* is the share of the way from ridge to what the sound can tell. "
    f"*{PERFECT.capitalize()}* is a regression on the same training tracks that is given the "
    "world's attributes in place of sound."
)
SERVED = " + prior"
"""Of a row's name: as it is served, with the artist of new tracks and the listeners of seeds."""


@dataclass(frozen=True)
class Votes:
    """Votes on training tracks: those of a world with other `settings` of its radio, the `first` so
    many of them, or shuffled."""

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)
    first: int | None = None
    shuffled: bool = False


BASE = Votes("base")


@dataclass(frozen=True)
class Variant:
    """A training of stage 2: its training votes, and `overrides` of `tasks.rank`."""

    name: str
    votes: Votes = BASE
    overrides: tuple[str, ...] = ()


def main() -> None:
    """Train what is missing, evaluate everything, write the tables."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    of_losses = [
        Variant(f"{loss} {rate}", overrides=(f"loss={loss}", f"learning_rate={rate}"))
        for loss in LOSSES
        for rate in RATES
    ]
    others = [
        Variant(BASE.name),
        *(Variant(name, Votes(name, settings)) for name, settings in DIFFICULTIES.items()),
        Variant(SHUFFLED, Votes(SHUFFLED, shuffled=True)),
    ]
    with hydra.initialize_config_dir(CONF, version_base=None):
        for world in range(WORLDS):
            scanned(world_folder(folder, world))
    train_all(folder, [*of_losses, *others])
    names = _better_rates(folder) | {variant.name: variant.name for variant in others}
    table = evaluate_all(folder, names)
    text = "\n".join(_markdown(table))
    write_between(BEGIN, END, text)
    print(text)


def scanned(corpus: Path) -> None:
    """Its spectrograms, unless they are there."""
    compose_and_run(scan, [f"corpus='{corpus}'", f"run='{stores_of(corpus)}'"])


def train_all(folder: Path, variants: Sequence[Variant]) -> None:
    """Stage 1 on each of the worlds of `folder`, and every variant of stage 2, unless they are
    there."""
    for world in range(WORLDS):
        for votes in {variant.votes.name: variant.votes for variant in variants}.values():
            _corpus(folder, world, votes)
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        small = list(OmegaConf.load(HERE / "results.yaml").encoder)
        list(pool.map(train_stage_1, [folder] * WORLDS, range(WORLDS), [small] * WORLDS))
        jobs = [(folder, world, variant) for variant in variants for world in range(WORLDS)]
        futures, began = [pool.submit(train_stage_2, *job) for job in jobs], time.monotonic()
        for done, (job, future) in enumerate(zip(jobs, futures, strict=True), start=1):
            metrics = future.result()
            left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
            say(f"{done}/{len(jobs)} world {job[1]}, {job[2].name}: {metrics}, {left:.0f} min left")


# --- votes --------------------------------------------------------------------------------------


def _corpus(folder: Path, world: int, votes: Votes) -> Path:
    """The base world, or a copy of its tables with other training votes, made if not there."""
    base = folder / f"world{world}"
    if votes == BASE:
        return base
    corpus = folder / "thumbs" / f"world{world}" / f"corpus {votes.name}"
    if (corpus / "thumbs.parquet").exists():
        return corpus
    corpus.mkdir(parents=True, exist_ok=True)
    for name in ("tracks", "plays"):
        shutil.copy(base / f"{name}.parquet", corpus)
    split = dict(pl.read_parquet(base / "tracks.parquet").select("track_id", "split").iter_rows())
    thumbs = pl.read_parquet(base / "thumbs.parquet")
    if votes.shuffled:
        rng = np.random.default_rng(world)
        new = thumbs.with_columns(thumb=pl.Series(rng.permutation(thumbs["thumb"].to_numpy())))
        test = pl.col("track_id").replace_strict(split) == "test"
        mixed = pl.concat([new.filter(~test), thumbs.filter(test)])
    else:
        other = folder / "thumbs" / f"world{world}" / f"world {votes.name}"
        other.mkdir(exist_ok=True)
        drawn: dict[str, Any] = read_json(base / "settings.json") | dict(votes.settings)
        del drawn["format"]
        make_demo(other, audio_of=base.resolve(), **drawn)
        new = pl.read_parquet(other / "thumbs.parquet")
        trains = pl.all_horizontal(
            pl.col("seed_id", "track_id").replace_strict(split, return_dtype=pl.String) == "train"
        )
        new = new.filter(trains).sort("station_id", maintain_order=True)[: votes.first]
        mixed = pl.concat([new, thumbs.filter(~trains)])
    with whole_file(corpus / "thumbs.parquet") as file:
        mixed.write_parquet(file)
    return corpus


# --- training -----------------------------------------------------------------------------------


def run_folder(folder: Path, world: int, name: str) -> Path:
    return folder / "thumbs" / f"world{world}" / f"run {name}"


def _shared(corpus: Path, run: Path) -> list[str]:
    return [f"corpus='{corpus}'", f"run='{run}'", "workers=1"]


def train_stage_1(folder: Path, world: int, encoder: Sequence[str]) -> None:
    """Factors and stage 1 of that world by the `encoder`'s overrides, unless they are there."""
    torch.set_num_threads(1)
    corpus, run = folder / f"world{world}", run_folder(folder, world, "stage 1")
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "spectrograms").exists():
        (run / "spectrograms").symlink_to((stores_of(corpus) / "spectrograms").resolve())
    with hydra.initialize_config_dir(CONF, version_base=None), redirect_stderr(io.StringIO()):
        compose_and_run(factorize, _shared(corpus, run))
        compose_and_run(regress, [*_shared(corpus, run), *encoder])


def train_stage_2(folder: Path, world: int, variant: Variant) -> str:
    """Stage 2 from that world's stage 1, unless it is there; its validation in a line."""
    torch.set_num_threads(1)
    run, first = run_folder(folder, world, variant.name), run_folder(folder, world, "stage 1")
    # Links: a stage 1 that was trained anew is the one that every row goes on from.
    if not (run / "regress").is_symlink():
        shutil.rmtree(run, ignore_errors=True)  # of a benchmark that kept copies
    run.mkdir(exist_ok=True)
    for name in ("spectrograms", "factors.json", "factors.npz", "regress"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to((first / name).resolve())
    corpus = _corpus(folder, world, variant.votes)
    with hydra.initialize_config_dir(CONF, version_base=None), redirect_stderr(io.StringIO()):
        compose_and_run(rank, [*_shared(corpus, run), *variant.overrides])
    metrics = read_json(run / "rank" / "metrics.json")
    before, after = (metrics[f"valid_thumbs_auc{end}"] for end in ("_stage_1", ""))
    return f"validation thumbs {before:.3f} to {after:.3f}, flip rate {metrics['flip_rate']}"


def _better_rates(folder: Path) -> dict[str, str]:
    """The name of each loss, and of its variant at the better rate on validation."""

    def on_validation(name: str) -> float:
        runs = (run_folder(folder, world, name) for world in range(WORLDS))
        metrics = [read_json(run / "rank" / "metrics.json") for run in runs]
        return float(np.mean([one["valid_thumbs_auc"] for one in metrics]))

    return {loss: max((f"{loss} {rate}" for rate in RATES), key=on_validation) for loss in LOSSES}


# --- evaluation ---------------------------------------------------------------------------------


def evaluate_all(folder: Path, names: dict[str, str]) -> Table:
    return mean_table([evaluate_runs(folder, world, names) for world in range(WORLDS)])


def evaluate_runs(folder: Path, world: int, names: dict[str, str]) -> Table:
    corpus = read_corpus(folder / f"world{world}", needs=["plays", "thumbs"])
    first = run_folder(folder, world, "stage 1")
    store = SpectrogramStore(next(first.glob("spectrograms/*2048*")))
    factors = load_factors(first / "factors.npz")
    readable = rows_of(store.track_ids, corpus.track_ids) >= 0
    question = ask(corpus, readable, factors, listeners=2000, rng_seed=0)
    perfect = Vectors(corpus.track_ids, perfect_hearing(corpus, factors))
    stages = {"stage 1": predicted_vectors(first / "regress"), PERFECT: perfect}
    for name, variant in names.items():
        stages[name] = predicted_vectors(run_folder(folder, world, variant) / "rank")
    rows = make_rows(
        corpus, store, factors, question, stages, {}, words=0, hidden=0, rng_seed=0, report=say
    )
    rows = [row for row in rows if row.name.removesuffix(SERVED) in (*KNOWN, *names)]
    return compare(rows, question, bootstraps=BOOTSTRAPS, rng_seed=world)


def perfect_hearing(corpus: Corpus, factors: Factors) -> np.ndarray:
    """What could be learned of the training tracks by who hears everything: kernel ridge regression
    from the world's own attributes, from which it renders a track and makes its taste, to unit-norm
    factors; unit vectors `[tracks, factors]`."""
    track_ids, attributes = read_arrays(corpus.folder / "truth.npz", "track_ids", "attributes")
    heard = attributes[rows_of(track_ids, corpus.track_ids)]
    train, targets = training_targets(corpus, factors)
    model = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))
    search = GridSearchCV(model, KERNELS).fit(heard[train], targets)
    return unit_rows(search.predict(heard))


def _markdown(table: Table) -> list[str]:
    lines = [
        f"{SIMULATED} The mean over {WORLDS} worlds, a training each, on test tracks, as "
        "sound alone predicts them; paired 95 % intervals of "
        f"{BOOTSTRAPS} bootstrap draws over listeners and artists. {EXPLAINED}",
        "",
    ]
    lines += loss_table(table, (*KNOWN[:3], *LOSSES, *KNOWN[3:]))
    lines += [
        "",
        "As they are served, with the artist of new tracks and the listeners of seeds "
        "(`cbmr.priors`):",
        "",
    ]
    lines += loss_table(table, ("ridge", "stage 1", *LOSSES, PERFECT), SERVED)
    heads = [f"{column}: {metric}" for column in table.columns for metric in METRICS]
    lines += [
        "",
        f"Worlds that have a difficulty strongly, less the base world ({DEFAULT}, as served):",
        "",
        *heading("difficulty", heads),
    ]
    for row in DIFFICULTIES:
        lines.append(line(row, served(table, row, METRICS, BASE.name)))
    lines += [
        "",
        f"Of shuffled thumbs, less stage 1 ({DEFAULT}, as served):",
        "",
        *heading("", heads),
        line(SHUFFLED, served(table, SHUFFLED, METRICS, "stage 1")),
    ]
    return lines


def loss_table(table: Table, rows: Sequence[str], end: str = "") -> list[str]:
    """A table of these rows, by sound alone or as served by the `end` of their names."""
    heads = [f"{column}: {head}" for column in table.columns
             for head in ("thumbs AUC", "to stage 1", "closed", "AUC", "to stage 1")]  # fmt: skip
    lines = heading("row", heads)
    for row in rows:
        lines.append(line(row, [cell for column in table.columns for cell in (
            f"{table.at(row + end, column, 'thumbs AUC'):.3f}",
            apart(table, row + end, column, "thumbs AUC", "stage 1" + end),
            f"{closed(table, row + end, column):.0%}",
            f"{table.at(row + end, column, 'AUC'):.3f}",
            apart(table, row + end, column, "AUC", "stage 1" + end),
        )]))  # fmt: skip
    return lines


def served(table: Table, row: str, metrics: Sequence[str], other: str) -> list[str]:
    """Differences of a row and another, as served, a column and metric each."""
    return [
        apart(table, row + SERVED, column, metric, other + SERVED)
        for column in table.columns
        for metric in metrics
    ]


def heading(first: str, heads: Sequence[str]) -> list[str]:
    return [line(first, heads), f"|---|{'---|' * len(heads)}"]


def line(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def apart(table: Table, row: str, column: str, metric: str, other: str) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*table.difference(row, other, column, metric))


def closed(table: Table, row: str, column: str) -> float:
    here, ridge, ceiling = (
        table.at(name, column, "thumbs AUC") for name in (row, "ridge", "ceiling: sound")
    )
    return (here - ridge) / (ceiling - ridge)


if __name__ == "__main__":
    main()
