"""Every loss against a plain loop on hand-placed points, and the properties they share."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from cbmr.learners import THUMB_LOSSES
from cbmr.losses import (
    bpr,
    contrastive,
    cosine_error,
    distance,
    drlim,
    factor_error,
    lambdarank,
    listener_softmax,
    margin_ranking,
    mixture_error,
    ranknet,
    station_contrast,
    station_triplet,
    warp,
    weighted_mean,
    weighted_prediction_error,
)

POINTS = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8], [0.0, 2.0]])


def test_factor_error_by_hand():
    """(0.3^2 + 0.4^2 + 0) / 2 tracks = 0.125."""
    target = torch.tensor([[0.0, 0.0], [0.6, 0.8]])
    assert factor_error(POINTS[1:3], target).item() == pytest.approx(0.125)


def test_factor_error_of_unit_vectors_is_two_less_two_cosines():
    unit = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
    cosine = (unit[0] * unit[1]).sum(dim=1).mean()
    assert factor_error(unit[0], unit[1]).item() == pytest.approx(2 - 2 * cosine.item(), abs=1e-6)


def test_cosine_error_by_hand():
    """(0.3, 0.4) against (1, 0) has cosine 0.6, whatever the lengths; against itself 1."""
    target = torch.tensor([[2.0, 0.0], [0.6, 0.8]])
    assert cosine_error(POINTS[1:3], target).item() == pytest.approx(0.4 / 2)


def test_cosine_error_has_a_gradient_at_zero():
    predicted = torch.zeros(3, 4, requires_grad=True)
    cosine_error(predicted, torch.eye(3, 4)).backward()
    assert predicted.grad.isfinite().all()
    assert (predicted.grad.diagonal() < 0).all()


# --- plays --------------------------------------------------------------------------------------


def plays(tracks=7, listeners=11, rng_seed=0):
    """Who played what, each track at least once: places, rows and confidences."""
    rng = np.random.default_rng(rng_seed)
    played = rng.random((tracks, listeners)) < 0.3
    played[:, 0] = True
    track, user = np.nonzero(played)
    return torch.tensor(track), torch.tensor(user), torch.tensor(rng.random(len(user)) * 9 + 1)


def test_wpe_by_plays_is_the_dense_sum():
    """Over every (track, listener): c (p - x.y)^2, with c = 1 and p = 0 where nobody played."""
    track, user, confidence = plays()
    predicted, users = torch.randn(7, 4).double(), torch.randn(11, 4).double()
    preference, weight = torch.zeros(7, 11).double(), torch.ones(7, 11).double()
    preference[track, user] = 1
    weight[track, user] = confidence
    dense = (weight * (preference - predicted @ users.T).square()).sum() / confidence.sum()
    sparse = weighted_prediction_error(predicted, users, track, user, confidence)
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)


def test_wpe_of_zeros_is_one():
    track, user, confidence = plays()
    loss = weighted_prediction_error(torch.zeros(7, 4), torch.randn(11, 4), track, user, confidence)
    assert loss.item() == pytest.approx(1)


def softmax_by_loop(embedding, users, bias, track, user):
    per_track = [[] for _ in embedding]
    for t, u in zip(track.tolist(), user.tolist(), strict=True):
        logits = [float(embedding[t] @ x + b) for x, b in zip(users, bias, strict=True)]
        log_z = math.log(sum(math.exp(logit) for logit in logits))
        per_track[t].append(log_z - logits[u])
    return float(np.mean([np.mean(losses) for losses in per_track]))


def test_the_full_listener_softmax_is_a_plain_loop():
    track, user, _ = plays()
    embedding, users, bias = torch.randn(7, 4), torch.randn(11, 4), torch.randn(11)
    loss = listener_softmax(
        embedding, users, bias, track, user, drawn=torch.arange(11), expected=torch.ones(11)
    )
    assert loss.item() == pytest.approx(
        softmax_by_loop(embedding, users, bias, track, user), rel=1e-5
    )


def test_the_sampled_listener_softmax_comes_to_the_full_one():
    """Drawn by a share that has nothing to do with the scores: many draws, the same loss and the
    same gradient."""
    torch.manual_seed(0)
    track, user, _ = plays()
    embedding, users, bias = torch.randn(7, 4), torch.randn(11, 4), torch.randn(11)
    share = torch.rand(11) + 0.1
    share /= share.sum()
    results = []
    for drawn, expected in (
        (torch.arange(11), torch.ones(11)),
        (torch.multinomial(share, 200_000, replacement=True), 200_000 * share),
    ):
        leaf = embedding.clone().requires_grad_()
        loss = listener_softmax(leaf, users, bias, track, user, drawn=drawn, expected=expected)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(results[0], results[1], rtol=0.02, atol=0.01)


def test_few_sampled_listeners_leave_a_finite_loss():
    track, user, _ = plays()
    embedding = (10 * torch.randn(7, 4)).requires_grad_()
    loss = listener_softmax(
        embedding, torch.randn(11, 4), torch.zeros(11), track, user,
        drawn=torch.tensor([3, 3]), expected=torch.full((11,), 2 / 11),
    )  # fmt: skip
    loss.backward()
    assert loss.isfinite()
    assert embedding.grad.isfinite().all()


def test_a_listener_that_was_hardly_expected_leaves_a_finite_loss():
    """One listener, drawn once where 1e-10 times were expected: what the draw has too much of is
    all of Z but 1e-10 of it, which float32 rounds to all of it."""
    loss = listener_softmax(
        torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1), torch.tensor([0]), torch.tensor([0]),
        drawn=torch.tensor([0]), expected=torch.tensor([1e-10]),
    )  # fmt: skip
    assert loss.isfinite()


@pytest.mark.parametrize("components", [1, 3])
def test_mixture_error_is_the_likelihood_of_torch_distributions(components):
    logit, mean, log_std = (
        torch.randn(5, components), torch.randn(5, components, 6), torch.randn(5, components, 6)
    )  # fmt: skip
    target = torch.randn(5, 6)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logit),
        torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1),
    )
    expected = -mixture.log_prob(target).mean() / 6
    error = mixture_error(logit.log_softmax(dim=1), mean, log_std, target)
    torch.testing.assert_close(error, expected)


# --- excerpts -----------------------------------------------------------------------------------


def unit_rows(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_contrastive_by_hand(temperature):
    """Two tracks at right angles, each alike in both excerpts: of an excerpt's three others one has
    cosine 1 and two 0. All four alike: one in three, whatever the temperature."""
    apart, alike = torch.eye(2), torch.ones(2, 1)
    loss = contrastive(apart, apart, temperature=temperature)
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-1 / temperature)))
    assert contrastive(alike, alike, temperature=temperature).item() == pytest.approx(math.log(3))


def test_contrastive_is_a_plain_loop():
    first, second = unit_rows(2, 5, 4)
    excerpts = [*enumerate(first.tolist()), *enumerate(second.tolist())]
    costs = []
    for place, (track, one) in enumerate(excerpts):
        likeness = {
            (other_track, other_place): math.exp(np.dot(one, other) / 0.3)
            for other_place, (other_track, other) in enumerate(excerpts)
            if other_place != place
        }
        own = sum(value for (other, _), value in likeness.items() if other == track)
        costs.append(-math.log(own / sum(likeness.values())))
    loss = contrastive(first, second, temperature=0.3)
    assert loss.item() == pytest.approx(np.mean(costs), rel=1e-5)


def test_contrastive_is_symmetric_and_one_track_costs_nothing():
    first, second = unit_rows(2, 5, 4)
    torch.testing.assert_close(
        contrastive(first, second, temperature=0.2), contrastive(second, first, temperature=0.2)
    )
    assert contrastive(first[:1], second[:1], temperature=0.2).item() == 0


def test_contrastive_does_not_tell_tracks_of_a_group_apart():
    """Of four tracks the first two are one album: they see the other two alone, by a plain loop."""
    first, second = unit_rows(2, 4, 3)
    excerpts, album = torch.cat([first, second]), [0, 0, 1, 2] * 2
    costs = []
    for one in range(8):
        own = (one + 4) % 8
        others = [other for other in range(8) if album[other] != album[one]]
        likeness = [math.exp(excerpts[one] @ excerpts[other] / 0.3) for other in [own, *others]]
        costs.append(-math.log(likeness[0] / sum(likeness)))
    loss = contrastive(first, second, temperature=0.3, group=torch.tensor([0, 0, 1, 2]))
    assert loss.item() == pytest.approx(np.mean(costs), rel=1e-5)
    assert contrastive(first, second, temperature=0.3, group=torch.zeros(4)).item() == 0


# --- thumbs -------------------------------------------------------------------------------------


def test_drlim_by_hand():
    """Margin 1, point 0 against 1 (distance 0.5, similar), 2 (1, not), 3 (2, not), 1 (0.5, not):
    0.125, 0, 0, 0.125; weights 1, 1, 1, 2 give (0.125 + 2 x 0.125) / 5."""
    apart = distance(POINTS[[0, 0, 0, 0]], POINTS[[1, 2, 3, 1]])
    similar = torch.tensor([True, False, False, False])
    loss = drlim(apart, similar, torch.tensor([1.0, 1.0, 1.0, 2.0]), margin=1.0)
    assert loss.item() == pytest.approx(0.375 / 5)


def test_drlim_is_equation_4():
    rng = np.random.default_rng(0)
    apart, similar = rng.random(50) * 2, rng.random(50) < 0.5
    weight = rng.random(50)
    expected = sum(
        w * (0.5 * d**2 if s else 0.5 * max(0.0, 1.2 - d) ** 2)
        for d, s, w in zip(apart, similar, weight, strict=True)
    )
    loss = drlim(torch.tensor(apart), torch.tensor(similar), torch.tensor(weight), margin=1.2)
    assert loss.item() == pytest.approx(expected / weight.sum())


def test_drlim_is_symmetric():
    left, right = torch.randn(2, 20, 4)
    torch.testing.assert_close(distance(left, right), distance(right, left))


def test_ranknet_by_hand():
    """d = 0 costs log 2 whatever the flip rate; d = log 3 without flips costs log(4/3); with a
    flip rate of 0.1, sigmoid(d) = 3/4 gives -log(0.9 x 3/4 + 0.1 x 1/4) = -log 0.7."""
    one = torch.ones(1)
    for flip_rate in (0.0, 0.1, 0.4):
        tie = ranknet(torch.zeros(1), one, flip_rate=flip_rate)
        assert tie.item() == pytest.approx(math.log(2))
    difference = torch.tensor([math.log(3)])
    assert ranknet(difference, one, flip_rate=0).item() == pytest.approx(math.log(4 / 3))
    assert ranknet(difference, one, flip_rate=0.1).item() == pytest.approx(-math.log(0.7))


def test_corrected_ranknet_doubts_a_pair_it_strongly_disagrees_with():
    difference = torch.tensor([-12.0], requires_grad=True)
    ranknet(difference, torch.ones(1), flip_rate=0.1).backward()
    assert abs(difference.grad.item()) < 1e-3
    plain = torch.tensor([-12.0], requires_grad=True)
    ranknet(plain, torch.ones(1), flip_rate=0.0).backward()
    assert plain.grad.item() == pytest.approx(-1.0, abs=1e-3)


def test_triplet_by_hand():
    """Anchor 0, preferred 2 (distance 1), other 1 (0.5), margin 0.2: 0.7. Anchor 0, preferred 1,
    other 3 (2): 0. Weights 3 and 1: 0.525."""
    loss = station_triplet(
        POINTS,
        POINTS,
        torch.tensor([0, 0]),
        torch.tensor([2, 1]),
        torch.tensor([1, 3]),
        torch.tensor([3.0, 1.0]),
        margin=0.2,
    )
    assert loss.item() == pytest.approx(0.525)


def test_bpr_and_margin_by_hand():
    """d = log 3 costs log(4/3); against a margin of 2, 2 - log 3; in order by more, nothing."""
    difference, one = torch.tensor([math.log(3)]), torch.ones(1)
    assert bpr(difference, one).item() == pytest.approx(math.log(4 / 3))
    assert margin_ranking(difference, one, margin=2.0).item() == pytest.approx(2 - math.log(3))
    assert margin_ranking(difference, one, margin=1.0).item() == 0


def test_lambdarank_by_hand():
    """The docstring's two of one group; a second group of an up in order weighs as much."""
    score, up = torch.tensor([0.0, 0.0, 9.0, -9.0]), torch.tensor([False, True, True, False])
    pairs, groups = torch.tensor([[1, 0], [2, 3]]), torch.tensor([4, 4, 8, 8])
    loss = lambdarank(score, up, groups, pairs, torch.ones(2))
    assert loss.item() == pytest.approx((1 - 1 / math.log2(3)) * math.log(2) / 2, abs=1e-6)


