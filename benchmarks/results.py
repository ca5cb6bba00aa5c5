"""Every road of the founding article in one table: `python -m benchmarks.results [FOLDER]`.

Each file of `benchmarks/rows` is a variant: `name`, and overrides of `tasks.factorize`,
`tasks.pretrain` and `tasks.regress`. All of them are trained on the demo worlds by each of the
trials of `benchmarks/results.yaml`; the trial with the best validation is read on test, once.
What is done is kept in FOLDER (default `runs/worlds`), and the same command goes on after an
interruption. The table goes to RESULTS.md, between its marks; the text around it is left alone.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import OmegaConf

from benchmarks.worlds import mean_table, world_folder
from cbmr.corpus import rows_of
from cbmr.evaluation import Row, Table, ask, compare, make_rows
from cbmr.factors import load_factors
from cbmr.files import read_json, write_json
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore
from tasks import factorize, pretrain, regress
from tasks.command import CONF, check_settings
from tasks.evaluate import SIMULATED
from tasks.runs import say
from tasks.stages import predicted_vectors, with_users

HERE = Path(__file__).parent
RESULTS = HERE.parent / "RESULTS.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
METRICS = ("AUC", "mAP@500")
BASELINES = ("random", "popularity", "artist mean", "artist mean + ridge", "MFCC words, linear",
             "MFCC words, MLP", "ridge", "ridge + prior")  # fmt: skip
DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """One row's file: its `key` is the file's name."""

    key: str
    name: str
    factorize: tuple[str, ...] = ()
    pretrain: tuple[str, ...] | None = None
    regress: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A variant trained by one trial on one world."""

    run: Path
    valid_auc: float
    parameters: int
    clips_a_second: float


