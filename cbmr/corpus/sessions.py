"""Times, and plays to listening sessions: what one listener heard in one go.

A session is what `session_id` says, where it does, else a listener's plays by `time`, each less
than half an hour after the one before. A time is a date and time, text in ISO 8601 or seconds since
1970; without a zone it counts as UTC.
"""

from datetime import UTC, datetime, timedelta

import polars as pl

from cbmr.corpus.checks import refuse_ratios, refuse_rows
from cbmr.errors import InputError

GAP = timedelta(minutes=30)
"""A pause this long ends a session."""
HEARD = 0.5
"""A play of which less was heard is a skip: it keeps a session going, but belongs to none."""
LATEST_S = 2**35
"""Seconds since 1970 above this, in the year 3058, are milliseconds."""
MOMENT = pl.Datetime("us", "UTC")


def with_times(plays: pl.DataFrame, file: str) -> pl.DataFrame:
    """The plays with `time` as UTC; InputError for one that is none, or a `played_ratio` that is no
    share."""
    refuse_ratios(plays, file)
    return plays.with_columns(_utc(plays, file)) if "time" in plays.columns else plays


def with_sessions(plays: pl.DataFrame, file: str, notes: list[str]) -> pl.DataFrame:
    """Those of the plays `with_times` that were heard in a session, its number in `session`.

    By hand: plays of one listener at 12:00, 12:20, 12:49 and 13:19 are two sessions, the last play
    alone in the second. InputError when no play has a `session_id` or a `time`; how many others
    were left out is noted.
    """
    named, time = pl.col("session_id"), pl.col("time")
    absent: dict[str, pl.DataType] = {
        "session_id": pl.String(), "time": MOMENT, "played_ratio": pl.Float64()
    }  # fmt: skip
    known = plays.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in absent.items() if name not in plays.columns
    ).with_columns(pl.when(named != "").then(named))
    known = known.filter(named.is_not_null() | time.is_not_null())
    if known.is_empty() and not plays.is_empty():
        raise InputError(
            f"{file}: no play has a 'time' or a 'session_id', one of which has to say what was "
            "heard in one session; other models (factors=wmf) need neither"
        )
    # A session that has a name runs beside those that have none, and ends none of them.
    group = ("user_id", "session_id")
    known = known.sort("time", maintain_order=True)
    begins = (time.diff().fill_null(GAP) >= GAP) & named.is_null()
    known = known.with_columns(part=begins.cum_sum().over(group))
    known = known.with_columns(session=pl.struct(*group, "part").rank("dense").cast(pl.Int64) - 1)
    heard = known.filter(pl.col("played_ratio").fill_nan(None).fill_null(1.0) >= HEARD)
    for number, why in (
        (len(plays) - len(known), "have neither 'time' nor 'session_id'"),
        (len(known) - len(heard), "were heard for less than half"),
    ):
        if number:
            notes.append(f"{file}: {number} of {len(plays)} plays {why}, so they are in no session")
    return heard


def with_order(table: pl.DataFrame, file: str) -> pl.DataFrame:
    """The table with a `time` that sorts as it passed, where it has one: text as UTC, or as numbers
    where all of it is whole numbers. InputError for text that is neither."""
    if "time" not in table.columns or table["time"].dtype != pl.String:
        return table
    text = table["time"].str.strip_chars().replace("", None)
    time = text.str.to_integer(strict=False)
    if time.null_count() > text.null_count():  # not the seconds of a CSV
        time = pl.Series("time", [_parsed(moment) for moment in text.to_list()], dtype=MOMENT)
    bad = pl.lit(time.is_null() & text.is_not_null())
    expected = "ISO 8601, as in 2024-05-01T18:30:00Z, or seconds since 1970"
    refuse_rows(table, "time", bad, file, expected)
    return table.with_columns(time)


def _utc(plays: pl.DataFrame, file: str) -> pl.Series:
    time = with_order(plays, file)["time"]
    if time.dtype.is_integer():
        late = pl.lit((time > LATEST_S).fill_null(False))
        refuse_rows(plays, "time", late, file, "seconds since 1970; is it in milliseconds?")
        return pl.from_epoch(time.cast(pl.Int64), "s").dt.replace_time_zone("UTC").cast(MOMENT)
    if isinstance(time.dtype, pl.Datetime) and time.dtype.time_zone is not None:
        return time.dt.convert_time_zone("UTC").cast(MOMENT)
    return time.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _parsed(moment: str | None) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(moment or "")
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
