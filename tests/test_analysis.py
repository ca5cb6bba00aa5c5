"""What the network learned: its filters."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from cbmr.analysis import draw_close_up, draw_filters, filter_strip, first_filters, strongest
from cbmr.errors import InputError
from cbmr.logmel import MelSpec
from tests.test_embed import make
from tests.test_spectrograms import SPEC

# --- filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spotify2014", "nips2013", "residual"])
def test_filters_are_the_first_convolutions_weights(name):
    encoder = make(name)
    filters = first_filters(encoder)
    assert filters.shape == (8, 16, 4)
    heard = torch.nn.functional.conv1d(
        torch.eye(16)[:, :, None].repeat(1, 1, 4), torch.tensor(filters)
    )
    # A clip in which one band alone sounds is answered by that band's row of weights.
    np.testing.assert_allclose(heard[3, :, 0], filters[:, 3].sum(axis=1), atol=1e-6)


def test_a_network_without_convolutions_has_no_filters():
    with pytest.raises(InputError, match="encoder=vector has no convolution"):
        first_filters(make("vector"))


def test_the_strip_has_filters_side_by_side_with_one_column_between():
    """Two bands, frames 1 2 | 5 6 over 3 4 | 7 8: time runs across, bands go down."""
    filters = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], dtype=np.float32)
    nan = np.nan
    np.testing.assert_array_equal(filter_strip(filters), [[1, 2, nan, 5, 6], [3, 4, nan, 7, 8]])


def test_the_strongest_filters_have_the_largest_norms():
    filters = np.zeros((4, 2, 1), dtype=np.float32)
    filters[:, 0, 0] = (1, -5, 0, 3)
    assert strongest(filters, 2) == [1, 3]


def test_the_picture_is_red_white_and_blue_with_dark_red_between(tmp_path):
    """Three filters that are -1, 0 and 1/2 in the lowest band alone. In the picture, from left to
    right: red, dark red, white, dark red, half way to blue, at the top; white below."""
    filters = np.zeros((3, 16, 1), dtype=np.float32)
    filters[:, 0, 0] = (-1, 0, 0.5)
    draw_filters(filters, SPEC, tmp_path / "filters.png")
    pixels = np.round(imread(tmp_path / "filters.png")[:, :, :3] * 255).astype(int)
    dark_red = (pixels == (0x6E, 0, 0x10)).all(axis=2)
    rows, columns = np.flatnonzero(dark_red.any(axis=1)), np.flatnonzero(dark_red.any(axis=0))
    cell = len(columns) // 2
    assert len(columns) == 2 * cell and len(rows) == 16 * cell
    middle = columns[:cell].mean()
    across = [int(middle + at * cell) for at in (-1, 0, 1, 2, 3)]
    top, below = rows[0] + cell // 2, rows[0] + cell + cell // 2
    red, lined, white, _, bluish = pixels[top, across]
    assert red.tolist() == [0xD6, 0, 0x1C] and white.tolist() == [255, 255, 255]
    assert lined.tolist() == [0x6E, 0, 0x10]
    np.testing.assert_allclose(bluish, (255 + np.array([0x0B, 0x4A, 0xB8])) / 2, atol=2)
    assert (pixels[below, across][::2] == 255).all()


def test_a_close_up_is_of_filters_that_there_are(tmp_path):
    filters = np.random.default_rng(0).standard_normal((5, 16, 4)).astype(np.float32)
    draw_close_up(filters, [4, 0], SPEC, tmp_path / "close.png")
    assert imread(tmp_path / "close.png").shape[0] > 600
    with pytest.raises(InputError, match="5 is no filter of the first layer"):
        draw_close_up(filters, [1, 5], MelSpec(), tmp_path / "close.png")
