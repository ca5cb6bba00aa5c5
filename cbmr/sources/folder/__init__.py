"""A folder of music, and what is known of one person's listening, to a corpus.

Licence: the music and the histories are their owner's. Nothing leaves the machine.

Files: audio by its suffix, tags as `tags` reads them; exports as `exports` reads them. Units:
`duration_s` in seconds, times in UTC, `played_ratio` a share of the track.

Where downs come from: a vote needs a station, and neither a star nor a skip is given on one.

- Early skips, and ups, are votes of a session, as `cbmr.sources.listening` says; only exports that
  know how much was heard have them.
- A rating is a vote on the artist's station, the one on which a listener would meet the track: its
  seed is the artist's best-liked other track (most stars, no stars counting as three, then most
  plays), four or five stars are an up and one is a down. Two and three say nothing, and a track by
  an artist with no other, or none with more than one star, has no station. A rating is no vote on
  the whole collection: five stars for two tracks do not say that they belong together.

Where both vote on the same two tracks, the rating counts. ListenBrainz's love is five stars, its
hate one. Citation: none; the rules are ours.
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from cbmr.errors import InputError
from cbmr.sources.folder.exports import read_exports
from cbmr.sources.folder.files import AudioFile, Walk, find_audio, track_ids
from cbmr.sources.folder.matching import match
from cbmr.sources.folder.tags import read_tags
from cbmr.sources.listening import (
    EARLY_SKIP,
    plays_of_listens,
    thumbs_of_sessions,
    with_sessions,
)
from cbmr.sources.tables import Found

KEPT = ("track_id", "file", "size", "mtime_ns")
"""By these columns of an earlier ingest a file is known again."""
LIKED, UNRATED, DISLIKED = 4, 3, 1
SHOWN = 3
"""How many names a note gives as examples."""


def folder(
    path: Path,
    *,
    listens: Path | None = None,
    user: str = "me",
    known: pl.DataFrame | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """The tracks below `path`, and the plays and thumbs in the exports at `listens`, by `user`.

    `known` is the tracks table of an earlier ingest, whose tracks keep their ids. After every file
    whose tags were read, `progress(done, total)` is called.

    Raises InputError for a path without audio, for an export of no kind known, and where no row of
    the exports is of any track.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise InputError(f"path={path} {what}: expected a folder of music")
    if known is not None and not {*KEPT} <= {*known.columns}:
        known = None
    walk = find_audio(path, () if known is None else {*known["file"]})
    if not walk.files:
        raise InputError(f"path={path} holds no audio{_why(walk)}: expected .mp3, .flac, .ogg, ...")
    notes = [
        f"{len(names)} left out, {reason}: {_some(names)}"
        for reason, names in sorted(walk.left_out.items())
    ]
    tracks, of_tags = _tracks(walk.files, known, progress)
    notes += of_tags
    if listens is None:
        notes.append("no plays and no thumbs: listens=EXPORT brings them")
        return Found({"tracks": _public(tracks)}, notes)

    rows = match(read_exports(listens), tracks, path).with_columns(user_id=pl.lit(user))
    notes += _match_notes(rows, listens)
    plays, thumbs, of_listens = _listening(rows, tracks)
    tables = {"tracks": _public(tracks), "plays": plays, "thumbs": thumbs}
    filled = {name: table for name, table in tables.items() if len(table)}
    return Found(filled, [*notes, *of_listens])


# --- tracks -------------------------------------------------------------------------------------


def _tracks(
    files: list[AudioFile], known: pl.DataFrame | None, progress: Callable[[int, int], None] | None
) -> tuple[pl.DataFrame, list[str]]:
    ids, moved = track_ids(files, known)
    rows = []
    untagged = []
    for number, (track_id, file) in enumerate(zip(ids, files, strict=True), start=1):
        tags = read_tags(file.path, file.name)
        rows.append(
            (track_id, str(file.path.absolute()), tags.title, tags.artist, tags.album,
             tags.duration_s, tags.mbid, tags.isrc, file.name, file.size, file.mtime_ns)
        )  # fmt: skip
        if not tags.tagged:
            untagged.append(file.name)
        if progress is not None:
            progress(number, len(files))
    schema = {
        "track_id": pl.String, "path": pl.String, "title": pl.String, "artist": pl.String,
        "album": pl.String, "duration_s": pl.Float64, "mbid": pl.String, "isrc": pl.String,
        "file": pl.String, "size": pl.Int64, "mtime_ns": pl.Int64,
    }  # fmt: skip
    tracks = pl.DataFrame(rows, schema, orient="row").sort("track_id")
    notes = []
    if untagged:
        notes.append(f"{len(untagged)} of {len(files)} files have no title in their tags, and go "
                     f"by their names: {_some(untagged)}")  # fmt: skip
    nobody = (tracks["artist"] == "").sum()
    if nobody:
        notes.append(f"{nobody} tracks are by nobody known: neither a tag nor a folder says who")
    if moved:
        notes.append(f"{moved} files were moved since the last ingest, and keep their ids")
    return tracks, notes


def _public(tracks: pl.DataFrame) -> pl.DataFrame:
    """Without the columns that are empty throughout."""
    empty = [name for name in ("artist", "album", "mbid", "isrc") if (tracks[name] == "").all()]
    if tracks["duration_s"].is_null().all():
        empty.append("duration_s")
    return tracks.drop(empty)


def _why(walk: Walk) -> str:
    reasons = sorted(walk.left_out.items())
    return "".join(f", {len(names)} left out ({why}: {_some(names)})" for why, names in reasons)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


# --- listening ----------------------------------------------------------------------------------


