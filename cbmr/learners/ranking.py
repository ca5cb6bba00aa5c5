"""Stage 2: the same encoder, fine-tuned so that distances agree with thumbs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from cbmr.encoder import Encoder
from cbmr.learners.learner import Batch, Learner, Validate
from cbmr.losses import distance, drlim, factor_error, ranknet, station_triplet


def drlim_loss(unit: torch.Tensor, batch: Batch, *, margin: float) -> torch.Tensor:
    """DrLIM on every vote's pair (seed, voted track), similar on an up."""
    apart = distance(unit[batch["seed"]], unit[batch["track"]])
    return drlim(apart, batch["up"], batch["weight"], margin=margin)


def triplet_loss(unit: torch.Tensor, batch: Batch, *, margin: float) -> torch.Tensor:
    """Triplets of the seed, an up and a down of one listener's station."""
    seed, preferred, other = batch["pairs"].T
    return station_triplet(unit, seed, preferred, other, batch["pair_weight"], margin=margin)


def ranknet_loss(
    unit: torch.Tensor, batch: Batch, *, scale: float, flip_rate: float
) -> torch.Tensor:
    """RankNet on the cosines to the seed of an up and a down, `scale` a score per unit of it."""
    seed, preferred, other = batch["pairs"].T
    closer = (unit[seed] * (unit[preferred] - unit[other])).sum(dim=1)
    return ranknet(scale * closer, batch["pair_weight"], flip_rate=flip_rate)


THUMB_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "drlim": drlim_loss,
    "triplet": triplet_loss,
    "ranknet": ranknet_loss,
}


class ThumbRanking(Learner):
    """Stage 2: a loss on thumbs (`THUMB_LOSSES[loss]` with its `options`), plus `anchor` times
    the squared error to the unit-norm factors, whatever stage 1's objective was, so that listening
    is not forgotten.

    The loss sees unit-norm embeddings, as serving does.
    """

    def __init__(
        self,
        encoder: Encoder,
        validate: Validate | None,
        *,
        loss: str,
        options: dict[str, float],
        anchor: float,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, validate, **shared)
        self.thumb_loss = partial(THUMB_LOSSES[loss], **options)
        self.anchor = anchor

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        embedding = self.encoder.expected(self.predict(batch))
        thumbs = self.thumb_loss(F.normalize(embedding.float(), dim=1), batch)
        anchored = ~batch["target"].isnan().any(dim=1)
        loss = thumbs
        if anchored.any():
            error = factor_error(embedding[anchored], batch["target"][anchored])
            loss = thumbs + self.anchor * error
        numbers: dict[str, torch.Tensor | float] = {
            "train/loss": loss,
            "train/thumbs": thumbs,
            "train/votes_per_track": len(batch["up"]) / len(embedding),
        }
        self.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1)
        return loss
