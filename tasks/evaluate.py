"""`python -m tasks.evaluate`: one table of rows x splits x metrics, with confidence intervals."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.files import file_hash, write_json
from tasks.command import command
from tasks.runs import MANIFESTS, read_corpus, require, say, settings_of, write_manifest

STAGES = {"regress": "stage 1", "rank": "stage 2"}
SHOWN = ("mAP@500", "AUC", "Recall@10", "NDCG@10", "thumbs AUC", "thumbs AUC within listener")
THIRDS = ("AUC least played third", "AUC middle third", "AUC most played third")
COMPARED = ("AUC", "mAP@500", "thumbs AUC")
PAIRS = (
    ("stage 1", "ridge"),
    ("stage 2", "stage 1"),
    ("stage 2", "ridge"),
    ("artist mean + stage 2", "artist mean + ridge"),
)
SIMULATED = "A simulated world: its listeners, plays and votes are drawn by a program."


def run(cfg: DictConfig) -> None:
    """Ask every row the same questions and leave `evaluation/`."""
    corpus = read_corpus(cfg, needs=["plays"], uses=["thumbs"])
    require("regress", cfg)

    import numpy as np

    from cbmr.encoder import load_encoder
    from cbmr.evaluation import ask, compare, make_rows
    from cbmr.evaluation.picture import draw
    from cbmr.factors import load_factors
    from cbmr.vectors import load_vectors
    from tasks.stages import open_store

    folder = Path(cfg.run)
    there = [stage for stage in STAGES if (folder / MANIFESTS[stage]).exists()]
    stages = {STAGES[s]: load_vectors(folder / s / "embeddings.npz") for s in there}
    store = open_store(cfg, load_encoder(folder / "regress" / "encoder.pt").mel_spec)
    factors = load_factors(folder / "factors.npz")
    readable = np.isin(corpus.track_ids, store.track_ids)
    question = ask(corpus, readable, factors, listeners=cfg.listeners, rng_seed=cfg.rng_seed)
    if question.split == "valid":
        say("evaluate: no test track has plays, so the columns are validation tracks")
    if question.without_artist:
        say(f"evaluate: {question.without_artist} held-out tracks have no artist, in no column")
    rows = make_rows(corpus, store, factors, question, stages, rng_seed=cfg.rng_seed)
    table = compare(rows, question, bootstraps=cfg.bootstraps, rng_seed=cfg.rng_seed)

    simulated = f"{SIMULATED} " if (corpus.folder / "truth.npz").exists() else ""
    caption = (
        f"{simulated}{question.split} tracks, 95 % intervals over listeners and artists "
        f"({cfg.bootstraps} draws)"
    )
    _print(table, question, caption)
    draw(table, folder / "evaluation" / "table.png", title=caption)
    write_json(folder / "evaluation" / "metrics.json", table.numbers())
    inputs = {f"{stage}/encoder.pt": file_hash(folder / stage / "encoder.pt") for stage in there}
    inputs["factors.npz"] = file_hash(folder / "factors.npz")
    write_manifest(folder, "evaluate", settings_of(cfg), inputs)
    say(f"evaluate: -> {folder / 'evaluation'}")


def _print(table, question, caption: str) -> None:
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
    sheet = Sheet(title="differences, paired", title_justify="left")
    sheet.add_column("new tracks of a")
    pairs = [(row, other) for row, other in PAIRS if row in table.rows]
    for row, other in pairs:
        sheet.add_column(f"{row} - {other}", justify="right")
    for column in table.columns:
        for metric in COMPARED:
            cells = [
                "{:+.3f} [{:+.3f}, {:+.3f}]".format(*table.difference(row, other, column, metric))
                for row, other in pairs
            ]
            sheet.add_row(f"{column}: {metric}", *cells)
    console.print(sheet)


def _cell(table, row: str, column: str, metric: str) -> str:
    low, high = table.interval(row, column, metric)
    return f"{table.at(row, column, metric):.3f} ±{(high - low) / 2:.3f}"


if __name__ == "__main__":
    command("evaluate", run)
