"""The three tables: what is accepted, what every mistake says, and the one split."""

import numpy as np
import polars as pl
import pytest

from cbmr.corpus import (
    known_artist,
    make_corpus,
    rows_of,
    split_by_hash,
    training_plays,
    votes_of,
)
from cbmr.errors import InputError
from cbmr.sources.tables import read_corpus
from tests.conftest import make_tables


def corpus_of(tmp_path, **changed):
    tables = {**make_tables(), **changed}
    return make_corpus(tmp_path, tables["tracks"], tables["plays"], tables["thumbs"])


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


def test_unknown_tracks_are_counted_and_left_out(tmp_path):
    plays = pl.DataFrame({"user_id": ["a", "a"], "track_id": ["t1", "gone"], "count": [1, 1]})
    corpus = corpus_of(tmp_path, plays=plays)
    assert len(corpus.plays.count) == 1
    assert any("1 of 2 rows name unknown tracks" in note for note in corpus.notes)


@pytest.mark.parametrize("width", [pl.Int8, pl.UInt16, pl.Int64])
def test_any_integer_width_is_accepted(tmp_path, width):
    plays = make_tables()["plays"].with_columns(pl.col("count").cast(width))
    assert corpus_of(tmp_path, plays=plays).plays.count.dtype == np.int64


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
    for name, table in make_tables().items():
        (tmp_path / "parquet").mkdir(exist_ok=True)
        (tmp_path / "csv").mkdir(exist_ok=True)
        table.write_parquet(tmp_path / "parquet" / f"{name}.parquet")
        table.write_csv(tmp_path / "csv" / f"{name}.csv")
    first, second = (
        read_corpus(tmp_path / kind, needs=["plays", "thumbs"]) for kind in ("parquet", "csv")
    )
    for one, other in ((first, second), (first.plays, second.plays), (first.thumbs, second.thumbs)):
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(other, name))


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
