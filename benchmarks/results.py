"""Every road of the founding article in one table: `python -m benchmarks.results [FOLDER]`.

Each file of `benchmarks/rows` is a variant: `name`, and overrides of `tasks.factorize`,
`tasks.pretrain` and `tasks.regress`. All of them are trained on the demo worlds by each of the
trials of `benchmarks/results.yaml`; the trial with the best validation is read on test, once.
What is done is kept in FOLDER (default `runs/worlds`), and the same command goes on after an
interruption. The table goes to RESULTS.md, between its marks; the text around it is left alone.
"""

import io
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from benchmarks.probe import untrained
from benchmarks.worlds import mean_table, world_folder
from cbmr.corpus import Corpus, rows_of
from cbmr.embed import layer_activations
from cbmr.encoder import load_encoder
from cbmr.evaluation import (
    Row,
    Table,
    ask,
    compare,
    make_rows,
    ridge_vectors,
)
from cbmr.evaluation.baselines import word_vectors
from cbmr.evaluation.held_out import held_out
from cbmr.factors import Factors, load_factors
from cbmr.few_plays import PAIRS as FEW_PAIRS
from cbmr.few_plays import REVEALED, FewPlays, few_plays
from cbmr.few_plays import ROWS as FEW_ROWS
from cbmr.files import read_json, write_json
from cbmr.priors import training_targets
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore, Store
from cbmr.vectors import aligned
from tasks import factorize, pretrain, regress, scan
from tasks.command import CONF, check_settings
from tasks.evaluate import SIMULATED
from tasks.manifests import plain
from tasks.stages import predicted_vectors, with_users
from tasks.terminal import say

HERE = Path(__file__).parent
RESULTS = HERE.parent / "RESULTS.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
METRICS = ("AUC", "mAP@500")
BASELINES = ("random", "popularity", "artist mean", "artist mean + ridge", "MFCC words, linear",
             "MFCC words, MLP", "ridge", "ridge + prior")  # fmt: skip


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
    """A variant trained by one trial on one world; the speed is that of the whole row: its
    factors, its pretraining, checkpoints and validation included."""

    run: Path
    valid_auc: float
    parameters: int
    clips_a_cpu_second: float


