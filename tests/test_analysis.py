"""What the network learned: its filters, what its units react to, and maps of the tracks."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.image import imread

from cbmr.analysis import (
    OVER_TIME,
    Groups,
    Strongest,
    check_units,
    draw_close_up,
    draw_filters,
    draw_maps,
    filter_strip,
    first_filters,
    groups_of,
    make_cards,
    moment_s,
    most_selective,
    place,
    selectivity,
    sound_at_peaks,
    strongest,
    strongest_tracks,
    usage_patterns,
    write_units,
)
from cbmr.corpus import make_corpus
from cbmr.embed import layer_activations
from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.features import FeatureStore
from cbmr.logmel import MelSpec
from cbmr.spectrograms import SpectrogramStore
from tests.conftest import tone, write_wav
from tests.test_embed import make
from tests.test_spectrograms import SPEC, build

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


# --- units --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Seven clips of 3.4 to 4 s, none so short that the network has it looped."""
    folder = tmp_path_factory.mktemp("units")
    paths = [
        write_wav(folder / f"t{row}.wav", tone(seconds, 150 * (row + 1), 8_000, row), 8_000)
        for row, seconds in enumerate((4.0, 3.6, 4.0, 3.4, 4.0, 3.6, 4.0))
    ]
    build(folder / "store", paths)
    return SpectrogramStore(folder / "store")


def scaled(store, row):
    """What a network of `make` is given of one track."""
    real = store[np.array([row])][:, :, : store.frames[row]]
    return (torch.from_numpy(real).float() - 3) / 2


def test_the_strongest_tracks_are_those_of_a_plain_loop(store, monkeypatch):
    """Track by track and unit by unit: the highest maximum and mean, and the first frame of the
    position that has the maximum. Batches are of two, so that lists are merged."""
    monkeypatch.setattr("cbmr.embed.BATCH", 2)
    encoder = make("spotify2014")
    found = strongest_tracks(encoder, store, ["convolution2", "dense2"], n=3)
    network, table = encoder.network, []
    for row in range(7):
        with torch.no_grad():
            first = network.pools[0](network.convolutions[0](scaled(store, row)).relu())
            second = network.pools[1](network.convolutions[1](first).relu())[0].numpy()
        table.append([(max(unit), sum(unit) / len(unit), list(unit).index(max(unit)))
                      for unit in second])  # fmt: skip
    for unit in range(8):
        for by, what in enumerate(OVER_TIME):
            order = sorted(range(7), key=lambda row: -table[row][unit][by])[:3]
            of = found["convolution2"][what]
            assert of.rows[unit].tolist() == order
            np.testing.assert_allclose(
                of.values[unit], [table[row][unit][by] for row in order], rtol=1e-4, atol=1e-6
            )
            # Two positions of the second convolution begin 4 * 2 frames apart.
            assert of.starts[unit].tolist() == [8 * table[row][unit][2] for row in order]
    (dense,) = found["dense2"].values()
    said = layer_activations(encoder, store, "dense2")
    assert dense.rows.shape == (20, 3) and (dense.starts == -1).all()
    for unit in range(20):
        np.testing.assert_allclose(
            dense.values[unit], sorted(-said[:, unit])[:3] * -np.ones(3), atol=1e-5
        )


def test_the_peak_of_a_clip_that_is_looped_is_within_it(store):
    """Five convolutions need 215 frames and clips have 105 to 124, so each is heard about twice."""
    arguments = {"mels": 16, "embedding_size": 4, "channels": [8] * 5, "pools": [4, 2, 2, 2, 1]}
    encoder = Encoder("spotify2014", arguments, SPEC, torch.full((16,), 3.0), torch.ones(16)).eval()
    assert encoder.network.least_frames == 215
    found = strongest_tracks(encoder, store, ["convolution1"], n=7)["convolution1"]["maximum"]
    assert (found.starts < store.frames[found.rows]).all() and found.starts.max() > 90


def test_a_unit_of_a_layer_that_is_not_there_is_refused(store):
    encoder = make("spotify2014")
    check_units(encoder, store, ["convolution1", "dense1"], [0, 7])
    with pytest.raises(InputError, match="layer=conv1: spotify2014 has convolution1"):
        check_units(encoder, store, ["conv1"], [])
    with pytest.raises(InputError, match=r"units=\[8\]: convolution1 has 8 units: .* from 0 to 7"):
        check_units(encoder, store, ["dense1", "convolution1"], [8])
    assert not any(layer._forward_hooks for layer in encoder.network.modules())


@pytest.fixture(scope="module")
def burst(tmp_path_factory):
    """Ten seconds of near silence with a burst of .1 s at 5.2 s; the store has the middle 4 s, so
    what is heard begins at 3 s. A second track has its burst at 6.4 s, and a third one none."""
    folder = tmp_path_factory.mktemp("burst")
    rng = np.random.default_rng(0)
    paths = []
    for row, at_s in enumerate((5.2, 6.4, None)):
        samples = 1e-3 * rng.standard_normal(80_000)
        if at_s is not None:
            samples[round(at_s * 8_000) : round((at_s + 0.1) * 8_000)] *= 300
        paths.append(write_wav(folder / f"t{row}.wav", samples, 8_000))
    build(folder / "store", paths)
    tracks = {"track_id": ["t2", "t1", "t0"], "path": ["t2.wav", "t1.wav", "t0.wav"]}
    corpus = make_corpus(folder, pl.DataFrame({**tracks, "artist": ["a", "a", "b"]}))
    return SpectrogramStore(folder / "store"), corpus


