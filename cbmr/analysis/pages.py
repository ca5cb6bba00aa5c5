"""Pages that open without a network: one HTML file each, its style, script and data inside.

Audio stays where the corpus has it; a page finds it by a relative URL, so that a folder which holds
both may move.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from cbmr.analysis.cards import Card, UnitList
from cbmr.analysis.groups import Groups
from cbmr.corpus import Corpus
from cbmr.files import whole_file

HERE = Path(__file__).parent
SHARED = ("shared.css", "shared.js")


def write_map(
    path: Path,
    corpus: Corpus,
    rows: np.ndarray,
    layouts: Mapping[str, np.ndarray],
    groups: Sequence[Groups],
) -> None:
    """Write the page of these rows of the corpus, at the places `[rows, 2]` in -1..1 of each
    layout, up being positive: searched, coloured by `groups`, and heard from their middle."""
    in_page = {
        name: np.round(places * (10_000, -10_000)).astype(int).T.tolist()
        for name, places in layouts.items()
    }
    write_page(
        path,
        HERE / "map.html",
        {
            **track_columns(corpus, rows, path.parent),
            "layouts": [{"name": name, "x": x, "y": y} for name, (x, y) in in_page.items()],
            "groups": [
                {"name": one.name, "values": one.values, "of": one.of.tolist(),
                 "ordered": one.ordered}
                for one in groups
            ],
        },
    )  # fmt: skip


def write_units(path: Path, corpus: Corpus, cards: Sequence[Card]) -> None:
    """Write the page of these units: their pictures, what their lists have in common, and every
    track, to be heard from the moment on where the unit reacts most."""
    listed = [tracks.rows for card in cards for tracks in card.lists]
    rows = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *listed]))
    units = [
        {
            "layer": card.layer,
            "unit": card.unit,
            "filter": _hundredths(card.filter),
            "heard": _hundredths(card.heard),
            "heard_s": None if card.heard is None else round(card.heard_s, 3),
            "lists": [_unit_list(tracks, rows) for tracks in card.lists],
        }
        for card in cards
    ]
    names = track_columns(corpus, rows, path.parent)
    write_page(path, HERE / "units.html", {**names, "units": units})


def _unit_list(tracks: UnitList, rows: np.ndarray) -> dict[str, Any]:
    places = np.searchsorted(rows, tracks.rows).tolist()
    moments = [None if math.isnan(s) else round(s, 2) for s in tracks.moments_s.tolist()]
    values = tracks.values.tolist()
    return {
        "by": tracks.by,
        "common": [vars(common) for common in tracks.common],
        "tracks": [
            {"track": track, "value": value, "at": at}
            for track, value, at in zip(places, values, moments, strict=True)
        ],
    }


def _hundredths(picture: np.ndarray | None) -> list[list[int | None]] | None:
    """Rows of whole numbers from -100 to 100, None where there is a line between two filters."""
    if picture is None:
        return None
    return [
        [None if math.isnan(value) else round(100 * value) for value in row]
        for row in picture.tolist()
    ]


def track_columns(corpus: Corpus, rows: np.ndarray, folder: Path) -> dict[str, Any]:
    """Names, the URL of each track's audio from `folder` on, and its middle in seconds, where its
    length is known."""
    paths = [corpus.audio_path(row) for row in rows.tolist()]
    titles, lengths = corpus.title[rows].tolist(), corpus.duration_s[rows].tolist()
    return {
        "title": [title or path.stem for title, path in zip(titles, paths, strict=True)],
        "artist": corpus.artist[rows].tolist(),
        "url": [_url(path, folder) for path in paths],
        "middle": [None if math.isnan(s) else round(s / 2, 2) for s in lengths],
    }


def _url(path: Path, folder: Path) -> str:
    try:
        relative = os.path.relpath(path.absolute(), folder.absolute())
    except ValueError:  # on another drive
        return path.absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def write_page(path: Path, template: Path, data: Mapping[str, Any]) -> None:
    """Write a page: a template with the shared style and script, and the data, in their places."""
    page = template.read_text(encoding="utf-8")
    for name in SHARED:
        page = page.replace(f"/* {name} */", (HERE / name).read_text(encoding="utf-8"))
    # ASCII alone, and no `<`: whatever a title holds, it cannot end the element it stands in.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    with whole_file(path) as file:
        file.write(page.replace("/* data */", text).encode())
