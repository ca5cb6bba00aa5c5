"""What adapters of data sets share: files that have to be there, and their columns."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from cbmr.errors import InputError


def needed(folder: Path, name: str, source: str) -> Path:
    """The file `name` of a data set's folder; InputError that says where `source` is to be had."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"path={folder} {what}: expected the folder with {name}, from {source}")
    if not (folder / name).exists():
        raise InputError(f"path={folder} has no {name}: expected it there, from {source}")
    return folder / name


def scan(file: Path, columns: Sequence[str], *, separator: str | None = None) -> pl.LazyFrame:
    """`columns` of a Parquet file, or with a `separator` of a text file in UTF-8 with a header and
    no quotes, its fields as text; InputError for one that lacks a column or cannot be read."""
    try:
        if separator is None:
            table = pl.scan_parquet(file)
        else:
            table = pl.scan_csv(
                file,
                separator=separator,
                infer_schema=False,
                quote_char=None,
                encoding="utf8-lossy",
            )
        has = table.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "Parquet" if separator is None else "a table of text"
        raise InputError(
            f"{file} cannot be read as {kind} ({str(error).splitlines()[0]}): was its download cut "
            "off?"
        ) from None
    for name in columns:
        if name not in has:
            raise InputError(f"{file} lacks the column {name!r} (it has {', '.join(has)})")
    return table.select(columns)
