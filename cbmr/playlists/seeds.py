"""What a person typed, or a file lists, to tracks of the corpus.

A track is looked for by its id, then by its path, then by its name: the title alone where no artist
is given, or "artist - title", whatever its case. What is none of these but a file is audio from
outside the corpus.
"""

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cbmr.corpus import Corpus
from cbmr.errors import InputError
from cbmr.playlists.catalogue import Catalogue, folded
from cbmr.playlists.formats import SUFFIXES, Entry, shown_name
from cbmr.playlists.reading import read_playlist, typed_entry

MOST_NAMED = 10
ABSENT = "are not in the corpus"
UNUSED = f"{ABSENT}, have no vector there, or share their name with others"


@dataclass(frozen=True)
class Found:
    """Rows of the corpus and entries of audio files outside it, each once, in the order given, with
    their `weights` if any were; `title` is that of the one playlist read, else empty; `notes` says
    what of the files was not found, a sentence each."""

    tracks: tuple[int | Entry, ...]
    weights: tuple[float, ...] | None
    title: str
    notes: tuple[str, ...]


def find_tracks(
    catalogue: Catalogue,
    words: Sequence[str],
    *,
    setting: str = "seed",
    weights: Sequence[float] | None = None,
) -> Found:
    """The tracks that `words` name: ids, paths, names, audio files, and files that list any of
    these.

    A track of a file weighs what its word does, one named twice weighs the sum. Raises InputError,
    under the name of `setting`, for a word that names no track (with the nearest titles) or several
    (with the ids to choose from), for a track without a vector, and for a file of which nothing is
    found.
    """
    if not words:
        raise InputError(f"{setting}=[]: expected at least one track")
    each = [1.0] * len(words) if weights is None else [*weights]
    numbers = all(type(weight) in (int, float) and 0 < weight < math.inf for weight in each)
    if len(each) != len(words) or not numbers:
        raise InputError(
            f"weights={weights}: expected {len(words)} numbers above 0, one for each {setting}; "
            "what is not wanted goes into negative="
        )
    kept: dict[int | Path | None, int | Entry] = {}
    total: dict[int | Path | None, float] = {}
    named = 0
    titles: list[str] = []
    notes: list[str] = []
    for word, weight in zip(words, each, strict=True):
        if _is_list(catalogue, word):
            playlist = read_playlist(Path(word).expanduser())
            titles.append(playlist.title)
            tracks = [_listed(catalogue, entry) for entry in playlist.entries]
            missing = [
                entry
                for entry, track in zip(playlist.entries, tracks, strict=True)
                if track is None
            ]
            notes += _note(f"{setting}={word}", missing, len(tracks), UNUSED)
            if len(missing) == len(tracks):
                raise InputError(_nothing_of(f"{setting}={word}", playlist.entries))
        else:
            tracks = [find_track(catalogue, word, setting=setting, or_list=True)]
        for track in tracks:
            if track is not None:
                named += 1
                key = track.path if isinstance(track, Entry) else track
                kept.setdefault(key, track)
                total[key] = total.get(key, 0.0) + weight
    if named > len(total):
        notes.append(f"{setting}: of {named} tracks {named - len(total)} were repeated")
    return Found(
        tracks=tuple(kept.values()),
        weights=None if weights is None else tuple(total.values()),
        title=titles[0] if len(words) == 1 and titles else "",
        notes=tuple(notes),
    )


def find_track(
    catalogue: Catalogue, word: str, *, setting: str = "seed", or_list: bool = False
) -> int | Entry:
    """The row of the one track that `word` names, or the entry of an audio file outside the corpus.

    Errors are those of `find_tracks`; `or_list` where they may advise lists.
    """
    corpus = catalogue.corpus
    entry = typed_entry(word)
    rows = _rows(catalogue, entry)
    if len(rows) > 1:
        named = "; ".join(_named(corpus, row) for row in rows[:MOST_NAMED])
        raise InputError(
            f"{setting}={word}: {len(rows)} tracks have this title, choose one by its id: {named}"
        )
    if rows:
        if catalogue.vector_of_row[rows[0]] < 0:
            raise InputError(
                f"{setting}={word}: {corpus.audio_path(rows[0])} has no vector: it was not "
                "readable when scanned, or is new since (python -m tasks.scan, then tasks.embed)"
            )
        return rows[0]
    outside = _outside(entry)
    if outside is not None:
        return outside
    near = difflib.get_close_matches(folded(word), catalogue.rows_of_title, 5, cutoff=0.5)
    hint = "; ".join(_named(corpus, catalogue.rows_of_title[title][0]) for title in near)
    several = f"; several are typed as {setting}=[a,b]" if or_list and "," in word else ""
    file = "an audio file or a playlist" if or_list else "or an audio file"
    raise InputError(
        f"{setting}={word}: expected a track id, a title, {file}; nearest titles: "
        f"{hint or 'none is near'}{several}"
    )


