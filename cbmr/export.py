"""An encoder as one ONNX graph, log-mel included: waveforms in, unit vectors out.

Exporters and runtimes handle `torch.stft` badly, so here the power spectrum is a convolution with
the windowed Fourier basis. It gives the same log-mels within 1e-3 and adds `4 n_fft (n_fft + 2)`
bytes to the file (17 MB at the default). Clips of any length from one window on behave as in
`embed_file`, short ones looped, in the graph itself.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
from torch import nn

from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.files import whole_file
from cbmr.logmel import COMPRESSION, MelSpec

FORMAT_VERSION = 1


class ConvolutionLogMel(nn.Module):
    """`logmel` without a Fourier transform: waveforms `[batch, samples]` of at least one window to
    log-mels `[batch, mels, frames]`."""

    basis: torch.Tensor
    filterbank: torch.Tensor

    def __init__(self, spec: MelSpec) -> None:
        super().__init__()
        self.hop = spec.hop
        bins = spec.n_fft // 2 + 1
        sample = torch.arange(spec.n_fft, dtype=torch.float64)
        turns = torch.outer(torch.arange(bins, dtype=torch.float64), sample) / spec.n_fft
        waves = torch.cat([(2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()])
        window = torch.hann_window(spec.n_fft, dtype=torch.float64)
        self.register_buffer("basis", (waves * window)[:, None].float())
        filterbank = torchaudio.functional.melscale_fbanks(
            bins, 0.0, spec.sample_rate / 2, spec.mels, spec.sample_rate, "slaney", "slaney"
        )
        self.register_buffer("filterbank", filterbank.T.contiguous())

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        spectrum = F.conv1d(waveform[:, None], self.basis, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        mel = self.filterbank @ (real.square() + imaginary.square())
        return torch.log1p(COMPRESSION * mel)


class WaveformEncoder(nn.Module):
    """Waveforms `[batch, samples]` at the encoder's sample rate, all of them real to the end, to
    unit vectors `[batch, embedding_size]`."""

    def __init__(self, encoder: Encoder, spec: MelSpec) -> None:
        super().__init__()
        self.logmel, self.encoder = ConvolutionLogMel(spec), encoder

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        logmel = self.logmel(waveform).half()  # as a store keeps it
        frames = torch.full((logmel.shape[0],), logmel.shape[2])
        return F.normalize(self.encoder(logmel, frames), dim=1)


def export_onnx(path: Path, encoder: Encoder, *, origin: Mapping[str, str]) -> None:
    """Write an encoder as ONNX: input `waveform` float32 `[batch, samples]`, mono, in -1..1, at
    least `n_fft` samples; output `vector` float32 `[batch, embedding_size]`.

    The file's metadata are texts: `format_version`, `encoder`, `embedding_size`, the fields of its
    `MelSpec`, and whatever `origin` says. Raises InputError for an encoder that hears nothing.
    """
    spec = encoder.mel_spec
    if spec is None:
        raise InputError(
            f"encoder={encoder.name} reads precomputed vectors, so there is no waveform to start "
            "from: expected an encoder of sound"
        )
    import onnxscript.optimizer

    example = torch.zeros(2, spec.samples(10.0))
    lengths = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=spec.n_fft)}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of torch to itself
        program = torch.onnx.export(
            WaveformEncoder(encoder, spec).eval(),
            (example,),
            input_names=["waveform"],
            output_names=["vector"],
            dynamic_shapes=(lengths,),
            optimize=False,  # it takes any number up to 1e-8 for a zero, and leaves it out
            verbose=False,
        )
    assert program is not None  # only where torch writes the file itself
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    for node in program.model.graph:
        node.metadata_props.clear()  # where in our code each node comes from, paths included
    about = {"format_version": FORMAT_VERSION, "encoder": encoder.name, **asdict(spec)}
    about |= {"embedding_size": encoder.embedding_size, **origin}
    program.model.metadata_props.update({name: str(value) for name, value in about.items()})
    with whole_file(path) as file:
        file.write(program.model_proto.SerializeToString())
