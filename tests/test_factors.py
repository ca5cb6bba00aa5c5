"""Every CF model by one set of tests; each one's arithmetic against plain loops; tuning."""

import inspect
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch

from cbmr.corpus import Plays, make_corpus, training_plays
from cbmr.errors import InputError
from cbmr.factors import (
    GRIDS,
    MODELS,
    Factors,
    confidence,
    factorize,
    hidden_recall,
    hide,
    load_factors,
    save_factors,
    settled,
    tune,
    unit_rows,
    vector_exp,
)
from cbmr.factors.vector_exp import ListenerBatches, sampled_softmax_loss, softmax_loss
from cbmr.factors.wmf import by_density

OPTIONS = {
    "wmf": {"regularization": 10.0},
    "bpr": {"learning_rate": 0.05},
    "vector_exp": {"regularization": 1.0, "batch_size": 8},
    "vector_exp, sampled": {"regularization": 1.0, "batch_size": 8},
    "concat": {"models": ["bpr", "vector_exp"]},
    "sessions": {"regularization": 5.0, "batch_size": 8},
}


def camps(listeners=40, tracks=30, rng_seed=0):
    """Even listeners play even tracks, odd ones odd tracks; the last track is never played."""
    rng = np.random.default_rng(rng_seed)
    user, track = np.nonzero(rng.random((listeners, tracks)) < 0.6)
    kept = (user % 2 == track % 2) & (track < tracks - 1)
    user, track = user[kept], track[kept]
    ids = [np.array([f"{kind}{row:02d}" for row in range(n)]) for kind, n in
           (("t", tracks), ("u", listeners))]  # fmt: skip
    # Each listener has two sessions, and every play is in one of them.
    session = 2 * user + (rng.random(len(user)) < 0.5)
    return Plays(user, track, rng.integers(1, 9, len(user)), session), *ids


def counts(rng_seed=0):
    plays, *_ = camps(rng_seed=rng_seed)
    return scipy.sparse.csr_matrix((plays.count.astype(float), (plays.user, plays.track)))


# --- what every model has to do -----------------------------------------------------------------


@pytest.fixture(params=OPTIONS)
def fit(request, monkeypatch):
    """A model on the two camps, or on what is given in their place."""
    if request.param.endswith("sampled"):
        monkeypatch.setattr(vector_exp, "FULL_SOFTMAX_TRACKS", 10)
    model = request.param.split(",")[0]
    options = OPTIONS[request.param]

    def fitted(data=None, **changed):
        return factorize(*(data or camps()), **{"model": model, "size": 4, **options, **changed})

    fitted.model = model
    return fitted


def test_every_model_is_tested():
    assert {name.split(",")[0] for name in OPTIONS} == set(MODELS)


def test_shapes_ids_and_camps(fit):
    """Both camps are told apart by scores and by cosines, and what has no plays has no factors."""
    plays, track_ids, user_ids = camps()
    kept = plays.user != 7
    fitted = fit((plays[kept], track_ids, user_ids))
    size = 8 if fit.model == "concat" else 4
    assert fitted.track_ids.tolist() == track_ids[:29].tolist()
    assert fitted.user_ids.tolist() == [name for name in user_ids if name != "u07"]
    assert fitted.item_factors.shape == (29, size) and fitted.item_factors.dtype == np.float32
    assert fitted.user_factors.shape == (39, size) and fitted.user_factors.dtype == np.float32
    listener = np.array([int(name[1:]) for name in fitted.user_ids])
    same = np.add.outer(listener, np.arange(29)) % 2 == 0
    scores = fitted.user_factors @ fitted.item_factors.T
    assert scores[same].min() > scores[~same].max()
    unit = unit_rows(fitted.item_factors)
    same = np.add.outer(np.arange(29), np.arange(29)) % 2 == 0
    assert (unit @ unit.T)[same].min() > (unit @ unit.T)[~same].max()


