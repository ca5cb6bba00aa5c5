"""The head against dense solves and plain loops, what it plays, and the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.linear_model import Ridge

from benchmarks.radio import moved_query
from cbmr.errors import InputError
from cbmr.factors import Factors, save_factors
from cbmr.files import file_hash
from cbmr.radio import (
    candidates,
    explain,
    forget,
    pick,
    play,
    rank_of,
    start_station,
    vote,
    with_taste,
)
from cbmr.vectors import Vectors, save_vectors
from tests.conftest import TITLES, make_tables

HALF = 1 / np.sqrt(2)


def unit(rows, size=8, rng_seed=0):
    vectors = np.random.default_rng(rng_seed).standard_normal((rows, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def station_of(rows=60, size=8, seed=0, **options):
    vectors = unit(rows, size)
    return start_station(vectors, vectors[seed], played=frozenset({seed}), **options)


def after(station, votes):
    for track, up in votes:
        station = vote(station, track, up)
    return station


def random_votes(n, tracks=60, rng_seed=1):
    rng = np.random.default_rng(rng_seed)
    rows = rng.permutation(np.arange(1, tracks))[:n]
    return [(int(row), bool(rng.random() < 0.6)) for row in rows]


def posterior(station):
    return station.mean, station.root.T @ station.root


def same(one, other, tolerance=1e-6):
    for a, b in zip(posterior(one), posterior(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    assert dict(one.votes) == dict(other.votes)


# --- the closed form ----------------------------------------------------------------------------


def test_the_posterior_is_that_of_conditioning_a_joint_normal():
    """w ~ N(m, S) and y | w ~ N(Xw, s^2 I): w | y has mean m + S X' (X S X' + s^2 I)^-1 (y - X m)
    and covariance S - S X' (X S X' + s^2 I)^-1 X S, which never forms a precision."""
    options = {"trust": 0.8, "spread": 0.4, "bias": 0.6, "noise": 0.9}
    vectors, votes = unit(60), random_votes(25)
    station = after(station_of(**options), votes)
    covariance = np.cov(vectors.T, bias=True)
    prior = np.zeros((9, 9))
    shape = (np.eye(8) + covariance / np.mean(np.diag(covariance))) / 2
    prior[:8, :8] = 0.64 * np.outer(vectors[0], vectors[0]) + 0.16 * shape
    prior[8, 8] = 0.36
    x = np.array([[*vectors[track], 1] for track, _ in votes])
    y = np.array([1.0 if up else -1.0 for _, up in votes])
    mean = np.append(vectors[0], 0)
    gain = prior @ x.T @ np.linalg.inv(x @ prior @ x.T + 0.81 * np.eye(25))
    np.testing.assert_allclose(station.mean, mean + gain @ (y - x @ mean), atol=1e-9)
    np.testing.assert_allclose(posterior(station)[1], prior - gain @ x @ prior, atol=1e-9)


def test_the_mean_is_scikit_learns_ridge_in_the_prior_s_own_coordinates():
    """With w = m + R v and S = R R', the posterior's mean is that of ridge regression of y - X m on
    X R with penalty s^2."""
    votes = random_votes(30)
    empty = station_of(noise=0.7)
    root = np.linalg.cholesky(posterior(empty)[1])
    x = empty.features[[track for track, _ in votes]]
    y = np.array([1.0 if up else -1.0 for _, up in votes])
    ridge = Ridge(alpha=0.49, fit_intercept=False).fit(x @ root, y - x @ empty.mean)
    expected = empty.mean + root @ ridge.coef_
    np.testing.assert_allclose(after(empty, votes).mean, expected, atol=1e-8)


def test_without_votes_the_best_is_the_nearest_to_the_seed():
    station = station_of()
    cosine = unit(60) @ unit(60)[0]
    order = [row for row in np.argsort(-cosine).tolist() if row != 0]
    assert [rank_of(station, row) for row in order] == list(range(1, 60))


def test_the_order_of_votes_does_not_matter():
    votes = random_votes(40)
    same(after(station_of(), votes), after(station_of(), votes[::-1]), 1e-10)


def test_a_forgotten_vote_equals_a_refit_without_it():
    """A thousand changes, votes changed and repeated among them, and what is left is as if only the
    votes that stand had ever been given."""
    rng = np.random.default_rng(2)
    station = station_of(rows=200, size=40)
    for _ in range(1_000):
        if station.votes and rng.random() < 0.45:
            station = forget(station, int(rng.choice(list(station.votes))))
        else:
            station = vote(station, int(rng.integers(1, 200)), bool(rng.random() < 0.5))
    assert len(station.votes) > 20
    same(station, after(station_of(rows=200, size=40), station.votes.items()))
    for track in list(station.votes):
        station = forget(station, track)
    same(station, station_of(rows=200, size=40))


def test_of_two_votes_on_a_track_the_latest_counts():
    same(after(station_of(), [(5, True), (9, True), (5, False)]),
         after(station_of(), [(9, True), (5, False)]), 1e-12)  # fmt: skip


def test_a_vote_that_never_was_cannot_be_forgotten():
    with pytest.raises(InputError, match="no vote on track 3"):
        forget(after(station_of(), [(2, True)]), 3)


def test_one_vote_by_hand():
    """Two tracks (1, 0) and (0, 1), the seed is the first, no constant to speak of.

    Their covariance is 1/4 of (1, -1; -1, 1), scaled to mean variance 1 it is (1, -1; -1, 1), so S
    with trust 0 and spread 1 is (1, -1/2; -1/2, 1). A down on the second with noise 1: its variance
    is 1, the residual -1 - 0, the gain (-1/2, 1) / 2, the mean (1, 0) - (-1/4, 1/2) = (5/4, -1/2).
    """
    station = start_station(np.eye(2), np.eye(2)[0], trust=0.0, spread=1.0, bias=1e-6)
    np.testing.assert_allclose(vote(station, 1, False).mean, [1.25, -0.5, 0], atol=1e-6)


def test_a_known_taste_moves_the_start():
    seed, taste = np.array([1.0, 0.0]), np.array([0.0, 7.0])
    np.testing.assert_allclose(with_taste(seed, taste, 1.0), [HALF, HALF])
    np.testing.assert_array_equal(with_taste(seed, 0 * taste), seed)


def test_the_moved_query_by_hand():
    """(1, 0) + 2 (0, 1) - 1 (1, 0) is (0, 2)."""
    ups, downs = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    seed = np.array([1.0, 0.0])
    np.testing.assert_allclose(moved_query(seed, ups, downs, towards=2, away=1), [0, 1])
    np.testing.assert_array_equal(moved_query(seed, ups[:0], downs[:0]), seed)


# --- picks --------------------------------------------------------------------------------------


def test_of_two_tracks_the_share_of_draws_is_the_normal_probability():
    """With d the features of one less those of the other, the draw of d . w is normal: the one is
    first with probability Phi(d . m / sd), sd the posterior's times the exploration."""
    station = after(station_of(exploration=0.6), [(3, True), (4, True), (5, False)])
    for row in (3, 4, *range(6, 59)):
        station = play(station, row)
    station = play(station, 1)
    one, other = candidates(station)
    difference = station.features[one] - station.features[other]
    spread = 0.6 * np.sqrt(difference @ posterior(station)[1] @ difference)
    expected = norm.cdf(difference @ station.mean / spread)
    assert 0.05 < expected < 0.95
    chosen = pick(station, np.random.default_rng(0), draws=40_000)
    share = chosen.propensity if chosen.track == one else 1 - chosen.propensity
    assert abs(share - expected) < 0.012


