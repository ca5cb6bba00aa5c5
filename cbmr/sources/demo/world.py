"""Draws what listeners of the demo world like and play.

Conventions: taste vectors are rows, [tracks or listeners, dims], and the affinity of a listener to
a track is the plain product `user_taste @ track_taste.T`; similarity of two tracks is the cosine of
their taste vectors. Rows of all tables follow the order of the catalogue and of the listeners.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbmr.sources.demo.catalogue import ATTRIBUTES, Track

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DIMS = 16
UNITS = 128
FADE = 5.0  # dims over which their importance falls to 37 %
MOST_PLAYS = 2000

# How much of the taste hangs on each attribute. Rhythm leads: averages of a spectrum over time
# cannot see it, which leaves a sequence model something to find.
WEIGHTS = {
    "tempo": 1.5,
    "notes_per_beat": 0.5,
    "note_length": 0.4,
    "tremolo": 1.5,
    "syncopation": 0.6,
    "drum_density": 0.8,
    "drum_level": 0.8,
    "metre": 0.4,
    "brightness": 1.0,
    "distortion": 1.2,
    "reverberation": 1.2,
    "register": 0.4,
    "mode": 0.15,
    "chord_notes": 0.15,
}


@dataclass(frozen=True)
class Taste:
    """What is true of the world and nobody in it knows; arrays are float64."""

    track_taste: Floats  # [tracks, DIMS]
    sound_taste: Floats  # [tracks, DIMS], the part of it that can be heard
    user_taste: Floats  # [listeners, DIMS]
    popularity: Floats  # [tracks], above 0, mean 1


def draw_taste(
    rng: np.random.Generator,
    catalogue: list[Track],
    listeners: int,
    *,
    curvature: float,
    artist_strength: float,
    hidden_strength: float,
    focus: float,
    popularity_spread: float,
) -> Taste:
    """Taste of tracks and listeners, and the popularity of tracks.

    The audible part of a track's taste is a fixed random mixture of `UNITS` cosine waves over its
    attributes, each over one to three of them; `curvature` is how many radians an attribute turns
    a wave by from one standard deviation to the next: small is nearly linear, large is rough.
    A listener is a mixture of two to four tracks taken as tastes, scaled so that affinities
    spread by about `focus`.
    """
    attributes = np.array([track.attributes for track in catalogue])
    standard = (attributes - 0.5) * 12**0.5
    weights = np.array([WEIGHTS[name] for name in ATTRIBUTES])
    waves = np.zeros((len(ATTRIBUTES), UNITS))
    for unit in range(UNITS):
        chosen = rng.choice(
            len(ATTRIBUTES), rng.integers(1, 4), replace=False, p=weights / weights.sum()
        )
        waves[chosen, unit] = rng.choice([-1.0, 1.0], len(chosen))
    units = np.cos(curvature * standard @ waves + rng.uniform(0, 2 * np.pi, UNITS))
    mixture = rng.standard_normal((UNITS, DIMS))
    # A few directions of taste matter most, as in the factors of real listening.
    importance = np.exp(-np.arange(DIMS) / FADE)
    sound = _even((units - units.mean(axis=0)) @ mixture * importance)

    artist_of = np.array([track.artist_number for track in catalogue])
    artist_part = rng.standard_normal((artist_of.max() + 1, DIMS))[artist_of]
    artist_part = _even(artist_part * importance)
    hidden_part = _even(rng.standard_normal(sound.shape) * importance)
    taste = sound + artist_strength * artist_part + hidden_strength * hidden_part
    taste = taste - taste.mean(axis=0)

    centres = taste[rng.integers(len(taste), size=(listeners, 4))]
    centres = centres / np.linalg.norm(centres, axis=2, keepdims=True)
    shares = rng.dirichlet(np.full(4, 1.5), listeners)
    shares[np.arange(4) >= rng.integers(2, 5, listeners)[:, None]] = 0.0
    user = np.einsum("lc,lcd->ld", shares, centres)
    spread = (user @ taste.T).std(axis=1, keepdims=True)
    user *= focus * rng.lognormal(0.0, 0.25, (listeners, 1)) / spread

    artist_fame = rng.standard_normal(artist_of.max() + 1)[artist_of]
    fame = 0.7 * artist_fame + 0.7 * rng.standard_normal(len(catalogue))
    songs = np.array([track.kind in ("song", "cover", "remix") for track in catalogue])
    popularity = np.exp(popularity_spread * fame) * np.where(songs, 1.0, 0.5)
    return Taste(taste, sound, user, popularity / popularity.mean())


def draw_plays(
    rng: np.random.Generator, catalogue: list[Track], taste: Taste, plays_per_listener: float
) -> tuple[Integers, Integers, Integers]:
    """Listener, track and count of each play row [plays], by listener and then by track.

    Listeners take tracks one after the other without repeating, each with probability
    proportional to popularity * exp(affinity). Counts are heavy-tailed, at most `MOST_PLAYS`.
    """
    affinity = taste.user_taste @ taste.track_taste.T
    listeners, tracks = affinity.shape
    played = np.array([track.played for track in catalogue])
    sizes = np.round(plays_per_listener * rng.lognormal(0.0, 0.6, listeners))
    sizes = np.clip(sizes, 1, max(1, played.sum() // 2)).astype(np.int64)
    logits = affinity + np.log(taste.popularity) + np.where(played, 0.0, -np.inf)
    # The order of logits plus Gumbel noise is that of draws without replacement.
    order = np.argsort(-(logits + rng.gumbel(size=affinity.shape)), axis=1)
    taken = np.zeros((listeners, tracks), bool)
    np.put_along_axis(taken, order, np.arange(tracks) < sizes[:, None], axis=1)
    listener, track = np.nonzero(taken)
    liking = np.exp(0.4 * affinity[listener, track])
    counts = 1 + np.floor(rng.pareto(1.2, len(listener)) * liking)
    return listener, track, np.minimum(counts, MOST_PLAYS).astype(np.int64)


def _even(vectors: Floats) -> Floats:
    """Centred vectors [tracks, dims] whose squared length is 1 on average."""
    vectors = vectors - vectors.mean(axis=0)
    return vectors / float(np.sqrt(np.mean(np.sum(vectors**2, axis=1))))
