"""Settings of a CF model chosen by the recall of hidden training plays."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse

from cbmr.corpus import Plays, rows_of
from cbmr.errors import InputError
from cbmr.factors.artefact import Factors
from cbmr.factors.models import factorize, settled

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "wmf": {"regularization": (0.25, 1.0), "alpha": (0.25, 1.0, 4.0), "eps": (1e-6, 1.0)},
    "bpr": {"learning_rate": (0.003, 0.01, 0.03), "regularization": (0.001, 0.01, 0.1)},
    "vector_exp": {"regularization": (1.0, 3.0, 10.0, 30.0)},
    "sessions": {"regularization": (0.3, 1.0, 3.0, 10.0)},
}
"""Values, or of what a model settles by the plays (`settled`) multiples of that."""
TUNING_SHARE = 0.1
"""Share of the training plays hidden to choose among the grid."""
TUNING_DEPTH = 20
BLOCK = 1_000
"""Listeners scored at a time."""


def tune(
    plays: Plays,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    *,
    model: str,
    size: int,
    rng_seed: int,
    report: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """`options`, with those that `GRIDS[model]` names chosen by recall of hidden training plays.

    A tenth of the (listener, track) pairs is hidden; the setting whose first 20 unheard tracks hold
    the largest share of them wins. Where sessions are told apart, each is asked for its own. Raises
    InputError for a model without a grid, and for plays too few to hide any.
    """
    if model not in GRIDS:
        raise InputError(
            f"factors.tune=true: {model} has nothing to choose, expected {', '.join(GRIDS)}"
        )
    by_plays = settled(plays, model=model, **dict.fromkeys(GRIDS[model]))
    grid = {
        name: [value * (by_plays[name] or 1.0) for value in values]
        for name, values in GRIDS[model].items()
    }
    session = plays.session
    if session is not None:
        plays, user_ids = replace(plays, user=session), np.arange(session.max() + 1).astype(str)
    shown, hidden = hide(plays, share=TUNING_SHARE, rng_seed=rng_seed)
    if not (len(shown.user) and len(hidden.user)):
        raise InputError(
            f"factors.tune=true hides a tenth of the training plays and chooses by them, and there "
            f"are {len(plays.user)}: expected some hundred, or factors.tune=false"
        )
    best: dict[str, Any] = {}
    best_recall = -1.0
    for values in itertools.product(*grid.values()):
        setting = dict(zip(grid, values, strict=True))
        fitted = factorize(
            shown, track_ids, user_ids, model=model, size=size, rng_seed=rng_seed,
            report=lambda _: None, **{**options, **setting},
        )  # fmt: skip
        recall = hidden_recall(
            fitted, track_ids, user_ids, shown=shown, hidden=hidden, depth=TUNING_DEPTH
        )
        said = ", ".join(f"{name} {value:.4g}" for name, value in setting.items())
        report(f"{said}: recall@{TUNING_DEPTH} {recall:.3f}")
        if recall > best_recall:
            best, best_recall = setting, recall
    return {**options, **best}


def hide(plays: Plays, *, share: float, rng_seed: int) -> tuple[Plays, Plays]:
    """The plays parted at random into those shown and a `share` of them that is hidden."""
    hidden = np.random.default_rng(rng_seed).random(len(plays.user)) < share
    return plays[~hidden], plays[hidden]


def hidden_recall(
    fitted: Factors,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    *,
    shown: Plays,
    hidden: Plays,
    depth: int,
) -> float:
    """Share of the hidden plays among their listeners' first `depth` tracks that are not shown.

    A hidden play of a track or a listener without factors is missed.
    """
    listeners, tracks = len(fitted.user_ids), len(fitted.track_ids)
    user_row, track_row = rows_of(fitted.user_ids, user_ids), rows_of(fitted.track_ids, track_ids)

    def as_matrix(plays: Plays) -> scipy.sparse.csr_matrix:
        user, track = user_row[plays.user], track_row[plays.track]
        known = (user >= 0) & (track >= 0)
        ones = np.ones(int(known.sum()), dtype=bool)
        return scipy.sparse.csr_matrix((ones, (user[known], track[known])), (listeners, tracks))

    heard, wanted = as_matrix(shown), as_matrix(hidden)
    depth = min(depth, tracks)
    found = 0
    for first in range(0, listeners, BLOCK):
        block = slice(first, first + BLOCK)
        scores = fitted.user_factors[block] @ fitted.item_factors.T
        scores[heard[block].nonzero()] = -np.inf
        top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        found += int(np.take_along_axis(wanted[block].toarray(), top, axis=1).sum())
    return found / len(hidden.user)