def test_choices_and_their_propensities_agree_with_draws_of_another_library():
    station = after(station_of(rows=12, exploration=1.0), [(1, False), (2, True), (3, True)])
    rows, (mean, covariance) = candidates(station), posterior(station)
    weights = multivariate_normal(mean, covariance).rvs(60_000, random_state=0)
    best = np.argmax(weights @ station.features[rows].T, axis=1)
    expected = np.bincount(rows[best], minlength=12) / len(best)
    rng = np.random.default_rng(1)
    told, counts = {}, np.zeros(12)
    for _ in range(1_500):
        chosen = pick(station, rng, draws=400)
        counts[chosen.track] += 1
        told.setdefault(chosen.track, []).append(chosen.propensity)
    np.testing.assert_allclose(counts / 1_500, expected, atol=0.05)
    means = {track: np.mean(values) for track, values in told.items()}
    for track, propensity in means.items():
        assert abs(propensity - expected[track]) < 0.01
    assert abs(sum(means.values()) - 1) < 0.03
    assert not counts[[0, 1]].any()


def test_a_pick_repeats_by_its_rng_and_has_been_drawn_itself():
    station = station_of(exploration=5.0)
    first, second = (pick(station, np.random.default_rng(4), draws=7) for _ in range(2))
    assert first == second
    assert first.propensity >= 1 / 7
    assert pick(station, np.random.default_rng(4), draws=1).propensity == 1


