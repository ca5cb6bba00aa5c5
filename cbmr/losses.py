"""Objectives: tensors in, a scalar out.

Conventions: `predicted` and `target` are `[tracks, factors]`; a distance, a score or a weight is
`[pairs]`; `similar` is bool `[pairs]`. Every loss is a mean over its items, weighed by `weight`
where it takes one; a batch without items gives 0 with a gradient of 0.
"""

import math

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import DoNothingReducer

EPS = 1e-12


def factor_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`|y - y'|^2`, averaged over tracks (van den Oord et al. 2013, objective MSE).

    Summed, not averaged, over the factors: against unit-norm targets 1 is what zeros score.
    """
    return (predicted - target).square().sum(dim=1).mean()


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
