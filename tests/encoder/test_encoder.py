"""Encoders: the article's shapes and counts, what all of them keep, and their file."""

import numpy as np
import pytest
import torch

from cbmr.encoder import (
    ENCODERS,
    KEYS,
    Encoder,
    Spotify2014,
    global_pool,
    load_encoder,
    save_encoder,
)
from cbmr.errors import InputError
from cbmr.logmel import MelSpec

SPEC = MelSpec(mels=16)
SMALL = {
    "spotify2014": {"channels": [8, 8, 12, 12], "hidden": 16},
    "nips2013": {"channels": [8, 8], "hidden": 16},
}


def make(name, **changed):
    torch.manual_seed(0)
    arguments = {"mels": 16, "embedding_size": 5, **SMALL[name], **changed}
    encoder = Encoder(name, arguments, SPEC, torch.full((16,), 2.0), torch.full((16,), 3.0))
    for parameter in encoder.parameters():  # the last layer starts at zero, which hides much
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder.eval()


@pytest.fixture(params=list(ENCODERS))
def encoder(request):
    return make(request.param)


def test_every_encoder_is_tested():
    assert set(SMALL) == set(ENCODERS)


def test_the_2014_network_has_the_articles_parameters():
    network = Spotify2014(128, 40)
    layers = [*network.convolutions, *(x for x in network.dense if isinstance(x, torch.nn.Linear))]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert counts == [131_328, 262_400, 524_800, 1_049_088, 3_147_776, 4_196_352, 81_960]
    assert sum(p.numel() for p in network.parameters()) == 9_393_704


def test_the_2014_network_has_the_articles_shapes():
    network = Spotify2014(128, 40)
    lengths = []
    for convolution in network.convolutions:
        convolution.register_forward_hook(lambda _, __, out: lengths.append(out.shape[2]))
    pooled = []
    network.dense.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].shape[1]))
    network(torch.zeros(1, 128, 599), torch.tensor([599]))
    assert lengths == [596, 146, 70, 32]
    assert [length // pool for length, pool in zip(lengths, network.POOLS, strict=True)] == [
        149, 73, 35, 32,
    ]  # fmt: skip
    assert pooled == [1536]


def test_global_pool_against_a_loop():
    activation, reached = torch.rand(3, 4, 9), torch.tensor([9, 4, 0])
    for item, count in enumerate((9, 4, 1)):
        real = activation[item, :, :count].numpy()
        expected = [real.mean(1), real.max(1), np.sqrt((real**2).mean(1) + 1e-8)]
        pooled = global_pool(activation, reached)[item].numpy()
        np.testing.assert_allclose(pooled, np.concatenate(expected), rtol=1e-5)


# --- what all of them keep ----------------------------------------------------------------------


def test_shapes_and_gradients(encoder):
    logmel = torch.rand(3, 16, 300).half()
    out = encoder(logmel, torch.tensor([300, 300, 140]))
    assert out.shape == (3, 5)
    assert out.dtype == torch.float32
    out.sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_padding_never_matters(encoder):
    """Clips from shorter than one receptive field to nearly full: whatever stands in the padding,
    the embedding is the same."""
    frames = torch.tensor([59, 103, 150, 299])
    logmel = torch.rand(4, 16, 300)
    padding = torch.arange(300) >= frames[:, None, None]
    zeros, noise = logmel.clone(), logmel.clone()
    zeros[padding.expand_as(zeros)] = 0.0
    noise[padding.expand_as(noise)] = 50.0
    torch.testing.assert_close(encoder(zeros, frames), encoder(noise, frames))


def test_a_clip_shorter_than_the_network_sees_is_looped(encoder):
    """40 frames embed as the same clip written out again and again does."""
    clip = torch.rand(1, 16, 40)
    again = clip.repeat(1, 1, 4)[:, :, : encoder.network.least_frames]
    torch.testing.assert_close(
        encoder(clip, torch.tensor([40])), encoder(again, torch.tensor([40]))
    )


def test_an_item_does_not_depend_on_its_batch(encoder):
    logmel, frames = torch.rand(4, 16, 300), torch.tensor([300, 80, 200, 300])
    together = encoder(logmel, frames)
    for item in range(4):
        alone = encoder(logmel[item : item + 1], frames[item : item + 1])
        torch.testing.assert_close(alone[0], together[item], rtol=1e-4, atol=1e-5)


def test_input_is_standardised_by_the_training_sets_scale(encoder):
    """Mean 2 and deviation 3: an encoder of scale 0 and 1 sees the same in (x - 2) / 3."""
    plain = Encoder(encoder.name, encoder.arguments, SPEC, torch.zeros(16), torch.ones(16)).eval()
    plain.network.load_state_dict(encoder.network.state_dict())
    logmel, frames = torch.rand(2, 16, 300), torch.tensor([300, 300])
    torch.testing.assert_close(
        encoder(logmel, frames), plain((logmel - 2) / 3, frames), rtol=1e-4, atol=1e-5
    )


def test_saving_and_loading_gives_equal_embeddings(encoder, tmp_path):
    save_encoder(tmp_path / "encoder.pt", encoder)
    loaded = load_encoder(tmp_path / "encoder.pt")
    logmel, frames = torch.rand(2, 16, 300), torch.tensor([300, 100])
    torch.testing.assert_close(loaded(logmel, frames), encoder(logmel, frames), rtol=0, atol=0)
    assert loaded.mel_spec == SPEC
    content = torch.load(tmp_path / "encoder.pt", weights_only=True)
    assert tuple(content) == KEYS
    assert set(content["state_dict"]) == set(dict(encoder.network.named_parameters()))


def test_saving_twice_gives_the_same_bytes(encoder, tmp_path):
    save_encoder(tmp_path / "a" / "encoder.pt", encoder)
    save_encoder(tmp_path / "b" / "encoder.pt", encoder)
    first, second = (tmp_path / name / "encoder.pt" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


# --- bad files ----------------------------------------------------------------------------------


def test_a_newer_format_a_checkpoint_and_damage_are_explained(tmp_path):
    path = tmp_path / "encoder.pt"
    save_encoder(path, make("spotify2014"))
    content = torch.load(path, weights_only=True)
    torch.save({**content, "format_version": 99}, path)
    with pytest.raises(InputError, match="has format 99, this cbmr reads 1"):
        load_encoder(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a cbmr encoder"):
        load_encoder(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="cut off or damaged"):
        load_encoder(path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    encoder = make("spotify2014")
    torch.nn.init.constant_(next(encoder.parameters()), float("nan"))
    with pytest.raises(InputError, match="diverged"):
        save_encoder(tmp_path / "encoder.pt", encoder)
    assert not list(tmp_path.iterdir())


def test_an_unknown_encoder_is_named():
    with pytest.raises(InputError, match="encoder=spotify2015: expected one of"):
        Encoder("spotify2015", {}, SPEC, torch.zeros(16), torch.ones(16))