def find_excluded(catalogue: Catalogue, path: Path) -> tuple[frozenset[int], tuple[str, ...]]:
    """The rows of every track that a playlist, or a file of ids one a line, may mean, and a note on
    those that are not in the corpus. InputError for a file that is not there, or names none."""
    if not path.is_file():
        raise InputError(
            f"exclude={path} is not there: expected a playlist or a file of track ids, one a line"
        )
    entries = read_playlist(path).entries
    rows = [_rows(catalogue, entry) for entry in entries]
    missing = [entry for entry, found in zip(entries, rows, strict=True) if not found]
    if entries and len(missing) == len(entries):
        raise InputError(_nothing_of(f"exclude={path}", entries))
    note = _note(f"exclude={path}", missing, len(entries), ABSENT)
    return frozenset(row for found in rows for row in found), tuple(note)


def _is_list(catalogue: Catalogue, word: str) -> bool:
    path = Path(os.path.expanduser(word))  # noqa: PTH111 ("~nobody" may be a title)
    known = word in catalogue.row_of_id
    # A title may be longer than any file name, at which Path.is_file raises.
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path) and not known  # noqa: PTH113


def _rows(catalogue: Catalogue, entry: Entry) -> list[int]:
    """Every row that an entry may mean, by the first of id, path and name that fits any."""
    if entry.track_id is not None and entry.track_id in catalogue.row_of_id:
        return [catalogue.row_of_id[entry.track_id]]
    if entry.path is not None:
        corpus, real = catalogue.corpus, None
        for row in catalogue.rows_of_file.get(entry.path.name, ()):
            real = real or os.path.realpath(entry.path)
            if (
                entry.track_id == corpus.path[row]
                or os.path.realpath(corpus.audio_path(row)) == real
            ):
                return [row]
    by_title = [] if entry.artist else catalogue.rows_of_title.get(folded(entry.title), [])
    return by_title or catalogue.rows_of_name.get(folded(shown_name(entry.artist, entry.title)), [])


def _listed(catalogue: Catalogue, entry: Entry) -> int | Entry | None:
    """The track of a file's entry; None where there is none, or it is not clear which."""
    rows = _rows(catalogue, entry)
    if rows:
        same_artist = len({*catalogue.corpus.artist[rows].tolist()}) == 1
        return rows[0] if same_artist and catalogue.vector_of_row[rows[0]] >= 0 else None
    return _outside(entry)


def _outside(entry: Entry) -> Entry | None:
    """The entry of a file that is there, under the names that its list gives it."""
    # As above: what was typed may be too long for a file name.
    if entry.path is None or not os.path.isfile(entry.path):  # noqa: PTH113
        return None
    typed = entry.title == entry.track_id  # which is a path, then
    title = entry.path.stem if typed or not entry.title else entry.title
    return replace(entry, track_id=None, title=title)


def _named(corpus: Corpus, row: int) -> str:
    artist = f" by {corpus.artist[row]}" if corpus.artist[row] else ""
    return f"{corpus.title[row]}{artist} ({corpus.track_ids[row]})"


def _nothing_of(file: str, entries: Sequence[Entry]) -> str:
    if not entries:
        return f"{file} lists no track"
    return (
        f"{file}: none of its {len(entries)} tracks (the first is {_shown(entries[0])!r}) is in "
        "the corpus: expected track ids, paths or names of it"
    )


def _note(file: str, missing: Sequence[Entry], of: int, why: str) -> list[str]:
    if not missing:
        return []
    first = _shown(missing[0])
    return [f"{file}: {len(missing)} of {of} tracks {why}, the first is {first!r}"]


def _shown(entry: Entry) -> str:
    return shown_name(entry.artist, entry.title) or entry.track_id or str(entry.path)
