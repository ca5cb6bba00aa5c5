"""What a corpus was told to forget, so that its source does not bring it back.

    corpus/forgotten.json  format_version, salt; tracks, files and users: keyed BLAKE2b, 32 digits

Names stand there as hashes under the corpus's own salt: who does not know a name cannot read it
there, who does can ask, as `tasks.ingest` does. Removing the file lets everything come back.
"""

import hashlib
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cbmr.errors import InputError
from cbmr.files import HASH_BYTES, read_json, write_json

FILE = "forgotten.json"
FORMAT_VERSION = 1
KINDS = ("tracks", "files", "users")


def remember(folder: Path, **names: Collection[str]) -> None:
    """Add names to the list of the corpus, each under one of `KINDS`."""
    listed = _read(folder)
    for kind, of_kind in names.items():
        hashes = {_hash(name, listed["salt"]) for name in of_kind}
        listed[kind] = sorted({*listed[kind], *hashes})
    write_json(folder / FILE, listed)


def forgotten(folder: Path, kind: str, names: Collection[str]) -> set[str]:
    """Those of `names` that are on the list of the corpus under `kind`."""
    listed = _read(folder)
    hashes = {*listed[kind]}
    return {name for name in names if _hash(name, listed["salt"]) in hashes} if hashes else set()


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.exists():
        salt = secrets.token_hex(HASH_BYTES)
        return {"format_version": FORMAT_VERSION, "salt": salt, **{kind: [] for kind in KINDS}}
    listed = read_json(path)
    if listed.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {listed.get('format_version')}, this cbmr reads {FORMAT_VERSION}: "
            "it was made by a newer one, so update"
        )
    return listed


def _hash(name: str, salt: str) -> str:
    key = bytes.fromhex(salt)
    return hashlib.blake2b(name.encode(), key=key, digest_size=HASH_BYTES).hexdigest()
