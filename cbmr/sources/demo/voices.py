"""The voices that play a piece: drums (kick, snare, hat), bass, a broken-chord figure, a melody and
the chords.

Times are in samples. Every voice but the drums plays one note at a time and is made in one sweep
over the whole clip from a single-cycle wave table; that is what makes a clip cost tenths of a
second.
"""

import numpy as np
from numpy.typing import NDArray

from cbmr.sources.demo.score import MODES, SAMPLE_RATE, Music, Signal, Sound

TABLE = 4096


def _table(music: Music, highest: float) -> Signal:
    """Single-cycle wave [TABLE] that stays below the Nyquist frequency up to pitch `highest`."""
    hz = 440 * 2 ** ((highest - 69) / 12)
    partial = np.arange(1, max(2, int(0.45 * SAMPLE_RATE / hz)))
    level = partial ** -(2.6 - 2.0 * music.brightness)
    level[1::2] *= music.sound.odd_share
    octaves = np.log2(partial * hz / music.sound.peak_hz)
    level *= 1 + np.exp(-0.5 * (octaves / 0.4) ** 2)
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    # Spread phases keep the crest low, so that the clipper does not see one spike per cycle.
    spectrum[partial] = level * np.exp(1j * np.pi * partial * (partial - 1) / len(partial))
    wave = np.fft.irfft(spectrum)
    wave /= np.sqrt(np.mean(wave**2))
    return np.asarray(wave, np.float32)


def _voice(
    music: Music,
    starts: NDArray[np.int64],
    pitches: NDArray[np.float64],
    samples: int,
    *,
    length: float,
    decay_s: float,
    attack_s: float,
) -> Signal:
    """One note at a time, [samples]; starts [notes] from 0 upwards, pitches [notes], nan a rest."""
    table = _table(music, float(np.nanmax(pitches)))
    counts = np.diff(np.append(starts, samples))
    hz = 440 * 2 ** ((np.nan_to_num(pitches) - 69) / 12)
    phase = np.cumsum(np.repeat(hz * (TABLE / SAMPLE_RATE), counts))
    wave = table[phase.astype(np.int64) & (TABLE - 1)]
    age = (np.arange(samples) - np.repeat(starts, counts)).astype(np.float32) / SAMPLE_RATE
    end = np.repeat((counts * (length / SAMPLE_RATE)).astype(np.float32), counts)
    envelope = np.exp(age * np.float32(-1 / decay_s))
    envelope *= np.minimum(age * np.float32(1 / attack_s), 1)
    envelope *= np.clip((end - age) * np.float32(1 / 0.012), 0, 1)
    envelope *= np.repeat(np.isfinite(pitches).astype(np.float32), counts)
    voice: Signal = wave * envelope
    return voice


def _starts(spacing: float, samples: int) -> NDArray[np.int64]:
    return np.arange(0, samples, spacing).astype(np.int64)


def _degrees(music: Music, starts: NDArray[np.int64], bar: float) -> NDArray[np.int64]:
    """Scale degree of the chord that sounds at each start [notes]; triads change half as often."""
    bars = 2 if music.chord_notes == 3 else 1
    number = ((starts + 1) / (bars * bar)).astype(np.int64)
    return np.array(music.progression)[number % len(music.progression)]


