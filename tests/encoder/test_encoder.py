"""What all encoders keep, whatever their network and its options; and their file."""

import pytest
import torch

from cbmr.encoder import (
    ENCODERS,
    KEYS,
    Encoder,
    begin_from,
    last_layer,
    load_encoder,
    mixture,
    save_encoder,
)
from cbmr.errors import InputError
from cbmr.logmel import MelSpec
from cbmr.losses import mixture_error

SPEC = MelSpec(mels=16)
SMALL = {"channels": [8, 8, 12, 12], "hidden": 16}
VARIANTS = {
    "spotify2014": ("spotify2014", SMALL),
    "maxout": ("spotify2014", {**SMALL, "activation": "maxout", "pieces": 3}),
    "stochastic": ("spotify2014", {**SMALL, "pooling": "stochastic"}),
    "unit output": ("spotify2014", {**SMALL, "unit_output": True}),
    "bypass": ("spotify2014", {**SMALL, "bypass": True}),
    "norm": ("spotify2014", {**SMALL, "l2_pool": "norm"}),
    "five convolutions": (
        "spotify2014",
        {"channels": [8, 8, 12, 12, 12], "pools": [4, 2, 2, 1, 1], "hidden": 16},
    ),
    "all but maxout": (
        "spotify2014",
        {**SMALL, "pooling": "stochastic", "unit_output": True, "bypass": True, "l2_pool": "norm"},
    ),
    "nips2013": ("nips2013", {"channels": [8, 8], "hidden": 16}),
    "residual": ("residual", {"channels": [8, 8, 12], "hidden": 16}),
    "vector": ("vector", {"hidden": [16]}),
}


def make(variant):
    torch.manual_seed(0)
    name, options = VARIANTS[variant]
    arguments = {"mels": 16, "embedding_size": 5, **options}
    encoder = Encoder(name, arguments, SPEC, torch.full((16,), 2.0), torch.full((16,), 3.0))
    for parameter in encoder.parameters():  # the last layer starts at zero, which hides much
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder.eval()


@pytest.fixture(params=list(VARIANTS))
def encoder(request):
    return make(request.param)


def test_every_encoder_is_tested():
    assert {name for name, _ in VARIANTS.values()} == set(ENCODERS)


# --- what all of them keep ----------------------------------------------------------------------


