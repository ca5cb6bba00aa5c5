"""Files that are whole or absent, and the fingerprints by which artefacts know their inputs.

Everything is written under a temporary name beside its final one, flushed to the disk, then
renamed, and the folder flushed too: whatever interrupts a write, a power cut included, the earlier
file stands untouched, and what was said to be written stays. Arrays travel in `.npz`
without pickle, and NaN and infinity are refused in both directions.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from cbmr.errors import InputError

HASH_BYTES = 16


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` only when the block ends without an exception.

    InputError, naming `path`, when the disk is full or the folder cannot be written.
    """
    # One name for ever: what a killed process left is written over by the next.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:  # NumPy's own has no number, and says how much was written
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): is the disk full?"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk: without it a power cut can take a file's back."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def as_json(content: Mapping[str, Any]) -> bytes:
    """`content` as indented UTF-8 JSON; a number that is not finite is a ValueError."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as `as_json` puts it."""
    text = as_json(content)
    with whole_file(path) as file:
        file.write(text)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; InputError when the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): it was cut off or edited") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as `.npz` without pickle; NaN, infinity and object arrays are refused."""
    for name, array in arrays.items():
        _refuse_unfit(path, name, array)
    with whole_file(path) as file:
        # NumPy types the keywords as its one option, `allow_pickle`.
        np.savez(file, **{name: _tight(array) for name, array in arrays.items()})  # type: ignore[arg-type]


def read_arrays(path: Path, *names: str) -> tuple[np.ndarray, ...]:
    """Read the named arrays of an `.npz`; InputError when one is missing, damaged or not finite."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise InputError(
                    f"{path} has no array {missing[0]!r} (it has {', '.join(archive.files)}): "
                    "it was made by something else or an older cbmr; remove it and make it anew"
                )
            arrays = tuple(archive[name] for name in names)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        if isinstance(error, (InputError, FileNotFoundError, PermissionError)):
            raise
        raise InputError(f"{path} cannot be read ({error}): it was cut off or damaged") from error
    for name, array in zip(names, arrays, strict=True):
        _refuse_unfit(path, name, array)
    return arrays


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dictionary with tensors as `torch.save` does."""
    import torch

    # Into memory first: torch hides what a full disk says behind an error of its own.
    whole = io.BytesIO()
    torch.save(content, whole)
    with whole_file(path) as file:
        file.write(whole.getbuffer())


def _tight(array: np.ndarray) -> np.ndarray:
    """Text as wide as its longest item: the same ids are the same bytes, whatever array they were
    taken from."""
    return np.array(array.tolist(), dtype=str) if array.dtype.kind == "U" else array


def _refuse_unfit(path: Path, name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InputError(f"{path}: array {name!r} has NaN or infinity in row {row}")
    if array.dtype.kind == "O":
        raise InputError(f"{path}: array {name!r} holds Python objects, expected numbers or text")


def file_hash(path: Path) -> str:
    """BLAKE2b of a file's content, as 32 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=HASH_BYTES))
    return digest.hexdigest()


def content_hash(*parts: np.ndarray | str) -> str:
    """BLAKE2b of arrays and strings, their types and shapes included, as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        array = _tight(np.asarray(part))
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
