"""The tables: what is accepted, what every mistake says, and the one split."""

import codecs
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from cbmr.corpus import (
    known_artist,
    make_corpus,
    rows_of,
    split_by_hash,
    training_exposures,
    training_plays,
    training_triplets,
    votes_of,
)
from cbmr.errors import InputError
from cbmr.sources.tables import read_corpus
from tests.conftest import make_tables


def corpus_of(tmp_path, **changed):
    tables = {**make_tables(), **changed}
    return make_corpus(tmp_path, **tables)


def with_column(name, values, table="tracks"):
    return {table: make_tables()[table].with_columns(pl.Series(name, values))}


def test_ids_and_rows_turn_into_each_other(tmp_path):
    corpus = corpus_of(tmp_path)
    assert corpus.track_rows(["t3", "nobody", "t0"]).tolist() == [3, -1, 0]
    ids = np.array(["b", "a", "c"])
    assert rows_of(ids, np.array(["c", "b", "x"])).tolist() == [2, 0, -1]
    assert rows_of(np.empty(0, dtype=str), np.array(["a"])).tolist() == [-1]


def test_repeated_plays_are_summed(tmp_path):
    plays = pl.DataFrame(
        {"user_id": ["a", "a", "b"], "track_id": ["t1", "t1", "t0"], "count": [2, 3, 1]}
    )
    corpus = corpus_of(tmp_path, plays=plays)
    user, track = corpus.user_ids.tolist().index("a"), 1
    found = (corpus.plays.user == user) & (corpus.plays.track == track)
    assert corpus.plays.count[found].tolist() == [5]


def sessions_of(tmp_path, listens, schema, **changed):
    """The sessions of a few plays, as sets of `listener: track` and count."""
    plays = pl.DataFrame(listens, schema, orient="row").with_columns(count=pl.lit(1))
    tables = {**make_tables(), "plays": plays, **changed}
    corpus = make_corpus(tmp_path, tables["tracks"], tables["plays"], sessions=True)
    plays = training_plays(corpus)
    names = [f"{corpus.user_ids[user]}: {corpus.track_ids[track]} {count}" for user, track, count in
             zip(plays.user, plays.track, plays.count, strict=True)]  # fmt: skip
    together = [{name for name, at in zip(names, plays.session, strict=True) if at == session}
                for session in np.unique(plays.session)]  # fmt: skip
    return sorted(map(sorted, together)), corpus


