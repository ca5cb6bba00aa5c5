"""The sections of the page: what the run holds, as the blocks that the page's script draws.

A section is a dictionary with `id`, `title`, `note` and blocks `of` a `kind`; tracks are named by
their row of the corpus. A section of which the run holds nothing is None.
"""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.corpus import SPLITS, Corpus
from cbmr.files import read_json
from cbmr.hubs import DEPTH
from cbmr.playlists import Playlist
from cbmr.report.findings import FEW_PLAYS, HeldOutFit, curves, evaluation_rows

Section = dict[str, Any]
METRICS = ("AUC", "mAP@500", "thumbs AUC", "Recall@10", "NDCG@10")
LISTS = f"lists of {DEPTH}"
NOT_KEPT = " (no better on validation, so what it began with was kept)"
STRIP, CLOSE_UP = "filters.png", "filters_close.png"
PICTURES = {
    STRIP: "All filters of the first layer: time across, frequency downwards, red negative, white "
    "zero, blue positive.",
    CLOSE_UP: "Some of them close up.",
}


def trained(
    corpus: Corpus,
    manifests: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Mapping[str, Any]],
    states: Mapping[str, str],
    versions: Mapping[str, str],
) -> Section:
    """What was trained on what: the corpus's sizes, and of each task what it measured, whether it
    still stands (`states`, empty where it does), its settings and the hashes of what went in."""
    cards = [_card("the corpus", _sizes(corpus)), _card("this page", versions)]
    for task, manifest in manifests.items():
        said = {name: value for name, value in _flat(manifest).items() if _is_said(name, value)}
        groups = {name: manifest.get(name, {}) for name in ("settings", "inputs", "outputs")}
        folded = [_card(name, _flat(group)) for name, group in groups.items() if group]
        cards.append(_card(task, {**metrics.get(task, {}), **said}, states[task], folded))
    note = "What went into each task, and what it measured of itself."
    return _section(
        "trained", "What was trained on what", note, [{"kind": "cards", "cards": cards}]
    )


def training_curves(run: Path, stages: Mapping[str, str]) -> Section | None:
    """The curves of each stage that left any, and whether it was kept."""
    of = []
    for stage, name in stages.items():
        logs, metrics = run / stage / "logs", run / stage / "metrics.json"
        if logs.exists() and metrics.exists():
            is_kept = read_json(metrics).get("epochs") != 0
            block = {
                "kind": "curves",
                "heading": f"{stage}, {name}{'' if is_kept else NOT_KEPT}",
                "curves": [asdict(curve) for curve in curves(logs)],
            }
            of.append(block)
    return (
        _section("curves", "Training curves", "Training and validation by epoch.", of)
        if of
        else None
    )


def evaluation(path: Path) -> Section | None:
    """The table of `evaluation/metrics.json`, a block for each of its columns."""
    if not path.exists():
        return None
    blocks: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in evaluation_rows(read_json(path)):
        of_few = row.column == FEW_PLAYS
        compared = ", compared" if of_few and " - " in row.row else ""
        blocks[row.split, f"{row.column}{compared}"].append({"row": row.row, "cells": row.cells})
    of: list[dict[str, Any]] = [{"kind": "key"}]
    for (split, column), rows in blocks.items():
        there = dict.fromkeys(metric for row in rows for metric in row["cells"])
        shown = there if column.startswith(FEW_PLAYS) else METRICS
        metrics = [metric for metric in shown if metric in there]
        heading = f"{split} tracks, {column}"
        of.append({"kind": "evaluation", "heading": heading, "metrics": metrics, "rows": rows})
    note = "Held-out tracks, with 95 % intervals over listeners and artists."
    return _section("evaluation", "Evaluation", note, of)


def filter_picture(analysis: Path) -> Section | None:
    """The first layer's filters, as `tasks.analyze` drew them."""
    of = [
        {"kind": "picture", "text": text, "src": _held(analysis / name), "isStrip": name == STRIP}
        for name, text in PICTURES.items()
        if (analysis / name).exists()
    ]
    return _section("filters", "What the first layer listens for", "", of) if of else None


def map_page(analysis: Path) -> Section | None:
    """The map that `tasks.analyze` left, a page within the page."""
    path = analysis / "map.html"
    if not path.exists():
        return None
    # Its own URLs begin in its own folder.
    held = path.read_text(encoding="utf-8").replace("<head>", '<head><base href="analysis/">', 1)
    block = {"kind": "frame", "text": "Map of the tracks", "page": held}
    return _section("map", "The map", "Tracks that are near each other sound alike to it.", [block])