def test_the_same_seed_gives_the_same_bytes(fit, tmp_path):
    for name, rng_seed in (("a", 0), ("b", 0), ("c", 1)):
        save_factors(tmp_path / f"{name}.npz", fit(rng_seed=rng_seed))
    first, again, other = ((tmp_path / f"{name}.npz").read_bytes() for name in "abc")
    assert first == again != other
    np.testing.assert_array_equal(load_factors(tmp_path / "a.npz").item_factors, fit().item_factors)


def test_plays_that_are_no_counts_are_refused(fit):
    plays, track_ids, user_ids = camps()
    for bad in (np.nan, np.inf, 0.0, -1.0):
        count = plays.count.astype(float)
        count[5] = bad
        with pytest.raises(InputError, match=f"entry 5 has count {bad}: expected a number above 0"):
            fit((replace(plays, count=count), track_ids, user_ids))


def test_settings_out_of_range_are_refused(fit):
    for size in (0, -1):
        with pytest.raises(InputError, match=f"size={size}: expected a number above 0"):
            fit(size=size)


@pytest.mark.parametrize(
    ("model", "setting", "message"),
    [
        ("wmf", {"alpha": 0}, "alpha=0: expected a number above 0"),
        ("wmf", {"eps": float("nan")}, "eps=nan: expected a number above 0"),
        ("wmf", {"regularization": -1}, "regularization=-1: expected a number of at least 0"),
        ("bpr", {"learning_rate": 0}, "learning_rate=0"),
        ("bpr", {"iterations": 0}, "iterations=0"),
        ("bpr", {"regularization": -1}, "regularization=-1"),
        ("bpr", {"learning_rate": 1e30}, "the factors grew beyond all numbers"),
        ("vector_exp", {"learning_rate": -1}, "learning_rate=-1"),
        ("vector_exp", {"epochs": 0}, "epochs=0"),
        ("vector_exp", {"batch_size": 0}, "batch_size=0"),
        ("vector_exp", {"regularization": -1}, "regularization=-1"),
        ("vector_exp", {"learning_rate": 1e30}, "the factors grew beyond all numbers"),
        ("sessions", {"epochs": 0}, "epochs=0"),
        ("sessions", {"learning_rate": 1e30}, "the factors grew beyond all numbers"),
        ("concat", {"models": ["wmf"]}, "two or more of wmf, bpr, vector_exp, each once"),
        ("concat", {"models": ["wmf", "wmf"]}, "each once"),
        ("concat", {"models": ["wmf", "concat"]}, "two or more of wmf, bpr, vector_exp"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(model, setting, message):
    with pytest.raises(InputError, match=message):
        factorize(*camps(), model=model, size=4, **setting)


# --- weighted matrix factorisation --------------------------------------------------------------


def test_what_suits_a_density_by_hand():
    """Four tracks of 5 listeners each, of 25: d = .2. Twice the listeners and as many more users:
    the same alpha."""
    assert by_density(np.full(4, 5), 25) == pytest.approx(
        {"alpha": 1.45, "regularization": 0.44 * 7 / 0.2**0.5}
    )
    assert by_density(np.full(4, 10), 50)["alpha"] == pytest.approx(1.45)
    # A long tail of tracks with a listener each changes little.
    tail = np.concatenate([np.full(4, 500), np.ones(100, dtype=int)])
    assert by_density(tail, 2500)["alpha"] == pytest.approx(1.45, rel=0.06)


def test_what_is_none_is_by_density_and_what_is_given_stays():
    plays, track_ids, user_ids = camps()
    listeners = np.bincount(plays.track)
    chosen = by_density(listeners[listeners > 0], len(np.unique(plays.user)))
    options = {"regularization": None, "alpha": 3.0, "eps": 1e-6}
    found = settled(plays, model="wmf", **options)
    assert found == {**options, "regularization": chosen["regularization"]}
    assert settled(plays, model="bpr", regularization=None) == {"regularization": None}
    by_default = factorize(plays, track_ids, user_ids, size=4)
    spelt_out = factorize(plays, track_ids, user_ids, size=4, **chosen)
    np.testing.assert_array_equal(by_default.item_factors, spelt_out.item_factors)


def test_a_catalogue_eight_times_as_sparse_is_understood_as_well():
    """Listeners in 4 camps play tracks of theirs nine times in ten, in a small catalogue and in one
    with 8 times the tracks and listeners and as many plays a listener. The unit vectors of a camp's
    tracks are near each other in both, and less so in each with what suits the other."""

    def together(scale, **options):
        rng = np.random.default_rng(0)
        users, tracks = 120 * scale, 48 * scale
        user = np.repeat(np.arange(users), 12)
        own = rng.random(len(user)) < 0.9
        track = rng.integers(tracks // 4, size=len(user)) * 4
        track += np.where(own, user % 4, rng.integers(4, size=len(user)))
        user, track = np.unique(np.stack([user, track]), axis=1)
        ids = np.arange(max(users, tracks)).astype(str)
        plays = Plays(user, track, np.ones(len(user)))
        fitted = factorize(plays, ids[:tracks], ids[:users], size=8, **options)
        unit = unit_rows(fitted.item_factors)
        camp = fitted.track_ids.astype(int) % 4
        cosine, same = unit @ unit.T, camp[:, None] == camp
        return cosine[same].mean() - cosine[~same].mean()

    small, large = together(1), together(8)
    assert large > 0.9 * small
    of_small, of_large = (by_density(np.full(48 * scale, 30), 120 * scale) for scale in (1, 8))
    assert together(8, **of_small) < large - 0.02
    assert together(1, **of_large) < small - 0.2


def test_confidence_by_hand():
    """r = 0 counts 1; alpha 2, eps 1: r = 1 counts 1 + 2 log 2."""
    np.testing.assert_allclose(confidence(np.array([0, 1]), alpha=2, eps=1), [1, 1 + 2 * np.log(2)])


def test_als_ends_where_the_dense_normal_equations_hold():
    """Each listener's factors solve (Y'Y + Y' diag(c - 1) Y + lambda I) x = Y' c p, and so do the
    tracks' for the listeners, once the alternation has settled."""
    plays, track_ids, user_ids = camps()
    fitted = factorize(plays, track_ids, user_ids, size=3, regularization=2.0, alpha=2.0)
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


# --- softmax matrix factorisation ---------------------------------------------------------------


def softmax_case(listeners=5, tracks=7, size=3):
    """Factors, and all plays of all listeners as one batch."""
    rng = np.random.default_rng(0)
    user, item = rng.standard_normal((listeners, size)), rng.standard_normal((tracks, size))
    weights = rng.random((listeners, tracks)) * (rng.random((listeners, tracks)) < 0.6)
    listener, track = np.nonzero(weights)
    play = {"listener": torch.tensor(listener), "weight": torch.tensor(weights[weights > 0])}
    return user, item, weights, play, torch.tensor(track)


def loss_and_gradients(loss, user, item):
    user, item = (torch.tensor(table, requires_grad=True) for table in (user, item))
    value = loss(user, item)
    value.backward()
    return value.item(), user.grad.numpy(), item.grad.numpy()


def test_softmax_loss_and_gradients_by_a_plain_loop():
    """- sum N_ui log P(i | u), and for b_i: - sum_u (N_ui - N_u P(i | u)) a_u; likewise for a_u."""
    user, item, weights, play, track = softmax_case()
    value, user_gradient, item_gradient = loss_and_gradients(
        lambda a, b: softmax_loss(a, b, play, b[track]), user, item
    )
    expected = 0.0
    expected_user, expected_item = np.zeros_like(user), np.zeros_like(item)
    for u in range(len(user)):
        exponentials = [np.exp(user[u] @ item[j]) for j in range(len(item))]
        for i in range(len(item)):
            p = exponentials[i] / sum(exponentials)
            expected -= weights[u, i] * np.log(p)
            excess = weights[u].sum() * p - weights[u, i]
            expected_item[i] += excess * user[u]
            expected_user[u] += excess * item[i]
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(user_gradient, expected_user, atol=1e-12)
    np.testing.assert_allclose(item_gradient, expected_item, atol=1e-12)


def test_sampled_softmax_nears_the_full_one_by_its_correction():
    """With many draws from a lopsided distribution; without the correction it stays away."""
    user, item, _, play, track = softmax_case()
    full = loss_and_gradients(lambda a, b: softmax_loss(a, b, play, b[track]), user, item)
    share = torch.arange(1.0, len(item) + 1, dtype=torch.float64)
    share /= share.sum()

    def furthest(samples, corrected=True):
        rng = np.random.default_rng(samples)
        drawn = torch.tensor(rng.choice(len(item), samples, p=share.numpy()))
        expected = samples * (share if corrected else torch.full_like(share, 1 / len(item)))
        drawing = {
            "sample_log_expected": expected.log()[drawn],
            "log_expected": expected.log()[track],
        }
        sampled = loss_and_gradients(
            lambda a, b: sampled_softmax_loss(a, b[drawn], play | drawing, b[track]), user, item
        )
        return max(np.abs(a - b).max() for a, b in zip(full, sampled, strict=True))

    assert furthest(400_000) < 0.02
    assert furthest(100) > 0.1
    assert furthest(400_000, corrected=False) > 0.5


def test_softmax_factors_end_where_the_gradient_vanishes():
    """Of the whole objective, prior included, by its formula and not by the training's code."""
    user_item = counts()
    users, items = MODELS["vector_exp"](
        user_item,
        size=3,
        rng_seed=0,
        report=print,
        regularization=1.0,
        epochs=300,
        batch_size=40,
        learning_rate=0.3,
    )
    weights = np.log1p(user_item.toarray())
    weights /= weights[weights > 0].mean()
    exponentials = np.exp(users.astype(np.float64) @ items.T)
    p = exponentials / exponentials.sum(axis=1, keepdims=True)
    excess = weights.sum(axis=1, keepdims=True) * p - weights
    np.testing.assert_allclose(excess @ items + 1.0 * users, 0, atol=0.05)
    np.testing.assert_allclose(excess.T @ users + 1.0 * items, 0, atol=0.05)
    assert np.abs(users).max() > 0.5  # zeros would do as well


def test_listener_batches_hold_every_play_once_an_epoch():
    """And a track's prior shares add up to one; draws follow the plays."""
    user_item = counts()
    batches = ListenerBatches(user_item, batch_size=15, sampled=20_000, rng_seed=0)
    seen, prior = np.zeros(user_item.shape), np.zeros(29)
    epoch = list(batches)
    assert len(epoch) == len(batches) == 3
    for batch in epoch:
        user = batch["users"][batch["listener"]].numpy()
        seen[user, batch["track"]] += batch["weight"].numpy()
        np.add.at(prior, batch["track"].numpy(), batch["prior_share"].numpy())
    np.testing.assert_allclose(seen, user_item.toarray())
    np.testing.assert_allclose(prior, 1, rtol=1e-5)
    share = np.asarray(user_item.sum(axis=0)).ravel() / user_item.sum()
    drawn = np.bincount(batch["sample"].numpy(), minlength=29)
    np.testing.assert_allclose(drawn / 20_000, share, atol=0.01)
    np.testing.assert_allclose(
        batch["sample_log_expected"].exp(), 20_000 * share[batch["sample"]], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("largest", "said"),
    [(29, "full softmax over 29 tracks"), (28, "softmax sampled by 4,096 of 29 tracks")],
)
def test_the_size_of_the_catalogue_decides_and_it_is_said(monkeypatch, capsys, largest, said):
    monkeypatch.setattr(vector_exp, "FULL_SOFTMAX_TRACKS", largest)
    factorize(*camps(), model="vector_exp", size=2, epochs=1)
    assert said in capsys.readouterr().out


# --- listening sessions -------------------------------------------------------------------------


def sessions_of(fitted, plays, **options):
    """Factors of the sessions themselves, by the softmax model with each as a listener."""
    names = np.array([f"s{row:03d}" for row in range(plays.session.max() + 1)])
    as_listeners = Plays(plays.session, plays.track, plays.count)
    return factorize(as_listeners, fitted.track_ids, names, model="vector_exp", **options)


def test_sessions_are_the_softmax_models_listeners_and_a_listener_is_their_mean():
    plays, track_ids, user_ids = camps()
    options = {"size": 4, **OPTIONS["sessions"]}
    fitted = factorize(plays, track_ids, user_ids, model="sessions", **options)
    single = sessions_of(fitted, plays, **options)
    np.testing.assert_array_equal(fitted.item_factors, single.item_factors)
    of = {name: plays.user[plays.session == int(name[1:])][0] for name in single.user_ids}
    for row in range(40):
        own = [
            single.user_factors[at] for at, name in enumerate(single.user_ids) if of[name] == row
        ]
        np.testing.assert_allclose(fitted.user_factors[row], np.mean(own, axis=0), atol=1e-6)


def test_two_kinds_of_evening_of_one_listener_are_told_apart(tmp_path):
    """Even tracks on some evenings, odd ones on others, every second track of them, by their times
    alone. To the models of listeners there is one, who played everything."""
    rng = np.random.default_rng(0)
    tracks = [f"t{row:02d}" for row in range(24)]
    listens = [
        ("me", f"t{row:02d}", 1, 86_400 * evening + 240 * place)
        for evening in range(60)
        for place, row in enumerate(2 * rng.choice(12, 6, replace=False) + evening % 2)
    ]
    corpus = make_corpus(
        tmp_path,
        pl.DataFrame({"track_id": tracks, "path": tracks}),
        pl.DataFrame(listens, ["user_id", "track_id", "count", "time"], orient="row"),
        holdout=False,
        sessions=True,
    )
    data = training_plays(corpus), corpus.track_ids, corpus.user_ids
    fitted = factorize(*data, model="sessions", size=4)
    assert fitted.user_factors.shape == (1, 4)
    unit = unit_rows(fitted.item_factors)
    same = np.add.outer(np.arange(24), np.arange(24)) % 2 == 0
    assert (unit @ unit.T)[same].min() > (unit @ unit.T)[~same].max() + 0.5


def test_plays_that_know_no_session_are_refused():
    plays, track_ids, user_ids = camps()
    with pytest.raises(InputError, match="factors=sessions: these plays do not say which session"):
        factorize(replace(plays, session=None), track_ids, user_ids, model="sessions")


# --- several models -----------------------------------------------------------------------------


def test_concat_is_the_mean_of_cosines_and_of_scores():
    """Each block's scores are first made to spread by 1 over tracks, over all listeners."""
    names = ["wmf", "bpr", "vector_exp"]
    joined = factorize(*camps(), model="concat", size=4, models=names)
    blocks = [factorize(*camps(), model=name, size=4) for name in names]
    units = [unit_rows(block.item_factors) for block in blocks]
    cosines = joined.item_factors @ joined.item_factors.T
    np.testing.assert_allclose(cosines, np.mean([u @ u.T for u in units], axis=0), atol=1e-5)
    scores = [block.user_factors @ unit.T for block, unit in zip(blocks, units, strict=True)]
    spread = [np.sqrt(score.var(axis=1).mean()) for score in scores]
    assert max(spread) > 3 * min(spread)  # as they come, one model would drown the others
    mean = np.mean([score / s for score, s in zip(scores, spread, strict=True)], axis=0)
    np.testing.assert_allclose(joined.user_factors @ joined.item_factors.T, mean, atol=1e-4)


def test_concat_of_a_model_that_tells_nothing_apart_is_refused():
    plays, track_ids, user_ids = camps()
    one = Plays(plays.user[:3], np.zeros(3, dtype=int), plays.count[:3])
    with pytest.raises(InputError, match="wmf scores every track alike"):
        factorize(one, track_ids, user_ids, model="concat", size=4)


# --- tuning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", GRIDS)
def test_tuning_prefers_what_finds_hidden_plays(model, capsys):
    untouched = {"epochs": 3} if model in ("vector_exp", "sessions") else {}
    chosen = tune(*camps(), model=model, size=4, rng_seed=0, **untouched)
    assert set(chosen) == {*GRIDS[model], *untouched}
    lines = capsys.readouterr().out.splitlines()
    recalls = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert len(recalls) == np.prod([len(values) for values in GRIDS[model].values()])
    setting = ", ".join(f"{name} {chosen[name]:.4g}" for name in GRIDS[model])
    assert f"{setting}: recall@20 {max(recalls):.3f}" in lines


def test_wmf_is_tuned_around_what_suits_plays_so_dense():
    plays, track_ids, user_ids = camps()
    listeners = np.bincount(plays.track)
    around = by_density(listeners[listeners > 0], len(np.unique(plays.user)))
    chosen = tune(plays, track_ids, user_ids, model="wmf", size=4, rng_seed=0)
    for name, value in around.items():
        assert any(chosen[name] == pytest.approx(m * value) for m in GRIDS["wmf"][name])


def test_too_few_plays_to_hide_any_are_named():
    """Of one play a tenth is none, and of some seed it is that one."""
    plays, track_ids, user_ids = camps()
    for rng_seed in range(20):
        with pytest.raises(InputError, match="there are 1: expected some hundred"):
            tune(plays[:1], track_ids, user_ids, model="wmf", size=4, rng_seed=rng_seed)


def test_every_grid_fits_its_model():
    assert set(GRIDS) == set(MODELS) - {"concat"}
    functions = {**MODELS, "vector_exp": vector_exp.vector_exp}
    for model, grid in GRIDS.items():
        assert set(grid) <= set(inspect.signature(functions[model]).parameters)
    with pytest.raises(InputError, match="concat has nothing to choose"):
        tune(*camps(), model="concat", size=4, rng_seed=0)


def test_hidden_recall_by_hand():
    """Listener a's first track that is not shown is q (p is shown): found at depth 1. Listener b's
    hidden s has no factors and the other, q, stands behind r: one of three."""
    fitted = Factors(
        np.array(["p", "q", "r"]), np.array([[3.0], [2.0], [1.0]]), np.ones(3, int),
        np.array(["a", "b"]), np.array([[1.0], [-1.0]]),
    )  # fmt: skip
    shown = Plays(np.array([0]), np.array([1]), np.array([1]))
    hidden = Plays(np.array([0, 1, 1]), np.array([2, 2, 0]), np.ones(3))
    ids = np.array(["s", "p", "q", "r"]), np.array(["a", "b"])
    for depth, expected in ((1, 1 / 3), (2, 2 / 3), (9, 2 / 3)):
        assert hidden_recall(fitted, *ids, shown=shown, hidden=hidden, depth=depth) == expected


def test_hiding_parts_the_plays():
    plays, *_ = camps()
    shown, hidden = hide(plays, share=0.2, rng_seed=0)
    assert 0.1 < len(hidden.user) / len(plays.user) < 0.3
    pairs = [{*zip(part.user, part.track, part.count, strict=True)} for part in (shown, hidden)]
    assert not pairs[0] & pairs[1]
    assert pairs[0] | pairs[1] == {*zip(plays.user, plays.track, plays.count, strict=True)}


def test_unit_rows():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0]])), [[0.6, 0.8]])
    with pytest.raises(InputError, match="row 1 is all zeros"):
        unit_rows(np.array([[1.0], [0.0]]))
