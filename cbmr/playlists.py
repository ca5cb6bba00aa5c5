"""Seeds to an ordered list of tracks, and the playlist file formats.

A list starts with its seed; after it come the nearest tracks by cosine that keep the rules: no
track twice, and any `artist_spacing` consecutive tracks of different artists (tracks without an
artist never clash). A track that clashes waits for the next place where it does not.
"""

import difflib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmr.corpus import Corpus
from cbmr.errors import InputError
from cbmr.index import Index

FORMATS = ("table", "m3u8", "json")
PATHS = ("absolute", "relative", "url")
SUFFIXES = {".m3u8": "m3u8", ".m3u": "m3u8", ".json": "json", ".txt": "table"}
MOST_NAMED = 10
FIRST_ASKED = 64


@dataclass(frozen=True)
class Entry:
    """A track of a list. `track_id` is None for a seed that is not in the corpus; `similarity` is
    the cosine to the query, 1.0 for the seed; `duration_s` may be NaN."""

    track_id: str | None
    title: str
    artist: str
    path: Path
    duration_s: float
    similarity: float


@dataclass(frozen=True)
class Playlist:
    """Tracks in order, the seed first, and how many near ones each rule kept out."""

    title: str
    entries: tuple[Entry, ...]
    left_out: dict[str, int]


def find_seed(corpus: Corpus, seed: str) -> int | Path:
    """The row of the track that `seed` names, or the path of an audio file outside the corpus.

    A track id is tried first, then a path, then a title whatever its case. Raises InputError when
    nothing matches (with the nearest titles) or several titles do (with the ids to choose from).
    """
    row = int(corpus.track_rows([seed])[0])
    if row >= 0:
        return row
    path = Path(seed).expanduser()
    if path.is_file():
        same_name = np.flatnonzero(np.char.endswith(corpus.path, path.name))
        for row in same_name.tolist():
            if corpus.audio_path(row).resolve() == path.resolve():
                return int(row)
        return path
    by_path = np.flatnonzero(corpus.path == seed)
    if len(by_path):
        return int(by_path[0])
    titles = [title.casefold() for title in corpus.title.tolist()]
    matching = [row for row, title in enumerate(titles) if title and title == seed.casefold()]
    if len(matching) == 1:
        return matching[0]
    if matching:
        named = "; ".join(_named(corpus, row) for row in matching[:MOST_NAMED])
        raise InputError(
            f"seed={seed}: {len(matching)} tracks have this title, choose one by its id: {named}"
        )
    near = difflib.get_close_matches(seed.casefold(), titles, 5, cutoff=0.5)
    rows = [titles.index(title) for title in dict.fromkeys(near)]
    hint = "; ".join(_named(corpus, row) for row in rows) or "none is near"
    raise InputError(
        f"seed={seed}: expected a track id, a title or an audio file of this corpus; nearest "
        f"titles: {hint}"
    )


def make_playlist(
    corpus: Corpus,
    index: Index,
    query: np.ndarray,
    seed: int | Path,
    *,
    n: int,
    artist_spacing: int = 3,
    title: str | None = None,
) -> Playlist:
    """The list of `n` tracks, the seed included, nearest to a unit query `[embedding_size]`.

    Shorter when the rules or the catalogue leave no more.
    """
    entries = [_entry(corpus, seed, 1.0)]
    near = _tracks_by_cosine(corpus, index, query, seed)
    waiting: list[tuple[int, float]] = []
    while len(entries) < n:
        neighbours = entries[max(0, len(entries) - artist_spacing + 1) :]
        recent = {entry.artist for entry in neighbours} - {""}
        for item in waiting:
            if corpus.artist[item[0]] not in recent:
                waiting.remove(item)
                break
        else:
            for item in near:
                if corpus.artist[item[0]] not in recent:
                    break
                waiting.append(item)
            else:
                break  # nothing is left that may stand here
        entries.append(_entry(corpus, *item))
    left_out = {"artist_spacing": len(waiting)} if waiting else {}
    return Playlist(title or f"Like {entries[0].title}", tuple(entries), left_out)


