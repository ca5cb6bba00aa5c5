"""Who answers: baselines, the stages, an oracle that has seen the answers, and ceilings.

Every row's vectors are unit-norm. A track without audio has zeros in the rows that need sound.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from cbmr.corpus import Corpus, rows_of, training_plays
from cbmr.evaluation.baselines import mel_statistics, ridge_vectors, word_vectors
from cbmr.evaluation.held_out import held_out
from cbmr.evaluation.question import Question
from cbmr.factors import Factors, factorize, unit_rows
from cbmr.files import read_arrays
from cbmr.priors import (
    blend,
    choose_weight,
    group_means,
    priors_of_new_tracks,
    seed_queries,
    training_targets,
)
from cbmr.spectrograms import Store
from cbmr.vectors import Vectors, aligned

PRIOR = "artist"
ORACLE_REGULARIZATION = 10.0
"""Less than a run's: the oracle has seen the answers and may fit them closely."""


@dataclass(frozen=True)
class Row:
    """One way to score tracks, `[tracks]` being the corpus's.

    Listening is `users @ vectors`, a vote `queries[seed] . vectors[track]`; where `track_score`
    `[tracks]` is given it replaces both. `users` is `[listeners, size]`, of `Question.users`;
    `queries` `[tracks, size]`, as `vectors`, is what seeds ask with, by default their vectors.
    """

    name: str
    vectors: np.ndarray | None = None
    users: np.ndarray | None = None
    track_score: np.ndarray | None = None
    queries: np.ndarray | None = None


