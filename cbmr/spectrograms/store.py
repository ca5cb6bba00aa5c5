"""Read access to a store, and where its files are."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cbmr.errors import InputError
from cbmr.files import content_hash, read_json
from cbmr.logmel import MelSpec

FORMAT_VERSION = 1


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
        manifest = read_manifest(folder)
        catalogue = read_json(folder / "catalogue.json")
        self.folder = folder
        self.mel_spec = MelSpec(**manifest["mel_spec"])
        self.excerpt_s = float(manifest["excerpt_s"])
        self.skipped: dict[str, str] = catalogue["skipped"]
        where = {
            file["content"]: (piece, file["row"], file["frames"])
            for piece, files in enumerate(read_pieces(folder))
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
            path = piece_path(self.folder, piece)
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


def piece_path(folder: Path, piece: int) -> Path:
    return folder / "pieces" / f"{piece:05d}.npy"


def read_pieces(folder: Path) -> list[list[dict[str, Any]]]:
    paths = sorted((folder / "pieces").glob("*.json"))
    return [read_json(path)["files"] for path in paths]


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder} has format {manifest.get('format_version')}, this cbmr reads "
            f"{FORMAT_VERSION}: remove the folder and scan again"
        )
    return manifest