def _tracks_by_cosine(
    corpus: Corpus, index: Index, query: np.ndarray, seed: int | Path
) -> Iterator[tuple[int, float]]:
    """Rows of the corpus and their cosines, nearest first, each once, the seed left out; more are
    asked of the index as they are used up."""
    place = corpus.track_rows(index.vectors.track_ids)
    given, asked = {-1, seed}, FIRST_ASKED
    while True:
        for found, cosine in zip(*index.nearest(query, asked), strict=True):
            row = int(place[found])
            if row not in given:
                given.add(row)
                yield row, float(cosine)
        if asked >= len(index):
            return
        asked *= 4


def _entry(corpus: Corpus, seed: int | Path, similarity: float) -> Entry:
    if isinstance(seed, Path):
        return Entry(None, seed.stem, "", seed, float("nan"), similarity)
    return Entry(
        track_id=str(corpus.track_ids[seed]),
        title=str(corpus.title[seed]) or corpus.audio_path(seed).stem,
        artist=str(corpus.artist[seed]),
        path=corpus.audio_path(seed),
        duration_s=float(corpus.duration_s[seed]),
        similarity=similarity,
    )


def _named(corpus: Corpus, row: int) -> str:
    artist = f" by {corpus.artist[row]}" if corpus.artist[row] else ""
    return f"{corpus.title[row]}{artist} ({corpus.track_ids[row]})"


# --- formats ------------------------------------------------------------------------------------


def choose_format(chosen: str | None, output: Path | None) -> str:
    """The format asked for, else the one of the output's suffix, else a table.

    Raises InputError for a format or a suffix that is none of ours.
    """
    if chosen is not None:
        if chosen not in FORMATS:
            raise InputError(f"format={chosen}: expected one of {', '.join(FORMATS)}")
        return chosen
    if output is None:
        return "table"
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"output={output}: its suffix names no format, expected one of {', '.join(SUFFIXES)}, "
            f"or format={', '.join(FORMATS)}"
        )
    return SUFFIXES[output.suffix.lower()]


def format_playlist(playlist: Playlist, form: str, *, paths: str, base: Path) -> str:
    """The text of a playlist file. `paths` says how tracks are found from `base`, its folder."""
    if paths not in PATHS:
        raise InputError(f"paths={paths}: expected one of {', '.join(PATHS)}")
    if form == "json":
        return _json(playlist, paths, base)
    return _m3u8(playlist, paths, base) if form == "m3u8" else _table(playlist)


def _json(playlist: Playlist, paths: str, base: Path) -> str:
    tracks = [
        {
            "track_id": entry.track_id,
            "title": entry.title,
            "artist": entry.artist,
            "path": _location(entry.path, paths, base),
            "similarity": round(entry.similarity, 6),
        }
        for entry in playlist.entries
    ]
    content = {"title": playlist.title, "tracks": tracks}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _m3u8(playlist: Playlist, paths: str, base: Path) -> str:
    lines = ["#EXTM3U", f"#PLAYLIST:{_one_line(playlist.title)}"]
    for entry in playlist.entries:
        seconds = -1 if math.isnan(entry.duration_s) else round(entry.duration_s)
        lines += [
            f"#EXTINF:{seconds},{_one_line(_artist_and_title(entry))}",
            _location(entry.path, paths, base),
        ]
    return "\n".join(lines) + "\n"


def _table(playlist: Playlist) -> str:
    lines = [playlist.title]
    lines += [
        f"{place:3d}  {entry.similarity:6.3f}  {_one_line(_artist_and_title(entry))}"
        for place, entry in enumerate(playlist.entries, start=1)
    ]
    return "\n".join(lines) + "\n"


def _location(path: Path, paths: str, base: Path) -> str:
    absolute = path.absolute()
    if paths == "relative":
        return os.path.relpath(absolute, base.absolute())
    return absolute.as_uri() if paths == "url" else str(absolute)


def _artist_and_title(entry: Entry) -> str:
    return f"{entry.artist} - {entry.title}" if entry.artist else entry.title


def _one_line(text: str) -> str:
    return " ".join(text.split())