def test_warp_by_hand():
    """The docstring's up at 0 with downs at 0 and -0.5: (1 + 0.5) log(3) / 2, over two pairs."""
    pairs = torch.tensor([[0, 1], [0, 2]])
    loss = warp(torch.tensor([0.0, 0.0, -0.5]), pairs, torch.ones(2), margin=1.0)
    assert loss.item() == pytest.approx(0.75 * math.log(3) / 2)


def test_station_contrast_by_hand():
    """An up and a down at right angles to the seed alike: log 2. A second up is no wrong answer,
    a track that nobody voted on is one: log 3."""
    unit = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    seed, track, up = torch.zeros(3, dtype=torch.long), rows(1, 2, 3), rows(1, 0, 1).bool()
    same, one = torch.zeros(3, dtype=torch.long), torch.ones(3)
    two_votes = [of[:2] for of in (seed, track, up, same, one)]
    two = station_contrast(unit[:3], unit[:3], *two_votes, temperature=1)
    assert two.item() == pytest.approx(math.log(2))
    ups = station_contrast(unit, unit, seed, track, up, same, one, temperature=1)
    assert ups.item() == pytest.approx(math.log(2))
    unknown = station_contrast(unit, unit, *two_votes, temperature=1)
    assert unknown.item() == pytest.approx(math.log(3))


