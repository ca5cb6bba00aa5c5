"""What the networks are made of besides torch's own layers."""

import torch
from torch import nn


def global_pool(activation: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """Mean, maximum and root mean square over time of activations `[batch, channels, positions]`
    that are not negative, over the first `reached` `[batch]` positions: `[batch, 3 channels]`."""
    count = reached.clamp(1, activation.shape[2])
    mask = torch.arange(activation.shape[2], device=count.device) < count[:, None]
    real = activation * mask[:, None, :]
    mean = real.sum(dim=2) / count[:, None]
    mean_square = real.square().sum(dim=2) / count[:, None]
    return torch.cat([mean, real.amax(dim=2), (mean_square + 1e-8).sqrt()], dim=1)


def initialise(network: nn.Module) -> None:
    """Glorot's uniform weights; the last layer at zero, so that training starts from predicting
    nothing. With He's, larger by a root of two a layer, the first steps diverge."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(layers[-1].weight)
