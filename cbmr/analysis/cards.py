"""Units as a person meets them: chosen, with their lists, moments and pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from cbmr.analysis.filters import filter_strip, first_filters
from cbmr.analysis.groups import Groups, groups_of
from cbmr.analysis.units import (
    Selectivity,
    Strongest,
    moment_s,
    selectivity,
    sound_at_peaks,
)
from cbmr.audio import excerpt_starts
from cbmr.corpus import Corpus
from cbmr.encoder import Encoder
from cbmr.errors import InputError
from cbmr.spectrograms import SpectrogramStore, Store

UNITS = 12
"""Of a layer, where none are chosen."""
SHOWN = 0.98
"""Of what is heard, this share sets the scale: a band that is hardly ever heard may be far out."""
COUNTED = ("style", "artist", "album")


@dataclass(frozen=True)
class UnitList:
    """The tracks to which a unit reacts most, by one of `OVER_TIME` or `WHOLE`.

    `rows` `[tracks]` are of the corpus, `values` the reactions, and `moments_s` says when in the
    track the unit reacts most: NaN where it hears the clip as a whole or the file is gone. `common`
    is what the tracks have in common.
    """

    by: str
    rows: np.ndarray
    values: np.ndarray
    moments_s: np.ndarray
    common: tuple[Selectivity, ...]


@dataclass(frozen=True)
class Card:
    """A unit of a layer and its lists, by maximum and mean or by its one activation.

    `filter` is `[mels, columns]`, of the first layer alone, in -1..1 of the layer's largest weight;
    `heard` is `[mels, frames]`, what the unit sees on average where the tracks of the first list
    are at their maxima, in -1..1, all but its largest values true to scale, and lasts `heard_s`.
    None where there is no such picture.
    """

    layer: str
    unit: int
    filter: np.ndarray | None
    heard: np.ndarray | None
    heard_s: float
    lists: tuple[UnitList, ...]


def most_selective(
    strongest: Mapping[str, Strongest], groups: Sequence[Groups], n: int = UNITS
) -> list[int]:
    """The numbers of the `n` units whose lists have most in common, the first of the `groups`
    counting: by how much larger its share of a list is than its share of all tracks. Units that
    react to nothing are left out.
    """
    scores = {}
    units, wanted = next(iter(strongest.values())).rows.shape
    for unit in range(units):
        lists = [_reacting(of, unit) for of in strongest.values()]
        scores[unit] = max(_excess(groups, rows, wanted) for rows, _, _ in lists)
    order = sorted(scores, key=lambda unit: (-scores[unit], unit))
    return [unit for unit in order if scores[unit] > -math.inf][:n]


def _excess(groups: Sequence[Groups], rows: np.ndarray, wanted: int) -> float:
    if not len(rows):
        return -math.inf
    common = selectivity(groups[0], rows) if groups else None
    if common is None:
        return 0.0
    return common.share * len(rows) / wanted - common.share_of_all


def make_cards(
    encoder: Encoder,
    store: Store,
    corpus: Corpus,
    strongest: Mapping[str, Mapping[str, Strongest]],
    units: Sequence[int] = (),
) -> list[Card]:
    """Cards of these units of every layer (`check_units`), or without any, of each layer's
    `most_selective`. InputError for a store whose tracks are not the corpus's.
    """
    corpus_rows = corpus.track_rows(store.track_ids)
    if (corpus_rows < 0).any():
        gone = str(store.track_ids[int(np.argmin(corpus_rows))])
        raise InputError(
            f"{store.folder} holds track {gone!r}, which is not in the tracks table any more: run "
            "python -m tasks.scan"
        )
    groups = [one for one in groups_of(corpus, corpus_rows) if one.name in COUNTED]

    spec = encoder.mel_spec

    @cache
    def excerpt_start_s(row: int) -> float:
        return _excerpt_start_s(store, corpus, row)

    def tracks_of(by: str, tracks: Strongest, unit: int) -> UnitList:
        rows, values, starts = _reacting(tracks, unit)
        moments_s = [
            math.nan if spec is None or start < 0 else moment_s(spec, start, excerpt_start_s(row))
            for row, start in zip(corpus_rows[rows].tolist(), starts.tolist(), strict=True)
        ]
        common = [found for one in groups if (found := selectivity(one, rows)) is not None]
        return UnitList(by, corpus_rows[rows], values, np.array(moments_s), tuple(common))

    cards = []
    for layer, by in strongest.items():
        first = next(iter(by.values()))
        for unit in units or most_selective(by, groups):
            drawn = _filter(encoder, layer, unit, len(first.rows))
            heard, heard_s = _heard(encoder, store, layer, first, unit)
            lists = tuple(tracks_of(name, tracks, unit) for name, tracks in by.items())
            cards.append(Card(layer, unit, drawn, heard, heard_s, lists))
    return cards


def _reacting(tracks: Strongest, unit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, values and starts of a unit's tracks; at exactly zero a unit is silent."""
    reacts = tracks.values[unit] != 0
    return tracks.rows[unit][reacts], tracks.values[unit][reacts], tracks.starts[unit][reacts]


def _excerpt_start_s(store: Store, corpus: Corpus, row: int) -> float:
    """Where in the file the store's excerpt began, in seconds; NaN for a file that is gone."""
    assert isinstance(store, SpectrogramStore), "what comes as vectors has no layers over time"
    try:
        path = corpus.audio_path(row)
        (start_s,) = excerpt_starts(path, duration_s=store.excerpt_s, excerpts=1)
    except InputError:
        return math.nan
    return start_s


def _filter(encoder: Encoder, layer: str, unit: int, count: int) -> np.ndarray | None:
    if encoder.mel_spec is None or layer != next(iter(encoder.network.layers())):
        return None
    filters = first_filters(encoder)
    pieces = len(filters) // count
    strip: np.ndarray = filter_strip(filters[unit * pieces : (unit + 1) * pieces])
    return strip / np.abs(filters).max()


def _heard(
    encoder: Encoder, store: Store, layer: str, tracks: Strongest, unit: int
) -> tuple[np.ndarray | None, float]:
    rows, _, starts = _reacting(tracks, unit)
    if encoder.mel_spec is None or not len(rows) or starts[0] < 0:
        return None, math.nan
    heard = sound_at_peaks(encoder, store, layer, rows, starts)
    seconds = heard.shape[1] * encoder.mel_spec.hop / encoder.mel_spec.sample_rate
    limit = max(float(np.quantile(np.abs(heard), SHOWN)), 1e-12)
    return (heard / limit).clip(-1, 1), seconds
