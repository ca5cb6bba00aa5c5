"""The one split of the tracks, the same for both stages."""

import hashlib

import numpy as np

from cbmr.errors import InputError

SPLITS = ("train", "valid", "test")
HELD_OUT_SHARE = 0.10
"""Share of the played tracks that become new artists, and again single new tracks, in `valid`."""


def split_by_hash(track_ids: np.ndarray, artist: np.ndarray, played: np.ndarray) -> np.ndarray:
    """Split tracks so that the same names always fall the same way; all arrays `[tracks]`.

    Tracks with no plays are `test`. Of the played, whole artists in BLAKE2b order of their name go
    to `valid` until a tenth of the tracks is there, then single tracks in BLAKE2b order of their id
    until another tenth is, each leaving its artist at least one training track.
    """
    split = np.where(played, "train", "test").astype("<U5")
    quota = HELD_OUT_SHARE * played.sum()
    names, sizes = np.unique(artist[played & (artist != "")], return_counts=True)
    taken = 0
    for name, size in sorted(zip(names, sizes, strict=True), key=lambda pair: _blake2b(pair[0])):
        if taken >= quota or len(names) < 2:
            break
        split[played & (artist == name)] = "valid"
        taken += size
    left = {name: int(((split == "train") & (artist == name)).sum()) for name in names}
    taken = 0
    for row in sorted(np.flatnonzero(split == "train"), key=lambda row: _blake2b(track_ids[row])):
        if taken >= quota:
            break
        name = artist[row]
        if name == "" or left[name] > 1:
            split[row] = "valid"
            taken += 1
            if name != "":
                left[name] -= 1
    if not (split == "train").any():
        raise InputError("no track is left to train on: the corpus needs more played tracks")
    return split


def _blake2b(text: object) -> bytes:
    return hashlib.blake2b(str(text).encode()).digest()
