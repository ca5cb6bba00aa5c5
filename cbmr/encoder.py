"""Encoders: log-mel `[batch, mels, frames]` to an embedding `[batch, embedding_size]`.

An `Encoder` is a network behind a door that all of them share: each mel band is standardised by the
training set's mean and deviation, and padding is replaced by the clip itself, looped, so that what
stands in it can never matter. Networks pool over the positions that real frames reach, and over
those alone. Embeddings come out as the network predicts them; `embed` makes them unit-norm.

`encoder.pt` is what training leaves and serving reads: no Hydra, no Lightning, no pickled code.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cbmr.errors import InputError
from cbmr.files import write_tensors
from cbmr.logmel import MelSpec

FORMAT_VERSION = 1
KEYS = (
    "format_version", "encoder", "arguments", "mel_spec", "input_mean", "input_std", "state_dict",
)  # fmt: skip
SMALLEST_STD = 1e-3
"""A band that never changes is left near zero, not blown up."""


class Spotify2014(nn.Module):
    """The network of Dieleman (2014): four convolutions over time, pooled by mean, maximum and L2.

    9,393,704 parameters at the defaults. Not stated there and chosen here: dropout 0.5, Glorot's
    initialisation, and L2 as the root of the *mean* square, so that clips of different lengths
    give comparable statistics.
    """

    WIDTH = 4
    POOLS = (4, 2, 2, 1)
    least_frames = 103  # what one position after the last convolution sees

    def __init__(
        self,
        mels: int,
        embedding_size: int,
        *,
        channels: Sequence[int] = (256, 256, 512, 512),
        hidden: int = 2048,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        sizes = (mels, *channels)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, channel, self.WIDTH)
            for size, channel in zip(sizes[:-1], channels, strict=True)
        )
        self.dense = nn.Sequential(
            nn.Linear(3 * channels[-1], hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embedding_size),
        )
        _initialise(self)

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised log-mels `[batch, mels, frames]` to `[batch, embedding_size]`."""
        activation, reached = logmel, frames
        for convolution, pool in zip(self.convolutions, self.POOLS, strict=True):
            activation = F.max_pool1d(F.relu(convolution(activation)), pool)
            reached = (reached - self.WIDTH + 1) // pool
        out: torch.Tensor = self.dense(global_pool(activation, reached))
        return out


class Nips2013(nn.Module):
    """The network of van den Oord et al. (2013): two convolutions and two dense layers on windows
    of 3 s, a clip's prediction being the mean over its consecutive windows.

    The paper's layer sizes could not be read by us; filters, widths and pooling are choices.
    """

    WIDTH = 4
    POOLS = (4, 4)

    def __init__(
        self,
        mels: int,
        embedding_size: int,
        *,
        window_frames: int = 128,
        channels: Sequence[int] = (256, 256),
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.window_frames = self.least_frames = window_frames
        first, second = channels
        length = window_frames
        for pool in self.POOLS:
            length = (length - self.WIDTH + 1) // pool
        if length < 1:
            raise InputError(f"window_frames={window_frames}: too short for two convolutions")
        self.window = nn.Sequential(
            nn.Conv1d(mels, first, self.WIDTH),
            nn.ReLU(),
            nn.MaxPool1d(self.POOLS[0]),
            nn.Conv1d(first, second, self.WIDTH),
            nn.ReLU(),
            nn.MaxPool1d(self.POOLS[1]),
            nn.Flatten(),
            nn.Linear(second * length, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embedding_size),
        )
        _initialise(self)

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised log-mels `[batch, mels, frames]` to `[batch, embedding_size]`."""
        windows = logmel.unfold(2, self.window_frames, self.window_frames).transpose(1, 2)
        batch, count = windows.shape[:2]
        predicted = self.window(windows.flatten(0, 1)).unflatten(0, (batch, count))
        whole = (frames // self.window_frames).clamp(1, count)
        mask = torch.arange(count, device=frames.device) < whole[:, None]
        return (predicted * mask[:, :, None]).sum(dim=1) / whole[:, None]


ENCODERS = {"spotify2014": Spotify2014, "nips2013": Nips2013}


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


def global_pool(activation: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """Mean, maximum and root mean square over time of activations `[batch, channels, positions]`
    that are not negative, over the first `reached` `[batch]` positions: `[batch, 3 channels]`."""
    count = reached.clamp(1, activation.shape[2])
    mask = torch.arange(activation.shape[2], device=count.device) < count[:, None]
    real = activation * mask[:, None, :]
    mean = real.sum(dim=2) / count[:, None]
    mean_square = real.square().sum(dim=2) / count[:, None]
    return torch.cat([mean, real.amax(dim=2), (mean_square + 1e-8).sqrt()], dim=1)


def _looped(logmel: torch.Tensor, frames: torch.Tensor, least: int) -> torch.Tensor:
    """The real frames again and again, up to the width of the batch and at least `least`."""
    total = max(logmel.shape[2], least)
    if bool((frames >= total).all()):
        return logmel
    at = torch.arange(total, device=frames.device) % frames.clamp_min(1)[:, None]
    return logmel.gather(2, at[:, None, :].expand(-1, logmel.shape[1], -1))


def _initialise(network: nn.Module) -> None:
    """Glorot's uniform weights; the last layer at zero, so that training starts from predicting
    nothing. With He's, larger by a root of two a layer, the first steps diverge."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(layers[-1].weight)


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
