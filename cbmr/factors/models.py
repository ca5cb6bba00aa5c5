"""The CF models by name, fitted on plays; `concat` joins several of them, `sessions` has listening
sessions in place of listeners.

A model is a function of `user_item` `[listeners, tracks]`, the play counts, each row and column
with at least one; of `size`, `rng_seed`, `report` (told what a person should know of the fit) and
its own options. It returns user factors `[listeners, size]` and item factors `[tracks, size]`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from cbmr.corpus import Plays
from cbmr.errors import InputError
from cbmr.factors.artefact import Factors, unit_rows
from cbmr.factors.bpr import bpr
from cbmr.factors.checks import above_zero
from cbmr.factors.wmf import by_density, wmf

Model = Callable[..., tuple[np.ndarray, np.ndarray]]


def _vector_exp(*arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    from cbmr.factors.vector_exp import vector_exp  # here, since it loads torch and Lightning

    return vector_exp(*arguments, **options)


SINGLE: dict[str, Model] = {"wmf": wmf, "bpr": bpr, "vector_exp": _vector_exp}


def concat(
    user_item: scipy.sparse.csr_matrix,
    *,
    size: int,
    rng_seed: int,
    report: Callable[[str], None],
    models: Sequence[str] = ("wmf", "vector_exp"),
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of several models side by side, `size` columns each, by each one's own defaults.

    Of K blocks, a track's is its unit vector divided by sqrt(K), so the cosine of two tracks is the
    mean of their cosines in the blocks. A listener's is divided by sqrt(K) and by the spread of
    that block's scores, so the inner product of a listener and a track is the mean of the blocks'
    scores, each with the same say: models differ in the length of their listeners by orders of
    magnitude, and only how a listener's scores differ between tracks has any effect on a ranking.
    The spread is one number a block, the root mean square over listeners of the standard deviation
    over tracks: a listener whom a model knows little of keeps scores that differ little.
    """
    if len(models) < 2 or len(set(models)) < len(models) or not set(models) <= set(SINGLE):
        raise InputError(
            f"models={list(models)}: expected two or more of {', '.join(SINGLE)}, each once"
        )
    users, items = [], []
    for name in models:
        user_block, item_block = SINGLE[name](
            user_item, size=size, rng_seed=rng_seed, report=report
        )
        unit = unit_rows(item_block)
        spread = _spread(user_block, unit)
        if not spread > 0:
            raise InputError(f"concat: {name} scores every track alike: there is nothing to join")
        users.append(user_block / spread)
        items.append(unit)
    root = np.sqrt(len(models))
    return np.hstack(users) / root, np.hstack(items) / root


def _spread(users: np.ndarray, items: np.ndarray) -> float:
    """Root mean square over listeners of the standard deviation over tracks of `users @ items.T`,
    by the tracks' covariance, without the matrix of scores."""
    covariance = np.cov(items.T.astype(np.float64), bias=True)
    return float(np.sqrt(np.einsum("ui,ij,uj->u", users, covariance, users).mean()))


def sessions(
    user_item: scipy.sparse.csr_matrix,
    *,
    size: int,
    rng_seed: int,
    report: Callable[[str], None],
    regularization: float = 3.0,
    learning_rate: float = 0.1,
    epochs: int = 40,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """`vector_exp` of rows that are listening sessions: what one person heard in one go, as it
    learns from what many people heard. A session holds few tracks, hence the weaker prior."""
    return _vector_exp(
        user_item, size=size, rng_seed=rng_seed, report=report, regularization=regularization,
        learning_rate=learning_rate, epochs=epochs, batch_size=batch_size,
    )  # fmt: skip


MODELS: dict[str, Model] = {**SINGLE, "concat": concat, "sessions": sessions}


def settled(plays: Plays, *, model: str, **options: Any) -> dict[str, Any]:
    """`options` of a model with the numbers that it takes for what is None of them."""
    if model != "wmf":
        return options
    listeners = np.bincount(plays.track)
    chosen = by_density(listeners[listeners > 0], len(np.unique(plays.user)))
    return {name: chosen.get(name) if value is None else value for name, value in options.items()}


def factorize(
    plays: Plays,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    *,
    model: str = "wmf",
    size: int = 40,
    rng_seed: int = 0,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Factors:
    """Fit `MODELS[model]` with its `options`. Tracks and listeners without plays get no factors.

    `sessions` needs plays by session; a listener is then the mean of its sessions' factors, so that
    its score of a track is the mean of theirs.

    Raises InputError for settings out of range, counts that are not above 0, and a fit that
    diverged.
    """
    above_zero(size=size)
    fit_for_use = np.isfinite(plays.count) & (plays.count > 0)
    if not fit_for_use.all():
        entry = int(np.argmin(fit_for_use))
        raise InputError(
            f"plays: entry {entry} has count {plays.count[entry]}: expected a number above 0"
        )
    row_of = plays.user
    if model == "sessions":
        if plays.session is None:
            raise InputError("factors=sessions: these plays do not say which session each was in")
        row_of = plays.session
    rows, first, row = np.unique(row_of, return_index=True, return_inverse=True)
    tracks, track = np.unique(plays.track, return_inverse=True)
    user_item = scipy.sparse.csr_matrix(
        (plays.count.astype(np.float64), (row, track)), shape=(len(rows), len(tracks))
    )
    row_factors, item_factors = MODELS[model](
        user_item, size=size, rng_seed=rng_seed, report=report, **options
    )
    # A listener is one row, or its sessions' mean.
    users, user = np.unique(plays.user[first], return_inverse=True)
    user_factors = np.zeros((len(users), row_factors.shape[1]))
    np.add.at(user_factors, user, row_factors)
    user_factors /= np.bincount(user)[:, None]
    return Factors(
        track_ids=track_ids[tracks],
        item_factors=np.asarray(item_factors, dtype=np.float32),
        item_listeners=user_item.getnnz(axis=0).astype(np.int64),
        user_ids=user_ids[users],
        user_factors=np.asarray(user_factors, dtype=np.float32),
    )