def test_the_miners_keep_what_they_are_named_for():
    """Seed 0, up 1 at 0.5; downs at 1 (semihard for a margin of 0.6), 2 (easy) and 0.5 (as near as
    the up: hard). They cost 0.1, nothing and 0.6."""
    apart = rows(2, 3, 1)
    cost = {
        mine: station_triplet(POINTS, POINTS, rows(0, 0, 0), rows(1, 1, 1), apart, torch.ones(3),
                              margin=0.6, mine=mine).item()
        for mine in ("all", "semihard", "hard")
    }  # fmt: skip
    assert cost == pytest.approx({"all": 0.7 / 3, "semihard": 0.1, "hard": 0.6})


# --- what all of them keep ----------------------------------------------------------------------

OPTIONS = {
    "drlim": {"margin": 1.0},
    "triplet": {"margin": 0.2, "mine": "all"},
    "ranknet": {"scale": 5.0, "flip_rate": 0.1},
    "bpr": {"scale": 5.0},
    "margin": {"margin": 0.2},
    "lambdarank": {"scale": 10.0},
    "warp": {"margin": 0.2},
    "infonce": {"temperature": 0.3},
}


def rows(*values):
    return torch.tensor(values, dtype=torch.long)


def votes(*, seed, track, up, group, weight):
    """A batch of votes and all their pairs, by a plain loop; a pair weighs what its up does."""
    pairs = [
        (i, j)
        for i in range(len(up))
        for j in range(len(up))
        if up[i] and not up[j] and group[i] == group[j]
    ]
    pairs = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    weight = torch.tensor(weight, dtype=torch.float32)
    return {
        "seed": rows(*seed), "track": rows(*track), "up": torch.tensor(up, dtype=torch.bool),
        "group": rows(*group), "weight": weight, "pairs": pairs, "pair_weight": weight[pairs[:, 0]],
    }  # fmt: skip


