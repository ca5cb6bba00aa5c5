"""The tables a user brings, as checked arrays, and the one split of the tracks.

Conventions: an id is a string outside and a row (its place in `track_ids` or `user_ids`) inside;
this room alone turns one into the other. A table comes in as a polars DataFrame with the columns of
`checks.COLUMNS`; everything wrong with one is an `InputError` that names the file, the column, the
row (counted from 1, without the header) and its value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cbmr.corpus.checks import (
    COLUMNS,
    checked_table,
    not_on_the_seed,
    of_known_tracks,
    refuse_duplicates,
    refuse_exposures,
    refuse_rows,
    refuse_triplets,
)
from cbmr.corpus.records import (
    Exposures,
    Plays,
    Thumbs,
    Triplets,
    exposures_of,
    numbers,
    plays_of,
    rows_of,
    text,
    thumbs_of,
    triplets_of,
    years,
)
from cbmr.corpus.sessions import with_order, with_sessions, with_times
from cbmr.corpus.split import SPLITS, split_by_hash
from cbmr.errors import InputError

__all__ = [
    "SPLITS", "Corpus", "Exposures", "Plays", "Thumbs", "Triplets", "known_artist", "make_corpus",
    "rows_of", "split_by_hash", "training_exposures", "training_plays", "training_triplets",
    "votes_of",
]  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """A checked corpus.

    `title`, `artist`, `album` and `style` are `[tracks]` text, empty where unknown; `duration_s` is
    NaN where unknown, the `year` of its release 0. `split` is `[tracks]` of `SPLITS`, or None when
    it depends on plays that were not read. A table that was not read is None. `notes` says what was
    left out, a sentence each.
    """

    folder: Path
    track_ids: np.ndarray
    path: np.ndarray
    title: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    style: np.ndarray
    year: np.ndarray
    duration_s: np.ndarray
    split: np.ndarray | None
    user_ids: np.ndarray
    plays: Plays | None
    thumbs: Thumbs | None
    exposures: Exposures | None
    triplets: Triplets | None
    notes: tuple[str, ...]

    def track_rows(self, track_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Rows `[n]` of known track ids; -1 where an id is not in the tracks table."""
        return rows_of(self.track_ids, np.asarray(track_ids, dtype=str))

    def audio_path(self, row: int) -> Path:
        """Where a track's audio is; relative paths start at the corpus's folder."""
        return self.folder / str(self.path[row])

    def in_split(self, name: str) -> np.ndarray:
        """Rows of the tracks of one split, ascending."""
        assert self.split is not None, "this corpus was read without the plays that split it"
        return np.flatnonzero(self.split == name)


def make_corpus(
    folder: Path,
    tracks: pl.DataFrame,
    plays: pl.DataFrame | None = None,
    thumbs: pl.DataFrame | None = None,
    exposures: pl.DataFrame | None = None,
    triplets: pl.DataFrame | None = None,
    *,
    holdout: bool = True,
    sessions: bool = False,
    names: Mapping[str, str] | None = None,
) -> Corpus:
    """Check the tables and turn them into a corpus.

    `holdout=False` puts every track into the training split. With `sessions` the plays are those of
    training tracks alone, one entry a (session, track) (`corpus.sessions`): when another track was
    heard decides nothing. `names` gives the file behind each table, for messages. Repeated plays of
    one (listener, track) are summed; of repeated votes and exposures of one (listener, seed,
    track), and of one listener's answers on the same three tracks, the latest by `time` counts,
    without `time` the last row. Where nobody is named, every answer counts.
    """
    files = {name: name for name in COLUMNS} | dict(names or {})
    notes: list[str] = []
    tracks = checked_table("tracks", tracks, files["tracks"], notes)
    refuse_duplicates(tracks, files["tracks"])
    track_ids = text(tracks, "track_id")

    if plays is not None:
        plays = checked_table("plays", plays, files["plays"], notes)
        refuse_rows(plays, "count", pl.col("count") <= 0, files["plays"], "a count above 0")
        if sessions:
            plays = with_times(plays, files["plays"])
        plays = of_known_tracks(plays, ("track_id",), track_ids, files["plays"], notes)
    if thumbs is not None:
        thumbs = checked_table("thumbs", thumbs, files["thumbs"], notes)
        bad_thumb = ~pl.col("thumb").is_in([1, -1])
        refuse_rows(thumbs, "thumb", bad_thumb, files["thumbs"], "+1 (up) or -1 (down)")
        thumbs = with_order(thumbs, files["thumbs"])
        thumbs = of_known_tracks(thumbs, ("seed_id", "track_id"), track_ids, files["thumbs"], notes)
        thumbs = not_on_the_seed(thumbs, files["thumbs"], notes)
    if exposures is not None:
        file = files["exposures"]
        exposures = checked_table("exposures", exposures, file, notes)
        refuse_exposures(exposures, file)
        exposures = with_order(exposures, file)
        exposures = of_known_tracks(exposures, ("seed_id", "track_id"), track_ids, file, notes)
    if triplets is not None:
        file = files["triplets"]
        triplets = checked_table("triplets", triplets, file, notes)
        refuse_triplets(triplets, file)
        triplets = with_order(triplets, file)
        triplets = of_known_tracks(triplets, ("a", "b", "odd"), track_ids, file, notes)

    tables = [table for table in (plays, thumbs, exposures, triplets) if table is not None]
    users = [text(table, "user_id") for table in tables]
    user_ids = np.unique(np.concatenate(users)) if users else np.empty(0, dtype=str)
    user_ids = user_ids[user_ids != ""]
    artist, album = text(tracks, "artist"), text(tracks, "album")
    play_arrays = None if plays is None else plays_of(plays, track_ids, user_ids)
    split = _split(tracks, track_ids, artist, play_arrays, holdout, files["tracks"])
    if sessions and plays is not None and split is not None:
        train = plays.filter(pl.col("track_id").is_in(track_ids[split == "train"].tolist()))
        train = with_sessions(train, files["plays"], notes)
        play_arrays = plays_of(train, track_ids, user_ids)
    return Corpus(
        folder=folder,
        track_ids=track_ids,
        path=text(tracks, "path"),
        title=text(tracks, "title"),
        artist=artist,
        album=album,
        style=text(tracks, "style"),
        year=years(tracks),
        duration_s=numbers(tracks, "duration_s"),
        split=split,
        user_ids=user_ids,
        plays=play_arrays,
        thumbs=None if thumbs is None else thumbs_of(thumbs, track_ids, user_ids),
        exposures=None if exposures is None else exposures_of(exposures, track_ids, user_ids),
        triplets=None if triplets is None else triplets_of(triplets, track_ids, user_ids),
        notes=tuple(notes),
    )


