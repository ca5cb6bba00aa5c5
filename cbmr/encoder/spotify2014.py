"""The network of Dieleman (2014)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cbmr.encoder.layers import global_pool, initialise


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
        initialise(self)

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised log-mels `[batch, mels, frames]` to `[batch, embedding_size]`."""
        activation, reached = logmel, frames
        for convolution, pool in zip(self.convolutions, self.POOLS, strict=True):
            activation = F.max_pool1d(F.relu(convolution(activation)), pool)
            reached = (reached - self.WIDTH + 1) // pool
        out: torch.Tensor = self.dense(global_pool(activation, reached))
        return out
