"""What a table has to look like, and the errors of one that does not."""

import difflib
from collections.abc import Sequence

import numpy as np
import polars as pl

from cbmr.errors import InputError

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
EXPOSURE_COLUMNS = {
    "user_id": TEXT, "seed_id": TEXT, "track_id": TEXT, "position": INTEGER, "propensity": NUMBER,
    "played_ratio": NUMBER, "time": TIME, "station_id": TEXT,
}  # fmt: skip
TRIPLET_COLUMNS = {"a": TEXT, "b": TEXT, "odd": TEXT, "user_id": TEXT, "time": TIME}
REQUIRED = {
    "tracks": ("track_id", "path"),
    "plays": ("user_id", "track_id", "count"),
    "thumbs": ("user_id", "seed_id", "track_id", "thumb"),
    "exposures": ("user_id", "seed_id", "track_id"),
    "triplets": ("a", "b", "odd"),
}
COLUMNS = {
    "tracks": TRACK_COLUMNS, "plays": PLAY_COLUMNS, "thumbs": THUMB_COLUMNS,
    "exposures": EXPOSURE_COLUMNS, "triplets": TRIPLET_COLUMNS,
}  # fmt: skip
MOST_REPEATS = 10
"""A `played_ratio` above this is no track heard again and again, but a percentage."""


def checked_table(kind: str, table: pl.DataFrame, file: str, notes: list[str]) -> pl.DataFrame:
    """The columns of `COLUMNS[kind]` as their types, rows as they came.

    A column that looks like a misspelt optional one is told in `notes`; InputError for a missing
    column, a wrong type, an empty table or an empty required field.
    """
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
        refuse_rows(table, name, empty, file, f"{columns[name]}, not an empty field")
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
        return column  # where it is asked for, `sessions` reads it
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


def refuse_rows(table: pl.DataFrame, name: str, bad: pl.Expr, file: str, expected: str) -> None:
    """InputError that names the first row for which `bad` holds or cannot be told."""
    failed = table.select(bad.fill_null(True)).to_series()
    if failed.any():
        row = int(failed.arg_max() or 0)
        raise InputError(
            f"{file}: column {name!r}, row {row + 1}: {table[name][row]!r}, expected {expected}"
        )


def refuse_exposures(exposures: pl.DataFrame, file: str) -> None:
    """InputError for a number out of range; what is empty or NaN is unknown."""
    position, propensity = pl.col("position"), pl.col("propensity").fill_nan(None)
    outside = {
        "position": (position < 0, "a place on the station, at least 0"),
        "propensity": ((propensity <= 0) | (propensity > 1), "a probability above 0, at most 1"),
    }
    for name, (bad, expected) in outside.items():
        if name in exposures.columns:
            refuse_rows(exposures, name, bad.fill_null(False), file, expected)
    refuse_ratios(exposures, file)


def refuse_ratios(table: pl.DataFrame, file: str) -> None:
    """InputError for a `played_ratio` that is no share; what is empty or NaN is unknown."""
    if "played_ratio" in table.columns:
        ratio = pl.col("played_ratio").fill_nan(None)
        bad = ((ratio < 0) | (ratio > MOST_REPEATS)).fill_null(False)
        expected = "a share of the track, 1 for all of it; is it in per cent?"
        refuse_rows(table, "played_ratio", bad, file, expected)


def refuse_triplets(triplets: pl.DataFrame, file: str) -> None:
    """InputError for a row whose three tracks are not three."""
    a, b, odd = map(pl.col, ("a", "b", "odd"))
    refuse_rows(triplets, "b", b == a, file, "another track than in 'a'")
    refuse_rows(triplets, "odd", (odd == a) | (odd == b), file, "another track than in 'a' and 'b'")


def refuse_duplicates(tracks: pl.DataFrame, file: str) -> None:
    """InputError that names the first track id that stands twice, and where."""
    repeated = tracks["track_id"].is_duplicated()
    if repeated.any():
        value = tracks["track_id"][int(repeated.arg_max() or 0)]
        rows = np.flatnonzero((tracks["track_id"] == value).to_numpy())[:2] + 1
        raise InputError(
            f"{file}: column 'track_id', rows {rows[0]} and {rows[1]}: {value!r} twice, expected "
            "unique ids"
        )


def of_known_tracks(
    table: pl.DataFrame, columns: Sequence[str], track_ids: np.ndarray, file: str, notes: list[str]
) -> pl.DataFrame:
    """The rows whose `columns` all name tracks of `track_ids`; how many were left out is noted."""
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


def not_on_the_seed(thumbs: pl.DataFrame, file: str, notes: list[str]) -> pl.DataFrame:
    """The votes but for those on a station's own seed, as whether a track belongs on its own
    station is no question; how many were left out is noted."""
    kept = thumbs.filter(pl.col("seed_id") != pl.col("track_id"))
    left_out = len(thumbs) - len(kept)
    if left_out:
        notes.append(f"{file}: {left_out} of {len(thumbs)} votes are on the seed itself, left out")
    return kept
