"""Playlists as files, written and read.

M3U8 (`#EXTM3U`, `#PLAYLIST`, `#EXTINF`), XSPF 1 and JSPF (xspf.org), CSV with a header, and JSON.
What a format has no place for is lost: M3U8 keeps names on one line and whole seconds, and knows
neither id, similarity nor why; of these XSPF and JSPF carry the first two as `meta`, the last as
`annotation`. CSV has no title of the list, JSON neither album nor length. A path that is no text,
or has a line break, is given as a URL, whatever was asked for.
"""

import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cbmr.errors import InputError

FORMATS = ("table", "m3u8", "xspf", "jspf", "csv", "json")
PATHS = ("absolute", "relative", "url")
SUFFIXES = {
    ".m3u8": "m3u8", ".m3u": "m3u8", ".xspf": "xspf", ".jspf": "jspf", ".csv": "csv",
    ".json": "json", ".txt": "table",
}  # fmt: skip
XSPF = "http://xspf.org/ns/0/"
ID, SIMILARITY = "urn:cbmr:track_id", "urn:cbmr:similarity"
"""What XSPF and JSPF call the two that they have no element for."""
COLUMNS = ("track_id", "title", "artist", "album", "path", "duration_s", "similarity")
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
NO_LINE = re.compile("[\r\n\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """A track of a list.

    `track_id` is None for one that is not in the corpus, `path` where a file names none;
    `duration_s` is NaN where unknown; `similarity` is the cosine to the query, 1.0 for a seed, NaN
    where a file does not say. `why` says what the track is there for, where a list tells.
    """

    track_id: str | None
    title: str
    artist: str
    album: str
    path: Path | None
    duration_s: float
    similarity: float
    why: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A track that was near enough for a place: its row, the cosine, and the rule it broke."""

    row: int
    similarity: float
    rule: str


@dataclass(frozen=True)
class Playlist:
    """Tracks in order, and the near ones that rules kept out; `exhausted` when it is shorter than
    was asked for because no more tracks fit. A file's title may be empty."""

    title: str
    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...] = ()
    exhausted: bool = False


def shown_name(artist: str, title: str) -> str:
    """ "Artist - title", or the title of a track without artist."""
    return f"{artist} - {title}" if artist else title


# --- writing ------------------------------------------------------------------------------------


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
    """The text of a playlist file. `paths` says how tracks are found from `base`, its folder; XSPF
    and JSPF know URLs only, absolute or relative."""
    if paths not in PATHS:
        raise InputError(f"paths={paths}: expected one of {', '.join(PATHS)}")
    write = {
        "m3u8": _m3u8, "xspf": _xspf, "jspf": _jspf, "csv": _csv, "json": _json, "table": _table,
    }[form]  # fmt: skip
    return write(playlist, paths, base)


def _table(playlist: Playlist, paths: str, base: Path) -> str:
    lines = [playlist.title]
    for place, entry in enumerate(playlist.entries, start=1):
        why = f"  ({_one_line(entry.why)})" if entry.why else ""
        name = _one_line(shown_name(entry.artist, entry.title))
        lines.append(f"{place:3d}  {entry.similarity:6.3f}  {name}{why}")
    return "\n".join(lines) + "\n"


def _m3u8(playlist: Playlist, paths: str, base: Path) -> str:
    lines = ["#EXTM3U", f"#PLAYLIST:{_one_line(playlist.title)}"]
    for entry in playlist.entries:
        seconds = -1 if math.isnan(entry.duration_s) else round(entry.duration_s)
        location = _location(entry, paths, base)
        lines += [
            f"#EXTINF:{seconds},{_one_line(shown_name(entry.artist, entry.title))}",
            f"./{location}" if location.startswith("#") else location,
        ]
    return "\n".join(lines) + "\n"


def _xspf(playlist: Playlist, paths: str, base: Path) -> str:
    root = ET.Element("playlist", version="1", xmlns=XSPF)
    ET.SubElement(root, "title").text = playlist.title
    tracks = ET.SubElement(root, "trackList")
    for entry in playlist.entries:
        track = ET.SubElement(tracks, "track")
        for name, value in _xspf_fields(entry, paths, base).items():
            ET.SubElement(track, name).text = str(value)
        for rel, value in _meta(entry).items():
            ET.SubElement(track, "meta", rel=rel).text = value
    for element in root.iter():
        element.text = NO_XML.sub("\N{REPLACEMENT CHARACTER}", element.text or "")
    ET.indent(root, " ")
    text = ET.tostring(root, encoding="unicode").replace("\r", "&#13;")  # else read as \n
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _jspf(playlist: Playlist, paths: str, base: Path) -> str:
    tracks: list[dict[str, Any]] = []
    for entry in playlist.entries:
        fields = _xspf_fields(entry, paths, base)
        meta = [{rel: value} for rel, value in _meta(entry).items()]
        tracks.append({**fields, "location": [fields["location"]], "meta": meta})
    return _dumped({"playlist": {"title": playlist.title, "track": tracks}})


def _xspf_fields(entry: Entry, paths: str, base: Path) -> dict[str, str | int]:
    if paths == "relative":
        location = quote(os.fsencode(_location(entry, paths, base)))
    else:
        location = _location(entry, "url", base)
    fields: dict[str, str | int] = {"location": location, "title": entry.title}
    if entry.artist:
        fields["creator"] = entry.artist
    if entry.album:
        fields["album"] = entry.album
    if not math.isnan(entry.duration_s):
        fields["duration"] = round(entry.duration_s * 1000)
    if entry.why:
        fields["annotation"] = entry.why
    return fields


def _meta(entry: Entry) -> dict[str, str]:
    meta = {} if entry.track_id is None else {ID: entry.track_id}
    return {**meta, SIMILARITY: f"{entry.similarity:.6f}"}


def _csv(playlist: Playlist, paths: str, base: Path) -> str:
    file = io.StringIO()
    writer = csv.writer(file)  # its lines end as RFC 4180 has it
    told = any(entry.why for entry in playlist.entries)
    writer.writerow((*COLUMNS, "why") if told else COLUMNS)
    for entry in playlist.entries:
        seconds = "" if math.isnan(entry.duration_s) else f"{entry.duration_s:.3f}"
        fields = (entry.track_id, entry.title, entry.artist, entry.album,
                  _location(entry, paths, base), seconds, f"{entry.similarity:.6f}")  # fmt: skip
        writer.writerow((*fields, entry.why) if told else fields)
    return file.getvalue()


def _json(playlist: Playlist, paths: str, base: Path) -> str:
    tracks = [
        {
            "track_id": entry.track_id,
            "title": entry.title,
            "artist": entry.artist,
            "path": _location(entry, paths, base),
            "similarity": round(entry.similarity, 6),
            **({"why": entry.why} if entry.why else {}),
        }
        for entry in playlist.entries
    ]
    return _dumped({"title": playlist.title, "tracks": tracks})


def _dumped(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _location(entry: Entry, paths: str, base: Path) -> str:
    assert entry.path is not None, "only what is read may lack a path"
    absolute = entry.path.absolute()
    text = str(absolute)
    if paths == "relative":
        text = os.path.relpath(absolute, base.absolute())
    return absolute.as_uri() if paths == "url" or NO_LINE.search(text) else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- reading ------------------------------------------------------------------------------------


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
