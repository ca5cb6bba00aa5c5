"""The table: what is asked, that every row answers as a plain loop would, and its intervals."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cbmr import evaluation
from cbmr.corpus import make_corpus, training_plays
from cbmr.errors import InputError
from cbmr.evaluation import METRICS, Row, Table, ask, compare, make_rows
from cbmr.factors import factorize, unit_rows
from cbmr.features import FeatureStore
from cbmr.files import write_arrays
from cbmr.priors import Chosen, seed_queries
from cbmr.vectors import Vectors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """120 tracks of 24 artists, the last four of them new; taste follows a hidden direction."""
    rng = np.random.default_rng(0)
    artist = np.repeat(np.arange(24), 5)
    taste = rng.standard_normal((120, 6))
    users = rng.standard_normal((80, 6))
    affinity = users @ taste.T + 0.5 * rng.standard_normal((80, 120))
    user, track = np.nonzero(affinity > np.quantile(affinity, 0.7, axis=1, keepdims=True))
    split = np.where(artist >= 20, "test", "train").astype("<U5")
    split[4:100:10] = "test"
    split[9:100:20] = "valid"
    tracks = pl.DataFrame(
        {
            "track_id": [f"t{row:03d}" for row in range(120)],
            "path": ["x"] * 120,
            "artist": [f"artist {name}" for name in artist],
            "split": split,
        }
    )
    plays = pl.DataFrame(
        {
            "user_id": [f"u{row:02d}" for row in user],
            "track_id": [f"t{row:03d}" for row in track],
            "count": np.ones(len(user), dtype=int),
        }
    )
    seed, voted = rng.integers(0, 90, 600), rng.integers(0, 120, 600)
    votes = pl.DataFrame(
        {
            "user_id": [f"u{row:02d}" for row in rng.integers(0, 80, 600)],
            "seed_id": [f"t{row:03d}" for row in seed],
            "track_id": [f"t{row:03d}" for row in voted],
            "thumb": np.where((taste[seed] * taste[voted]).sum(axis=1) > 0, 1, -1),
        }
    )
    made = make_corpus(tmp_path_factory.mktemp("corpus"), tracks, plays, votes)
    return made, taste, users


@pytest.fixture(scope="module")
def factors(corpus):
    made, _, _ = corpus
    return factorize(
        training_plays(made), made.track_ids, made.user_ids, size=6, regularization=10.0
    )


@pytest.fixture(scope="module")
def asked(corpus, factors):
    made, _, _ = corpus
    return ask(made, np.ones(120, dtype=bool), factors, listeners=1000, rng_seed=0)


def table_of(rows, asked, bootstraps=40):
    return compare(rows, asked, bootstraps=bootstraps, rng_seed=0)


def test_the_columns_are_new_tracks_of_known_and_of_new_artists(asked):
    assert [column.name for column in asked.columns] == ["known artist", "new artist"]
    known, new = (column.tracks for column in asked.columns)
    assert {*new.tolist()} == set(range(100, 120))
    assert {*known.tolist()} == set(range(4, 100, 10))
    assert asked.split == "test"
    for column in asked.columns:
        assert set(column.votes.track) <= {*column.tracks.tolist()}
        assert sorted({*column.third.tolist()}) == [0, 1, 2]


def test_a_row_is_measured_as_a_plain_loop_would(corpus, asked):
    made, taste, users = corpus
    row = Row("truth", unit_rows(taste), users[asked.users])
    table = table_of([row], asked, bootstraps=1)
    for column in asked.columns:
        aucs = []
        for place, user in enumerate(asked.users):
            played = {*made.plays.track[made.plays.user == user].tolist()}
            scores = {t: users[asked.users][place] @ row.vectors[t] for t in column.tracks.tolist()}
            ups = [scores[t] for t in scores if t in played]
            downs = [scores[t] for t in scores if t not in played]
            if ups and downs:
                aucs.append(np.mean([u > d for u in ups for d in downs]))
        assert table.at("truth", column.name, "AUC") == pytest.approx(np.mean(aucs), abs=1e-4)
        votes = column.votes
        voted = zip(votes.seed, votes.track, strict=True)
        closeness = [row.vectors[seed] @ row.vectors[track] for seed, track in voted]
        pairs = [
            closeness[a] > closeness[b]
            for a in range(len(votes)) if votes.up[a]
            for b in range(len(votes)) if not votes.up[b]
        ]  # fmt: skip
        found = table.at("truth", column.name, "thumbs AUC")
        assert found == pytest.approx(np.mean(pairs), abs=1e-4)


def test_a_draw_is_the_measure_of_its_listeners_and_artists_again(corpus, asked):
    """Thirty listeners are asked, whose draw is written out: each again as often as drawn, as
    people of their own, and so each artist's tracks. Voters who are not asked are drawn too."""
    made, taste, users = corpus
    some = replace(
        asked,
        users=asked.users[::2],
        columns=tuple(replace(one, relevant=one.relevant[::2]) for one in asked.columns),
    )
    vectors, factors = unit_rows(taste), users[some.users]
    table = compare([Row("truth", vectors, factors)], some, bootstraps=1, rng_seed=7)
    for place, column in enumerate(some.columns):
        votes = column.votes
        everyone = sorted({*some.users.tolist(), *votes.user.tolist()})
        artists = sorted({*made.artist[column.tracks].tolist()})
        rng = np.random.default_rng((7, place))
        times = {
            name: dict(zip(names, rng.multinomial(len(names), np.full(len(names), 1 / len(names))),
                           strict=True))
            for name, names in (("user", everyone), ("artist", artists))
        }  # fmt: skip
        assert len(everyone) > len(some.users)
        tracks = [
            row for row in column.tracks.tolist() for _ in range(times["artist"][made.artist[row]])
        ]
        aucs, in_order, of_listener = [], [], []
        for user in everyone:
            played = {*made.plays.track[made.plays.user == user].tolist()}
            voted = [
                (bool(votes.up[v]), round(vectors[votes.seed[v]] @ vectors[votes.track[v]], 6))
                for v in np.flatnonzero(votes.user == user)
                for _ in range(times["artist"][made.artist[votes.track[v]]])
            ]  # fmt: skip
            for _ in range(times["user"][user]):
                in_order += voted
                of_listener += [
                    np.heaviside(a - b, 0.5) for up, a in voted for down, b in voted
                    if up and not down
                ]  # fmt: skip
                if user in some.users:
                    score = {row: users[user] @ vectors[row] for row in {*tracks}}
                    pairs = [
                        score[one] > score[other] for one in tracks for other in tracks
                        if one in played and other not in played
                    ]  # fmt: skip
                    aucs += [np.mean(pairs)] if pairs else []
        pooled = [
            np.heaviside(a - b, 0.5) for up, a in in_order for down, b in in_order
            if up and not down
        ]  # fmt: skip
        expected = {"AUC": aucs, "thumbs AUC": pooled, "thumbs AUC within listener": of_listener}
        for metric, values in expected.items():
            drawn = table.draws[0, 0, place, METRICS.index(metric)]
            assert drawn == pytest.approx(np.mean(values), abs=1e-4), metric