def test_nothing_is_played_twice_and_nothing_banned_at_all():
    rng = np.random.default_rng(3)
    station, played = station_of(exploration=1.0), [0]
    station = vote(station, 30, False)
    while len(candidates(station)):
        track = pick(station, rng, draws=5).track
        assert track not in played
        assert station.votes.get(track) is not False
        played.append(track)
        station = play(station, track)
        if rng.random() < 0.7:
            station = vote(station, track, bool(rng.random() < 0.5))
    assert sorted(played) == sorted({*range(60)} - {30})
    with pytest.raises(InputError, match="nothing left"):
        pick(station, rng)


def test_a_forgotten_down_is_a_ban_no_longer_but_what_was_played_stays_played():
    station = after(play(station_of(), 4), [(4, False), (5, False)])
    station = forget(forget(station, 4), 5)
    assert 5 in candidates(station)
    assert 4 not in candidates(station)


# --- reasons ------------------------------------------------------------------------------------


def test_ranks_without_a_vote_are_those_of_a_refit_in_a_plain_loop():
    votes = random_votes(15)
    station = after(station_of(), votes)
    rows = candidates(station).tolist()
    for track in rows[:10]:
        reasons = explain(station, track)
        assert [reason.rank_without for reason in reasons] == sorted(
            (reason.rank_without for reason in reasons), reverse=True
        )
        assert {reason.track: reason.up for reason in reasons} == dict(votes)
        for reason in reasons:
            refit = after(station_of(), [item for item in votes if item[0] != reason.track])
            scores = {row: float(refit.features[row] @ refit.mean) for row in rows}
            better = sum(score > scores[track] for score in scores.values())
            assert reason.rank_without == better + 1


def test_the_vote_on_its_twin_carries_a_pick():
    vectors = unit(40)
    vectors[7] = vectors[8]
    empty = start_station(vectors, vectors[0], played=frozenset({0}))
    station = play(after(empty, [(8, True), (3, True), (4, False)]), 8)
    assert explain(station, 7)[0].track == 8
    assert explain(station, 7)[0].rank_without > rank_of(station, 7)


def test_only_a_candidate_has_a_rank():
    with pytest.raises(InputError, match="may still be played"):
        rank_of(station_of(), 0)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus's tables, and a run that has what a stage leaves for serving."""
    home = tmp_path_factory.mktemp("home")
    (home / "corpus").mkdir()
    make_tables()["tracks"].write_parquet(home / "corpus/tracks.parquet")
    ids = np.array([f"t{row}" for row in range(14)])
    save_vectors(home / "run/rank/embeddings.npz", Vectors(ids, unit(14, 4).astype(np.float32)))
    write_factors(home, unit(1, 4, 5))
    write_encoder(home, "e")
    return home


def write_factors(home, user_factors):
    """Of a listener, and of one track that the corpus has not."""
    item = unit(1, 4).astype(np.float32)
    factors = Factors(
        np.array(["elsewhere"]), item, np.array([1]), np.array(["u 1"]),
        user_factors.astype(np.float32),
    )  # fmt: skip
    save_factors(home / "run/factors.npz", factors)


def write_encoder(home, name):
    made = {"factors.npz": file_hash(home / "run/factors.npz")}
    manifest = {"settings": {}, "inputs": made, "outputs": {"encoder.pt": name}}
    (home / "run/rank/manifest.json").write_text(json.dumps(manifest))


def begun(home, station, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.radio", "corpus=corpus", "run=run", f"station={station}",
         *words],
        cwd=home, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def radio(home, station, *words):
    with begun(home, station, *words) as process:
        said = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, *said)


