"""A trunk of today: residual convolutions over time with batch normalisation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from cbmr.encoder.layers import (
    dense_layers,
    field_over,
    global_pool,
    hidden_layers,
    initialise,
)
from cbmr.errors import InputError

WIDTH = 3
BLOCK = 2 * (WIDTH - 1)
"""Frames that a block's two convolutions take off its input."""


class Residual(nn.Module):
    """A convolution and a residual block (He et al. 2016) for each of `channels`, with max-pooling
    between; pooled over all time by mean, maximum and L2; one hidden dense layer.

    No convolution pads: the shortcut is cut to what the block leaves instead. So a position has
    seen real frames only or is not pooled, and a clip embeds the same in a batch of any width.
    """

    STEM_WIDTH = 4
    STEM_POOL = 4
    POOL = 2

    def __init__(
        self,
        mels: int,
        embedding_size: int,
        *,
        channels: Sequence[int] = (192, 256, 384),
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not channels:
            raise InputError("channels=[]: expected one number or more, one for each block")
        self.stem = nn.Sequential(
            nn.Conv1d(mels, channels[0], self.STEM_WIDTH, bias=False),
            nn.BatchNorm1d(channels[0]),
            nn.ReLU(),
            nn.MaxPool1d(self.STEM_POOL),
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(size, units) for size, units in pairwise((channels[0], *channels))
        )
        self.pooled = nn.Identity()  # a place to listen at
        self.dense = nn.Sequential(
            *dense_layers((3 * channels[-1], hidden, embedding_size), dropout)
        )
        initialise(self)

    @property
    def least_frames(self) -> int:
        """What two positions after the last block see: 147 frames at the defaults. Normalising a
        batch of one short clip takes the second."""
        frames = 2 + BLOCK
        for _ in self.blocks[1:]:
            frames = frames * self.POOL + BLOCK
        return frames * self.STEM_POOL + self.STEM_WIDTH - 1

    def layers(self) -> dict[str, nn.Module]:
        """What puts out each layer's activations."""
        blocks = {f"block{number}": block for number, block in enumerate(self.blocks, start=1)}
        return {
            "stem": self.stem, **blocks, "pooled": self.pooled, **hidden_layers(self.dense),
            "output": self,
        }  # fmt: skip

    def fields(self) -> dict[str, tuple[int, int]]:
        """Of the layers over time: how many frames apart their positions begin, and how many each
        sees."""
        field = field_over(field_over((1, 1), self.STEM_WIDTH), self.STEM_POOL, self.STEM_POOL)
        fields = {"stem": field}
        for number in range(1, len(self.blocks) + 1):
            if number > 1:
                field = field_over(field, self.POOL, self.POOL)
            field = field_over(field, BLOCK + 1)
            fields[f"block{number}"] = field
        return fields

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised log-mels `[batch, mels, frames]` to `[batch, embedding_size]`."""
        activation = self.stem(logmel)
        reached = (frames - self.STEM_WIDTH + 1) // self.STEM_POOL
        for number, block in enumerate(self.blocks):
            if number:
                activation = F.max_pool1d(activation, self.POOL)
                reached = reached // self.POOL
            activation = block(activation)
            reached = reached - BLOCK
        out: torch.Tensor = self.dense(self.pooled(global_pool(activation, reached)))
        return out


class ResidualBlock(nn.Module):
    """`relu(cut(x) + f(x))`, f being two convolutions: `[batch, size, positions]` to
    `[batch, units, positions - 4]`. It starts as the shortcut alone."""

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.shortcut = nn.Identity() if size == units else nn.Conv1d(size, units, 1, bias=False)
        last = nn.BatchNorm1d(units)
        nn.init.zeros_(last.weight)
        self.change = nn.Sequential(
            nn.Conv1d(size, units, WIDTH, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(),
            nn.Conv1d(units, units, WIDTH, bias=False),
            last,
        )

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        cut = activation[:, :, BLOCK // 2 : -BLOCK // 2]
        return F.relu(self.shortcut(cut) + self.change(activation))
