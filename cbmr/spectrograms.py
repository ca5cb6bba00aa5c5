"""The on-disk store of log-mels: decode once, read for ever.

    store/
      manifest.json     format version, MelSpec, excerpt length
      pieces/00000.npy  float16 [rows, mels, frames], about 1,000 tracks
      pieces/00000.json the files behind the rows, and the files that were skipped, with reasons
      catalogue.json    track_id -> content, of the corpus scanned last

A piece is written whole: first the array, then the JSON that makes it count. Whatever interrupts a
scan, the pieces that stand are right, and the same call goes on after them. Rows are found by the
content of their file (BLAKE2b), and a file whose path, size and time of change are known is not
even opened again. Shorter clips are padded with zeros up to `frames`; how many frames are real is
kept, and the encoder pools over those alone.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cbmr.audio import load_middle
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_json, whole_file, write_json
from cbmr.logmel import MelSpec, logmel

FORMAT_VERSION = 1
PIECE_TRACKS = 1_000
SHORTEST_S = 3.0
SILENT_RMS = 1e-4
"""Below -80 dBFS there is nothing to hear."""


@dataclass(frozen=True)
class Scan:
    """What a scan did: tracks readable now, of which `decoded` just now; `skipped` id -> reason."""

    readable: int
    decoded: int
    skipped: dict[str, str]


class Store(Protocol):
    """What training reads: a log-mel, or what stands for one, a track."""

    track_ids: np.ndarray
    frames: np.ndarray
    fingerprint: str

    @property
    def mel_spec(self) -> MelSpec | None:
        """None where the tracks come as vectors, not as sound."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def mels(self) -> int:
        """Numbers in a frame."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Frames float `[rows, mels, frames]` of these rows, in this order."""


class SpectrogramStore:
    """Read access to a store, in the order of `track_ids`; pieces are memory-mapped.

    `frames` is `[tracks]`, the number of real (not padded) frames of each track.
    """

    def __init__(self, folder: Path) -> None:
        manifest = _read_manifest(folder)
        catalogue = read_json(folder / "catalogue.json")
        self.folder = folder
        self.mel_spec = MelSpec(**manifest["mel_spec"])
        self.excerpt_s = float(manifest["excerpt_s"])
        self.skipped: dict[str, str] = catalogue["skipped"]
        where = {
            file["content"]: (piece, file["row"], file["frames"])
            for piece, files in enumerate(_read_pieces(folder))
            for file in files
            if "row" in file
        }
        self.track_ids = np.array(list(catalogue["tracks"]), dtype=str)
        contents = list(catalogue["tracks"].values())
        places = np.array([where[content] for content in contents]).reshape(-1, 3)
        self._piece, self._row, self.frames = places.T
        self.fingerprint = content_hash(self.track_ids, np.array(contents), repr(manifest))
        self._pieces: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def mels(self) -> int:
        """Bands of a log-mel."""
        return self.mel_spec.mels

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Log-mels float16 `[rows, mels, frames]` of these rows, in this order."""
        shape = (len(rows), self.mel_spec.mels, store_frames(self.mel_spec, self.excerpt_s))
        batch = np.empty(shape, dtype=np.float16)
        for place, row in enumerate(rows):
            batch[place] = self._mapped(int(self._piece[row]))[self._row[row]]
        return batch

    def _mapped(self, piece: int) -> np.ndarray:
        if piece not in self._pieces:
            path = _piece_path(self.folder, piece)
            try:
                self._pieces[piece] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{path} cannot be read ({error}): remove the folder {self.folder} and scan "
                    "again"
                ) from error
        return self._pieces[piece]

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the pieces anew instead of receiving their content.
        return {**self.__dict__, "_pieces": {}}


def band_scale(store: Store, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation `[mels]` of every band over the real frames of these rows."""
    total = square = np.zeros(store.mels)
    for row in rows:
        real = store[np.array([row])][0, :, : store.frames[row]].astype(np.float64)
        total = total + real.sum(axis=1)
        square = square + np.square(real).sum(axis=1)
    mean = total / store.frames[rows].sum()
    variance = np.maximum(square / store.frames[rows].sum() - mean**2, 0)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float()


def store_folder(folder: Path, spec: MelSpec, excerpt_s: float) -> Path:
    """The folder of one store among those of a run: named by everything its content depends on."""
    name = f"{spec.sample_rate}hz-{spec.n_fft}-{spec.hop}-{spec.mels}mels-middle{excerpt_s:g}s"
    return folder / name


def store_frames(spec: MelSpec, excerpt_s: float) -> int:
    """Frames of every row of a store, padding included."""
    return spec.frames(spec.samples(excerpt_s))


