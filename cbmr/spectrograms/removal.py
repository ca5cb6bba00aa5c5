"""One track out of a store, rows and all, for good."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.files import read_json, write_json
from cbmr.spectrograms.build import remove_piece, write_piece
from cbmr.spectrograms.store import piece_checksum, piece_paths


@dataclass(frozen=True)
class Known:
    """What a store knows a track by: the `contents` and absolute `paths` that are its alone."""

    contents: frozenset[str]
    paths: frozenset[Path]


def known_of(folder: Path, track_id: str) -> Known:
    """What a store knows of a track. What another track has as well is no sign of this one."""
    tracks = _catalogue(folder)["tracks"]
    content = tracks.get(track_id)
    if content is None or any(tracks[other] == content for other in tracks.keys() - {track_id}):
        return Known(frozenset(), frozenset())
    files = [file for path in piece_paths(folder) for file in read_json(path)["files"]]
    paths = {_absolute(file["path"]) for file in files if file["content"] == content}
    return Known(frozenset({content}), frozenset(paths))


def forget_track(
    folder: Path, track_id: str, paths: Collection[Path], say: Callable[[str], None]
) -> int:
    """Take a track, and the audio file at `paths`, out of a store; how many rows went.

    A row that another track has as well stays, and forgets whose file it was decoded from. Pieces
    go first, then the catalogue: interrupted, the same call goes on. What was set aside as damaged
    is removed, and so is a piece that is found damaged now, which is said: the next scan decodes
    its other files.
    """
    catalogue = _catalogue(folder)
    tracks, skipped = catalogue["tracks"], catalogue["skipped"]
    content = tracks.get(track_id)
    shared = {of for name, of in tracks.items() if name != track_id}
    own = {_absolute(path) for path in paths}

    def without(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = []
        for file in files:
            is_its = _absolute(file["path"]) in own
            if not is_its and (file["content"] != content or content in shared):
                kept.append(file)
            elif file["content"] in shared and "row" in file:
                kept.append({**file, "path": "", "size": 0, "mtime_ns": 0})
        return kept

    for path in (folder / "pieces").glob("*.damaged"):
        remove_piece(path)
    rows = sum(_thin(path, without, say) for path in piece_paths(folder))
    for path in (folder / "pieces").glob("*.npy"):
        if not path.with_suffix(".json").exists():
            path.unlink()
    if track_id in tracks or track_id in skipped:
        tracks.pop(track_id, None)
        skipped.pop(track_id, None)
        write_json(folder / "catalogue.json", catalogue)
    return rows


def _absolute(path: str | Path) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _catalogue(folder: Path) -> dict[str, Any]:
    path = folder / "catalogue.json"
    return read_json(path) if path.exists() else {"tracks": {}, "skipped": {}}


def _thin(
    path: Path,
    without: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    say: Callable[[str], None],
) -> int:
    """A piece without some of its files; how many rows went."""
    piece = read_json(path)
    files = piece["files"]
    kept = without(files)
    if kept == files:
        return 0
    before = sum("row" in file for file in files)
    rows = [file["row"] for file in kept if "row" in file]
    array = path.with_suffix(".npy")
    if not rows:
        array.unlink(missing_ok=True)
        logmels: list[np.ndarray] = []
    else:
        try:
            stored = np.load(array, mmap_mode="r")
            # An array as short as it will be was written by a call that was interrupted.
            done = len(stored) == len(rows) < before
            expected = piece.get("checksum")  # those of the first cbmr have none
            if not done and expected is not None and piece_checksum(array, files) != expected:
                raise ValueError("its content is not what was written")
        except (OSError, EOFError, ValueError) as error:
            say(f"{array} is damaged ({error}) and removed: the next scan decodes its files")
            remove_piece(path)
            return before - len(rows)
        logmels = [*stored] if done else [stored[row] for row in rows]
    numbers = iter(range(len(rows)))
    kept = [{**file, "row": next(numbers)} if "row" in file else file for file in kept]
    if not write_piece(path.parent.parent, int(path.stem), kept, logmels, piece.get("decoder")):
        remove_piece(path)
    return before - len(rows)