@pytest.mark.parametrize(
    "name, layer",
    [("spotify2014", "convolution1"), ("spotify2014", "convolution3"), ("residual", "block1"),
     ("nips2013", "convolution1"), ("nips2013", "dense1")],
)  # fmt: skip
def test_the_moment_of_a_peak_is_when_the_burst_is_heard(burst, name, layer):
    """All weights are positive, so every unit reacts most to what is loudest: the frames that it
    sees from its moment on hold the burst."""
    store, corpus = burst
    encoder = make(name)
    for weights in encoder.network.parameters():
        weights.data = weights.data.abs() + 0.01
    cards = make_cards(encoder, store, corpus, strongest_tracks(encoder, store, [layer]), [0, 3])
    assert [(card.layer, card.unit) for card in cards] == [(layer, 0), (layer, 3)]
    sees_s = (encoder.network.fields()[layer][1] - 1) * 256 / 8_000 + 512 / 8_000
    for card in cards:
        assert [tracks.by for tracks in card.lists] == [*OVER_TIME]
        for tracks in card.lists:
            moments = dict(zip(tracks.rows.tolist(), tracks.moments_s.tolist(), strict=True))
            for row, at_s in ((2, 5.2), (1, 6.4)):  # the corpus has them in another order
                assert moments[row] - 0.01 <= at_s and at_s + 0.1 <= moments[row] + sees_s + 0.04
        assert set(card.lists[0].rows[:2].tolist()) == {1, 2}


def test_tracks_that_come_as_vectors_have_lists_but_neither_moments_nor_pictures(tmp_path):
    features = np.random.default_rng(0).standard_normal((5, 6))
    track_ids = np.array([f"t{row}" for row in range(5)])
    np.savez(tmp_path / "features.npz", track_ids=track_ids, features=features)
    tracks = pl.DataFrame({"track_id": track_ids.tolist(), "path": ["no audio"] * 5})
    corpus = make_corpus(tmp_path, tracks)
    arguments = {"mels": 6, "embedding_size": 4, "hidden": [8]}
    encoder = Encoder("vector", arguments, None, torch.zeros(6), torch.ones(6)).eval()
    store = FeatureStore(corpus)
    found = strongest_tracks(encoder, store, ["dense1"], n=2)
    cards = make_cards(encoder, store, corpus, found, [0, 7])
    for card in cards:
        assert card.filter is None and card.heard is None
        (tracks,) = card.lists
        assert np.isnan(tracks.moments_s).all() and len(tracks.rows) <= 2
    page = tmp_path / "units.html"
    write_units(page, corpus, cards)
    assert "no%20audio" in page.read_text()


def test_moments_are_of_the_track_not_of_its_excerpt():
    """Frame 40 at 256 samples of 8,000 a second is 1.28 s into the excerpt, which began at 3 s."""
    assert moment_s(SPEC, 40, 3.0) == pytest.approx(4.28)


def test_what_a_unit_saw_at_its_peaks_is_the_mean_of_its_frames(store):
    encoder = make("spotify2014")
    seen = sound_at_peaks(encoder, store, "convolution1", np.array([0, 3]), np.array([8, 20]))
    expected = (scaled(store, 0)[0, :, 8:15] + scaled(store, 3)[0, :, 20:27]) / 2
    np.testing.assert_allclose(seen, expected, atol=1e-4)


def test_a_card_has_its_filter_and_a_file_that_is_gone_no_moment(burst, monkeypatch):
    store, corpus = burst
    encoder = make("spotify2014")
    found = strongest_tracks(encoder, store, ["convolution1", "dense1"])
    corpus.audio_path(0).rename(corpus.folder / "moved.wav")
    try:
        first, dense = make_cards(encoder, store, corpus, found, [5])
    finally:
        (corpus.folder / "moved.wav").rename(corpus.audio_path(0))
    weights = first_filters(encoder)
    np.testing.assert_allclose(first.filter, weights[5] / np.abs(weights).max())
    assert first.heard.shape == (16, 7) and np.abs(first.heard).max() == 1
    moments = dict(zip(first.lists[0].rows, first.lists[0].moments_s, strict=True))
    assert [np.isnan(moments[row]) for row in sorted(moments)] == [
        row == 0 for row in sorted(moments)
    ]
    assert dense.filter is None and dense.heard is None
    assert np.isnan(dense.lists[0].moments_s).all()


def test_selectivity_is_a_share_of_the_list_beside_that_of_all_tracks():
    """Of ten tracks two are polkas, and both are among the three of the list."""
    of = np.array([0, 0, 0, 0, 0, 0, 1, 1, -1, -1])
    groups = Groups("style", ("waltz", "polka"), of)
    found = selectivity(groups, np.array([6, 7, 0]))
    assert (found.value, found.share, found.share_of_all) == ("polka", 2 / 3, 0.2)
    assert selectivity(groups, np.array([8, 9])) is None


def test_the_most_selective_units_come_first_and_silent_ones_never():
    """Polkas are 2 of 10: unit 2 has both among two, .8 above their share; unit 0 has two waltzes,
    .4 above theirs; unit 3 reacts to one polka alone, 1/2 - .2; unit 1 to nothing."""
    groups = Groups("style", ("waltz", "polka"), np.array([0] * 6 + [1] * 2 + [-1] * 2))
    rows = np.array([[0, 1], [0, 1], [7, 6], [6, 0]])
    values = np.array([[1, 1], [0, 0], [2, 1], [1, 0]])
    tracks = Strongest(rows, values, np.zeros((4, 2), dtype=int))
    assert most_selective(dict.fromkeys(OVER_TIME, tracks), [groups]) == [2, 0, 3]
    assert most_selective(dict.fromkeys(OVER_TIME, tracks), [groups], 1) == [2]
    assert most_selective(dict.fromkeys(OVER_TIME, tracks), []) == [0, 2, 3]


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
