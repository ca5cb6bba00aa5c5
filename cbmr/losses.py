"""Objectives: tensors in, a scalar out.

Conventions: `predicted` and `target` are `[tracks, factors]`; `unit` `[tracks, size]` are unit
vectors, of which `seed` and `track` `[votes]` say by place what a vote was on. A vote's `score` is
the likeness of its track to its seed, `up` which way it went, its `group` what it may be compared
within. `pairs` `[pairs, 2]` are the places of two votes of a group, the up first; `difference`
`[pairs]` is the score of the up less that of the down. Plays come as `[plays]` index tensors: the
place `track` of each in `predicted`, and the row `user` of its listener. Every loss is a mean over
its items, weighed by `weight` where it takes one; those that do give 0 with a gradient of 0 for a
batch without items.
"""

import math

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import DoNothingReducer

EPS = 1e-12
SMALL_NORM = 1e-2


def factor_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`|y - y'|^2`, averaged over tracks (van den Oord et al. 2013, objective MSE).

    Summed, not averaged, over the factors: against unit-norm targets 1 is what zeros score.
    """
    return (predicted - target).square().sum(dim=1).mean()


def cosine_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`1 - cos(y, y')`, averaged over tracks: direction is all that serving keeps of a vector."""
    # The floor on the norm is what a network that starts from predicting nothing divides by.
    return (1 - F.cosine_similarity(predicted, target, dim=1, eps=SMALL_NORM)).mean()


def weighted_prediction_error(
    predicted: torch.Tensor,
    user_factors: torch.Tensor,
    track: torch.Tensor,
    user: torch.Tensor,
    confidence: torch.Tensor,
) -> torch.Tensor:
    """`sum over tracks and listeners of c_ui (p_ui - x_u . y'_i)^2` (van den Oord et al. 2013,
    objective WPE), over `user_factors` X `[listeners, factors]`, by plays alone.

    Who did not play has confidence 1 and preference 0, so everyone's part is `y' X'X y'` and each
    play adds `c (1 - x.y')^2 - (x.y')^2`. Divided by the summed confidence of the plays, so that 1
    is what zeros score.
    """
    everyone = (predicted @ (user_factors.T @ user_factors) * predicted).sum()
    score = (predicted[track] * user_factors[user]).sum(dim=1)
    played = (confidence * (1 - score).square() - score.square()).sum()
    return (everyone + played) / confidence.sum().clamp_min(EPS)


def mixture_error(
    log_weight: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of `target` under a mixture of Gaussians (Bishop 1994), a factor and
    track: `log_weight` `[tracks, components]` (sums to 1 as a probability), `mean` and `log_std`
    `[tracks, components, factors]`."""
    deviation = (target[:, None] - mean) * torch.exp(-log_std)
    per_factor = -0.5 * deviation.square() - log_std - 0.5 * math.log(2 * math.pi)
    likelihood = torch.logsumexp(log_weight + per_factor.sum(dim=2), dim=1)
    return -likelihood.mean() / target.shape[1]


def listener_softmax(
    embedding: torch.Tensor,
    user_factors: torch.Tensor,
    bias: torch.Tensor,
    track: torch.Tensor,
    user: torch.Tensor,
    *,
    drawn: torch.Tensor,
    expected: torch.Tensor,
) -> torch.Tensor:
    """Who plays this track? The cross-entropy of a track's listeners under a softmax over all of
    them, `exp(x_u . y_i + b_u) / Z_i`, each track weighing the same.

    `embedding` `[tracks, factors]`, `user_factors` `[listeners, factors]`, `bias` `[listeners]`.
    `Z_i` is estimated from `drawn` listeners, each weighed by one over the times that it is
    `expected` `[listeners]` to be drawn (the logQ correction of Bengio & Senecal 2008), while the
    play's own listener is counted exactly once. Every listener drawn and expected once is the full
    softmax.
    """
    logits = embedding @ user_factors[drawn].T + bias[drawn] - expected[drawn].log()
    estimate = torch.logsumexp(logits, dim=1)[track]
    own = (embedding[track] * user_factors[user]).sum(dim=1) + bias[user]
    times = torch.bincount(drawn, minlength=len(bias))[user]
    missing = torch.exp(own - estimate) * (1 - times / expected[user])
    log_z = estimate + torch.log1p(missing.clamp_min(torch.finfo(missing.dtype).eps - 1))
    plays = torch.bincount(track, minlength=len(embedding)).clamp_min(1)
    return weighted_mean(log_z - own, 1 / plays[track])


def contrastive(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    temperature: float,
    group: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which of all excerpts is the other one of the same track? InfoNCE (van den Oord, Li & Vinyals
    2018) both ways, as NT-Xent of SimCLR (Chen et al. 2020): a softmax over the cosines to every
    other excerpt of the batch, divided by `temperature`.

    `first` and `second` `[tracks, size]` are unit vectors of two excerpts of the same tracks. By
    hand: two tracks, each alike in both excerpts and at right angles to the other, cost
    `log(1 + 2 exp(-1 / temperature))`. One track alone costs nothing.

    Tracks of one `group` `[tracks]` are not told apart: of them only the partner is in the softmax.
    """
    unit = torch.cat([first, second])
    logits = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    partner = torch.arange(len(unit), device=unit.device).roll(len(first))
    left_out = itself
    if group is not None:
        of = torch.cat([group, group])
        left_out = itself | ((of[:, None] == of) & ~itself[partner])
    return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), partner)


def distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Euclidean distance `[pairs]` of rows `[pairs, size]`, with a finite gradient at 0."""
    return (left - right).square().sum(dim=1).clamp_min(EPS).sqrt()


def drlim(
    distance: torch.Tensor, similar: torch.Tensor, weight: torch.Tensor, *, margin: float
) -> torch.Tensor:
    """`1/2 D^2` of similar pairs, `1/2 max(0, margin - D)^2` of the others (Hadsell, Chopra &
    LeCun 2006, equation 4, where Y = 0 is similar).

    By hand, margin 1: a similar pair at 0.5 costs 0.125; a dissimilar one at 0.5 costs 0.125, at
    1.2 nothing.
    """
    together = 0.5 * distance.square()
    apart = 0.5 * (margin - distance).clamp_min(0).square()
    return weighted_mean(torch.where(similar, together, apart), weight)


def ranknet(difference: torch.Tensor, weight: torch.Tensor, *, flip_rate: float) -> torch.Tensor:
    """`-log[(1 - rho) sigmoid(d) + rho sigmoid(-d)]`: RankNet (Burges et al. 2005) with forward
    correction for pairs that are reversed with probability `rho` (Patrini et al. 2017).

    `difference` is the score of the preferred item less that of the other. The gradient fades where
    model and pair disagree strongly: such a pair is more likely a slip. By hand: at d = 0 the loss
    is log 2 whatever rho.
    """
    return weighted_mean(-log_kept_or_flipped(difference, flip_rate), weight)


def log_kept_or_flipped(log_odds: torch.Tensor, flip_rate: float) -> torch.Tensor:
    """`log[(1 - rho) sigmoid(z) + rho sigmoid(-z)]`, finite for any finite z as its gradient is."""
    kept = F.logsigmoid(log_odds)
    if flip_rate == 0:
        return kept
    flipped = F.logsigmoid(-log_odds)
    return torch.logaddexp(kept + math.log1p(-flip_rate), flipped + math.log(flip_rate))


def bpr(difference: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`-log sigmoid(d)` (Rendle et al. 2009): RankNet without correction, here over observed downs
    instead of sampled tracks."""
    return weighted_mean(-F.logsigmoid(difference), weight)


def margin_ranking(
    difference: torch.Tensor, weight: torch.Tensor, *, margin: float
) -> torch.Tensor:
    """`max(0, margin - d)`. By hand, margin 1: a pair in order by 0.25 costs 0.75."""
    return weighted_mean((margin - difference).clamp_min(0), weight)


