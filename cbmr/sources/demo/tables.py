"""Writes a drawn world as the tables of a corpus, and the truth behind them.

`plays.parquet` (user_id, track_id, count); `thumbs.parquet` (user_id, seed_id, track_id, thumb,
time, station_id); `exposures.parquet` (user_id, seed_id, track_id, position, propensity, time,
station_id), of which the thumbs are the part that was voted on; `truth.npz`, see `_truth`;
`tracks.parquet` (track_id, path, title, artist, album, style, split, duration_s), the last.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cbmr.files import whole_file, write_arrays
from cbmr.sources.demo.catalogue import ATTRIBUTES, Track
from cbmr.sources.demo.radio import Radio
from cbmr.sources.demo.world import Taste

FIRST_DAY = datetime(2024, 1, 1)


def write_tables(
    folder: Path,
    catalogue: list[Track],
    duration_s: float,
    taste: Taste,
    plays: tuple[np.ndarray, np.ndarray, np.ndarray],
    radio: Radio,
    flip_rate: float,
) -> None:
    """Writes all tables into `folder`; `plays` are rows of listener, track and count, [plays]."""
    track_ids = np.array([track.track_id for track in catalogue])
    user_ids = np.array([f"u{number:05d}" for number in range(len(taste.user_taste))])
    listener, track, count = plays
    play_table = pl.DataFrame(
        {"user_id": user_ids[listener], "track_id": track_ids[track], "count": count}
    )
    exposures = pl.DataFrame(
        {
            "user_id": user_ids[radio.listener],
            "seed_id": track_ids[radio.seed],
            "track_id": track_ids[radio.track],
            "position": radio.position,
            "propensity": radio.propensity,
            "time": np.datetime64(FIRST_DAY, "us") + radio.seconds.astype("timedelta64[s]"),
            "station_id": np.array([f"s{number:05d}" for number in radio.station]),
            "thumb": radio.thumb.astype(np.int8),
        }
    )
    thumb_columns = ["user_id", "seed_id", "track_id", "thumb", "time", "station_id"]
    thumbs = exposures.filter(pl.col("thumb") != 0).select(thumb_columns)
    fields = ("track_id", "path", "title", "artist", "album", "style", "split")
    track_table = pl.DataFrame(
        {field: [getattr(track, field) for track in catalogue] for field in fields}
    ).with_columns(duration_s=pl.lit(float(duration_s)))

    _write_parquet(folder / "plays.parquet", play_table)
    _write_parquet(folder / "thumbs.parquet", thumbs)
    _write_parquet(folder / "exposures.parquet", exposures.drop("thumb"))
    truth = _truth(catalogue, taste, radio, track_ids, user_ids, flip_rate)
    write_arrays(folder / "truth.npz", **truth)
    _write_parquet(folder / "tracks.parquet", track_table)


def _truth(
    catalogue: list[Track],
    taste: Taste,
    radio: Radio,
    track_ids: np.ndarray,
    user_ids: np.ndarray,
    flip_rate: float,
) -> dict[str, Any]:
    """The arrays of `truth.npz`: strings, float32, and no pickled objects.

    By track, [tracks] or [tracks, dims]: track_ids, track_taste (affinity is
    `user_taste @ track_taste.T`), sound_taste (what of it can be heard), radio_taste (unit length,
    what the stations go by), popularity, attributes in (0, 1) named by attribute_names, tempo_bpm,
    key (0 is C), mode, metre, kind; by listener: user_ids, user_taste, kindness; single:
    similarity_centre, flip_rate.
    """
    return {
        "track_ids": track_ids,
        "track_taste": taste.track_taste.astype(np.float32),
        "sound_taste": taste.sound_taste.astype(np.float32),
        "radio_taste": radio.radio_taste.astype(np.float32),
        "popularity": taste.popularity.astype(np.float32),
        "attributes": np.array([track.attributes for track in catalogue], np.float32),
        "attribute_names": np.array(ATTRIBUTES),
        "tempo_bpm": np.array([track.music.tempo_bpm for track in catalogue], np.float32),
        "key": np.array([track.music.key for track in catalogue]),
        "mode": np.array([track.music.mode for track in catalogue]),
        "metre": np.array([track.music.metre for track in catalogue]),
        "kind": np.array([track.kind for track in catalogue]),
        "user_ids": user_ids,
        "user_taste": taste.user_taste.astype(np.float32),
        "kindness": radio.kindness.astype(np.float32),
        "similarity_centre": np.float32(radio.similarity_centre),
        "flip_rate": np.float32(flip_rate),
    }


def _write_parquet(path: Path, table: pl.DataFrame) -> None:
    with whole_file(path) as file:
        table.write_parquet(file)