def plays(home, station, *words):
    result = radio(home, station, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def refused(result, *messages):
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
    for message in messages:
        assert message in result.stderr


def test_a_station_plays_hears_votes_and_says_why(home, tmp_path):
    path = tmp_path / "my station (1).json"
    lines = plays(home, path, "seed=t0", "n=3")
    assert len(lines) == 3
    assert all(" p=" in line and "by its likeness to the seed" in line for line in lines)
    assert plays(home, path, "up=Beyoncé (live)") == []
    assert plays(home, path, "down=t2", "n=2")[0].startswith("  4 ")
    kept = json.loads(path.read_text())
    assert kept["seed"] == "t0"
    assert kept["votes"] == [{"track_id": "t1", "up": True}, {"track_id": "t2", "up": False}]
    played = [item["track_id"] for item in kept["picks"]]
    assert len(set(played)) == 5 and "t0" not in played
    assert [item["votes"] for item in kept["picks"]] == [0, 0, 0, 2, 2]
    assert all(0 < item["propensity"] <= 1 and item["draws"] == 1000 for item in kept["picks"])

    before = path.read_bytes()
    refused(radio(home, path, "forget=t3"), "forget=t3", "no vote on t3")
    refused(radio(home, path, "seed=t5"), "seed=t5", "made with t0", "new station")
    assert path.read_bytes() == before
    plays(home, path, "forget=Beyoncé (live)", "seed=t0")
    assert "t1" not in json.dumps(json.loads(path.read_text())["votes"])
    rest = plays(home, path, "n=20")
    assert len(rest) == 14 - 1 - 5 - ("t2" not in played)


def test_five_at_once_are_those_of_five_commands(home, tmp_path):
    together = plays(home, tmp_path / "a.json", "seed=t3", "exploration=1")
    for _ in range(5):
        plays(home, tmp_path / "b.json", "seed=t3", "n=1", "exploration=1")
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert one == other
    assert len(together) == len(one["picks"]) == 5


def test_a_vote_that_carries_a_pick_is_named(home, tmp_path):
    """After an up on the track that is least like the seed, some track is there because of it, at
    the rank that the library tells."""
    vectors = unit(14, 4).astype(np.float32)
    far = int(np.argmin(vectors @ vectors[0]))
    plays(home, tmp_path / "s.json", "seed=t0", f"up=t{far}")
    line = plays(home, tmp_path / "s.json", "n=1", "exploration=0")[0]
    station = start_station(vectors, vectors[0], played=frozenset({0}))
    station = vote(station, far, True)
    first = next(row for row in candidates(station).tolist() if rank_of(station, row) == 1)
    assert f"(t{first})" in line
    without = explain(station, first)[0].rank_without
    assert without > 1
    named = f"here because of your up on artist {far % 4} - {TITLES[far]}; without it, {without}"
    assert named in line


def test_a_known_listener_changes_what_comes_first(home, tmp_path):
    plays(home, tmp_path / "s.json", "seed=t0", "listener=u 1", "n=13", "exploration=0")
    kept = json.loads((tmp_path / "s.json").read_text())
    start = with_taste(unit(14, 4)[0], unit(1, 4, 5)[0])
    nearest = [f"t{row}" for row in np.argsort(-(unit(14, 4) @ start)) if row != 0]
    assert [item["track_id"] for item in kept["picks"]] == nearest
    assert kept["listener"] == "u 1"
    refused(radio(home, tmp_path / "n.json", "seed=t0", "listener=u2"), "listener=u2", "user id")
    assert not (tmp_path / "n.json").exists()


def test_votes_of_commands_at_once_are_all_kept(home, tmp_path):
    path = tmp_path / "s.json"
    plays(home, path, "seed=t0", "n=1")
    for number in range(0, 6, 3):
        votes = [(f"t{number + 1 + place}", way) for place, way in enumerate(("up", "down", "up"))]
        commands = [begun(home, path, f"{way}={track}") for track, way in votes]
        for command in commands:
            _, errors = command.communicate()
            assert command.returncode == 0, errors
    kept = json.loads(path.read_text())["votes"]
    assert {item["track_id"]: item["up"] for item in kept} == {
        f"t{row}": row not in (2, 5) for row in range(1, 7)
    }


def test_a_taste_of_another_space_is_refused(home, tmp_path):
    plays(home, tmp_path / "s.json", "seed=t0", "listener=u 1", "n=1")
    write_factors(home, unit(1, 4, 6))
    try:
        for words in ([], ["up=t3"]):
            result = radio(home, tmp_path / "s.json", *words)
            refused(result, "two spaces", "python -m tasks.regress")
    finally:
        write_factors(home, unit(1, 4, 5))


def test_a_station_whose_seed_has_left_says_so(home, tmp_path):
    path = tmp_path / "s.json"
    plays(home, path, "seed=t0", "n=1")
    path.write_text(path.read_text().replace('"seed": "t0"', '"seed": "gone"'))
    refused(radio(home, path), "s.json", "seed gone has left the corpus", "begin a new station")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stage", "foo", "its beginning"),
        ("seed", None, "its beginning"),
        ("listener", 3, "its beginning"),
        ("votes", None, "its votes"),
        ("votes", {}, "its votes"),
        ("votes", [1], "its votes"),
        ("votes", [{"track_id": "t1", "up": "no"}], "its votes"),
        ("votes", [{"track_id": "t1", "up": None}], "its votes"),
        ("votes", [{"track_id": "t1", "up": True}] * 2, "a track twice"),
        ("picks", [["track_id", "propensity", "draws", "votes"]], "its picks"),
        ("picks", [{"track_id": 1, "propensity": 0.5, "draws": 1, "votes": 0}], "its picks"),
        ("picks", [{"track_id": "t1", "propensity": float("nan"), "draws": 1, "votes": 0}],
         "its picks"),
    ],
)  # fmt: skip
def test_a_damaged_station_is_left_alone(home, tmp_path, key, value, message):
    path = tmp_path / "s.json"
    path.write_text(
        json.dumps(
            {"format_version": 1, "stage": "rank", "encoder": "e", "seed": "t0", "listener": None,
             "votes": [], "picks": [], key: value}
        )
    )  # fmt: skip
    before = path.read_bytes()
    refused(radio(home, path), "s.json", message)
    assert path.read_bytes() == before


