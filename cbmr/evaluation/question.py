"""What is asked of every row: which listeners, which held-out tracks, which votes."""

from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Corpus, Plays, Thumbs, known_artist, rows_of, votes_of
from cbmr.errors import InputError
from cbmr.factors import Factors
from cbmr.preferences import pairs_among


@dataclass(frozen=True)
class Column:
    """One split's candidates: `tracks` (rows), their `artist` as numbers, what is `relevant`
    `[listeners, tracks]`, the `third` of popularity each is in, the `votes` on them, those votes'
    artists, and which two of them are an up and a down of one listener, `[pairs, 2]`."""

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
        _column(corpus, name, np.flatnonzero(chosen), users, split, readable)
        for name, chosen in parts.items()
        if chosen.any()
    )
    return Question(split, users, columns, int((held_out & ~has_artist).sum()))


def _column(
    corpus: Corpus,
    name: str,
    tracks: np.ndarray,
    users: np.ndarray,
    split: str,
    readable: np.ndarray,
) -> Column:
    assert corpus.plays is not None
    relevant = relevance(corpus.plays, users, tracks)
    popularity = np.argsort(np.argsort(relevant.sum(axis=0), kind="stable"), kind="stable")
    artists, artist = np.unique(corpus.artist[tracks], return_inverse=True)
    empty = np.empty(0, dtype=np.int64)
    votes = Thumbs(empty, empty, empty, empty.astype(bool))
    if corpus.thumbs is not None:
        votes = votes_of(corpus, split)
        votes = votes[np.isin(votes.track, tracks) & readable[votes.seed]]
    return Column(
        name=name,
        tracks=tracks,
        artist=artist,
        relevant=relevant,
        third=popularity * 3 // len(tracks),
        votes=votes,
        vote_artist=np.searchsorted(artists, corpus.artist[votes.track]),
        vote_pairs=pairs_among(votes.user, votes.up),
    )


def relevance(plays: Plays, users: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """`[users, tracks]` bool: which of these listeners played which of these tracks. Both are
    ascending rows."""
    here = np.isin(plays.user, users) & np.isin(plays.track, tracks)
    relevant = np.zeros((len(users), len(tracks)), dtype=bool)
    user, track = plays.user[here], plays.track[here]
    relevant[np.searchsorted(users, user), np.searchsorted(tracks, track)] = True
    return relevant
