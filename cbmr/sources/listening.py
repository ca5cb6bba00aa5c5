"""Timed listens to sessions, plays and thumbs: what listeners' histories have in common.

Conventions: a listen is a row with `user_id`, `track_id` (null where it is not in the collection),
`time` and `played_ratio` (1 is all of the track, null where unknown). A *session* is a listener's
listens with gaps below 30 minutes. Of what a listen says:

- it is a play where at least half was heard, or where nobody says how much;
- it votes where the share is known, as a thumb on a radio would: the seed is the last track that
  was heard to its end before it in the session. Heard to its end as well, it is an up; skipped
  within the first quarter, a down; anything between says nothing.

Such a vote is weaker than a thumb that was pressed: a skip may be of the moment. `station_id` is
the session for votes made so.
"""

import polars as pl

SESSION_GAP_MINUTES = 30
COUNTS_FROM = 0.5
TO_ITS_END = 0.8
EARLY_SKIP = 0.25


def with_sessions(listens: pl.DataFrame) -> pl.DataFrame:
    """The listens by listener and time, with `session_id`: the listener and the session's first
    moment, null where there is no time."""
    ordered = listens.sort("user_id", "time", nulls_last=True, maintain_order=True)
    gap = pl.col("time").diff().over("user_id")
    starts = pl.when(gap.is_null() | (gap >= pl.duration(minutes=SESSION_GAP_MINUTES))).then("time")
    first = starts.forward_fill().over("user_id")
    session = pl.concat_str("user_id", first.dt.strftime("%Y-%m-%dT%H:%M:%S"), separator=" ")
    return ordered.with_columns(session_id=pl.when(pl.col("time").is_not_null()).then(session))


def plays_of_listens(listens: pl.DataFrame) -> pl.DataFrame:
    """One row a listen that counts, with its `count` of 1."""
    kept = listens.filter(
        pl.col("track_id").is_not_null(),
        pl.col("played_ratio").is_null() | (pl.col("played_ratio") >= COUNTS_FROM),
    )
    return kept.select(
        "user_id", "track_id", pl.lit(1, pl.Int64).alias("count"), "time", "played_ratio",
        "session_id",
    )  # fmt: skip


def thumbs_of_sessions(listens: pl.DataFrame) -> pl.DataFrame:
    """The votes of `listens` in sessions, in the columns of the thumbs table; of repeated ones the
    latest.

    By hand, with shares in brackets: a (1), b (.1), c (.5), d (.9) in one session are a down on b
    and an up on d, both from a; then e (.2) is a down from d.
    """
    share = pl.col("played_ratio")
    ended = pl.when(share >= TO_ITS_END).then("track_id")
    seed = ended.forward_fill().shift(1).over("session_id")
    thumb = pl.when(share >= TO_ITS_END).then(1).when(share < EARLY_SKIP).then(-1)
    votes = listens.filter(pl.col("session_id").is_not_null()).select(
        "user_id", seed.alias("seed_id"), "track_id", thumb.cast(pl.Int8).alias("thumb"), "time",
        pl.col("session_id").alias("station_id"),
    )  # fmt: skip
    votes = votes.drop_nulls().filter(pl.col("seed_id") != pl.col("track_id"))
    key = ["user_id", "seed_id", "track_id"]
    return votes.sort("time", maintain_order=True).unique(key, keep="last").sort(key)
