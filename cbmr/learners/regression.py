"""Stage 1: a track's collaborative-filtering factors from its sound, and its objectives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cbmr.encoder import Encoder, mixture
from cbmr.learners.learner import Batch, Learner, Validate
from cbmr.losses import (
    SMALL_NORM,
    cosine_error,
    factor_error,
    listener_softmax,
    mixture_error,
    weighted_prediction_error,
)

LISTENER_RATE = 10.0
"""Times the learning rate: of a softmax over all listeners, each has a small share."""


class Listeners(nn.Module):
    """The listeners that an objective of stage 1 reads: `factors` `[listeners, factors]`, and how
    readily each plays anything, `bias` `[listeners]`.

    `learned` ones start from the CF factors, scaled to an average norm of 1. `plays` `[listeners]`
    is how many training tracks each played.
    """

    factors: torch.Tensor
    bias: torch.Tensor
    share: torch.Tensor

    def __init__(self, factors: torch.Tensor, plays: torch.Tensor, *, learned: bool) -> None:
        super().__init__()
        share = plays / plays.sum()
        self.register_buffer("share", share, persistent=False)
        if learned:
            self.factors = nn.Parameter(factors / factors.norm(dim=1).mean())
            self.bias = nn.Parameter(share.log())
        else:
            self.register_buffer("factors", factors, persistent=False)


def mse_loss(predicted: torch.Tensor, batch: Batch, _: Listeners) -> torch.Tensor:
    """Squared error to unit-norm factors."""
    return factor_error(predicted, batch["target"])


def cosine_loss(predicted: torch.Tensor, batch: Batch, _: Listeners) -> torch.Tensor:
    """The angle to the factors, whatever the length."""
    return cosine_error(predicted, batch["target"])


def wpe_loss(
    predicted: torch.Tensor, batch: Batch, listeners: Listeners, *, alpha: float, eps: float
) -> torch.Tensor:
    """Weighted prediction error of raw factors, confidence as in weighted matrix factorisation."""
    confidence = 1 + alpha * torch.log1p(batch["count"] / eps)
    return weighted_prediction_error(
        predicted, listeners.factors, batch["played"], batch["listener"], confidence
    )


def mdn_loss(
    predicted: torch.Tensor, batch: Batch, _: Listeners, *, components: int
) -> torch.Tensor:
    """Likelihood of the factors under a mixture density network."""
    return mixture_error(*mixture(predicted, components), batch["target"])


def listeners_loss(
    predicted: torch.Tensor,
    batch: Batch,
    listeners: Listeners,
    *,
    scale: float,
    anchor: float,
    sample: int,
) -> torch.Tensor:
    """Who plays this track? A softmax over learned listeners of the unit embedding, plus `anchor`
    times the squared error to the factors. More listeners than `sample` are sampled by activity."""
    share = listeners.share
    if len(share) <= sample:
        drawn, expected = torch.arange(len(share), device=share.device), torch.ones_like(share)
    else:
        drawn, expected = torch.multinomial(share, sample, replacement=True), sample * share
    softmax = listener_softmax(
        scale * F.normalize(predicted, dim=1, eps=SMALL_NORM),
        listeners.factors,
        listeners.bias,
        batch["played"],
        batch["listener"],
        drawn=drawn,
        expected=expected,
    )
    return softmax + anchor * factor_error(predicted, batch["target"])


FACTOR_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "mse": mse_loss,
    "cosine": cosine_loss,
    "wpe": wpe_loss,
    "mdn": mdn_loss,
    "listeners": listeners_loss,
}


class FactorRegression(Learner):
    """Stage 1: from sound to collaborative-filtering factors, by `FACTOR_LOSSES[loss]` with its
    `options`. `listeners` are what the objectives that read plays are about."""

    def __init__(
        self,
        encoder: Encoder,
        validate: Validate | None,
        *,
        loss: str,
        options: dict[str, float],
        listeners: Listeners,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, validate, **shared)
        self.loss = partial(FACTOR_LOSSES[loss], **options)
        self.listeners = listeners

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = LISTENER_RATE * self.learning_rate
        return [
            *super().parameter_groups(),
            {"params": self.listeners.parameters(), "lr": rate, "weight_decay": 0.0},
        ]

    def learned_listeners(self) -> torch.Tensor | None:
        learned = isinstance(self.listeners.factors, nn.Parameter)
        return self.listeners.factors if learned else None

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        predicted = self.predict(batch)
        with self.float32():
            loss = self.loss(predicted, batch, self.listeners)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]))
        return loss
