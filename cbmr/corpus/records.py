"""Checked tables to arrays of rows: plays, thumbs, and the optional exposures and triplets."""

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Plays:
    """Who played what how often; one entry a (listener, track). Arrays are `[plays]`.

    Where listening sessions are told apart, `session` numbers them and an entry is one of a
    (session, track).
    """

    user: np.ndarray
    track: np.ndarray
    count: np.ndarray
    session: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> "Plays":
        session = None if self.session is None else self.session[chosen]
        return Plays(self.user[chosen], self.track[chosen], self.count[chosen], session)


@dataclass(frozen=True)
class Thumbs:
    """Votes on radio stations; one entry a (listener, seed, track). Arrays are `[votes]`.

    `user`, `seed` and `track` are rows; `up` is True for a thumb up, False for a thumb down.
    """

    user: np.ndarray
    seed: np.ndarray
    track: np.ndarray
    up: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Thumbs":
        return Thumbs(self.user[chosen], self.seed[chosen], self.track[chosen], self.up[chosen])

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Exposures:
    """What radio stations played, voted on or not; one entry a (listener, seed, track).

    Arrays are `[exposures]`; `played_ratio` is the share of the track that was heard, 1 for all of
    it, NaN where unknown.
    """

    user: np.ndarray
    seed: np.ndarray
    track: np.ndarray
    played_ratio: np.ndarray


@dataclass(frozen=True)
class Triplets:
    """Answers to which of three tracks is the odd one out. Arrays are `[answers]` of rows.

    `user` is -1 where nobody is named; `a` and `b` are the two that belong together.
    """

    user: np.ndarray
    a: np.ndarray
    b: np.ndarray
    odd: np.ndarray


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each `wanted` id in `ids`, -1 where it is not there; both `[n]` of text."""
    if len(ids) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    return np.where(ids[order[at]] == wanted, order[at], -1)


def text(table: pl.DataFrame, name: str) -> np.ndarray:
    """A column as text `[rows]`, empty where it is absent or unknown."""
    if name not in table.columns:
        return np.full(len(table), "", dtype="<U1")
    return np.array(table[name].fill_null("").to_list(), dtype=str)


def numbers(table: pl.DataFrame, name: str) -> np.ndarray:
    """A column as numbers `[rows]`, NaN where it is absent or unknown."""
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return table[name].fill_null(float("nan")).to_numpy()


def years(table: pl.DataFrame) -> np.ndarray:
    """The year of `released` `[rows]`, 0 where it is absent or unknown, or is no ISO date."""
    if "released" not in table.columns:
        return np.zeros(len(table), dtype=np.int64)
    written = table["released"].cast(pl.String)
    return written.str.extract(r"^\s*(\d{4})").cast(pl.Int64).fill_null(0).to_numpy()


def plays_of(plays: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray) -> Plays:
    """Repeated plays of one (listener, track) are summed; those of one (session, track), where the
    table says in `session` which one each was in."""
    key = ["user_id", "track_id"] + ["session"] * ("session" in plays.columns)
    summed = plays.group_by(key).agg(pl.col("count").sum()).sort(key)
    return Plays(
        user=rows_of(user_ids, text(summed, "user_id")),
        track=rows_of(track_ids, text(summed, "track_id")),
        count=summed["count"].to_numpy(),
        session=summed["session"].to_numpy() if "session" in key else None,
    )


def thumbs_of(thumbs: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray) -> Thumbs:
    """Of repeated votes on one (listener, seed, track) the latest counts."""
    latest = _latest(thumbs)
    up = (latest["thumb"] == 1).to_numpy()
    return Thumbs(*_on_stations(latest, track_ids, user_ids), up)


def exposures_of(exposures: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray) -> Exposures:
    """Of repeated exposures of one (listener, seed, track) the latest counts."""
    latest = _latest(exposures)
    ratio = numbers(latest, "played_ratio")
    return Exposures(*_on_stations(latest, track_ids, user_ids), ratio)


def _on_stations(
    table: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whose station, on which seed, and which track it played, as rows."""
    return (
        rows_of(user_ids, text(table, "user_id")),
        rows_of(track_ids, text(table, "seed_id")),
        rows_of(track_ids, text(table, "track_id")),
    )


def _latest(table: pl.DataFrame) -> pl.DataFrame:
    key = ["user_id", "seed_id", "track_id"]
    return _by_time(table).unique(key, keep="last", maintain_order=True).sort(key)


def _by_time(table: pl.DataFrame) -> pl.DataFrame:
    if "time" not in table.columns:
        return table
    return table.sort("time", maintain_order=True, nulls_last=False)


def triplets_of(triplets: pl.DataFrame, track_ids: np.ndarray, user_ids: np.ndarray) -> Triplets:
    """Of one listener's answers on the same three the latest counts; of nobody's, all."""
    triplets = _by_time(triplets)
    user = rows_of(user_ids, text(triplets, "user_id"))
    three = np.stack([rows_of(track_ids, text(triplets, name)) for name in ("a", "b", "odd")])
    # Answers that nobody gave may be those of many: each has a negative number of its own.
    who = np.where(user < 0, -1 - np.arange(len(user)), user)
    key = np.vstack([who, np.sort(three, axis=0)])[:, ::-1]
    latest = len(user) - 1 - np.unique(key, axis=1, return_index=True)[1]
    return Triplets(user[latest], *three[:, latest])
