"""Tracks with few plays, on a small world whose truth is known, against a plain loop."""

import numpy as np
import polars as pl
import pytest

from cbmr.corpus import make_corpus, rows_of, training_plays
from cbmr.factors import factorize, unit_rows
from cbmr.few_plays import K_GRID, REVEALED, ROWS, choose_k, few_plays
from cbmr.priors import training_targets

MODEL = {"regularization": 5.0, "alpha": 2.0, "eps": 1e-6}


def fitted_on(folder, user, track, count):
    """A corpus of 90 tracks, the last 40 held out, with these plays, and factors of it."""
    tracks = pl.DataFrame(
        {
            "track_id": [f"t{row:02d}" for row in range(90)],
            "path": ["x"] * 90,
            "split": ["train"] * 50 + ["valid"] * 20 + ["test"] * 20,
        }
    )
    plays = pl.DataFrame(
        {
            "user_id": [f"u{row:03d}" for row in user],
            "track_id": [f"t{row:02d}" for row in track],
            "count": count,
        }
    )
    corpus = make_corpus(folder, tracks, plays)
    fitted = factorize(training_plays(corpus), corpus.track_ids, corpus.user_ids, size=5, **MODEL)
    return corpus, fitted


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """90 tracks and 150 listeners of a hidden taste, who each played the third they like best."""
    rng = np.random.default_rng(0)
    affinity = rng.standard_normal((150, 5)) @ rng.standard_normal((90, 5)).T
    user, track = np.nonzero(affinity > np.quantile(affinity, 0.65, axis=1, keepdims=True))
    count = rng.integers(1, 5, len(user))
    return *fitted_on(tmp_path_factory.mktemp("corpus"), user, track, count), affinity


def ask(world, content, listeners=None):
    corpus, fitted, _ = world
    users = rows_of(corpus.user_ids, fitted.user_ids)
    return few_plays(
        corpus,
        fitted,
        content,
        users if listeners is None else listeners,
        split="test",
        model=MODEL,
        rng_seed=0,
    )


def foretold(world, noise):
    """Content vectors by regression of what listeners like on their factors, with noise."""
    corpus, fitted, affinity = world
    users = fitted.user_factors[rows_of(fitted.user_ids, corpus.user_ids)]
    truth = unit_rows(np.linalg.lstsq(users, affinity, rcond=None)[0].T)
    return unit_rows(truth + noise * np.random.default_rng(1).standard_normal(truth.shape))


def test_content_is_scored_as_a_plain_loop_would(world):
    corpus, fitted, _ = world
    content = foretold(world, 0.3)
    found = ask(world, content)
    values = []
    for track in corpus.in_split("test"):
        played = {*corpus.plays.user[corpus.plays.track == track].tolist()}
        if len(played) < 40:
            continue
        score = dict(
            zip(
                rows_of(corpus.user_ids, fitted.user_ids).tolist(),
                fitted.user_factors @ content[track],
                strict=True,
            )
        )
        pairs = [score[a] > score[b] for a in played for b in score if b not in played]
        values.append(np.mean(pairs))
    assert len(values) == found.auc.shape[2] > 5
    assert found.at("content alone", 0) == pytest.approx(np.mean(values), abs=1e-4)


def test_without_plays_cf_knows_nothing_and_with_more_it_knows_more(world):
    found = ask(world, foretold(world, 0.5))
    assert found.at("CF alone", 0) == 0.5
    assert found.at("blend", 0) == found.at("content alone", 0)
    cf = [found.at("CF alone", revealed) for revealed in REVEALED]
    assert cf == sorted(cf)
    for revealed in (1, 3):
        assert found.difference("blend", "CF alone", revealed, bootstraps=50, rng_seed=0)[1] > 0
    same = found.difference("blend", "blend", 3, bootstraps=50, rng_seed=0)
    assert same.tolist() == [0, 0, 0]


def test_what_is_revealed_is_not_asked_for(tmp_path):
    """Everyone plays at random, so 30 listeners of a track say nothing of its others; asked for
    those 30 again, CF would know them."""
    rng = np.random.default_rng(2)
    user, track = np.nonzero(rng.random((150, 90)) < 0.4)
    corpus, fitted = fitted_on(tmp_path, user, track, np.ones(len(user), dtype=int))
    content = unit_rows(rng.standard_normal((90, 5)))
    found = ask((corpus, fitted, None), content)
    assert found.at("CF alone", 30) == pytest.approx(0.5, abs=0.05)


def test_content_counts_as_many_plays_when_it_is_the_truth_and_few_when_it_is_noise(world):
    assert ask(world, foretold(world, 0.0)).k > ask(world, foretold(world, 3.0)).k
    assert ask(world, foretold(world, 100.0)).k == min(K_GRID)


def test_k_alone_is_that_of_the_table(world):
    corpus, fitted, _ = world
    content, users = foretold(world, 0.5), rows_of(corpus.user_ids, fitted.user_ids)
    found = ask(world, content)
    settings = {"model": MODEL, "rng_seed": 0}
    assert choose_k(corpus, fitted, content, users, **settings) == (found.k, found.chosen_on)
    assert choose_k(corpus, fitted, content, users[:30], **settings) is None


def test_numbers_are_flat_and_whole(world):
    numbers = ask(world, foretold(world, 0.5)).numbers("test", bootstraps=20, rng_seed=0)
    assert {f"test / few plays / {row} / AUC at {n}" for row in ROWS for n in REVEALED} < {*numbers}
    name = "test / few plays / blend - CF alone / AUC at 1"
    assert numbers[f"{name} low"] <= numbers[name] <= numbers[f"{name} high"]
    assert np.isfinite(list(numbers.values())).all()


def test_the_sound_of_a_track_or_its_listeners_may_be_missing(world):
    corpus, fitted, _ = world
    content = foretold(world, 0.5)
    assert ask(world, content, listeners=np.arange(30)) is None
    silent = content.copy()
    silent[corpus.in_split("test")[:10]] = 0
    assert ask(world, silent).auc.shape[2] < ask(world, content).auc.shape[2]
    assert not {*corpus.in_split("test")} & {*training_targets(corpus, fitted)[0]}
