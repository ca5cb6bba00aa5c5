"""Seeds to an ordered list of tracks, why near ones were left out, and the playlist file formats.

`seeds` finds the tracks that a person means, `shapes` says what each place of a list asks for,
`rules` what may not stand there, `formats` reads and writes files. Here they meet: places are
filled from the first to the last, each by the nearest track that no rule refuses; no track stands
twice. What only has to stand somewhere else, as artists do that are too close, waits for the next
place where it may.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from cbmr.errors import InputError
from cbmr.index import Index
from cbmr.playlists.catalogue import Catalogue, Track
from cbmr.playlists.formats import (
    FORMATS,
    PATHS,
    SUFFIXES,
    Entry,
    LeftOut,
    Playlist,
    choose_format,
    format_playlist,
    shown_name,
)
from cbmr.playlists.reading import read_playlist
from cbmr.playlists.rules import Rule, core_title, is_full, make_rules, total_length
from cbmr.playlists.seeds import Found, find_excluded, find_track, find_tracks
from cbmr.playlists.shapes import MODES, Shape, interpolate, make_shape, waypoint_places

__all__ = [
    "FORMATS", "MODES", "PATHS", "SUFFIXES", "TRACKS", "Catalogue", "Entry", "Found", "LeftOut",
    "Playlist", "Rule", "Track", "choose_format", "core_title", "find_excluded", "find_track",
    "find_tracks", "first_allowed", "format_playlist", "interpolate", "make_playlist", "make_rules",
    "read_playlist", "shown_name", "waypoint_places",
]  # fmt: skip
TRACKS = 20
"""In a list where neither a number nor a total length is asked for."""
FIRST_ASKED = 64


def make_playlist(
    catalogue: Catalogue,
    index: Index,
    seeds: Sequence[Track],
    rules: Sequence[Rule] | None = None,
    *,
    weights: Sequence[float] | None = None,
    n: int | None = None,
    mode: str = "nearest",
    lookback: int = 3,
    temperature: float = 0.0,
    rng_seed: int = 0,
    total_duration_s: float | None = None,
    title: str | None = None,
    crowding: np.ndarray | None = None,
) -> Playlist:
    """The list of `n` tracks, its seeds included, that `mode` asks for and `rules` allow (None:
    those of `make_rules()`).

    Shorter when rules or catalogue leave no more; a path is then spread anew over what fits. With
    `total_duration_s` the list ends within half a track of that length, `n` or not. `temperature`
    above 0 draws each place from the nearest `FIRST_ASKED` by `softmax(cosine / temperature)`,
    repeatably by `rng_seed`. With the `crowding` `[vectors]` of `cbmr.hubs` a track is as near as
    its cosine less half of that. `left_out` are the tracks that were looked at and refused, by
    rising place and in the order of the search. InputError for settings that contradict each other.
    """
    if total_duration_s is not None and mode == "path":
        raise InputError(
            "total_duration_s= has no meaning with mode=path, which has exactly n tracks: "
            "leave one out"
        )
    rules = make_rules() if rules is None else rules
    if total_duration_s is not None:
        rules = (total_length(total_duration_s), *rules)
    asked = limit = TRACKS if n is None and total_duration_s is None else n
    if limit is not None and limit < len(seeds):
        raise InputError(
            f"n={limit}, but there are {len(seeds)} seeds, which n counts: expected n={len(seeds)} "
            "or more"
        )
    rng = np.random.default_rng(rng_seed)

    def nearest(query: np.ndarray) -> Iterator[tuple[Track, float]]:
        return _by_cosine(catalogue, index, query, crowding, temperature, rng)

    left_out: dict[int, LeftOut] = {}
    while True:
        shape = make_shape(mode, seeds, weights, limit or 0, lookback)
        filled = _fill(nearest, shape, rules, limit, total_duration_s, left_out)
        if not shape.holes or len(filled) == limit:
            break
        limit = len(filled)  # gaps closed as they are would break rules that had looked across
    entries = tuple(catalogue.entry(track.source, cosine) for track, cosine in filled)
    listed = {place: track for place, (track, _) in enumerate(filled)}
    return Playlist(
        title=title or _title(mode, entries, len(seeds)),
        entries=entries,
        left_out=tuple(left_out.values()),
        exhausted=(
            len(filled) != asked
            and not (total_duration_s is not None and is_full(listed, total_duration_s))
        ),
    )


def first_allowed(
    catalogue: Catalogue,
    scored: Iterable[tuple[Track, float]],
    rules: Sequence[Rule],
    *,
    n: int,
    title: str,
) -> Playlist:
    """The first `n` that `rules` allow of tracks of the corpus that come in order, each with a
    score, which stands in for the cosine."""
    no_query = np.empty(0)  # the same for every place: the order is there already
    shape = Shape({}, lambda place, listed: no_query)
    left_out: dict[int, LeftOut] = {}
    filled = _fill(lambda query: iter(scored), shape, rules, n, None, left_out)
    return Playlist(
        title=title,
        entries=tuple(catalogue.entry(track.source, score) for track, score in filled),
        left_out=tuple(left_out.values()),
        exhausted=len(filled) < n,
    )


def _by_cosine(
    catalogue: Catalogue,
    index: Index,
    query: np.ndarray,
    crowding: np.ndarray | None,
    temperature: float,
    rng: np.random.Generator,
) -> Iterator[tuple[Track, float]]:
    """Tracks with their cosines, nearest first, each once; more are asked of the index as they are
    used up.

    With `crowding` the order is of `cosine - crowding / 2`. What the index has not given yet has at
    most the last cosine and at least the smallest crowding: only what is above these two is given.

    Sorted by `cosine / temperature` plus Gumbel noise, tracks come as if drawn one after the other
    by its softmax, also those that rules leave (Yellott 1977). The noise stays within what was
    asked at once: over all tracks the many that are far would outweigh the few that are near.
    """
    asked, given = FIRST_ASKED, set[int]()
    while True:
        found, cosines = index.nearest(query, asked)
        scores = cosines if crowding is None else cosines - crowding[found] / 2
        if temperature > 0:
            order = np.argsort(-(scores / temperature + rng.gumbel(size=len(scores))))
            found, cosines = found[order], cosines[order]
        elif crowding is not None:
            order = np.lexsort((found, -scores))
            if asked < len(index):
                order = order[scores[order] > cosines[-1] - crowding.min() / 2]
            found, cosines = found[order], cosines[order]
        rows = catalogue.row_of_vector[found].tolist()
        for row, cosine in zip(rows, cosines.tolist(), strict=True):
            if row >= 0 and row not in given:
                given.add(row)
                yield catalogue.track(row), cosine
        if asked >= len(index):
            return
        asked *= 4


def _fill(
    nearest: Callable[[np.ndarray], Iterator[tuple[Track, float]]],
    shape: Shape,
    rules: Sequence[Rule],
    n: int | None,
    total_duration_s: float | None,
    left_out: dict[int, LeftOut],
) -> list[tuple[Track, float]]:
    """The tracks of a list in order with their cosines; who is refused on the way is in `left_out`
    by its row."""
    listed = dict(shape.seeds)
    cosine_at = dict.fromkeys(listed, 1.0)
    settled = {seed.source for seed in listed.values()}  # taken, or refused for good
    query: np.ndarray | None = None
    near: Iterator[tuple[Track, float]] = iter(())
    waiting: dict[int, tuple[Track, float]] = {}
    for place in itertools.count() if n is None else range(n):
        if place in listed:
            continue
        if total_duration_s is not None and is_full(listed, total_duration_s):
            break
        wanted = shape.query(place, listed)
        if wanted is not query:
            query, near, waiting = wanted, nearest(wanted), {}
        for track, cosine in itertools.chain(tuple(waiting.values()), near):
            row = track.source
            assert isinstance(row, int)
            if row in settled:
                continue
            rule = next((rule for rule in rules if rule.refuses(track, place, listed)), None)
            if rule is not None and rule.passing:
                left_out[row] = LeftOut(row, cosine, rule.name)
                waiting[row] = (track, cosine)
                continue
            settled.add(row)
            waiting.pop(row, None)
            if rule is None:
                listed[place], cosine_at[place] = track, cosine
                left_out.pop(row, None)
                break
            left_out[row] = LeftOut(row, cosine, rule.name)
        else:
            if not shape.holes:
                break
    return [(listed[place], cosine_at[place]) for place in sorted(listed)]


def _title(mode: str, entries: Sequence[Entry], seeds: int) -> str:
    if mode == "path":
        return f"From {entries[0].title} to {entries[-1].title}"
    more = f" and {seeds - 1} more" if seeds > 1 else ""
    return f"Like {entries[0].title}{more}"
