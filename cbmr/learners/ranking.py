"""Stage 2: the same encoder, fine-tuned so that distances agree with thumbs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.learners.learner import Batch, Learner, Validate
from cbmr.losses import (
    bpr,
    distance,
    drlim,
    lambdarank,
    margin_ranking,
    ranknet,
    station_contrast,
    station_triplet,
    warp,
)


def drlim_loss(unit: torch.Tensor, batch: Batch, *, margin: float) -> torch.Tensor:
    """DrLIM on every vote's pair (seed, voted track), similar on an up."""
    apart = distance(batch["query"][batch["seed"]], unit[batch["track"]])
    return drlim(apart, batch["up"], batch["weight"], margin=margin)


def triplet_loss(unit: torch.Tensor, batch: Batch, *, margin: float, mine: str) -> torch.Tensor:
    """Triplets of the seed, an up and a down of one group."""
    up, down = batch["pairs"].T
    seed, track, weight = batch["seed"], batch["track"], batch["pair_weight"]
    of_votes = seed[up], track[up], track[down], weight
    return station_triplet(unit, batch["query"], *of_votes, margin=margin, mine=mine)


def ranknet_loss(
    unit: torch.Tensor, batch: Batch, *, scale: float, flip_rate: float
) -> torch.Tensor:
    """RankNet on the cosines to the seed of an up and a down, `scale` a score per unit of it."""
    return ranknet(scale * closer(unit, batch), batch["pair_weight"], flip_rate=flip_rate)


def bpr_loss(unit: torch.Tensor, batch: Batch, *, scale: float) -> torch.Tensor:
    """BPR on the same difference."""
    return bpr(scale * closer(unit, batch), batch["pair_weight"])


def margin_loss(unit: torch.Tensor, batch: Batch, *, margin: float) -> torch.Tensor:
    """A margin on the difference of the cosines."""
    return margin_ranking(closer(unit, batch), batch["pair_weight"], margin=margin)


def lambdarank_loss(unit: torch.Tensor, batch: Batch, *, scale: float) -> torch.Tensor:
    """LambdaRank: each group is a ranking."""
    score = scale * likeness(unit, batch)
    return lambdarank(score, batch["up"], batch["group"], batch["pairs"], batch["pair_weight"])


def warp_loss(unit: torch.Tensor, batch: Batch, *, margin: float) -> torch.Tensor:
    """WARP on the cosines."""
    return warp(likeness(unit, batch), batch["pairs"], batch["pair_weight"], margin=margin)


def infonce_loss(unit: torch.Tensor, batch: Batch, *, temperature: float) -> torch.Tensor:
    """A group's ups against its downs and all other tracks of the batch."""
    votes = (batch[name] for name in ("seed", "track", "up", "group", "weight"))
    return station_contrast(unit, batch["query"], *votes, temperature=temperature)


def likeness(unit: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The cosine of each vote's track to what its seed asks for, `[votes]`."""
    return (batch["query"][batch["seed"]] * unit[batch["track"]]).sum(dim=1)


def closer(unit: torch.Tensor, batch: Batch) -> torch.Tensor:
    """By how much an up is more like its seed than a down is, `[pairs]`."""
    of_vote = likeness(unit, batch)
    up, down = batch["pairs"].T
    return of_vote[up] - of_vote[down]


THUMB_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "drlim": drlim_loss,
    "triplet": triplet_loss,
    "ranknet": ranknet_loss,
    "bpr": bpr_loss,
    "margin": margin_loss,
    "lambdarank": lambdarank_loss,
    "warp": warp_loss,
    "infonce": infonce_loss,
}


class ThumbRanking(Learner):
    """Stage 2: a loss on thumbs (`THUMB_LOSSES[loss]` with its `options`), plus `anchor` times
    the squared error to what stage 1 said of the tracks it was trained on, so that listening is not
    forgotten (learning without forgetting, Li & Hoiem 2018), each by its `anchor_weight`. Their
    factors, which stage 1 has learned as far as they can be heard, would only be learned by heart
    in its place.

    Both see unit-norm embeddings, as serving does: not every objective gives them a length. A seed
    asks as it does in serving, with what its listeners know of it, so only voted tracks move.
    """

    def __init__(
        self,
        encoder: Encoder,
        validate: Validate | None,
        *,
        loss: str,
        options: dict[str, float],
        anchor: float,
        layer_decay: float,
        frozen_convolutions: bool,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, validate, **shared)
        self.thumb_loss = partial(THUMB_LOSSES[loss], **options)
        self.anchor = anchor
        self.layer_decay = layer_decay
        self.layers = [
            layer for layer in encoder.network.modules() if [*layer.parameters(recurse=False)]
        ]
        self.frozen: list[nn.Module] = []
        if frozen_convolutions:
            convolutions = [
                at for at, layer in enumerate(self.layers) if isinstance(layer, nn.Conv1d)
            ]
            if not convolutions:
                raise InputError(f"frozen_convolutions=true: encoder={encoder.name} has none")
            above = convolutions[-1] + 1
            self.frozen, self.layers = self.layers[:above], self.layers[above:]
            for layer in self.frozen:
                layer.requires_grad_(False)

    def train(self, mode: bool = True) -> "ThumbRanking":
        """As of any module, but what is frozen also keeps its batch statistics."""
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A layer learns at `layer_decay` times the rate of the one above it (Howard & Ruder
        2018); the convolutions not at all where they are frozen."""
        return [
            {
                "params": layer.parameters(recurse=False),
                "lr": self.learning_rate * self.layer_decay**above,
            }
            for above, layer in enumerate(reversed(self.layers))
        ]

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        predicted = self.predict(batch)
        with self.float32():
            unit = F.normalize(self.encoder.expected(predicted), dim=1)
            thumbs = self.thumb_loss(unit, batch)
            moved = (unit - batch["anchor"]).square().sum(dim=1)
            loss = thumbs + self.anchor * (batch["anchor_weight"] * moved).mean()
        numbers: dict[str, torch.Tensor | float] = {
            "train/loss": loss,
            "train/thumbs": thumbs,
            "train/votes_per_track": len(batch["up"]) / len(unit),
        }
        self.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1)
        return loss
