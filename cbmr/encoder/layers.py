"""What the networks are made of besides torch's own layers."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cbmr.errors import InputError

SMALLEST_SUM = 1e-12


class Maxout(nn.Module):
    """The largest of each unit's `pieces`: `[batch, units * pieces, ...]` to `[batch, units, ...]`.

    After a linear layer this is a maxout unit, `h_i = max_j (x W_ij + b_ij)` (Goodfellow et al.
    2013). No ReLU follows it, so it may be negative.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, linear: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(linear, 1, (-1, self.pieces)).amax(dim=2)


class StochasticPool(nn.Module):
    """Stochastic pooling over time in windows of `size` (Zeiler & Fergus 2013): activations
    `[batch, channels, positions]` that are not negative to `[batch, channels, positions // size]`.

    With `p_i = a_i / sum(a)` in a window, training samples one activation from p and evaluation
    takes the expectation `sum(p_i a_i)`: of (1, 3), 3 three times in four, and 2.5. A window of
    zeros gives 0.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        windows = activation.unfold(2, self.size, self.size)
        # In float32: bfloat16 sums are too coarse for probabilities.
        weights = windows.float()
        if not self.training:
            return weights.square().sum(dim=3) / weights.sum(dim=3).clamp_min(SMALLEST_SUM)
        reached = weights.detach().cumsum(dim=3)
        drawn = torch.rand_like(reached[..., :1]) * reached[..., -1:]
        at = (reached <= drawn).sum(dim=3, keepdim=True).clamp_max(self.size - 1)
        return windows.gather(3, at).squeeze(3)


def global_pool(
    activation: torch.Tensor, reached: torch.Tensor, *, l2: str = "rms"
) -> torch.Tensor:
    """Mean, maximum and L2 over time of activations `[batch, channels, positions]`, over the first
    `reached` `[batch]` positions: `[batch, 3 channels]`.

    L2 is the root of the mean square (`rms`), or the plain norm (`norm`), which grows with the
    square root of the number of positions.
    """
    count = reached.clamp(1, activation.shape[2])
    padding = torch.arange(activation.shape[2], device=count.device) >= count[:, None]
    real = activation.masked_fill(padding[:, None, :], 0)
    mean = real.sum(dim=2) / count[:, None]
    square = real.square().sum(dim=2)
    if l2 == "rms":
        square = square / count[:, None]
    largest = activation.masked_fill(padding[:, None, :], -torch.inf).amax(dim=2)
    return torch.cat([mean, largest, (square + 1e-8).sqrt()], dim=1)


def dense_layers(sizes: Sequence[int], dropout: float, *, pieces: int = 1) -> list[nn.Module]:
    """Linear layers from `sizes[0]` inputs to `sizes[-1]` outputs; after all but the last, a ReLU
    (or with more than one of `pieces`, maxout) and dropout."""
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout}: expected at least 0 and below 1")
    layers: list[nn.Module] = []
    for size, units in pairwise(sizes[:-1]):
        layers += [nn.Linear(size, units * pieces), nonlinearity(pieces), nn.Dropout(dropout)]
    return [*layers, nn.Linear(sizes[-2], sizes[-1])]


def field_over(field: tuple[int, int], width: int, step: int = 1) -> tuple[int, int]:
    """How many frames apart two positions of a layer begin, and how many each sees, where the layer
    sees `width` positions of one with this `field` and goes on by `step` of them.

    By hand: a convolution of width 4 on the frames themselves, (1, 1), has (1, 4), and pooling by 4
    over that (4, 7).
    """
    apart, seen = field
    return apart * step, seen + (width - 1) * apart


def hidden_layers(dense: nn.Sequential) -> dict[str, nn.Module]:
    """The hidden units among `dense_layers`, by name: `dense1` and so on."""
    return {f"dense{number}": units for number, units in enumerate(list(dense)[1::3], start=1)}


def nonlinearity(pieces: int) -> nn.Module:
    """Maxout of so many pieces, or of one, a ReLU."""
    return Maxout(pieces) if pieces > 1 else nn.ReLU()


@torch.no_grad()
def initialise(network: nn.Module, *, pieces: int = 1, output_gain: float = 0.0) -> None:
    """Glorot's uniform weights, for each linear piece of a unit as if it were alone; the last
    layer's times `output_gain`, at 0 so that training starts from predicting nothing. With He's,
    larger by a root of two a layer, the first steps diverge."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]
    *hidden, output = layers
    for layer in hidden:
        for piece in range(pieces):
            nn.init.xavier_uniform_(layer.weight[piece::pieces])
    nn.init.xavier_uniform_(output.weight, gain=output_gain)
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def last_layer(network: nn.Module) -> str:
    """The name of the last layer, whose outputs are the embedding."""
    layers = [n for n, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    return layers[-1]


def one_of(name: str, value: str, expected: Sequence[str]) -> None:
    """InputError unless the option `name` has one of the expected values."""
    if value not in expected:
        raise InputError(f"{name}={value}: expected {' or '.join(expected)}")
