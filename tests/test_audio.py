"""Decoding: formats, seeking, lengths, bad files. Files are made here, by FFmpeg itself."""

import subprocess
import sys

import av
import numpy as np
import pytest

from cbmr.audio import excerpt_starts, load_audio, load_middle
from cbmr.errors import InputError
from tests.conftest import tone, write_wav

RATE = 22_050
FORMATS = {
    "wav": ("pcm_s16le", "s16"),
    "flac": ("flac", "s16"),
    "mp3": ("libmp3lame", "fltp"),
    "m4a": ("aac", "fltp"),
    "opus": ("libopus", "flt"),
}


def encode(path, samples, codec, sample_format, rate=48_000, layout="stereo"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        channels = 2 if layout == "stereo" else 1
        block = np.tile(samples.astype(np.float32), (channels, 1))
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=sample_format,
            layout=layout,
            rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def staircase(seconds, rate):
    """A tone whose pitch says the time: 200 Hz in the first second, 300 Hz in the second, ..."""
    time = np.arange(int(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * np.cumsum(200 + 100 * np.floor(time)) / rate)


def pitch(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * RATE / len(samples)


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_is_sought_to_the_right_place(tmp_path, name):
    path = encode(tmp_path / f"a.{name}", staircase(20, 48_000), *FORMATS[name])
    excerpt = load_audio(path, sample_rate=RATE, start_s=12.0, duration_s=1.0)
    assert excerpt.samples.shape == (RATE,)
    assert excerpt.samples.dtype == np.float32
    assert excerpt.file_s == pytest.approx(20, abs=0.1)
    assert pitch(excerpt.samples) == pytest.approx(1400, abs=3)
    # Within 30 ms: the tone before the second is not heard.
    assert pitch(excerpt.samples[: RATE // 10]) == pytest.approx(1400, abs=15)


def test_a_wav_is_cut_to_the_sample(tmp_path):
    samples = tone(5, 440)
    path = write_wav(tmp_path / "a.wav", samples)
    excerpt = load_audio(path, sample_rate=RATE, start_s=2.0, duration_s=1.5)
    expected = samples[2 * RATE : 2 * RATE + len(excerpt.samples)]
    assert len(excerpt.samples) == int(1.5 * RATE)
    np.testing.assert_allclose(excerpt.samples, expected, atol=1e-4)


def test_the_middle_of_a_long_file_and_the_whole_of_a_short_one(tmp_path):
    path = write_wav(tmp_path / "a.wav", staircase(9, RATE))
    middle = load_middle(path, sample_rate=RATE, duration_s=1.0)
    assert pitch(middle.samples[: RATE // 2]) == pytest.approx(600, abs=5)  # from second 4 on
    whole = load_middle(path, sample_rate=RATE, duration_s=30.0)
    assert len(whole.samples) == 9 * RATE


@pytest.mark.parametrize(
    ("length_s", "excerpts", "expected"),
    [
        (300, 3, [35, 135, 235]),
        (300, 1, [135]),
        (70, 3, [2.5, 37.5]),  # only two fit
        (60, 2, [0, 30]),
        (59, 2, [14.5]),
        (20, 3, [0]),
    ],
)
def test_excerpts_are_the_middles_of_equal_parts(tmp_path, length_s, excerpts, expected):
    path = write_wav(tmp_path / "a.wav", np.zeros(length_s * 1_000), 1_000)
    assert excerpt_starts(path, duration_s=30.0, excerpts=excerpts) == pytest.approx(expected)


def test_stereo_becomes_the_mean_of_its_channels(tmp_path):
    left = tone(2, 440).astype(np.float32)
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout="stereo")
        block = np.stack([left, np.zeros_like(left)], axis=1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout="stereo")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    mono = load_audio(path, sample_rate=RATE).samples
    np.testing.assert_allclose(mono, left / 2, atol=1e-3)


def test_a_file_that_breaks_off_gives_what_was_there(tmp_path):
    path = encode(tmp_path / "a.mp3", tone(10, 440, 48_000), *FORMATS["mp3"])
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 4 < len(load_audio(cut, sample_rate=RATE).samples) / RATE < 10.1


@pytest.mark.parametrize(
    ("name", "content"),
    [("zero.mp3", b""), ("text.mp3", b"this is text\n" * 50), ("noise.ogg", bytes(range(256)) * 9)],
)
def test_what_is_no_audio_is_an_input_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_audio(path, sample_rate=RATE)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        load_audio(tmp_path / "gone.mp3", sample_rate=RATE)


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path):
    """A two-hour file in a process that may not hold it decoded (2 h are 635 MB of float32)."""
    path = tmp_path / "long.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        minute = (tone(60, 440) * 32_767).astype(np.int16)[None]
        for _ in range(120):
            frame = av.AudioFrame.from_ndarray(minute, format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    # VmHWM, because a child's ru_maxrss starts from its parent's on Linux.
    program = (
        "import re; from pathlib import Path; from cbmr.audio import load_middle\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])\n"
        "before = peak()\n"
        f"w = load_middle(Path({str(path)!r}), sample_rate=22050, duration_s=30)\n"
        "print(len(w.samples), peak() - before)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    samples, grown_kib = map(int, result.stdout.split())
    assert samples == 30 * RATE
    assert 0 < grown_kib < 60_000
