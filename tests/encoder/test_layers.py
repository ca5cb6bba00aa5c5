"""The networks' layers, against plain loops."""

import numpy as np
import pytest
import torch

from cbmr.encoder import Maxout, StochasticPool, global_pool
from cbmr.encoder.layers import dense_layers


@pytest.mark.parametrize("name", ["spotify2014", "nips2013", "residual"])
def test_a_field_is_what_the_gradient_reaches(name):
    """Weights and inputs are positive, so that nothing is cut off on the way. Over many clips and
    units a position then depends on the frames of its field, on no more and on no fewer."""
    from tests.test_embed import LAYERS, make

    torch.manual_seed(0)
    network = make(name).network
    for weights in network.parameters():
        weights.data = weights.data.abs() + 0.01
    fields, layers = network.fields(), network.layers()
    assert list(fields) == [layer for layer in LAYERS[name] if layer in fields]
    clips = torch.rand(48, 16, 40 if name == "nips2013" else 130, requires_grad=True)
    for layer, (stride, width) in fields.items():
        said = []
        with layers[layer].register_forward_hook(lambda _, __, out, said=said: said.append(out)):
            network(clips, torch.full((48,), clips.shape[2]))
        positions = said[0][..., None] if said[0].ndim == 2 else said[0]
        for at in {0, positions.shape[2] - 1}:
            (gradient,) = torch.autograd.grad(positions[:, :, at].sum(), clips, retain_graph=True)
            reached = gradient.abs().sum(dim=(0, 1)).nonzero()[:, 0].tolist()
            assert reached == list(range(at * stride, at * stride + width)), (layer, at)


def test_global_pool_against_a_loop():
    """Of activations of both signs, as maxout's are."""
    activation, reached = torch.randn(3, 4, 9), torch.tensor([9, 4, 0])
    for l2 in ("rms", "norm"):
        pooled = global_pool(activation, reached, l2=l2)
        for item, count in enumerate((9, 4, 1)):
            real = activation[item, :, :count].numpy()
            square = (real**2).mean(1) if l2 == "rms" else (real**2).sum(1)
            expected = [real.mean(1), real.max(1), np.sqrt(square + 1e-8)]
            np.testing.assert_allclose(
                pooled[item].numpy(), np.concatenate(expected), rtol=1e-4, atol=1e-6
            )


def test_the_norm_grows_with_the_length_and_the_root_mean_square_does_not():
    short = torch.rand(1, 2, 10)
    long = short.repeat(1, 1, 4)
    for l2, growth in (("rms", 1.0), ("norm", 2.0)):
        pooled = [global_pool(x, torch.tensor([x.shape[2]]), l2=l2)[0, 4:] for x in (short, long)]
        torch.testing.assert_close(pooled[1], growth * pooled[0], rtol=1e-4, atol=0)


def test_maxout_against_a_loop():
    """h_i = max_j (x W_ij + b_ij), unit i having the rows 3 i + j of the linear layer."""
    linear, inputs = torch.nn.Linear(5, 4 * 3), torch.randn(2, 5)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    out = Maxout(3)(linear(inputs)).detach().numpy()
    for item in range(2):
        for unit in range(4):
            pieces = [
                weight[3 * unit + piece] @ inputs[item].numpy() + bias[3 * unit + piece]
                for piece in range(3)
            ]
            assert out[item, unit] == pytest.approx(max(pieces), abs=1e-6)
    frames = torch.randn(2, 12, 7)
    each = torch.stack([Maxout(3)(frames[:, :, at]) for at in range(7)], dim=2)
    assert torch.equal(Maxout(3)(frames), each)


def test_dense_layers_end_in_a_linear_one():
    kinds = [type(layer).__name__ for layer in dense_layers((5, 4, 2), 0.5)]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear"]
    sizes = [layer.weight.shape for layer in dense_layers((5, 4, 2), 0.5, pieces=3)[::3]]
    assert sizes == [(12, 5), (2, 4)]


def test_stochastic_pooling_evaluates_to_the_expectation():
    activation = torch.rand(2, 3, 11).relu()  # the eleventh frame fits no window of 2
    activation[0, 0, :4] = 0.0
    out = StochasticPool(2).eval()(activation).numpy()
    assert out.shape == (2, 3, 5)
    for item, channel, window in np.ndindex(out.shape):
        a = activation[item, channel, 2 * window : 2 * window + 2].numpy()
        expected = sum(a * a / a.sum()) if a.sum() else 0.0
        assert out[item, channel, window] == pytest.approx(expected, abs=1e-6)
    example = torch.tensor([[[1.0, 3.0]]])
    assert StochasticPool(2).eval()(example).item() == pytest.approx(2.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stochastic_pooling_samples_one_activation_by_its_share(dtype):
    window = torch.tensor([1.0, 0.0, 2.0, 5.0])
    draws = 40_000
    out = StochasticPool(4).train()(window.repeat(draws).to(dtype)[None, None])
    assert out.dtype == dtype
    shares = torch.stack([(out == value).float().mean() for value in window])
    deviation = (window / 8 * (1 - window / 8) / draws).sqrt()
    assert ((shares - window / 8).abs() <= 4 * deviation).all()  # and the zero never
    expectation = StochasticPool(4).eval()(window[None, None]).item()
    assert out.float().mean().item() == pytest.approx(expectation, abs=0.04)


@pytest.mark.parametrize("training", [True, False])
def test_stochastic_pooling_of_zeros_is_zero_with_a_finite_gradient(training):
    activation = torch.zeros(1, 2, 8, requires_grad=True)
    out = StochasticPool(4).train(training)(activation)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(1, 2, 2))
    assert torch.isfinite(activation.grad).all()


def test_the_gradient_of_stochastic_pooling_goes_to_what_was_drawn():
    activation = torch.rand(1, 5, 12).requires_grad_()
    out = StochasticPool(3).train()(activation)
    (out.square().sum() / 2).backward()
    windows, gradient = (
        activation.detach().unflatten(2, (4, 3)),
        activation.grad.unflatten(2, (4, 3)),
    )
    drawn = windows == out[..., None]
    assert (drawn.sum(dim=3) == 1).all()
    assert torch.equal(gradient, windows * drawn)
