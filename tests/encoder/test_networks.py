"""What is each network's own: shapes, parameters, options."""

import numpy as np
import pytest
import torch
from torch import nn

from cbmr.encoder import ENCODERS, Nips2013, Residual, Spotify2014, Vector
from cbmr.errors import InputError

SMALL = {"channels": [8, 8, 12, 12], "hidden": 16}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def layers_of(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]


# --- the 2014 network ---------------------------------------------------------------------------


def test_the_2014_network_has_the_articles_parameters():
    network = Spotify2014(128, 40)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers_of(network)]
    assert counts == [131_328, 262_400, 524_800, 1_049_088, 3_147_776, 4_196_352, 81_960]
    assert parameters(network) == 9_393_704


def test_the_2014_network_has_the_articles_shapes():
    network = Spotify2014(128, 40)
    lengths = []
    for pair in zip(network.convolutions, network.pools, strict=True):
        for layer in pair:
            layer.register_forward_hook(lambda _, __, out: lengths.append(out.shape[2]))
    pooled = []
    network.dense.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].shape[1]))
    network(torch.zeros(1, 128, 599), torch.tensor([599]))
    assert lengths == [596, 149, 146, 73, 70, 35, 32, 32]
    assert pooled == [1536]
    assert network.least_frames == 103


def test_maxout_multiplies_all_but_the_last_layer():
    """Three pieces: three times the rows of every layer but the last."""
    plain, maxout = (
        Spotify2014(16, 5, **SMALL),
        Spotify2014(16, 5, **SMALL, activation="maxout", pieces=3),
    )
    last = parameters(plain.dense[-1])
    assert parameters(maxout) == 3 * (parameters(plain) - last) + last


def test_each_piece_of_maxout_is_initialised_as_if_it_were_alone():
    network = Spotify2014(64, 5, channels=[64], pools=[4], activation="maxout", pieces=4)
    bound = np.sqrt(6 / (64 * 4 + 64 * 4))
    largest = network.convolutions[0].weight.abs().amax(dim=(1, 2))
    assert largest.max() <= bound
    assert largest.min() > 0.9 * bound


def test_bypass_shows_every_convolution_to_the_dense_part():
    network = Spotify2014(128, 40, bypass=True)
    assert network.dense[0].in_features == 4608
    small = Spotify2014(16, 5, **SMALL, bypass=True)
    seen = []
    small.dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logmel = torch.rand(1, 16, 150)
    small(logmel, torch.tensor([150]))
    first = small.pools[0](small.convolutions[0](logmel).relu())
    torch.testing.assert_close(seen[0][:, :8], first.mean(dim=2))


def test_unit_output_has_length_one_from_the_first_step_on():
    """The last layer does not start at zero, where there is no direction."""
    network = Spotify2014(16, 5, **SMALL, unit_output=True)
    out = network(torch.randn(6, 16, 150), torch.full((6,), 150))
    torch.testing.assert_close(out.norm(dim=1), torch.ones(6))
    target = nn.functional.normalize(torch.randn(6, 5), dim=1)
    error = (out - target).square().sum(dim=1)
    torch.testing.assert_close(error, 2 - 2 * (out * target).sum(dim=1))
    error.sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())
    with torch.no_grad():
        for parameter in network.dense[-1].parameters():
            parameter.zero_()
    assert not network(torch.randn(2, 16, 150), torch.full((2,), 150)).any()  # z / eps, z being 0


def test_encoders_start_from_predicting_nothing():
    for name, network in ENCODERS.items():
        out = network(16, 5)(torch.randn(2, 16, 200), torch.full((2,), 200))
        assert not out.any(), name


@pytest.mark.parametrize(
    ("channels", "pools", "least", "hidden"),
    [([8] * 5, [4, 2, 2, 1, 1], 151, 7), ([8] * 6, [4, 2, 2, 1, 1, 1], 199, 8)],
)
def test_more_layers(channels, pools, least, hidden):
    """So many hidden layers; and of `least` frames exactly one position is left at the end."""
    network = Spotify2014(16, 5, channels=channels, pools=pools, hidden=8)
    assert len(layers_of(network)) - 1 == hidden
    assert network.least_frames == least
    lengths = []
    network.pools[-1].register_forward_hook(lambda _, __, out: lengths.append(out.shape[2]))
    network(torch.rand(1, 16, least), torch.tensor([least]))
    assert lengths == [1]
    with pytest.raises(RuntimeError, match="size"):
        network(torch.rand(1, 16, least - 1), torch.tensor([least - 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "activation=tanh: expected relu or maxout"),
        ({"pooling": "mean"}, "pooling=mean: expected max or stochastic"),
        ({"l2_pool": "sum"}, "l2_pool=sum: expected rms or norm"),
        ({"activation": "maxout", "pooling": "stochastic"}, "expected activation=relu with it"),
        ({"activation": "maxout", "pieces": 1}, "pieces=1: expected at least 2"),
        ({"pools": [4, 2]}, r"pools=\[4, 2\]: expected 4 numbers of at least 1"),
        ({"pools": [4, 2, 0, 1]}, r"pools=\[4, 2, 0, 1\]: expected 4 numbers of at least 1"),
        ({"channels": []}, "expected 0 numbers|channels"),
        ({"dropout": 1.5}, "dropout=1.5: expected at least 0 and below 1"),
    ],
)
def test_an_option_that_cannot_be_is_explained(options, message):
    with pytest.raises(InputError, match=message):
        Spotify2014(16, 5, **options)


# --- the others ---------------------------------------------------------------------------------


def test_the_residual_network_is_small_and_pools_what_it_says():
    """Of `least_frames` exactly two positions are left at the end, and no convolution pads."""
    network = Residual(128, 40)
    assert parameters(network) == 2_162_856
    assert network.least_frames == 147
    lengths = []
    network.blocks[-1].register_forward_hook(lambda _, __, out: lengths.append(out.shape[2]))
    network.eval()(torch.rand(1, 128, 147), torch.tensor([147]))
    assert lengths == [2]
    assert all(layer.padding == (0,) for layer in layers_of(network) if hasattr(layer, "padding"))


def test_a_residual_block_starts_as_its_shortcut():
    block = Residual(16, 5, channels=[6], hidden=8).blocks[0]
    activation = torch.rand(2, 6, 10)
    assert torch.equal(block(activation), activation[:, :, 2:-2])


def test_vectors_of_a_track_count_by_their_mean():
    network = Vector(16, 5, hidden=[8]).eval()
    nn.init.normal_(network.dense[-1].weight)
    vectors = torch.randn(1, 16, 3)
    several = network(vectors, torch.tensor([2]))
    one = network(vectors[:, :, :2].mean(dim=2, keepdim=True), torch.tensor([1]))
    torch.testing.assert_close(several, one)


def test_sizes_that_cannot_be_are_explained():
    with pytest.raises(InputError, match=r"channels=\[\]"):
        Residual(16, 5, channels=[])
    with pytest.raises(InputError, match="window_frames=8: too short"):
        Nips2013(16, 5, window_frames=8)