def sample_lists(playlists: Mapping[str, Playlist], corpus: Corpus) -> Section | None:
    """Playlists by what each is a sample of."""
    of = [
        {
            "heading": f"{name}: {playlist.title}",
            "columns": ["cosine"],
            "rows": [
                [int(row), f"{entry.similarity:.3f}"]
                for row, entry in zip(
                    corpus.track_rows([str(entry.track_id) for entry in playlist.entries]),
                    playlist.entries,
                    strict=True,
                )
            ],
        }
        for name, playlist in playlists.items()
    ]
    note = "Each begins with the most typical track of its kind."
    lists = [{"kind": "lists", "lists": of}]
    return _section("lists", "Sample playlists", note, lists) if of else None


def weaknesses(fit: HeldOutFit | None, occurrences: np.ndarray, hubs: str, n: int) -> Section:
    """The `n` held-out tracks predicted worst, and the `n` that stand in the most lists, by their
    `occurrences` `[tracks]`, -1 where these are unknown; `hubs` says how uneven they are."""
    lists = []
    if fit is not None and len(fit.rows):
        worst = {
            "heading": f"Predicted worst, of {len(fit.rows)} held-out tracks "
            f"(median cosine {np.median(fit.cosine):.2f})",
            "columns": ["cosine", "listeners"],
            "rows": _rows(n, fit.rows, fit.cosine, fit.listeners),
        }
        lists.append(worst)
    most = np.argsort(-occurrences, kind="stable")[: (occurrences >= 0).sum()]
    frequent = {
        "heading": f"Most frequent hubs ({hubs})",
        "columns": [LISTS],
        "rows": _rows(n, most, occurrences[most]),
    }
    lists.append(frequent)
    note = (
        "A prediction is measured by its cosine to the factors that a held-out track's own plays "
        "give. A hub is among the nearest of many tracks, wanted or not."
    )
    return _section("weaknesses", "Weaknesses", note, [{"kind": "lists", "lists": lists}])


def search(corpus: Corpus, fit: HeldOutFit | None, occurrences: np.ndarray) -> Section:
    """Every track by its names, with what the page knows of it."""
    tracks = len(corpus.track_ids)
    columns: dict[str, list[Any]] = {}
    if corpus.split is not None:
        columns["split"] = corpus.split.tolist()
    if corpus.plays is not None:
        columns["listeners"] = np.bincount(corpus.plays.track, minlength=tracks).tolist()
    if fit is not None:
        cosine: list[str | None] = [None] * tracks
        for row, value in zip(fit.rows.tolist(), fit.cosine.tolist(), strict=True):
            cosine[row] = f"{value:.3f}"
        columns["cosine"] = cosine
    columns[LISTS] = [count if count >= 0 else None for count in occurrences.tolist()]
    block = {
        "kind": "search",
        "columns": [{"name": name, "values": values} for name, values in columns.items()],
    }
    return _section("search", "Find a track", "", [block])


def missing(commands: Mapping[str, str]) -> Section | None:
    """What the run does not hold, and the command that makes it."""
    block = {"kind": "missing", "rows": list(commands.items())}
    return _section("missing", "Not there yet", "", [block]) if commands else None


def _section(name: str, title: str, note: str, of: Sequence[Mapping[str, Any]]) -> Section:
    return {"id": name, "title": title, "note": note, "of": [*of]}


def _card(
    heading: str, rows: Mapping[str, Any], stale: str = "", folded: Sequence[Section] = ()
) -> Section:
    facts = [[*row] for row in rows.items()]
    return {"heading": heading, "stale": stale, "rows": facts, "folded": [*folded]}


def _sizes(corpus: Corpus) -> dict[str, Any]:
    sizes: dict[str, Any] = {"folder": str(corpus.folder), "tracks": len(corpus.track_ids)}
    if corpus.split is not None:
        sizes |= {f"{name} tracks": len(corpus.in_split(name)) for name in SPLITS}
    sizes["artists"] = len(np.unique(corpus.artist[corpus.artist != ""]))
    if corpus.plays is not None:
        sizes |= {"listeners": len(np.unique(corpus.plays.user)), "plays": len(corpus.plays.user)}
    if corpus.thumbs is not None:
        sizes["votes"] = len(corpus.thumbs.user)
    return sizes


def _flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings by names with dots, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _is_said(name: str, value: Any) -> bool:
    """Numbers that are no settings, such as an index's recall, and the version that made it."""
    is_number = type(value) in (int, float) and not name.startswith(("settings.", "options."))
    return name == "cbmr" or (is_number and name != "format_version")


def _rows(n: int, rows: np.ndarray, *values: np.ndarray) -> list[list[Any]]:
    """The first `n` rows of a list, numbers that are not whole to three places."""
    whole = [column.dtype.kind in "iu" for column in values]
    columns = [
        column[:n].tolist() if is_whole else [f"{value:.3f}" for value in column[:n]]
        for column, is_whole in zip(values, whole, strict=True)
    ]
    return [[*row] for row in zip(rows[:n].tolist(), *columns, strict=True)]


def _held(picture: Path) -> str:
    """A PNG as a URL that holds it."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