TIMES = {
    "datetime": lambda text: datetime.fromisoformat(text).replace(tzinfo=None),
    "text": lambda text: text,
    "other zone": lambda text: (
        datetime.fromisoformat(text + "Z").astimezone(timezone(timedelta(hours=5))).isoformat()
    ),
    "seconds": lambda text: int(datetime.fromisoformat(text + "Z").timestamp()),
    "seconds of a CSV": lambda text: f"{datetime.fromisoformat(text + 'Z').timestamp():.0f} ",
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_pause_of_half_an_hour_ends_a_session(tmp_path, kind):
    """Each listener by itself, in whatever order rows come; a track that came back is summed."""
    listens = [
        ("a", "t3", "2024-03-01T13:19:00"), ("a", "t0", "2024-03-01T12:00:00"),
        ("b", "t1", "2024-03-01T12:10:00"), ("a", "t1", "2024-03-01T12:20:00"),
        ("a", "t0", "2024-03-01T12:49:00"), ("a", "t2", "2024-03-01T13:20:00"),
    ]  # fmt: skip
    listens = [(user, track, TIMES[kind](time)) for user, track, time in listens]
    found, corpus = sessions_of(tmp_path, listens, ["user_id", "track_id", "time"])
    assert found == [["a: t0 2", "a: t1 1"], ["a: t2 1", "a: t3 1"], ["b: t1 1"]]
    assert not corpus.notes


def test_a_session_id_goes_before_the_time_and_belongs_to_its_listener(tmp_path):
    listens = [
        ("a", "t0", 0, "x"), ("a", "t1", 9_000, "x"), ("b", "t2", 10, "x"),
        ("a", "t3", 60, ""), ("a", "t4", 1_800, None), ("a", "t5", None, None),
    ]  # fmt: skip
    found, corpus = sessions_of(tmp_path, listens, ["user_id", "track_id", "time", "session_id"])
    assert found == [["a: t0 1", "a: t1 1"], ["a: t3 1", "a: t4 1"], ["b: t2 1"]]
    assert "1 of 6 plays have neither 'time' nor 'session_id'" in corpus.notes[0]


def test_a_skip_keeps_a_session_going_and_is_in_none(tmp_path):
    """t1 was left after a third; how much of t2 was heard is not known."""
    listens = [("a", "t0", 0, 1.0), ("a", "t1", 1_700, 0.3), ("a", "t2", 3_400, None)]
    found, corpus = sessions_of(tmp_path, listens, ["user_id", "track_id", "time", "played_ratio"])
    assert found == [["a: t0 1", "a: t2 1"]]
    assert "1 of 3 plays were heard for less than half" in corpus.notes[0]


def test_a_held_out_track_decides_nothing_about_sessions(tmp_path):
    """t9 validates and t13 tests: however they were played, the sessions are the same."""
    schema = ["user_id", "track_id", "time"]
    training = [("a", "t0", 0), ("a", "t1", 3_000), ("a", "t2", 3_100)]
    alone, _ = sessions_of(tmp_path, training, schema)
    between = [("a", "t9", 1_500), ("a", "t13", 1_600), ("b", "t13", 5)]
    assert sessions_of(tmp_path, training + between, schema)[0] == alone
    assert alone == [["a: t0 1"], ["a: t1 1", "a: t2 1"]]


@pytest.mark.parametrize(
    ("schema", "row", "message"),
    [
        (["user_id", "track_id"], (), "no play has a 'time' or a 'session_id'"),
        (["user_id", "track_id", "time"], (None,), "no play has a 'time' or a 'session_id'"),
        (["user_id", "track_id", "time"], (1_700_000_000_000,), "row 1: 1700.* in milliseconds"),
        (["user_id", "track_id", "time"], ("March",), "row 1: 'March', expected ISO 8601"),
        (["user_id", "track_id", "time", "played_ratio"], (1, 87.0), "is it in per cent"),
    ],
)
def test_plays_without_sessions_are_explained(tmp_path, schema, row, message):
    with pytest.raises(InputError, match=message):
        sessions_of(tmp_path, [("a", "t0", *row)], schema)


@pytest.mark.parametrize(("times", "up"), [(None, False), ([2, 1], True)])
def test_of_repeated_votes_the_latest_counts(tmp_path, times, up):
    """Without times the last row, a down; with them the later one, an up."""
    thumbs = pl.DataFrame(
        {"user_id": ["a", "a"], "seed_id": ["t0"] * 2, "track_id": ["t1"] * 2, "thumb": [1, -1]}
    )
    if times:
        thumbs = thumbs.with_columns(time=pl.Series(times, dtype=pl.Int64))
    corpus = corpus_of(tmp_path, thumbs=thumbs)
    assert corpus.thumbs.up.tolist() == [up]


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ("2024-01-02", "2024-01-02T00:00:01"),
        ("2024-01-02T12:00:00+02:00", "2024-01-02T10:30:00Z"),
        ("9", "10"),
    ],
)
def test_times_as_text_are_in_the_order_in_which_they_pass(tmp_path, early, late):
    """The later vote, an up, stands first in the table."""
    thumbs = pl.DataFrame(
        {"user_id": ["a", "a"], "seed_id": ["t0"] * 2, "track_id": ["t1"] * 2, "thumb": [1, -1],
         "time": [late, early]}
    )  # fmt: skip
    assert corpus_of(tmp_path, thumbs=thumbs).thumbs.up.tolist() == [True]
    for mistake in ("12/31/2023 10:00", "yesterday"):
        wrong = thumbs.with_columns(time=pl.Series([mistake, early]))
        with pytest.raises(InputError, match=r"'time', row 1.*ISO 8601"):
            corpus_of(tmp_path, thumbs=wrong)


