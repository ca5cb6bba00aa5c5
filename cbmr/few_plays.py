"""Tracks with few plays: collaborative filtering alone, content alone, and both.

Held-out tracks play the part. Of each track's listeners n are revealed, drawn at random, fewer
within more; an item factor is folded in from their plays alone, and the track is scored by how well
it tells its other listeners from those who do not play it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Corpus, Plays, rows_of
from cbmr.factors import Factors
from cbmr.metrics import pooled_auc
from cbmr.priors import blend_plays, fold_in

ROWS = ("CF alone", "content alone", "blend")
PAIRS = (("blend", "content alone"), ("blend", "CF alone"))
REVEALED = (0, 1, 3, 10, 30)
LEAST_LISTENERS = 40
"""A track with fewer has too few left to be scored by once 30 are revealed."""
MOST_TRACKS = 300
K_GRID = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class FewPlays:
    """`auc[row, revealed, track]` of `ROWS` and `REVEALED`; `k` as chosen on `chosen_on`
    validation tracks."""

    k: float
    chosen_on: int
    auc: np.ndarray

    def at(self, row: str, revealed: int) -> float:
        """The mean AUC over tracks."""
        return float(self._of(row, revealed).mean())

    def difference(
        self, row: str, other: str, revealed: int, *, bootstraps: int, rng_seed: int
    ) -> np.ndarray:
        """`row` less `other`: the value and its paired 95 % interval over tracks, `[3]`."""
        values = self._of(row, revealed) - self._of(other, revealed)
        rng = np.random.default_rng(rng_seed)
        draws = values[rng.integers(0, len(values), (bootstraps, len(values)))].mean(axis=1)
        return np.array([values.mean(), *np.quantile(draws, [0.025, 0.975])])

    def numbers(self, split: str, *, bootstraps: int, rng_seed: int) -> dict[str, float]:
        """Flat names to numbers: `split / few plays / row / AUC at n`, the same of `PAIRS` with
        their ends, and k."""
        named = {"few plays / k": self.k}
        for revealed in REVEALED:
            for row in ROWS:
                named[f"{split} / few plays / {row} / AUC at {revealed}"] = self.at(row, revealed)
            for row, other in PAIRS:
                name = f"{split} / few plays / {row} - {other} / AUC at {revealed}"
                value, low, high = self.difference(
                    row, other, revealed, bootstraps=bootstraps, rng_seed=rng_seed
                ).tolist()
                named |= {name: value, f"{name} low": low, f"{name} high": high}
        return named

    def _of(self, row: str, revealed: int) -> np.ndarray:
        of_row: np.ndarray = self.auc[ROWS.index(row), REVEALED.index(revealed)]
        return of_row


def few_plays(
    corpus: Corpus,
    factors: Factors,
    content: np.ndarray,
    listeners: np.ndarray,
    *,
    split: str,
    model: Mapping[str, float],
    rng_seed: int,
) -> FewPlays | None:
    """The table of a split, with k chosen on validation: the one of `K_GRID` whose blend has the
    highest AUC, on average over every number of revealed listeners (`choose_k`).

    `content` is `[tracks, factors]`, unit vectors, zeros for a track without audio; `listeners` are
    the rows of `corpus.user_ids` to ask, ascending, all of them in `factors`; `model` is the
    settings of `fold_in` that `factors` were fitted with. None where one of the two splits has no
    track with `LEAST_LISTENERS` among them.
    """
    shared = (corpus, factors, content, listeners)
    chosen = choose_k(*shared, model=model, rng_seed=rng_seed)
    asked = _simulate(*shared, split=split, model=model, rng_seed=rng_seed)
    if chosen is None or asked is None:
        return None
    k, chosen_on = chosen
    alone = np.broadcast_to(asked.content, asked.folded.shape)
    rows = (asked.folded, alone, _blended(asked, k))
    return FewPlays(k, chosen_on, np.stack([_auc(asked, row) for row in rows]))


def choose_k(
    corpus: Corpus,
    factors: Factors,
    content: np.ndarray,
    listeners: np.ndarray,
    *,
    model: Mapping[str, float],
    rng_seed: int,
) -> tuple[float, int] | None:
    """The k of `few_plays`, and on how many validation tracks it was chosen; None where none has
    enough listeners."""
    valid = _simulate(
        corpus, factors, content, listeners, split="valid", model=model, rng_seed=rng_seed
    )
    if valid is None:
        return None
    k = max(K_GRID, key=lambda k: float(_auc(valid, _blended(valid, k)).mean()))
    return k, len(valid.content)


@dataclass(frozen=True)
class _Simulated:
    """Tracks with few plays: their `content` `[tracks, factors]`, the item factors `folded` in from
    the plays revealed `[revealed, tracks, factors]`, the listeners' factors, who `played`
    `[tracks, listeners]`, and the `place` at which a player is revealed; others come last."""

    content: np.ndarray
    folded: np.ndarray
    users: np.ndarray
    played: np.ndarray
    place: np.ndarray


def _simulate(
    corpus: Corpus,
    factors: Factors,
    content: np.ndarray,
    listeners: np.ndarray,
    *,
    split: str,
    model: Mapping[str, float],
    rng_seed: int,
) -> _Simulated | None:
    plays = corpus.plays
    assert plays is not None
    tracks = corpus.in_split(split)
    tracks = tracks[content[tracks].any(axis=1)]
    here = np.isin(plays.user, listeners) & np.isin(plays.track, tracks)
    count = np.zeros((len(tracks), len(listeners)), dtype=np.int64)
    user, track = plays.user[here], plays.track[here]
    count[np.searchsorted(tracks, track), np.searchsorted(listeners, user)] = plays.count[here]

    players = (count > 0).sum(axis=1)
    fit = np.flatnonzero((players >= LEAST_LISTENERS) & (players < len(listeners)))
    if not len(fit):
        return None
    rng = np.random.default_rng(rng_seed)
    fit = np.sort(rng.choice(fit, min(MOST_TRACKS, len(fit)), replace=False))
    count, tracks = count[fit], tracks[fit]
    place = np.full(count.shape, len(listeners))
    for row, track_count in enumerate(count):
        played_by = rng.permutation(np.flatnonzero(track_count))
        place[row, played_by] = np.arange(len(played_by))

    at = rows_of(factors.user_ids, corpus.user_ids[listeners])
    folded = np.zeros((len(REVEALED), len(tracks), factors.user_factors.shape[1]))
    for step, revealed in enumerate(REVEALED):
        of_track, listener = np.nonzero(place < revealed)
        shown = Plays(at[listener], of_track, count[of_track, listener])
        folded[step] = fold_in(factors.user_factors, shown, len(tracks), **model)
    return _Simulated(content[tracks], folded, factors.user_factors[at], count > 0, place)


def _blended(simulated: _Simulated, k: float) -> np.ndarray:
    return np.stack(
        [
            blend_plays(simulated.content, folded, revealed, k)
            for revealed, folded in zip(REVEALED, simulated.folded, strict=True)
        ]
    )


def _auc(simulated: _Simulated, vectors: np.ndarray) -> np.ndarray:
    """`[revealed, tracks]` of `vectors` `[revealed, tracks, factors]`, over the listeners that are
    not revealed."""
    # Rounded, so that equal vectors tie exactly whatever order a matrix product sums in.
    scores = np.round(vectors @ simulated.users.T, 6)
    values = np.empty(scores.shape[:2])
    for step, revealed in enumerate(REVEALED):
        for track, hidden in enumerate(simulated.place >= revealed):
            played = simulated.played[track, hidden]
            values[step, track] = pooled_auc(scores[step, track, hidden], played)
    return values
