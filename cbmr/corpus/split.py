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
    names, number = np.unique(artist, return_inverse=True)
    named = artist != ""
    sizes = np.bincount(number[played & named], minlength=len(names))
    artists = sorted(np.flatnonzero(sizes), key=lambda each: _blake2b(names[each]))
    new, taken = np.zeros(len(names), dtype=bool), 0
    for each in artists if len(artists) > 1 else ():
        if taken >= quota:
            break
        new[each] = True
        taken += sizes[each]
    split[played & named & new[number]] = "valid"
    left = np.bincount(number[split == "train"], minlength=len(names))
    taken = 0
    for row in sorted(np.flatnonzero(split == "train"), key=lambda row: _blake2b(track_ids[row])):
        if taken >= quota:
            break
        if not named[row] or left[number[row]] > 1:
            split[row] = "valid"
            taken += 1
            left[number[row]] -= 1
    if not (split == "train").any():
        raise InputError("no track is left to train on: the corpus needs more played tracks")
    return split


def _blake2b(text: object) -> bytes:
    return hashlib.blake2b(str(text).encode()).digest()
