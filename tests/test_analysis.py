"""What the network learned: its filters, and maps of the tracks."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.image import imread

from cbmr.analysis import (
    Groups,
    draw_close_up,
    draw_filters,
    draw_maps,
    filter_strip,
    first_filters,
    groups_of,
    place,
    strongest,
    usage_patterns,
)
from cbmr.corpus import make_corpus
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


# --- maps ---------------------------------------------------------------------------------------


def test_usage_patterns_have_the_distances_of_all_listeners_scores():
    """Against the plain definition: every listener's score of every track, a thousand numbers a
    track, compared by inner product, distance and cosine."""
    rng = np.random.default_rng(0)
    vectors, users = (
        rng.standard_normal((9, 6)),
        rng.standard_normal((1000, 6)) * (3, 2, 1, 1, 0.1, 0),
    )
    scores, patterns = vectors @ users.T, usage_patterns(vectors, users)
    assert patterns.shape == (9, 6)
    np.testing.assert_allclose(patterns @ patterns.T, scores @ scores.T, atol=1e-8)
    apart = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (scores, patterns)]
    np.testing.assert_allclose(*apart, atol=1e-6)
    cosines = [x @ x.T / np.outer(*2 * [np.linalg.norm(x, axis=1)]) for x in (scores, patterns)]
    np.testing.assert_allclose(*cosines, atol=1e-9)


def test_a_map_keeps_together_what_points_the_same_way():
    """Two camps: every track's nearest on the map is of its own camp, whatever its length."""
    rng = np.random.default_rng(0)
    camp = np.arange(40) % 2
    vectors = np.eye(8)[camp] + 0.1 * rng.standard_normal((40, 8))
    vectors *= rng.uniform(0.1, 10, size=(40, 1))
    steps = []
    places = place(vectors, rng_seed=1, progress=lambda done, total: steps.append((done, total)))
    assert steps[0] == (25, 750) and steps[-1] == (750, 750)
    assert places.shape == (40, 2) and np.abs(places).max() == pytest.approx(1)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(40)
    assert (camp[apart.argmin(axis=1)] == camp).all()
    np.testing.assert_array_equal(places, place(vectors, rng_seed=1))


def test_three_tracks_are_no_map():
    with pytest.raises(InputError, match="3 tracks have vectors: expected 4 or more"):
        place(np.eye(3))


def corpus_of(**columns):
    count = len(next(iter(columns.values())))
    table = {"track_id": [f"t{row}" for row in range(count)], "path": ["x.wav"] * count}
    return make_corpus(Path("corpus"), pl.DataFrame({**table, **columns}))


def test_groups_are_what_tracks_differ_in_the_largest_first():
    corpus = corpus_of(
        style=["a", "b", "b", ""], artist=["same"] * 4, split=["test", "train", "train", "train"]
    )
    style, split = groups_of(corpus, np.arange(4))
    assert (style.name, style.values, style.of.tolist()) == ("style", ("b", "a"), [1, 0, 0, -1])
    assert (split.values, split.ordered, split.of.tolist()) == (
        ("train", "test"),
        True,
        [1, 0, 0, 0],
    )
    assert [groups.name for groups in groups_of(corpus, np.array([1, 2]))] == []


@pytest.mark.parametrize(
    "released, values, of",
    [
        (["2001-05-01", "1999", None, "unknown"], ("1999", "2001"), [1, 0, -1, -1]),
        (["1969-01-01", "2001", "1962-12-31", ""], ("1960s", "2000s"), [0, 1, 0, -1]),
        ([1999, 2001, None, 1999], ("1999", "2001"), [0, 1, -1, 0]),
    ],
)
def test_years_are_told_one_by_one_or_by_decade(released, values, of):
    (year,) = groups_of(corpus_of(released=released), np.arange(4))
    assert (year.values, year.of.tolist(), year.ordered) == (values, of, True)


def test_labels_of_a_map_do_not_overlap(tmp_path, monkeypatch):
    """Forty groups in a heap: whatever is written lies on nothing else that is."""
    import cbmr.analysis.map_picture as picture

    written = []
    moved = picture._move_to_free_place

    def move(panel, label, taken):
        free = moved(panel, label, taken)
        written.append(list(taken))
        return free

    monkeypatch.setattr(picture, "_move_to_free_place", move)
    rng = np.random.default_rng(0)
    places = rng.uniform(-0.3, 0.3, size=(200, 2))
    names = ("$not$ maths $", "夜 \U0010fffd", *(f"style {n}" for n in range(38)))
    groups = Groups("style", names, np.arange(200) % 40)
    draw_maps({"predicted factors": places}, groups, tmp_path / "map.png")
    boxes = written[-1]
    assert len(boxes) > 10
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:at])
    assert imread(tmp_path / "map.png").shape[1] == 1045