def main() -> None:
    """Train what is missing, and write the table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    shared = read_settings(HERE / "results.yaml")
    variants = [_variant(path) for path in sorted((HERE / "rows").glob("*.yaml"))]
    variants.sort(key=lambda variant: variant.key != shared["default"])
    worlds, trials = range(shared["worlds"]), range(len(shared["trials"]))
    with hydra.initialize_config_dir(CONF, version_base=None):
        corpora = [world_folder(folder, world) for world in worlds]
        for corpus in corpora:
            _scan_all(corpus, variants)

    trained = {}
    began = time.monotonic()
    jobs = [(v, trial, world) for v in variants for trial in trials for world in worlds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(shared["workers"], context) as pool:
        futures = [pool.submit(_train, *job, shared, folder) for job in jobs]
        for done, (job, future) in enumerate(zip(jobs, futures, strict=True), start=1):
            result = future.result()
            trained[job[0].key, *job[1:]] = result
            left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
            say(f"{done}/{len(jobs)} {result.run}: {result.valid_auc:.4f}, {left:.0f} min left")

    chosen = {}
    for v in variants:
        of_trials = [[trained[v.key, trial, world] for world in worlds] for trial in trials]
        chosen[v.name] = max(of_trials, key=_on_validation)
    runs = [{name: of[world].run for name, of in chosen.items()} for world in worlds]
    with hydra.initialize_config_dir(CONF, version_base=None):
        heard = [_words(corpora[world], runs[world], shared["words"]) for world in worlds]
        words = {}
        for row, of in heard[0].items():
            means = {number: np.mean([world[row][number] for world in heard]) for number in of}
            words[row] = max(means, key=means.__getitem__)
        tables = [
            _evaluate(world, corpora[world], runs[world], words, bootstraps=shared["bootstraps"])
            for world in worlds
        ]
        default = variants[0].name
        few = [_few_plays(corpora[world], runs[world][default]) for world in worlds]
    article = next(v.name for v in variants if v.key == shared["article"])
    lines = _markdown(mean_table(tables), chosen, shared, article)
    lines += _few_plays_markdown(few, default)
    text = "\n".join(lines)
    write_between(BEGIN, END, text)
    print(text)


def _on_validation(worlds: Sequence[Trained]) -> float:
    return float(np.mean([world.valid_auc for world in worlds]))


def write_between(begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of RESULTS.md."""
    before, _, rest = RESULTS.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    RESULTS.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file of this folder as plain values."""
    settings = OmegaConf.load(path)
    assert isinstance(settings, DictConfig)
    return plain(settings)


def _variant(path: Path) -> Variant:
    content = read_settings(path)
    lists = {key: tuple(value) for key, value in content.items() if key != "name"}
    return Variant(path.stem, content["name"], **lists)


# --- training -----------------------------------------------------------------------------------


def _scan_all(corpus: Path, variants: Sequence[Variant]) -> None:
    """The spectrograms that any of the variants reads, once for all of their runs."""
    chosen = [text for v in variants for text in v.regress if text.startswith("encoder=")]
    for encoder in sorted({"encoder=spotify2014", *chosen}):
        compose_and_run(scan, [f"corpus='{corpus}'", f"run='{stores_of(corpus)}'", encoder])


def stores_of(corpus: Path) -> Path:
    """Where the spectrograms that all runs of a world share are."""
    return corpus.with_name(f"{corpus.name}-stores")


def _train(
    variant: Variant, trial: int, world: int, shared: dict[str, Any], folder: Path
) -> Trained:
    """One training on a core of its own, unless it is there."""
    torch.set_num_threads(1)
    corpus = folder / f"world{world}"
    run = folder / "results" / f"world{world}" / f"{variant.key}-{trial}"
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "spectrograms").exists():
        (run / "spectrograms").symlink_to((stores_of(corpus) / "spectrograms").resolve())
    where = [f"corpus='{corpus}'", f"run='{run}'", "workers=1"]
    afresh, began = not (run / "regress").exists(), time.process_time()
    with hydra.initialize_config_dir(CONF, version_base=None), redirect_stderr(io.StringIO()):
        compose_and_run(factorize, [*where, *shared["factorize"], *variant.factorize])
        overrides = [
            *shared["encoder"], *shared["regress"], *variant.regress, *shared["trials"][trial]
        ]  # fmt: skip
        if variant.pretrain is not None:
            compose_and_run(pretrain, [*where, *shared["encoder"], *variant.pretrain])
            overrides.append(f"encoder_file='{run / 'pretrain' / 'encoder.pt'}'")
        settings = compose_and_run(regress, [*where, *overrides])
    if afresh:
        write_json(run / "seconds.json", {"cpu": time.process_time() - began})
    metrics = read_json(run / "regress" / "metrics.json")
    rate = float("nan")  # of a training that was interrupted
    if (run / "seconds.json").exists():
        clips = settings.epochs * metrics["train_tracks"]
        rate = clips / read_json(run / "seconds.json")["cpu"]
    return Trained(run, metrics["valid_listening_auc"], metrics["parameters"], rate)


def compose_and_run(task: Any, overrides: Sequence[str]) -> Any:
    """A task by its configuration with overrides, checked as on the command line; its settings."""
    name = task.__name__.rsplit(".", 1)[1]
    settings = hydra.compose(name, [*overrides])
    groups = [text for text in overrides if (Path(CONF) / text.partition("=")[0]).is_dir()]
    check_settings(settings, hydra.compose(name, groups))
    task.run(settings)
    return settings


# --- evaluation ---------------------------------------------------------------------------------


def _words(
    corpus_folder: Path, runs: Mapping[str, Path], trials: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Validation AUC of each MFCC row on one world, by its number of words."""
    corpus, factors, store = _learned_from(corpus_folder, next(iter(runs.values())))
    valid = held_out(corpus, factors, store)
    by_row: dict[str, dict[int, float]] = defaultdict(dict)
    for words in trials:
        for name, vectors in _word_vectors(corpus, factors, store, words).items():
            in_store = vectors[corpus.track_rows(store.track_ids[valid.rows])]
            by_row[name][words] = valid.measure(in_store)["listening_auc"]
    return by_row


