"""Every file of some folders, opened as what it is, and looked through for a track or a listener.

Tables are searched by their cells, arrays by their members, JSON by its strings and keys, lists by
their entries, all for the whole name; any other file as text, for the name as a word. An id that is
a number or has letters alone is looked for only where ids stand: in running text every number and
every "me" would be one. Not searched: names of songs and artists, which belong to many; and what
holds numbers alone, as weights and log-mels do, and sound and pictures. What cannot be opened is
told, never passed over.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import numpy as np
import polars as pl

from cbmr.errors import InputError
from cbmr.playlists import Entry, read_playlist
from cbmr.sources.folder.files import SUFFIXES as SOUND

NUMBERS_ALONE = {".ann", ".onnx", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
LISTS = {".m3u", ".m3u8", ".txt", ".xspf"}
NAMES_OF_MUSIC = {"title", "artist", "creator", "album", "style"}
IDS = {"track_id", "seed_id", "user_id", "a", "b", "odd"}
OF_OTHERS = {
    "track": {"user_id", "user_ids", "listener"},
    "user": {
        "track_id", "track_ids", "seed_id", "seed", "a", "b", "odd", "tracks", "skipped", "files",
        "urn:cbmr:track_id",
    },
}  # fmt: skip
"""Columns, arrays and keys in which the same name would be another thing: tracks and listeners may
both be numbered."""
TENSOR = re.compile(r".*/data/\d+")
"""A member of a file of `torch.save` that holds a tensor's numbers."""


@dataclass(frozen=True)
class Wanted:
    """What is looked for, a track or a user by its `kind`: `ids`, absolute `paths` of an audio
    file, `phrases` that name it as a title does, and `words`, all of them, in running text."""

    kind: str
    ids: frozenset[str]
    paths: frozenset[str]
    phrases: frozenset[str]
    words: re.Pattern[bytes] | None


@dataclass(frozen=True)
class Looked:
    """Files that were `searched`, that hold `numbers` alone (or sound, or pictures), that could not
    be opened, by the reason, and in which something was `found`."""

    searched: int
    numbers: int
    closed: dict[Path, str]
    found: tuple[Path, ...]


def wanted_of(
    kind: str,
    ids: Collection[str],
    *,
    paths: Collection[Path] = (),
    phrases: Collection[str] = (),
) -> Wanted:
    """What to look for: a track's or a user's `ids`, the audio file at `paths`, and `phrases` that
    name it in text."""
    files = {form for path in paths for form in (absolute(path), str(path.resolve()))}
    words = {name for name in ids if not is_plain(name)} | files | {*phrases}
    spellings = {spelt for word in words for spelt in _spellings(word)}
    longest_first = sorted(map(os.fsencode, spellings), key=lambda word: -len(word))
    either = b"|".join(map(re.escape, longest_first))
    pattern = re.compile(rb"(?<![\w])(?:" + either + rb")(?![\w])") if either else None
    return Wanted(kind, frozenset(ids), frozenset(files), frozenset(phrases), pattern)


def look_through(folders: Collection[Path], wanted: Wanted) -> Looked:
    """Look through every file below `folders`, each once, links followed."""
    searched = numbers = 0
    closed: dict[Path, str] = {}
    found: list[Path] = []
    for path in _files(folders, closed):
        try:
            holds = _holds(path, wanted)
        except (OSError, ValueError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
            closed[path] = " ".join(str(error).split()) or type(error).__name__
            continue
        searched += holds is not None
        numbers += holds is None
        if holds:
            found.append(path)
    return Looked(searched, numbers, closed, tuple(found))


def names_track(entry: Entry, wanted: Wanted) -> bool:
    """Whether an entry of a list is the track that is looked for."""
    if wanted.kind != "track":
        return False
    path = "" if entry.path is None else absolute(entry.path)
    return entry.track_id in wanted.ids or path in wanted.paths


def absolute(path: Path) -> str:
    """A path as files name one: from the root, without "..", links as they are."""
    return os.path.normpath(path.absolute())


def is_plain(name: str) -> bool:
    """Whether a name is a number or letters alone, and so no sign of itself in running text."""
    return name.isalpha() or re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", name) is not None


def _files(folders: Collection[Path], closed: dict[Path, str]) -> Iterator[Path]:
    met: set[str] = set()

    def tell(error: OSError) -> None:
        closed[Path(error.filename)] = str(error.strerror)

    for folder in filter(Path.exists, folders):
        for root, below, names in os.walk(folder, onerror=tell, followlinks=True):
            below[:] = sorted(name for name in below if _is_new(f"{root}/{name}", met))
            for name in sorted(names):
                path = Path(root, name)
                if path.is_file() and _is_new(str(path), met):
                    yield path


def _is_new(path: str, met: set[str]) -> bool:
    real = os.path.realpath(path)
    new = real not in met
    met.add(real)
    return new


def _holds(path: Path, wanted: Wanted) -> bool | None:
    """Whether a file holds what is wanted; None where it holds numbers, sound or a picture alone.
    ValueError, and others', where it is not what it says."""
    suffix = path.suffix.lower()
    if suffix in SOUND | NUMBERS_ALONE:
        return None
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"PAR1"):
            return _in_table(pl.scan_parquet(path), path.parent, wanted)
        if head.startswith(b"PK\x03\x04"):
            return _in_archive(file, wanted)
        if head.startswith(b"\x93NUMPY"):
            return _in_array(file, wanted)
        if head.startswith(COMPRESSED):
            raise ValueError("it is compressed")
        content = file.read() if suffix != ".csv" else b""
    if suffix == ".csv":
        table = pl.scan_csv(path, infer_schema=False)
        try:
            return _in_table(table, path.parent, wanted, numbers=_numbers_of(path))
        except pl.exceptions.NoDataError:
            return False
    if suffix in (".json", ".jspf"):
        skipped = OF_OTHERS[wanted.kind]
        return any(
            text in wanted.phrases if key in NAMES_OF_MUSIC else _is_it(text, path.parent, wanted)
            for key, text in _strings("", json.loads(content), skipped)
        )
    return (suffix in LISTS and _in_list(path, wanted)) or _in_text(content, wanted)


