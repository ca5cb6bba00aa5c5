"""Training throughput: `python -m benchmarks.training`, clips a second on this machine.

Three loops of the 2014 network on the same synthetic log-mels of 30 s and batch, in turn for five
rounds after one to warm up, medians printed: the bare PyTorch loop in float32, the bare loop in the
precision that training uses here, and `cbmr.learners.train`'s Lightning loop with its loading
processes. Runs unchanged on a GPU.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch

from cbmr.batches import Batches, EpochSampler, TrackBatches
from cbmr.encoder import Encoder
from cbmr.learners import (
    LARGEST_GRADIENT,
    MOMENTUM,
    FactorRegression,
    Listeners,
    precision,
    train,
)
from cbmr.logmel import MelSpec
from cbmr.spectrograms import Store

TRACKS, BATCH, CROP, ROUNDS = 512, 32, 599, 5


class Clips:
    """What `TrackBatches` reads of a store: log-mels in memory, as large as real ones."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.logmels = rng.random((TRACKS, 128, 599), dtype=np.float32).astype(np.float16)
        self.frames = np.full(TRACKS, 599)

    def __len__(self) -> int:
        return TRACKS

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.logmels[rows]


def main() -> None:
    """Print the medians and the two ratios that matter."""
    store = cast("Store", Clips())
    data = TrackBatches(store, np.arange(TRACKS), np.zeros((TRACKS, 40), dtype=np.float32))
    loops: dict[str, Callable[[], float]] = {
        "bare float32": lambda: _bare(data, "32-true"),
        f"bare {precision()}": lambda: _bare(data, precision()),
        f"Lightning {precision()}": lambda: _lightning(data),
    }
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(ROUNDS + 1):
        for name, loop in loops.items():
            speed = loop()
            if round_:
                speeds[name].append(speed)
    medians = [statistics.median(values) for values in speeds.values()]
    for name, median in zip(speeds, medians, strict=True):
        print(f"{name}: {median:.0f} clips/s")
    print(f"Lightning / bare {precision()}: {medians[2] / medians[1]:.2f}")
    print(f"Lightning / bare float32: {medians[2] / medians[0]:.2f}")


def _learner() -> FactorRegression:
    torch.manual_seed(0)
    arguments = {"mels": 128, "embedding_size": 40}
    scale = torch.zeros(128), torch.ones(128)
    encoder = Encoder("spotify2014", arguments, MelSpec(), *scale)
    return FactorRegression(
        encoder,
        None,
        loss="mse",
        options={},
        listeners=Listeners(torch.zeros(1, 40), torch.ones(1), learned=False),
        learning_rate=0.01,
        weight_decay=0.0,
        augmentation={"crop_frames": CROP},
        rng_seed=0,
    )


def _bare(data: TrackBatches, kind: str) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner = _learner().to(device).train()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=MOMENTUM, nesterov=True)
    began = time.perf_counter()
    for items in EpochSampler(np.ones(TRACKS), BATCH, TRACKS, rng_seed=0):
        batch = {name: tensor.to(device) for name, tensor in data[items].items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16-mixed"):
            loss = (learner.predict(batch) - batch["target"]).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), LARGEST_GRADIENT)
        optimizer.step()
    loss.item()
    return TRACKS / (time.perf_counter() - began)


def _lightning(data: TrackBatches) -> float:
    marks: list[float] = []
    batches = Batches(data, EpochSampler(np.ones(TRACKS), BATCH, TRACKS, 0), None, workers=1)

    def progress(done: int, total: int, _: dict[str, float]) -> None:
        if done in (total // 2 + 1, total):
            marks.append(time.perf_counter())

    # Two epochs; the second is timed from its first step on, since starting the loading processes
    # and writing a checkpoint is not a step.
    with tempfile.TemporaryDirectory() as folder:
        train(
            _learner(),
            batches,
            Path(folder),
            epochs=2,
            fingerprint="",
            progress=progress,
        )
    steps = len(batches.sampler)
    return TRACKS * (steps - 1) / steps / (marks[1] - marks[0])


if __name__ == "__main__":
    main()
