"""`python -m tasks.evaluate`: one table of rows x splits x metrics, with confidence intervals."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from cbmr.files import write_json
from tasks.command import command
from tasks.runs import MANIFESTS, read_corpus, require

STAGES = {"regress": "stage 1", "rank": "stage 2"}
SHOWN = ("mAP@500", "AUC", "Recall@10", "NDCG@10", "thumbs AUC", "thumbs AUC within listener")


def run(cfg: DictConfig) -> None:
    """Ask every row the same questions and leave `evaluation/`."""
    corpus = read_corpus(cfg, needs=["plays"], uses=["thumbs"])
    require("regress", cfg)

    from cbmr.encoder import load_encoder
    from cbmr.evaluation import ask, compare, make_rows
    from cbmr.factors import load_factors
    from cbmr.vectors import load_vectors
    from tasks.stages import open_store

    folder = Path(cfg.run)
    stages = {
        name: load_vectors(folder / stage / "embeddings.npz")
        for stage, name in STAGES.items()
        if (folder / MANIFESTS[stage]).exists()
    }
    store = open_store(cfg, load_encoder(folder / "regress" / "encoder.pt").mel_spec)
    factors = load_factors(folder / "factors.npz")
    readable = np.isin(corpus.track_ids, store.track_ids)
    question = ask(corpus, readable, factors, listeners=cfg.listeners, rng_seed=cfg.rng_seed)
    rows = make_rows(corpus, store, factors, question, stages, rng_seed=cfg.rng_seed)
    table = compare(rows, question, bootstraps=cfg.bootstraps, rng_seed=cfg.rng_seed)
    show(table, question)
    write_json(folder / "evaluation" / "metrics.json", table.numbers())


def show(table, question):
    from rich.console import Console
    from rich.table import Table as Sheet

    console = Console(width=150)
    for column in table.columns:
        sheet = Sheet(title=column)
        sheet.add_column("row")
        for metric in SHOWN:
            sheet.add_column(metric)
        for row in table.rows:
            cells = []
            for metric in SHOWN:
                v = table.value[table._place(row, column, metric)]
                lo, hi = table.interval(row, column, metric)
                cells.append(f"{v:.3f} ±{(hi - lo) / 2:.3f}")
            sheet.add_row(row, *cells)
        console.print(sheet)


if __name__ == "__main__":
    command("evaluate", run)