def one_pair(up, down):
    """Track 0 is the seed."""
    return votes(
        seed=[0, 0], track=[up, down], up=[True, False], group=[0, 0], weight=[1.0, 1.0]
    )  # fmt: skip


@pytest.fixture(params=list(THUMB_LOSSES))
def thumb_loss(request):
    """The loss of points, seeds asking with their own unless `query` says otherwise."""
    loss = partial(THUMB_LOSSES[request.param], **OPTIONS[request.param])
    return lambda points, batch, query=None: loss(
        points, {**batch, "query": points if query is None else query}
    )


def test_one_pair_alone_is_not_silently_zero(thumb_loss):
    """The seed's down sits on it and its up is far away: nothing could be worse."""
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert thumb_loss(points, one_pair(1, 2)).item() > 0.5


def test_a_satisfied_pair_costs_less_than_a_reversed_one(thumb_loss):
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    right, wrong = thumb_loss(points, one_pair(1, 2)), thumb_loss(points, one_pair(2, 1))
    assert right.item() < 0.15 < wrong.item()


def test_gradients_are_finite_at_distance_zero(thumb_loss):
    points = torch.ones(3, 2, requires_grad=True)
    thumb_loss(points, one_pair(1, 2)).backward()
    assert torch.isfinite(points.grad).all()


def test_a_vote_of_weight_zero_does_not_count(thumb_loss):
    points = unit_rows(6, 3)
    alone = thumb_loss(points, one_pair(1, 2))
    both = votes(
        seed=[0, 0, 3, 3], track=[1, 2, 4, 5], up=[True, False] * 2, group=[0, 0, 1, 1],
        weight=[1.0, 1.0, 0.0, 0.0],
    )  # fmt: skip
    torch.testing.assert_close(thumb_loss(points, both), alone)


def test_no_votes_cost_nothing_and_pull_nothing(thumb_loss):
    points = torch.randn(3, 2, requires_grad=True)
    loss = thumb_loss(points, votes(seed=[], track=[], up=[], group=[], weight=[]))
    loss.backward()
    assert loss.item() == 0
    assert not points.grad.any()


