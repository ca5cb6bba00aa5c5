"""What tracks can be coloured and counted by: style, artist, album, year and split, as far as the
table has them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cbmr.corpus import SPLITS, Corpus

LONGEST_SPAN = 12
"""Years that are told apart one by one; more of them are told apart by decade."""


@dataclass(frozen=True)
class Groups:
    """Tracks by one of their properties: `of` `[tracks]` is each one's place among `values`, -1
    where it is unknown. Values come by how many tracks have them, or in their own order where they
    are `ordered`."""

    name: str
    values: tuple[str, ...]
    of: np.ndarray
    ordered: bool = False


def groups_of(corpus: Corpus, rows: np.ndarray) -> list[Groups]:
    """The properties of these rows of the corpus in which two tracks differ, style first."""
    found = [
        _by_size("style", corpus.style[rows]),
        _by_size("artist", corpus.artist[rows]),
        _by_size("album", corpus.album[rows]),
        _by_year(corpus.year[rows]),
    ]
    if corpus.split is not None:
        found.append(_ordered("split", corpus.split[rows], SPLITS))
    return [groups for groups in found if len(groups.values) > 1]


def _by_size(name: str, values: np.ndarray) -> Groups:
    known, counts = np.unique(values[values != ""], return_counts=True)
    return _in_order(name, values, known[np.argsort(-counts, kind="stable")].tolist(), False)


def _by_year(years: np.ndarray) -> Groups:
    known = years[years > 0]
    by_decade = len(known) > 0 and known.max() - known.min() >= LONGEST_SPAN
    named = [
        "" if year == 0 else f"{year // 10 * 10}s" if by_decade else str(year)
        for year in years.tolist()
    ]
    return _ordered("year", np.array(named, dtype=str), sorted({*named} - {""}))


def _ordered(name: str, values: np.ndarray, order: Iterable[str]) -> Groups:
    return _in_order(name, values, [value for value in order if (values == value).any()], True)


def _in_order(name: str, values: np.ndarray, order: list[str], ordered: bool) -> Groups:
    place = {value: at for at, value in enumerate(order)}
    of = np.array([place.get(value, -1) for value in values.tolist()], dtype=np.int64)
    return Groups(name, tuple(order), of, ordered)