def test_a_time_that_is_none_is_named_by_its_row_in_the_file(tmp_path):
    """The first row, of a track that is not there, counts too."""
    thumbs = pl.DataFrame(
        {"user_id": ["a"] * 3, "seed_id": ["gone", "t0", "t0"], "track_id": ["t1"] * 3,
         "thumb": [1] * 3, "time": ["2024-01-01", "2024-01-02", "tomorrow"]}
    )  # fmt: skip
    with pytest.raises(InputError, match=r"'time', row 3: 'tomorrow'"):
        corpus_of(tmp_path, thumbs=thumbs)


def test_votes_on_the_seed_itself_are_counted_and_left_out(tmp_path):
    thumbs = pl.DataFrame(
        {"user_id": ["a", "a"], "seed_id": ["t0"] * 2, "track_id": ["t0", "t1"], "thumb": [1, -1]}
    )
    corpus = corpus_of(tmp_path, thumbs=thumbs)
    assert corpus.thumbs.up.tolist() == [False]
    assert any("1 of 2 votes are on the seed itself" in note for note in corpus.notes)


def test_unknown_tracks_are_counted_and_left_out(tmp_path):
    plays = pl.DataFrame({"user_id": ["a", "a"], "track_id": ["t1", "gone"], "count": [1, 1]})
    corpus = corpus_of(tmp_path, plays=plays)
    assert len(corpus.plays.count) == 1
    assert any("1 of 2 rows name unknown tracks" in note for note in corpus.notes)


@pytest.mark.parametrize("width", [pl.Int8, pl.UInt16, pl.Int64])
def test_any_integer_width_is_accepted(tmp_path, width):
    plays = make_tables()["plays"].with_columns(pl.col("count").cast(width))
    assert corpus_of(tmp_path, plays=plays).plays.count.dtype == np.int64


def exposures_of(**columns):
    """Of a listener who is in no other table: two tracks on one station, the second twice."""
    table = {"user_id": ["z"] * 3, "seed_id": ["t0"] * 3, "track_id": ["t1", "t2", "t2"]}
    return {"exposures": pl.DataFrame(table | columns)}


def triplets_of(rows, **columns):
    return {"triplets": pl.DataFrame(rows, ["a", "b", "odd"], orient="row").with_columns(**columns)}


@pytest.mark.parametrize(("times", "ratio"), [(None, 0.25), ([1, 3, 2], 1.0)])
def test_of_repeated_exposures_the_latest_counts(tmp_path, times, ratio):
    columns = {"played_ratio": [None, 1.0, 0.25]} | ({"time": times} if times else {})
    corpus = corpus_of(tmp_path, **exposures_of(**columns))
    exposures = corpus.exposures
    assert set(corpus.user_ids[exposures.user]) == {"z"}
    assert (exposures.seed.tolist(), exposures.track.tolist()) == ([0, 0], [1, 2])
    np.testing.assert_array_equal(exposures.played_ratio, [np.nan, ratio])


def test_without_a_played_ratio_it_is_unknown(tmp_path):
    assert np.isnan(corpus_of(tmp_path, **exposures_of()).exposures.played_ratio).all()


def answers(corpus):
    triplets = corpus.triplets
    users = np.append(corpus.user_ids, "nobody")[triplets.user]
    return sorted(zip(users.tolist(), triplets.a, triplets.b, triplets.odd, strict=True))