def _split(
    tracks: pl.DataFrame,
    track_ids: np.ndarray,
    artist: np.ndarray,
    plays: Plays | None,
    holdout: bool,
    file: str,
) -> np.ndarray | None:
    if not holdout:
        return np.full(len(track_ids), "train")
    if "split" in tracks.columns:
        outside = ~pl.col("split").is_in(SPLITS)
        refuse_rows(tracks, "split", outside, file, "train, valid or test")
        split = text(tracks, "split")
        if not (split == "train").any():
            raise InputError(f"{file}: column 'split' has no 'train': nothing to learn from")
        return split
    if plays is None:
        return None
    return split_by_hash(track_ids, artist, np.isin(np.arange(len(track_ids)), plays.track))


def training_plays(corpus: Corpus) -> Plays:
    """The plays of training tracks: all that collaborative filtering may see."""
    plays = corpus.plays
    assert plays is not None and corpus.split is not None
    kept = corpus.split[plays.track] == "train"
    if not kept.any():
        raise InputError("no play is of a training track: nothing can be learned from these plays")
    return plays[kept]


def votes_of(corpus: Corpus, split: str) -> Thumbs:
    """The votes that belong to a split.

    A vote trains only if its seed and its track are both `train`. It validates if its track is
    `valid` and its seed is not `test`, and tests if its track is `test`.
    """
    thumbs = corpus.thumbs
    assert thumbs is not None and corpus.split is not None
    seed, track = corpus.split[thumbs.seed], corpus.split[thumbs.track]
    chosen = track == split
    if split == "train":
        chosen &= seed == "train"
    elif split == "valid":
        chosen &= seed != "test"
    return thumbs[chosen]


def training_exposures(corpus: Corpus) -> Exposures:
    """The exposures whose seed and track are both `train`; there may be none."""
    exposures = corpus.exposures
    assert exposures is not None and corpus.split is not None
    train = corpus.split == "train"
    kept = train[exposures.seed] & train[exposures.track]
    return Exposures(*(column[kept] for column in vars(exposures).values()))


def training_triplets(corpus: Corpus) -> Triplets:
    """The answers whose three tracks are all `train`; there may be none."""
    triplets = corpus.triplets
    assert triplets is not None and corpus.split is not None
    train = corpus.split == "train"
    kept = train[triplets.a] & train[triplets.b] & train[triplets.odd]
    return Triplets(*(column[kept] for column in vars(triplets).values()))


def known_artist(corpus: Corpus) -> np.ndarray:
    """`[tracks]` bool: the track's artist has a training track. False where it has no artist."""
    known = np.unique(corpus.artist[corpus.in_split("train")])
    return np.isin(corpus.artist, known) & (corpus.artist != "")
