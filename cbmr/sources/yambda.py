"""Yambda: listens, likes and dislikes of a streaming service, with vectors in place of audio.

Licence: Apache 2.0, at the time of writing. From https://huggingface.co/datasets/yandex/yambda,
kept as it is laid out there; `subset` is 50m, 500m or 5b.

Files: `flat/SUBSET/listens.parquet` with `uid`, `item_id`, `timestamp` (seconds, in steps of 5),
`is_organic` (1 chosen by the listener, 0 recommended), `played_ratio_pct` (per cent, may exceed
100) and `track_length_seconds`; `likes`, `dislikes`, `unlikes` and `undislikes.parquet` with the
first four; `embeddings.parquet` with `item_id` and `embed`, a list of as many numbers as there are;
and, where it is there, `artist_item_mapping.parquet`, of which the column that is not `item_id` is
the artist.

- plays: a listen counts from 50 % on; `count` is how many a listener has of an item.
- tracks: items that were played or voted on and have a vector, which goes to `features.npz` for
  `encoder=vector`. `duration_s` is the length in the listens.
- thumbs: of one listener's likes, dislikes, unlikes and undislikes of an item the last counts, in
  one moment the taking back; a taking back leaves nothing. A vote on a recommended track (not
  `is_organic`) is a thumb, and its seed the organic track that the listener played last before it,
  by at least half. A vote on an organic track is on no station, and is left out.

Citation: Ploshkin et al., "Yambda-5B: a large-scale multi-modal dataset for ranking and retrieval",
RecSys 2025, arXiv 2505.22238.
"""

from pathlib import Path

import polars as pl

from cbmr.errors import InputError
from cbmr.sources.downloads import needed, scan
from cbmr.sources.tables import FEATURES, Found

SOURCE = "https://huggingface.co/datasets/yandex/yambda"
SUBSETS = ("50m", "500m", "5b")
EVENT = ["uid", "item_id", "timestamp", "is_organic"]
LISTEN = ["uid", "item_id", "timestamp", "is_organic", "played_ratio_pct"]
VOTES = {"likes": 1, "dislikes": -1, "unlikes": 0, "undislikes": 0}
COUNTS_FROM_PCT = 50
ROWS_AT_ONCE = 4_000_000
"""Listens held at a time, in whole listeners: about 100 MB."""


def yambda(path: Path, *, subset: str = "50m") -> Found:
    """Tracks, plays, thumbs and features of `path`.

    Memory holds the listens of some listeners at a time, one row a (listener, item) and the vectors
    of the items in use. Raises InputError for a subset or file that is not there.
    """
    if subset not in SUBSETS:
        raise InputError(f"subset={subset}: expected one of {', '.join(SUBSETS)}")
    listens = scan(
        needed(path, f"flat/{subset}/listens.parquet", SOURCE), [*LISTEN, "track_length_seconds"]
    )
    votes = _final_votes(path, subset)
    embeddings = scan(needed(path, "embeddings.parquet", SOURCE), ["item_id", "embed"])
    counts, thumbs, notes = _plays_and_thumbs(listens.select(LISTEN), votes)

    used = pl.concat([counts["item_id"], thumbs["seed"], thumbs["item_id"]]).unique().sort()
    vectors = (
        embeddings.filter(pl.col("item_id").is_in(used.implode()), pl.col("embed").list.len() > 0)
        .with_columns(pl.col("embed").cast(pl.List(pl.Float32)))
        .collect(engine="streaming")
        .unique("item_id", keep="first", maintain_order=True)
        .sort("item_id")
    )
    if vectors.is_empty():
        raise InputError(f"{path}/embeddings.parquet has no vector of any item that was played")
    lengths = vectors["embed"].list.len().unique().to_list()
    if len(lengths) > 1:
        raise InputError(
            f"{path}/embeddings.parquet has vectors of {lengths} numbers: expected one"
        )
    items = vectors["item_id"]
    notes.append(f"{len(used) - len(items)} of {len(used)} items have no vector, left out")
    with_vector = pl.col("item_id").is_in(items.implode())
    thumbs = thumbs.filter(with_vector, pl.col("seed").is_in(items.implode()))
    tables: dict[str, pl.DataFrame | pl.LazyFrame] = {
        "tracks": _tracks(path, listens, items),
        "plays": counts.lazy().filter(with_vector).select(
            user_id=pl.col("uid").cast(pl.String),
            track_id=pl.col("item_id").cast(pl.String),
            count=pl.col("count").cast(pl.Int64),
        ),
    }  # fmt: skip
    if len(thumbs):
        tables["thumbs"] = thumbs.select(
            user_id=pl.col("uid").cast(pl.String),
            seed_id=pl.col("seed").cast(pl.String),
            track_id=pl.col("item_id").cast(pl.String),
            thumb="thumb",
            time=pl.col("timestamp").cast(pl.Int64),
        )
    features = vectors["embed"].explode().to_numpy().reshape(len(items), -1)
    return Found(tables, notes, (items.cast(pl.String).to_numpy().astype(str), features))


