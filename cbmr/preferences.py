"""Thumbs to training preferences, as index arrays.

A thumb says whether a track belongs on a station: each vote is a pair (seed, voted track), similar
on an up, dissimilar on a down. Within one listener's station, every up is preferred to every down:
what a listener's kindness or a station's quality adds to all of its votes cancels there. Each
group weighs the same whatever its size, so that heavy voters do not dominate.
"""

from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Thumbs


@dataclass(frozen=True)
class Preferences:
    """Training preferences as track rows.

    `votes`: `seed`, `track`, `up`, `weight`, each `[votes]`. `pairs`: `[pairs, 3]` of (seed, the
    track preferred, the track it is preferred to) and their `pair_weight`. Weights average 1.
    `stations` holds the rows of each (listener, seed) group's tracks, the seed first.
    """

    seed: np.ndarray
    track: np.ndarray
    up: np.ndarray
    weight: np.ndarray
    pairs: np.ndarray
    pair_weight: np.ndarray
    stations: tuple[np.ndarray, ...]


def make_preferences(thumbs: Thumbs) -> Preferences:
    """Group votes by (listener, seed) and weigh every group alike.

    By hand: listener u, seed s, ups on a and b, a down on c. The votes (s, a, up), (s, b, up),
    (s, c, down) weigh 1/3 each, the pairs (s, a, c) and (s, b, c) 1/2 each, before the weights are
    scaled to average 1.
    """
    key = np.stack([thumbs.user, thumbs.seed])
    _, group, sizes = np.unique(key, axis=1, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    pairs, pair_weight, stations = [], [], []
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        tracks, up = thumbs.track[members], thumbs.up[members]
        seed = thumbs.seed[members[:1]]
        stations.append(np.unique(np.concatenate([seed, tracks])))
        preferred, other = np.meshgrid(tracks[up], tracks[~up], indexing="ij")
        if preferred.size:
            of_seed = np.full(preferred.size, seed[0])
            pairs.append(np.stack([of_seed, preferred.ravel(), other.ravel()], axis=1))
            pair_weight.append(np.full(preferred.size, 1.0 / preferred.size))
    return Preferences(
        seed=thumbs.seed,
        track=thumbs.track,
        up=thumbs.up,
        weight=_averaging_one(1.0 / sizes[group]),
        pairs=np.concatenate(pairs) if pairs else np.empty((0, 3), dtype=np.int64),
        pair_weight=_averaging_one(np.concatenate(pair_weight) if pairs else np.empty(0)),
        stations=tuple(stations),
    )


def _averaging_one(weight: np.ndarray) -> np.ndarray:
    return (weight / weight.mean() if len(weight) else weight).astype(np.float32)
