"""The door that all networks stand behind, and the file that keeps one.

`encoder.pt` is what training leaves and serving reads: no Hydra, no Lightning, no pickled code.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbmr.encoder.nips2013 import Nips2013
from cbmr.encoder.residual import Residual
from cbmr.encoder.spotify2014 import Spotify2014
from cbmr.encoder.vector import Vector
from cbmr.errors import InputError
from cbmr.files import write_tensors
from cbmr.logmel import MelSpec

FORMAT_VERSION = 1
KEYS = (
    "format_version", "encoder", "arguments", "mel_spec", "input_mean", "input_std", "state_dict",
)  # fmt: skip
SMALLEST_STD = 1e-3
"""A band that never changes is left near zero, not blown up."""

ENCODERS = {
    "spotify2014": Spotify2014,
    "nips2013": Nips2013,
    "residual": Residual,
    "vector": Vector,
}


class Encoder(nn.Module):
    """A network with everything needed to run it on sound: its mel spectrogram, its scaling.

    `arguments` rebuild the network: `ENCODERS[name](**arguments)`. `input_mean` and `input_std`
    are `[mels]`. The state dict is the network's alone.
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        mel_spec: MelSpec,
        input_mean: torch.Tensor,
        input_std: torch.Tensor,
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise InputError(f"encoder={name}: expected one of {', '.join(ENCODERS)}")
        self.name, self.arguments, self.mel_spec = name, arguments, mel_spec
        self.network = ENCODERS[name](**arguments)
        self.register_buffer("input_mean", input_mean.float(), persistent=False)
        self.register_buffer("input_std", input_std.float(), persistent=False)

    @property
    def embedding_size(self) -> int:
        return int(self.arguments["embedding_size"])

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Log-mels `[batch, mels, frames]` (any float type), of which the first `frames` `[batch]`
        of each item are real, to embeddings `[batch, embedding_size]`."""
        scale = self.input_std.clamp_min(SMALLEST_STD)[:, None]
        standardised = (logmel.float() - self.input_mean[:, None]) / scale
        looped = _looped(standardised, frames, int(self.network.least_frames))
        out: torch.Tensor = self.network(looped, frames)
        return out


def _looped(logmel: torch.Tensor, frames: torch.Tensor, least: int) -> torch.Tensor:
    """The real frames again and again, up to the width of the batch and at least `least`."""
    total = max(logmel.shape[2], least)
    if bool((frames >= total).all()):
        return logmel
    at = torch.arange(total, device=frames.device) % frames.clamp_min(1)[:, None]
    return logmel.gather(2, at[:, None, :].expand(-1, logmel.shape[1], -1))


def save_encoder(path: Path, encoder: Encoder) -> None:
    """Write `encoder.pt` (keys: `KEYS`), whole or not at all."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "encoder": encoder.name,
        "arguments": encoder.arguments,
        "mel_spec": asdict(encoder.mel_spec),
        "input_mean": encoder.input_mean.cpu(),
        "input_std": encoder.input_std.cpu(),
        "state_dict": {k: v.cpu() for k, v in encoder.network.state_dict().items()},
    }
    for name, tensor in content["state_dict"].items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} holds NaN or infinity: the training diverged")
    write_tensors(path, content)


def load_encoder(path: Path) -> Encoder:
    """Read `encoder.pt`, on the CPU and ready to embed.

    Raises InputError for a file that is damaged, of a newer format, or not an encoder of cbmr.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise InputError(f"{path} is not an encoder file: it was cut off or damaged") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise InputError(f"{path} is not a cbmr encoder (a Lightning checkpoint, perhaps)")
    if content["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {content['format_version']}, this cbmr reads {FORMAT_VERSION}: "
            "it was made by a newer cbmr; upgrade, or train again"
        )
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise InputError(f"{path} lacks {missing[0]!r}: it is damaged or was made by hand")
    encoder = Encoder(
        content["encoder"],
        content["arguments"],
        MelSpec(**content["mel_spec"]),
        content["input_mean"],
        content["input_std"],
    )
    encoder.network.load_state_dict(content["state_dict"])
    return encoder.eval()
