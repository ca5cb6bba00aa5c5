"""A folder of tables (the names of `WHAT_FOR`; Parquet, or CSV with a header, UTF-8), both ways.

Every field of a CSV is read as text and parsed by the corpus's own checks, so that a wrong value is
reported with its row and ids keep their leading zeros. What an adapter found is written as Parquet,
with `source.json`, which says what it was made from.
"""

import codecs
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from cbmr.corpus import Corpus, make_corpus
from cbmr.errors import InputError
from cbmr.files import read_json, whole_file, write_arrays, write_json
from cbmr.forgotten import FILE, forgotten

WHAT_FOR = {
    "tracks": "which tracks there are and where their audio is",
    "plays": "who played what: collaborative filtering learns from it",
    "thumbs": "votes on radio stations: stage 2 learns from them",
    "exposures": "what radio stations played, voted on or not: weaker evidence for stage 2",
    "triplets": "which of three tracks is the odd one out: python -m tasks.survey asks",
}
FORMAT_VERSION = 1
MADE_BY = "source.json"
FEATURES = "features.npz"
WRITTEN = ("tracks", "plays", "thumbs")
"""What adapters find; `tracks` is the last that gets its name."""
NO_AUDIO = "no audio"
"""The `path` of a track of which the source ships none."""
CHECKED_ROWS = 1_000_000
"""As many rows of a long table are checked before it counts: its adapter treats all rows alike."""


@dataclass(frozen=True)
class Found:
    """What an adapter made of a source.

    `tables` are those of `WRITTEN` that there are; a LazyFrame is never held whole. `features` are
    track ids `[tracks]` and their vectors `[tracks, size]`, where a source ships vectors in place
    of audio. `notes` says what was found, what was left out and why, a sentence each.
    """

    tables: Mapping[str, pl.DataFrame | pl.LazyFrame]
    notes: Sequence[str]
    features: tuple[np.ndarray, np.ndarray] | None = None


def read_corpus(
    folder: Path,
    *,
    needs: Collection[str] = (),
    uses: Collection[str] = (),
    holdout: bool = True,
    sessions: bool = False,
) -> Corpus:
    """Read a corpus folder: `tracks`, the tables it `needs`, and of those it `uses` what is there.
    `sessions` keeps the training plays of each listening session apart.

    Raises InputError when the folder, a needed table or anything in a table is not as expected.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"corpus={folder} {what}: expected a folder with tracks.parquet or .csv")
    files: dict[str, Path] = {}
    for name in ("tracks", *needs, *uses):
        found = [folder / f"{name}{suffix}" for suffix in (".parquet", ".csv")]
        found = [file for file in found if file.exists()]
        if len(found) == 2:
            raise InputError(f"{found[0]} and {found[1].name} are both there: keep one of them")
        if found:
            files[name] = found[0]
        elif name == "tracks" or name in needs:
            near = _misnamed(folder, name)
            raise InputError(
                f"{folder} has no {name}.parquet or {name}.csv ({WHAT_FOR[name]}){near}"
            )
    tables = {name: _read_table(file) for name, file in files.items()}
    for name in set(tables) - {"tracks", *needs}:
        if tables[name].is_empty():
            del tables[name]  # a header alone, for what may as well be missing
    return make_corpus(
        folder,
        tables["tracks"],
        tables.get("plays"),
        tables.get("thumbs"),
        tables.get("exposures"),
        tables.get("triplets"),
        holdout=holdout,
        sessions=sessions,
        names={name: str(file) for name, file in files.items()},
    )


def write_corpus(folder: Path, found: Found, *, source: str, path: Path) -> None:
    """Write what `source` found at `path` as a corpus, whole, once it reads as one.

    A corpus of the same source is written over, its answers to the survey left as they are.
    Raises InputError for a folder that holds any other corpus, and for a full disk.
    """
    refuse_other(folder, source)
    write_json(
        folder / MADE_BY,
        {"format_version": FORMAT_VERSION, "source": source, "path": str(path.absolute())},
    )
    with ExitStack() as stack:
        written = {}
        for name in [name for name in WRITTEN if name in found.tables]:
            file = stack.enter_context(whole_file(folder / f"{name}.parquet"))
            found.tables[name].lazy().sink_parquet(file)
            file.flush()
            rows = None if name == "tracks" else CHECKED_ROWS
            written[name] = pl.read_parquet(file.name, n_rows=rows)
        make_corpus(folder, written["tracks"], written.get("plays"), written.get("thumbs"))
        if found.features is not None:
            track_ids, features = found.features
            write_arrays(folder / FEATURES, track_ids=track_ids, features=features)
    stale = [f"{name}.parquet" for name in WRITTEN if name not in found.tables]
    for name in [*stale, *([] if found.features is not None else [FEATURES])]:
        (folder / name).unlink(missing_ok=True)


def without_forgotten(folder: Path, found: Found) -> Found:
    """What was found without the tracks and listeners that this corpus was told to forget.

    A track is known by its id and, where the source tells size and time of change, by these, as
    one that was moved is.
    """
    if not (folder / FILE).exists():
        return found
    tracks = found.tables["tracks"].lazy()
    ids = forgotten(folder, "tracks", _unique(tracks, "track_id"))
    if {"size", "mtime_ns"} <= {*tracks.collect_schema()}:
        stamp = pl.format("{} {}", "size", "mtime_ns")
        stamps = forgotten(folder, "files", _unique(tracks.select(stamp=stamp), "stamp"))
        ids |= {*_unique(tracks.filter(stamp.is_in([*stamps])), "track_id")}
    users: set[str] = set()
    for table in found.tables.values():
        if "user_id" in table.lazy().collect_schema():
            users |= forgotten(folder, "users", _unique(table.lazy(), "user_id"))
    tables = {}
    for name, table in found.tables.items():
        columns = {"track_id", "seed_id", "user_id"} & {*table.lazy().collect_schema()}
        gone = {column: [*(users if column == "user_id" else ids)] for column in columns}
        kept = table.lazy().filter(~pl.col(column).is_in(of) for column, of in gone.items())
        if name == "tracks" or kept.head(1).collect(engine="streaming").height:
            tables[name] = kept
    features = found.features
    if features is not None:
        stay = ~np.isin(features[0], [*ids])
        features = (features[0][stay], features[1][stay])
    note = f"{len(ids)} tracks and {len(users)} listeners are left out, forgotten before ({FILE})"
    return replace(
        found, tables=tables, features=features, notes=[*found.notes, *[note] * bool(ids | users)]
    )


def refuse_other(folder: Path, source: str) -> None:
    """InputError where `folder` holds anything that `source` would write over and did not make."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"corpus={folder} is a file: expected a folder, made where missing")
    if (folder / MADE_BY).exists():
        other = read_json(folder / MADE_BY).get("source")
        what = f"a corpus made by source={other}"
        if other == source:
            return
    else:
        names = [f"{name}{suffix}" for name in WHAT_FOR for suffix in (".parquet", ".csv")]
        mine = [name for name in [*names, FEATURES] if (folder / name).exists()]
        what = ", ".join(mine)
        if not mine:
            return
    raise InputError(
        f"corpus={folder} holds {what}, which source={source} did not make: expected a new folder, "
        "or one that the same source made before"
    )


