"""The network of Dieleman (2014), and the variations that its article names."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from cbmr.encoder.layers import (
    StochasticPool,
    dense_layers,
    field_over,
    global_pool,
    hidden_layers,
    initialise,
    nonlinearity,
    one_of,
)
from cbmr.errors import InputError

SMALLEST_NORM = 1e-6
UNIT_OUTPUT_GAIN = 0.01
"""Of Glorot's weights, where the last layer cannot start at zero: at 1 the outputs are so long that
a step hardly turns them, and the first epochs learn little."""


class Spotify2014(nn.Module):
    """Convolutions over time, each followed by pooling; their last activation pooled over all time
    by mean, maximum and L2; two hidden dense layers and a linear one.

    9,393,704 parameters at the defaults. Not stated in the article and chosen here: dropout 0.5,
    Glorot's initialisation, and L2 as the root of the *mean* square. The variations it names:

    - `channels` and `pools`, one of each for every convolution: more layers, 7 to 8 in all. The
      default has seven layers with weights already, four convolutions and three dense, so we count
      hidden ones, of which it has six: `encoder=spotify2014_7` and `spotify2014_8` have five and
      six convolutions.
    - `activation` `maxout` of so many linear `pieces` instead of `relu`, in convolutions and dense
      layers: as many units, and about `pieces` times the parameters.
    - `pooling` `stochastic` instead of `max`, between convolutions. It needs activations that are
      not negative, so not maxout's.
    - `unit_output`: L2-normalised embeddings `z / max(|z|, eps)`; against unit-norm targets the
      squared error is then `2 - 2 cos`. Zero has no direction, so here the last layer starts
      from small weights instead.
    - `bypass`: the dense part sees every convolution's activation (as the next one does, after its
      pooling), each pooled over all time: 4608 inputs at the default sizes.
    - `l2_pool` `norm` instead of `rms`: it grows with the square root of a clip's length, so a
      network trained on crops of 15 s sees values larger by a root of two on clips of 30 s.
    """

    WIDTH = 4

    def __init__(
        self,
        mels: int,
        embedding_size: int,
        *,
        channels: Sequence[int] = (256, 256, 512, 512),
        pools: Sequence[int] = (4, 2, 2, 1),
        hidden: int = 2048,
        dropout: float = 0.5,
        activation: str = "relu",
        pieces: int = 2,
        pooling: str = "max",
        unit_output: bool = False,
        bypass: bool = False,
        l2_pool: str = "rms",
    ) -> None:
        super().__init__()
        one_of("activation", activation, ("relu", "maxout"))
        one_of("pooling", pooling, ("max", "stochastic"))
        one_of("l2_pool", l2_pool, ("rms", "norm"))
        if activation == "maxout" and pooling == "stochastic":
            raise InputError(
                "pooling=stochastic: expected activation=relu with it; maxout may be negative, and "
                "then gives no probabilities"
            )
        if activation == "maxout" and pieces < 2:
            raise InputError(f"pieces={pieces}: expected at least 2 for a maximum of them")
        if len(pools) != len(channels) or not channels or min(pools) < 1:
            raise InputError(
                f"pools={[*pools]}: expected {len(channels)} numbers of at least 1, one for each "
                f"of channels={[*channels]}"
            )
        if activation == "relu":
            pieces = 1
        self.unit_output, self.bypass, self.l2_pool = unit_output, bypass, l2_pool
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, units * pieces, self.WIDTH)
            for size, units in pairwise((mels, *channels))
        )
        self.nonlinearity = nonlinearity(pieces)
        self.pools = nn.ModuleList(
            StochasticPool(size) if pooling == "stochastic" and size > 1 else nn.MaxPool1d(size)
            for size in pools
        )
        self.pool_sizes = tuple(pools)
        self.pooled = nn.Identity()  # a place to listen at
        pooled = 3 * (sum(channels) if bypass else channels[-1])
        self.dense = nn.Sequential(
            *dense_layers((pooled, hidden, hidden, embedding_size), dropout, pieces=pieces)
        )
        initialise(self, pieces=pieces, output_gain=UNIT_OUTPUT_GAIN if unit_output else 0.0)

    @property
    def least_frames(self) -> int:
        """What one position after the last convolution sees: 103 frames at the defaults."""
        frames = 1
        for pool in reversed(self.pool_sizes):
            frames = frames * pool + self.WIDTH - 1
        return frames

    def layers(self) -> dict[str, nn.Module]:
        """What puts out each layer's activations; a convolution's after its pooling."""
        convolutions = {f"convolution{n}": pool for n, pool in enumerate(self.pools, start=1)}
        return {
            **convolutions, "pooled": self.pooled, **hidden_layers(self.dense), "output": self
        }  # fmt: skip

    def fields(self) -> dict[str, tuple[int, int]]:
        """Of the layers over time: how many frames apart their positions begin, and how many each
        sees."""
        fields, field = {}, (1, 1)
        for number, pool in enumerate(self.pool_sizes, start=1):
            field = field_over(field_over(field, self.WIDTH), pool, pool)
            fields[f"convolution{number}"] = field
        return fields

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised log-mels `[batch, mels, frames]` to `[batch, embedding_size]`."""
        activation, reached = logmel, frames
        layers = []
        for convolution, pool, size in zip(
            self.convolutions, self.pools, self.pool_sizes, strict=True
        ):
            activation = pool(self.nonlinearity(convolution(activation)))
            reached = (reached - self.WIDTH + 1) // size
            layers.append((activation, reached))
        seen = layers if self.bypass else layers[-1:]
        pooled = [global_pool(*layer, l2=self.l2_pool) for layer in seen]
        out: torch.Tensor = self.dense(self.pooled(torch.cat(pooled, dim=1)))
        if self.unit_output:
            return F.normalize(out.float(), dim=1, eps=SMALLEST_NORM)
        return out
