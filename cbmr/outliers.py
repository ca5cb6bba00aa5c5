"""What does not sound like the rest of a list.

The article's use for it: collaborative filtering puts intros, outros, covers and remixes beside the
songs of their albums, and sound tells them apart (Dieleman 2014).
"""

import numpy as np

NEAREST = 5
DEVIATIONS = 2.5
"""Below the median by so many scaled deviations is an outlier (Leys et al. 2013)."""


def fit_to_rest(vectors: np.ndarray, *, nearest: int = NEAREST) -> np.ndarray:
    """How well each of these unit vectors `[tracks, size]` fits the others: the mean cosine to its
    `nearest` among them, `[tracks]`; of two tracks or more.

    By hand: of (1, 0), (1, 0) and (0, 1), with one nearest, the fits are 1, 1 and 0.
    """
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    most = min(nearest, len(vectors) - 1)
    return np.sort(cosines, axis=1)[:, -most:].mean(axis=1)


def are_odd(fit: np.ndarray) -> np.ndarray:
    """`[tracks]` bool: the fit is below the median by more than `DEVIATIONS` median absolute
    deviations, these scaled by 1.4826 to be the standard deviation of normal values.

    By hand: of .9, .8, .8, .7 and .2 the median is .8 and the deviation .1, so .2 alone is below
    .8 - 2.5 * .148 = .43.
    """
    median = np.median(fit)
    deviation = 1.4826 * np.median(np.abs(fit - median))
    odd: np.ndarray = fit < median - DEVIATIONS * deviation
    return odd
