"""Last.fm-2k (HetRec 2011): how often 1,892 listeners played 17,632 artists.

Licence: non-commercial use, see the source's readme. From
https://grouplens.org/datasets/hetrec-2011/ (`hetrec2011-lastfm-2k.zip`), unpacked.

Files, tab-separated with a header: `user_artists.dat` with `userID`, `artistID` and `weight`, the
number of listens; `artists.dat` with `id` and `name`. Text is UTF-8 or, where it is not, Latin-1.

It knows artists and no tracks, so an artist takes the part of a track, under its own name. There is
no audio: the plays serve CF models alone. There are no votes.

Citation: Cantador, Brusilovsky & Kuflik, "2nd Workshop on Information Heterogeneity and Fusion in
Recommender Systems", RecSys 2011.
"""

from pathlib import Path

import polars as pl

from cbmr.corpus.checks import refuse_rows
from cbmr.errors import InputError
from cbmr.sources.downloads import needed
from cbmr.sources.tables import NO_AUDIO, Found

SOURCE = "https://grouplens.org/datasets/hetrec-2011/"


def lastfm2k(path: Path) -> Found:
    """Artists as tracks, and their plays. Raises InputError for a missing file or column."""
    artists = _table(needed(path, "artists.dat", SOURCE), ("id", "name"))
    file = needed(path, "user_artists.dat", SOURCE)
    plays = _table(file, ("userID", "artistID", "weight"))
    weight = pl.col("weight").cast(pl.Int64, strict=False)
    refuse_rows(plays, "weight", weight.is_null(), str(file), "a whole number of listens")
    tracks = artists.select(track_id="id", path=pl.lit(NO_AUDIO), title="name", artist="name").sort(
        "track_id"
    )
    heard = plays.filter(weight > 0)
    notes = ["its tracks are artists: there is nothing to hear, and CF models alone can learn"]
    if len(heard) < len(plays):
        notes.append(f"{len(plays) - len(heard)} rows have a weight of 0, left out")
    plays = heard.select(user_id="userID", track_id="artistID", count=weight)
    return Found({"tracks": tracks, "plays": plays.sort("user_id", "track_id")}, notes)


def _table(file: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    header, *lines = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    for name in columns:
        if name not in header:
            raise InputError(
                f"{file} lacks the column {name!r} (it has {', '.join(header)[:80]}): expected "
                "tabs between columns"
            )
    short = next((row for row, line in enumerate(lines, 2) if len(line) < len(header)), None)
    if short:
        raise InputError(f"{file}, line {short}: expected {len(header)} fields parted by tabs")
    places = [header.index(name) for name in columns]
    rows = [[line[place] for place in places] for line in lines]
    return pl.DataFrame(rows, dict.fromkeys(columns, pl.String), orient="row")
