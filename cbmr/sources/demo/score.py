"""What a piece of invented music is, before it sounds.

Pitches are MIDI note numbers (69 is 440 Hz). A bar is a row of beats and a beat a row of steps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 22_050

# beats in a bar, steps in a beat
METRES = {"4/4": (4, 4), "3/4": (3, 4), "6/8": (2, 3)}

# Semitones above the key note, from the darkest to the lightest.
MODES = {
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
}

Signal = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """What an artist keeps from track to track: instrument, drum kit, room and figure."""

    odd_share: float  # 0: even partials silent, 1: as loud as the odd ones
    peak_hz: float  # resonance of the instrument
    attack_s: float
    kick_hz: float
    snare_hz: float
    hat_decay_s: float
    room_seed: int
    figure: tuple[int, ...]  # order in which chord notes are broken, as chord-note numbers


@dataclass(frozen=True)
class Music:
    """One piece of music, complete: the same `Music` always gives the same samples."""

    kind: str
    tempo_bpm: float
    metre: str
    notes_per_beat: float  # of the broken-chord figure
    note_length: float  # sounding share of a note, 0 to 1
    tremolo_hz: float
    syncopation: float  # 0 on the beat, 1 mostly off it
    drum_density: float  # share of the steps on which the hat plays, 0 to 1
    drum_level: float  # loudness of the drums, 1 is that of all other voices together
    brightness: float  # 0 dull, 1 bright
    distortion: float  # gain into the soft clipper, 1 is clean
    reverberation_s: float  # time to fall by 60 dB
    register: float  # semitones above the middle register
    key: int  # 0 is C
    mode: str
    chord_notes: int  # 3 triads, 4 sevenths, 5 ninths
    progression: tuple[int, ...]  # scale degrees, 0 is the tonic
    motif: tuple[int, ...]  # melody, scale steps relative to the chord
    sound: Sound
    seed: int
    transposed: int = 0  # semitones by which every note is moved, timbre and drums staying
