"""Random changes of log-mels, in the batch and on its device.

A batch is `logmel [batch, mels, frames]` with `frames [batch]`, the number of real frames of each.
"""

import torch


def random_crop(
    logmel: torch.Tensor, frames: torch.Tensor, *, crop_frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut each item to `crop_frames` at a random time of its own, within its real frames.

    An item with fewer real frames keeps them all. The article's augmentation: small random crops
    in time (Dieleman 2014).
    """
    crop_frames = min(crop_frames, logmel.shape[2])
    room = (frames - crop_frames).clamp_min(0)
    start = (torch.rand(len(room), device=room.device) * (room + 1)).long()
    at = start[:, None] + torch.arange(crop_frames, device=room.device)
    at = at[:, None, :].expand(-1, logmel.shape[1], -1)
    return logmel.gather(2, at), frames.clamp_max(crop_frames)