def _in_table(
    table: pl.LazyFrame, folder: Path, wanted: Wanted, numbers: Collection[str] = ()
) -> bool:
    schema = table.collect_schema()
    nested = [name for name, kind in schema.items() if kind.is_nested() or kind == pl.Binary]
    if nested:
        raise ValueError(f"column {nested[0]!r} is {schema[nested[0]]}, which is not searched")
    text = [
        name
        for name, kind in schema.items()
        if kind in (pl.String, pl.Categorical, pl.Enum)
        and name not in {*NAMES_OF_MUSIC, *OF_OTHERS[wanted.kind], *numbers}
    ]
    ids = pl.lit(pl.Series([*wanted.ids], dtype=pl.String)).implode()
    for name in text:
        cells = pl.col(name).cast(pl.String)
        if table.select(cells.is_in(ids).any()).collect(engine="streaming").item():
            return True
        if name == "path":
            paths = table.select(cells.unique()).collect(engine="streaming").to_series()
            if any(_path_of(cell, folder) in wanted.paths for cell in paths.drop_nulls()):
                return True
    return False


def _numbers_of(path: Path) -> list[str]:
    """The columns of a CSV that hold numbers, and are no ids."""
    schema = pl.scan_csv(path, infer_schema_length=None).collect_schema()
    return [name for name, kind in schema.items() if kind.is_numeric() and name not in IDS]


def _in_archive(file: IO[bytes], wanted: Wanted) -> bool | None:
    holds: list[bool | None] = []
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if TENSOR.fullmatch(name) or name.removesuffix(".npy") in OF_OTHERS[wanted.kind]:
                continue
            with archive.open(name) as member:
                is_array = name.endswith(".npy")
                holds.append(
                    _in_array(member, wanted) if is_array else _in_text(member.read(), wanted)
                )
    return None if all(each is None for each in holds) else any(holds)


def _in_array(file: IO[bytes], wanted: Wanted) -> bool | None:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"it is an array of version {version}, which is not searched")
    _, _, dtype = read_header(file)
    if dtype.kind in "biufcmM":
        return None
    if dtype.kind != "U":
        raise ValueError(f"it is an array of {dtype}, which is not searched")
    file.seek(0)
    array = np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False)
    return bool(np.isin(array, [*wanted.ids]).any())


def _in_list(path: Path, wanted: Wanted) -> bool:
    try:
        return any(names_track(entry, wanted) for entry in read_playlist(path).entries)
    except InputError:
        return False  # it is no list: its text is searched all the same


def _in_text(content: bytes, wanted: Wanted) -> bool:
    return wanted.words is not None and wanted.words.search(content) is not None


def _is_it(text: str, folder: Path, wanted: Wanted) -> bool:
    if text in wanted.ids:
        return True
    if "/" in text:
        # Of a path a part may be the word, and yet of another track.
        return bool({_path_of(text, folder), absolute(Path(text))} & wanted.paths)
    return _in_text(text.encode(errors="surrogateescape"), wanted)


def _path_of(text: str, folder: Path) -> str:
    if text.startswith("file://"):
        rest = text.removeprefix("file://").partition("/")[2]
        text = "/" + unquote(rest, errors="surrogateescape")
    return absolute(folder / text)


def _spellings(word: str) -> tuple[str, ...]:
    """As it stands, in a URL, in XML, and in JSON."""
    return (word, quote(word, errors="surrogateescape"), escape(word), json.dumps(word)[1:-1])


def _strings(key: str, content: Any, skipped: Collection[str]) -> Iterator[tuple[str, str]]:
    """Keys, and values under the last of theirs, but for those under a key of `skipped`."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict):
        for name, value in content.items():
            if name not in skipped:
                yield "", name
                yield from _strings(name, value, skipped)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(key, value, skipped)
