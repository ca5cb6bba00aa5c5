"""The two training stages as Lightning modules, and the loop that runs either of them.

`FactorRegression` (stage 1) predicts unit-norm CF factors from sound; `ThumbRanking` (stage 2)
fine-tunes the same encoder so that distances agree with thumbs. Both are trained by `train`, which
resumes, validates, and returns the encoder of the best epoch.
"""

import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.io import CheckpointIO

from cbmr.augment import random_crop
from cbmr.batches import Batches
from cbmr.encoder import Encoder
from cbmr.files import write_tensors
from cbmr.losses import distance, drlim, factor_error, ranknet, station_triplet

MOMENTUM = 0.9
WARMUP_SHARE = 0.05
LARGEST_GRADIENT = 1.0
"""Norm to which a gradient is clipped: it lets the learning rate be five times higher."""

Batch = dict[str, torch.Tensor]
Validate = Callable[[np.ndarray], dict[str, float]]
"""Embeddings `[valid rows, embedding_size]` to named numbers; `score` is what is maximised."""
Progress = Callable[[int, int, dict[str, float]], None]
"""Told the steps done, the steps in all, and after each epoch its numbers (else none)."""


class Learner(pl.LightningModule):
    """What both stages share: cropping, stochastic gradient descent, validation by a function."""

    def __init__(
        self,
        encoder: Encoder,
        validate: Validate | None,
        *,
        learning_rate: float,
        weight_decay: float,
        crop_frames: int,
        rng_seed: int,
    ) -> None:
        super().__init__()
        self.encoder, self.validate = encoder, validate
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.crop_frames, self.rng_seed = crop_frames, rng_seed
        self._embedded: list[torch.Tensor] = []

    def embed(self, batch: Batch) -> torch.Tensor:
        """Raw embeddings `[batch, embedding_size]`, of random crops while training."""
        logmel, frames = batch["logmel"], batch["frames"]
        if self.training:
            logmel, frames = random_crop(logmel, frames, crop_frames=self.crop_frames)
        return self.encoder(logmel, frames)

    def on_train_epoch_start(self) -> None:
        # Each epoch draws from its own seed: a resumed training repeats nothing and skips nothing.
        torch.manual_seed(self.rng_seed * 100_003 + self.current_epoch)
        # Lightning adds `datamodule` to its trainer without declaring it.
        self.trainer.datamodule.sampler.epoch = self.current_epoch  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning opens the first epoch's batches before it starts that epoch.
        self.trainer.datamodule.sampler.epoch = checkpoint["epoch"] + 1  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, _: int) -> None:
        self._embedded.append(self.embed(batch).float().cpu())

    def on_validation_epoch_end(self) -> None:
        assert self.validate is not None
        numbers = self.validate(torch.cat(self._embedded).numpy())
        self._embedded.clear()
        self.log_dict({f"valid/{name}": value for name, value in numbers.items()})

    def configure_optimizers(self) -> Any:
        """Nesterov's momentum, a short warm-up, then a cosine to zero."""
        optimizer = torch.optim.SGD(
            self.encoder.parameters(),
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


class FactorRegression(Learner):
    """Stage 1: mean squared error to unit-norm factors (van den Oord et al. 2013)."""

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        loss = factor_error(self.embed(batch), batch["target"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]))
        return loss


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
    stage 1's error, so that listening is not forgotten.

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
        embedding = self.embed(batch)
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


# --- the loop -----------------------------------------------------------------------------------


def train(
    learner: Learner,
    batches: Batches,
    folder: Path,
    *,
    epochs: int,
    fingerprint: str,
    progress: Progress | None = None,
) -> int:
    """Train, and leave in `learner.encoder` the best epoch by `valid/score`; without validation
    the last. Returns that epoch's number, counted from 1.

    State is kept in `folder/checkpoints`: the same call with the same `fingerprint` (of settings
    and inputs) goes on where an interrupted one was; with another it starts afresh. `progress` is
    told the steps done, the steps in all, and after each epoch its numbers.
    """
    checkpoints = folder / "checkpoints"
    mark = checkpoints / "fingerprint"
    if not mark.exists() or mark.read_text() != fingerprint:
        shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True)
        mark.write_text(fingerprint)
    last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
    has_validation = learner.validate is not None
    kept = {last: None, best: "valid/score"} if has_validation else {last: None}
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=checkpoints,
            filename=file.stem,
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=True,  # a state within an epoch would not go on the same
            enable_version_counter=False,
        )
        for file, monitor in kept.items()
    ]
    if progress is not None:
        callbacks.append(_Progress(progress))
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            precision=precision(),
            gradient_clip_val=LARGEST_GRADIENT,
            callbacks=callbacks,
            plugins=_WholeCheckpoints(),
            logger=CSVLogger(folder, name="logs", version=""),
            log_every_n_steps=1,
            limit_val_batches=None if has_validation else 0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(
                learner, batches, ckpt_path=last if last.exists() else None, weights_only=True
            )
        except SystemExit:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
    state = torch.load([*kept][-1], map_location="cpu", weights_only=True)
    learner.load_state_dict(state["state_dict"])
    learner.cpu().eval()
    return int(state["epoch"]) + 1


def precision() -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 where the processor that trains computes in it, else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    able = torch.cpu.get_capabilities()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"


class _WholeCheckpoints(CheckpointIO):
    """Checkpoints that are whole or absent: Lightning's own are copied into place from another
    folder, and one that is cut off there could not be resumed from."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_tensors(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(path, map_location, weights_only=weights_only)
        return content

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class _Progress(Callback):
    def __init__(self, report: Progress) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.report(trainer.global_step, int(trainer.estimated_stepping_batches), {})

    def on_validation_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.report(trainer.global_step, int(trainer.estimated_stepping_batches), numbers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's banners and its advice on settings that were chosen on purpose stay unsaid."""
    logger = logging.getLogger("pytorch_lightning")
    fabric = logging.getLogger("lightning.fabric")
    levels = logger.level, fabric.level
    logger.setLevel(logging.ERROR)
    fabric.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="(pytorch_)?lightning")
            yield
    finally:
        logger.setLevel(levels[0])
        fabric.setLevel(levels[1])
