"""The audio files of a music folder, and the ids they keep.

A track's id is its file's path in the folder when it was first seen, with `/` between names: it can
be read and typed, it needs no reading of the file, and neither new tags nor new plays change it.
Known files keep theirs, and so does a file that was moved: one at a new path whose size and time of
change are those of exactly one file that is gone. A hash of the content would follow a move as
well, but not the tagger that writes into the file, and would read every file to name it.
"""

import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cbmr.files import file_hash

SUFFIXES = {
    ".mp3", ".flac", ".ogg", ".oga", ".opus", ".spx", ".m4a", ".m4b", ".mp4", ".aac", ".wav",
    ".aif", ".aiff", ".aifc", ".wma", ".wv", ".ape", ".mpc", ".tta",
}  # fmt: skip


@dataclass(frozen=True)
class AudioFile:
    """`name` is the path in the music folder, `size` in bytes, `mtime_ns` in nanoseconds."""

    name: str
    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Walk:
    """The audio files, in the order of their names; `left_out` holds names by the reason why."""

    files: list[AudioFile]
    left_out: dict[str, list[str]]


def find_audio(root: Path, known: Collection[str] = ()) -> Walk:
    """Every audio file below `root`, by its suffix, each once.

    Symbolic links are followed, after all that has a name of its own, so that a file is known by
    it; a folder or file that was met before is not entered again, so loops end. What is hidden (a
    leading dot) is passed over. Of files of the same content one is a track: one of the names that
    are `known` before others, one that is no link's before a link's, then that nearest to `root`.
    """
    found: list[AudioFile] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    met: set[tuple[int, int]] = set()
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        path = folders.popleft() if folders else links.popleft()
        name = path.relative_to(root).as_posix()
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                if _first(status, met):
                    inside = sorted(path.iterdir())
                    for entry in inside:
                        if not entry.name.startswith("."):
                            (links if entry.is_symlink() else folders).append(entry)
            elif path.suffix.lower() in SUFFIXES:
                reason = _refused(name, status, met)
                if reason:
                    left_out[reason].append(_shown(name))
                else:
                    found.append(AudioFile(name, path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            left_out[f"cannot be read: {error.strerror}"].append(_shown(name))
    found.sort(key=lambda file: file.name not in known)
    distinct = _distinct(found, left_out)
    return Walk(sorted(distinct, key=lambda file: file.name), dict(left_out))


def _refused(name: str, status: os.stat_result, met: set[tuple[int, int]]) -> str:
    """Why a file with an audio suffix is no track; empty if it is one."""
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    if not _first(status, met):
        return "linked to a file that is there already"
    if status.st_size == 0:
        return "empty"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8: rename it"
    return ""


def _first(status: os.stat_result, met: set[tuple[int, int]]) -> bool:
    key = (status.st_dev, status.st_ino)
    new = key not in met
    met.add(key)
    return new


def _distinct(files: list[AudioFile], left_out: dict[str, list[str]]) -> list[AudioFile]:
    """The first of each content. Only files of one size are read."""
    sizes = Counter(file.size for file in files)
    seen: set[str] = set()
    distinct = []
    for file in files:
        if sizes[file.size] > 1:
            try:
                content = file_hash(file.path)
            except OSError as error:
                left_out[f"cannot be read: {error.strerror}"].append(_shown(file.name))
                continue
            if content in seen:
                left_out["a copy of a file that is there already"].append(file.name)
                continue
            seen.add(content)
        distinct.append(file)
    return distinct


def _shown(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")


def track_ids(files: Sequence[AudioFile], known: pl.DataFrame | None) -> tuple[list[str], int]:
    """The ids `[files]`, and how many of them followed a file that was moved.

    `known` are the rows of an earlier ingest: `track_id`, `file`, `size` and `mtime_ns`. By hand:
    `a.mp3` was known; it is now at `b/a.mp3`, and a new `a.mp3` is in its place. The first keeps
    the id `a.mp3`, the second becomes `a.mp3 (2)`.
    """
    rows = [] if known is None else known.select("track_id", "file", "size", "mtime_ns").rows()
    stamps = {file.name: (file.size, file.mtime_ns) for file in files}
    by_name = {name: track_id for track_id, name, _, _ in rows}
    left: dict[tuple[int, int], list[str]] = defaultdict(list)
    for track_id, name, size, mtime_ns in rows:
        if stamps.get(name) != (size, mtime_ns):
            left[size, mtime_ns].append(track_id)
    new = Counter(stamp for name, stamp in stamps.items() if name not in by_name)
    ids = {
        name: left[stamp][0]
        for name, stamp in stamps.items()
        if name not in by_name and new[stamp] == len(left[stamp]) == 1
    }
    moved = len(ids)
    followed = {*ids.values()}
    for name in stamps:
        if name in by_name and by_name[name] not in followed:
            ids[name] = by_name[name]
    taken = followed | {*ids.values()}
    for name in stamps:
        if name not in ids:
            number, free = 1, name
            while free in taken:
                number += 1
                free = f"{name} ({number})"
            taken.add(free)
            ids[name] = free
    return [ids[file.name] for file in files], moved
