"""Draws what the radio stations of the demo world play, and what their listeners vote.

Conventions: those of `world.py`; logits are natural logarithms of weights, -inf for what cannot be
played.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    radio_censoring: float,
    similarity_scale: float,
    affinity_scale: float,
    kindness: float,
    kindness_spread: float,
    vote_spread: float,
    flip_rate: float,
) -> Radio:
    """Stations of 5 to 60 votes, listener after listener, until there are about `votes` votes.

    A listener opens 1 to 5 stations on seeds of his own, times exp(vote_spread * z -
    vote_spread**2 / 2), z being the standard score of his kindness: the kindly are the heavy
    voters, the average stays. Where all have had their turn and votes are still wanted, there is
    another round, on other seeds, until nobody has one left.

    A station chooses its next track with probability proportional to
    exp(radio_sharpness * cos(radio_taste[seed], radio_taste[track])) * popularity**radio_popularity
    among the tracks it has not played yet, the seed excepted. It repeats nothing: a down bans the
    track there for good, and an up does not bring it back either. After each down, as recorded, the
    weight of every track falls there by the factor
    exp(-radio_censoring * max(0, cos(radio_taste[down], radio_taste[track]))).

    The listener votes on a track with a probability of his own, and votes up with probability
    sigmoid(similarity_scale * (cos(taste of seed, taste of track) - similarity_centre)
    + affinity_scale * affinity + kindness of the listener); the vote is recorded the wrong way
    round with probability `flip_rate`. `similarity_centre` is the mean similarity of what the
    stations play without censoring, so that with it a vote still follows the same rule.
    """
    tracks, listeners = len(catalogue), len(taste.user_taste)
    affinity = taste.user_taste @ taste.track_taste.T
    unit = taste.track_taste / np.linalg.norm(taste.track_taste, axis=1, keepdims=True)
    noise = rng.standard_normal(unit.shape) * taste.track_taste.std(axis=0)
    radio_taste = taste.track_taste + radio_noise * noise
    radio_taste = radio_taste / np.linalg.norm(radio_taste, axis=1, keepdims=True)
    log_popularity = np.log(taste.popularity)

    def station_logits(seed: int) -> Floats:
        logits: Floats = radio_sharpness * radio_taste @ radio_taste[seed]
        logits = logits + radio_popularity * log_popularity
        logits[seed] = -np.inf
        return logits

    score = rng.standard_normal(listeners)
    kind = kindness + kindness_spread * score
    vote_rate = np.maximum(0.05, rng.beta(2.0, 3.0, listeners))
    eagerness = np.exp(vote_spread * score - vote_spread**2 / 2)
    counts = np.rint(rng.integers(1, 6, listeners) * eagerness).astype(np.int64)
    # New tracks are rarely the seed: people start a station from what they know.
    seed_logits = log_popularity + np.log(
        [1.0 if track.split == "train" else 0.25 for track in catalogue]
    )
    listener, station, seed, track, position, propensity, voted, seconds = _draw_stations(
        rng, votes, seed_logits + affinity, np.clip(counts, 1, tracks), vote_rate, station_logits
    )

    centre = float(np.sum(unit[seed] * unit[track], axis=1).mean())
    luck = rng.random(len(track))
    flipped = rng.random(len(track)) < flip_rate

    def vote(rows: Integers) -> Integers:
        """What is recorded of the tracks of these rows, [rows]."""
        similarity = np.sum(unit[seed[rows]] * unit[track[rows]], axis=1)
        opinion = similarity_scale * (similarity - centre)
        opinion += affinity_scale * affinity[listener[rows], track[rows]] + kind[listener[rows]]
        up = luck[rows] < 1 / (1 + np.exp(-opinion))
        thumb: Integers = np.where(up ^ flipped[rows], 1, -1) * voted[rows]
        return thumb

    every_row = np.arange(len(track))
    if radio_censoring > 0:
        # The same stations, as long and with votes in the same places, play other tracks.
        for rows in np.split(every_row, np.flatnonzero(position == 0)[1:]):
            logits = station_logits(seed[rows[0]])
            for row in rows:
                weight = np.exp(logits - logits.max())
                probability = weight / weight.sum()
                track[row] = chosen = rng.choice(tracks, p=probability)
                propensity[row] = probability[chosen]
                if vote(row[None])[0] < 0:
                    likeness = radio_taste @ radio_taste[chosen]
                    logits = logits - radio_censoring * np.maximum(likeness, 0)
                logits[chosen] = -np.inf
    return Radio(
        listener=listener,
        station=station,
        seed=seed,
        track=track,
        position=position,
        propensity=propensity,
        thumb=vote(every_row),
        seconds=seconds,
        radio_taste=radio_taste,
        kindness=kind,
        similarity_centre=centre,
    )


def _draw_stations(
    rng: np.random.Generator,
    votes: int,
    seed_logits: Floats,
    counts: Integers,
    vote_rate: Floats,
    station_logits: Callable[[int], Floats],
) -> tuple[Any, ...]:
    """Columns [exposures]: listener, station, seed, track, position, propensity, whether there is a
    vote (1 or 0), seconds; from the logits of a listener's seeds [listeners, tracks], the stations
    opened in a turn and the share of tracks voted on, [listeners], and a station's logits by seed.
    """
    listeners, tracks = seed_logits.shape
    rows: list[tuple[Integers | Floats, ...]] = []
    opened = np.zeros((listeners, tracks), bool)
    station = recorded = 0
    turns: list[int] = []
    while recorded < votes and not opened.all():
        turns = turns or rng.permutation(listeners).tolist()
        listener = turns.pop(0)
        seeds = np.argsort(-(seed_logits[listener] + rng.gumbel(size=tracks)))
        seeds = seeds[~opened[listener, seeds]][: counts[listener]]
        opened[listener, seeds] = True
        for seed in seeds:
            order, propensity = _choose(rng, station_logits(seed))
            voted = rng.random(len(order)) < vote_rate[listener]
            size = int(np.clip(rng.lognormal(2.4, 0.7), 5, 60))
            # The station ends with its last vote, or when nothing is left to play.
            ends = np.flatnonzero(voted)[size - 1 : size]
            length = int(ends[0]) + 1 if len(ends) else len(order)
            position = np.arange(length)
            seconds = rng.integers(300 * 86_400) + 240 * position + 86_400 * (position // 15)
            same = np.ones(length, np.int64)
            rows.append(
                (same * listener, same * station, same * seed, order[:length], position,
                 propensity[:length], voted[:length].astype(np.int64), seconds)
            )  # fmt: skip
            recorded += int(voted[:length].sum())
            station += 1
    return tuple(np.concatenate(column) for column in zip(*rows, strict=True))


def _choose(rng: np.random.Generator, logits: Floats) -> tuple[Integers, Floats]:
    """All finite `logits` [tracks] in the order drawn, and the probability of each draw."""
    order = np.argsort(-(logits + rng.gumbel(size=len(logits))))
    order = order[np.isfinite(logits[order])]
    weight = np.exp(logits[order] - logits[order].max())
    left = np.cumsum(weight[::-1])[::-1]
    return order, weight / left
