"""Who answers: baselines, the stages, an oracle that has seen the answers, and ceilings.

Every row's vectors are unit-norm. A track without audio has zeros in the rows that need sound.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbmr.corpus import Corpus, rows_of, training_plays
from cbmr.evaluation.question import Question
from cbmr.factors import Factors, factorize, unit_rows
from cbmr.files import read_arrays
from cbmr.spectrograms import SpectrogramStore
from cbmr.vectors import Vectors

RIDGE_ALPHAS = np.logspace(0, 6, 25)


@dataclass(frozen=True)
class Row:
    """One way to score tracks, `[tracks]` being the corpus's.

    Listening is `users @ vectors`, a vote `vectors[seed] . vectors[track]`; where `track_score`
    `[tracks]` is given it replaces both. `users` is `[listeners, size]`, of `Question.users`.
    """

    name: str
    vectors: np.ndarray | None = None
    users: np.ndarray | None = None
    track_score: np.ndarray | None = None


def make_rows(
    corpus: Corpus,
    store: SpectrogramStore,
    factors: Factors,
    question: Question,
    stages: Mapping[str, Vectors],
    *,
    rng_seed: int,
) -> list[Row]:
    """Baselines, the stages with and without their artist's mean, an oracle and ceilings."""
    users = _take(factors.user_factors, factors.user_ids, corpus.user_ids[question.users])
    tracks = len(corpus.track_ids)
    size = factors.item_factors.shape[1]
    trained = rows_of(factors.track_ids, corpus.track_ids)
    train = np.flatnonzero((trained >= 0) & (corpus.split == "train"))
    targets = unit_rows(factors.item_factors[trained[train]])

    rng = np.random.default_rng(rng_seed)
    by_artist = _mean_of_group(corpus, train, targets)
    by_sound = {"ridge": ridge_vectors(corpus, store, train, targets)}
    for name, stage in stages.items():
        by_sound[name] = _aligned(corpus, stage)
    everything = np.broadcast_to(targets.mean(axis=0), (tracks, size))
    rows = [
        Row("random", unit_rows(rng.standard_normal((tracks, size))), users),
        Row("popularity", track_score=_popularity(corpus, train)),
        Row("mean vector", unit_rows(everything), users),
        Row("artist mean", by_artist, users),
    ]
    for name, vectors in by_sound.items():
        silent = ~vectors.any(axis=1, keepdims=True)
        blend = unit_rows(np.where(silent, by_artist, vectors) + by_artist)
        rows += [Row(name, vectors, users), Row(f"artist mean + {name}", blend, users)]
    rows.append(_oracle(corpus, question, size, rng_seed))
    return rows + _ceilings(corpus, question, users)


def mel_statistics(store: SpectrogramStore) -> np.ndarray:
    """Mean and standard deviation over time of every mel band, `[tracks, 2 mels]`."""
    statistics = np.empty((len(store), 2 * store.mel_spec.mels), dtype=np.float32)
    for row in range(len(store)):
        real = store[np.array([row])][0, :, : store.frames[row]].astype(np.float32)
        statistics[row] = np.concatenate([real.mean(axis=1), real.std(axis=1)])
    return statistics


def ridge_vectors(
    corpus: Corpus, store: SpectrogramStore, train: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Ridge regression from mel statistics to unit-norm factors, its strength by leave-one-out;
    unit vectors `[tracks, factors]`, zeros where there is no audio."""
    at = rows_of(store.track_ids, corpus.track_ids)
    statistics = mel_statistics(store)
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_ALPHAS))
    heard = at[train] >= 0
    model.fit(statistics[at[train[heard]]], targets[heard])
    vectors = np.zeros((len(at), targets.shape[1]), dtype=np.float32)
    vectors[at >= 0] = unit_rows(model.predict(statistics[at[at >= 0]]))
    return vectors


def _take(values: np.ndarray, ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = rows_of(ids, wanted)
    assert (at >= 0).all()
    taken: np.ndarray = values[at]
    return taken


def _aligned(corpus: Corpus, vectors: Vectors) -> np.ndarray:
    at = rows_of(vectors.track_ids, corpus.track_ids)
    aligned: np.ndarray = np.where((at >= 0)[:, None], vectors.vectors[at], np.float32(0))
    return aligned


def _group_of(corpus: Corpus, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[tracks]` text: the artist where it has a training track, else the album, else nothing; and
    which tracks have such a group."""
    artist = np.char.add("artist ", corpus.artist)
    album = np.char.add("album ", corpus.album)
    by_artist = (corpus.artist != "") & np.isin(artist, artist[train])
    by_album = (corpus.album != "") & np.isin(album, album[train])
    group = np.where(by_artist, artist, np.where(by_album, album, ""))
    return group, by_artist | by_album


def _mean_of_group(corpus: Corpus, train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Unit vectors `[tracks, size]`: the mean of the training vectors of the track's artist, else
    of its album, else of all."""
    group, _ = _group_of(corpus, train)
    means = np.tile(values.mean(axis=0), (len(group), 1))
    for name in np.unique(group[group != ""]):
        column = corpus.artist if name.startswith("artist ") else corpus.album
        members = column[train] == name.split(" ", 1)[1]
        means[group == name] = values[members].mean(axis=0)
    return unit_rows(means)


def _popularity(corpus: Corpus, train: np.ndarray) -> np.ndarray:
    """`[tracks]`: listeners of the artist's training tracks on average; of all, where unknown."""
    plays = training_plays(corpus)
    listeners = np.bincount(plays.track, minlength=len(corpus.track_ids)).astype(float)
    score = np.full(len(listeners), listeners[train].mean())
    for name in np.unique(corpus.artist[train]):
        if name:
            score[corpus.artist == name] = listeners[train[corpus.artist[train] == name]].mean()
    return score


def _oracle(corpus: Corpus, question: Question, factors: int, rng_seed: int) -> Row:
    """CF fitted with the plays that everything else is asked to foretell."""
    assert corpus.plays is not None
    fitted = factorize(
        corpus.plays, corpus.track_ids, corpus.user_ids, factors=factors, rng_seed=rng_seed
    )
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
