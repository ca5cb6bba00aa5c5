"""ONNX: the same vectors in onnxruntime as in torch, from audio files, of every network."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from cbmr.audio import load_middle
from cbmr.embed import embed_file
from cbmr.encoder import ENCODERS, Encoder
from cbmr.errors import InputError
from cbmr.export import ConvolutionLogMel, export_onnx
from cbmr.logmel import MelSpec, logmel
from tests.conftest import tone, write_wav
from tests.test_audio import FORMATS, encode

SPEC = MelSpec(sample_rate=16_000, n_fft=512, hop=500, mels=16)
SMALL = {"channels": [8, 8, 12, 12], "hidden": 16}
VARIANTS = {
    "maxout": ("spotify2014", {**SMALL, "activation": "maxout", "pieces": 3}),
    "all but maxout": (
        "spotify2014",
        {**SMALL, "pooling": "stochastic", "unit_output": True, "bypass": True, "l2_pool": "norm"},
    ),
    "nips2013": ("nips2013", {"channels": [8, 8], "hidden": 16}),
    "residual mixture": ("residual", {"channels": [8, 8, 12], "hidden": 16, "components": 2}),
}
"""Together they hold every option that changes the graph: an export takes seconds."""


def make(name, options, spec=SPEC):
    """An encoder scaled as a trained one, so that a clip's sound decides where it goes."""
    torch.manual_seed(0)
    arguments = {"mels": SPEC.mels, "embedding_size": 5, **options}
    encoder = Encoder(name, arguments, spec, torch.full((16,), 3.0), torch.full((16,), 2.0))
    *_, output = (m for m in encoder.modules() if isinstance(m, torch.nn.Linear))
    torch.nn.init.normal_(output.weight)
    return encoder.eval()


@pytest.fixture(scope="module", params=list(VARIANTS))
def exported(request, tmp_path_factory):
    encoder = make(*VARIANTS[request.param])
    path = tmp_path_factory.mktemp("export") / "encoder.onnx"
    export_onnx(path, encoder, origin={"stage": "rank"})
    return encoder, path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """3.2 s, which is less than any network sees; 5 s; and 36 s, of which the middle 30 count."""
    folder = tmp_path_factory.mktemp("audio")
    sound = np.concatenate([tone(12, hz, 16_000) for hz in (300, 900, 2700)])
    return [
        write_wav(folder / "short.wav", tone(3.2, 440, 16_000), 16_000),
        encode(folder / "some.mp3", tone(5, 1_000, 48_000), *FORMATS["mp3"]),
        encode(folder / "long.opus", np.repeat(sound, 3), *FORMATS["opus"]),
    ]


def test_every_network_of_sound_is_exported():
    assert {name for name, _ in VARIANTS.values()} == set(ENCODERS) - {"vector"}


def test_an_audio_file_gives_the_same_vector(exported, files):
    encoder, path = exported
    assert SPEC.frames(SPEC.samples(3.2)) < encoder.network.least_frames
    session = onnxruntime.InferenceSession(path)
    vectors = []
    for file in files:
        waveform = load_middle(file, sample_rate=SPEC.sample_rate, duration_s=30)
        (vector,) = session.run(["vector"], {"waveform": waveform.samples[None]})
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector[0], embed_file(encoder, file, excerpt_s=30), atol=1e-4)
        vectors.append(vector[0])
    assert min(np.linalg.norm(vectors[0] - other) for other in vectors[1:]) > 0.01


def test_batches_of_any_size_and_length_down_to_one_window(exported):
    encoder, path = exported
    session = onnxruntime.InferenceSession(path)
    for batch, samples in ((3, SPEC.n_fft), (1, 5_000), (4, 70_001)):
        waveform = 0.2 * torch.randn(batch, samples)
        (vectors,) = session.run(None, {"waveform": waveform.numpy()})
        clips = logmel(waveform, SPEC).half(), torch.full((batch,), SPEC.frames(samples))
        expected = torch.nn.functional.normalize(encoder(*clips), dim=1)
        np.testing.assert_allclose(vectors, expected.detach().numpy(), atol=1e-4)


def test_the_file_says_whose_it_is_and_nothing_of_this_machine(exported):
    encoder, path = exported
    about = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert about == {
        "format_version": "1", "encoder": encoder.name, "embedding_size": "5", "stage": "rank",
        "sample_rate": "16000", "n_fft": "512", "hop": "500", "mels": "16",
    }  # fmt: skip
    content = path.read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in content
    assert b".py" not in content


@pytest.mark.parametrize("spec", [MelSpec(), SPEC, MelSpec(8_000, 256, 256, 20)])
def test_the_convolution_is_the_log_mel(spec):
    """1e-3 on values up to 12: both are float32 of other summation orders."""
    quiet = 1e-3 * tone(2, 700, spec.sample_rate)
    waveform = torch.from_numpy(np.stack([tone(2, 440, spec.sample_rate), quiet])).float()
    expected = logmel(waveform, spec)
    assert expected.max() > 8
    torch.testing.assert_close(ConvolutionLogMel(spec)(waveform), expected, rtol=0, atol=1e-3)


def test_vectors_have_no_sound_to_export(tmp_path):
    with pytest.raises(InputError, match="encoder=vector reads precomputed vectors"):
        export_onnx(tmp_path / "encoder.onnx", make("vector", {"hidden": [8]}, None), origin={})
    assert not list(tmp_path.iterdir())
