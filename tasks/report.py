"""`python -m tasks.report`: one page of a run, `RUN/report.html`."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cbmr.corpus import Corpus
from cbmr.factors import load_factors
from cbmr.files import read_json
from cbmr.hubs import hubs_of, load_crowding, occurrences
from cbmr.index import load_index
from cbmr.playlists import Catalogue, Playlist, make_playlist
from cbmr.report import HeldOutFit, held_out_fit, sections, typical_tracks, write_report
from cbmr.vectors import aligned, load_vectors
from tasks.command import command
from tasks.evaluate import SIMULATED
from tasks.manifests import MANIFESTS, where
from tasks.runs import first_stage, read_corpus, serving_stage
from tasks.status import stale
from tasks.terminal import say

STAGES = {"pretrain": "without labels", "regress": "stage 1", "rank": "stage 2"}
LIBRARIES = ("cbmr", "torch", "numpy", "implicit", "annoy")
MAKES = {
    "factorize": "CF factors",
    "regress": "stage 1",
    "rank": "stage 2, which learns from thumbs",
    "index": "the index, and with it sample playlists",
    "evaluate": "the evaluation's table",
    "analyze": "the filter picture and the map",
}
"""What each task adds to the page."""


def run(cfg: DictConfig) -> None:
    """Gather what the run holds into one page; what it does not is named there, with the command
    that makes it. Never trains."""
    folder, stage = Path(cfg.run), serving_stage(cfg)
    corpus = read_corpus(cfg, uses=["plays", "thumbs"])
    catalogue = Catalogue(corpus, load_vectors(folder / stage / "embeddings.npz"))
    manifests = {
        task: read_json(folder / name)
        for task, name in MANIFESTS.items()
        if (folder / name).exists()
    }
    encoder_hash = manifests[stage]["outputs"]["encoder.pt"]
    crowding = load_crowding(folder / "index", catalogue.vectors, encoder_hash)
    fit = _fit(folder, stage, corpus, manifests)
    measured, counts = occurrences(catalogue.vectors.vectors, corrected=crowding is not None)
    rows = catalogue.row_of_vector[measured]
    in_lists = np.full(len(corpus.track_ids), -1)
    in_lists[rows[rows >= 0]] = counts[rows >= 0]
    metrics = {
        task: read_json(folder / task / "metrics.json") for task in STAGES if task in manifests
    }
    versions = {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    states = {task: stale(cfg, task) for task in manifests}
    found = [
        sections.trained(corpus, manifests, metrics, states, versions),
        sections.training_curves(folder, STAGES),
        sections.evaluation(folder / "evaluation" / "metrics.json"),
        sections.filter_picture(folder / "analysis"),
        sections.map_page(folder / "analysis"),
        sections.sample_lists(_lists(cfg, catalogue, crowding, encoder_hash), corpus),
        sections.weaknesses(fit, in_lists, str(hubs_of(counts)), cfg.worst),
        sections.search(corpus, fit, in_lists),
        sections.missing(_missing(cfg, manifests)),
    ]
    made = [section for section in found if section]
    simulated = f"{SIMULATED} " if (corpus.folder / "truth.npz").exists() else ""
    path = folder / "report.html"
    write_report(
        path,
        corpus,
        made,
        heading=f"Report of {cfg.run}",
        subtitle=f"{simulated}Lists and hubs are of the vectors of {stage}.",
    )
    say(f"report: {len(corpus.track_ids)} tracks, {len(made)} sections -> {path}")


def _fit(folder: Path, stage: str, corpus: Corpus, manifests: dict[str, Any]) -> HeldOutFit | None:
    """None where sound predicts no factors into which plays can be folded, or nothing was held
    out."""
    made = manifests.get("factorize")
    if stage not in ("regress", "rank") or made is None or corpus.plays is None:
        return None
    folds = made["settings"]["factors"]["name"] == "wmf" and made["settings"]["holdout"]
    if not folds or (folder / "regress" / "users.npz").exists():
        return None
    predicted = folder / stage / "predicted.npz"
    vectors = load_vectors(predicted if predicted.exists() else folder / stage / "embeddings.npz")
    factors = load_factors(folder / "factors.npz")
    return held_out_fit(corpus, factors, aligned(corpus, vectors), model=made["options"])


def _lists(
    cfg: DictConfig, catalogue: Catalogue, crowding: np.ndarray | None, encoder_hash: str
) -> dict[str, Playlist]:
    """Sample playlists by the style that each begins in, or by the artist where none is known."""
    if not (Path(cfg.run) / MANIFESTS["index"]).exists():
        return {}
    folder = Path(cfg.run) / "index"
    index = load_index(folder, catalogue.vectors, encoder_hash=encoder_hash)
    corpus = catalogue.corpus
    all_alike = np.full(len(corpus.track_ids), "all tracks")
    kinds = next(of for of in (corpus.style, corpus.artist, all_alike) if (of != "").any())
    rows = np.flatnonzero(catalogue.vector_of_row >= 0)
    vectors = catalogue.vectors.vectors[catalogue.vector_of_row[rows]]
    seeds = rows[typical_tracks(vectors, kinds[rows], cfg.lists)]
    return {
        str(kinds[row]): make_playlist(
            catalogue, index, [catalogue.track(int(row))], n=cfg.n, crowding=crowding
        )
        for row in seeds
    }


def _missing(cfg: DictConfig, manifests: dict[str, Any]) -> dict[str, str]:
    there = {*manifests}
    if first_stage(cfg) == "pretrain":  # nobody's plays are known: there is one stage
        there |= {"factorize", "regress", "rank", "evaluate"}
    return {
        what: f"python -m tasks.{task} {where(cfg)}"
        for task, what in MAKES.items()
        if task not in there
    }


if __name__ == "__main__":
    command("report", run)
