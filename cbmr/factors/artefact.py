"""`factors.npz`: CF factors of tracks and listeners, and their unit-norm copies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmr.corpus import rows_of
from cbmr.errors import InputError
from cbmr.files import read_arrays, write_arrays


@dataclass(frozen=True)
class Factors:
    """CF factors of the tracks and listeners that have training plays.

    `item_factors` is float32 `[tracks, factors]`, `user_factors` `[listeners, factors]`; a
    listener's predicted preference for a track is their inner product. `item_listeners` `[tracks]`
    is how many played each (listening sessions, where the factors are of those).
    """

    track_ids: np.ndarray
    item_factors: np.ndarray
    item_listeners: np.ndarray
    user_ids: np.ndarray
    user_factors: np.ndarray


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows `[n, size]` scaled to unit norm; InputError for a row of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (norms == 0).any():
        raise InputError(f"row {int(np.argmin(norms))} is all zeros and has no direction")
    return (vectors / norms).astype(np.float32)


def unit_targets(factors: Factors, track_ids: np.ndarray) -> np.ndarray:
    """Unit-norm item factors float32 `[tracks, factors]` of these tracks; NaN for one without."""
    at = rows_of(factors.track_ids, track_ids)
    targets = np.full((len(at), factors.item_factors.shape[1]), np.nan, dtype=np.float32)
    targets[at >= 0] = unit_rows(factors.item_factors[at[at >= 0]])
    return targets


def save_factors(path: Path, fitted: Factors) -> None:
    """Write `factors.npz`."""
    write_arrays(path, **vars(fitted))


def load_factors(path: Path) -> Factors:
    """Read `factors.npz`; InputError when it is damaged or its shapes disagree."""
    track_ids, item_factors, item_listeners, user_ids, user_factors = read_arrays(
        path, "track_ids", "item_factors", "item_listeners", "user_ids", "user_factors"
    )
    if item_factors.shape != (len(track_ids), user_factors.shape[1]):
        raise InputError(
            f"{path}: item_factors is {item_factors.shape}, expected "
            f"({len(track_ids)}, {user_factors.shape[1]}): it was made by something else"
        )
    return Factors(track_ids, item_factors, item_listeners, user_ids, user_factors)
