"""CF models on simulated listening: `python -m benchmarks.factors [CORPUS]`, Recall@20 and seconds.

A simulation of the shape of the Last.fm-2k counts: 1,892 listeners, 17,632 artists, 92,834 counts,
about 49 a listener, more than half of the artists with one listener, the largest with more than
500. A tenth of the pairs is hidden, three times at random; every model ranks for each listener the
artists that were not shown to it. The second column ranks by unit-norm item factors, which is what
the encoder learns and all that `concat` has: it forgets how popular an artist is.

CORPUS, a demo world's folder say, asks the same of its training plays.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from cbmr.corpus import Plays, training_plays
from cbmr.factors import Factors, factorize, hidden_recall, hide, tune, unit_rows, vector_exp
from cbmr.sources.tables import read_corpus

LISTENERS, ARTISTS, COUNTS = 1_892, 17_632, 92_834
DIMS, FADE = 16, 5.0
FOCUS = 3.0
"""Spread of a listener's affinities, in the logarithm of the odds of playing an artist."""
FAME_EXPONENT, FAME_OFFSET = 1.2, 10
"""Popularity falls as (rank + offset) ** -exponent."""
SPLITS, SHARE, DEPTH = 3, 0.1, 20

Fit = Callable[[Plays, int], Factors]


def main() -> None:
    """Print a Markdown table: means over the splits, and the median seconds of a fit."""
    if sys.argv[1:]:
        corpus = read_corpus(Path(sys.argv[1]), needs=["plays"])
        plays, artist_ids, user_ids = training_plays(corpus), corpus.track_ids, corpus.user_ids
    else:
        plays, artist_ids, user_ids = simulate(rng_seed=0)
    listeners = np.bincount(plays.track)
    print(f"{len(plays.user):,} counts, {(listeners == 1).sum():,} items of one listener, largest "
          f"{listeners.max()}")  # fmt: skip

    def fit(model: str, **options: Any) -> Fit:
        return lambda shown, rng_seed: factorize(
            shown, artist_ids, user_ids, model=model, rng_seed=rng_seed, report=_unsaid, **options
        )

    def tuned_wmf(shown: Plays, rng_seed: int) -> Factors:
        data = (shown, artist_ids, user_ids)
        options = tune(*data, model="wmf", size=40, rng_seed=rng_seed, report=_unsaid)
        return factorize(*data, model="wmf", rng_seed=rng_seed, **options)

    def sampled_softmax(shown: Plays, rng_seed: int) -> Factors:
        with patch.object(vector_exp, "FULL_SOFTMAX_TRACKS", 0):
            return fit("vector_exp")(shown, rng_seed)

    fits = {
        "popularity": lambda shown, _: _popularity(shown, artist_ids, user_ids),
        "wmf": fit("wmf"),
        "wmf, tuned": tuned_wmf,
        "bpr": fit("bpr"),
        "vector_exp": fit("vector_exp"),
        "vector_exp, sampled softmax": sampled_softmax,
        "concat of wmf and vector_exp": fit("concat"),
        "concat of wmf and bpr": fit("concat", models=["wmf", "bpr"]),
    }
    print(f"\n| model | Recall@{DEPTH} | by unit-norm items | seconds |\n|---|---|---|---|")
    for name, one in fits.items():
        rows = []
        for split in range(SPLITS):
            shown, hidden = hide(plays, share=SHARE, rng_seed=100 + split)
            began = time.perf_counter()
            raw = one(shown, split)
            seconds = time.perf_counter() - began
            unit = replace(raw, item_factors=unit_rows(raw.item_factors))
            recalls = [
                hidden_recall(
                    factors, artist_ids, user_ids, shown=shown, hidden=hidden, depth=DEPTH
                )
                for factors in (raw, unit)
            ]
            rows.append((*recalls, seconds))
        recall, by_unit, _ = np.mean(rows, axis=0)
        seconds = np.median(rows, axis=0)[2]
        print(f"| {name} | {recall:.3f} | {by_unit:.3f} | {seconds:.1f} |", flush=True)


def _unsaid(_: str) -> None:
    pass


def _popularity(shown: Plays, artist_ids: np.ndarray, user_ids: np.ndarray) -> Factors:
    users, artists = np.unique(shown.user), np.unique(shown.track)
    listeners = np.bincount(shown.track)[artists]
    everyone = np.ones((len(users), 1), dtype=np.float32)
    return Factors(
        artist_ids[artists], listeners.astype(np.float32)[:, None], listeners,
        user_ids[users], everyone,
    )  # fmt: skip


def simulate(rng_seed: int) -> tuple[Plays, np.ndarray, np.ndarray]:
    """Counts of that shape: tastes of `DIMS` dimensions of falling importance, popularity by a
    power law, counts log-normal and higher for what is liked more.

    Every artist first gets one listener by affinity; listeners then fill up to 49 or 50 artists,
    each with probability proportional to popularity * exp(affinity), without repeating.
    """
    rng = np.random.default_rng(rng_seed)
    importance = np.exp(-np.arange(DIMS) / FADE)
    artist_taste = rng.standard_normal((ARTISTS, DIMS)) * importance
    affinity = (rng.standard_normal((LISTENERS, DIMS)) * importance) @ artist_taste.T
    spread = rng.lognormal(np.log(FOCUS), 0.25, (LISTENERS, 1))
    affinity *= spread / affinity.std(axis=1, keepdims=True)
    fame = -FAME_EXPONENT * np.log(rng.permutation(ARTISTS) + FAME_OFFSET)

    left = np.full(LISTENERS, COUNTS // LISTENERS)
    left[: COUNTS % LISTENERS] += 1
    taken = np.zeros(affinity.shape, dtype=bool)
    for artist in rng.permutation(ARTISTS):
        wish = affinity[:, artist] + rng.gumbel(size=LISTENERS)
        first = np.argmax(np.where(left > 0, wish, -np.inf))
        taken[first, artist] = True
        left[first] -= 1
    # The order of logits plus Gumbel noise is that of draws without replacement.
    wish = np.where(taken, -np.inf, affinity + fame + rng.gumbel(size=affinity.shape))
    for listener, order in enumerate(np.argsort(-wish, axis=1)):
        taken[listener, order[: left[listener]]] = True
    user, track = np.nonzero(taken)
    logarithm = 5.3 + 1.3 * rng.standard_normal(len(user)) + 0.3 * affinity[user, track]
    plays = Plays(user, track, np.ceil(np.exp(logarithm)).astype(np.int64))
    artist_ids, user_ids = (
        np.array([f"{row:05d}" for row in range(size)]) for size in (ARTISTS, LISTENERS)
    )
    return plays, artist_ids, user_ids


if __name__ == "__main__":
    main()
