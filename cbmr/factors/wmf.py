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


def confidence(count: np.ndarray, *, alpha: float, eps: float) -> np.ndarray:
    """`c = 1 + alpha log(1 + r / eps)` of play counts `[plays]` (van den Oord et al. 2013)."""
    return 1.0 + alpha * np.log1p(np.asarray(count, dtype=np.float64) / eps)


def wmf(
    user_item: scipy.sparse.csr_matrix,
    *,
    size: int,
    rng_seed: int,
    report: Callable[[str], None],
    regularization: float = 60.0,
    alpha: float = 2.0,
    eps: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit by implicit's ALS (see `models.MODELS`)."""
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
