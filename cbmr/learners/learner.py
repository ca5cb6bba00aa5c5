"""What all stages share: augmentation, stochastic gradient descent, validation by a function."""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from cbmr.augment import augment
from cbmr.encoder import Encoder
from cbmr.errors import InputError

MOMENTUM = 0.9
WARMUP_SHARE = 0.05

Batch = dict[str, torch.Tensor]
Validate = Callable[..., dict[str, float]]
"""Embeddings `[valid rows, embedding_size]` to named numbers. An objective that learns its own
listeners passes them as well, `[listeners, embedding_size]`."""


class Learner(pl.LightningModule):
    """What all stages share: augmentation, stochastic gradient descent, validation by a function.

    `augmentation` holds keyword arguments of `cbmr.augment.augment`.
    """

    def __init__(
        self,
        encoder: Encoder,
        validate: Validate | None,
        *,
        learning_rate: float,
        weight_decay: float,
        augmentation: dict[str, Any],
        rng_seed: int,
    ) -> None:
        super().__init__()
        self.encoder, self.validate = encoder, validate
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.rng_seed = rng_seed
        self.augmentation = augmentation
        self._embedded: list[torch.Tensor] = []

    def predict(self, batch: Batch) -> torch.Tensor:
        """What the network says `[batch, outputs]` of random crops, in float32."""
        logmel, frames = augment(
            batch["logmel"],
            batch["frames"],
            band_mean=self.encoder.input_mean,
            **self.augmentation,
        )
        return self.encoder.predict(logmel, frames).float()

    def float32(self) -> torch.autocast:
        """Where objectives are computed: the network's precision is too coarse for exponentials of
        products, of which some would be exact and others not."""
        return torch.autocast(self.device.type, enabled=False)

    def learned_listeners(self) -> torch.Tensor | None:
        """Listeners `[listeners, embedding_size]` that are learned with the encoder, if any are."""
        return None

    def on_train_epoch_start(self) -> None:
        # Each epoch draws from its own seed: a resumed training repeats nothing and skips nothing.
        torch.manual_seed(self.rng_seed * 100_003 + self.current_epoch)
        self._draw_batches_of(self.current_epoch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning opens the first epoch's batches before it starts that epoch.
        self._draw_batches_of(checkpoint["epoch"] + 1)

    def _draw_batches_of(self, epoch: int) -> None:
        # Lightning adds `datamodule` to its trainer without declaring it.
        self.trainer.datamodule.sampler.epoch = epoch  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, _: int) -> None:
        self._embedded.append(self.encoder(batch["logmel"], batch["frames"]).float().cpu())

    def on_validation_epoch_end(self) -> None:
        assert self.validate is not None
        embedded = torch.cat(self._embedded)
        self._embedded.clear()
        if not embedded.isfinite().all():
            raise InputError(
                f"epoch {self.current_epoch + 1}: the embeddings hold NaN or infinity, so the "
                f"training diverged: expected a learning_rate below {self.learning_rate}"
            )
        listeners = self.learned_listeners()
        known = () if listeners is None else (listeners.detach().float().cpu().numpy(),)
        numbers = self.validate(embedded.numpy(), *known)
        self.log_dict({f"valid/{name}": value for name, value in numbers.items()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, each part with a learning rate of its own where it needs one."""
        return [{"params": self.encoder.parameters()}]

    def configure_optimizers(self) -> Any:
        """Nesterov's momentum, a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.SGD(
            self.parameter_groups(),
            lr=self.learning_rate,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=self.weight_decay,
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(WARMUP_SHARE * total))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
