"""The three tables a user brings, as checked arrays: tracks, plays, thumbs, and the one split.

Conventions: an id is a string outside and a row (its place in `track_ids` or `user_ids`) inside;
this module alone turns one into the other. A table comes in as a polars DataFrame with the columns
of `TRACK_COLUMNS`, `PLAY_COLUMNS`, `THUMB_COLUMNS`; everything wrong with one is an `InputError`
that names the file, the column, the row (counted from 1, without the header) and its value.
"""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cbmr.errors import InputError

SPLITS = ("train", "valid", "test")
HELD_OUT_SHARE = 0.10
"""Share of the played tracks that become new artists, and again single new tracks, in `valid`."""

TEXT, INTEGER, NUMBER, DATE, TIME = "text", "a whole number", "a number", "a date", "a time"
TRACK_COLUMNS = {
    "track_id": TEXT, "path": TEXT, "title": TEXT, "artist": TEXT, "album": TEXT,
    "duration_s": NUMBER, "released": DATE, "mbid": TEXT, "isrc": TEXT, "style": TEXT,
    "split": TEXT,
}  # fmt: skip
PLAY_COLUMNS = {
    "user_id": TEXT, "track_id": TEXT, "count": INTEGER,
    "time": TIME, "played_ratio": NUMBER, "session_id": TEXT,
}  # fmt: skip
THUMB_COLUMNS = {
    "user_id": TEXT, "seed_id": TEXT, "track_id": TEXT, "thumb": INTEGER,
    "time": TIME, "station_id": TEXT,
}  # fmt: skip
REQUIRED = {
    "tracks": ("track_id", "path"),
    "plays": ("user_id", "track_id", "count"),
    "thumbs": ("user_id", "seed_id", "track_id", "thumb"),
}
COLUMNS = {"tracks": TRACK_COLUMNS, "plays": PLAY_COLUMNS, "thumbs": THUMB_COLUMNS}


@dataclass(frozen=True)
class Plays:
    """Who played what how often; one entry a (listener, track). Arrays are `[plays]`."""

    user: np.ndarray
    track: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Thumbs:
    """Votes on radio stations; one entry a (listener, seed, track). Arrays are `[votes]`.

    `user`, `seed` and `track` are rows; `up` is True for a thumb up, False for a thumb down.
    """

    user: np.ndarray
    seed: np.ndarray
    track: np.ndarray
    up: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Thumbs":
        return Thumbs(self.user[chosen], self.seed[chosen], self.track[chosen], self.up[chosen])

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Corpus:
    """A checked corpus.

    `title`, `artist` and `album` are `[tracks]` text, empty where unknown; `duration_s` is NaN
    where unknown. `split` is `[tracks]` of `SPLITS`, or None when it depends on plays that were
    not read. `notes` says what was left out, a sentence each.
    """

    folder: Path
    track_ids: np.ndarray
    path: np.ndarray
    title: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    duration_s: np.ndarray
    split: np.ndarray | None
    user_ids: np.ndarray
    plays: Plays | None
    thumbs: Thumbs | None
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


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each `wanted` id in `ids`, -1 where it is not there; both `[n]` of text."""
    if len(ids) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    return np.where(ids[order[at]] == wanted, order[at], -1)


def make_corpus(
    folder: Path,
    tracks: pl.DataFrame,
    plays: pl.DataFrame | None = None,
    thumbs: pl.DataFrame | None = None,
    *,
    holdout: bool = True,
    names: Mapping[str, str] | None = None,
) -> Corpus:
    """Check the tables and turn them into a corpus.

    `holdout=False` puts every track into the training split. `names` gives the file behind each
    table, for messages. Repeated plays of one (listener, track) are summed; of repeated votes on
    one (listener, seed, track) the latest by `time` counts, without `time` the last row.
    """
    files = {"tracks": "tracks", "plays": "plays", "thumbs": "thumbs", **(names or {})}
    notes: list[str] = []
    tracks = _checked_table("tracks", tracks, files["tracks"], notes)
    _refuse_duplicates(tracks, files["tracks"])
    track_ids = _text(tracks, "track_id")

    if plays is not None:
        plays = _checked_table("plays", plays, files["plays"], notes)
        _refuse_rows(plays, "count", pl.col("count") <= 0, files["plays"], "a count above 0")
        plays = _of_known_tracks(plays, ("track_id",), track_ids, files["plays"], notes)
    if thumbs is not None:
        thumbs = _checked_table("thumbs", thumbs, files["thumbs"], notes)
        bad_thumb = ~pl.col("thumb").is_in([1, -1])
        _refuse_rows(thumbs, "thumb", bad_thumb, files["thumbs"], "+1 (up) or -1 (down)")
        thumbs = _of_known_tracks(
            thumbs, ("seed_id", "track_id"), track_ids, files["thumbs"], notes
        )

    tables = [table for table in (plays, thumbs) if table is not None]
    users = [_text(table, "user_id") for table in tables]
    user_ids = np.unique(np.concatenate(users)) if users else np.empty(0, dtype=str)
    artist, album = _text(tracks, "artist"), _text(tracks, "album")
    play_arrays = None if plays is None else _plays(plays, track_ids, user_ids)
    return Corpus(
        folder=folder,
        track_ids=track_ids,
        path=_text(tracks, "path"),
        title=_text(tracks, "title"),
        artist=artist,
        album=album,
        duration_s=_numbers(tracks, "duration_s"),
        split=_split(tracks, track_ids, artist, play_arrays, holdout, files["tracks"]),
        user_ids=user_ids,
        plays=play_arrays,
        thumbs=None if thumbs is None else _thumbs(thumbs, track_ids, user_ids),
        notes=tuple(notes),
    )


def training_plays(corpus: Corpus) -> Plays:
    """The plays of training tracks: all that collaborative filtering may see."""
    plays = corpus.plays
    assert plays is not None and corpus.split is not None
    kept = corpus.split[plays.track] == "train"
    if not kept.any():
        raise InputError("no play is of a training track: nothing can be learned from these plays")
    return Plays(plays.user[kept], plays.track[kept], plays.count[kept])


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


def known_artist(corpus: Corpus) -> np.ndarray:
    """`[tracks]` bool: the track's artist has a training track. False where it has no artist."""
    known = np.unique(corpus.artist[corpus.in_split("train")])
    return np.isin(corpus.artist, known) & (corpus.artist != "")


