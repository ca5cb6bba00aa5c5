"""The network of van den Oord, Dieleman and Schrauwen (2013)."""

from collections.abc import Sequence

import torch
from torch import nn

from cbmr.encoder.layers import dense_layers, field_over, initialise
from cbmr.errors import InputError


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
        self.positions = length
        self.window = nn.Sequential(
            nn.Conv1d(mels, first, self.WIDTH),
            nn.ReLU(),
            nn.MaxPool1d(self.POOLS[0]),
            nn.Conv1d(first, second, self.WIDTH),
            nn.ReLU(),
            nn.MaxPool1d(self.POOLS[1]),
            nn.Flatten(),
            *dense_layers((second * length, hidden, embedding_size), dropout),
        )
        initialise(self)

    def layers(self) -> dict[str, nn.Module]:
        """What puts out each layer's activations, of every window; a convolution's after its
        pooling."""
        return {
            "convolution1": self.window[2], "convolution2": self.window[5],
            "dense1": self.window[8], "output": self,
        }  # fmt: skip

    def fields(self) -> dict[str, tuple[int, int]]:
        """Of the layers over time: how many frames apart their positions begin, and how many each
        sees; within a window, but for `dense1`, whose positions are the windows."""
        first, second = self.POOLS
        one = field_over(field_over((1, 1), self.WIDTH), first, first)
        two = field_over(field_over(one, self.WIDTH), second, second)
        whole = field_over(two, self.positions)
        return {
            "convolution1": one, "convolution2": two, "dense1": (self.window_frames, whole[1])
        }  # fmt: skip

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Standardised log-mels `[batch, mels, frames]` to `[batch, embedding_size]`."""
        windows = logmel.unfold(2, self.window_frames, self.window_frames).transpose(1, 2)
        batch, count = windows.shape[:2]
        predicted = self.window(windows.flatten(0, 1)).unflatten(0, (batch, count))
        whole = (frames // self.window_frames).clamp(1, count)
        mask = torch.arange(count, device=frames.device) < whole[:, None]
        return (predicted * mask[:, :, None]).sum(dim=1) / whole[:, None]