def test_of_a_listeners_answers_on_the_same_three_the_latest_counts(tmp_path):
    """u1 answers on (0, 1, 2) twice and on (0, 1, 3) once; nobody's two answers may be two
    people's; an unknown track is left out."""
    rows = [["t0", "t1", "t2"], ["t2", "t0", "t1"], ["t0", "t1", "t3"], ["t0", "t1", "t2"],
            ["t0", "t1", "t2"], ["t0", "t1", "gone"]]  # fmt: skip
    who = pl.Series(["u1", "u1", "u1", None, "", "u1"])
    corpus = corpus_of(tmp_path, **triplets_of(rows, user_id=who))
    nobody = ("nobody", 0, 1, 2)
    assert answers(corpus) == [nobody, nobody, ("u1", 0, 1, 3), ("u1", 2, 0, 1)]
    assert any("1 of 6 rows name unknown tracks" in note for note in corpus.notes)
    assert "" not in corpus.user_ids
    earlier = pl.Series([2, 1, 1, 1, 1, 1])
    corpus = corpus_of(tmp_path, **triplets_of(rows, user_id=who, time=earlier))
    assert answers(corpus) == [nobody, nobody, ("u1", 0, 1, 2), ("u1", 0, 1, 3)]


def test_answers_need_no_listener(tmp_path):
    corpus = corpus_of(tmp_path, **triplets_of([["t0", "t1", "t2"], ["t3", "t4", "t5"]]))
    assert answers(corpus) == [("nobody", 0, 1, 2), ("nobody", 3, 4, 5)]