def lambdarank(
    score: torch.Tensor,
    up: torch.Tensor,
    group: torch.Tensor,
    pairs: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """RankNet, each pair weighed by how much the NDCG of its group would change if the two changed
    places (Burges 2010): what is wrong at the top costs most.

    By hand: an up ranked second of two, d = 0: the ideal DCG is 1 and the places are worth 1 and
    1 / log2(3), so the pair counts 0.369 and costs 0.369 log 2.
    """
    of, count = torch.unique(group, return_inverse=True, return_counts=True)[1:]
    by_score = torch.argsort(score.detach(), descending=True, stable=True)
    order = by_score[torch.argsort(of[by_score], stable=True)]
    begin = (count.cumsum(0) - count)[of]
    place = torch.empty_like(of).scatter(0, order, torch.arange(len(of), device=of.device)) - begin
    worth = 1 / torch.log2(2.0 + torch.arange(len(of) + 1, device=score.device))
    ups = torch.zeros_like(count).index_add(0, of, up.long())
    ideal = F.pad(worth.cumsum(0), (1, 0))[ups][of]
    first, second = pairs.T
    change = (worth[place[first]] - worth[place[second]]).abs() / ideal[first]
    return weighted_mean(-F.logsigmoid(score[first] - score[second]) * change, weight)


def warp(
    score: torch.Tensor, pairs: torch.Tensor, weight: torch.Tensor, *, margin: float
) -> torch.Tensor:
    """WARP (Weston, Bengio & Usunier 2011) over observed downs: a pair that is not in order by
    `margin` costs what it lacks, weighed by `log(rank)` of its up and shared by its offenders.

    The rank is counted, not estimated by sampling: one more than the downs of its group that come
    within the margin. By hand, margin 1: an up at 0 with downs at 0 and -0.5 has rank 3; the two
    cost 1 and 0.5, each times log(3) / 2.
    """
    first, second = pairs.T
    lacking = (margin - (score[first] - score[second])).clamp_min(0)
    offenders = torch.zeros_like(score).index_add(0, first, (lacking > 0).to(score.dtype))[first]
    share = torch.log1p(offenders) / offenders.clamp_min(1)
    return weighted_mean(lacking * share, weight)


def station_contrast(
    unit: torch.Tensor,
    query: torch.Tensor,
    seed: torch.Tensor,
    track: torch.Tensor,
    up: torch.Tensor,
    group: torch.Tensor,
    weight: torch.Tensor,
    *,
    temperature: float,
) -> torch.Tensor:
    """InfoNCE (van den Oord, Li & Vinyals 2018): which track of the batch is an up of this station?
    A softmax over the cosines to what the seed asks for, divided by `temperature`, of the up
    against its group's downs and every other track; the seed and the group's other ups are no wrong
    answers. `unit` and `query` are `[tracks, size]`, the others `[votes]`.

    By hand: an up and a down alike in cosine, and nothing else in the batch, cost log 2.
    """
    logits = query[seed[up]] @ unit.T / temperature
    of = torch.unique(group, return_inverse=True)[1]
    right = torch.zeros(len(of), len(unit), dtype=torch.bool, device=unit.device)
    right[of[up], track[up]] = True
    left_out = right[of[up]]
    left_out[torch.arange(len(logits)), seed[up]] = True
    left_out[torch.arange(len(logits)), track[up]] = False
    logits = logits.masked_fill(left_out, -torch.inf)
    each = F.cross_entropy(logits, track[up], reduction="none")
    return weighted_mean(each, weight[up])


def station_triplet(
    unit: torch.Tensor,
    query: torch.Tensor,
    seed: torch.Tensor,
    preferred: torch.Tensor,
    other: torch.Tensor,
    weight: torch.Tensor,
    *,
    margin: float,
    mine: str = "all",
) -> torch.Tensor:
    """`max(0, D(seed, up) - D(seed, down) + margin)`, by pytorch-metric-learning with explicit
    index tuples: `unit` and what seeds ask for, `query`, are `[tracks, size]`, the others
    `[triplets]`.

    `mine` keeps `all` of them, the `semihard`, whose down is farther than the up but within the
    margin (Schroff, Kalenichenko & Philbin 2015), or the `hard`, whose down is nearer. The
    library's miners go by labels, which thumbs have none of.
    """
    if mine != "all":
        near, far = distance(query[seed], unit[preferred]), distance(query[seed], unit[other])
        kept = far <= near if mine == "hard" else (far > near) & (far < near + margin)
        seed, preferred, other, weight = (x[kept] for x in (seed, preferred, other, weight))
    per_triplet = TripletMarginLoss(
        margin=margin,
        distance=LpDistance(normalize_embeddings=False),
        reducer=DoNothingReducer(),
    )(query, indices_tuple=(seed, preferred, other), ref_emb=unit)["loss"]["losses"]
    if not torch.is_tensor(per_triplet):  # the library's 0 for "no triplets"
        return unit.sum() * 0.0
    return weighted_mean(per_triplet, weight)


def weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`sum(weight values) / sum(weight)`, 0 of nothing."""
    return (values * weight).sum() / weight.sum().clamp_min(EPS)