def counts(folder: Path) -> dict[str, int]:
    """What an ingested corpus holds: `tracks`, `artists`, `plays`, `listeners`, `ups` and `downs`,
    0 where there are none."""

    def of(name: str, **wanted: pl.Expr) -> dict[str, int]:
        file = folder / f"{name}.parquet"
        if not file.exists():
            return dict.fromkeys(wanted, 0)
        # A column that the table lacks is one without any value.
        lacks = {"artist"} - set(pl.read_parquet_schema(file)) if name == "tracks" else set()
        table = pl.scan_parquet(file).with_columns(pl.lit("").alias(column) for column in lacks)
        return table.select(**wanted).collect(engine="streaming").row(0, named=True)

    artist = pl.col("artist").filter(pl.col("artist") != "").n_unique()
    user, count, thumb = map(pl.col, ("user_id", "count", "thumb"))
    return {
        **of("tracks", tracks=pl.len(), artists=artist),
        **of("plays", plays=count.sum(), listeners=user.n_unique()),
        **of("thumbs", ups=(thumb == 1).sum(), downs=(thumb == -1).sum()),
    }


def _read_table(file: Path) -> pl.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pl.read_parquet(file)
        _refuse_other_csv(file)
        return pl.read_csv(file, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise InputError(f"{file} is empty: expected a header and at least one row") from None
    except pl.exceptions.PolarsError as error:
        kind = "Parquet" if file.suffix == ".parquet" else "CSV in UTF-8"
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as {kind}: {reason}") from error


def _refuse_other_csv(file: Path) -> None:
    """InputError for what spreadsheets also save as CSV."""
    with file.open("rb") as opened:
        header = opened.readline()
    if header.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{file} is in UTF-16: expected CSV in UTF-8; save it as that")
    for mark, name in ((b";", "semicolons"), (b"\t", "tabs")):
        if mark in header and b"," not in header:
            raise InputError(f"{file} has {name} between its columns: expected commas")


def _unique(table: pl.LazyFrame, column: str) -> list[str]:
    unique = table.select(pl.col(column).unique()).collect(engine="streaming")
    return unique.to_series().drop_nulls().to_list()


def _misnamed(folder: Path, name: str) -> str:
    others = sorted(file.name for file in folder.iterdir() if file.stem.lower() == name)
    return f"; {others[0]} is there, is it meant?" if others else ""
