"""A multi-layer perceptron on precomputed vectors, for data sets that ship those, not audio."""

from collections.abc import Sequence

import torch
from torch import nn

from cbmr.encoder.layers import dense_layers, hidden_layers, initialise


class Vector(nn.Module):
    """Hidden layers of so many ReLU units on one vector a track, which comes as a log-mel would:
    `[batch, size, 1]`, its size in place of `mels`.

    Several frames are several vectors of one track, and their mean is what counts.
    """

    least_frames = 1

    def __init__(
        self,
        mels: int,
        embedding_size: int,
        *,
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.dense = nn.Sequential(*dense_layers((mels, *hidden, embedding_size), dropout))
        initialise(self)

    def layers(self) -> dict[str, nn.Module]:
        """What puts out each layer's activations."""
        return {**hidden_layers(self.dense), "output": self}

    def fields(self) -> dict[str, tuple[int, int]]:
        """None of the layers is over time."""
        return {}

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised vectors `[batch, size, frames]` to `[batch, embedding_size]`."""
        count = frames.clamp_min(1)[:, None]
        padding = torch.arange(logmel.shape[2], device=frames.device) >= count
        mean = logmel.masked_fill(padding[:, None, :], 0).sum(dim=2) / count
        out: torch.Tensor = self.dense(mean)
        return out