def _final_votes(path: Path, subset: str) -> pl.DataFrame:
    """What a listener thinks of an item in the end: `uid`, `item_id`, `timestamp`, `is_organic` and
    `thumb`, by listener and time; nothing of what was taken back."""
    events = [
        scan(needed(path, f"flat/{subset}/{name}.parquet", SOURCE), EVENT).with_columns(
            thumb=pl.lit(thumb, pl.Int8)
        )
        for name, thumb in VOTES.items()
    ]
    replayed = pl.concat(events).sort("timestamp", pl.col("thumb") == 0, maintain_order=True)
    last = replayed.unique(["uid", "item_id"], keep="last", maintain_order=True)
    return last.filter(pl.col("thumb") != 0).sort("uid", "timestamp", "item_id").collect()


def _plays_and_thumbs(
    listens: pl.LazyFrame, votes: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """`uid`, `item_id` and `count` of what was played, and `uid`, `seed`, `item_id`, `thumb` and
    `timestamp` of the votes on stations, a few listeners after the others."""
    heard = listens.filter(pl.col("played_ratio_pct") >= COUNTS_FROM_PCT)
    recommended = votes.filter(pl.col("is_organic") == 0)
    counted, voted = [], []
    listeners = listens.group_by("uid").len().sort("uid").collect(engine="streaming")
    share = (listeners["len"].cum_sum() - 1) // ROWS_AT_ONCE
    for part in listeners.group_by(share, maintain_order=True):
        first, last = part[1]["uid"][0], part[1]["uid"][-1]
        mine = pl.col("uid").is_between(first, last)
        some = heard.filter(mine).collect(engine="streaming")
        counted.append(some.group_by("uid", "item_id").len("count").sort("uid", "item_id"))
        seeds = some.filter(pl.col("is_organic") == 1).sort("uid", "timestamp", "item_id")
        voted.append(
            recommended.filter(mine).join_asof(
                seeds.select("uid", "timestamp", seed="item_id"), on="timestamp", by="uid",
                strategy="backward", allow_exact_matches=False, check_sortedness=False,
            )
        )  # fmt: skip
    on_station = pl.concat(voted).drop_nulls("seed").filter(pl.col("seed") != pl.col("item_id"))
    notes = [
        f"{len(votes)} likes and dislikes stand in the end; {len(votes) - len(recommended)} of "
        f"tracks that the listener chose are on no station, {len(recommended) - len(on_station)} "
        "have no organic track before them",
    ]
    return pl.concat(counted), on_station.drop("is_organic"), notes


def _tracks(path: Path, listens: pl.LazyFrame, items: pl.Series) -> pl.DataFrame:
    """A row an item, with its length and, where a mapping says so, its artist."""
    length = (
        listens.filter(pl.col("item_id").is_in(items.implode()))
        .group_by("item_id")
        .agg(duration_s=pl.col("track_length_seconds").max().cast(pl.Float64))
        .collect(engine="streaming")
    )
    tracks = items.to_frame().join(length, on="item_id", how="left", maintain_order="left")
    mapping = path / "artist_item_mapping.parquet"
    if mapping.exists():
        artist = next(name for name in pl.read_parquet_schema(mapping) if name != "item_id")
        artists = scan(mapping, ["item_id", artist]).group_by("item_id").agg(pl.col(artist).min())
        tracks = tracks.join(artists.collect(), on="item_id", how="left", maintain_order="left")
        tracks = tracks.with_columns(artist=pl.col(artist).cast(pl.String))
    names = ["artist"] if mapping.exists() else []
    return tracks.select(
        pl.col("item_id").cast(pl.String).alias("track_id"), pl.lit(FEATURES).alias("path"),
        *names, "duration_s",
    )  # fmt: skip
