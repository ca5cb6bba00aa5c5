"""How well every row answers, with intervals.

Intervals are percentiles of a bootstrap that draws listeners and artists again, both at once and
the same for every row, so that the difference of two rows has an interval of its own. Drawing both
errs on the wide side where only one of them matters. An artist drawn twice doubles its relevant
tracks, which moves every draw's mAP: draws are moved back so that their mean stands on the value.
"""

from dataclasses import dataclass

import numpy as np

from cbmr.evaluation.question import Column, Question
from cbmr.evaluation.rows import Row
from cbmr.metrics import Ranking, auc, average_precision, ndcg, pooled_auc, rank, recall

MAP_DEPTH, TOP = 500, 10
LEVEL = 0.95
LISTENING = ("mAP@500", "AUC", "Recall@10", "NDCG@10")
THUMBS = ("thumbs AUC", "thumbs AUC within listener")
THIRDS = ("AUC least played third", "AUC middle third", "AUC most played third")
METRICS = (*LISTENING, *THUMBS, *THIRDS)


@dataclass(frozen=True)
class Table:
    """`value[row, column, metric]` and `draws[draw, row, column, metric]` of the bootstrap, on the
    held-out `split`."""

    split: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    value: np.ndarray
    draws: np.ndarray

    def at(self, row: str, column: str, metric: str) -> float:
        """One number."""
        return float(self.value[self._place(row, column, metric)])

    def interval(self, row: str, column: str, metric: str) -> tuple[float, float]:
        """The confidence interval of one number."""
        place = self._place(row, column, metric)
        return _interval(float(self.value[place]), self.draws[:, *place])

    def difference(self, row: str, other: str, column: str, metric: str) -> np.ndarray:
        """`row` less `other`: the value and its paired interval, `[3]`."""
        here, there = self._place(row, column, metric), self._place(other, column, metric)
        value = float(self.value[here] - self.value[there])
        return np.array([value, *_interval(value, self.draws[:, *here] - self.draws[:, *there])])

    def _place(self, row: str, column: str, metric: str) -> tuple[int, int, int]:
        return self.rows.index(row), self.columns.index(column), METRICS.index(metric)

    def numbers(self) -> dict[str, float]:
        """Flat names to numbers: `split / column / row / metric`, and its ends; NaN is left out."""
        named: dict[str, float] = {}
        for column in self.columns:
            for row in self.rows:
                for metric in METRICS:
                    value = self.at(row, column, metric)
                    if not np.isnan(value):
                        low, high = self.interval(row, column, metric)
                        name = f"{self.split} / {column} / {row} / {metric}"
                        named |= {name: value, f"{name} low": low, f"{name} high": high}
        return named


def _interval(value: float, draws: np.ndarray) -> tuple[float, float]:
    kept = draws[~np.isnan(draws)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - kept.mean()
    return value + float(low), value + float(high)


def compare(rows: list[Row], question: Question, *, bootstraps: int, rng_seed: int) -> Table:
    """Score every row in every column, and again in every bootstrap draw: a listener's plays and
    votes are drawn together, and who votes is drawn whether asked for listening or not."""
    shape = (len(rows), len(question.columns), len(METRICS))
    value, draws = np.empty(shape), np.empty((bootstraps, *shape))
    for place, column in enumerate(question.columns):
        answers = [_answer(row, column, rng_seed) for row in rows]
        everyone, artists = np.union1d(question.users, column.votes.user), np.unique(column.artist)
        once = _copies(question, column, _times(everyone), _times(artists))
        value[:, place] = [_measure(answer, column, once) for answer in answers]
        rng = np.random.default_rng((rng_seed, place))
        for draw in range(bootstraps):
            again = _copies(question, column, _times(everyone, rng), _times(artists, rng))
            draws[draw, :, place] = [_measure(answer, column, again) for answer in answers]
    names = tuple(column.name for column in question.columns)
    return Table(question.split, tuple(row.name for row in rows), names, value, draws)


@dataclass(frozen=True)
class _Copies:
    """How often a draw has each of the question's listeners and each of the column's tracks, and of
    each vote its listener and the artist that it is on."""

    listener: np.ndarray
    track: np.ndarray
    voter: np.ndarray
    voted: np.ndarray


def _copies(question: Question, column: Column, user: np.ndarray, artist: np.ndarray) -> _Copies:
    return _Copies(
        user[question.users],
        artist[column.artist],
        user[column.votes.user],
        artist[column.vote_artist],
    )


def _times(rows: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """How often each of `rows` is there, by row: once, or as a draw of as many again has it."""
    times = np.ones(int(rows.max()) + 1, dtype=np.int64)
    if rng is not None:
        times[rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
    return times


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
        queries = row.vectors if row.queries is None else row.queries
        seed, track = queries[column.votes.seed], row.vectors[column.votes.track]
        vote_score = (seed * track).sum(axis=1)
    # Rounded, so that equal vectors tie exactly whatever order a matrix product sums in.
    scores = np.round(scores.astype(np.float64), 6)
    rng = np.random.default_rng(rng_seed)
    thirds = tuple(
        rank(scores[:, column.third == third], column.relevant[:, column.third == third])
        for third in range(3)
    )
    return _Answer(rank(scores, column.relevant, rng), thirds, np.round(vote_score, 6))


def _measure(answer: _Answer, column: Column, copies: _Copies) -> list[float]:
    ranking = answer.ranking.drawn(copies.track)
    per_listener = [
        average_precision(ranking, depth=MAP_DEPTH),
        auc(ranking),
        recall(ranking, depth=TOP),
        ndcg(ranking, depth=TOP),
    ]
    in_thirds = [
        auc(ranking.drawn(copies.track[column.third == third]))
        for third, ranking in enumerate(answer.thirds)
    ]
    votes = [
        pooled_auc(answer.vote_score, column.votes.up, copies.voter * copies.voted),
        _within_listener(answer.vote_score, column, copies),
    ]
    return [
        *(_mean(values, copies.listener) for values in per_listener),
        *votes,
        *(_mean(values, copies.listener) for values in in_thirds),
    ]


def _mean(values: np.ndarray, copies: np.ndarray) -> float:
    known = ~np.isnan(values)
    total = copies[known].sum()
    return float((values[known] * copies[known]).sum() / total) if total else float("nan")


def _within_listener(scores: np.ndarray, column: Column, copies: _Copies) -> float:
    """The share of (up, down) pairs of one listener in the right order, ties half, all pairs
    weighing the same. A listener drawn twice has each pair twice, not the one's up with the other's
    down."""
    up, down = column.vote_pairs.T
    weight = copies.voter[up] * copies.voted[up] * copies.voted[down]
    total = weight.sum()
    right = (np.sign(scores[up] - scores[down]) + 1) / 2
    return float((weight * right).sum() / total) if total else float("nan")
