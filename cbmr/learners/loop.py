"""The loop: resumes, validates, and is quiet about it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from cbmr.batches import Batches
from cbmr.files import write_tensors
from cbmr.learners.learner import Learner
from cbmr.quiet import quiet_lightning

LARGEST_GRADIENT = 1.0
"""Norm to which a gradient is clipped: it lets the learning rate be five times higher."""

Progress = Callable[[int, int, dict[str, float]], None]
"""Told the steps done, the steps in all, and after each epoch its numbers (else none)."""


def train(
    learner: Learner,
    batches: Batches,
    folder: Path,
    *,
    epochs: int,
    fingerprint: str,
    progress: Progress | None = None,
) -> None:
    """Train, and leave in `learner.encoder` what the last epoch did: by then the learning rate is
    zero, and the best of so many epochs on a few validation tracks is mostly their chance.

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
    last = checkpoints / "last.ckpt"
    _set_logs_aside(folder / "logs", goes_on=last.exists())
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=checkpoints,
            filename=last.stem,
            save_on_train_epoch_end=True,  # a state within an epoch would not go on the same
            enable_version_counter=False,
        )
    ]
    if progress is not None:
        callbacks.append(_Progress(progress))
    with quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            precision=precision(),
            gradient_clip_val=LARGEST_GRADIENT,
            # Else threads add up the gradients of one track's votes in whichever order they come.
            deterministic="warn",
            callbacks=callbacks,
            plugins=_WholeCheckpoints(),
            logger=CSVLogger(folder, name="logs", version="", flush_logs_every_n_steps=1),
            limit_val_batches=0 if learner.validate is None else None,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(learner, batches, ckpt_path=last if last.exists() else None, weights_only=True)
    learner.cpu().eval()


def _set_logs_aside(logs: Path, *, goes_on: bool) -> None:
    """Keep the numbers of what was trained before an interruption as `metrics-1.csv` and so on:
    Lightning's logger begins its file anew."""
    log = logs / "metrics.csv"
    if not goes_on:
        shutil.rmtree(logs, ignore_errors=True)
    elif log.exists():
        log.rename(logs / f"metrics-{len(list(logs.glob('metrics-*.csv'))) + 1}.csv")


def precision() -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 where the processor that trains computes in it, else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    able = torch.cpu.get_capabilities()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"


class _WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent: Lightning's own are copied into place from another
    folder, and one that is cut off there could not be resumed from."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_tensors(Path(path), checkpoint)


class _Progress(Callback):
    def __init__(self, report: Progress) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.report(trainer.global_step, int(trainer.estimated_stepping_batches), {})

    def on_validation_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.report(trainer.global_step, int(trainer.estimated_stepping_batches), numbers)
