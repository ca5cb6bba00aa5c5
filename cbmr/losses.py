"""Objectives: tensors in, a scalar out.

Conventions: `predicted` and `target` are `[tracks, factors]`; a distance, a score or a weight is
`[pairs]`; `similar` is bool `[pairs]`. Plays come as `[plays]` index tensors: the place `track` of
each in `predicted`, and the row `user` of its listener. Every loss is a mean over its items,
weighed by `weight` where it takes one; a batch without items gives 0 with a gradient of 0.
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
    log_z = estimate + torch.log1p(missing.clamp_min(EPS - 1))
    plays = torch.bincount(track, minlength=len(embedding)).clamp_min(1)
    return weighted_mean(log_z - own, 1 / plays[track])


def contrastive(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Which of all excerpts is the other one of the same track? InfoNCE (van den Oord, Li & Vinyals
    2018) both ways, as NT-Xent of SimCLR (Chen et al. 2020): a softmax over the cosines to every
    other excerpt of the batch, divided by `temperature`.

    `first` and `second` `[tracks, size]` are unit vectors of two excerpts of the same tracks. By
    hand: two tracks, each alike in both excerpts and at right angles to the other, cost
    `log(1 + 2 exp(-1 / temperature))`. One track alone costs nothing.
    """
    unit = torch.cat([first, second])
    logits = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    partner = torch.arange(len(unit), device=unit.device).roll(len(first))
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)


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
    right = F.logsigmoid(difference)
    if flip_rate == 0:
        return weighted_mean(-right, weight)
    reversed_ = F.logsigmoid(-difference)
    kept_or_flipped = torch.logaddexp(
        right + math.log(1 - flip_rate), reversed_ + math.log(flip_rate)
    )
    return weighted_mean(-kept_or_flipped, weight)


def station_triplet(
    unit: torch.Tensor,
    seed: torch.Tensor,
    preferred: torch.Tensor,
    other: torch.Tensor,
    weight: torch.Tensor,
    *,
    margin: float,
) -> torch.Tensor:
    """`max(0, D(seed, up) - D(seed, down) + margin)`, by pytorch-metric-learning with explicit
    index tuples: `unit` `[tracks, size]`, the others `[triplets]`."""
    per_triplet = TripletMarginLoss(
        margin=margin,
        distance=LpDistance(normalize_embeddings=False),
        reducer=DoNothingReducer(),
    )(unit, indices_tuple=(seed, preferred, other))["loss"]["losses"]
    if not torch.is_tensor(per_triplet):  # the library's 0 for "no triplets"
        return unit.sum() * 0.0
    return weighted_mean(per_triplet, weight)


def weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`sum(weight values) / sum(weight)`, 0 of nothing."""
    return (values * weight).sum() / weight.sum().clamp_min(EPS)
