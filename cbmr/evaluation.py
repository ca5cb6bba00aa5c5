"""A run to one table: rows x splits x metrics, with confidence intervals.

Two columns, always: new tracks of a *known artist* (one with a training track) and of a *new
artist*. In each, every listener with training plays and at least one held-out play there ranks that
column's tracks (mAP@500, AUC, Recall@10, NDCG@10), and every held-out vote on one of its tracks is
scored by the similarity of the voted track to the station's seed (AUC, pooled and within listener).

Intervals are percentiles of a bootstrap that draws listeners and artists again, both at once and
the same for every row, so that the difference of two rows has an interval of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbmr.corpus import Corpus, Plays, Thumbs, known_artist, rows_of, training_plays, votes_of
from cbmr.errors import InputError
from cbmr.factors import Factors, factorize, unit_rows
from cbmr.files import read_arrays
from cbmr.metrics import Ranking, auc, average_precision, ndcg, pooled_auc, rank, recall
from cbmr.spectrograms import SpectrogramStore
from cbmr.vectors import Vectors

MAP_DEPTH, TOP = 500, 10
RIDGE_ALPHAS = np.logspace(0, 6, 25)
LEVEL = 0.95
LISTENING = ("mAP@500", "AUC", "Recall@10", "NDCG@10")
THUMBS = ("thumbs AUC", "thumbs AUC within listener")
THIRDS = ("AUC least played third", "AUC middle third", "AUC most played third")
METRICS = (*LISTENING, *THUMBS, *THIRDS)


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


@dataclass(frozen=True)
class Column:
    """One split's candidates: `tracks` (rows), their `artist` as numbers, what is `relevant`
    `[listeners, tracks]`, the `third` of popularity each is in, the `votes` on them, those votes'
    artists, and which two of them are an up and a down of one listener, `[2, pairs]`."""

    name: str
    tracks: np.ndarray
    artist: np.ndarray
    relevant: np.ndarray
    third: np.ndarray
    votes: Thumbs
    vote_artist: np.ndarray
    vote_pairs: np.ndarray


@dataclass(frozen=True)
class Question:
    """What is asked of every row: the listeners (rows of `user_ids`), and the columns."""

    split: str
    users: np.ndarray
    columns: tuple[Column, ...]
    without_artist: int


@dataclass(frozen=True)
class Table:
    """`value[row, column, metric]` and `draws[draw, row, column, metric]` of the bootstrap."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    value: np.ndarray
    draws: np.ndarray

    def interval(self, row: str, column: str, metric: str) -> tuple[float, float]:
        """The confidence interval of one number."""
        return _interval(self.draws[:, *self._place(row, column, metric)])

    def difference(self, row: str, other: str, column: str, metric: str) -> np.ndarray:
        """`row` less `other`: the value and its paired interval, `[3]`."""
        here, there = self._place(row, column, metric), self._place(other, column, metric)
        value = self.value[here] - self.value[there]
        return np.array([value, *_interval(self.draws[:, *here] - self.draws[:, *there])])

    def _place(self, row: str, column: str, metric: str) -> tuple[int, int, int]:
        return self.rows.index(row), self.columns.index(column), METRICS.index(metric)

    def numbers(self) -> dict[str, float]:
        """Flat names to numbers: `column / row / metric`, and its ends; NaN is left out."""
        named: dict[str, float] = {}
        for column in self.columns:
            for row in self.rows:
                for metric in METRICS:
                    value = float(self.value[self._place(row, column, metric)])
                    if not np.isnan(value):
                        low, high = self.interval(row, column, metric)
                        name = f"{column} / {row} / {metric}"
                        named |= {name: value, f"{name} low": low, f"{name} high": high}
        return named


def _interval(draws: np.ndarray) -> tuple[float, float]:
    kept = draws[~np.isnan(draws)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# --- the question -------------------------------------------------------------------------------


def ask(
    corpus: Corpus, readable: np.ndarray, factors: Factors, *, listeners: int, rng_seed: int
) -> Question:
    """The evaluation of a corpus: on its test tracks, or on validation where no test track has
    plays. `readable` is bool `[tracks]`; more than `listeners` listeners are drawn down to that.

    Raises InputError where nothing is held out.
    """
    assert corpus.plays is not None and corpus.split is not None
    played = np.isin(np.arange(len(corpus.track_ids)), corpus.plays.track)
    split = "test" if (played & (corpus.split == "test")).any() else "valid"
    held_out = readable & (corpus.split == split)
    if not (played & held_out).any():
        raise InputError(
            "no held-out track has both audio and plays: nothing to evaluate on (was it trained "
            "with holdout=false?)"
        )
    users = rows_of(corpus.user_ids, factors.user_ids)
    users = np.sort(users[users >= 0])
    if len(users) > listeners:
        users = np.sort(np.random.default_rng(rng_seed).choice(users, listeners, replace=False))
    known = known_artist(corpus)
    has_artist = corpus.artist != ""
    parts = {"known artist": held_out & known, "new artist": held_out & has_artist & ~known}
    columns = tuple(
        _column(corpus, name, np.flatnonzero(chosen), users, split)
        for name, chosen in parts.items()
        if chosen.any()
    )
    return Question(split, users, columns, int((held_out & ~has_artist).sum()))


def _column(corpus: Corpus, name: str, tracks: np.ndarray, users: np.ndarray, split: str) -> Column:
    assert corpus.plays is not None
    relevant = relevance(corpus.plays, users, tracks)
    popularity = np.argsort(np.argsort(relevant.sum(axis=0), kind="stable"), kind="stable")
    artists, artist = np.unique(corpus.artist[tracks], return_inverse=True)
    empty = np.empty(0, dtype=np.int64)
    votes = Thumbs(empty, empty, empty, empty.astype(bool))
    if corpus.thumbs is not None:
        votes = votes_of(corpus, split)
        votes = votes[np.isin(votes.track, tracks)]
    return Column(
        name=name,
        tracks=tracks,
        artist=artist,
        relevant=relevant,
        third=popularity * 3 // len(tracks),
        votes=votes,
        vote_artist=np.searchsorted(artists, corpus.artist[votes.track]),
        vote_pairs=_vote_pairs(votes),
    )


def _vote_pairs(votes: Thumbs) -> np.ndarray:
    pairs = [np.empty((2, 0), dtype=np.int64)]
    order = np.argsort(votes.user, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(votes.user[order])) + 1):
        up = votes.up[members]
        ups, downs = np.meshgrid(members[up], members[~up])
        pairs.append(np.stack([ups.ravel(), downs.ravel()]))
    return np.concatenate(pairs, axis=1)