def test_a_seed_asks_with_its_query_and_only_voted_tracks_move(thumb_loss):
    """As if the seed, which nobody votes on, stood where its query is."""
    points, query = unit_rows(3, 4), unit_rows(6, 4)[3:]
    moved = torch.cat([query[:1], points[1:]])
    batch = one_pair(1, 2)
    torch.testing.assert_close(thumb_loss(points, batch, query), thumb_loss(moved, batch))
    points.requires_grad_()
    thumb_loss(points, batch, query).backward()
    assert not points.grad[0].any()


def test_the_order_of_votes_does_not_matter(thumb_loss):
    points, batch = unit_rows(8, 4), random_votes(0)
    order = np.random.default_rng(1).permutation(len(batch["up"]))
    names = ("seed", "track", "up", "group", "weight")
    turned = votes(**{name: batch[name][order].tolist() for name in names})
    torch.testing.assert_close(thumb_loss(points, turned), thumb_loss(points, batch))


def random_votes(rng_seed):
    """Three groups of one seed each, tracks voted on once in a group."""
    rng = np.random.default_rng(rng_seed)
    seed, track, up, group = [], [], [], []
    for number in range(3):
        one, *others = rng.permutation(8)[:6].tolist()
        seed += [one] * 5
        track += others
        up += [True, False, *(rng.random(3) < 0.5).tolist()]
        group += [number] * 5
    weight = rng.random(15).tolist()
    return votes(seed=seed, track=track, up=up, group=group, weight=weight)


def by_a_loop(name, points, query, batch):
    """Every loss once more, vote by vote in Python's own numbers."""
    x, q = points.tolist(), query.tolist()
    seed, track, up, group, weight = (
        batch[key].tolist() for key in ("seed", "track", "up", "group", "weight")
    )
    cosine = [np.dot(q[s], x[t]) for s, t in zip(seed, track, strict=True)]
    apart = [math.dist(q[s], x[t]) for s, t in zip(seed, track, strict=True)]
    pairs = batch["pairs"].tolist()

    def places(i):
        ranked = sorted((v for v in range(len(up)) if group[v] == group[i]),
                        key=lambda v: -cosine[v])  # fmt: skip
        return ranked.index(i)

    def pair(i, j):
        d = cosine[i] - cosine[j]
        if name == "triplet":
            return max(0, apart[i] - apart[j] + 0.2)
        if name == "margin":
            return max(0, 0.2 - d)
        if name == "ranknet":
            sure = 1 / (1 + math.exp(-5 * d))
            return -math.log(0.9 * sure + 0.1 * (1 - sure))
        if name == "bpr":
            return math.log(1 + math.exp(-5 * d))
        if name == "warp":
            offenders = sum(0.2 - cosine[i] + cosine[k] > 0 for h, k in pairs if h == i)
            return max(0, 0.2 - d) * math.log(1 + offenders) / max(1, offenders)
        ups = sum(u for u, g in zip(up, group, strict=True) if g == group[i])
        ideal = sum(1 / math.log2(2 + place) for place in range(ups))
        change = 1 / math.log2(2 + places(i)) - 1 / math.log2(2 + places(j))
        return math.log(1 + math.exp(-10 * d)) * abs(change) / ideal

    if name == "drlim":
        cost = [0.5 * a**2 if u else 0.5 * max(0, 1 - a) ** 2
                for a, u in zip(apart, up, strict=True)]  # fmt: skip
        return np.average(cost, weights=weight)
    if name != "infonce":
        return np.average([pair(i, j) for i, j in pairs], weights=[weight[i] for i, _ in pairs])
    costs, weights = [], []
    for i in np.flatnonzero(up):
        mates = {track[v] for v in range(len(up)) if up[v] and group[v] == group[i]}
        wrong = set(range(len(x))) - mates - {seed[i]}
        against = sum(math.exp(np.dot(q[seed[i]], x[t]) / 0.3) for t in wrong | {track[i]})
        costs.append(math.log(against) - cosine[i] / 0.3)
        weights.append(weight[i])
    return np.average(costs, weights=weights)


@pytest.mark.parametrize("name", list(THUMB_LOSSES))
def test_every_loss_is_a_plain_loop(name):
    for rng_seed in range(5):
        points, batch = unit_rows(8, 4), random_votes(rng_seed)
        query = unit_rows(8, 4)
        loss = THUMB_LOSSES[name](points, {**batch, "query": query}, **OPTIONS[name])
        assert loss.item() == pytest.approx(by_a_loop(name, points, query, batch), rel=1e-4)


def test_weighted_mean_is_a_mean():
    values, weight = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0])
    assert weighted_mean(values, weight).item() == pytest.approx(7 / 4)
