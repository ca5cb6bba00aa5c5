"""Vectors and activations of a whole store, against the network called by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cbmr.embed import embed_file, embed_store, layer_activations
from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.spectrograms import SpectrogramStore
from tests.conftest import tone, write_wav
from tests.test_spectrograms import SPEC, build

NETWORKS = {
    "spotify2014": {"channels": [8, 8, 12, 12], "hidden": 20},
    "nips2013": {"channels": [8, 6], "hidden": 20, "window_frames": 40},
    "residual": {"channels": [8, 8], "hidden": 20},
    "vector": {"hidden": [20, 10]},
}
LAYERS = {
    "spotify2014": {"convolution1": 16, "convolution2": 16, "convolution3": 24, "convolution4": 24,
                    "pooled": 36, "dense1": 20, "dense2": 20, "output": 5},
    "nips2013": {"convolution1": 16, "convolution2": 12, "dense1": 20, "output": 5},
    "residual": {"stem": 16, "block1": 16, "block2": 16, "pooled": 24, "dense1": 20, "output": 5},
    "vector": {"dense1": 20, "dense2": 10, "output": 5},
}  # fmt: skip


def make(name):
    torch.manual_seed(0)
    arguments = {"mels": SPEC.mels, "embedding_size": 5, **NETWORKS[name]}
    encoder = Encoder(name, arguments, SPEC, torch.full((16,), 3.0), torch.full((16,), 2.0))
    *_, output = (m for m in encoder.modules() if isinstance(m, torch.nn.Linear))
    torch.nn.init.normal_(output.weight)
    return encoder.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four clips, one of them shorter than the others."""
    folder = tmp_path_factory.mktemp("embed")
    paths = [
        write_wav(folder / f"t{row}.wav", tone(seconds, 200 * (row + 1), 8_000, row), 8_000)
        for row, seconds in enumerate((4.0, 3.6, 4.0, 4.0))
    ]
    build(folder / "store", paths)
    return SpectrogramStore(folder / "store")


@pytest.fixture(params=list(NETWORKS))
def encoder(request):
    return make(request.param)


def test_every_layer_of_every_network_has_its_units(encoder, store):
    names = LAYERS[encoder.name]
    assert list(encoder.network.layers()) == list(names)
    for name, units in names.items():
        activations = layer_activations(encoder, store, name)
        assert activations.shape == (4, units)
        assert activations.dtype == np.float32
        assert len(np.unique(activations, axis=0)) == 4


def test_the_output_is_what_vectors_are_made_of(encoder, store):
    output = torch.from_numpy(layer_activations(encoder, store, "output"))
    vectors = embed_store(encoder, store).vectors
    np.testing.assert_allclose(F.normalize(output, dim=1).numpy(), vectors, atol=1e-5)


def test_a_convolution_is_heard_over_the_real_frames_alone(store):
    encoder = make("spotify2014")
    activations = layer_activations(encoder, store, "convolution1")
    for row, frames in enumerate(store.frames):
        real = (torch.from_numpy(store[np.array([row])][:, :, :frames]).float() - 3) / 2
        with torch.no_grad():
            heard = encoder.network.convolutions[0](real)[0].relu()
        pooled = heard[:, : heard.shape[1] // 4 * 4].unflatten(1, (-1, 4)).amax(dim=2)
        expected = torch.cat([pooled.mean(dim=1), pooled.amax(dim=1)])
        np.testing.assert_allclose(activations[row], expected.numpy(), atol=1e-5)


def test_where_a_network_looks_at_windows_all_of_them_count(store):
    """Window by window, as clips of their own."""
    encoder = make("nips2013")
    activations = {
        name: layer_activations(encoder, store, name) for name in encoder.network.layers()
    }
    scaled = (torch.from_numpy(store[np.array([0])]).float() - 3) / 2
    windows = [scaled[:, :, start : start + 40] for start in (0, 40, 80)]
    with torch.no_grad():
        convolved = [encoder.network.window[:3](window)[0] for window in windows]
        dense = [encoder.network.window[:9](window)[0] for window in windows]
    together = torch.cat(convolved, dim=1)
    expected = torch.cat([together.mean(dim=1), together.amax(dim=1)])
    np.testing.assert_allclose(activations["convolution1"][0], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        activations["dense1"][0], torch.stack(dense).mean(dim=0).numpy(), atol=1e-5
    )


def test_a_layer_that_is_not_there_is_told_from_those_that_are(store):
    with pytest.raises(InputError, match="layer=conv1: residual has stem, block1, block2, pooled"):
        layer_activations(make("residual"), store, "conv1")


def test_a_track_of_several_excerpts_is_the_direction_of_their_mean(tmp_path):
    """Against one-excerpt stores of the excerpts as files of their own; and a file outside the
    store, read by the same plan, gives the same vector."""
    encoder = make("spotify2014")
    parts = [tone(4, hz, 8_000) for hz in (300, 900, 2700)]
    whole = write_wav(tmp_path / "whole.wav", np.concatenate(parts), 8_000)
    short = write_wav(tmp_path / "short.wav", tone(3.5, 440, 8_000), 8_000)
    files = [write_wav(tmp_path / f"part{n}.wav", part, 8_000) for n, part in enumerate(parts)]
    build(tmp_path / "apart", [*files, short])
    build(tmp_path / "together", [short, whole], excerpts=3)
    apart = embed_store(encoder, SpectrogramStore(tmp_path / "apart")).vectors
    vectors = embed_store(encoder, SpectrogramStore(tmp_path / "together")).vectors
    mean = apart[:3].mean(axis=0)
    assert np.linalg.norm(mean) < 0.999
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(vectors[0], apart[3], atol=1e-5)
    for row, file in enumerate((short, whole)):
        vector = embed_file(encoder, file, excerpt_s=4.0, excerpts=3)
        np.testing.assert_allclose(vector, vectors[row], atol=1e-5)