def relevance(plays: Plays, users: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """`[users, tracks]` bool: which of these listeners played which of these tracks. Both are
    ascending rows."""
    here = np.isin(plays.user, users) & np.isin(plays.track, tracks)
    relevant = np.zeros((len(users), len(tracks)), dtype=bool)
    user, track = plays.user[here], plays.track[here]
    relevant[np.searchsorted(users, user), np.searchsorted(tracks, track)] = True
    return relevant


# --- the rows -----------------------------------------------------------------------------------


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


# --- the answers --------------------------------------------------------------------------------


def compare(rows: list[Row], question: Question, *, bootstraps: int, rng_seed: int) -> Table:
    """Score every row in every column, and again in every bootstrap draw."""
    shape = (len(rows), len(question.columns), len(METRICS))
    value, draws = np.empty(shape), np.empty((bootstraps, *shape))
    for place, column in enumerate(question.columns):
        answers = [_answer(row, column, rng_seed) for row in rows]
        value[:, place] = [_measure(answer, column) for answer in answers]
        rng = np.random.default_rng((rng_seed, place))
        listeners, artists = len(question.users), int(column.artist.max()) + 1
        for draw in range(bootstraps):
            user_copies = rng.multinomial(listeners, np.full(listeners, 1 / listeners))
            artist_copies = rng.multinomial(artists, np.full(artists, 1 / artists))
            # A voter without training plays is no listener of this question and is drawn once.
            voter = np.searchsorted(question.users, column.votes.user).clip(max=listeners - 1)
            is_listener = question.users[voter] == column.votes.user
            vote_copies = artist_copies[column.vote_artist] * np.where(
                is_listener, user_copies[voter], 1
            )
            draws[draw, :, place] = [
                _measure(answer, column, user_copies, artist_copies[column.artist], vote_copies)
                for answer in answers
            ]
    names = tuple(column.name for column in question.columns)
    return Table(tuple(row.name for row in rows), names, value, draws)


@dataclass(frozen=True)
class _Answer:
    ranking: Ranking
    thirds: tuple[Ranking, ...]
    vote_score: np.ndarray


def _answer(row: Row, column: Column, rng_seed: int) -> _Answer:
    if row.track_score is not None:
        scores = np.broadcast_to(row.track_score[column.tracks], column.relevant.shape)
        vote_score = row.track_score[column.votes.track]
    else:
        assert row.vectors is not None and row.users is not None
        scores = row.users @ row.vectors[column.tracks].T
        seed, track = row.vectors[column.votes.seed], row.vectors[column.votes.track]
        vote_score = (seed * track).sum(axis=1)
    # Rounded, so that equal vectors tie exactly whatever order a matrix product sums in.
    scores = np.round(scores.astype(np.float64), 6)
    thirds = tuple(
        rank(scores[:, column.third == third], column.relevant[:, column.third == third])
        for third in range(3)
    )
    return _Answer(rank(scores, column.relevant), thirds, np.round(vote_score, 6))


def _measure(
    answer: _Answer,
    column: Column,
    user_copies: np.ndarray | None = None,
    track_copies: np.ndarray | None = None,
    vote_copies: np.ndarray | None = None,
) -> list[float]:
    listeners = np.ones(len(column.relevant)) if user_copies is None else user_copies
    per_listener = [
        average_precision(answer.ranking, depth=MAP_DEPTH, copies=track_copies),
        auc(answer.ranking, track_copies),
        recall(answer.ranking, depth=TOP, copies=track_copies),
        ndcg(answer.ranking, depth=TOP, copies=track_copies),
    ]
    in_thirds = [
        auc(ranking, None if track_copies is None else track_copies[column.third == third])
        for third, ranking in enumerate(answer.thirds)
    ]
    votes = [
        pooled_auc(answer.vote_score, column.votes.up, vote_copies),
        _within_listener(answer.vote_score, column, vote_copies),
    ]
    return [
        *(_mean(values, listeners) for values in per_listener),
        *votes,
        *(_mean(values, listeners) for values in in_thirds),
    ]


def _mean(values: np.ndarray, copies: np.ndarray) -> float:
    known = ~np.isnan(values)
    total = copies[known].sum()
    return float((values[known] * copies[known]).sum() / total) if total else float("nan")


def _within_listener(scores: np.ndarray, column: Column, copies: np.ndarray | None) -> float:
    """The share of (up, down) pairs of one listener in the right order, ties half, all pairs
    weighing the same."""
    up, down = column.vote_pairs
    weight = np.ones(len(up)) if copies is None else copies[up] * copies[down]
    total = weight.sum()
    right = (np.sign(scores[up] - scores[down]) + 1) / 2
    return float((weight * right).sum() / total) if total else float("nan")
