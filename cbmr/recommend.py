"""A listener to tracks, and a track to listeners: collaborative filtering and content blended.

A track's vector is `unit(n / (n + k) * unit(CF factors) + k / (n + k) * content)`, n being the
listeners who played it (`cbmr.priors.blend_plays`): its sound alone while nobody has, its listeners
almost alone once many have. A listener's score for a track is the cosine of the listener's factors
and that vector. Unit norm takes away how much a track is played, on purpose (Dieleman 2014).
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cbmr.corpus import Corpus, Plays, rows_of
from cbmr.errors import InputError
from cbmr.factors import Factors, unit_rows
from cbmr.playlists import Catalogue, Entry, Playlist, Rule, first_allowed, shown_name
from cbmr.priors import blend_plays, fold_in
from cbmr.vectors import Vectors, aligned

REASONS = 2
"""Tracks of the listener's own that are named beside each recommendation."""
MOST_NAMED = 5


def blended_tracks(
    corpus: Corpus,
    factors: Factors,
    content: Vectors,
    *,
    k: float,
    model: Mapping[str, float] | None,
) -> Vectors:
    """The blended vectors of every track that has content or listeners with factors.

    `model` is the settings that WMF fitted `factors` with: by them, tracks that were not in that
    fit are folded in from their plays. Where it is None (another model), they have content alone.
    """
    cf, number = cf_items(corpus, factors, model=model)
    blended = blend_plays(aligned(corpus, content), cf, number[:, None], k)
    there = blended.any(axis=1)
    return Vectors(corpus.track_ids[there], blended[there])


def cf_items(
    corpus: Corpus, factors: Factors, *, model: Mapping[str, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """CF's own factors `[tracks, factors]` of every track of the corpus, folded in where `model`
    allows, zeros where there are none; and how many listeners with factors played it `[tracks]`."""
    user = rows_of(factors.user_ids, corpus.user_ids)
    assert corpus.plays is not None
    known = user[corpus.plays.user] >= 0
    plays = Plays(
        user[corpus.plays.user[known]], corpus.plays.track[known], corpus.plays.count[known]
    )
    number = np.bincount(plays.track, minlength=len(corpus.track_ids))
    at = rows_of(factors.track_ids, corpus.track_ids)
    cf = np.where((at >= 0)[:, None], factors.item_factors[at], np.float32(0))
    lacking = np.flatnonzero((at < 0) & (number > 0))
    if model is not None and len(lacking):
        of_lacking = np.isin(plays.track, lacking)
        to_fold = Plays(
            plays.user[of_lacking],
            np.searchsorted(lacking, plays.track[of_lacking]),
            plays.count[of_lacking],
        )
        cf[lacking] = fold_in(factors.user_factors, to_fold, len(lacking), **model)
    return cf, number


def find_listener(corpus: Corpus, user: str) -> int:
    """The row of a listener; InputError, with the nearest ids, for one that is not there."""
    row = int(rows_of(corpus.user_ids, np.array([user]))[0])
    if row < 0:
        near = difflib.get_close_matches(user, corpus.user_ids.tolist(), MOST_NAMED, cutoff=0.5)
        raise InputError(
            f"user={user}: expected a user id of the corpus's plays; nearest ids: "
            f"{', '.join(near) or 'none is near'}"
        )
    return row


def recommend(
    catalogue: Catalogue, factors: Factors, user: int, rules: Sequence[Rule], *, n: int
) -> Playlist:
    """The `n` tracks with the highest scores that the listener (a row of the corpus) has not
    played, as far as `rules` allow, each with the nearest of the listener's own.

    `catalogue` is of `blended_tracks`. A listener without factors gets what most listeners played,
    scored by the share of them.
    """
    corpus = catalogue.corpus
    assert corpus.plays is not None
    own = catalogue.vector_of_row[corpus.plays.track[corpus.plays.user == user]]
    own = own[own >= 0]
    user_id = corpus.user_ids[user]
    listener = int(rows_of(factors.user_ids, np.array([user_id]))[0])
    if listener >= 0:
        scores = catalogue.vectors.vectors @ unit_rows(factors.user_factors[[listener]])[0]
        left = np.setdiff1d(np.arange(len(scores)), own)
        title = f"For {user_id}"
    else:
        scores = _popularity(catalogue)
        left = np.setdiff1d(np.flatnonzero(scores > 0), own)
        title = "What most listeners played"
    order = left[np.argsort(-scores[left], kind="stable")]
    tracks = (
        (catalogue.track(int(catalogue.row_of_vector[place])), float(scores[place]))
        for place in order.tolist()
    )
    playlist = first_allowed(catalogue, tracks, rules, n=n, title=title)
    if listener < 0 or not len(own):
        return playlist
    entries = tuple(replace(entry, why=_why(catalogue, own, entry)) for entry in playlist.entries)
    return replace(playlist, entries=entries)


def audience(
    factors: Factors, vector: np.ndarray, *, n: int, but: Sequence[str] | np.ndarray = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The `n` listeners with the highest score for a track of this unit vector `[factors]`: their
    ids and scores, each `[n]`, falling; `but` are ids to leave out.

    The score is the inner product with the listener's factors as they were fitted, the preference
    that the model predicts: 0 for one to whom the track means nothing. It grows with how much a
    listener plays, as the chance of a play does; it is no probability.
    """
    scores = factors.user_factors @ vector
    left = np.flatnonzero(~np.isin(factors.user_ids, but))
    order = left[np.lexsort((factors.user_ids[left], -scores[left]))][:n]
    return factors.user_ids[order], scores[order]


def listeners_of(corpus: Corpus, row: int) -> np.ndarray:
    """The ids of the listeners who played a track."""
    assert corpus.plays is not None
    ids: np.ndarray = corpus.user_ids[corpus.plays.user[corpus.plays.track == row]]
    return ids


def _popularity(catalogue: Catalogue) -> np.ndarray:
    """`[vectors]`: the share of all listeners with plays who played the track."""
    plays = catalogue.corpus.plays
    assert plays is not None
    number = np.bincount(plays.track, minlength=len(catalogue.corpus.track_ids))
    share: np.ndarray = number[catalogue.row_of_vector] / len(np.unique(plays.user))
    return share


def _why(catalogue: Catalogue, own: np.ndarray, entry: Entry) -> str:
    """The nearest of the listener's `own` tracks, by name."""
    assert entry.track_id is not None
    vectors = catalogue.vectors.vectors
    vector = catalogue.track(catalogue.row_of_id[entry.track_id]).vector
    nearest = own[np.argsort(-(vectors[own] @ vector), kind="stable")[:REASONS]]
    names = (catalogue.entry(int(catalogue.row_of_vector[place]), 0.0) for place in nearest)
    return f"like {'; '.join(shown_name(name.artist, name.title) for name in names)}"
