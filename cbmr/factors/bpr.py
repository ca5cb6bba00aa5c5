"""Bayesian personalised ranking (Rendle et al. 2009): a played track before one that was not.

    sum -log sigmoid(x_u . y_i + bias_i - x_u . y_j - bias_j) + regularization |everything|^2

over draws of a played i and an unplayed j, by stochastic gradient descent. How often a track was
played does not enter. The bias takes up popularity and is dropped after the fit: what is left says
whom a track suits, not how many.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
from threadpoolctl import threadpool_limits

from cbmr.factors.checks import above_zero, at_least_zero, diverged


def bpr(
    user_item: scipy.sparse.csr_matrix,
    *,
    size: int,
    rng_seed: int,
    report: Callable[[str], None],
    learning_rate: float = 0.01,
    regularization: float = 0.01,
    iterations: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit by implicit's BPR (see `models.MODELS`); an iteration is as many draws as plays."""
    above_zero(learning_rate=learning_rate, iterations=iterations)
    at_least_zero(regularization=regularization)
    from implicit.bpr import BayesianPersonalizedRanking
    from implicit.recommender_base import ModelFitError

    with threadpool_limits(1, user_api="blas"):
        model = BayesianPersonalizedRanking(
            factors=size,
            learning_rate=learning_rate,
            regularization=regularization,
            iterations=iterations,
            use_gpu=False,
            num_threads=1,  # more write over one another: no two fits would be the same
            random_state=rng_seed,
        )
        try:
            model.fit(user_item.astype(np.float32), show_progress=False)
        except ModelFitError:
            raise diverged(learning_rate) from None
    # The last column is the bias: the tracks' own, and ones for the listeners.
    return model.user_factors[:, :size], model.item_factors[:, :size]
