"""The door that all networks stand behind, and the file that keeps one.

`encoder.pt` is what training leaves and serving reads: no Hydra, no Lightning, no pickled code.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbmr.encoder.layers import last_layer
from cbmr.encoder.nips2013 import Nips2013
from cbmr.encoder.residual import Residual
from cbmr.encoder.spotify2014 import Spotify2014
from cbmr.encoder.vector import Vector
from cbmr.errors import InputError
from cbmr.files import write_tensors
from cbmr.logmel import MelSpec

FORMAT_VERSION = 1
KEYS = (
    "format_version", "encoder", "arguments", "mel_spec", "input_mean", "input_std", "state_dict",
)  # fmt: skip
SMALLEST_STD = 1e-3
"""A band that never changes is left near zero, not blown up."""
APART = 0.1
"""Of Glorot's weights, by which a mixture's components begin apart."""
MAY_DIFFER = ("embedding_size", "components", "dropout")
"""Arguments that leave every layer but the last one as it is."""

ENCODERS = {
    "spotify2014": Spotify2014,
    "nips2013": Nips2013,
    "residual": Residual,
    "vector": Vector,
}


class Encoder(nn.Module):
    """A network with everything needed to run it on sound: its mel spectrogram, its scaling.

    `arguments` rebuild the network: `ENCODERS[name](**arguments)`. `input_mean` and `input_std`
    are `[mels]`. The state dict is the network's alone. Without a `mel_spec` it reads vectors, not
    sound. With `components` among the arguments the
    network predicts a mixture of so many Gaussians, whose mean is the embedding (a mixture density
    network, Bishop 1994).
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        mel_spec: MelSpec | None,
        input_mean: torch.Tensor,
        input_std: torch.Tensor,
    ) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise InputError(f"encoder={name}: expected one of {', '.join(ENCODERS)}")
        self.name, self.arguments, self.mel_spec = name, arguments, mel_spec
        self.components = int(arguments.get("components", 0))
        self.network = ENCODERS[name](**_of_network(arguments))
        if self.components > 1:
            # From zero all components would learn the same for ever: one Gaussian, thrice.
            last = self.network.get_submodule(last_layer(self.network))
            nn.init.xavier_uniform_(last.weight, gain=APART)
        self.register_buffer("input_mean", input_mean.float(), persistent=False)
        self.register_buffer("input_std", input_std.float(), persistent=False)

    @property
    def embedding_size(self) -> int:
        return int(self.arguments["embedding_size"])

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Log-mels `[batch, mels, frames]` (any float type), of which the first `frames` `[batch]`
        of each item are real, to embeddings `[batch, embedding_size]`."""
        return self.expected(self.predict(logmel, frames))

    def expected(self, predicted: torch.Tensor) -> torch.Tensor:
        """The embeddings `[batch, embedding_size]` of what `predict` says."""
        if not self.components:
            return predicted
        log_weight, mean, _ = mixture(predicted, self.components)
        return (log_weight.exp()[:, :, None] * mean).sum(dim=1)

    def confidence(self, predicted: torch.Tensor) -> torch.Tensor:
        """How sure a mixture is `[batch]`: the share of a unit-norm target that it expects to
        explain, `1 - E|t - mean|^2`, at least 0."""
        log_weight, mean, log_std = mixture(predicted, self.components)
        square = mean.square().sum(dim=2) + (2 * log_std).exp().sum(dim=2)
        variance = (log_weight.exp() * square).sum(dim=1)
        variance = variance - self.expected(predicted).square().sum(dim=1)
        return (1 - variance).clamp_min(0)

    def predict(self, logmel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """What the network says `[batch, outputs]`: embeddings, or the numbers of a `mixture`."""
        scale = self.input_std.clamp_min(SMALLEST_STD)[:, None]
        standardised = (logmel.float() - self.input_mean[:, None]) / scale
        looped = _looped(standardised, frames, int(self.network.least_frames))
        out: torch.Tensor = self.network(looped, frames)
        return out


def mixture(
    predicted: torch.Tensor, components: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network's outputs `[batch, components (2 factors + 1)]` as a mixture of Gaussians:
    `log_weight` `[batch, components]` by softmax, `mean` and `log_std` `[batch, components,
    factors]`. Zeros give deviations of `1 / sqrt(factors)`, as a unit vector's coordinates have."""
    numbers = torch.unflatten(predicted.float(), 1, (components, -1))
    factors = (numbers.shape[2] - 1) // 2
    logit, mean, log_std = torch.split(numbers, [1, factors, factors], dim=2)
    return logit.squeeze(2).log_softmax(dim=1), mean, log_std - 0.5 * math.log(factors)


