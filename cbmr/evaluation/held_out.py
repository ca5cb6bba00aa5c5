"""What is trained on, as rows of the store, and what training is validated by: listening to, and
votes on, validation tracks alone."""

from dataclasses import dataclass

import numpy as np

from cbmr.corpus import Corpus, Plays, Thumbs, rows_of, training_plays, votes_of
from cbmr.evaluation.question import relevance
from cbmr.factors import Factors, unit_rows
from cbmr.files import content_hash
from cbmr.metrics import auc, pooled_auc, rank
from cbmr.priors import seed_queries
from cbmr.spectrograms import Store


@dataclass(frozen=True)
class HeldOut:
    """Validation tracks and votes among the tracks of a store.

    `rows` `[rows]` of the store, ascending, are what has to be embedded; `tracks` says which of
    them are candidates for listening, `relevant` `[listeners, tracks]` who of the listeners of
    `factors` played what, and `votes` holds votes whose seed and track are places in `rows`, whose
    names are `track_ids` `[rows]`.
    """

    rows: np.ndarray
    track_ids: np.ndarray
    tracks: np.ndarray
    factors: Factors
    relevant: np.ndarray
    votes: Thumbs

    @property
    def fingerprint(self) -> str:
        """What chooses between stages, as a hash; who listens is known by the factors'."""
        votes = self.votes
        asked = (self.rows, self.tracks, self.relevant, votes.seed, votes.track, votes.up)
        return content_hash(*asked)

    @property
    def has_listening(self) -> bool:
        """Whether some listener played some validation track, but not all of them."""
        return bool((self.relevant.any(axis=1) & ~self.relevant.all(axis=1)).any())

    @property
    def has_votes(self) -> bool:
        """Whether there are ups and downs."""
        return 0 < self.votes.up.sum() < len(self.votes)

    def measure(self, embeddings: np.ndarray, users: np.ndarray | None = None) -> dict[str, float]:
        """`listening_auc` and `thumbs_auc`, where it can be told, of `[rows, size]`; listened to by
        `users` `[listeners of the factors, size]` in place of the factors' own. Seeds ask as they
        do in serving, with their listeners (`seed_queries`)."""
        unit = unit_rows(embeddings)
        listeners = self.factors.user_factors if users is None else users
        numbers = {}
        if self.has_listening:
            ranking = rank(listeners @ unit[self.tracks].T, self.relevant)
            numbers["listening_auc"] = float(np.nanmean(auc(ranking)))
        if self.has_votes:
            queries = seed_queries(unit, self.track_ids, self.factors)
            similarity = (queries[self.votes.seed] * unit[self.votes.track]).sum(axis=1)
            numbers["thumbs_auc"] = pooled_auc(similarity, self.votes.up)
        return numbers


def no_better(stage_1: dict[str, float], stage_2: dict[str, float]) -> str:
    """Why stage 2 is not to be kept, by what both measured; empty where it is: it has to foretell
    votes better and to keep all of listening, as far as they were measured."""
    changes = {name: f"{name} {stage_1[name]:.4f} to {stage_2[name]:.4f}" for name in stage_1}
    if "listening_auc" in changes and stage_2["listening_auc"] < stage_1["listening_auc"]:
        return f"listening is lost on validation ({changes['listening_auc']})"
    if "thumbs_auc" in changes and stage_2["thumbs_auc"] <= stage_1["thumbs_auc"]:
        return f"validation votes are foretold no better ({changes['thumbs_auc']})"
    return ""


def held_out(corpus: Corpus, factors: Factors, store: Store) -> HeldOut:
    """The validation part of a corpus; without votes where its thumbs were not read."""
    assert corpus.plays is not None
    in_corpus = corpus.track_rows(store.track_ids)
    valid = np.flatnonzero(np.isin(in_corpus, corpus.in_split("valid")))
    votes = votes_in_store(corpus, store, "valid")
    rows = np.unique(np.concatenate([valid, votes.seed, votes.track]))
    # Both in the order of the corpus, which is what `relevance` reads.
    valid = valid[np.argsort(in_corpus[valid])]
    users = rows_of(corpus.user_ids, factors.user_ids)
    relevant = relevance(corpus.plays, np.sort(users), in_corpus[valid])
    return HeldOut(
        rows=rows,
        track_ids=store.track_ids[rows],
        tracks=np.searchsorted(rows, valid),
        factors=factors,
        relevant=relevant[np.argsort(np.argsort(users))],
        votes=Thumbs(
            votes.user,
            np.searchsorted(rows, votes.seed),
            np.searchsorted(rows, votes.track),
            votes.up,
        ),
    )


def plays_in_store(corpus: Corpus, factors: Factors, store: Store) -> Plays:
    """The plays of training tracks with audio: listeners as rows of the factors, tracks of the
    store."""
    plays = training_plays(corpus)
    user = rows_of(factors.user_ids, corpus.user_ids)[plays.user]
    track = rows_of(store.track_ids, corpus.track_ids)[plays.track]
    here = (user >= 0) & (track >= 0)
    return Plays(user[here], track[here], plays.count[here])


def votes_in_store(corpus: Corpus, store: Store, split: str) -> Thumbs:
    """The votes of a split whose seed and track both have audio, as rows of the store."""
    if corpus.thumbs is None:
        none = np.empty(0, dtype=np.int64)
        return Thumbs(none, none, none, none.astype(bool))
    votes = votes_of(corpus, split)
    at = rows_of(store.track_ids, corpus.track_ids)
    moved = Thumbs(votes.user, at[votes.seed], at[votes.track], votes.up)
    return moved[(moved.seed >= 0) & (moved.track >= 0)]