def test_an_interval_stands_on_the_value():
    """Draws .5, .6 and .7 have the mean .6 and the 95 % quantiles .505 and .695: moved by -.1."""
    draws = np.zeros((3, 1, 1, len(METRICS)))
    draws[:, 0, 0, 0] = 0.5, 0.6, 0.7
    value = np.full((1, 1, len(METRICS)), 0.5)
    table = Table("test", ("row",), ("column",), value, draws)
    assert table.interval("row", "column", METRICS[0]) == pytest.approx((0.405, 0.595))


def test_equal_scores_have_no_order_of_their_own(corpus, asked):
    """Three of a column's first tracks are relevant to all: in the order of the table they would
    have an mAP of 1."""
    same = Row("same", unit_rows(np.ones((120, 6))), corpus[2][asked.users])
    first = tuple(
        replace(one, relevant=np.tile(np.arange(len(one.tracks)) < 3, (len(asked.users), 1)))
        for one in asked.columns
    )
    table = table_of([same], replace(asked, columns=first), bootstraps=1)
    for column in first:
        assert table.at("same", column.name, "mAP@500") < 0.6


def test_votes_are_scored_by_what_the_seed_asks_for_and_listening_is_not(corpus, asked):
    """Seeds that ask for the opposite have the opposite thumbs AUC."""
    _, taste, users = corpus
    vectors, users = unit_rows(taste), users[asked.users]
    rows = [Row("same", vectors, users), Row("opposite", vectors, users, queries=-vectors)]
    table = table_of(rows, asked, bootstraps=1)
    for column in asked.columns:
        same, opposite = (table.at(row.name, column.name, "thumbs AUC") for row in rows)
        assert same > 0.5 and opposite == pytest.approx(1 - same)
        assert table.at("opposite", column.name, "AUC") == table.at("same", column.name, "AUC")


