"""What a playlist is, and playlists as files; `reading` reads them back.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
