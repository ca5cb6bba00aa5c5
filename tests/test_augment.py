"""Crops, stretches and masks: within the real frames, each item's own, and never out of padding."""

import numpy as np
import pytest
import torch

from cbmr.augment import WIDEST_SHARE, random_crop, random_mask, random_stretch
from cbmr.errors import InputError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_crops_are_within_the_real_frames_and_their_own_for_each():
    logmel = torch.arange(100.0).expand(64, 3, 100)
    frames = torch.tensor([100] * 32 + [50] * 16 + [20] * 16)
    cropped, kept = random_crop(logmel, frames, crop_frames=30)
    assert cropped.shape == (64, 3, 30)
    assert kept.tolist() == [30] * 48 + [20] * 16
    starts = cropped[:, 0, 0]
    assert len(starts[:32].unique()) > 15
    assert (cropped[:, 0].diff(dim=1) == 1).all()
    assert starts[:32].max() <= 70
    assert starts[32:48].max() <= 20
    assert not starts[48:].any()


def test_a_stretch_is_linear_interpolation_in_time():
    """The start fits in one place alone, so NumPy can say what comes out."""
    logmel = torch.rand(4, 3, 200)
    cases = ((1.25, 125, 100), (0.8, 81, 100), (1.25, 50, 40), (0.5, 1, 1))
    for speed, frames, expected in cases:
        out, kept = random_stretch(
            logmel, torch.full((4,), frames), crop_frames=100, slowest=speed, fastest=speed
        )
        assert out.shape == (4, 3, 100)
        assert kept.tolist() == [expected] * 4
        for item in range(4):
            for band in range(3):
                read = np.arange(expected) * speed
                real = logmel[item, band, :frames].numpy()
                np.testing.assert_allclose(
                    out[item, band, :expected].numpy(),
                    np.interp(read, np.arange(frames), real),
                    atol=1e-5,
                )


def test_a_stretch_never_reads_padding():
    """Whatever the speed and the start: the padding is NaN."""
    frames = torch.tensor([100, 60, 30, 1] * 16)
    logmel = torch.rand(64, 3, 100).half()
    logmel[(torch.arange(100) >= frames[:, None, None]).expand_as(logmel)] = torch.nan
    out, kept = random_stretch(logmel, frames, crop_frames=50, slowest=0.5, fastest=2.0)
    assert out.shape == (64, 3, 50)
    assert not out.isnan().any()
    assert kept.min() >= 1
    assert kept.max() <= 50


def test_speeds_and_starts_are_each_items_own():
    """A ramp of slope 1: the slope of what comes out is the speed, its first value the start."""
    logmel = torch.arange(400.0).expand(4000, 1, 400)
    out, kept = random_stretch(
        logmel, torch.full((4000,), 400), crop_frames=100, slowest=0.5, fastest=2.0
    )
    speed, start = (out[:, 0, 99] - out[:, 0, 0]) / 99, out[:, 0, 0]
    assert (kept == 100).all()
    assert speed.min() >= 0.5 - 1e-4
    assert speed.max() <= 2.0 + 1e-4
    assert abs(speed.log().mean()) < 0.05  # half are slower than the original
    assert abs(speed.log().std() - np.log(4) / np.sqrt(12)) < 0.02
    room = 399 - 99 * speed
    assert ((start >= 0) & (start <= room + 1e-3)).all()
    assert abs((start / room).mean() - 0.5) < 0.03


def test_a_stretch_at_the_original_speed_is_a_crop():
    logmel, frames = torch.rand(8, 3, 100), torch.tensor([100, 90, 80, 70, 60, 50, 20, 1])
    torch.manual_seed(3)
    cropped, kept = random_crop(logmel, frames, crop_frames=40)
    torch.manual_seed(3)
    out, kept_too = random_stretch(logmel, frames, crop_frames=40, slowest=1.0, fastest=1.0)
    assert kept_too.tolist() == kept.tolist()
    for item, count in enumerate(kept):
        assert torch.equal(out[item, :, :count], cropped[item, :, :count])


@pytest.mark.parametrize("speeds", [(1.2, 0.8), (0.0, 1.0)])
def test_a_range_of_speeds_the_wrong_way_round_is_refused(speeds):
    with pytest.raises(InputError, match="the slower first"):
        random_stretch(
            torch.rand(1, 3, 9), torch.tensor([9]), crop_frames=5,
            slowest=speeds[0], fastest=speeds[1],
        )  # fmt: skip


def masked(logmel, frames, **changed):
    sizes = {"time_masks": 0, "time_width": 30, "band_masks": 0, "band_width": 16, **changed}
    return random_mask(logmel, frames, band_mean=torch.arange(64.0) + 10, **sizes)


def test_masks_hide_runs_of_frames_or_bands_behind_the_bands_mean():
    logmel, frames = torch.rand(500, 64, 200), torch.full((500,), 200)
    mean = (torch.arange(64.0) + 10)[:, None]
    in_time = masked(logmel, frames, time_masks=1)
    in_bands = masked(logmel, frames, band_masks=1)
    for out, whole, extent, widest in ((in_time, 1, 200, 30), (in_bands, 2, 64, 16)):
        hidden = out != logmel
        assert torch.equal(out[hidden], mean.expand_as(out)[hidden])
        runs = hidden.any(dim=whole)
        assert torch.equal(runs, hidden.all(dim=whole))  # whole frames, or whole bands
        changes = runs.int().diff(dim=1, prepend=torch.zeros(500, 1), append=torch.zeros(500, 1))
        assert (changes.abs().sum(dim=1) <= 2).all()  # in one run
        width = runs.sum(dim=1)
        assert width.min() == 0
        assert width.max() == widest
        assert abs(width.float().mean() - widest / 2) < widest / 10
        assert runs.any(dim=0).sum() == extent  # anywhere


def test_masks_add_up_and_none_is_none():
    logmel, frames = torch.rand(50, 64, 200).half(), torch.full((50,), 200)
    assert torch.equal(masked(logmel, frames), logmel)
    out = masked(logmel, frames, time_masks=3, band_masks=2)
    assert out.dtype == torch.float16
    most = 200 * 64 - (200 - 3 * 30) * (64 - 2 * 16)
    assert 0 < ((out != logmel).sum(dim=(1, 2))).max() <= most


def test_masks_in_time_leave_most_of_a_short_clip_and_keep_out_of_padding():
    frames = torch.tensor([20] * 100 + [3] * 100)
    logmel = torch.rand(200, 64, 200)
    hidden = (masked(logmel, frames, time_masks=1) != logmel).any(dim=1)
    assert hidden[:100].sum(dim=1).max() == 20 * WIDEST_SHARE
    assert not hidden[100:].any()
    assert not hidden[:, 20:].any()
