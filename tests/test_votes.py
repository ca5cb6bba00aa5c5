"""The model of a vote: against worked numbers, a plain loop with another optimiser, and simulated
votes whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize

from cbmr.corpus import Thumbs
from cbmr.errors import InputError
from cbmr.votes import BIAS_STD, METRIC_STD, SCALE_STD, VoteModel, fit_votes

SIZE = 4


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def simulated(rng, votes, *, flip_rate, tracks=60, listeners=30, scale=6.0):
    """Votes that follow the likeness of random factors, kindness that differs, and slips."""
    factors = unit(rng, tracks, SIZE)
    user, seed, track = (rng.integers(0, most, votes) for most in (listeners, tracks, tracks))
    z = scale * (factors[seed] * factors[track]).sum(axis=1) + rng.normal(size=listeners)[user] / 2
    up = rng.random(votes) < 1 / (1 + np.exp(-z))
    slipped = rng.random(votes) < flip_rate
    return factors, Thumbs(user, seed, track, up ^ slipped), up


def model(offset, flip_rate):
    none = np.zeros(1, dtype=np.float32)
    return VoteModel(0.0, offset, np.eye(SIZE), none, none, 0.0, 0.0, flip_rate, 0.0, 0.0, 2)


def test_the_docstrings_example_of_a_correction():
    """p a half: .9 * .5 / (.9 * .5 + .1 * .5) = .9. p .05: .045 / (.045 + .095) = .321."""
    factors = np.ones((1, SIZE)) / 2
    one = Thumbs(*(np.zeros(2, dtype=int) for _ in range(3)), np.array([True, False]))
    votes, certainty = model(0.0, 0.1).corrected(factors, one)
    assert votes.up.tolist() == [True, False]
    np.testing.assert_allclose(certainty, 0.8)
    votes, certainty = model(np.log(0.05 / 0.95), 0.1).corrected(factors, one)
    assert votes.up.tolist() == [False, False]
    np.testing.assert_allclose(certainty[0], 1 - 2 * 0.045 / 0.14)
    votes, certainty = model(np.log(0.05 / 0.95), 0.0).corrected(factors, one)
    assert votes.up.tolist() == [True, False]
    np.testing.assert_allclose(certainty, 1)


def test_a_fit_is_the_same_to_the_bit_on_several_threads(two_threads):
    factors, votes, _ = simulated(np.random.default_rng(0), 20_000, flip_rate=0.1)
    first, again = (fit_votes(factors, votes, flip_rate=0.1, rng_seed=0) for _ in range(2))
    for name in ("scale", "offset", "metric", "listener", "station"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name


def test_a_few_votes_are_left_as_they_are_recorded():
    """Three ups and two downs on one station: too few to tell a slip from a vote."""
    factors = simulated(np.random.default_rng(0), 1, flip_rate=0.0)[0]
    none = np.zeros(5, dtype=int)
    votes = Thumbs(none, none, np.arange(1, 6), np.array([True, True, False, True, False]))
    fitted = fit_votes(factors, votes, flip_rate=None, rng_seed=0)
    meant, certainty = fitted.corrected(factors, votes)
    assert fitted.flip_rate == 0
    assert np.array_equal(meant.up, votes.up) and (certainty == 1).all()
    assert fit_votes(factors, votes, flip_rate=0.2, rng_seed=0).flip_rate == 0.2


def test_who_never_voted_does_not_lessen_how_far_voters_differ():
    """The same votes, their listeners and tracks among ten times as many."""
    factors, votes, _ = simulated(np.random.default_rng(0), 4_000, flip_rate=0.0)
    among = Thumbs(10 * votes.user, 10 * votes.seed, 10 * votes.track, votes.up)
    of_many = np.repeat(factors, 10, axis=0)
    few = fit_votes(factors, votes, flip_rate=0.0, rng_seed=0)
    many = fit_votes(of_many, among, flip_rate=0.0, rng_seed=0)
    assert few.listener_spread > 0.1
    assert many.listener_spread == pytest.approx(few.listener_spread, rel=1e-3)
    assert many.station_spread == pytest.approx(few.station_spread, rel=1e-3)


@pytest.mark.parametrize("flip_rate", [0.0, 0.2])
def test_no_other_optimiser_finds_anything_likelier(flip_rate):
    """A posterior written as a plain loop, at the fit and after scipy's own search from there."""
    factors, votes, _ = simulated(
        np.random.default_rng(0), 40, flip_rate=flip_rate, tracks=5, listeners=3
    )
    fitted = fit_votes(factors, votes, flip_rate=flip_rate, rng_seed=0)

    def cost(theta):
        scale, offset, metric = theta[0], theta[1], theta[2:18].reshape(SIZE, SIZE)
        listener, station = theta[18:21], theta[21:]
        total = (scale / SCALE_STD) ** 2 / 2 + (
            ((metric - np.eye(SIZE)) / METRIC_STD) ** 2
        ).sum() / 2
        total += ((theta[18:] / BIAS_STD) ** 2).sum() / 2
        for user, seed, track, up in zip(*vars(votes).values(), strict=True):
            x, y = metric @ factors[seed], metric @ factors[track]
            z = scale * x @ y / np.linalg.norm(x) / np.linalg.norm(y) + offset
            z += listener[user] + station[seed]
            likely = 1 / (1 + np.exp(-z))
            likely = (1 - flip_rate) * likely + flip_rate * (1 - likely)
            total -= np.log(likely if up else 1 - likely)
        return total

    parts = fitted.scale, fitted.offset, fitted.metric, fitted.listener, fitted.station
    theta = np.concatenate([np.ravel(part) for part in parts]).astype(np.float64)
    searched = scipy.optimize.minimize(cost, theta, method="L-BFGS-B")
    assert cost(theta) == pytest.approx(searched.fun, abs=1e-2)
    assert cost(theta) < cost(np.concatenate([[3.0, 0.0], np.eye(SIZE).ravel(), np.zeros(8)])) - 1