def build_store(
    folder: Path,
    track_ids: Sequence[str],
    paths: Sequence[Path],
    *,
    spec: MelSpec,
    excerpt_s: float,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
    piece_tracks: int = PIECE_TRACKS,
) -> Scan:
    """Bring a store up to date with these tracks: decode what is new or changed, keep the rest.

    A file that is missing, does not decode, is silent or is shorter than 3 s is skipped; InputError
    when no file is left. `progress(done, total)` is called after every decoded file.
    """
    if not excerpt_s >= SHORTEST_S:
        raise InputError(f"excerpt_s={excerpt_s}: expected at least {SHORTEST_S:g} seconds")
    if folder.exists() and (folder / "manifest.json").exists():
        _read_manifest(folder)
    else:
        manifest = {"mel_spec": asdict(spec), "excerpt_s": excerpt_s}
        write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION, **manifest})

    pieces = _read_pieces(folder)
    by_stat = {_stat_key(file): file for files in pieces for file in files}
    contents = {file["content"] for files in pieces for file in files if "row" in file}
    found: dict[str, dict[str, Any]] = {}
    to_decode: list[tuple[str, Path]] = []
    skipped: dict[str, str] = {}
    for track_id, path in zip(track_ids, paths, strict=True):
        try:
            known = by_stat.get(_stat_key(_stat(path)))
        except OSError as error:
            skipped[track_id] = f"{path}: {error.strerror}"
            continue
        if known is None:
            to_decode.append((track_id, path))
        else:
            found[track_id] = known

    files: list[dict[str, Any]] = []
    spectrograms: list[np.ndarray] = []
    decoded = _decode_all([path for _, path in to_decode], spec, excerpt_s, workers)
    for done, ((track_id, _), (file, spectrogram)) in enumerate(
        zip(to_decode, decoded, strict=True), start=1
    ):
        if spectrogram is not None and file["content"] not in contents:
            contents.add(file["content"])
            file["row"] = len(spectrograms)
            spectrograms.append(spectrogram)
        files.append(file)
        found[track_id] = file
        if len(files) >= piece_tracks:
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


# --- decoding in worker processes ---------------------------------------------------------------


def read_logmel(path: Path, spec: MelSpec, excerpt_s: float) -> tuple[np.ndarray, int]:
    """One file's middle excerpt as float16 `[mels, frames]` padded with zeros, and its real frames.

    Raises InputError when it does not decode, is silent or is shorter than 3 s.
    """
    waveform = load_middle(path, sample_rate=spec.sample_rate, duration_s=excerpt_s).samples
    length_s = len(waveform) / spec.sample_rate
    if length_s < SHORTEST_S:
        raise InputError(f"{path} is {length_s:.1f} s long, expected at least {SHORTEST_S:g} s")
    if np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) < SILENT_RMS:
        raise InputError(f"{path} is silent in its middle {length_s:.0f} s")
    frames = spec.frames(len(waveform))
    padded = np.zeros((spec.mels, store_frames(spec, excerpt_s)), dtype=np.float16)
    padded[:, :frames] = logmel(torch.from_numpy(waveform)[None], spec)[0].numpy()
    return padded, frames


def _decode_one(
    path: Path, spec: MelSpec, excerpt_s: float
) -> tuple[dict[str, Any], np.ndarray | None]:
    file: dict[str, Any] = _stat(path)
    try:
        file["content"] = file_hash(path)
        spectrogram, file["frames"] = read_logmel(path, spec, excerpt_s)
    except (InputError, OSError) as error:
        return {**file, "reason": str(error).removeprefix(f"{path} ")}, None
    return file, spectrogram


def _decode_all(
    paths: Sequence[Path], spec: MelSpec, excerpt_s: float, workers: int
) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
    """Results in the order of `paths`, with few in flight, so that memory stays flat.

    When a decoder takes its process down, the files in flight are tried again one by one, each in
    a process of its own, and the one that does it again is skipped like any other bad file.
    """
    waiting = deque(paths)
    while waiting:
        in_flight: deque[tuple[Path, Future[tuple[dict[str, Any], np.ndarray | None]]]] = deque()
        with _pool(workers) as pool, contextlib.suppress(BrokenProcessPool):
            while waiting or in_flight:
                while waiting and len(in_flight) < 4 * workers:
                    future = pool.submit(_decode_one, waiting[0], spec, excerpt_s)
                    in_flight.append((waiting.popleft(), future))
                result = in_flight[0][1].result()
                in_flight.popleft()
                yield result
        for path, _ in in_flight:
            with _pool(1) as pool:
                pool.submit(os.getpid).result()  # a process that cannot start is no file's fault
                try:
                    result = pool.submit(_decode_one, path, spec, excerpt_s).result()
                except BrokenProcessPool:
                    result = {**_stat(path), "reason": "crashes the decoder"}, None
            yield result


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])  # torch is loaded once, not once a worker
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # A parent killed with -9 closes nothing, and its workers would wait for work for ever.
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


# --- the files of a store -----------------------------------------------------------------------


def _stat(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _stat_key(file: dict[str, Any]) -> tuple[str, int, int]:
    return file["path"], file["size"], file["mtime_ns"]


def _piece_path(folder: Path, piece: int) -> Path:
    return folder / "pieces" / f"{piece:05d}.npy"


def _write_piece(
    folder: Path, piece: int, files: list[dict[str, Any]], spectrograms: list[np.ndarray]
) -> list[dict[str, Any]]:
    path = _piece_path(folder, piece)
    if spectrograms:
        with whole_file(path) as file:
            np.save(file, np.stack(spectrograms))
    write_json(path.with_suffix(".json"), {"files": files})
    return files


def _read_pieces(folder: Path) -> list[list[dict[str, Any]]]:
    paths = sorted((folder / "pieces").glob("*.json"))
    return [read_json(path)["files"] for path in paths]


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder} has format {manifest.get('format_version')}, this cbmr reads "
            f"{FORMAT_VERSION}: remove the folder and scan again"
        )
    return manifest
