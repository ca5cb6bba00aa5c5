"""A folder of tables (the names of `WHAT_FOR`; Parquet, or CSV with a header, UTF-8).

Every field of a CSV is read as text and parsed by the corpus's own checks, so that a wrong value is
reported with its row and ids keep their leading zeros.
"""

from collections.abc import Collection
from pathlib import Path

import polars as pl

from cbmr.corpus import Corpus, make_corpus
from cbmr.errors import InputError

WHAT_FOR = {
    "tracks": "which tracks there are and where their audio is",
    "plays": "who played what: collaborative filtering learns from it",
    "thumbs": "votes on radio stations: stage 2 learns from them",
    "exposures": "what radio stations played, voted on or not: weaker evidence for stage 2",
    "triplets": "which of three tracks is the odd one out: python -m tasks.survey asks",
}


def read_corpus(
    folder: Path,
    *,
    needs: Collection[str] = (),
    uses: Collection[str] = (),
    holdout: bool = True,
) -> Corpus:
    """Read a corpus folder: `tracks`, the tables it `needs`, and of those it `uses` what is there.

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
    return make_corpus(
        folder,
        tables["tracks"],
        tables.get("plays"),
        tables.get("thumbs"),
        tables.get("exposures"),
        tables.get("triplets"),
        holdout=holdout,
        names={name: str(file) for name, file in files.items()},
    )


def _read_table(file: Path) -> pl.DataFrame:
    try:
        if file.suffix == ".parquet":
            return pl.read_parquet(file)
        return pl.read_csv(file, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise InputError(f"{file} is empty: expected a header and at least one row") from None
    except pl.exceptions.PolarsError as error:
        kind = "Parquet" if file.suffix == ".parquet" else "CSV in UTF-8"
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as {kind}: {reason}") from error


def _misnamed(folder: Path, name: str) -> str:
    others = sorted(file.name for file in folder.iterdir() if file.stem.lower() == name)
    return f"; {others[0]} is there, is it meant?" if others else ""