@pytest.mark.parametrize("flip_rate", [0.0, 0.2, 0.4])
def test_the_rate_of_flips_is_found_and_slips_are_turned_round(flip_rate):
    factors, votes, meant = simulated(np.random.default_rng(1), 8000, flip_rate=flip_rate)
    fitted = fit_votes(factors, votes, flip_rate=None, rng_seed=0)
    assert fitted.flip_rate == pytest.approx(flip_rate, abs=0.051)
    assert not fitted.only_chance
    corrected, certainty = fitted.corrected(factors, votes)
    wrong_before, wrong = (votes.up != meant).mean(), corrected.up != meant
    assert wrong.mean() <= 0.8 * wrong_before
    if flip_rate:  # the surer, the more often right
        sure = certainty > np.median(certainty)
        assert wrong[sure].mean() < wrong[~sure].mean()
    assert str(fitted).count("flip rate") == 1


def test_shuffled_votes_are_only_chance_and_a_few_are_not_judged():
    rng = np.random.default_rng(2)
    factors, votes, _ = simulated(rng, 2000, flip_rate=0.1)
    shuffled = replace(votes, up=rng.permutation(votes.up))
    assert fit_votes(factors, shuffled, flip_rate=None, rng_seed=0).only_chance
    assert fit_votes(factors, shuffled, flip_rate=0.1, rng_seed=0).only_chance
    assert not fit_votes(factors, votes, flip_rate=None, rng_seed=0).only_chance
    for few in (0, 1, 2, 20):
        assert not fit_votes(factors, shuffled[:few], flip_rate=None, rng_seed=0).only_chance


def test_kindness_alone_is_only_chance():
    """Half of the listeners say up to nearly all, the others to nearly nothing, whatever the
    track."""
    rng = np.random.default_rng(5)
    factors, votes, _ = simulated(rng, 2000, flip_rate=0.0)
    kind = replace(votes, up=rng.random(2000) < np.where(votes.user % 2, 0.95, 0.05))
    assert fit_votes(factors, kind, flip_rate=0.0, rng_seed=0).only_chance


def test_clean_votes_with_one_slip_are_fitted_and_kept():
    """So sharp that a slip has a likelihood of 0 in float32: the fit is finite, and without flips
    every vote stays as it is, all certain."""
    rng = np.random.default_rng(6)
    factors, votes, _ = simulated(rng, 4000, flip_rate=0.0)
    likeness = (factors[votes.seed] * factors[votes.track]).sum(axis=1)
    up = likeness > 0
    up[np.argmax(likeness)] = False
    votes = replace(votes, up=up)
    fitted = fit_votes(factors, votes, flip_rate=0.0, rng_seed=0)
    assert np.isfinite([fitted.scale, fitted.gain, fitted.gain_error]).all()
    for scale in (fitted.scale, 1000.0):
        corrected, certainty = replace(fitted, scale=scale).corrected(factors, votes)
        assert (corrected.up == up).all()
        np.testing.assert_array_equal(certainty, 1)
        _, certainty = replace(fitted, scale=scale, flip_rate=0.1).corrected(factors, votes)
        assert ((certainty >= 0) & (certainty <= 1)).all()


def test_a_track_that_is_like_nothing_is_voted_on_by_chance():
    """A vector of zeros, at offset 0: p is a half whatever the seed, so rho .1 leaves .8 of it."""
    factors = np.stack([np.ones(SIZE) / 2, np.zeros(SIZE)])
    votes = Thumbs(*(np.array(rows) for rows in ([0], [0], [1], [True])))
    one = replace(model(0.0, 0.1), scale=6.0, station=np.zeros(2))
    corrected, certainty = one.corrected(factors, votes)
    assert corrected.up.tolist() == [True]
    np.testing.assert_allclose(certainty, 0.8)


def test_a_rate_of_a_half_is_refused():
    factors, votes, _ = simulated(np.random.default_rng(4), 10, flip_rate=0.0)
    for rate in (-0.1, 0.5):
        with pytest.raises(InputError, match=r"expected 0 to 0\.45"):
            fit_votes(factors, votes, flip_rate=rate, rng_seed=0)
