"""Draws what the radio stations of the demo world play, and what their listeners vote.

Conventions: those of `world.py`; logits are natural logarithms of weights, -inf for what cannot be
played.
"""

from dataclasses import dataclass

import numpy as np

from cbmr.sources.demo.catalogue import Track
from cbmr.sources.demo.world import Floats, Integers, Taste


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

    A listener opens 1 to 5 stations on seeds of his own. Where all have had their turn and votes
    are still wanted, there is another round, on other seeds, until nobody has one left.
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
    opened = np.zeros((listeners, tracks), bool)
    station = recorded = 0
    turns: list[int] = []
    while recorded < votes and not opened.all():
        turns = turns or rng.permutation(listeners).tolist()
        listener = turns.pop(0)
        gumbel = rng.gumbel(size=tracks)
        seeds = np.argsort(-(seed_logits + affinity[listener] + gumbel))
        seeds = seeds[~opened[listener, seeds]][: station_counts[listener]]
        opened[listener, seeds] = True
        for seed in seeds:
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
