"""Bringing a store up to date with its files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.errors import InputError
from cbmr.files import read_json, sync_folder, whole_file, write_json
from cbmr.logmel import MelSpec
from cbmr.spectrograms.decoding import DECODER, SHORTEST_S, decode_all
from cbmr.spectrograms.store import (
    DECODING_VERSION,
    FORMAT_VERSION,
    file_key,
    piece_checksum,
    piece_path,
    piece_paths,
    read_manifest,
)

PIECE_ROWS = 1_000
PIECE_S = 60.0
"""A piece is written when it is full or this old: what a power cut can cost."""
FILE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Scan:
    """What a scan did: tracks readable now; files `decoded` just now, and `known` by their content
    alone, as moved and touched ones are; `skipped` id -> reason."""

    readable: int
    decoded: int
    known: int
    skipped: dict[str, str]


def build_store(
    folder: Path,
    track_ids: Sequence[str],
    paths: Sequence[Path],
    *,
    spec: MelSpec,
    excerpt_s: float,
    excerpts: int = 1,
    workers: int,
    file_timeout_s: float = FILE_TIMEOUT_S,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    piece_rows: int = PIECE_ROWS,
) -> Scan:
    """Bring a store up to date with these tracks: decode what is new or changed, keep the rest.

    Of every file `excerpts` of `excerpt_s` are read, or as many as it holds. One that is missing,
    does not decode, takes longer than `file_timeout_s`, crashes the decoder, is silent or is
    shorter than 3 s is skipped; InputError when no file is left. What stands and yet has to be
    decoded anew is said, with its reason. `progress(done, total)` is called after every file that
    was opened.
    """
    if not excerpt_s >= SHORTEST_S:
        raise InputError(f"excerpt_s={excerpt_s}: expected at least {SHORTEST_S:g} seconds")
    say = say or (lambda _: None)
    _prepare(folder, {"mel_spec": asdict(spec), "excerpt_s": excerpt_s, "excerpts": excerpts}, say)
    contents, reasons, unread = _known(folder, say)

    of_track: dict[str, str] = {}
    unopened: dict[str, str] = {}
    to_open: list[tuple[str, Path]] = []
    again = 0
    for track_id, path in zip(track_ids, paths, strict=True):
        try:
            content = contents.get(file_key(path))
        except OSError as error:
            unopened[track_id] = error.strerror or str(error)
            continue
        if content in reasons:
            of_track[track_id] = content
        else:
            to_open.append((track_id, path))
            again += content in unread
    if again:
        say(f"{again} files that another decoder could not read are tried again by {DECODER}")

    def is_new(content: str) -> bool:
        if content in reasons:
            return False
        reasons[content] = "is being decoded"
        return True

    number = max((int(path.stem) for path in piece_paths(folder)), default=-1) + 1
    files: list[dict[str, Any]] = []
    logmels: list[np.ndarray] = []
    decoded = known = 0
    piece_began = time.monotonic()
    results = decode_all(
        [path for _, path in to_open], spec, excerpt_s, excerpts,
        workers=workers, file_timeout_s=file_timeout_s, is_new=is_new,
    )  # fmt: skip
    for done, (place, result) in enumerate(results, start=1):
        track_id, _ = to_open[place]
        if result.content is None:
            unopened[track_id] = result.reason or ""
        else:
            of_track[track_id] = result.content
            if result.logmels or result.reason:
                reasons[result.content] = result.reason
                decoded += 1
            else:
                known += 1
        if result.key is not None:
            file = dict(zip(("path", "size", "mtime_ns"), result.key, strict=True))
            file["content"] = result.content
            if result.reason:
                file["reason"] = result.reason
            for logmel, frames in result.logmels:
                files.append({**file, "row": len(logmels), "frames": frames})
                logmels.append(logmel)
            if not result.logmels:
                files.append(file)
        if len(files) >= piece_rows or time.monotonic() - piece_began > PIECE_S:
            number += write_piece(folder, number, files, logmels, DECODER)
            files, logmels, piece_began = [], [], time.monotonic()
        if progress is not None:
            progress(done, len(to_open))
    write_piece(folder, number, files, logmels, DECODER)

    # In the order of the tracks table, whatever was known or came first: the same corpus, the same
    # file.
    tracks: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for track_id, path in zip(track_ids, paths, strict=True):
        content = of_track.get(track_id, "")
        reason = reasons[content] if content else unopened[track_id]
        if reason is None:
            tracks[track_id] = content
        else:
            skipped[track_id] = f"{path}: {reason}"
    if not tracks:
        first = next(iter(skipped.values()))
        raise InputError(
            f"none of the {len(track_ids)} audio files can be read; the first: {first}. Relative "
            "paths start at the corpus's folder"
        )
    write_json(folder / "catalogue.json", {"tracks": tracks, "skipped": skipped})
    return Scan(readable=len(tracks), decoded=decoded, known=known, skipped=skipped)


def remove_piece(path: Path) -> None:
    """A piece, by its JSON, with all that is left of it."""
    for suffix in (".json", ".npy", ".damaged"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def write_piece(
    folder: Path,
    number: int,
    files: list[dict[str, Any]],
    logmels: Sequence[np.ndarray],
    decoder: str | None,
) -> int:
    """Write what there is; how many pieces it made, 0 or 1."""
    if not files:
        return 0
    path = piece_path(folder, number)
    if logmels:
        header = np.lib.format.header_data_from_array_1_0(logmels[0])
        header["shape"] = (len(logmels), *logmels[0].shape)
        with whole_file(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for logmel in logmels:  # one by one: no second copy of a piece in memory
                file.write(logmel.data)
    content = {
        "decoder": decoder,
        "bytes": path.stat().st_size if logmels else 0,
        "checksum": piece_checksum(path, files),
        "files": files,
    }
    write_json(path.with_suffix(".json"), content)
    return 1


def _prepare(folder: Path, settings: dict[str, Any], say: Callable[[str], None]) -> None:
    """The folder with its manifest, and without what an earlier cbmr decoded otherwise."""
    if (folder / "manifest.json").exists():
        decoding = read_manifest(folder).get("decoding", 1)
        if decoding == DECODING_VERSION:
            return
        say(
            f"{folder} was decoded by version {decoding} of the log-mels, this cbmr makes version "
            f"{DECODING_VERSION}: all files are decoded anew"
        )
        for path in piece_paths(folder):
            remove_piece(path)
        if (folder / "pieces").exists():
            # Else a power cut could bring them back under the new manifest.
            sync_folder(folder / "pieces")
    versions = {"format_version": FORMAT_VERSION, "decoding": DECODING_VERSION}
    write_json(folder / "manifest.json", {**versions, **settings})


def _known(
    folder: Path, say: Callable[[str], None]
) -> tuple[dict[tuple[str, int, int], str], dict[str, str | None], set[str]]:
    """What the pieces say: the content of files by their `file_key`; by content the reason why it
    has no log-mel, None where it has one; and the contents that only another decoder refused.

    Pieces that are damaged are said and removed, and so is what a killed scan left.
    """
    contents: dict[tuple[str, int, int], str] = {}
    reasons: dict[str, str | None] = {}
    unread: set[str] = set()
    for path in sorted((folder / "pieces").glob("*.damaged")):
        say(f"{path.with_suffix('')} is damaged: its files are decoded anew")
        remove_piece(path)
    for path in piece_paths(folder):
        array = path.with_suffix(".npy")
        try:
            piece = read_json(path)
            size = array.stat().st_size if array.exists() else 0
            if size != piece.get("bytes", size):
                raise InputError(f"{array} has {size} bytes, expected {piece['bytes']}")
        except InputError as error:
            say(f"{error}: the files of this piece are decoded anew")
            remove_piece(path)
            continue
        for file in piece["files"]:
            content = file["content"]
            contents[file["path"], file["size"], file["mtime_ns"]] = content
            if "row" in file:
                reasons[content] = None
            elif "reason" in file:
                if piece.get("decoder") == DECODER:
                    reasons.setdefault(content, file["reason"])
                else:
                    unread.add(content)
    for array in (folder / "pieces").glob("*.npy"):
        if not array.with_suffix(".json").exists():
            array.unlink()
    return contents, reasons, unread