def _of_network(arguments: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in arguments.items() if name != "components"}
    if "components" in arguments:
        own["embedding_size"] = arguments["components"] * (2 * arguments["embedding_size"] + 1)
    return own


def begin_from(encoder: Encoder, other: Encoder) -> None:
    """Take over the weights of `other`, which learned something else, and its input scaling. The
    last layer alone stays as it is: what it says is another thing.

    Raises InputError unless both are the same network on the same spectrogram, dropout and what it
    predicts (`embedding_size`, `components`) aside.
    """
    for what, own, given in _differences(encoder, other):
        raise InputError(
            f"the encoder to begin from has {what}={given}, this training's has {what}={own}: give "
            "both the same `encoder` settings"
        )
    last = last_layer(encoder.network)
    state = other.network.state_dict()
    learned = {name: state[name] for name in state if not name.startswith(f"{last}.")}
    encoder.network.load_state_dict(encoder.network.state_dict() | learned)
    encoder.input_mean.copy_(other.input_mean)
    encoder.input_std.copy_(other.input_std)


def _differences(encoder: Encoder, other: Encoder) -> Iterator[tuple[str, Any, Any]]:
    """Settings in which two encoders are not the same network: name, one's, the other's."""
    mine, theirs = (
        {"encoder": one.name, **one.arguments, **(asdict(one.mel_spec) if one.mel_spec else {})}
        for one in (encoder, other)
    )
    for what in mine | theirs:
        if what not in MAY_DIFFER and mine.get(what) != theirs.get(what):
            yield what, mine.get(what), theirs.get(what)


def _looped(logmel: torch.Tensor, frames: torch.Tensor, least: int) -> torch.Tensor:
    """The real frames again and again, up to the width of the batch and at least `least`."""
    # `max` would fix the exported graph to one length; torch left this one untyped.
    total = torch.sym_max(logmel.shape[2], least)  # type: ignore[no-untyped-call]
    # Only a short cut, and an exported graph has no branches.
    if not torch.compiler.is_exporting() and bool((frames >= total).all()):
        return logmel
    at = torch.arange(total, device=frames.device) % frames.clamp_min(1)[:, None]
    return logmel.gather(2, at[:, None, :].expand(-1, logmel.shape[1], -1))


def save_encoder(path: Path, encoder: Encoder) -> None:
    """Write `encoder.pt` (keys: `KEYS`), whole or not at all."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "encoder": encoder.name,
        "arguments": encoder.arguments,
        "mel_spec": None if encoder.mel_spec is None else asdict(encoder.mel_spec),
        "input_mean": encoder.input_mean.cpu(),
        "input_std": encoder.input_std.cpu(),
        "state_dict": {k: v.cpu() for k, v in encoder.network.state_dict().items()},
    }
    for name, tensor in content["state_dict"].items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} holds NaN or infinity: the training diverged")
    write_tensors(path, content)


def load_encoder(path: Path) -> Encoder:
    """Read `encoder.pt`, on the CPU and ready to embed.

    Raises InputError for a file that is damaged, of a newer format, or not an encoder of cbmr.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise InputError(f"{path} is not an encoder file: it was cut off or damaged") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise InputError(f"{path} is not a cbmr encoder (a Lightning checkpoint, perhaps)")
    if content["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format {content['format_version']}, this cbmr reads {FORMAT_VERSION}: "
            "it was made by a newer cbmr; upgrade, or train again"
        )
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise InputError(f"{path} lacks {missing[0]!r}: it is damaged or was made by hand")
    encoder = Encoder(
        content["encoder"],
        content["arguments"],
        None if content["mel_spec"] is None else MelSpec(**content["mel_spec"]),
        content["input_mean"],
        content["input_std"],
    )
    encoder.network.load_state_dict(content["state_dict"])
    return encoder.eval()