def test_another_encoder_is_refused(home, tmp_path):
    plays(home, tmp_path / "s.json", "seed=t0", "n=1")
    write_encoder(home, "other")
    try:
        refused(radio(home, tmp_path / "s.json"), "made for encoder e", "has other")
    finally:
        write_encoder(home, "e")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([], ["not there yet", "seed="]),
        (["seed=Beyonce (live)"], ["seed=Beyonce (live)", "nearest titles", "Beyoncé (live)"]),
        (["seed=Same"], ["2 tracks have this title"]),
        (["seed=t0", "up=nothing like it"], ["up=nothing like it", "expected a track id"]),
        (["seed=t0", "up=t1", "down=t1"], ["up and down name the same track"]),
        (["seed=t0", "n=two"], ["n=two", "whole number"]),
        (["seed=t0", "n=0"], ["n=0", "above 0"]),
        (["seed=t0", "exploration=-1"], ["exploration=-1", "at least 0"]),
        (["seed=t0", "exploration=inf"], ["exploration=inf", "finite"]),
        (["seed=t0", "stage=regress"], ["no regress/embeddings.npz"]),
        (["seed=t0", "vote=t1"], ["'vote' is no setting"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_station(home, tmp_path, words, messages):
    refused(radio(home, tmp_path / "s.json", *words), *messages)
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1", "is not JSON"), ('{"title": "a list"}', "no station of format 1")],
)
def test_a_file_that_is_no_station_is_left_alone(home, tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    refused(radio(home, path, "seed=t0"), message)
    assert path.read_text() == text


def test_playing_loads_no_training_library(home, tmp_path):
    program = (
        "import sys, runpy; sys.argv = ['radio', *sys.argv[1:]]\n"
        "try: runpy.run_module('tasks.radio', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'pytorch_lightning', 'sklearn'} & set(sys.modules)"
    )
    words = ["corpus=corpus", "run=run", f"station={tmp_path / 's.json'}", "seed=t0"]
    subprocess.run([sys.executable, "-c", program, *words], cwd=home, check=True,
                   env={**os.environ, "PYTHONPATH": str(Path.cwd())})  # fmt: skip