def main() -> None:
    """Train what is missing, and write the table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    shared: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(HERE / "results.yaml"))
    variants = [_variant(path) for path in sorted((HERE / "rows").glob("*.yaml"))]
    variants.sort(key=lambda variant: variant.key != DEFAULT)
    began, trained = time.monotonic(), {}
    with hydra.initialize_config_dir(CONF, version_base=None):
        corpora = [world_folder(folder, world) for world in range(shared["worlds"])]
        for done, variant in enumerate(variants):
            for trial in range(len(shared["trials"])):
                for world, corpus in enumerate(corpora):
                    run = folder / "results" / f"world{world}" / f"{variant.key}-{trial}"
                    trained[variant.key, trial, world] = _train(variant, shared, trial, corpus, run)
            minutes = (time.monotonic() - began) / 60
            left = minutes / (done + 1) * (len(variants) - done - 1)
            say(f"{variant.name}: {done + 1}/{len(variants)}, about {left:.0f} min left")
        best = {
            variant.key: max(
                range(len(shared["trials"])),
                key=lambda trial: np.mean(
                    [trained[variant.key, trial, world].valid_auc for world in range(len(corpora))]
                ),
            )
            for variant in variants
        }
        tables = [
            _evaluate(
                corpus,
                {v.name: trained[v.key, best[v.key], world].run for v in variants},
                bootstraps=shared["bootstraps"],
                rng_seed=world,
            )
            for world, corpus in enumerate(corpora)
        ]
    text = "\n".join(_markdown(mean_table(tables), variants, trained, best, shared))
    before, _, rest = RESULTS.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    RESULTS.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(text)


def _variant(path: Path) -> Variant:
    content: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))
    lists = {key: tuple(value) for key, value in content.items() if key != "name"}
    return Variant(path.stem, content["name"], **lists)


def _train(
    variant: Variant, shared: dict[str, Any], trial: int, corpus: Path, run: Path
) -> Trained:
    """One training, unless it is there; its speed is that of the whole task, the writing of
    checkpoints and validation included."""
    run.mkdir(parents=True, exist_ok=True)
    stores = corpus.with_name(f"{corpus.name}-spectrograms")
    stores.mkdir(exist_ok=True)
    if not (run / "spectrograms").exists():
        (run / "spectrograms").symlink_to(stores.resolve())
    where = [f"corpus='{corpus}'", f"run='{run}'"]
    _task(factorize, [*where, *shared["factorize"], *variant.factorize])
    start = []
    if variant.pretrain is not None:
        encoder = [text for text in shared["regress"] if text.startswith("encoder.")]
        _task(pretrain, [*where, *encoder, *variant.pretrain])
        start = [f"encoder_file='{run / 'pretrain' / 'encoder.pt'}'"]
    overrides = [*where, *shared["regress"], *variant.regress, *shared["trials"][trial], *start]
    seconds = run / "seconds.json"
    afresh, began = not (run / "regress").exists(), time.perf_counter()
    settings = _task(regress, overrides)
    if afresh:
        write_json(seconds, {"regress": time.perf_counter() - began})
    metrics = read_json(run / "regress" / "metrics.json")
    rate = float("nan")
    if seconds.exists():
        clips = settings.epochs * metrics["train_tracks"]
        rate = clips / read_json(seconds)["regress"]
    return Trained(run, metrics["valid_listening_auc"], metrics["parameters"], rate)


def _task(task: Any, overrides: Sequence[str]) -> Any:
    name = task.__name__.rsplit(".", 1)[1]
    settings = hydra.compose(name, [*overrides])
    groups = [text for text in overrides if (Path(CONF) / text.partition("=")[0]).is_dir()]
    check_settings(settings, hydra.compose(name, groups))
    task.run(settings)
    return settings


def _evaluate(
    corpus_folder: Path, runs: dict[str, Path], *, bootstraps: int, rng_seed: int
) -> Table:
    """Baselines and variants on one world. All are heard by the same listeners, each through the
    factors that its own run has for them."""
    corpus = read_corpus(corpus_folder, needs=["plays", "thumbs"])
    default, run = next(iter(runs.items()))
    factors = load_factors(run / "factors.npz")
    store = SpectrogramStore(next(run.glob("spectrograms/*2048*")))
    readable = rows_of(store.track_ids, corpus.track_ids) >= 0
    question = ask(corpus, readable, factors, listeners=2000, rng_seed=0)
    stages = {default: predicted_vectors(run / "regress")}
    evaluate = hydra.compose("evaluate")
    baselines = {"words": evaluate.words, "hidden": evaluate.hidden}
    rows = make_rows(corpus, store, factors, question, stages, {}, **baselines, rng_seed=0)
    asked = corpus.user_ids[question.users]
    for name, run in list(runs.items())[1:]:
        heard_by = with_users(load_factors(run / "factors.npz"), run / "regress" / "users.npz")
        vectors = predicted_vectors(run / "regress")
        at = rows_of(vectors.track_ids, corpus.track_ids)
        users = heard_by.user_factors[rows_of(heard_by.user_ids, asked)]
        rows.append(Row(name, vectors.vectors[at], users))
    return compare(rows, question, bootstraps=bootstraps, rng_seed=rng_seed)


def _markdown(
    table: Table,
    variants: Sequence[Variant],
    trained: dict[tuple[str, int, int], Trained],
    best: dict[str, int],
    shared: dict[str, Any],
) -> list[str]:
    heads = [f"{column}: {metric}" for column in table.columns for metric in METRICS]
    worlds, default = range(shared["worlds"]), variants[0].name
    lines = [
        f"{SIMULATED} The mean over {len(worlds)} worlds, a training each; test tracks; beside "
        "each value its difference to the default with the paired 95 % interval of "
        f"{shared['bootstraps']} bootstrap draws over listeners and artists. "
        f"Networks by `{' '.join(shared['regress'])}`; each row had the same "
        f"{len(shared['trials'])} trials ({', '.join(' '.join(t) for t in shared['trials'])}), "
        "the better one chosen on validation tracks; a ridge's strength is chosen among 25 by "
        "leave-one-out. Clips a second are those of the whole task on this machine.",
        "",
        f"| row | {' | '.join(heads)} | parameters | clips/s |",
        f"|---|{'---|' * (len(heads) + 2)}",
    ]
    known = {variant.name: variant for variant in variants}
    prior = f"{default} + prior"
    ceilings = [row for row in table.rows if row.startswith(("ceiling", "oracle"))]
    for row in (*BASELINES, default, prior, *list(known)[1:], *ceilings):
        if row not in table.rows:
            continue
        cells = []
        for column in table.columns:
            for metric in METRICS:
                cell = f"{table.at(row, column, metric):.3f}"
                if row != default:
                    difference = table.difference(row, default, column, metric)
                    cell += " ({:+.3f} [{:+.3f}, {:+.3f}])".format(*difference)
                cells.append(cell)
        costs = ["", ""]
        if row in known:
            key = known[row].key
            runs = [trained[key, best[key], world] for world in worlds]
            costs = [
                f"{runs[0].parameters:,}",
                f"{np.nanmedian([r.clips_a_second for r in runs]):.0f}",
            ]
        lines.append(f"| {row} | {' | '.join([*cells, *costs])} |")
    return lines


if __name__ == "__main__":
    main()
