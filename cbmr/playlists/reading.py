"""Playlist files read back: the formats of `formats`, and text with an entry a line."""

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cbmr.errors import InputError
from cbmr.playlists.formats import COLUMNS, ID, SIMILARITY, SUFFIXES, Entry, Playlist


def read_playlist(path: Path) -> Playlist:
    """A playlist file of any format but the table, by its suffix; every other file is text with an
    id, a path or a name a line, each of which stands in its entry as all three.

    Paths are absolute or start at the file's folder. Raises InputError for a file that is not what
    its suffix says.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as .m3u was before .m3u8
    read = {"m3u8": _read_m3u8, "xspf": _read_xspf, "jspf": _read_json, "csv": _read_csv,
            "json": _read_json}.get(SUFFIXES.get(path.suffix.lower(), ""), _read_lines)  # fmt: skip
    try:
        return read(text, path.absolute().parent)
    except (ET.ParseError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({error}): it was cut off, edited "
            "or is something else"
        ) from error


def _read_lines(text: str, folder: Path) -> Playlist:
    lines = [line.strip() for line in text.splitlines()]
    return Playlist("", tuple(typed_entry(line, folder) for line in lines if line))


def typed_entry(word: str, folder: Path = Path()) -> Entry:
    """What a person typed: an id, a path or a name."""
    path = folder / os.path.expanduser(word)  # noqa: PTH111 (a "~nobody" is a title)
    return Entry(word, word, "", "", path, float("nan"), float("nan"))


def _read_m3u8(text: str, folder: Path) -> Playlist:
    title, seconds, name, entries = "", float("nan"), "", []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith("#PLAYLIST:"):
            title = line.removeprefix("#PLAYLIST:")
        elif line.startswith("#EXTINF:"):
            length, _, name = map(str.strip, line.removeprefix("#EXTINF:").partition(","))
            found = re.match(r"[\d.]+", length)  # IPTV lists have attributes after it
            seconds = float(found[0]) if found else float("nan")
        elif line.strip() and not line.startswith("#"):
            artist, dash, rest = name.partition(" - ")
            path = _path(line, folder)
            names = (rest, artist) if dash else (name, "")
            entries.append(Entry(None, *names, "", path, seconds, float("nan")))
            seconds, name = float("nan"), ""
    return Playlist(title, tuple(entries))


def _read_xspf(text: str, folder: Path) -> Playlist:
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # with or without its name space
    tracks = [
        {
            **{field.tag: field.text or "" for field in reversed(track)},
            "meta": [{field.get("rel", ""): field.text or ""} for field in track.iter("meta")],
        }
        for track in root.iter("track")
    ]
    return _playlist_of(root.findtext("title") or "", tracks, folder)


def _read_json(text: str, folder: Path) -> Playlist:
    content = json.loads(text)
    if "playlist" in content:
        content = content["playlist"]
        return _playlist_of(content.get("title") or "", content.get("track", ()), folder)
    if "tracks" not in content:
        raise ValueError("it has neither 'tracks' nor 'playlist'")
    entries = [_entry_of(track, folder) for track in content["tracks"]]
    return Playlist(content.get("title") or "", tuple(entries))


def _playlist_of(title: str, tracks: Iterable[dict[str, Any]], folder: Path) -> Playlist:
    """Of the fields that XSPF and JSPF share; of several locations the first."""
    entries = []
    for track in tracks:
        meta = {rel: value for pair in track.get("meta", ()) for rel, value in pair.items()}
        locations = track.get("location") or ""
        location = locations if isinstance(locations, str) else locations[0]
        if "://" not in location:
            location = unquote(location, errors="surrogateescape")
        fields = {
            "track_id": meta.get(ID),
            "title": track.get("title"),
            "artist": track.get("creator"),
            "album": track.get("album"),
            "path": location,
            "duration_s": float(track.get("duration") or "nan") / 1000,
            "similarity": meta.get(SIMILARITY),
            "why": track.get("annotation"),
        }
        entries.append(_entry_of(fields, folder))
    return Playlist(title, tuple(entries))


def _read_csv(text: str, folder: Path) -> Playlist:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not {"track_id", "path", "title"} & {*(rows.fieldnames or ())}:
        raise ValueError(f"its header has none of track_id, path and title: {rows.fieldnames}")
    return Playlist("", tuple(_entry_of(row, folder) for row in rows))


def _entry_of(fields: dict[str, Any], folder: Path) -> Entry:
    text = {name: str(fields.get(name) or "") for name in (*COLUMNS, "why")}
    return Entry(
        track_id=text["track_id"] or None,
        title=text["title"],
        artist=text["artist"],
        album=text["album"],
        path=_path(text["path"], folder) if text["path"] else None,
        duration_s=float(fields.get("duration_s") or "nan"),
        similarity=float(fields.get("similarity") or "nan"),
        why=text["why"],
    )


def _path(location: str, folder: Path) -> Path | None:
    """The file of a location, None for one that is elsewhere (a stream)."""
    if location.startswith("file://"):
        rest = location.removeprefix("file://").partition("/")[2]
        return Path("/" + unquote(rest, errors="surrogateescape"))
    return None if re.match(r"[a-z]+://", location) else folder / location