def _word_vectors(
    corpus: Corpus, factors: Factors, store: Store, words: int
) -> dict[str, np.ndarray]:
    train, targets = training_targets(corpus, factors)
    hidden = hydra.compose("evaluate").hidden
    return word_vectors(
        corpus, store, train, targets, words=words, hidden=hidden, rng_seed=0, report=say
    )


def _learned_from(corpus_folder: Path, run: Path) -> tuple[Corpus, Factors, Store]:
    corpus = read_corpus(corpus_folder, needs=["plays", "thumbs"])
    store = SpectrogramStore(next(run.glob("spectrograms/*2048*")))
    return corpus, load_factors(run / "factors.npz"), store


def _evaluate(
    world: int,
    corpus_folder: Path,
    runs: Mapping[str, Path],
    words: Mapping[str, int],
    *,
    bootstraps: int,
) -> Table:
    """Baselines and variants on one world. All are heard by the same listeners, each through the
    factors that its own run has for them; `words` is how many each MFCC row has."""
    (default, first), *others = runs.items()
    corpus, factors, store = _learned_from(corpus_folder, first)
    readable = rows_of(store.track_ids, corpus.track_ids) >= 0
    question = ask(corpus, readable, factors, listeners=2000, rng_seed=0)
    stages = {default: predicted_vectors(first / "regress")}
    few = min(words.values())
    baselines = {"words": few, "hidden": hydra.compose("evaluate").hidden}
    rows = make_rows(corpus, store, factors, question, stages, {}, **baselines, rng_seed=0)
    for name, number in words.items():
        if number != few:
            place = [row.name for row in rows].index(name)
            other = _word_vectors(corpus, factors, store, number)[name]
            rows[place] = replace(rows[place], vectors=other)
    asked = corpus.user_ids[question.users]
    for name, run in others:
        heard_by = with_users(load_factors(run / "factors.npz"), run / "regress" / "users.npz")
        vectors = predicted_vectors(run / "regress")
        users = heard_by.user_factors[rows_of(heard_by.user_ids, asked)]
        rows.append(Row(name, aligned(corpus, vectors), users))
        if (run / "pretrain").exists():
            rows += _feature_rows(corpus, factors, store, run, asked)
    return compare(rows, question, bootstraps=bootstraps, rng_seed=world)


def _feature_rows(
    corpus: Corpus, factors: Factors, store: Store, run: Path, asked: np.ndarray
) -> list[Row]:
    """How far pretraining goes by itself: a ridge regression on what its last convolution says,
    pooled over time, and on what the same network says untrained."""
    pretrained = load_encoder(run / "pretrain" / "encoder.pt")
    train, targets = training_targets(corpus, factors)
    users = factors.user_factors[rows_of(factors.user_ids, asked)]
    encoders = {"pretrain's": pretrained, "an untrained network's": untrained(pretrained)}
    return [
        Row(
            f"ridge on {whose} features",
            ridge_vectors(
                corpus, store, layer_activations(encoder, store, "pooled"), train, targets
            ),
            users,
        )
        for whose, encoder in encoders.items()
    ]


