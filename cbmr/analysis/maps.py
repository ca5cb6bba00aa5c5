"""Maps of the tracks: t-SNE (van der Maaten & Hinton 2008) of what an encoder predicts.

Two of them: by the predicted factors, and by the predicted usage patterns (van den Oord, Dieleman &
Schrauwen 2013), which are the scores that all listeners would give. Both compare by cosine.
"""

from collections.abc import Callable

import numpy as np

from cbmr.errors import InputError
from cbmr.factors import unit_rows

STEPS, EARLY_STEPS = 500, 250
"""openTSNE's own: early ones draw clusters together, the others lay them out."""
EVERY = 25
FEWEST = 4
"""Tracks on a map: with fewer, no perplexity above 1 has enough neighbours."""


def usage_patterns(vectors: np.ndarray, user_factors: np.ndarray) -> np.ndarray:
    """Coordinates `[tracks, factors]` that have the inner products, and so the distances and the
    cosines, of the predicted usage patterns `vectors @ user_factors.T` `[tracks, listeners]`.

    With X the user factors that is the metric X'X, of which the coordinates are `(X'X)^(1/2) v`:
    as many numbers a track as factors, however many listeners there are. By hand: listeners (2, 0)
    and (0, 1) score the tracks (1, 0) and (0, 1) as (2, 0) and (0, 1), which are the coordinates.
    """
    listeners = user_factors.astype(np.float64)
    values, directions = np.linalg.eigh(listeners.T @ listeners)
    root = (directions * np.sqrt(values.clip(min=0))) @ directions.T
    patterns: np.ndarray = vectors @ root
    return patterns


def place(
    vectors: np.ndarray,
    *,
    perplexity: float = 30.0,
    rng_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Places `[tracks, 2]` in -1..1 that keep together what is near by cosine: t-SNE, started from
    the two first principal components. About `perplexity` neighbours count for each track, in a
    small catalogue a third of it. `progress(done, total)` counts steps.

    InputError for fewer than four tracks.
    """
    from openTSNE import TSNE

    if len(vectors) < FEWEST:
        raise InputError(
            f"{len(vectors)} tracks have vectors: expected {FEWEST} or more, or there is no map"
        )
    done = 0

    def step(iteration: int, error: float, embedding: np.ndarray) -> None:
        nonlocal done
        done += EVERY
        if progress is not None:
            progress(done, STEPS + EARLY_STEPS)

    fitted = TSNE(
        perplexity=min(perplexity, (len(vectors) - 1) / 3),
        initialization="pca",
        random_state=rng_seed,
        n_jobs=1,  # several threads wait for each other on a busy machine, and round otherwise
        n_iter=STEPS,
        early_exaggeration_iter=EARLY_STEPS,
        callbacks=step,
        callbacks_every_iters=EVERY,
    ).fit(unit_rows(vectors))
    places = np.asarray(fitted, dtype=np.float64)
    places -= (places.max(axis=0) + places.min(axis=0)) / 2
    in_range: np.ndarray = places / max(np.abs(places).max(), 1e-12)
    return in_range
