"""The Echo Nest Taste Profile Subset: play counts of songs of the Million Song Dataset.

Licence: research use, see the source. From http://millionsongdataset.com/tasteprofile/ and, for
`unique_tracks.txt` and `sid_mismatches.txt`, http://millionsongdataset.com/pages/getting-dataset/;
all unpacked into one folder.

Files: `train_triplets.txt`, tab-separated without a header: user, song (`SO...`), count;
`unique_tracks.txt`, parted by `<SEP>`: track (`TR...`), song, artist, title;
`sid_mismatches.txt`, lines `ERROR: <SO... TR...> ...`: pairs of a song and a track that were
matched wrongly.

Plays are of songs, audio is of tracks. A song is its first track by id that is not mismatched; a
song left without one goes, with its plays. There is no audio and there are no votes; with
`audio=DIR`, files named by a track's id, anywhere below, are its audio.

Citation: Bertin-Mahieux, Ellis, Whitman & Lamere, "The Million Song Dataset", ISMIR 2011; McFee,
Bertin-Mahieux, Ellis & Lanckriet, "The Million Song Dataset Challenge", WWW 2012.
"""

import re
from pathlib import Path

import polars as pl

from cbmr.errors import InputError
from cbmr.sources.downloads import needed
from cbmr.sources.tables import NO_AUDIO, Found

SOURCE = "http://millionsongdataset.com/tasteprofile/"
TRACKS_SOURCE = "http://millionsongdataset.com/pages/getting-dataset/"
MISMATCH = re.compile(r"^ERROR: <(SO\w{16}) (TR\w{16})>", re.M)


def taste_profile(path: Path, *, audio: Path | None = None) -> Found:
    """Tracks and plays of `path`; plays are streamed.

    Raises InputError for a missing file or one in another format.
    """
    plays_file = needed(path, "train_triplets.txt", SOURCE)
    songs = _songs(needed(path, "unique_tracks.txt", TRACKS_SOURCE))
    mismatches = needed(path, "sid_mismatches.txt", SOURCE).read_text(errors="replace")
    pairs = MISMATCH.findall(mismatches)
    wrong = pl.DataFrame(pairs, {"song": pl.String, "track_id": pl.String}, orient="row")
    right = songs.join(wrong, on=["song", "track_id"], how="anti")
    tracks = right.sort("track_id").unique("song", keep="first", maintain_order=True)
    plays = pl.scan_csv(
        plays_file, separator="\t", has_header=False, quote_char=None,
        schema={"user_id": pl.String, "song": pl.String, "count": pl.Int64},
    )  # fmt: skip
    by_song = tracks.lazy().select("song", "track_id")
    known = plays.join(by_song, on="song", how="left", maintain_order="left")
    try:
        rows, kept = (
            known.select(pl.len(), pl.col("track_id").count().alias("kept"))
            .collect(engine="streaming")
            .row(0)
        )
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{plays_file}: {str(error).splitlines()[0]}: expected lines of user, song and count, "
            "parted by tabs"
        ) from None
    lost = songs["song"].n_unique() - len(tracks)
    notes = [
        f"{len(wrong)} mismatched pairs of a song and a track removed; {lost} songs have no other "
        "track",
        f"{rows - kept} of {rows} plays are of songs without a track, left out",
    ]
    tables: dict[str, pl.DataFrame | pl.LazyFrame] = {
        "tracks": _with_audio(tracks.drop("song"), audio, notes),
        "plays": known.drop_nulls("track_id").select("user_id", "track_id", "count"),
    }
    return Found(tables, notes)


def _songs(file: Path) -> pl.DataFrame:
    """`track_id`, `song`, `artist` and `title`."""
    rows = []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split("<SEP>")
        if len(fields) == 4:
            rows.append(fields)
        elif line.strip():
            raise InputError(
                f"{file}, line {number}: {line[:60]!r}, expected "
                "track<SEP>song<SEP>artist<SEP>title"
            )
    return pl.DataFrame(
        rows, dict.fromkeys(("track_id", "song", "artist", "title"), pl.String), orient="row"
    )


def _with_audio(tracks: pl.DataFrame, audio: Path | None, notes: list[str]) -> pl.DataFrame:
    if audio is None:
        return tracks.with_columns(path=pl.lit(NO_AUDIO))
    if not audio.is_dir():
        raise InputError(f"audio={audio} is no folder: expected one with files named by track ids")
    files = {file.stem: str(file.absolute()) for file in sorted(audio.rglob("*.*"))}
    tracks = tracks.with_columns(
        path=pl.col("track_id").replace_strict(files, default=NO_AUDIO, return_dtype=pl.String)
    )
    notes.append(f"{(tracks['path'] != NO_AUDIO).sum()} of {len(tracks)} tracks have audio")
    return tracks
