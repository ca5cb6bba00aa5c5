"""Renders one invented piece of music and writes it as an mp3 file.

Conventions: mono float32 in [-1, 1] at `SAMPLE_RATE`; times are in samples inside this module and
in seconds at its borders. Everything that chance decides comes from `Music.seed`, so a piece is the
same wherever and whenever it is rendered.
"""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from cbmr.files import whole_file
from cbmr.sources.demo.score import METRES, SAMPLE_RATE, Music, Signal
from cbmr.sources.demo.voices import bass, chords, drums, figure, melody

BIT_RATE = 64_000


def render(music: Music, duration_s: float) -> Signal:
    """The first `duration_s` seconds of a piece, float32 [samples], peak below 1."""
    samples = round(duration_s * SAMPLE_RATE)
    rng = np.random.default_rng(music.seed)
    beats, steps = METRES[music.metre]
    beat = 60 / music.tempo_bpm * SAMPLE_RATE
    bar = beats * beat
    mutes = _mutes(music, int(np.ceil(samples / bar)), rng)

    pitched = (
        0.6 * bass(music, samples, beat, bar, rng)
        + 1.0 * figure(music, samples, beat, bar) * _per_bar(mutes["figure"], bar, samples)
        + 0.4 * melody(music, samples, beat, bar) * _per_bar(mutes["melody"], bar, samples)
        + 0.7 * chords(music, samples, bar)
    )
    pitched /= _loudness(pitched)
    # The clipper works on an even level, so distortion is heard the same on every instrument.
    pitched = np.tanh(music.distortion * pitched)
    pitched *= _tremolo(music, samples) / _loudness(pitched)

    beaten = drums(music, samples, beat / steps, beats, steps, rng)
    beaten *= _per_bar(mutes["drums"], bar, samples)
    mix = pitched + music.drum_level * beaten
    mix = _room(mix, music.reverberation_s, music.sound.room_seed)
    mix *= _fade(music.kind, samples)
    # The ceiling leaves room for what lossy coding adds to the peaks.
    final: Signal = np.float32(0.65) * np.tanh(np.float32(0.25 / _loudness(mix)) * mix)
    return final


def write_mp3(path: Path, signal: Signal, tags: dict[str, str]) -> None:
    """Writes mono samples as mp3 with `tags`; the file has its name only once it is complete."""
    with whole_file(path) as file, av.open(file, "w", format="mp3") as container:
        container.metadata.update(tags)
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE)
        stream.layout = "mono"
        stream.bit_rate = BIT_RATE
        stream.options = {"compression_level": "7"}
        frame = av.AudioFrame.from_ndarray(signal[None, :], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def _loudness(signal: Signal) -> float:
    return float(np.sqrt(np.mean(np.square(signal)))) + 1e-9


def _tremolo(music: Music, samples: int) -> Signal:
    time = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
    wave: Signal = np.sin(np.float32(2 * np.pi * music.tremolo_hz) * time)
    return np.float32(0.6) + np.float32(0.4) * wave


def _mutes(music: Music, bars: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Level of each voice per bar: sections of four bars, some of which leave a voice out."""
    levels = {voice: np.ones(bars, np.float32) for voice in ("drums", "figure", "melody")}
    for start in range(0, bars, 4):
        silent = rng.choice(["drums", "figure", "melody", "", "", "", "", ""])
        if silent and start > 0:
            levels[silent][start : start + 4] = 0.15
    if music.kind in ("intro", "interlude"):
        levels["drums"][:] = 0.0
    if music.kind == "outro":
        levels["drums"][bars // 2 :] = 0.0
    return levels


def _per_bar(levels: NDArray[np.float32], bar: float, samples: int) -> Signal:
    return levels[(np.arange(samples) / bar).astype(np.int64)]


def _fade(kind: str, samples: int) -> Signal:
    ramp = np.linspace(0.1, 1.0, samples, dtype=np.float32)
    if kind == "intro":
        return ramp
    if kind == "outro":
        return ramp[::-1]
    return np.ones(samples, np.float32)


def _room(signal: Signal, seconds: float, seed: int) -> Signal:
    """Adds a decaying noise tail; a longer room is also a wetter one."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    # A room swallows the highs; without this every tail would be white hiss.
    tail = np.convolve(tail, [0.25, 0.5, 0.25], mode="same")
    tail /= np.sqrt(np.sum(tail**2))
    wet: Signal = fftconvolve(signal, tail.astype(np.float32))[: len(signal)]
    share = np.float32(min(0.7, 0.15 + 0.3 * seconds))
    return (1 - share) * signal + share * wet