def _match_notes(rows: pl.DataFrame, listens: Path) -> list[str]:
    """The match rate, how each row was found, and the most frequent of the rest."""
    weight = pl.col("count").fill_null(1)
    matched = pl.col("track_id").is_not_null()
    total, found = rows.select(weight.sum(), weight.filter(matched).sum().alias("found")).row(0)
    if not found:
        first = rows.select("artist", "title", "path").row(0)
        raise InputError(
            f"listens={listens}: none of its {len(rows)} rows is of a track of this folder (the "
            f"first is {' - '.join(part for part in first if part)!r}): is it of other music?"
        )
    by = {
        name: int(rows.filter(pl.col("by") == name).select(weight.sum()).item())
        for name in ("id", "path", "name")
    }
    how = ", ".join(f"{number} by {name}" for name, number in by.items() if number)
    notes = [f"matched {found} of {total} listens and ratings ({found / total:.0%}): {how}"]
    lost = (
        rows.filter(~matched)
        .group_by("artist", "title")
        .agg(weight.sum().alias("times"))
        .sort(["times", "artist", "title"], descending=[True, False, False])
    )
    if len(lost):
        worst = "; ".join(
            f"{artist or '?'} - {title or '?'} ({times})"
            for artist, title, times in lost.head(SHOWN).iter_rows()
        )
        notes.append(f"not in the folder, the most frequent of {len(lost)}: {worst}")
    return notes


def _listening(
    rows: pl.DataFrame, tracks: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    timed = rows.filter(pl.col("time").is_not_null() | pl.col("played_ratio").is_not_null())
    # A listen that stands in two exports is known by its moment; without one nothing is.
    first = pl.struct("user_id", "track_id", "artist", "title", "time").is_first_distinct()
    listens = with_sessions(timed.filter(pl.col("time").is_null() | first))
    notes = []
    if len(listens) < len(timed):
        notes.append(f"{len(timed) - len(listens)} listens stand twice in the exports, kept once")
    plays = plays_of_listens(listens)
    skipped = listens["track_id"].is_not_null().sum() - len(plays)
    if skipped:
        notes.append(f"{skipped} listens heard less than half of the track, and are no plays")
    plays = pl.concat([plays, _beyond(rows, plays)], how="diagonal")
    plays = plays.drop(
        name for name in ("time", "played_ratio", "session_id") if plays[name].is_null().all()
    )

    votes = thumbs_of_sessions(listens)
    rated, without_station = _rating_thumbs(rows, plays, tracks)
    votes = votes.join(rated, on=["user_id", "seed_id", "track_id"], how="anti")
    thumbs = pl.concat([rated, votes], how="diagonal").sort("user_id", "seed_id", "track_id")
    if rows["stars"].is_null().all() and rows["played_ratio"].is_null().all():
        notes.append("no thumbs: the exports have neither stars nor how much of a track was heard")
    else:
        low, skips = ((table["thumb"] == -1).sum() for table in (rated, votes))
        notes.append(
            f"downs: {low} from one-star ratings, on the stations of their artists, and {skips} "
            f"from early skips (in the first {EARLY_SKIP:.0%}), on that of the track heard to its "
            "end before"
        )
    if without_station:
        notes.append(
            f"{without_station} of the ratings make no vote: no other track of the artist is liked"
        )
    return plays, thumbs, notes


def _beyond(rows: pl.DataFrame, plays: pl.DataFrame) -> pl.DataFrame:
    """Sums of plays, less the timed ones that they may well hold: what is left of each track."""
    sums = rows.filter(pl.col("count").is_not_null(), pl.col("track_id").is_not_null())
    sums = sums.group_by("user_id", "track_id").agg(pl.col("count").sum())
    timed = plays.group_by("user_id", "track_id").agg(timed=pl.len())
    left = sums.join(timed, on=["user_id", "track_id"], how="left").with_columns(
        count=pl.col("count") - pl.col("timed").fill_null(0)
    )
    return left.filter(pl.col("count") > 0).drop("timed").sort("user_id", "track_id")


def _rating_thumbs(
    rows: pl.DataFrame, plays: pl.DataFrame, tracks: pl.DataFrame
) -> tuple[pl.DataFrame, int]:
    """Votes on the stations of artists, and how many ratings have none."""
    rated = rows.filter(pl.col("stars").is_not_null(), pl.col("track_id").is_not_null())
    rated = rated.unique(["user_id", "track_id"], keep="last", maintain_order=True)
    by_artist = tracks.filter(pl.col("artist") != "").select("track_id", "artist")
    liking = (
        by_artist.join(rated.select("track_id", "stars"), on="track_id", how="left")
        .join(plays.group_by("track_id").agg(pl.col("count").sum()), on="track_id", how="left")
        .with_columns(pl.col("stars").fill_null(UNRATED), pl.col("count").fill_null(0))
        .filter(pl.col("stars") > DISLIKED)
        .sort(["stars", "count", "track_id"], descending=[True, True, False])
    )
    vote = pl.when(pl.col("stars") >= LIKED).then(1).when(pl.col("stars") == DISLIKED).then(-1)
    votes = (
        rated.select("user_id", "track_id", vote.cast(pl.Int8).alias("thumb"))
        .drop_nulls()
        .join(by_artist, on="track_id", how="left")
    )
    stations = votes.join(
        liking.select("artist", seed_id="track_id"),
        on="artist",
        how="inner",
        maintain_order="right",
    )
    stations = stations.filter(pl.col("seed_id") != pl.col("track_id"))
    first = stations.unique(["user_id", "track_id"], keep="first", maintain_order=True)
    columns = ["user_id", "seed_id", "track_id", "thumb"]
    return first.select(columns).sort(columns), len(votes) - len(first)