# --- checks -------------------------------------------------------------------------------------


def _checked_table(kind: str, table: pl.DataFrame, file: str, notes: list[str]) -> pl.DataFrame:
    columns = COLUMNS[kind]
    for name in REQUIRED[kind]:
        if name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, 1, cutoff=0.5)
            hint = f"; is {near[0]!r} meant?" if near else ""
            has = ", ".join(table.columns) or "no columns"
            raise InputError(f"{file} lacks the column {name!r} (it has {has}{hint})")
    if table.is_empty():
        raise InputError(f"{file} is empty: expected at least one row")
    absent = [name for name in columns if name not in table.columns]
    for name in table.columns:
        near = difflib.get_close_matches(name.lower(), absent, 1, cutoff=0.8)
        if name not in columns and near:
            notes.append(f"{file}: column {name!r} is not read; is {near[0]!r} meant?")
    table = table.select(
        _typed(table, name, columns[name], file) for name in table.columns if name in columns
    )
    for name in REQUIRED[kind]:
        empty = pl.col(name).is_null()
        if columns[name] == TEXT:
            empty |= pl.col(name) == ""
        _refuse_rows(table, name, empty, file, f"{columns[name]}, not an empty field")
    return table


def _typed(table: pl.DataFrame, name: str, kind: str, file: str) -> pl.Series:
    """A column as its kind's type. Text fields of a CSV are parsed; nothing is rounded or cut."""
    column = table[name]
    if column.dtype in (pl.Categorical, pl.Enum) or column.dtype == pl.Null:
        column = column.cast(pl.String)
    is_text = column.dtype == pl.String
    if kind == TEXT and is_text:
        return column
    if kind == INTEGER and column.dtype.is_integer():
        return column.cast(pl.Int64)
    if kind == NUMBER and column.dtype.is_numeric():
        return column.cast(pl.Float64)
    if kind in (DATE, TIME) and (column.dtype.is_temporal() or column.dtype.is_integer()):
        return column
    if kind == TEXT or not is_text:
        mistake = "; ids saved as numbers lose leading zeros" if kind == TEXT else ""
        raise InputError(
            f"{file}: column {name!r} is {column.dtype}, expected {kind} (row 1 is "
            f"{column[0]!r}){mistake}"
        )
    if kind in (DATE, TIME):
        return column  # ISO text sorts as time does
    parsed = column.str.strip_chars().cast(
        pl.Int64 if kind == INTEGER else pl.Float64, strict=False
    )
    failed = parsed.is_null() & column.is_not_null() & (column.str.strip_chars() != "")
    if failed.any():
        row = int(failed.arg_max() or 0)
        raise InputError(
            f"{file}: column {name!r}, row {row + 1}: {column[row]!r}, expected {kind}"
        )
    return parsed


def _refuse_rows(table: pl.DataFrame, name: str, bad: pl.Expr, file: str, expected: str) -> None:
    failed = table.select(bad.fill_null(True)).to_series()
    if failed.any():
        row = int(failed.arg_max() or 0)
        raise InputError(
            f"{file}: column {name!r}, row {row + 1}: {table[name][row]!r}, expected {expected}"
        )


