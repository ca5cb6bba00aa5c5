"""Recommendations against plain loops on two taste camps, and which tracks of a list are odd."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.recommend import gini
from cbmr.corpus import make_corpus
from cbmr.errors import InputError
from cbmr.factors import Factors, unit_rows
from cbmr.outliers import are_odd, fit_to_rest
from cbmr.playlists import Catalogue, make_rules
from cbmr.priors import fold_in
from cbmr.recommend import (
    audience,
    blended_tracks,
    cf_items,
    find_listener,
    listeners_of,
    recommend,
)
from cbmr.vectors import Vectors

MODEL = {"regularization": 1.0, "alpha": 2.0, "eps": 1e-6}
SIZE, TRACKS, FITTED = 4, 40, 24


@pytest.fixture(scope="module")
def world():
    """24 tracks that were in the fit, 8 that have plays since and 8 that nobody played; the last
    of all has no sound. Listener u9 has no factors, u8 has, but plays nothing."""
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "track_id": [f"t{row:02d}" for row in range(TRACKS)],
            "path": [f"{row}.mp3" for row in range(TRACKS)],
            "title": [f"Title {row}" for row in range(TRACKS)],
            "artist": [f"artist {row % 6}" for row in range(TRACKS)],
            "album": [f"album {row % 12}" for row in range(TRACKS)],
            "split": ["train"] * FITTED + ["test"] * (TRACKS - FITTED),
        }
    )
    pairs = {(user, int(track)) for user in range(8) for track in rng.integers(0, 32, 12)}
    pairs |= {(9, 30), (9, 2)}
    plays = pl.DataFrame(
        [(f"u{user}", f"t{track:02d}", 1 + user) for user, track in sorted(pairs)],
        ["user_id", "track_id", "count"],
        orient="row",
    )
    thumbs = pl.DataFrame(
        [("u8", "t00", "t01", 1)], ["user_id", "seed_id", "track_id", "thumb"], orient="row"
    )
    corpus = make_corpus(Path("/music"), table, plays, thumbs)
    factors = Factors(
        corpus.track_ids[:FITTED],
        rng.standard_normal((FITTED, SIZE)).astype(np.float32),
        np.full(FITTED, 3),
        np.array([f"u{user}" for user in range(9)]),
        rng.standard_normal((9, SIZE)).astype(np.float32),
    )
    content = unit_rows(rng.standard_normal((TRACKS - 1, SIZE)))
    return corpus, factors, Vectors(corpus.track_ids[:-1], content)


def catalogue_of(world, k=3.0):
    corpus, factors, content = world
    return Catalogue(corpus, blended_tracks(corpus, factors, content, k=k, model=MODEL))


def played_by(world, user):
    return {track for who, track in zip(*plays_of(world), strict=True) if who == user}


def plays_of(world):
    plays = world[0].plays
    return world[0].user_ids[plays.user].tolist(), plays.track.tolist()


def test_a_track_is_its_sound_until_it_is_played(world):
    """Each track against the formula with its own n, in a plain loop."""
    corpus, factors, content = world
    blended = blended_tracks(corpus, factors, content, k=3.0, model=MODEL)
    assert blended.track_ids.tolist() == [f"t{row:02d}" for row in range(TRACKS - 1)]
    users, tracks = plays_of(world)
    for row in range(TRACKS - 1):
        n = sum(track == row and user != "u9" for user, track in zip(users, tracks, strict=True))
        if row < FITTED:
            cf = factors.item_factors[row]
        else:
            of_row = corpus.plays.track == row
            known = of_row & (corpus.user_ids[corpus.plays.user] != "u9")
            own = type(corpus.plays)(
                corpus.plays.user[known], np.zeros(known.sum(), int), corpus.plays.count[known]
            )
            cf = fold_in(factors.user_factors, own, 1, **MODEL)[0]
        mixed = 3 / (n + 3) * content.vectors[row]
        if n:
            mixed = mixed + n / (n + 3) * cf / np.linalg.norm(cf)
        np.testing.assert_allclose(
            blended.vectors[row], mixed / np.linalg.norm(mixed), atol=1e-5, err_msg=str((row, n))
        )


def test_a_track_without_sound_is_its_listeners_alone(world):
    corpus, factors, content = world
    silent = Vectors(content.track_ids[1:], content.vectors[1:])
    blended = blended_tracks(corpus, factors, silent, k=3.0, model=MODEL)
    assert cf_items(corpus, factors, model=MODEL)[1][0] > 0
    np.testing.assert_allclose(blended.vectors[0], unit_rows(factors.item_factors)[0], atol=1e-6)


def test_another_model_folds_nothing_in(world):
    corpus, factors, content = world
    cf, number = cf_items(corpus, factors, model=None)
    assert not cf[FITTED:].any() and number[FITTED:32].any()
    blended = blended_tracks(corpus, factors, content, k=3.0, model=None)
    np.testing.assert_array_equal(blended.vectors[FITTED:], content.vectors[FITTED:])


def test_a_listener_gets_the_highest_scores_of_what_they_have_not_played(world):
    factors, catalogue = world[1], catalogue_of(world)
    for user in range(8):
        playlist = recommend(catalogue, factors, user, (), n=10)
        taste = factors.user_factors[user] / np.linalg.norm(factors.user_factors[user])
        score = {row: float(vector @ taste) for row, vector in enumerate(catalogue.vectors.vectors)}
        unheard = sorted(score.keys() - played_by(world, f"u{user}"), key=lambda row: -score[row])
        assert [entry.track_id for entry in playlist.entries] == [
            f"t{row:02d}" for row in unheard[:10]
        ]
        found = [entry.similarity for entry in playlist.entries]
        np.testing.assert_allclose(found, [score[row] for row in unheard[:10]], atol=1e-6)
    assert any(int(entry.track_id[1:]) >= 32 for entry in playlist.entries)  # new ones included


def test_why_names_the_nearest_of_their_own(world):
    catalogue = catalogue_of(world)
    vectors = catalogue.vectors.vectors
    entry = recommend(catalogue, world[1], 0, (), n=1).entries[0]
    own = sorted(
        played_by(world, "u0"),
        key=lambda row: -float(vectors[row] @ vectors[int(entry.track_id[1:])]),
    )
    names = [f"artist {row % 6} - Title {row}" for row in own[:2]]
    assert entry.why == f"like {names[0]}; {names[1]}"


def test_caps_hold_and_what_they_cost_is_told(world):
    rules = make_rules(artist_spacing=1, max_per_artist=2, max_per_album=1)
    playlist = recommend(catalogue_of(world), world[1], 1, rules, n=30)
    artists = [entry.artist for entry in playlist.entries]
    albums = [entry.album for entry in playlist.entries]
    assert max(map(artists.count, artists)) <= 2 and max(map(albums.count, albums)) == 1
    assert playlist.exhausted
    assert {track.rule for track in playlist.left_out} == {"max_per_artist", "max_per_album"}


def test_a_listener_without_factors_gets_what_most_played(world):
    corpus = world[0]
    user = find_listener(corpus, "u9")
    entries = recommend(catalogue_of(world), world[1], user, (), n=3).entries
    _, tracks = plays_of(world)
    number = {row: tracks.count(row) for row in {*tracks} - {30, 2}}
    most = sorted(number, key=lambda row: (-number[row], row))[:3]
    assert [entry.track_id for entry in entries] == [f"t{row:02d}" for row in most]
    assert [entry.similarity for entry in entries] == pytest.approx(
        [number[row] / 9 for row in most]
    )
    assert entries[0].why == ""


def test_a_listener_with_factors_and_no_plays_today_has_all_tracks_left(world):
    user = find_listener(world[0], "u8")
    playlist = recommend(catalogue_of(world), world[1], user, (), n=TRACKS)
    assert len(playlist.entries) == TRACKS - 1 and playlist.exhausted
    assert {entry.why for entry in playlist.entries} == {""}


def test_an_unknown_listener_is_told_the_nearest_ids(world):
    with pytest.raises(InputError, match=r"user=u99: .* nearest ids: u9"):
        find_listener(world[0], "u99")


def test_an_audience_is_ranked_by_the_inner_product(world):
    """By hand: listeners (2, 0), (1, 0) and (0, 3) and a track (1, 0): the scores are 2, 1 and 0,
    where the cosine would put the first two level."""
    users = np.array([[2, 0], [1, 0], [0, 3]], np.float32)
    factors = Factors(
        np.empty(0, str), np.empty((0, 2)), np.empty(0, int), np.array(["a", "b", "c"]), users
    )
    ids, scores = audience(factors, np.array([1, 0], np.float32), n=5)
    assert ids.tolist() == ["a", "b", "c"] and scores.tolist() == [2, 1, 0]
    ids, _ = audience(factors, np.array([1, 0], np.float32), n=1, but=["a"])
    assert ids.tolist() == ["b"]
    assert {*listeners_of(world[0], 30)} >= {"u9"}


# --- odd ones -----------------------------------------------------------------------------------


def test_fit_is_the_mean_cosine_to_the_nearest_others():
    vectors = unit_rows(np.random.default_rng(0).standard_normal((12, 3)))
    fit = fit_to_rest(vectors, nearest=4)
    for row in range(12):
        cosines = sorted(
            float(vectors[row] @ vectors[other]) for other in range(12) if other != row
        )
        assert fit[row] == pytest.approx(np.mean(cosines[-4:]), abs=1e-6)
    by_hand = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert fit_to_rest(by_hand, nearest=1).tolist() == [1, 1, 0]
    assert fit_to_rest(by_hand[1:]).tolist() == [0, 0]


def test_what_is_far_below_the_median_is_odd():
    assert are_odd(np.array([0.9, 0.8, 0.8, 0.7, 0.2])).tolist() == [False] * 4 + [True]
    assert not are_odd(np.full(6, 0.5)).any()


def test_gini_is_half_the_mean_difference_over_the_mean():
    """The other definition, over all pairs."""
    amounts = np.random.default_rng(0).pareto(1.5, 30)
    pairs = np.abs(amounts[:, None] - amounts).mean()
    assert gini(amounts) == pytest.approx(pairs / (2 * amounts.mean()))
    assert gini(np.array([0.0, 1.0])) == 0.5
    assert gini(np.full(7, 3.0)) == pytest.approx(0)
