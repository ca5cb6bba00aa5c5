"""Music4All, and Music4All-Onion: clips of 30 s with listening histories, and many more of those.

Licence: Music4All is for research, on request from its authors
(https://sites.google.com/view/contact4music4all). Music4All-Onion: CC BY-NC-SA 4.0, from
https://zenodo.org/records/15394646; its files belong into the folder of Music4All.

Files, tab-separated with a header whatever their suffix; `id` is the track:
`id_information.csv` with `id`, `artist`, `song` and `album_name`; `id_metadata.csv` (may be
missing) with `id` and `duration_ms`; `id_genres.csv` (may be missing) with `id` and `genres`,
parted by commas; `audios/ID.mp3`; `listening_history.csv`, one row a listen, whose columns are
settings (`user_column`, `song_column`, `time_column`), since its format was not read at its source;
and, of Onion, `userid_trackid_count.tsv.bz2` with `user_id`, `track_id` and `count`.

- `music4all`: plays are the listens of the history, each with its time and session (UTC taken for
  granted, see `cbmr.sources.listening`).
- `music4all_onion`: plays are Onion's counts, streamed from the compressed file.

`duration_s` is of the whole track, not of the clip; `style` is the first genre. There are no votes.

Citation: Santana et al., "Music4All: a new music database and its applications", IWSSIP 2020;
Moscati et al., "Music4All-Onion: a large-scale multi-faceted content-centric music recommendation
dataset", CIKM 2022.
"""

import bz2
import io
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from cbmr.errors import InputError
from cbmr.sources.downloads import needed, scan
from cbmr.sources.listening import plays_of_listens, with_sessions
from cbmr.sources.tables import Found

SOURCE = "https://sites.google.com/view/contact4music4all"
ONION_SOURCE = "https://zenodo.org/records/15394646"
ONION_COUNTS = {"user_id": pl.String, "track_id": pl.String, "count": pl.Int64}
CHUNK_BYTES = 1 << 25


def music4all(
    path: Path,
    *,
    user_column: str = "user",
    song_column: str = "song",
    time_column: str = "timestamp",
) -> Found:
    """Tracks and timed listens. Raises InputError for a missing file or column, and a time that is
    none."""
    tracks = _tracks(path)
    file = needed(path, "listening_history.csv", SOURCE)
    columns = {user_column: "user_id", song_column: "track_id", time_column: "time"}
    listens = scan(file, [*columns], separator="\t").rename(columns).collect()
    time = listens["time"].str.strip_chars().str.to_datetime(strict=False, time_unit="us")
    if time.is_null().any():
        row = int(time.is_null().arg_max() or 0)
        raise InputError(
            f"{file}: column {time_column!r}, row {row + 1}: {listens['time'][row]!r}, expected a "
            "time, as 2019-05-31 20:15"
        )
    listens = listens.with_columns(time=time, played_ratio=pl.lit(None, pl.Float64))
    plays = plays_of_listens(with_sessions(listens)).drop("played_ratio")
    return _found(tracks, plays)


def music4all_onion(path: Path) -> Found:
    """Tracks and counts. Raises InputError for a missing file or column."""
    tracks = _tracks(path)
    file = needed(path, "userid_trackid_count.tsv.bz2", ONION_SOURCE)
    return _found(tracks, _onion_counts(file))


def _found(tracks: pl.DataFrame, plays: pl.DataFrame | pl.LazyFrame) -> Found:
    known = pl.col("track_id").is_in(tracks["track_id"].implode())
    rows, kept = (
        plays.lazy().select(pl.len(), known.sum().alias("kept")).collect(engine="streaming").row(0)
    )
    notes = [f"{rows - kept} of {rows} rows of plays name tracks without information, left out"]
    return Found({"tracks": tracks, "plays": plays.lazy().filter(known)}, notes)


def _tracks(path: Path) -> pl.DataFrame:
    information = needed(path, "id_information.csv", SOURCE)
    tracks = scan(information, ["id", "artist", "song", "album_name"], separator="\t").rename(
        {"id": "track_id", "song": "title", "album_name": "album"}
    )
    if (path / "id_metadata.csv").exists():
        length = pl.col("duration_ms").cast(pl.Float64, strict=False) / 1000
        more = scan(path / "id_metadata.csv", ["id", "duration_ms"], separator="\t")
        more = more.select(track_id="id", duration_s=length)
        tracks = tracks.join(more, on="track_id", how="left")
    if (path / "id_genres.csv").exists():
        genre = pl.col("genres").str.split(",").list.first()
        more = scan(path / "id_genres.csv", ["id", "genres"], separator="\t")
        tracks = tracks.join(more.select(track_id="id", style=genre), on="track_id", how="left")
    audio = f"{path.absolute()}/audios/" + pl.col("track_id") + ".mp3"
    return tracks.with_columns(path=audio).sort("track_id").collect()


def _onion_counts(file: Path) -> pl.LazyFrame:
    """The table of a compressed file, a piece at a time, whenever it is asked for."""

    def pieces(
        columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        for piece in _pieces(file):
            table = piece if rows is None else piece.head(rows)
            rows = None if rows is None else rows - len(table)
            table = table if predicate is None else table.filter(predicate)
            yield table if columns is None else table.select(columns)
            if rows == 0:
                break

    return register_io_source(pieces, schema=ONION_COUNTS)


def _pieces(file: Path) -> Iterator[pl.DataFrame]:
    try:
        with bz2.open(file) as stream:
            header = stream.readline().decode().rstrip("\r\n").split("\t")
            if header != [*ONION_COUNTS]:
                raise InputError(
                    f"{file} begins with {header}: expected the columns {', '.join(ONION_COUNTS)}, "
                    "parted by tabs"
                )
            while lines := stream.readlines(CHUNK_BYTES):
                yield pl.read_csv(
                    io.BytesIO(b"".join(lines)), separator="\t", has_header=False,
                    schema=ONION_COUNTS, quote_char=None,
                )  # fmt: skip
    except (EOFError, OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read ({reason}): was its download cut off?") from None
