"""Weighted matrix factorisation.

Hu, Koren & Volinsky (2008) as van den Oord et al. (2013) used it: preference `p_ui = [r_ui > 0]`,
confidence `c_ui = 1 + alpha log(1 + r_ui / eps)`, and alternating least squares on

    sum c_ui (p_ui - x_u . y_i)^2 + regularization (|X|^2 + |Y|^2).
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
from threadpoolctl import threadpool_limits

from cbmr.factors.checks import above_zero, at_least_zero

ITERATIONS = 15
PLAYS_SAY, ABOVE_NOISE = 0.29, 0.44
"""Of `by_density`: chosen on demo worlds of seeds 3 to 5."""


def confidence(count: np.ndarray, *, alpha: float, eps: float) -> np.ndarray:
    """`c = 1 + alpha log(1 + r / eps)` of play counts `[plays]` (van den Oord et al. 2013)."""
    return 1.0 + alpha * np.log1p(np.asarray(count, dtype=np.float64) / eps)


def by_density(listeners: np.ndarray, users: int) -> dict[str, float]:
    """`alpha` and `regularization` for plays of tracks with so many `listeners` `[tracks]`, at
    least one each, of `users` in all: what suits one catalogue is far off on one eight times as
    sparse.

    A play's track was played by the share `d = sum n^2 / (users sum n)` of the users, as the
    average play sees it. `alpha = .29 / d` gives plays the same say beside all that was not played.
    Noise of that share, each of size alpha, has its largest singular value near
    `alpha sqrt(d) (sqrt(users) + sqrt(tracks))`, and the regularization is half as large again.

    By hand: four tracks of 5 listeners each, of 25 users, have d = .2, so alpha is 1.45, and the
    regularization .44 (5 + 2) / sqrt(.2) = 6.89.
    """
    share = float(np.square(listeners, dtype=np.float64).sum() / (users * listeners.sum()))
    regularization = ABOVE_NOISE * (users**0.5 + len(listeners) ** 0.5) / share**0.5
    return {"alpha": PLAYS_SAY / share, "regularization": regularization}


def wmf(
    user_item: scipy.sparse.csr_matrix,
    *,
    size: int,
    rng_seed: int,
    report: Callable[[str], None],
    regularization: float | None = None,
    alpha: float | None = None,
    eps: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit by implicit's ALS (see `models.MODELS`); what is None is chosen `by_density`."""
    chosen = by_density(user_item.getnnz(axis=0), user_item.shape[0])
    alpha = chosen["alpha"] if alpha is None else alpha
    regularization = chosen["regularization"] if regularization is None else regularization
    above_zero(alpha=alpha, eps=eps)
    at_least_zero(regularization=regularization)
    from implicit.als import AlternatingLeastSquares

    weighted = user_item.astype(np.float32)
    weighted.data = confidence(user_item.data, alpha=alpha, eps=eps).astype(np.float32)
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=size,
            regularization=regularization,
            alpha=1.0,
            iterations=ITERATIONS,
            use_gpu=False,
            random_state=rng_seed,
        )
        model.fit(weighted, show_progress=False)
    return model.user_factors, model.item_factors
