"""The Free Music Archive: music under free licences, without listeners.

Licence: metadata CC BY 4.0, the music each track's own. From https://github.com/mdeff/fma:
`fma_metadata.zip` and one of `fma_small.zip`, `fma_medium.zip`, `fma_large.zip` (clips of 30 s) or
`fma_full.zip`, unpacked into one folder.

Files: `fma_metadata/tracks.csv`, whose first two lines are a header of two levels, and the third
names the index (`track_id`); of it `track.title`, `track.duration` (seconds), `track.genre_top`,
`artist.name`, `album.title`, `set.split` and `set.subset`. Audio is `fma_SUBSET/000/000002.mp3`,
the folder being the first three of the six digits.

- tracks: those of the subset and of the smaller ones within it, with `style`, and with the data
  set's own split, in which no artist is on two sides.
- plays: FMA counts a track's listens over everybody (`track.listens`), and nobody's own: there are
  none, and no votes.

Citation: Defferrard, Benzi, Vandergheynst & Bresson, "FMA: a dataset for music analysis", ISMIR
2017.
"""

import csv
from pathlib import Path

import polars as pl

from cbmr.errors import InputError
from cbmr.sources.downloads import needed
from cbmr.sources.tables import Found

SOURCE = "https://github.com/mdeff/fma"
SUBSETS = ("small", "medium", "large", "full")
SPLITS = {"training": "train", "validation": "valid", "test": "test"}
COLUMNS = {
    ("track", "title"): "title",
    ("artist", "name"): "artist",
    ("album", "title"): "album",
    ("track", "genre_top"): "style",
    ("track", "duration"): "duration_s",
    ("set", "split"): "split",
    ("set", "subset"): "subset",
}
HEADER_LINES = 3


def fma(path: Path, *, subset: str | None = None) -> Found:
    """The tracks of a subset; without one, of the largest whose audio is there.

    Raises InputError for a subset or file that is not there, and for a missing column.
    """
    file = needed(path, "fma_metadata/tracks.csv", SOURCE)
    subset = subset or next(
        (name for name in reversed(SUBSETS) if (path / f"fma_{name}").is_dir()), None
    )
    if subset is None:
        raise InputError(
            f"path={path} has no folder of audio: expected fma_small, fma_medium, fma_large or "
            f"fma_full, from {SOURCE}"
        )
    if subset not in SUBSETS:
        raise InputError(f"subset={subset}: expected one of {', '.join(SUBSETS)}")
    tracks = _table(file)
    within = SUBSETS[: SUBSETS.index(subset) + 1]
    chosen = tracks.filter(pl.col("subset").is_in(within))
    if chosen.is_empty():
        raise InputError(f"{file} has no track of the subset {subset}")
    audio = (
        f"{path.absolute()}/fma_{subset}/"
        + pl.col("track_id").str.slice(0, 3) + "/" + pl.col("track_id") + ".mp3"
    )  # fmt: skip
    notes = [
        f"{len(tracks) - len(chosen)} of {len(tracks)} tracks are not of the subset {subset}",
        "its listens are sums over everybody: no plays, so python -m tasks.pretrain is what learns",
    ]
    return Found({"tracks": chosen.with_columns(path=audio).drop("subset").sort("track_id")}, notes)


def _table(file: Path) -> pl.DataFrame:
    """`track_id` of six digits and the columns of `COLUMNS`, split as this house names it."""
    with file.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        header = list(zip(next(lines, []), next(lines, []), strict=False))
        for group, name in COLUMNS:
            if (group, name) not in header:
                raise InputError(
                    f"{file} lacks the column {name!r} under {group!r}: expected FMA's header of "
                    "two lines"
                )
        places = [0, *(header.index(column) for column in COLUMNS)]
        next(lines, None)
        rows = []
        for fields in lines:
            if len(fields) != len(header) or not fields[0].isdigit():
                raise InputError(
                    f"{file}, line {lines.line_num}: expected {len(header)} fields, a track's "
                    f"number the first, found {len(fields)}: was its download cut off?"
                )
            rows.append([fields[place] for place in places])
    names = ["track_id", *COLUMNS.values()]
    table = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")
    return table.with_columns(
        pl.col("track_id").str.zfill(6),
        pl.col("duration_s").cast(pl.Float64, strict=False),
        pl.col("split").replace_strict(SPLITS, default="train"),
    )
