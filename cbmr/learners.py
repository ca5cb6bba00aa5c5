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
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from cbmr.augment import random_crop
from cbmr.batches import Batches
from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.losses import distance, drlim, factor_error, ranknet, station_triplet

THUMB_LOSSES = ("drlim", "triplet", "ranknet")
MOMENTUM = 0.9
WARMUP_SHARE = 0.05
LARGEST_GRADIENT = 1.0
"""Norm to which a gradient is clipped: it lets the learning rate be five times higher."""

Validate = Callable[[np.ndarray], dict[str, float]]
"""Embeddings `[valid rows, embedding_size]` to named numbers; `score` is what is maximised."""
Progress = Callable[[int, int, dict[str, float]], None]
"""Told the steps done, the steps in all, and after each epoch its numbers (else none)."""


class _Learner(pl.LightningModule):
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

    def embed(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Raw embeddings `[batch, embedding_size]`, of random crops while training."""
        logmel, frames = batch["logmel"], batch["frames"]
        if self.training:
            logmel, frames = random_crop(logmel, frames, crop_frames=self.crop_frames)
        return self.encoder(logmel, frames)

    def on_train_epoch_start(self) -> None:
        # Each epoch draws from its own seed: a resumed training repeats nothing and skips nothing.
        torch.manual_seed(self.rng_seed * 100_003 + self.current_epoch)

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
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


class FactorRegression(_Learner):
    """Stage 1: mean squared error to unit-norm factors (van den Oord et al. 2013)."""

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        loss = factor_error(self.embed(batch), batch["target"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]))
        return loss


class ThumbRanking(_Learner):
    """Stage 2: a metric loss on thumbs, plus `anchor` times stage 1's error.

    Losses see unit-norm embeddings, as serving does; the pair of a vote is (seed, voted track).
    `drlim` uses every vote, `triplet` and `ranknet` every (seed, up, down) of one listener's
    station. `margin` is in units of distance; `scale` turns a difference of squared distances into
    RankNet's score; `flip_rate` is the probability that a pair is reversed by a slip.
    """

    def __init__(
        self,
        encoder: Encoder,
        validate: Validate | None,
        *,
        loss: str,
        margin: float,
        scale: float,
        flip_rate: float,
        anchor: float,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, validate, **shared)
        if loss not in THUMB_LOSSES:
            raise InputError(f"loss={loss}: expected one of {', '.join(THUMB_LOSSES)}")
        self.loss, self.margin, self.scale = loss, margin, scale
        self.flip_rate, self.anchor = flip_rate, anchor

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        embedding = self.embed(batch)
        anchored = ~batch["target"].isnan().any(dim=1)
        anchor = factor_error(embedding[anchored], batch["target"][anchored])
        unit = torch.nn.functional.normalize(embedding.float(), dim=1)
        thumbs = self._thumb_loss(unit, batch)
        loss = thumbs + (self.anchor * anchor if anchored.any() else 0.0)
        numbers: dict[str, torch.Tensor | float] = {
            "train/loss": loss,
            "train/thumbs": thumbs,
            "train/votes": float(len(batch["up"])),
        }
        self.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def _thumb_loss(self, unit: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.loss == "drlim":
            apart = distance(unit[batch["seed"]], unit[batch["track"]])
            return drlim(apart, batch["up"], batch["weight"], margin=self.margin)
        seed, preferred, other = batch["pairs"].T
        if self.loss == "triplet":
            return station_triplet(
                unit, seed, preferred, other, batch["pair_weight"], margin=self.margin
            )
        closer = (unit[seed] * (unit[preferred] - unit[other])).sum(dim=1)
        return ranknet(self.scale * closer, batch["pair_weight"], flip_rate=self.flip_rate)


# --- the loop -----------------------------------------------------------------------------------


def train(
    learner: FactorRegression | ThumbRanking,
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
    keep = ModelCheckpoint(
        dirpath=checkpoints,
        filename="best",
        monitor="valid/score" if has_validation else None,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    report = [_Progress(progress)] if progress is not None else []
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            precision=precision(),
            gradient_clip_val=LARGEST_GRADIENT,
            callbacks=[keep, *report],
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
    state = torch.load(best, map_location="cpu", weights_only=True)
    learner.load_state_dict(state["state_dict"])
    learner.cpu().eval()
    return int(state["epoch"]) + 1


def precision() -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 where the processor that trains computes in it, else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    able = torch.cpu.get_capabilities()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"


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
