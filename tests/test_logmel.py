"""The log-mel spectrogram against librosa, and its shape against the article."""

import numpy as np
import pytest
import torch

from cbmr.errors import InputError
from cbmr.logmel import COMPRESSION, MelSpec, band_centres_hz, logmel
from tests.conftest import tone


def test_thirty_seconds_are_599_frames_of_128_bands():
    spec = MelSpec()
    samples = spec.samples(30.0)
    assert spec.frames(samples) == 599
    assert logmel(torch.zeros(1, samples), spec).shape == (1, 128, 599)


@pytest.mark.parametrize(
    "spec", [MelSpec(), MelSpec(n_fft=1024, hop=512), MelSpec(16_000, 512, 160, 40)]
)
def test_it_is_librosas(spec):
    """Largest difference 1e-3 on values up to 12: both are float32 of other summation orders."""
    import librosa

    waveform = np.stack([tone(2, 440, spec.sample_rate), tone(2, 3000, spec.sample_rate)])
    ours = logmel(torch.from_numpy(waveform).float(), spec).numpy()
    power = librosa.feature.melspectrogram(
        y=waveform.astype(np.float32),
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop,
        n_mels=spec.mels,
        center=False,
    )
    np.testing.assert_allclose(ours, np.log1p(COMPRESSION * power), atol=1e-3)


@pytest.mark.parametrize("spec", [MelSpec(), MelSpec(1_600, 64, 32, 10)])
def test_bands_are_centred_where_librosas_are(spec):
    import librosa

    centres = librosa.mel_frequencies(n_mels=spec.mels + 2, fmin=0, fmax=spec.sample_rate / 2)
    np.testing.assert_allclose(band_centres_hz(spec), centres[1:-1], rtol=1e-6)


def test_only_whole_frames_count():
    """n_fft 8, hop 4: 7 samples hold no frame, 8 one, 11 one, 12 two."""
    spec = MelSpec(8000, 8, 4, 2)
    assert [spec.frames(samples) for samples in (7, 8, 11, 12)] == [0, 1, 1, 2]


def test_settings_out_of_range_and_short_waveforms_are_refused():
    with pytest.raises(InputError, match="hop=4096 skips samples"):
        MelSpec(hop=4096)
    with pytest.raises(InputError, match="mels=0"):
        MelSpec(mels=0)
    with pytest.raises(InputError, match="shorter than one window"):
        logmel(torch.zeros(1, 100), MelSpec())
