"""What is known of a track besides its sound: its artist's and its album's other tracks, and its
plays.

All vectors are of the space of the CF factors. `group_means` and `blend` serve new tracks of known
artists, and `choose_weight` says how far the artist is trusted; `fold_in` and `blend_plays` serve
tracks with few plays, and `seed_queries` seeds that have listeners.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Corpus, Plays, rows_of
from cbmr.factors import Factors, confidence, unit_rows

PRIORS = {"artist": ("artist", "album"), "album": ("album", "artist")}
"""Where a prior looks for a track's training neighbours: the first that has any."""
WEIGHTS = tuple(step / 10 for step in range(1, 10))
USUAL_K = 3.0
"""As how many plays content counts where nobody chose: as validation did on most of the demo worlds
(RESULTS.md)."""
ANCHOR_K = 10.0
"""As many listeners know half of where a track belongs: chosen on validation of two demo worlds, of
seeds 3 and 4, with a tenth of the plays and with one in fifty."""


@dataclass(frozen=True)
class Chosen:
    """A prior's weight, and what validation measures `before` the blend and `after` it."""

    weight: float
    before: dict[str, float]
    after: dict[str, float]

    def __str__(self) -> str:
        changes = [
            f"{name} {self.before[name]:.3f} -> {self.after[name]:.3f}" for name in self.before
        ]
        return f"weight {self.weight} by validation ({', '.join(changes)})"


