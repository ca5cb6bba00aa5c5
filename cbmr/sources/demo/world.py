"""Draws what listeners of the demo world like, play and vote on.

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


@dataclass(frozen=True)
class Radio:
    """Everything the stations played, row by row [exposures], and the rule by which they chose."""

    listener: Integers
    station: Integers  # number over all listeners
    seed: Integers  # track number
    track: Integers  # track number
    position: Integers  # on the station, from 0
    propensity: Floats  # probability of the choice among what the station had not played yet
    thumb: Integers  # +1 up, -1 down, 0 no vote
    seconds: Integers  # since the first day of the world
    radio_taste: Floats  # [tracks, DIMS], what the station believes of the tracks
    kindness: Floats  # [listeners]
    similarity_centre: float  # similarity at which it speaks neither for an up nor for a down


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


def draw_radio(
    rng: np.random.Generator,
    catalogue: list[Track],
    taste: Taste,
    votes: int,
    *,
    radio_noise: float,
    radio_sharpness: float,
    radio_popularity: float,
    similarity_scale: float,
    affinity_scale: float,
    kindness: float,
    kindness_spread: float,
    flip_rate: float,
) -> Radio:
    """Stations of 5 to 60 votes, listener after listener, until there are about `votes` votes.

    A station chooses its next track with probability proportional to
    exp(radio_sharpness * cos(radio_taste[seed], radio_taste[track])) * popularity**radio_popularity
    among the tracks it has not played yet, the seed excepted. It repeats nothing: a down bans the
    track there for good, and an up does not bring it back either. The listener votes on a track
    with a probability of his own, and votes up with probability
    sigmoid(similarity_scale * (cos(taste of seed, taste of track) - similarity_centre)
    + affinity_scale * affinity + kindness of the listener); the vote is recorded the wrong way
    round with probability `flip_rate`.
    """
    tracks, listeners = len(catalogue), len(taste.user_taste)
    affinity = taste.user_taste @ taste.track_taste.T
    unit = taste.track_taste / np.linalg.norm(taste.track_taste, axis=1, keepdims=True)
    noise = rng.standard_normal(unit.shape) * taste.track_taste.std(axis=0)
    radio_taste = taste.track_taste + radio_noise * noise
    radio_taste = radio_taste / np.linalg.norm(radio_taste, axis=1, keepdims=True)
    log_popularity = np.log(taste.popularity)

    kind = kindness + kindness_spread * rng.standard_normal(listeners)
    vote_rate = rng.beta(2.0, 3.0, listeners)
    station_counts = np.minimum(rng.integers(1, 6, listeners), tracks)
    # New tracks are rarely the seed: people start a station from what they know.
    seed_logits = log_popularity + np.log(
        [1.0 if track.split == "train" else 0.25 for track in catalogue]
    )

    rows: list[tuple[Integers, ...]] = []
    propensities: list[Floats] = []
    station = recorded = 0
    for listener in rng.permutation(listeners):
        if recorded >= votes:
            break
        gumbel = rng.gumbel(size=tracks)
        seeds = np.argsort(-(seed_logits + affinity[listener] + gumbel))
        for seed in seeds[: station_counts[listener]]:
            logits = radio_sharpness * radio_taste @ radio_taste[seed]
            logits = logits + radio_popularity * log_popularity
            logits[seed] = -np.inf
            order, propensity = _choose(rng, logits)
            voted = rng.random(len(order)) < max(0.05, vote_rate[listener])
            size = int(np.clip(rng.lognormal(2.4, 0.7), 5, 60))
            # The station ends with its last vote, or when nothing is left to play.
            ends = np.flatnonzero(voted)[size - 1 : size]
            length = int(ends[0]) + 1 if len(ends) else len(order)
            position = np.arange(length)
            seconds = rng.integers(300 * 86_400) + 240 * position + 86_400 * (position // 15)
            same = np.ones(length, np.int64)
            rows.append(
                (same * listener, same * station, same * seed, order[:length], position,
                 voted[:length].astype(np.int64), seconds)
            )  # fmt: skip
            propensities.append(propensity[:length])
            recorded += int(voted[:length].sum())
            station += 1

    listener_of, station_of, seed_of, track_of, position_of, voted_of, seconds_of = (
        np.concatenate(column) for column in zip(*rows, strict=True)
    )
    similarity = np.sum(unit[seed_of] * unit[track_of], axis=1)
    centre = float(similarity.mean())
    opinion = similarity_scale * (similarity - centre)
    opinion += affinity_scale * affinity[listener_of, track_of] + kind[listener_of]
    up = rng.random(len(opinion)) < 1 / (1 + np.exp(-opinion))
    flipped = rng.random(len(opinion)) < flip_rate
    thumb = np.where(up ^ flipped, 1, -1) * voted_of
    return Radio(
        listener=listener_of,
        station=station_of,
        seed=seed_of,
        track=track_of,
        position=position_of,
        propensity=np.concatenate(propensities),
        thumb=thumb,
        seconds=seconds_of,
        radio_taste=radio_taste,
        kindness=kind,
        similarity_centre=centre,
    )


def _choose(rng: np.random.Generator, logits: Floats) -> tuple[Integers, Floats]:
    """All finite `logits` [tracks] in the order drawn, and the probability of each draw."""
    order = np.argsort(-(logits + rng.gumbel(size=len(logits))))
    order = order[np.isfinite(logits[order])]
    weight = np.exp(logits[order] - logits[order].max())
    left = np.cumsum(weight[::-1])[::-1]
    return order, weight / left


def _even(vectors: Floats) -> Floats:
    """Centred vectors [tracks, dims] whose squared length is 1 on average."""
    vectors = vectors - vectors.mean(axis=0)
    return vectors / float(np.sqrt(np.mean(np.sum(vectors**2, axis=1))))