def _pitch(music: Music, degree: NDArray[np.int64], centre: float) -> NDArray[np.float64]:
    """MIDI pitches of scale degrees, 0 being the key note nearest below `centre` plus register,
    before the piece is transposed."""
    scale = np.array(MODES[music.mode])
    semitones = scale[degree % 7] + 12 * (degree // 7)
    base = np.floor((centre + music.register - music.key) / 12) * 12 + music.key
    return np.asarray(base + semitones + music.transposed, np.float64)


def bass(music: Music, samples: int, beat: float, bar: float, rng: np.random.Generator) -> Signal:
    starts = _starts(beat, samples)
    pitches = _pitch(music, _degrees(music, starts, bar), 42 - 0.5 * music.register)
    # A syncopated bass comes in late, half a beat after the drums.
    late = rng.random(len(starts)) < 0.6 * music.syncopation
    starts = starts + np.where(late, beat / 2, 0).astype(np.int64)
    starts[0] = 0
    inside = starts < samples
    return _voice(
        music, starts[inside], pitches[inside], samples,
        length=0.3 + 0.6 * music.note_length, decay_s=0.6, attack_s=0.005,
    )  # fmt: skip


def figure(music: Music, samples: int, beat: float, bar: float) -> Signal:
    starts = _starts(beat / music.notes_per_beat, samples)
    order = np.array(music.sound.figure)[np.arange(len(starts)) % len(music.sound.figure)]
    degree = _degrees(music, starts, bar) + 2 * (order % music.chord_notes)
    return _voice(
        music, starts, _pitch(music, degree, 66), samples,
        length=music.note_length, decay_s=0.08 + 0.8 * music.note_length,
        attack_s=min(music.sound.attack_s, 0.02),
    )  # fmt: skip


def melody(music: Music, samples: int, beat: float, bar: float) -> Signal:
    starts = _starts(beat, samples)
    step = np.array(music.motif)[np.arange(len(starts)) % len(music.motif)]
    pitches = _pitch(music, _degrees(music, starts, bar) + step, 74)
    # Rests, out of step with the motif, let the phrases breathe.
    pitches[2::5] = np.nan
    return _voice(
        music, starts, pitches, samples,
        length=min(1.0, 0.4 + music.note_length), decay_s=0.7, attack_s=music.sound.attack_s,
    )  # fmt: skip


def chords(music: Music, samples: int, bar: float) -> Signal:
    starts = _starts(bar, samples)
    degree = _degrees(music, starts, bar)
    total = np.zeros(samples, np.float32)
    for note in range(music.chord_notes):
        pitches = _pitch(music, degree + 2 * note, 57)
        total += _voice(music, starts, pitches, samples, length=1.0, decay_s=4.0, attack_s=0.03)
    return total / np.float32(music.chord_notes**0.5)


def drums(
    music: Music, samples: int, step: float, beats: int, steps: int, rng: np.random.Generator
) -> Signal:
    """Kick, snare and hat from one pattern [drums, steps of a bar] with a fill every fourth bar."""
    patterns = [_pattern(music, beats, steps, rng) for _ in range(2)]
    kit = _kit(music.sound)
    bar_steps = beats * steps
    longest = max(len(drum) for drum in kit)
    total = np.zeros(samples + longest, np.float32)
    for number in range(int(samples / step)):
        bar, place = divmod(number, bar_steps)
        pattern = patterns[1] if bar % 4 == 3 and place >= bar_steps // 2 else patterns[0]
        start = int(number * step)
        for drum, level in zip(kit, pattern[:, place], strict=True):
            if level > 0:
                total[start : start + len(drum)] += np.float32(level) * drum
    return total[:samples] / np.float32(0.12)


def _pattern(music: Music, beats: int, steps: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Loudness of kick, snare and hat on each step of a bar, [3, steps]."""
    count = beats * steps
    pattern = np.zeros((3, count))
    back = {"4/4": (1, 3), "3/4": (1, 2), "6/8": (1,)}[music.metre]
    for beat in range(beats):
        place = beat * steps
        drum = 1 if beat in back else 0
        # Off the beat means one or two steps early, into the bar before for none but the first.
        early = beat > 0 and rng.random() < music.syncopation
        pattern[drum, place - rng.integers(1, 3) if early else place] = 1.0
    ghosts = rng.random(count) < 0.35 * music.syncopation
    pattern[0, ghosts & (np.arange(count) % steps != 0)] += 0.7
    weight = np.where(np.arange(count) % steps == 0, 2.0, 0.0)
    weight += np.where(np.arange(count) % steps == steps // 2, 1.0, 0.0)
    weight = (1 - 2 * music.syncopation) * weight + 0.3 * rng.random(count)
    hats = np.argsort(-weight)[: max(1, round(music.drum_density * count))]
    pattern[2, hats] = 0.75
    return pattern


def _kit(sound: Sound) -> tuple[Signal, Signal, Signal]:
    time = np.arange(int(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(sound.room_seed).standard_normal((2, len(time)))
    sweep = np.cumsum(sound.kick_hz * (1 + 4 * np.exp(-time / 0.025))) / SAMPLE_RATE
    kick = 1.1 * np.sin(2 * np.pi * sweep) * np.exp(-time / 0.1)
    snare = 0.45 * noise[0] * np.exp(-time / 0.06)
    snare += 0.5 * np.sin(2 * np.pi * sound.snare_hz * time) * np.exp(-time / 0.05)
    hat = 0.25 * np.diff(noise[1], prepend=0.0) * np.exp(-time / sound.hat_decay_s)
    return kick.astype(np.float32), snare.astype(np.float32), hat.astype(np.float32)