def test_equal_scores_are_chance(corpus, asked):
    same = Row("same", unit_rows(np.ones((120, 6))), corpus[2][asked.users])
    table = table_of([same], asked, bootstraps=2)
    for column in asked.columns:
        for metric in ("AUC", "thumbs AUC", "thumbs AUC within listener"):
            assert table.at("same", column.name, metric) == 0.5


def test_the_truth_beats_chance_by_a_paired_interval_and_itself_by_nothing(corpus, asked):
    _, taste, users = corpus
    rng = np.random.default_rng(1)
    rows = [
        Row("truth", unit_rows(taste), users[asked.users]),
        Row("again", unit_rows(taste), users[asked.users]),
        Row("random", unit_rows(rng.standard_normal((120, 6))), users[asked.users]),
    ]
    table = table_of(rows, asked)
    for column in asked.columns:
        for metric in METRICS[:6]:
            assert table.difference("truth", "again", column.name, metric).tolist() == [0, 0, 0]
        for metric in ("AUC", "mAP@500", "thumbs AUC"):
            assert table.difference("truth", "random", column.name, metric)[1] > 0
            low, high = table.interval("truth", column.name, metric)
            assert low <= table.at("truth", column.name, metric) <= high
    numbers = table.numbers()
    assert numbers["test / new artist / truth / AUC"] == table.at("truth", "new artist", "AUC")
    assert all(np.isfinite(value) for value in numbers.values())


@pytest.fixture(scope="module")
def rows(corpus, factors, asked):
    """All rows of a corpus with vectors for sound, by name; the one stage hears noise, and of an
    artist's mean, which says nothing here, half is blended in all the same."""
    made, taste, _ = corpus
    write_arrays(made.folder / "features.npz", track_ids=made.track_ids, features=taste)
    heard = unit_rows(np.random.default_rng(1).standard_normal((120, 6)))
    stages = {"stage 1": Vectors(made.track_ids, heard)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.rows, "choose_weight", lambda *_: Chosen(0.5, {}, {}))
        rows = make_rows(
            made, FeatureStore(made), factors, asked, stages, {},
            words=0, hidden=0, rng_seed=0, report=lambda _: None,
        )  # fmt: skip
    return {row.name: row for row in rows}


def test_popularity_is_that_of_the_artists_training_tracks_or_of_all(corpus, rows):
    made, _, _ = corpus
    plays = training_plays(made)
    train = made.in_split("train")
    listeners = {row: int((plays.track == row).sum()) for row in train}
    for row in range(120):
        own = [listeners[other] for other in train if made.artist[other] == made.artist[row]]
        expected = np.mean(own or list(listeners.values()))
        assert rows["popularity"].track_score[row] == pytest.approx(expected)


def test_seeds_of_a_served_row_ask_as_they_do_in_serving(corpus, factors, rows):
    """With what is known of them beside the sound, held-out ones of known artists too."""
    made, _, _ = corpus
    served = rows["stage 1 + prior"]
    expected = seed_queries(served.vectors, made.track_ids, factors)
    np.testing.assert_array_equal(served.queries, expected)
    moved = (served.vectors != rows["stage 1"].vectors).any(axis=1)
    train = made.split == "train"
    np.testing.assert_array_equal(moved, np.isin(made.artist, made.artist[train]) & ~train)


def test_without_played_test_tracks_validation_is_asked(corpus):
    made, _, _ = corpus
    held = made.split[made.plays.track] == "test"
    kept = {name: getattr(made.plays, name)[~held] for name in ("user", "track", "count")}
    reduced = type(made)(**{**vars(made), "plays": type(made.plays)(**kept)})
    factors = factorize(
        training_plays(made), made.track_ids, made.user_ids, size=6, regularization=10.0
    )
    settings = {"listeners": 10, "rng_seed": 0}
    question = ask(reduced, np.ones(120, dtype=bool), factors, **settings)
    assert question.split == "valid"
    assert len(question.users) == 10
    with pytest.raises(InputError, match="nothing to evaluate on"):
        ask(reduced, made.split == "train", factors, **settings)