MISTAKES = {
    "missing column": ({"plays": make_tables()["plays"].drop("count")}, "lacks the column 'count'"),
    "misspelt column": (
        {"thumbs": make_tables()["thumbs"].rename({"seed_id": "seedid"})},
        "is 'seedid' meant",
    ),
    "duplicate id": (with_column("track_id", ["x"] * 14), "rows 1 and 2: 'x' twice"),
    "numbers as ids": (with_column("track_id", list(range(14))), "expected text"),
    "empty id": (with_column("track_id", ["", *"abcdefghijklm"]), "row 1: '', expected text"),
    "wrong split": (with_column("split", ["train"] * 13 + ["tset"]), "row 14: 'tset'"),
    "no training track": (with_column("split", ["test"] * 14), "no 'train'"),
    "negative count": (
        {"plays": make_tables()["plays"].with_columns(count=pl.lit(-2))},
        "row 1: -2, expected a count above 0",
    ),
    "count as text": (
        {"plays": make_tables()["plays"].with_columns(count=pl.lit("many"))},
        "column 'count', row 1: 'many', expected a whole number",
    ),
    "fraction": (
        {"plays": make_tables()["plays"].with_columns(count=pl.lit(1.5))},
        "expected a whole number",
    ),
    "thumb of zero": (
        {"thumbs": make_tables()["thumbs"].with_columns(thumb=pl.lit(0))},
        r"row 1: 0, expected \+1 \(up\) or -1 \(down\)",
    ),
    "empty table": ({"plays": make_tables()["plays"].clear()}, "plays is empty"),
    "other ids": (
        {"plays": make_tables()["plays"].with_columns(track_id=pl.lit("zz"))},
        "made with different ids",
    ),
    "exposures of no station": (
        {"exposures": exposures_of()["exposures"].drop("seed_id")},
        "exposures lacks the column 'seed_id'",
    ),
    "place below 0": (
        exposures_of(position=[0, None, -1]),
        "exposures: column 'position', row 3: -1, expected a place on the station",
    ),
    "propensity of 0": (
        exposures_of(propensity=[0.5, 1.0, 0.0]),
        "column 'propensity', row 3: 0.0, expected a probability above 0",
    ),
    "propensity in per cent": (exposures_of(propensity=[None, 12.0, 1.0]), "row 2: 12.0"),
    "played ratio in per cent": (
        exposures_of(played_ratio=[1.5, float("nan"), 80.0]),
        "column 'played_ratio', row 3: 80.0, expected .* is it in per cent",
    ),
    "played ratio as text": (
        exposures_of(played_ratio=["1", "", "all"]),
        "column 'played_ratio', row 3: 'all', expected a number",
    ),
    "one of two": (
        triplets_of([["t0", "t1", "t2"], ["t1", "t1", "t2"]]),
        "triplets: column 'b', row 2: 't1', expected another track than in 'a'",
    ),
    "one of the pair is odd": (
        triplets_of([["t0", "t1", "t2"], ["t0", "t1", "t2"], ["t0", "t1", "t1"]]),
        "triplets: column 'odd', row 3: 't1', expected another track than in 'a' and 'b'",
    ),
    "no odd one": (
        triplets_of([["t0", "t1", "t2"], ["t0", "t1", None]]),
        "column 'odd', row 2: None, expected text",
    ),
    "misspelt odd": (
        {"triplets": triplets_of([["t0", "t1", "t2"]])["triplets"].rename({"odd": "odd_one"})},
        "triplets lacks the column 'odd' .* is 'odd_one' meant",
    ),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_names_file_column_row_and_value(tmp_path, name):
    changed, message = MISTAKES[name]
    with pytest.raises(InputError, match=message):
        corpus_of(tmp_path, **changed)


# --- splits -------------------------------------------------------------------------------------


def test_votes_belong_to_the_split_of_their_track(tmp_path):
    corpus = corpus_of(tmp_path)
    split = corpus.split
    for name in ("train", "valid", "test"):
        votes = votes_of(corpus, name)
        assert len(votes)
        assert set(split[votes.track]) == {name}
    assert set(split[votes_of(corpus, "train").seed]) == {"train"}
    assert "test" not in split[votes_of(corpus, "valid").seed]
    assert set(split[training_plays(corpus).track]) == {"train"}


def test_evidence_trains_only_when_all_its_tracks_do(tmp_path):
    """Training tracks are 0 to 7. Against a loop over every station of every track, and every three
    of a pair and another track."""
    pairs = [(seed, track) for seed in range(14) for track in range(14) if seed != track]
    exposures = pl.DataFrame(
        {"user_id": ["u1"] * len(pairs), "seed_id": [f"t{seed}" for seed, _ in pairs],
         "track_id": [f"t{track}" for _, track in pairs]}
    )  # fmt: skip
    threes = [(a, b, odd) for a, b in pairs for odd in (3, 10) if odd not in (a, b)]
    triplets = triplets_of([[f"t{row}" for row in three] for three in threes])
    corpus = corpus_of(tmp_path, exposures=exposures, **triplets)
    kept = training_exposures(corpus)
    expected = {pair for pair in pairs if max(pair) < 8}
    assert {*zip(kept.seed.tolist(), kept.track.tolist(), strict=True)} == expected
    assert len(kept.user) == len(kept.played_ratio) == len(expected)
    kept = training_triplets(corpus)
    expected = sorted(three for three in threes if max(three) < 8)
    assert sorted(zip(kept.a, kept.b, kept.odd, strict=True)) == expected
    assert set(kept.user) == {-1}


def test_a_known_artist_has_a_training_track(tmp_path):
    corpus = corpus_of(tmp_path)
    assert known_artist(corpus).tolist() == [True] * 12 + [False] * 2


def test_split_by_hash_holds_out_new_artists_then_single_tracks():
    rng = np.random.default_rng(0)
    ids = np.array([f"id{row}" for row in range(500)])
    artist = np.array([f"artist {row}" for row in rng.integers(0, 60, 500)])
    artist[:20] = ""
    played = rng.random(500) < 0.9
    split = split_by_hash(ids, artist, played)
    assert set(split[~played]) == {"test"}
    assert "test" not in split[played]
    training_artists = set(artist[split == "train"]) - {""}
    valid = np.flatnonzero(split == "valid")
    known = np.array([artist[row] in training_artists or not artist[row] for row in valid])
    quota = 0.1 * played.sum()
    assert quota <= (~known).sum() < quota + 20
    assert quota <= known.sum() < quota + 1


def test_split_by_hash_does_not_depend_on_the_order_of_the_table():
    ids = np.array([f"id{row}" for row in range(100)])
    artist = np.array([f"artist {row % 13}" for row in range(100)])
    order = np.random.default_rng(0).permutation(100)
    split = split_by_hash(ids, artist, np.ones(100, dtype=bool))
    shuffled = split_by_hash(ids[order], artist[order], np.ones(100, dtype=bool))
    assert shuffled.tolist() == split[order].tolist()


def test_without_holdout_everything_trains(tmp_path):
    tables = make_tables()
    corpus = make_corpus(tmp_path, tables["tracks"], tables["plays"], holdout=False)
    assert set(corpus.split) == {"train"}


# --- files --------------------------------------------------------------------------------------


def test_csv_and_parquet_give_the_same_corpus(tmp_path):
    more = exposures_of(played_ratio=[0.1, 1.0, None], position=[0, 1, 2]) | triplets_of(
        [["t0", "t1", "t2"]], user_id=pl.lit("u1")
    )
    for name, table in (make_tables() | more).items():
        (tmp_path / "parquet").mkdir(exist_ok=True)
        (tmp_path / "csv").mkdir(exist_ok=True)
        table.write_parquet(tmp_path / "parquet" / f"{name}.parquet")
        table.write_csv(tmp_path / "csv" / f"{name}.csv")
    first, second = (
        read_corpus(tmp_path / kind, needs=["plays", "thumbs", "exposures"], uses=["triplets"])
        for kind in ("parquet", "csv")
    )
    for table in (None, "plays", "thumbs", "exposures", "triplets"):
        one, other = (getattr(whole, table) if table else whole for whole in (first, second))
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(other, name))


