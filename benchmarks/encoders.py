"""What each encoder costs: `python -m benchmarks.encoders`, for every file in `conf/encoder`.

Parameters, and clips a second of a bare training step (batches of 32 crops of 300 frames, 15 s; for
precomputed vectors one of 512 numbers each) in the precision that training uses here, on two
threads of a CPU. The encoders take turns for three rounds after one to warm up; medians printed.
"""

import statistics
import time
from pathlib import Path

import hydra
import torch

from cbmr.encoder import ENCODERS
from cbmr.learners import LARGEST_GRADIENT, MOMENTUM, precision
from cbmr.losses import factor_error
from tasks.command import CONF
from tasks.manifests import plain

BATCH, FRAMES, VECTOR, FACTORS, STEPS, ROUNDS = 32, 300, 512, 40, 6, 3


def main() -> None:
    """Print a Markdown table."""
    torch.set_num_threads(2)
    names = sorted(path.stem for path in Path(CONF).glob("encoder/*.yaml"))
    networks = {name: _network_and_clips(name) for name in names}
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(ROUNDS + 1):
        for name, (network, logmel) in networks.items():
            speed = _clips_per_second(network, logmel)
            if round_:
                speeds[name].append(speed)
    print(f"| encoder | parameters | clips/s in training, {precision()} |")
    print("|---|---|---|")
    for name, (network, _) in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters())
        print(f"| {name} | {parameters:,} | {statistics.median(speeds[name]):.0f} |")


def _network_and_clips(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    with hydra.initialize_config_dir(CONF, version_base=None):
        encoder = hydra.compose("regress", overrides=[f"encoder={name}"]).encoder
    mels = encoder.mel.mels if "mel" in encoder else VECTOR
    arguments = plain(encoder.arguments)
    torch.manual_seed(0)
    network = ENCODERS[encoder.name](mels=mels, embedding_size=FACTORS, **arguments).train()
    return network, torch.randn(BATCH, mels, FRAMES if "mel" in encoder else 1)


def _clips_per_second(network: torch.nn.Module, logmel: torch.Tensor) -> float:
    frames = torch.full((BATCH,), logmel.shape[2])
    target = torch.nn.functional.normalize(torch.randn(BATCH, FACTORS), dim=1)
    parameters = [*network.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=MOMENTUM, nesterov=True)
    began = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16-mixed"):
            loss = factor_error(network(logmel, frames).float(), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch left it untyped
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
    return BATCH * STEPS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
