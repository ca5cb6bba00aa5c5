"""Rows out of tables, arrays and lists, each file whole or as it was; all other rows stay."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from cbmr.errors import InputError
from cbmr.files import whole_file
from cbmr.forget.traces import Wanted, names_track
from cbmr.playlists import PATHS, SUFFIXES, format_playlist, read_playlist

TABLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "track": {
        "plays": ("track_id",),
        "thumbs": ("seed_id", "track_id"),
        "exposures": ("seed_id", "track_id"),
        "triplets": ("a", "b", "odd"),
        "tracks": ("track_id",),
    },
    "user": dict.fromkeys(("plays", "thumbs", "exposures", "triplets"), ("user_id",)),
}
"""By kind, the columns of a corpus's tables that name one. The table that knows where a track's
audio is comes last, so that what was interrupted can begin again."""
ARRAYS: Mapping[str, tuple[str, ...]] = {
    "track": (
        "track_ids", "item_factors", "item_listeners", "vectors", "confidence", "features",
        "activations", "crowding", "track_taste", "sound_taste", "radio_taste", "popularity",
        "attributes", "tempo_bpm", "key", "mode", "metre", "kind",
    ),
    "user": ("user_ids", "user_factors", "user_taste", "kindness"),
    "neither": ("encoder", "attribute_names", "similarity_centre", "flip_rate"),
}  # fmt: skip
"""By kind, the arrays of cbmr's `.npz` that have a row for each; the first has the ids."""


def rows_of_tables(corpus: Path, kind: str, name: str) -> dict[Path, tuple[int, int]]:
    """The tables of a corpus with rows that name it: how many do, and how many rows there are.

    InputError for a table that cannot be read.
    """
    found = {}
    for stem, columns in TABLES[kind].items():
        for file in (corpus / f"{stem}.parquet", corpus / f"{stem}.csv"):
            if file.exists():
                table = _scan(file)
                named = _names(table, columns, name)
                counted = table.select(named.sum().alias("named"), all=pl.len())
                rows = counted.collect(engine="streaming").row(0)
                if rows[0]:
                    found[file] = rows
    return found


def users_of(corpus: Path) -> set[str]:
    """The listeners that a corpus's tables name."""
    users: set[str] = set()
    for stem in TABLES["user"]:
        for file in (corpus / f"{stem}.parquet", corpus / f"{stem}.csv"):
            if file.exists() and "user_id" in _scan(file).collect_schema():
                unique = _scan(file).select(pl.col("user_id").cast(pl.String).unique())
                users |= {*unique.collect(engine="streaming").to_series().drop_nulls()}
    return users


def without_in_table(file: Path, kind: str, name: str) -> None:
    """Write a table again without the rows that name it; one that would be empty is removed."""
    table = _scan(file)
    kept = table.filter(~_names(table, TABLES[kind][file.stem], name))
    if not kept.select(pl.len()).collect(engine="streaming").item():
        file.unlink()
        return
    # The categories of a column are written with it, those of no row included.
    schema = table.collect_schema()
    coded = [column for column, dtype in schema.items() if dtype in (pl.Categorical, pl.Enum)]
    kept = kept.with_columns(pl.col(coded).cast(pl.String))
    with whole_file(file) as written:
        if file.suffix == ".parquet":
            kept.sink_parquet(written)
        else:
            kept.sink_csv(written)


def without_in_arrays(path: Path, kind: str, ids: Collection[str]) -> dict[str, np.ndarray] | None:
    """The arrays of an `.npz` without the rows of `ids`; None where cbmr has no array of one of
    these names, or its rows are not those of the ids."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    of_kind = ARRAYS[kind]
    known = {name for names in ARRAYS.values() for name in names}
    if of_kind[0] not in arrays or {*arrays} - known:
        return None
    if any(len(arrays[name]) != len(arrays[of_kind[0]]) for name in {*of_kind} & {*arrays}):
        return None
    stay = ~np.isin(arrays[of_kind[0]], [*ids])
    return {name: array[stay] if name in of_kind else array for name, array in arrays.items()}


def without_in_list(path: Path, wanted: Wanted) -> str | None:
    """The text of a playlist file without the track; None where writing it again would change more
    than that, as with a list that cbmr did not write."""
    form = SUFFIXES.get(path.suffix.lower(), "table")
    if form == "table":
        return None
    try:
        playlist = read_playlist(path)
    except InputError:
        return None
    if any(entry.path is None for entry in playlist.entries):
        return None
    stay = tuple(entry for entry in playlist.entries if not names_track(entry, wanted))
    for paths in PATHS:
        shown = partial(format_playlist, form=form, paths=paths, base=path.parent)
        if shown(playlist).encode(errors="replace") == path.read_bytes():
            return shown(replace(playlist, entries=stay))
    return None


def _scan(file: Path) -> pl.LazyFrame:
    is_parquet = file.suffix == ".parquet"
    table = pl.scan_parquet(file) if is_parquet else pl.scan_csv(file, infer_schema=False)
    try:
        table.collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file} cannot be read ({reason}): mend it, or remove it, and forget again"
        ) from error
    return table


def _names(table: pl.LazyFrame, columns: Collection[str], name: str) -> pl.Expr:
    """Whether a row names it. A column may be absent, and a cell empty."""
    there = [column for column in columns if column in table.collect_schema()]
    if not there:
        return pl.lit(False)
    return pl.any_horizontal(pl.col(column).cast(pl.String).eq_missing(name) for column in there)