def training_targets(corpus: Corpus, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """The training tracks that have factors, as rows `[training tracks]` of the corpus, and their
    unit-norm factors `[training tracks, factors]`."""
    at = rows_of(factors.track_ids, corpus.track_ids)
    train = np.flatnonzero((at >= 0) & (corpus.split == "train"))
    return train, unit_rows(factors.item_factors[at[train]])


def group_means(
    corpus: Corpus, train: np.ndarray, targets: np.ndarray, *, prior: str
) -> np.ndarray:
    """Unit vectors `[tracks, factors]`: the mean of the training vectors of the track's artist,
    else of its album (`prior="artist"`), or the other way round (`prior="album"`); zeros where
    neither has a training track. Artists and albums are told apart by name alone.

    By hand: artist X has the training vectors (1, 0) and (0, 1); every track of X gets
    (1, 1) / sqrt(2).
    """
    means = np.zeros((len(corpus.track_ids), targets.shape[1]))
    for kind in PRIORS[prior]:
        names = getattr(corpus, kind)
        _, group = np.unique(names, return_inverse=True)
        total = np.zeros((group.max() + 1, targets.shape[1]))
        np.add.at(total, group[train], targets)
        sums = total[group]
        found = (names != "") & sums.any(axis=1) & ~means.any(axis=1)
        means[found] = unit_rows(sums[found])
    return means.astype(np.float32)


def priors_of_new_tracks(
    corpus: Corpus, train: np.ndarray, targets: np.ndarray, *, prior: str
) -> np.ndarray:
    """`group_means` of every track but the training tracks, which get zeros and so are never
    blended: their own plays, which the encoder learned from, would come back to them, and as seeds
    they would move away from the new artists, who have no prior to move by."""
    means = group_means(corpus, train, targets, prior=prior)
    means[train] = 0
    return means


def blend(predicted: np.ndarray, prior: np.ndarray, weight: float | np.ndarray) -> np.ndarray:
    """`unit(weight * prior + (1 - weight) * predicted)`, all `[tracks, size]`; where the prior is
    zeros, the predicted vector exactly as it is."""
    mixed = weight * prior + (1 - weight) * predicted
    changed = prior.any(axis=1) & mixed.any(axis=1)
    blended = np.array(predicted, dtype=np.float32)
    blended[changed] = unit_rows(mixed[changed])
    return blended


def choose_weight(
    predicted: np.ndarray,
    prior: np.ndarray,
    measure: Callable[[np.ndarray], dict[str, float]],
) -> Chosen | None:
    """The weight, 0 or one of `WEIGHTS`, with the highest `listening_auc` on validation among those
    that do not lower its `thumbs_auc`, where there are votes; of equals the smallest.

    `predicted` and `prior` are `[tracks, size]` of what `measure` (`HeldOut.measure`) asks for.
    None where validation has no listening or no track with a prior: nothing to learn from.
    """
    before = measure(predicted)
    if "listening_auc" not in before or not prior.any():
        return None
    chosen = Chosen(0.0, before, before)
    for weight in WEIGHTS:
        after = measure(blend(predicted, prior, weight))
        agrees = after.get("thumbs_auc", 0.0) >= before.get("thumbs_auc", 0.0)
        if agrees and after["listening_auc"] > chosen.after["listening_auc"]:
            chosen = Chosen(weight, before, after)
    return chosen


def fold_in(
    user_factors: np.ndarray,
    plays: Plays,
    tracks: int,
    *,
    regularization: float,
    alpha: float,
    eps: float,
) -> np.ndarray:
    """Item factors `[tracks, factors]` of tracks that WMF was not fitted on, from their plays: the
    exact step of alternating least squares with the listeners' factors X held fixed,

        (X'X + X_t' diag(c - 1) X_t + regularization I) y_t = X_t' c,

    X_t being the rows of the track's listeners (Hu, Koren & Volinsky 2008, eq. 5). `plays.user` are
    rows of `user_factors` `[listeners, factors]` and `plays.track` is below `tracks`; a track
    without plays gets zeros. The other settings are those that the factors were fitted with.
    """
    every = user_factors.astype(np.float64)
    shared = every.T @ every + regularization * np.eye(every.shape[1])
    weight = confidence(plays.count, alpha=alpha, eps=eps)
    folded = np.empty((tracks, every.shape[1]))
    order = np.argsort(plays.track, kind="stable")
    begin = np.searchsorted(plays.track, np.arange(tracks + 1), sorter=order)
    for track in range(tracks):
        of_track = order[begin[track] : begin[track + 1]]
        listeners, c = every[plays.user[of_track]], weight[of_track]
        left = shared + (listeners.T * (c - 1)) @ listeners
        folded[track] = np.linalg.solve(left, listeners.T @ c)
    return folded


def blend_plays(
    content: np.ndarray, folded: np.ndarray, plays: float | np.ndarray, k: float
) -> np.ndarray:
    """`unit(n / (n + k) * unit(folded) + k / (n + k) * content)` of tracks with n plays each: the
    content's unit vectors count as k plays. All `[tracks, size]`, `plays` a number or
    `[tracks, 1]`; zeros in `folded` leave content, zeros in `content` CF where there are plays.
    """
    known = folded.any(axis=1)
    cf = np.zeros_like(content)
    cf[known] = unit_rows(folded[known])
    return blend(content, cf, plays / (plays + k))


def seed_queries(content: np.ndarray, track_ids: np.ndarray, factors: Factors) -> np.ndarray:
    """What tracks ask with when they are seeds: `blend_plays` of their `content` `[tracks, size]`
    and their CF factors, by how many listened; without factors, content as it is.

    Only the asking side: what is looked for is compared by sound, heard or not. CF's vectors are
    further apart than those that sound predicts, so with listeners on both sides new tracks would
    be nearer to every seed than heard ones are. The model of a vote (`cbmr.votes`), which compares
    training tracks alone, knows both sides so.
    """
    at = rows_of(factors.track_ids, track_ids)
    cf = np.where((at >= 0)[:, None], factors.item_factors[at], np.float32(0))
    return blend_plays(content, cf, _listeners(factors, track_ids)[:, None], USUAL_K)


def anchor_weights(factors: Factors, track_ids: np.ndarray) -> np.ndarray:
    """How far votes leave a track where stage 1 had it, `n / (n + 10)` `[tracks]` of n listeners:
    beside its sound, stage 1 knew of it what these said."""
    listeners = _listeners(factors, track_ids)
    return (listeners / (listeners + ANCHOR_K)).astype(np.float32)


def _listeners(factors: Factors, track_ids: np.ndarray) -> np.ndarray:
    """How many played each track, `[tracks]`; 0 where it has no factors."""
    at = rows_of(factors.track_ids, track_ids)
    return np.where(at >= 0, factors.item_listeners[at], 0)
