"""Read access to a store, and where its files are."""

import json
import stat
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_json
from cbmr.logmel import MelSpec

FORMAT_VERSION = 1
DECODING_VERSION = 1
"""Of what a row holds, from the choice of an excerpt to the log-mel: with another one every file is
decoded anew."""
LEAST_SPREAD = 0.5
"""Of the median band's; bands that hold music have three quarters of it and more."""


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

    def excerpts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All that there is of these rows: `[excerpts, mels, frames]`, how many frames of each are
        real, and the place among `rows` that each belongs to, `[excerpts]`, ascending."""


class SpectrogramStore:
    """Read access to a store, in the order of `track_ids`; pieces are memory-mapped, each held
    against its checksum before its first row is read.

    `frames` is `[tracks]`, the number of real (not padded) frames of each track. Where a track has
    several excerpts, `frames` and indexing are of its first.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        catalogue = read_json(folder / "catalogue.json")
        self.folder = folder
        self.mel_spec = MelSpec(**manifest["mel_spec"])
        self.excerpt_s = float(manifest["excerpt_s"])
        self.skipped: dict[str, str] = catalogue["skipped"]
        if manifest.get("decoding", 1) != DECODING_VERSION:
            raise InputError(
                f"{folder} holds log-mels of an earlier cbmr: scan again, and all are made anew"
            )
        where: dict[str, list[tuple[int, int, int]]] = {}
        self._checksums: dict[int, str] = {}
        for path in piece_paths(folder):
            piece = read_json(path)
            if "checksum" in piece:  # those of the first cbmr have none
                self._checksums[int(path.stem)] = piece["checksum"]
            for file in piece["files"]:
                if "row" in file:
                    place = (int(path.stem), file["row"], file["frames"])
                    where.setdefault(file["content"], []).append(place)
        self.track_ids = np.array(list(catalogue["tracks"]), dtype=str)
        contents = list(catalogue["tracks"].values())
        lost = sum(content not in where for content in contents)
        if lost:
            raise InputError(
                f"{folder}: {lost} tracks have no log-mel any more, a damaged piece was set aside: "
                "scan again, and only they are decoded"
            )
        places = [where[content] for content in contents]
        self._piece, self._row, self._frames = np.array(list(chain(*places))).reshape(-1, 3).T
        self._excerpts = np.array([len(of_track) for of_track in places])
        self._first = np.cumsum(self._excerpts) - self._excerpts
        self.frames = self._frames[self._first]
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
        return self._read(self._first[rows])

    def excerpts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log-mels float16 `[excerpts, mels, frames]` of all excerpts of these rows, their real
        frames, and the place among `rows` that each belongs to, `[excerpts]`."""
        of = np.repeat(np.arange(len(rows)), self._excerpts[rows])
        since_first = np.arange(len(of)) - np.searchsorted(of, of)
        places = self._first[rows][of] + since_first
        return self._read(places), self._frames[places], of

    def _read(self, places: np.ndarray) -> np.ndarray:
        shape = (len(places), self.mel_spec.mels, store_frames(self.mel_spec, self.excerpt_s))
        batch = np.empty(shape, dtype=np.float16)
        for at, place in enumerate(places):
            batch[at] = self._mapped(int(self._piece[place]))[self._row[place]]
        return batch

    def _mapped(self, piece: int) -> np.ndarray:
        if piece not in self._pieces:
            path = piece_path(self.folder, piece)
            try:
                expected = self._checksums.get(piece)
                if expected is not None:
                    files = read_json(path.with_suffix(".json"))["files"]
                    if piece_checksum(path, files) != expected:
                        raise ValueError("its content is not what was written")
                self._pieces[piece] = np.load(path, mmap_mode="r")
            except (FileNotFoundError, EOFError, ValueError) as error:
                with suppress(OSError):  # by its JSON it counts; without it, it is decoded anew
                    path.with_suffix(".json").replace(path.with_suffix(".damaged"))
                raise InputError(
                    f"{path} is damaged ({error}) and set aside: scan again, and only its files "
                    "are decoded"
                ) from error
            self._checksums.pop(piece, None)  # once is enough, in loading processes too
        return self._pieces[piece]

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the pieces anew instead of receiving their content.
        return {**self.__dict__, "_pieces": {}}


def band_scale(store: Store, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation `[mels]` of every band over the real frames of these rows; of
    sound, the deviation is `LEAST_SPREAD` of the median band's at least.

    A lossy codec empties the highest bands. Scaled by the little that is left there, a file from
    another codec would be hundreds of deviations away from all that was trained on.
    """
    total = square = np.zeros(store.mels)
    for row in rows:
        real = store[np.array([row])][0, :, : store.frames[row]].astype(np.float64)
        total = total + real.sum(axis=1)
        square = square + np.square(real).sum(axis=1)
    mean = total / store.frames[rows].sum()
    variance = np.maximum(square / store.frames[rows].sum() - mean**2, 0)
    spread = np.sqrt(variance)
    if store.mel_spec is not None:
        spread = np.maximum(spread, LEAST_SPREAD * np.median(spread))
    return torch.from_numpy(mean).float(), torch.from_numpy(spread).float()


def store_folder(folder: Path, spec: MelSpec, excerpt_s: float, excerpts: int = 1) -> Path:
    """The folder of one store among those of a run: named by everything its content depends on."""
    plan = f"middle{excerpt_s:g}s" if excerpts == 1 else f"{excerpts}x{excerpt_s:g}s"
    return folder / f"{spec.sample_rate}hz-{spec.n_fft}-{spec.hop}-{spec.mels}mels-{plan}"


def store_frames(spec: MelSpec, excerpt_s: float) -> int:
    """Frames of every row of a store, padding included."""
    return spec.frames(spec.samples(excerpt_s))


def piece_path(folder: Path, piece: int) -> Path:
    return folder / "pieces" / f"{piece:05d}.npy"


def piece_paths(folder: Path) -> list[Path]:
    """The JSON of every piece that counts."""
    return sorted((folder / "pieces").glob("*.json"))


def piece_checksum(path: Path, files: list[dict[str, Any]]) -> str:
    """Of the array under `path`, if there is one, and of the files behind its rows."""
    return content_hash(json.dumps(files), file_hash(path) if path.exists() else "")


def file_key(path: Path) -> tuple[str, int, int]:
    """Path, size and time of change: by these a file is known without opening it. OSError for
    what is no file, such as a pipe, which would wait for its writer for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "is no regular file")
    return str(path), status.st_size, status.st_mtime_ns


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder} has format {manifest.get('format_version')}, this cbmr reads "
            f"{FORMAT_VERSION}: it was made by a newer one, so update, or scan into another run"
        )
    return manifest