def make_rows(
    corpus: Corpus,
    store: Store,
    factors: Factors,
    question: Question,
    stages: Mapping[str, Vectors],
    learned_users: Mapping[str, np.ndarray],
    *,
    words: int,
    hidden: int,
    rng_seed: int,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Baselines, the stages, both as they are served, an oracle and ceilings.

    `stages` holds what each stage predicts from sound alone, and `learned_users` the listeners
    `[listeners of the factors, size]` of a stage that learned its own. `+ prior` is what serving
    adds to sound (`cbmr.priors`): the artist of new tracks, its weight learned on validation for
    each row by itself and told to `report`, and seeds' own listeners;
    `artist mean +` weighs both alike, and takes all training tracks where the artist is unknown.
    The bag of MFCCs has so many `words`, its MLP so many `hidden` units; `words=0` leaves both out.
    """
    users = _take(factors.user_factors, factors.user_ids, corpus.user_ids[question.users])
    tracks, size = len(corpus.track_ids), factors.item_factors.shape[1]
    train, targets = training_targets(corpus, factors)

    rng = np.random.default_rng(rng_seed)
    everything = unit_rows(np.broadcast_to(targets.mean(axis=0), (tracks, size)))
    means = group_means(corpus, train, targets, prior=PRIOR)
    by_artist = np.where(means.any(axis=1, keepdims=True), means, everything)
    ridge = ridge_vectors(corpus, store, mel_statistics(store), train, targets)
    by_words = {}
    if words and store.mel_spec is not None:  # words are of sound
        by_words = word_vectors(
            corpus, store, train, targets, words=words, hidden=hidden, rng_seed=rng_seed,
            report=report,
        )  # fmt: skip
    by_sound = {"ridge": ridge, **{name: aligned(corpus, of) for name, of in stages.items()}}
    with_prior = _with_prior(corpus, store, factors, by_sound, learned_users, report)

    rows = [
        Row("random", unit_rows(rng.standard_normal((tracks, size))), users),
        Row("popularity", track_score=_popularity(corpus, train)),
        Row("mean vector", everything, users),
        Row("artist mean", by_artist, users),
        *(Row(name, vectors, users) for name, vectors in by_words.items()),
    ]
    for name, vectors in by_sound.items():
        learned = learned_users.get(name, factors.user_factors)
        heard_by = _take(learned, factors.user_ids, corpus.user_ids[question.users])
        rows.append(Row(name, vectors, heard_by))
        rows.append(Row(f"artist mean + {name}", unit_rows(vectors + by_artist), heard_by))
        if name in with_prior:
            queries = seed_queries(with_prior[name], corpus.track_ids, factors)
            rows.append(Row(f"{name} + prior", with_prior[name], heard_by, queries=queries))
    rows.append(_oracle(corpus, question, size, rng_seed))
    return rows + _ceilings(corpus, question, users)


def _with_prior(
    corpus: Corpus,
    store: Store,
    factors: Factors,
    by_sound: Mapping[str, np.ndarray],
    learned_users: Mapping[str, np.ndarray],
    report: Callable[[str], None],
) -> dict[str, np.ndarray]:
    prior = priors_of_new_tracks(corpus, *training_targets(corpus, factors), prior=PRIOR)
    valid = held_out(corpus, factors, store)
    rows = corpus.track_rows(store.track_ids[valid.rows])
    blended = {}
    for name, vectors in by_sound.items():
        measure = partial(valid.measure, users=learned_users.get(name))
        chosen = choose_weight(vectors[rows], prior[rows], measure)
        if chosen is None:
            report("no played validation track has a known artist or album: no rows with a prior")
            break
        report(f"{name} + prior: {chosen}")
        blended[name] = blend(vectors, prior, chosen.weight)
    return blended


def _take(values: np.ndarray, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = rows_of(ids, wanted)
    assert (at >= 0).all()
    taken: np.ndarray = values[at]
    return taken


def _popularity(corpus: Corpus, train: np.ndarray) -> np.ndarray:
    """`[tracks]`: listeners of the artist's training tracks on average; of all, where unknown."""
    plays = training_plays(corpus)
    listeners = np.bincount(plays.track, minlength=len(corpus.track_ids)).astype(float)
    _, artist = np.unique(corpus.artist, return_inverse=True)
    tracks = np.bincount(artist[train], minlength=len(listeners))[artist]
    total = np.bincount(artist[train], listeners[train], minlength=len(listeners))[artist]
    known = (corpus.artist != "") & (tracks > 0)
    return np.where(known, total / np.maximum(tracks, 1), listeners[train].mean())


def _oracle(corpus: Corpus, question: Question, factors: int, rng_seed: int) -> Row:
    """CF fitted with the plays that everything else is asked to foretell."""
    assert corpus.plays is not None
    fitted = factorize(
        corpus.plays, corpus.track_ids, corpus.user_ids,
        size=factors, rng_seed=rng_seed, regularization=ORACLE_REGULARIZATION,
    )  # fmt: skip
    at = rows_of(fitted.track_ids, corpus.track_ids)
    vectors = np.zeros((len(at), factors), dtype=np.float32)
    vectors[at >= 0] = unit_rows(fitted.item_factors[at[at >= 0]])
    users = _take(fitted.user_factors, fitted.user_ids, corpus.user_ids[question.users])
    return Row("oracle: CF with held-out plays", vectors, users)


def _ceilings(corpus: Corpus, question: Question, users: np.ndarray) -> list[Row]:
    """What a simulated world knows of itself, scored by its own listeners and by the run's."""
    path = corpus.folder / "truth.npz"
    if not path.exists():
        return []
    track_ids, track_taste, sound_taste, user_ids, user_taste = read_arrays(
        path, "track_ids", "track_taste", "sound_taste", "user_ids", "user_taste"
    )
    at = rows_of(track_ids, corpus.track_ids)
    listeners = _take(user_taste, user_ids, corpus.user_ids[question.users])
    rows = []
    for name, taste in {"sound": sound_taste[at], "truth": track_taste[at]}.items():
        affinity = listeners @ taste.T
        affinity -= affinity.mean(axis=1, keepdims=True)
        through = np.linalg.lstsq(users, affinity, rcond=None)[0].T
        rows += [
            Row(f"ceiling: {name}, the run's listeners", unit_rows(through), users),
            Row(f"ceiling: {name}", unit_rows(taste), listeners),
        ]
    return rows