def _few_plays(corpus_folder: Path, run: Path) -> FewPlays:
    corpus, factors, store = _learned_from(corpus_folder, run)
    readable = rows_of(store.track_ids, corpus.track_ids) >= 0
    question = ask(corpus, readable, factors, listeners=2000, rng_seed=0)
    content = aligned(corpus, predicted_vectors(run / "regress"))
    model = read_json(run / "factors.json")["options"]
    few = few_plays(corpus, factors, content, question.users, split="test", model=model, rng_seed=0)
    assert few is not None, "a demo world's held-out tracks have listeners enough"
    return few


def _markdown(
    table: Table, chosen: Mapping[str, Sequence[Trained]], shared: dict[str, Any], article: str
) -> list[str]:
    default, *others = chosen
    others.remove(article)
    heads = [f"{column}: {metric}" for column in table.columns for metric in METRICS]
    trials = ", ".join(" ".join(trial) for trial in shared["trials"])
    lines = [
        f"{SIMULATED} The mean over {shared['worlds']} worlds, a training each, on test tracks. "
        f"Beside each value is its difference to *{article}* with the paired 95 % interval of "
        f"{shared['bootstraps']} bootstrap draws over listeners and artists. Networks by "
        f"`{' '.join(shared['encoder'])}`. Each row had the same {len(shared['trials'])} trials "
        f"({trials}), the better one chosen on validation tracks; a ridge's strength is chosen "
        "among 25 by leave-one-out, the number of words of MFCC between "
        f"{' and '.join(map(str, shared['words']))} on validation, whose listening AUC "
        "is the last column but two. Clips are training clips in a second of one core, the fitting "
        "of the factors and pretraining included.",
        "",
        f"| row | {' | '.join(heads)} | validation: AUC | parameters | clips/s a core |",
        f"|---|{'---|' * (len(heads) + 3)}",
    ]
    known = [row for row in table.rows if row.startswith(("ceiling", "oracle"))]
    features = [row for row in table.rows if row.startswith("ridge on")]
    for row in (*BASELINES, *features, article, *others, default, f"{default} + prior", *known):
        cells = []
        for column in table.columns:
            for metric in METRICS:
                cell = f"{table.at(row, column, metric):.3f}"
                if row != article:
                    difference = table.difference(row, article, column, metric)
                    cell += " ({:+.3f} [{:+.3f}, {:+.3f}])".format(*difference)
                cells.append(cell)
        costs = ["", "", ""]
        if row in chosen:
            rate = np.nanmedian([trained.clips_a_cpu_second for trained in chosen[row]])
            valid = np.mean([trained.valid_auc for trained in chosen[row]])
            costs = [f"{valid:.3f}", f"{chosen[row][0].parameters:,}", f"{rate:.0f}"]
        lines.append(f"| {row} | {' | '.join([*cells, *costs])} |")
    return lines


def _few_plays_markdown(worlds: Sequence[FewPlays], row: str) -> list[str]:
    """The tracks of all worlds together."""
    few = replace(worlds[0], auc=np.concatenate([world.auc for world in worlds], axis=2))
    trusted = ", ".join(f"{world.k:g}" for world in worlds)
    lines = [
        "",
        f"Tracks with few plays: {few.auc.shape[2]} test tracks, of whose listeners so many are "
        "revealed; AUC over the others. CF is folded in from the revealed plays, content is what "
        f"*{row}* predicts, and the blend weighs them by `n / (n + k)`, k = {trusted} by "
        "validation in each world. Below, differences with 95 % intervals over tracks.",
        "",
        f"| | {' | '.join(f'{revealed} plays' for revealed in REVEALED)} |",
        f"|---|{'---|' * len(REVEALED)}",
    ]
    for name in FEW_ROWS:
        cells = (f"{few.at(name, revealed):.3f}" for revealed in REVEALED)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, other in FEW_PAIRS:
        cells = (
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(
                *few.difference(name, other, revealed, bootstraps=1000, rng_seed=0)
            )
            for revealed in REVEALED
        )
        lines.append(f"| {name} - {other} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
