"""Listening histories and ratings, as services and players export them, to one table.

Kinds, told by their content:

- ListenBrainz: the export's `.zip` (`listens/YEAR/MONTH.jsonl` and `feedback.jsonl`), any JSON
  lines of it, or the older export, one JSON array. A listen has `listened_at` (seconds since 1970,
  UTC), `track_metadata` with `artist_name`, `track_name`, `release_name`, and a recording's
  MusicBrainz id in `additional_info` or `mbid_mapping`. Feedback has `score` (1 love, -1 hate), and
  counts as five stars or one.
- Last.fm: CSV of the common exporters, with a header (`artist`, `album`, `track`, and `uts`,
  `utc_time` or `Date`) or without one, as artist, album, track, date. Times are UTC.
- CSV of one's own, with a header: `path`, or `artist` and `title`, or `mbid`; and `count`, `rating`
  (stars from 1 to 5), `time` or `played_ratio` (1 is all of it).

Fields are parted by commas, semicolons or tabs; text is UTF-8.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from cbmr.errors import InputError

SUFFIXES = (".zip", ".jsonl", ".json", ".csv", ".tsv", ".txt")
NOT_LISTENS = ("user.json", "pinned_recording.jsonl")
"""Of an export of ListenBrainz: who, and what was shown on a page."""
HEADERS = {
    "path": ("path", "file", "location"),
    "mbid": ("mbid", "recording_mbid", "track_mbid"),
    "artist": ("artist", "artist_name"),
    "title": ("title", "track", "track_name", "name", "song"),
    "album": ("album", "release_name", "release"),
    "count": ("count", "plays", "play_count", "playcount"),
    "stars": ("rating", "stars"),
    "time": ("time", "uts", "timestamp", "listened_at", "played_at", "utc_time", "date"),
    "played_ratio": ("played_ratio",),
}
"""Columns by the names they go by, the first that is there counts."""
WITHOUT_HEADER = ["artist", "album", "track", "date"]
DATES = ("%d %b %Y %H:%M", "%d %b %Y, %H:%M")
MILLISECONDS_ABOVE = 10**11
BEFORE_ANYTHING = datetime(1971, 1, 1)
"""Players without a clock send the first of January 1970."""
LOVED, HATED = 5.0, 1.0
NO_VALUE = (ValueError, OverflowError, OSError)
"""What numbers and dates raise that are none."""
SCHEMA: dict[str, Any] = {
    "path": pl.String, "mbid": pl.String, "artist": pl.String, "title": pl.String,
    "album": pl.String, "count": pl.Int64, "stars": pl.Float64, "time": pl.Datetime("us"),
    "played_ratio": pl.Float64,
}  # fmt: skip

Row = tuple[str, str, str, str, str, int | None, float | None, datetime | None, float | None]
Value = TypeVar("Value")


def read_exports(path: Path) -> pl.DataFrame:
    """All rows of an export, or of every export in a folder, with the columns of `SCHEMA`.

    Text is empty and a number or time null where unknown. A listen has a `time`; a row with a
    `count` alone is a sum. InputError for a file that is none of the kinds, with the line.
    """
    if not path.exists():
        raise InputError(f"listens={path} does not exist: expected an export, or a folder of them")
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES]
        files = [file for file in files if file.name not in NOT_LISTENS]
        if not files:
            raise InputError(f"listens={path} holds no export: expected {', '.join(SUFFIXES)}")
    rows = [row for file in files for row in _rows(file)]
    if not rows:
        raise InputError(f"listens={path} holds no listen: the export is empty")
    return pl.DataFrame(rows, SCHEMA, orient="row")


def _rows(file: Path) -> Iterator[Row]:
    if file.suffix.lower() == ".zip":
        yield from _zip_rows(file)
        return
    text = _decoded(file.read_bytes(), str(file))
    if file.suffix.lower() in (".json", ".jsonl"):
        yield from _json_rows(text, str(file))
    else:
        yield from _csv_rows(text, str(file))


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 (byte {error.start}): save it as text in UTF-8"
        ) from None


# --- ListenBrainz -------------------------------------------------------------------------------


def _zip_rows(file: Path) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".jsonl"))
            names = [name for name in names if name not in NOT_LISTENS]
            if not names:
                raise InputError(
                    f"{file} has no listens/*.jsonl: expected an export of ListenBrainz as it came"
                )
            for name in names:
                whole = f"{file}/{name}"
                yield from _json_rows(_decoded(archive.read(name), whole), whole)
    except zipfile.BadZipFile as error:
        raise InputError(f"{file} is no zip file ({error}): was its download cut off?") from None


def _json_rows(text: str, name: str) -> Iterator[Row]:
    records: Iterable[tuple[int, Any]]
    if text.lstrip().startswith("["):
        what, records = "entry", enumerate(_parsed(text, name, 1), start=1)
    else:
        lines = enumerate(text.split("\n"), start=1)
        what = "line"
        records = ((line, _parsed(item, name, line)) for line, item in lines if item.strip())
    for number, record in records:
        try:
            yield _feedback(record) if "score" in record else _listen(record)
        except (AttributeError, KeyError, TypeError, *NO_VALUE):
            raise InputError(
                f"{name}, {what} {number}: expected a listen of ListenBrainz (track_metadata with "
                "artist_name and track_name) or its feedback (score)"
            ) from None


def _parsed(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}, line {line} is no JSON ({error}): was it cut off?") from None


def _listen(record: dict[str, Any]) -> Row:
    meta = record["track_metadata"]
    time = _time(str(record.get("listened_at") or ""))
    count = 1 if time is None else None
    return ("", _recording(meta), meta["artist_name"], meta["track_name"],
            meta.get("release_name") or "", count, None, time, None)  # fmt: skip


def _feedback(record: dict[str, Any]) -> Row:
    meta = record.get("track_metadata") or {}
    mbid = record.get("recording_mbid") or _recording(meta)
    stars = {1: LOVED, -1: HATED}.get(record["score"])
    return ("", mbid, meta.get("artist_name") or "", meta.get("track_name") or "",
            meta.get("release_name") or "", None, stars, None, None)  # fmt: skip


def _recording(meta: dict[str, Any]) -> str:
    for key in ("additional_info", "mbid_mapping"):
        mbid = (meta.get(key) or {}).get("recording_mbid")
        if mbid:
            return str(mbid)
    return ""


# --- CSV ----------------------------------------------------------------------------------------


def _csv_rows(text: str, name: str) -> Iterator[Row]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = next(lines, [])
    columns = _columns(header)
    if not {"title", "path", "mbid"} & set(columns):
        columns = _columns(WITHOUT_HEADER)
        if len(header) != len(WITHOUT_HEADER) or _time_or_none(header[-1]) is None:
            raise InputError(
                f"{name} begins with {first.strip()[:60]!r}: expected a header with path, mbid, or "
                "artist and title, or lines of artist, album, track, date as Last.fm exports have"
            )
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for fields in lines:
        if not any(fields):
            continue
        here = f"{name}, line {lines.line_num}"

        def field(column: str, fields: list[str] = fields) -> str:
            place = columns.get(column, len(fields))
            return fields[place].strip() if place < len(fields) else ""

        time = _read(
            field("time"), _time, "a time, as 2024-05-31 20:15 or seconds since 1970", here
        )
        ratio = _read(field("played_ratio"), _ratio, "a share of the track, 1 for all of it; is it "
                      "in per cent?", here)  # fmt: skip
        count = _read(field("count"), _count, "a whole number of plays", here)
        stars = _read(field("stars"), _stars, "stars from 1 to 5, or 0 for none", here)
        if "time" in columns and (time, count, stars, ratio) == (None, None, None, None):
            count = 1  # heard, but by a player without a clock
        yield (field("path"), field("mbid").lower(), field("artist"), field("title"),
               field("album"), count, stars, time, ratio)  # fmt: skip


def _columns(header: list[str]) -> dict[str, int]:
    """Which field is which; some exports have the user's name in a column's."""
    names = [name.partition("#")[0].strip().casefold() for name in header]
    found = {}
    for column, known in HEADERS.items():
        place = next((names.index(name) for name in known if name in names), None)
        if place is not None:
            found[column] = place
    return found


def _read(text: str, parse: Callable[[str], Value], expected: str, here: str) -> Value | None:
    if not text:
        return None
    try:
        return parse(text)
    except NO_VALUE:
        raise InputError(f"{here}: {text!r}, expected {expected}") from None


def _time(text: str) -> datetime | None:
    """UTC without a zone; None where it is empty or before there were players. ValueError for what
    is no time."""
    if not text:
        return None
    if text.isdigit():
        seconds = int(text) / (1000 if int(text) > MILLISECONDS_ABOVE else 1)
        time = datetime.fromtimestamp(seconds, UTC)
    else:
        time = _date(text)
    naive = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    return naive if naive > BEFORE_ANYTHING else None


def _time_or_none(text: str) -> datetime | None:
    try:
        return _time(text.strip())
    except NO_VALUE:
        return None


def _date(text: str) -> datetime:
    for form in DATES:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return datetime.fromisoformat(text)


def _count(text: str) -> int | None:
    count = int(text)
    if count < 0:
        raise ValueError
    return count or None


def _stars(text: str) -> float | None:
    stars = float(text)
    if stars and not 1 <= stars <= 5:
        raise ValueError
    return stars or None


def _ratio(text: str) -> float:
    ratio = float(text)
    if not 0 <= ratio <= 10:
        raise ValueError
    return ratio
