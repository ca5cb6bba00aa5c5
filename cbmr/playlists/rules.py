"""What may not stand in a list: each rule a small check under the setting that asked for it.

A rule looks at a track, a place and the list so far, seeds that stand further on included, and says
whether it refuses. Seeds are never asked: who names a track wants it.
"""

import functools
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from cbmr.errors import InputError
from cbmr.playlists.catalogue import Track, folded
from cbmr.playlists.shapes import Listed

DUPLICATE_S = 2.0
"""Two files of one recording differ by less: what encoders pad, and silence that was cut."""

_VERSION = re.compile(
    r"""
    live (\ (at|in|from|on)\ .+ | \ (version|sessions?|recording|take|acoustic).* | .*\ \d{4})?
  | (recorded|acoustic|unplugged)\ live
  | (.*\b)? (re-?master(ed)? | remix(ed)?(\ by\ .+)? | mix | edit | version | demo | acoustic
    | instrumental | unplugged | mono | stereo) (\ (session|take))? (\ \d{1,4})?
  | ((alternate|alternative)\ |out)? take (\ \d+)?
    """,
    re.VERBOSE,
)
_SUFFIX = re.compile(r"(.*\S) ?(?:\(([^()]*)\)|\[([^\[\]]*)\]| [-–—] (.*?))$")


@dataclass(frozen=True)
class Rule:
    """`refuses(track, place, listed)`; what a `passing` rule refuses may stand at a later place,
    what any other does may not, however the list goes on."""

    name: str
    refuses: Callable[[Track, int, Listed], bool]
    passing: bool = False


def make_rules(
    *,
    exclude: Collection[int] = frozenset(),
    negative: Sequence[np.ndarray] = (),
    negative_distance: float = 0.2,
    min_duration_s: float | None = None,
    max_duration_s: float | None = None,
    max_per_artist: int | None = None,
    max_per_album: int | None = None,
    title_variants: bool = False,
    duplicate_similarity: float = 0.999,
    artist_spacing: int = 3,
) -> tuple[Rule, ...]:
    """The rules that these settings ask for, in the order in which they are asked.

    `exclude` are rows of the corpus. `negative` are unit vectors `[embedding_size]`: tracks at a
    cosine distance (1 - cosine) below `negative_distance` from any of them stay out. A length that
    is asked for keeps out tracks whose length is unknown. Artists and albums are told apart by name
    alone; tracks without one never clash. Title variants are tracks of one artist and one
    `core_title`; duplicates are above `duplicate_similarity` in cosine (below 1; 1 allows them) and
    within `DUPLICATE_S` in length, where both lengths are known. InputError for a minimum above its
    maximum.
    """
    if min_duration_s is not None and min_duration_s > (max_duration_s or math.inf):
        raise InputError(
            f"min_duration_s={min_duration_s} is above max_duration_s={max_duration_s}: no track "
            "is both"
        )
    rules: list[Rule] = []
    if exclude:
        rules.append(Rule("exclude", lambda track, place, listed: track.source in exclude))
    if len(negative):
        rules.append(_negative(np.stack(negative), 1 - negative_distance))
    if min_duration_s is not None:
        rules.append(_lengths("min_duration_s", lambda seconds: seconds >= min_duration_s))
    if max_duration_s is not None:
        rules.append(_lengths("max_duration_s", lambda seconds: seconds <= max_duration_s))
    if max_per_artist is not None:
        rules.append(_cap("max_per_artist", lambda track: track.artist, max_per_artist))
    if max_per_album is not None:
        rules.append(_cap("max_per_album", lambda track: track.album, max_per_album))
    if not title_variants:
        rules.append(Rule("title_variants", _is_variant))
    if duplicate_similarity < 1:
        rules.append(_duplicates(duplicate_similarity))
    if artist_spacing > 1:
        rules.append(_spacing(artist_spacing))
    return tuple(rules)


def total_length(total_duration_s: float) -> Rule:
    """Keeps out a track with which the list would end above a total length by more than half a
    track, and one of unknown length."""

    def refuses(track: Track, place: int, listed: Listed) -> bool:
        played, mean = _played(listed, track.duration_s)
        # Not "above": an unknown length, NaN, has to be refused.
        return not played + track.duration_s <= total_duration_s + mean / 2

    return Rule("total_duration_s", refuses)


def is_full(listed: Listed, total_duration_s: float) -> bool:
    """Whether a list is within half a track of a total length, or above it."""
    played, mean = _played(listed)
    return played > 0 and total_duration_s - played <= mean / 2


@functools.lru_cache(maxsize=1 << 16)
def core_title(title: str) -> str:
    """A title, folded, without the notes at its end that name a version: in brackets or after a
    spaced dash, such as "(Live at the Apollo)", "[Radio Edit]" or " - 2011 Remaster".

    By hand: "Heroes (Live) - 2017 Remaster" is "heroes"; "Live and Let Die", "Remix Culture" and
    "Ballad (I Live for You)" stay whole.
    """
    core = folded(title)
    while found := _SUFFIX.fullmatch(core):
        if not _VERSION.fullmatch(next(group for group in found.groups()[1:] if group is not None)):
            break
        core = found[1]
    return core


def _played(listed: Listed, *more: float) -> tuple[float, float]:
    """Seconds in all, and the mean of a track, of those whose length is known."""
    known = [track.duration_s for track in listed.values() if not math.isnan(track.duration_s)]
    return sum(known), (sum(known) + sum(more)) / max(1, len(known) + len(more))


def _lengths(name: str, allowed: Callable[[float], bool]) -> Rule:
    return Rule(name, lambda track, place, listed: not allowed(track.duration_s))


def _negative(negative: np.ndarray, most_cosine: float) -> Rule:
    def refuses(track: Track, place: int, listed: Listed) -> bool:
        return float((negative @ track.vector).max()) > most_cosine

    return Rule("negative_distance", refuses)


def _cap(name: str, of: Callable[[Track], str], most: int) -> Rule:
    def refuses(track: Track, place: int, listed: Listed) -> bool:
        mine = of(track)
        return mine != "" and sum(of(other) == mine for other in listed.values()) >= most

    return Rule(name, refuses)


def _is_variant(track: Track, place: int, listed: Listed) -> bool:
    if not track.artist or not track.title:
        return False
    same_artist = [other for other in listed.values() if other.artist == track.artist]
    return any(core_title(other.title) == core_title(track.title) for other in same_artist)


def _duplicates(most_similarity: float) -> Rule:
    def refuses(track: Track, place: int, listed: Listed) -> bool:
        return any(
            # Not "at most": an unknown length, NaN, rules nothing out.
            not abs(other.duration_s - track.duration_s) > DUPLICATE_S
            and float(other.vector @ track.vector) > most_similarity
            for other in listed.values()
        )

    return Rule("duplicate_similarity", refuses)


def _spacing(artist_spacing: int) -> Rule:
    near = [step for step in range(1 - artist_spacing, artist_spacing) if step]

    def refuses(track: Track, place: int, listed: Listed) -> bool:
        around = (listed.get(place + step) for step in near)
        return track.artist != "" and any(
            other is not None and other.artist == track.artist for other in around
        )

    return Rule("artist_spacing", refuses, passing=True)