def _refuse_duplicates(tracks: pl.DataFrame, file: str) -> None:
    repeated = tracks["track_id"].is_duplicated()
    if repeated.any():
        value = tracks["track_id"][int(repeated.arg_max() or 0)]
        rows = np.flatnonzero((tracks["track_id"] == value).to_numpy())[:2] + 1
        raise InputError(
            f"{file}: column 'track_id', rows {rows[0]} and {rows[1]}: {value!r} twice, expected "
            "unique ids"
        )


def _of_known_tracks(
    table: pl.DataFrame, columns: Sequence[str], track_ids: np.ndarray, file: str, notes: list[str]
) -> pl.DataFrame:
    known = pl.Series(track_ids).implode()
    kept = table.filter(*(pl.col(name).is_in(known) for name in columns))
    left_out = len(table) - len(kept)
    if kept.is_empty():
        raise InputError(
            f"{file}: none of its tracks (the first is {table[columns[-1]][0]!r}) is in the tracks "
            "table: the two were made with different ids"
        )
    if left_out:
        notes.append(f"{file}: {left_out} of {len(table)} rows name unknown tracks, left out")
    return kept


# --- tables to arrays ---------------------------------------------------------------------------


def _text(table: pl.DataFrame, name: str) -> np.ndarray:
    if name not in table.columns:
        return np.full(len(table), "", dtype="<U1")
    return np.array(table[name].fill_null("").to_list(), dtype=str)


def _numbers(table: pl.DataFrame, name: str) -> np.ndarray:
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return table[name].fill_null(float("nan")).to_numpy()


def _plays(plays: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray) -> Plays:
    summed = (
        plays.group_by("user_id", "track_id").agg(pl.col("count").sum()).sort("user_id", "track_id")
    )
    return Plays(
        user=rows_of(user_ids, _text(summed, "user_id")),
        track=rows_of(track_ids, _text(summed, "track_id")),
        count=summed["count"].to_numpy(),
    )


def _thumbs(thumbs: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray) -> Thumbs:
    if "time" in thumbs.columns:
        thumbs = thumbs.sort("time", maintain_order=True, nulls_last=False)
    latest = thumbs.unique(["user_id", "seed_id", "track_id"], keep="last", maintain_order=True)
    latest = latest.sort("user_id", "seed_id", "track_id")
    return Thumbs(
        user=rows_of(user_ids, _text(latest, "user_id")),
        seed=rows_of(track_ids, _text(latest, "seed_id")),
        track=rows_of(track_ids, _text(latest, "track_id")),
        up=(latest["thumb"] == 1).to_numpy(),
    )


# --- the one split ------------------------------------------------------------------------------


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
        _refuse_rows(tracks, "split", outside, file, "train, valid or test")
        split = _text(tracks, "split")
        if not (split == "train").any():
            raise InputError(f"{file}: column 'split' has no 'train': nothing to learn from")
        return split
    if plays is None:
        return None
    return split_by_hash(track_ids, artist, np.isin(np.arange(len(track_ids)), plays.track))


def split_by_hash(track_ids: np.ndarray, artist: np.ndarray, played: np.ndarray) -> np.ndarray:
    """Split tracks so that the same names always fall the same way; all arrays `[tracks]`.

    Tracks with no plays are `test`. Of the played, whole artists in BLAKE2b order of their name go
    to `valid` until a tenth of the tracks is there, then single tracks in BLAKE2b order of their id
    until another tenth is, each leaving its artist at least one training track.
    """
    split = np.where(played, "train", "test").astype("<U5")
    quota = HELD_OUT_SHARE * played.sum()
    names, sizes = np.unique(artist[played & (artist != "")], return_counts=True)
    taken = 0
    for name, size in sorted(zip(names, sizes, strict=True), key=lambda pair: _blake2b(pair[0])):
        if taken >= quota or len(names) < 2:
            break
        split[played & (artist == name)] = "valid"
        taken += size
    left = {name: int(((split == "train") & (artist == name)).sum()) for name in names}
    taken = 0
    for row in sorted(np.flatnonzero(split == "train"), key=lambda row: _blake2b(track_ids[row])):
        if taken >= quota:
            break
        name = artist[row]
        if name == "" or left[name] > 1:
            split[row] = "valid"
            taken += 1
            if name != "":
                left[name] -= 1
    if not (split == "train").any():
        raise InputError("no track is left to train on: the corpus needs more played tracks")
    return split


def _blake2b(text: object) -> bytes:
    return hashlib.blake2b(str(text).encode()).digest()
