"""Waveforms to log-mel spectrograms: what the encoder reads.

`log(1 + 10000 mel)` of the power spectrogram, with Slaney's mel scale and area normalisation
(librosa's defaults, so that both give the same numbers). Frames are not centred: frame t covers the
samples `[t hop, t hop + n_fft)` and nothing is invented at the edges. The default gives exactly the
599 frames of Dieleman (2014) for 30 s.
"""

import functools
import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torchaudio

from cbmr.errors import InputError

COMPRESSION = 10_000.0
"""Chosen by us: the article only says that the spectrogram is log-compressed."""


@dataclass(frozen=True)
class MelSpec:
    """How sound becomes a log-mel spectrogram; travels with every encoder.

    `sample_rate` in Hz, `n_fft` (window) and `hop` in samples, `mels` the number of bands.
    """

    sample_rate: int = 22_050
    n_fft: int = 2_048
    hop: int = 1_102
    mels: int = 128

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value <= 0:
                raise InputError(f"mel.{name}={value!r}: expected a whole number above 0")
        if self.hop > self.n_fft:
            raise InputError(f"mel.hop={self.hop} skips samples: expected at most n_fft")

    def frames(self, samples: int) -> int:
        """Frames that fit wholly into `samples`; 0 when not even one does."""
        return max(0, 1 + (samples - self.n_fft) // self.hop)

    def samples(self, duration_s: float) -> int:
        """Samples in `duration_s` seconds."""
        return round(duration_s * self.sample_rate)


def band_centres_hz(spec: MelSpec) -> np.ndarray:
    """Where the bands of a log-mel are centred `[mels]`, in Hz, ascending.

    Slaney's scale: three mels in 200 Hz up to 1000 Hz (15 mels), 27 to a factor of 6.4 above it.
    """
    top_hz = spec.sample_rate / 2
    top = 3 * top_hz / 200 if top_hz < 1000 else 15 + 27 * math.log(top_hz / 1000) / math.log(6.4)
    mel = np.linspace(0, top, spec.mels + 2)[1:-1]
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def logmel(waveform: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    """Waveforms float32 `[batch, samples]` in -1..1 to log-mels `[batch, mels, frames]`, >= 0."""
    if waveform.shape[-1] < spec.n_fft:
        raise InputError(
            f"a waveform of {waveform.shape[-1]} samples is shorter than one window of {spec.n_fft}"
        )
    power = _mel_transform(spec, waveform.device)(waveform)
    return torch.log1p(COMPRESSION * power)


@functools.lru_cache(maxsize=8)
def _mel_transform(spec: MelSpec, device: torch.device) -> torch.nn.Module:
    return torchaudio.transforms.MelSpectrogram(
        sample_rate=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop,
        n_mels=spec.mels,
        center=False,
        norm="slaney",
        mel_scale="slaney",
    ).to(device)
