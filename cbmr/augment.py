"""Random changes of log-mels, in the batch and on its device.

A batch is `logmel [batch, mels, frames]` with `frames [batch]`, the number of real frames of each.
Every item draws for itself, from torch's global generator; what stands in padding is never read.
"""

import torch

from cbmr.errors import InputError

WIDEST_SHARE = 0.2
"""Of an item's real frames, what one mask in time covers at most (p of Park et al. 2019), so that
short clips keep most of theirs."""


def augment(
    logmel: torch.Tensor,
    frames: torch.Tensor,
    *,
    band_mean: torch.Tensor,
    crop_frames: int,
    slowest: float = 1.0,
    fastest: float = 1.0,
    time_masks: int = 0,
    time_width: int = 20,
    band_masks: int = 0,
    band_width: int = 16,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random crop of each item, at a random speed where `slowest` and `fastest` leave room for
    one, with masks where there are any: the functions below, in this order."""
    if slowest == fastest == 1:
        logmel, frames = random_crop(logmel, frames, crop_frames=crop_frames)
    else:
        logmel, frames = random_stretch(
            logmel, frames, crop_frames=crop_frames, slowest=slowest, fastest=fastest
        )
    if time_masks or band_masks:
        logmel = random_mask(
            logmel,
            frames,
            band_mean=band_mean,
            time_masks=time_masks,
            time_width=time_width,
            band_masks=band_masks,
            band_width=band_width,
        )
    return logmel, frames


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


def random_stretch(
    logmel: torch.Tensor,
    frames: torch.Tensor,
    *,
    crop_frames: int,
    slowest: float,
    fastest: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`random_crop` at a random speed of its own for each item, its pitch unchanged: about
    `crop_frames * speed` real frames, resampled linearly in time to `crop_frames` float32 ones.

    Speeds are between `slowest` and `fastest`, their logarithm uniform: above 1 the sound is
    compressed in time, below 1 stretched. At 1.25, frames 0, 1.25, 2.5, ... after the start are
    read. An item with fewer real frames than that keeps all it has, so comes out the shorter the
    faster. One of the article's variations (Dieleman 2014); the range is ours to choose.
    """
    if not 0 < slowest <= fastest:
        raise InputError(
            f"slowest={slowest}, fastest={fastest}: expected two speeds above 0, the slower first"
        )
    crop_frames = min(crop_frames, logmel.shape[2])
    last = (frames - 1).clamp_min(0)
    start, speed = torch.rand(2, len(frames), device=frames.device)
    speed = slowest * (fastest / slowest) ** speed
    room = (last - (crop_frames - 1) * speed).clamp_min(0).floor()
    start = (start * (room + 1)).floor()
    kept = ((last - start) / speed).floor().long() + 1
    at = start[:, None] + torch.arange(crop_frames, device=frames.device) * speed[:, None]
    at = at.clamp_max(last[:, None])
    before = at.long()
    after = (before + 1).clamp_max(last[:, None])

    def read(place: torch.Tensor) -> torch.Tensor:
        return logmel.gather(2, place[:, None, :].expand(-1, logmel.shape[1], -1)).float()

    stretched = torch.lerp(read(before), read(after), (at - before)[:, None, :])
    return stretched, kept.clamp_max(crop_frames)


def random_mask(
    logmel: torch.Tensor,
    frames: torch.Tensor,
    *,
    band_mean: torch.Tensor,
    time_masks: int,
    time_width: int,
    band_masks: int,
    band_width: int,
) -> torch.Tensor:
    """SpecAugment's masks (Park et al. 2019, without its time warping): runs of up to `time_width`
    frames in all bands, and of up to `band_width` bands in all frames, are hidden.

    Widths are uniform from 0, places uniform where the whole mask fits. What is hidden becomes
    `band_mean` `[mels]`, the mean of each band over the training set, as in the paper, whose input
    has mean zero: standardised by the encoder it says nothing. A zero would say silence, and the
    item's own mean would still tell the level of a band that is meant to be hidden.
    """
    mels, widest = logmel.shape[1], (WIDEST_SHARE * frames).long().clamp_max(time_width)
    bands = torch.full_like(frames, mels)
    hidden_frames = _runs(logmel.shape[2], frames, masks=time_masks, widest=widest)
    hidden_bands = _runs(mels, bands, masks=band_masks, widest=bands.clamp_max(band_width))
    hidden = hidden_frames[:, None, :] | hidden_bands[:, :, None]
    return torch.where(hidden, band_mean.to(logmel.dtype)[:, None], logmel)


def _runs(size: int, extent: torch.Tensor, *, masks: int, widest: torch.Tensor) -> torch.Tensor:
    """Bool `[batch, size]`: so many `masks` of 0 to `widest` `[batch]` places within the first
    `extent` `[batch]`."""
    width, start = torch.rand(2, len(extent), masks, device=extent.device)
    width = (width * (widest[:, None] + 1)).long()
    start = (start * (extent[:, None] - width + 1)).long()
    at = torch.arange(size, device=extent.device)
    within = (at >= start[:, :, None]) & (at < (start + width)[:, :, None])
    return within.any(dim=1)
