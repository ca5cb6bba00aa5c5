"""`python -m tasks.evaluate`: one table of rows x splits x metrics, with confidence intervals."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cbmr.corpus import Corpus
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, write_json
from tasks.command import command
from tasks.manifests import (
    MANIFESTS,
    inputs_now,
    plays_hash,
    read_manifest,
    require_same_space,
    settings_of,
    where,
    write_manifest,
)
from tasks.runs import read_corpus, require
from tasks.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from cbmr.evaluation import Question, Table
    from cbmr.few_plays import FewPlays

STAGES = {"regress": "stage 1", "rank": "stage 2"}
SHOWN = ("mAP@500", "AUC", "Recall@10", "NDCG@10", "thumbs AUC", "thumbs AUC within listener")
THIRDS = ("AUC least played third", "AUC middle third", "AUC most played third")
COMPARED = ("AUC", "mAP@500", "thumbs AUC")
PAIRS = (
    ("stage 1", "ridge"),
    ("stage 2", "stage 1"),
    ("stage 2", "ridge"),
    ("stage 2 + prior", "stage 2"),
    ("stage 2 + prior", "ridge + prior"),
    ("stage 2 + prior", "artist mean + ridge"),
)
SIMULATED = "A simulated world: its listeners, plays and votes are drawn by a program."


@dataclass(frozen=True)
class Material:
    """What the table is made of, and its hashes."""

    corpus: Corpus
    stages: list[str]
    inputs: dict[str, str]


def material(cfg: DictConfig) -> Material:
    """The plays and votes that are asked about, and the vectors and factors that answer."""
    corpus = read_corpus(cfg, needs=["plays"], uses=["thumbs"])
    require("regress", cfg)

    from tasks.stages import predicted_file

    folder = Path(cfg.run)
    stages = [stage for stage in STAGES if (folder / MANIFESTS[stage]).exists()]
    assert corpus.plays is not None
    inputs = {"plays": plays_hash(corpus, corpus.plays)}
    if corpus.thumbs is not None:
        votes, ids = corpus.thumbs, corpus.track_ids
        named = (corpus.user_ids[votes.user], ids[votes.seed], ids[votes.track], votes.up)
        inputs["thumbs"] = content_hash(*named)
    files = [folder / "factors.npz", folder / "regress" / "users.npz"]
    files += [predicted_file(folder / stage) for stage in stages]
    for path in files:
        if path.exists():
            inputs[path.relative_to(folder).as_posix()] = file_hash(path)
    return Material(corpus, stages, inputs)


def run(cfg: DictConfig) -> None:
    """Ask every row the same questions and leave `evaluation/`."""
    asked = material(cfg)
    corpus, there = asked.corpus, asked.stages

    import numpy as np

    from cbmr.encoder import load_encoder
    from cbmr.evaluation import ask, compare, make_rows
    from cbmr.evaluation.picture import draw
    from cbmr.factors import load_factors
    from cbmr.few_plays import few_plays
    from cbmr.vectors import aligned
    from tasks.stages import open_store, predicted_vectors, with_users

    folder = Path(cfg.run)
    for stage in there:
        _refuse_seen(cfg, stage)
        require_same_space(cfg, stage)
    stages = {STAGES[s]: predicted_vectors(folder / s) for s in there}
    store = open_store(cfg, corpus, load_encoder(folder / "regress" / "encoder.pt").mel_spec)
    for stage in there:
        lacking = int((~np.isin(store.track_ids, stages[STAGES[stage]].track_ids)).sum())
        if lacking:
            raise InputError(
                f"{folder / stage}: {lacking} tracks were scanned since and have no vectors: run "
                f"python -m tasks.embed stage={stage} {where(cfg)}"
            )
    factors = load_factors(folder / "factors.npz")
    readable = np.isin(corpus.track_ids, store.track_ids)
    question = ask(corpus, readable, factors, listeners=cfg.listeners, rng_seed=cfg.rng_seed)
    if question.split == "valid":
        say(
            "evaluate: no test track has plays, so the columns are validation tracks, by which "
            "epochs and the priors' weights were chosen too"
        )
    if question.without_artist:
        say(f"evaluate: {question.without_artist} held-out tracks have no artist, in no column")
    baselines = {"words": cfg.words, "hidden": cfg.hidden, "rng_seed": cfg.rng_seed}
    learned = with_users(factors, folder / "regress" / "users.npz").user_factors
    learned_users = {} if learned is factors.user_factors else dict.fromkeys(stages, learned)
    if learned_users:
        say("evaluate: the stages are heard by the listeners that stage 1 learned, not by CF's")
    rows = make_rows(
        corpus, store, factors, question, stages, learned_users, **baselines, report=say
    )
    drawn = {"bootstraps": cfg.bootstraps, "rng_seed": cfg.rng_seed}
    table = compare(rows, question, **drawn)
    best, few = list(stages)[-1], None
    made = read_manifest(folder, "factorize")
    if made["settings"]["factors"]["name"] == "wmf":
        few = few_plays(
            corpus,
            factors,
            aligned(corpus, stages[best]),
            question.users,
            split=question.split,
            model=made["options"],
            rng_seed=cfg.rng_seed,
        )

    simulated = f"{SIMULATED} " if (corpus.folder / "truth.npz").exists() else ""
    caption = (
        f"{simulated}{question.split} tracks, 95 % intervals over listeners and artists "
        f"({cfg.bootstraps} draws)"
    )
    _print(table, question, caption)
    numbers = table.numbers()
    if few is None:
        say(
            "evaluate: no table of tracks with few plays: it needs factors=wmf, into which plays "
            "can be folded, and held-out tracks with many listeners"
        )
    else:
        _print_few_plays(
            few, f"{best} and WMF, heard by WMF's listeners, {question.split} tracks", drawn
        )
        numbers |= few.numbers(question.split, **drawn)
    draw(table, folder / "evaluation" / "table.png", title=caption)
    write_json(folder / "evaluation" / "metrics.json", numbers)
    write_manifest(folder, "evaluate", settings_of(cfg), asked.inputs)
    say(f"evaluate: -> {folder / 'evaluation'}")


def _refuse_seen(cfg: DictConfig, stage: str) -> None:
    """InputError where a stage has learned from what would be asked."""
    manifest = read_manifest(Path(cfg.run), stage)
    again = f"make it again with python -m tasks.{stage} {where(cfg)}"
    if not manifest["settings"]["holdout"]:
        raise InputError(
            f"{cfg.run}/{stage} was trained on every track (holdout=false), so nothing is left to "
            f"evaluate it on: {again} in another run"
        )
    if inputs_now(cfg, stage)["split"] != manifest["inputs"]["split"]:
        raise InputError(
            f"{cfg.run}/{stage} was trained on another split of the tracks than the corpus has "
            f"now, so held-out tracks may be among those it learned from: {again}"
        )


def _print(table: "Table", question: "Question", caption: str) -> None:
    from rich.console import Console
    from rich.table import Table as Sheet

    console = Console(width=132)
    console.print(caption)
    for column in question.columns:
        listeners = int(column.relevant.any(axis=1).sum())
        head = (
            f"new tracks, {column.name}: {len(column.tracks)} tracks, {listeners} listeners, "
            f"{len(column.votes)} votes"
        )
        for metrics in (SHOWN, THIRDS):
            sheet = Sheet(title=head, title_justify="left")
            sheet.add_column("value ± half the interval")
            for metric in metrics:
                sheet.add_column(metric.replace("within listener", "within"), justify="right")
            for row in table.rows:
                sheet.add_row(row, *(_cell(table, row, column.name, name) for name in metrics))
            console.print(sheet)
    pairs = [pair for pair in PAIRS if {*pair} <= {*table.rows}]
    for name in table.columns:
        sheet = Sheet(title=f"differences, paired: new tracks, {name}", title_justify="left")
        sheet.add_column("")
        for metric in COMPARED:
            sheet.add_column(metric, justify="right")
        for row, other in pairs:
            differences = (table.difference(row, other, name, metric) for metric in COMPARED)
            sheet.add_row(f"{row} - {other}", *map(_difference, differences))
        console.print(sheet)


def _print_few_plays(few: "FewPlays", who: str, drawn: dict[str, int]) -> None:
    from rich.console import Console
    from rich.table import Table as Sheet

    from cbmr.few_plays import PAIRS, REVEALED, ROWS

    head = (
        f"tracks with few plays, {who}: AUC over {few.auc.shape[2]} tracks' other listeners by "
        f"plays revealed; k = {few.k:g}, chosen on {few.chosen_on} validation tracks"
    )
    sheet = Sheet(title=head, title_justify="left")
    sheet.add_column("")
    for revealed in REVEALED:
        sheet.add_column(str(revealed), justify="right")
    for row in ROWS:
        sheet.add_row(row, *(f"{few.at(row, revealed):.3f}" for revealed in REVEALED))
    for row, other in PAIRS:
        differences = (few.difference(row, other, revealed, **drawn) for revealed in REVEALED)
        cells = (_difference(values).replace(" ", "\n", 1) for values in differences)
        sheet.add_row(f"{row} - {other}", *cells)
    Console(width=132).print(sheet)


def _difference(values: "np.ndarray") -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)


def _cell(table: "Table", row: str, column: str, metric: str) -> str:
    low, high = table.interval(row, column, metric)
    return f"{table.at(row, column, metric):.3f} ±{(high - low) / 2:.3f}"


if __name__ == "__main__":
    command("evaluate", run)
