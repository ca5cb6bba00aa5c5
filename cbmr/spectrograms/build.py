"""Bringing a store up to date with its files."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.errors import InputError
from cbmr.files import whole_file, write_json
from cbmr.logmel import MelSpec
from cbmr.spectrograms.decoding import SHORTEST_S, decode_all, file_stat
from cbmr.spectrograms.store import FORMAT_VERSION, piece_path, read_manifest, read_pieces

PIECE_ROWS = 1_000


@dataclass(frozen=True)
class Scan:
    """What a scan did: tracks readable now, of which `decoded` just now; `skipped` id -> reason."""

    readable: int
    decoded: int
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
    progress: Callable[[int, int], None] | None = None,
    piece_rows: int = PIECE_ROWS,
) -> Scan:
    """Bring a store up to date with these tracks: decode what is new or changed, keep the rest.

    Of every file `excerpts` of `excerpt_s` are read, or as many as it holds. One that is missing,
    does not decode, is silent or is shorter than 3 s is skipped; InputError when no file is left.
    `progress(done, total)` is called after every decoded file.
    """
    if not excerpt_s >= SHORTEST_S:
        raise InputError(f"excerpt_s={excerpt_s}: expected at least {SHORTEST_S:g} seconds")
    if folder.exists() and (folder / "manifest.json").exists():
        read_manifest(folder)
    else:
        manifest = {"mel_spec": asdict(spec), "excerpt_s": excerpt_s, "excerpts": excerpts}
        write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION, **manifest})

    pieces = read_pieces(folder)
    by_stat = {_key(file): file for files in pieces for file in files}
    contents = {file["content"] for files in pieces for file in files if "row" in file}
    found: dict[str, dict[str, Any]] = {}
    to_decode: list[tuple[str, Path]] = []
    skipped: dict[str, str] = {}
    for track_id, path in zip(track_ids, paths, strict=True):
        try:
            known = by_stat.get(_key(file_stat(path)))
        except OSError as error:
            skipped[track_id] = f"{path}: {error.strerror}"
            continue
        if known is None:
            to_decode.append((track_id, path))
        else:
            found[track_id] = known

    files: list[dict[str, Any]] = []
    spectrograms: list[np.ndarray] = []
    decoded = decode_all([path for _, path in to_decode], spec, excerpt_s, excerpts, workers)
    for done, ((track_id, _), (file, heard)) in enumerate(
        zip(to_decode, decoded, strict=True), start=1
    ):
        found[track_id] = file
        if not heard or file["content"] in contents:
            if "content" in file:  # else it could not be read at all, which may pass: try again
                files.append(file)
        else:
            contents.add(file["content"])
            for spectrogram, frames in heard:
                files.append({**file, "row": len(spectrograms), "frames": frames})
                spectrograms.append(spectrogram)
        if len(files) >= piece_rows:
            pieces.append(_write_piece(folder, len(pieces), files, spectrograms))
            files, spectrograms = [], []
        if progress is not None:
            progress(done, len(to_decode))
    if files:
        _write_piece(folder, len(pieces), files, spectrograms)

    # In the order of the tracks table, whatever was known before: the same corpus, the same file.
    tracks = {}
    for track_id in track_ids:
        if track_id in found:
            file = found[track_id]
            if "reason" in file:
                skipped[track_id] = f"{file['path']}: {file['reason']}"
            else:
                tracks[track_id] = file["content"]
    if not tracks:
        first = next(iter(skipped.values()))
        raise InputError(
            f"none of the {len(track_ids)} audio files can be read; the first: {first}. Relative "
            "paths start at the corpus's folder"
        )
    write_json(folder / "catalogue.json", {"tracks": tracks, "skipped": skipped})
    return Scan(readable=len(tracks), decoded=len(to_decode), skipped=skipped)


def _key(file: dict[str, Any]) -> tuple[str, int, int]:
    return file["path"], file["size"], file["mtime_ns"]


def _write_piece(
    folder: Path, piece: int, files: list[dict[str, Any]], spectrograms: list[np.ndarray]
) -> list[dict[str, Any]]:
    path = piece_path(folder, piece)
    if spectrograms:
        with whole_file(path) as file:
            np.save(file, np.stack(spectrograms))
    write_json(path.with_suffix(".json"), {"files": files})
    return files