def test_a_table_that_is_not_asked_for_is_not_read(tmp_path):
    for name, table in make_tables().items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "triplets.csv").write_text("a,b,odd\nt0,t0,t0\n")
    assert read_corpus(tmp_path, needs=["plays"]).triplets is None
    with pytest.raises(InputError, match="row 1: 't0', expected another track"):
        read_corpus(tmp_path, uses=["triplets"])
    with pytest.raises(InputError, match=r"no exposures\.parquet or exposures\.csv"):
        read_corpus(tmp_path, needs=["exposures"])


def test_of_a_table_that_may_be_missing_a_header_alone_is_as_good(tmp_path):
    (tmp_path / "tracks.csv").write_text("track_id,path\n1,a.wav\n")
    (tmp_path / "triplets.csv").write_text("a,b,odd\n")
    assert read_corpus(tmp_path, uses=["triplets"]).triplets is None
    with pytest.raises(InputError, match=r"triplets\.csv is empty"):
        read_corpus(tmp_path, needs=["triplets"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_spreadsheets_unicode_text_is_named(tmp_path, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""  # "utf-16" writes its own
    (tmp_path / "tracks.csv").write_bytes(mark + "track_id,path\n1,a.wav\n".encode(encoding))
    with pytest.raises(InputError, match="is in UTF-16: expected CSV in UTF-8"):
        read_corpus(tmp_path)


def test_ids_of_a_csv_keep_their_leading_zeros(tmp_path):
    (tmp_path / "tracks.csv").write_text("track_id,path\n007,a.wav\n7,b.wav\n")
    assert read_corpus(tmp_path).track_ids.tolist() == ["007", "7"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tracks.parquet or tracks.csv"),
        ({"Tracks.csv": "track_id,path\n1,a\n"}, "Tracks.csv is there, is it meant"),
        ({"tracks.csv": "", "plays.csv": "x"}, "tracks.csv is empty"),
        ({"tracks.csv": "track_id,path\n", "plays.csv": "x"}, "tracks.csv is empty"),
        ({"tracks.parquet": "not parquet", "plays.csv": "x"}, "cannot be read as Parquet"),
        ({"tracks.csv": "track_id;path\n1;a\n", "plays.csv": "x"}, "tracks.csv has semicolons"),
        ({"tracks.csv": "track_id\tpath\n1\ta\n", "plays.csv": "x"}, "tracks.csv has tabs"),
        ({"tracks.csv": "track_id,path\n1,a\n"}, "has no plays.parquet or plays.csv"),
        (
            {"tracks.csv": "track_id,path\n1,a\n", "plays.csv": "user_id,track_id,count\nu,1,x\n"},
            "plays.csv: column 'count', row 1: 'x', expected a whole number",
        ),
    ],
)
def test_a_bad_folder_is_explained(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_corpus(tmp_path, needs=["plays"])


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_corpus(tmp_path / "nowhere")
