"""WMF against the dense normal equations, two taste camps, determinism."""

import numpy as np
import pytest

from cbmr.corpus import Plays
from cbmr.errors import InputError
from cbmr.factors import (
    confidence,
    factorize,
    load_factors,
    save_factors,
    tune,
    unit_rows,
)


def camps(listeners=40, tracks=30, rng_seed=0):
    """Even listeners play even tracks, odd ones odd tracks; the last track is never played."""
    rng = np.random.default_rng(rng_seed)
    user, track = np.nonzero(rng.random((listeners, tracks)) < 0.6)
    kept = (user % 2 == track % 2) & (track < tracks - 1)
    user, track = user[kept], track[kept]
    ids = [np.array([f"{kind}{row:02d}" for row in range(n)]) for kind, n in
           (("t", tracks), ("u", listeners))]  # fmt: skip
    return Plays(user, track, rng.integers(1, 9, len(user))), *ids


def test_confidence_by_hand():
    """r = 0 counts 1; alpha 2, eps 1: r = 1 counts 1 + 2 log 2."""
    np.testing.assert_allclose(confidence(np.array([0, 1]), alpha=2, eps=1), [1, 1 + 2 * np.log(2)])


def test_als_ends_where_the_dense_normal_equations_hold():
    """Each listener's factors solve (Y'Y + Y' diag(c - 1) Y + lambda I) x = Y' c p, and so do the
    tracks' for the listeners, once the alternation has settled."""
    plays, track_ids, user_ids = camps()
    fitted = factorize(plays, track_ids, user_ids, factors=3, regularization=2.0)
    preference = np.zeros((40, 29))
    preference[plays.user, plays.track] = 1
    weight = np.ones_like(preference)
    weight[plays.user, plays.track] = confidence(plays.count, alpha=2.0, eps=1e-6)
    for item in range(29):
        users = fitted.user_factors.astype(np.float64)
        left = (users.T * weight[:, item]) @ users + 2.0 * np.eye(3)
        right = (users.T * weight[:, item]) @ preference[:, item]
        np.testing.assert_allclose(
            fitted.item_factors[item], np.linalg.solve(left, right), atol=2e-3
        )


def test_two_camps_are_told_apart_and_the_unplayed_left_out():
    plays, track_ids, user_ids = camps()
    fitted = factorize(plays, track_ids, user_ids, factors=4)
    assert "t29" not in fitted.track_ids
    assert fitted.item_factors.shape == (29, 4)
    scores = fitted.user_factors @ fitted.item_factors.T
    same = np.add.outer(np.arange(40), np.arange(29)) % 2 == 0
    assert scores[same].min() > scores[~same].max()


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, rng_seed in (("a", 0), ("b", 0), ("c", 1)):
        fitted = factorize(*camps(), factors=4, rng_seed=rng_seed)
        save_factors(tmp_path / f"{name}.npz", fitted)
    first, again, other = ((tmp_path / f"{name}.npz").read_bytes() for name in "abc")
    assert first == again != other
    np.testing.assert_array_equal(
        load_factors(tmp_path / "a.npz").item_factors,
        factorize(*camps(), factors=4).item_factors,
    )


def test_tuning_prefers_what_finds_hidden_plays(capsys):
    chosen = tune(*camps(), factors=4, rng_seed=0)
    assert set(chosen) == {"regularization", "alpha", "eps"}
    lines = capsys.readouterr().out.splitlines()
    recalls = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert len(recalls) == 18
    assert f"{chosen}: recall@20 {max(recalls):.3f}" in lines


def test_unit_rows_and_bad_settings():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0]])), [[0.6, 0.8]])
    with pytest.raises(InputError, match="row 1 is all zeros"):
        unit_rows(np.array([[1.0], [0.0]]))
    with pytest.raises(InputError, match="alpha=0"):
        factorize(*camps(), alpha=0)
    with pytest.raises(InputError, match="regularization=-1"):
        factorize(*camps(), regularization=-1)
