"""Plays to collaborative-filtering factors: weighted matrix factorisation.

Hu, Koren & Volinsky (2008) as van den Oord et al. (2013) used it: preference `p_ui = [r_ui > 0]`,
confidence `c_ui = 1 + alpha log(1 + r_ui / eps)`, and alternating least squares on

    sum c_ui (p_ui - x_u . y_i)^2 + regularization (|X|^2 + |Y|^2).

Factors come out raw; what the encoder learns from are unit-norm copies, which lessens the influence
of popularity (Dieleman 2014). Matrices are `user_item`: listeners in rows, tracks in columns.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
from threadpoolctl import threadpool_limits

from cbmr.corpus import Plays, rows_of
from cbmr.errors import InputError
from cbmr.files import read_arrays, write_arrays

ITERATIONS = 15
TUNING_GRID = {
    "regularization": (1.0, 10.0, 100.0),
    "alpha": (0.5, 2.0, 8.0),
    "eps": (1e-6, 1.0),
}
TUNING_SHARE = 0.1
"""Share of the training plays hidden to choose among the grid."""
TUNING_DEPTH = 20


@dataclass(frozen=True)
class Factors:
    """CF factors of the tracks and listeners that have training plays.

    `item_factors` is float32 `[tracks, factors]`, `user_factors` `[listeners, factors]`; a
    listener's predicted preference for a track is their inner product.
    """

    track_ids: np.ndarray
    item_factors: np.ndarray
    user_ids: np.ndarray
    user_factors: np.ndarray


def confidence(count: np.ndarray, *, alpha: float, eps: float) -> np.ndarray:
    """`c = 1 + alpha log(1 + r / eps)` of play counts `[plays]` (van den Oord et al. 2013)."""
    return 1.0 + alpha * np.log1p(np.asarray(count, dtype=np.float64) / eps)


def factorize(
    plays: Plays,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    *,
    factors: int = 40,
    regularization: float = 10.0,
    alpha: float = 2.0,
    eps: float = 1e-6,
    rng_seed: int = 0,
) -> Factors:
    """Fit WMF by implicit's ALS. Tracks and listeners without plays get no factors.

    Raises InputError for settings out of range.
    """
    for name, value in {"factors": factors, "alpha": alpha, "eps": eps}.items():
        if not value > 0:
            raise InputError(f"{name}={value}: expected a number above 0")
    if regularization < 0:
        raise InputError(f"regularization={regularization}: expected at least 0")
    from implicit.als import AlternatingLeastSquares

    users, user = np.unique(plays.user, return_inverse=True)
    tracks, track = np.unique(plays.track, return_inverse=True)
    user_item = scipy.sparse.csr_matrix(
        (confidence(plays.count, alpha=alpha, eps=eps).astype(np.float32), (user, track)),
        shape=(len(users), len(tracks)),
    )
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=regularization,
            alpha=1.0,
            iterations=ITERATIONS,
            use_gpu=False,
            random_state=rng_seed,
        )
        model.fit(user_item, show_progress=False)
    return Factors(
        track_ids=track_ids[tracks],
        item_factors=np.asarray(model.item_factors, dtype=np.float32),
        user_ids=user_ids[users],
        user_factors=np.asarray(model.user_factors, dtype=np.float32),
    )


def tune(
    plays: Plays,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    *,
    factors: int,
    rng_seed: int,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Choose regularization, alpha and eps by recall of hidden training plays.

    A tenth of the (listener, track) pairs is hidden; the setting whose first 20 unheard tracks hold
    the largest share of them wins. Returns keyword arguments for `factorize`.
    """
    hidden = np.random.default_rng(rng_seed).random(len(plays.user)) < TUNING_SHARE
    shown = Plays(plays.user[~hidden], plays.track[~hidden], plays.count[~hidden])
    best: dict[str, float] = {}
    best_recall = -1.0
    for values in itertools.product(*TUNING_GRID.values()):
        setting = dict(zip(TUNING_GRID, values, strict=True))
        fitted = factorize(
            shown, track_ids, user_ids, factors=factors, rng_seed=rng_seed, **setting
        )
        recall = _recall(fitted, track_ids, user_ids, shown, plays, hidden)
        report(f"{setting}: recall@{TUNING_DEPTH} {recall:.3f}")
        if recall > best_recall:
            best, best_recall = setting, recall
    return best


def _recall(
    fitted: Factors,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    shown: Plays,
    plays: Plays,
    hidden: np.ndarray,
) -> float:
    user_row = rows_of(fitted.user_ids, user_ids)
    track_row = rows_of(fitted.track_ids, track_ids)
    scores = fitted.user_factors @ fitted.item_factors.T
    scores[user_row[shown.user], track_row[shown.track]] = -np.inf
    user, track = user_row[plays.user[hidden]], track_row[plays.track[hidden]]
    scorable = (user >= 0) & (track >= 0)
    user, track = user[scorable], track[scorable]
    rank = (scores[user] > scores[user, track][:, None]).sum(axis=1)
    return float((rank < TUNING_DEPTH).mean())


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
    track_ids, item_factors, user_ids, user_factors = read_arrays(
        path, "track_ids", "item_factors", "user_ids", "user_factors"
    )
    if item_factors.shape != (len(track_ids), user_factors.shape[1]):
        raise InputError(
            f"{path}: item_factors is {item_factors.shape}, expected "
            f"({len(track_ids)}, {user_factors.shape[1]}): it was made by something else"
        )
    return Factors(track_ids, item_factors, user_ids, user_factors)
