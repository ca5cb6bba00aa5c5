"""What a list needs to know of the corpus: a track by its row, and rows by id, path and name.

Each map is made once, when it is first asked for: no later request passes over all tracks.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cbmr.corpus import Corpus
from cbmr.playlists.formats import Entry, shown_name
from cbmr.vectors import Vectors


@dataclass(frozen=True)
class Track:
    """What shapes and rules look at.

    `source` is a row of the corpus, or the entry of an audio file outside it. `artist` and `album`
    are as they are compared (`folded`), empty where unknown; `duration_s` is NaN where unknown;
    `vector` is `[embedding_size]`, unit, and so is `query`: what a seed asks for, which its
    listeners know better than its sound where it has some.
    """

    source: int | Entry
    title: str
    artist: str
    album: str
    duration_s: float
    vector: np.ndarray
    query: np.ndarray


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A corpus and the vectors of its tracks."""

    corpus: Corpus
    vectors: Vectors

    @cached_property
    def row_of_id(self) -> dict[str, int]:
        """The row of each track id."""
        return {track_id: row for row, track_id in enumerate(self.corpus.track_ids.tolist())}

    @cached_property
    def rows_of_title(self) -> dict[str, list[int]]:
        """The rows of each folded title; tracks without one are not in it."""
        return _rows_by(map(folded, self.corpus.title.tolist()))

    @cached_property
    def rows_of_name(self) -> dict[str, list[int]]:
        """The rows of each folded "artist - title"."""
        names = zip(self.corpus.artist.tolist(), self.corpus.title.tolist(), strict=True)
        return _rows_by(folded(shown_name(*name)) for name in names)

    @cached_property
    def rows_of_file(self) -> dict[str, list[int]]:
        """The rows of each file name, without its folders."""
        return _rows_by(path.rpartition("/")[2] for path in self.corpus.path.tolist())

    @cached_property
    def row_of_vector(self) -> np.ndarray:
        """`[vectors]`: the row of each vector's track, -1 where the corpus does not have it."""
        rows = [self.row_of_id.get(name, -1) for name in self.vectors.track_ids.tolist()]
        return np.array(rows, dtype=np.int64)

    @cached_property
    def vector_of_row(self) -> np.ndarray:
        """`[tracks]`: the place of each track's vector, -1 where it has none."""
        places = np.full(len(self.corpus.track_ids), -1)
        known = np.flatnonzero(self.row_of_vector >= 0)
        places[self.row_of_vector[known]] = known
        return places

    def track(self, source: int | Entry, vector: np.ndarray | None = None) -> Track:
        """A track of the corpus, or an audio file outside it with its `vector`."""
        if isinstance(source, Entry):
            assert vector is not None
            artist, album = folded(source.artist), folded(source.album)
            return Track(source, source.title, artist, album, source.duration_s, vector, vector)
        vector = self.vectors.vectors[self.vector_of_row[source]]
        return Track(
            source=source,
            title=str(self.corpus.title[source]),
            artist=folded(str(self.corpus.artist[source])),
            album=folded(str(self.corpus.album[source])),
            duration_s=float(self.corpus.duration_s[source]),
            vector=vector,
            query=vector,
        )

    def entry(self, source: int | Entry, similarity: float) -> Entry:
        """The same, as a list shows it."""
        if isinstance(source, Entry):
            return replace(source, similarity=similarity)
        path = self.corpus.audio_path(source)
        return Entry(
            track_id=str(self.corpus.track_ids[source]),
            title=str(self.corpus.title[source]) or path.stem,
            artist=str(self.corpus.artist[source]),
            album=str(self.corpus.album[source]),
            path=path,
            duration_s=float(self.corpus.duration_s[source]),
            similarity=similarity,
        )


def folded(text: str) -> str:
    """Text as names are compared: whatever its case, its spaces, and how its accents are coded."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _rows_by(keys: Iterable[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if key:
            rows.setdefault(key, []).append(row)
    return rows