def test_shapes_and_a_gradient_for_every_parameter(encoder):
    """In training, where dropout and sampling are at work."""
    logmel = torch.rand(8, 16, 300).half()
    frames = torch.tensor([300] * 6 + [140, 40])
    out = encoder.train()(logmel, frames)
    assert out.shape == (8, 5)
    assert out.dtype == torch.float32
    (out * torch.randn(8, 5)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_a_batch_of_one_trains_and_embeds(encoder):
    """Shorter than the network sees."""
    logmel, frames = torch.rand(1, 16, 40), torch.tensor([40])
    assert encoder(logmel, frames).shape == (1, 5)
    out = encoder.train()(logmel, frames)
    out.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


def test_bfloat16_trains_and_is_near_float32(encoder):
    logmel, frames = torch.rand(4, 16, 300), torch.tensor([300, 300, 200, 40])
    exact = encoder(logmel, frames)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(logmel, frames).float()
        loss = encoder.train()(logmel, frames).float().square().sum()
    loss.backward()
    assert (rough - exact).norm() < 0.05 * exact.norm()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


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


def test_a_clip_embeds_the_same_in_a_batch_of_any_width(encoder):
    """Also a clip shorter than the network sees, and one cut short by its own width."""
    for frames in (40, 150, 299):
        logmel, count = torch.rand(1, 16, 400), torch.tensor([frames])
        wide, narrow = encoder(logmel, count), encoder(logmel[:, :, :frames], count)
        torch.testing.assert_close(wide, narrow, rtol=1e-4, atol=1e-5)


def test_a_clip_shorter_than_the_network_sees_is_looped(encoder):
    """40 frames embed as the same clip written out again and again does."""
    clip = torch.rand(1, 16, 40)
    again = clip.repeat(1, 1, 5)[:, :, : max(40, encoder.network.least_frames)]
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
    statistics = {name for name in content["state_dict"] if "running_" in name or "tracked" in name}
    parameters = set(dict(encoder.network.named_parameters()))
    assert set(content["state_dict"]) == parameters | statistics
    assert bool(statistics) == (encoder.name == "residual")


def test_saving_twice_gives_the_same_bytes(encoder, tmp_path):
    save_encoder(tmp_path / "a" / "encoder.pt", encoder)
    save_encoder(tmp_path / "b" / "encoder.pt", encoder)
    first, second = (tmp_path / name / "encoder.pt" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


# --- beginning from another ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_an_encoder_begins_from_another_but_for_the_last_layer(variant):
    """Another embedding size, a mixture, no dropout: the last layer stays as it was, all else is
    the other's to the bit, and what goes into the last layer is the same."""
    other = make(variant)
    name, options = VARIANTS[variant]
    arguments = {"mels": 16, "embedding_size": 3, **options, "dropout": 0.0, "components": 2}
    encoder = Encoder(name, arguments, SPEC, torch.zeros(16), torch.ones(16)).eval()
    last = last_layer(encoder.network)
    before = {key: value.clone() for key, value in encoder.network.state_dict().items()}
    begin_from(encoder, other)
    theirs, kept = other.network.state_dict(), []
    for key, value in encoder.network.state_dict().items():
        kept += [key] if key.startswith(last) else []
        assert torch.equal(value, before[key] if key in kept else theirs[key]), key
    assert kept == [f"{last}.weight", f"{last}.bias"]
    inputs = []
    for one in (encoder, other):
        hook = one.network.get_submodule(last).register_forward_pre_hook(
            lambda _, given: inputs.append(given[0])
        )
        one.predict(torch.ones(1, 16, 300).cumsum(dim=2).sin(), torch.tensor([300]))
        hook.remove()
    assert torch.equal(*inputs)


@pytest.mark.parametrize(
    ("name", "options", "spec", "message"),
    [
        ("residual", {"channels": [8]}, SPEC, "has encoder=spotify2014, .* has encoder=residual"),
        ("spotify2014", {**SMALL, "channels": [8, 8, 8, 8]}, SPEC, r"channels=\[8, 8, 12, 12\]"),
        ("spotify2014", {**SMALL, "l2_pool": "norm"}, SPEC, "has l2_pool=None, .* l2_pool=norm"),
        ("spotify2014", SMALL, MelSpec(mels=16, hop=512), "has hop=1102, .* has hop=512"),
    ],
)
def test_an_encoder_begins_from_no_other_network(name, options, spec, message):
    arguments = {"mels": 16, "embedding_size": 5, **options}
    encoder = Encoder(name, arguments, spec, torch.zeros(16), torch.ones(16))
    with pytest.raises(InputError, match=message):
        begin_from(encoder, make("spotify2014"))


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


# --- mixtures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_components_of_a_mixture_part(precision):
    """Were they the same at first, each would get the same gradient and none could ever differ."""
    torch.manual_seed(0)
    arguments = {"mels": 16, "embedding_size": 5, **SMALL, "components": 3}
    encoder = Encoder("spotify2014", arguments, SPEC, torch.zeros(16), torch.ones(16))
    last = encoder.network.get_submodule(last_layer(encoder.network))
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    target = torch.nn.functional.normalize(torch.randn(8, 5), dim=1)
    for _ in range(3):
        optimiser.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            predicted = encoder.predict(torch.randn(8, 16, 120), torch.full((8,), 120))
            mixture_error(*mixture(predicted, 3), target).backward()
        optimiser.step()
    first, second, third = last.weight.grad.unflatten(0, (3, -1))
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other).norm() > 0.01 * one.norm()
