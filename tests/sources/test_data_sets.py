"""What each data set's adapter makes of the tiny files of `make_sources`, worked by hand."""

import bz2

import numpy as np
import polars as pl
import pytest

from cbmr.errors import InputError
from cbmr.sources import yambda as yambda_module
from cbmr.sources.fma import fma
from cbmr.sources.lastfm2k import lastfm2k
from cbmr.sources.music4all import music4all, music4all_onion
from cbmr.sources.taste_profile import taste_profile
from cbmr.sources.yambda import yambda
from tests.data import make_sources as made
from tests.data.make_sources import echo_track


def rows(found, name, *columns):
    return found.tables[name].lazy().collect().select(columns).rows()


# --- Yambda ------------------------------------------------------------------------------------


@pytest.fixture
def yambda_folder(tmp_path):
    made.write_yambda(tmp_path / "yambda")
    return tmp_path / "yambda"


@pytest.mark.parametrize("rows_at_once", [1, 5, 100])
def test_yambda_in_pieces_of_any_size(yambda_folder, monkeypatch, rows_at_once):
    """Listener 1 heard 10 twice, 11 and 13; of 12 only 49 %. Listener 2 heard 10, 11 (50 %), and
    14, which has no vector.

    Likes on recommended tracks: 1 on 11 at 305, after the organic 10 at 200, is an up; 2 on 13 at
    150 has nothing organic before it; 2 on 14 is of no known item; 2 on 11 at 600 is taken back at
    once. Organic: 1 on 13, on no station. Dislikes: 1 on 12 at 450, again after 10, since 12 itself
    was not heard by half, is a down; 2 on 10 is taken back.
    """
    monkeypatch.setattr(yambda_module, "ROWS_AT_ONCE", rows_at_once)
    found = yambda(yambda_folder)
    assert rows(found, "plays", "user_id", "track_id", "count") == [
        ("1", "10", 2), ("1", "11", 1), ("1", "13", 1), ("2", "10", 1), ("2", "11", 1),
    ]  # fmt: skip
    assert rows(found, "thumbs", "user_id", "seed_id", "track_id", "thumb", "time") == [
        ("1", "10", "11", 1, 305), ("1", "10", "12", -1, 450),
    ]  # fmt: skip
    assert rows(found, "tracks", "track_id", "artist", "duration_s") == [
        ("10", "7", 180), ("11", "7", 200), ("12", None, 90), ("13", "9", 240),
    ]  # fmt: skip
    track_ids, features = found.features
    assert track_ids.tolist() == ["10", "11", "12", "13"]
    np.testing.assert_array_equal(features[:, 0], [10, 11, 12, 13])
    assert features.dtype == np.float32
    assert found.notes == [
        "5 likes and dislikes stand in the end; 1 of tracks that the listener chose are on no "
        "station, 1 have no organic track before them",
        "1 of 5 items have no vector, left out",
    ]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("likes", 300), ("unlikes", 310)], []),
        ([("likes", 300), ("unlikes", 310), ("likes", 320)], [1]),
        ([("unlikes", 300), ("likes", 310)], [1]),
        ([("likes", 300), ("dislikes", 310)], [-1]),
        ([("dislikes", 300), ("undislikes", 310), ("likes", 310)], []),
        ([("dislikes", 300), ("likes", 305), ("dislikes", 310)], [-1]),
    ],
)
def test_yambda_votes_are_replayed(yambda_folder, events, expected):
    """The last of four counts; in one moment the taking back is the last."""
    for name in ("likes", "unlikes", "dislikes", "undislikes"):
        file = yambda_folder / f"flat/50m/{name}.parquet"
        schema = pl.read_parquet_schema(file)
        mine = [(1, 11, time, 0) for kind, time in events if kind == name]
        pl.DataFrame(mine, schema, orient="row").write_parquet(file)
    found = yambda(yambda_folder)
    if not expected:
        assert "thumbs" not in found.tables
    else:
        assert rows(found, "thumbs", "seed_id", "thumb") == [("10", thumb) for thumb in expected]


def test_yambda_agrees_with_a_plain_loop(yambda_folder, monkeypatch):
    """2,000 random listens and 400 random votes of forty listeners."""
    rng = np.random.default_rng(0)
    flat = yambda_folder / "flat/50m"

    def table(name, count):
        schema = pl.read_parquet_schema(flat / f"{name}.parquet")
        drawn = {
            "uid": rng.integers(1, 41, count), "item_id": rng.integers(10, 14, count),
            "timestamp": 5 * rng.integers(0, 400, count), "is_organic": rng.integers(0, 2, count),
            "played_ratio_pct": rng.integers(0, 110, count),
            "track_length_seconds": np.full(count, 200),
        }  # fmt: skip
        table = pl.DataFrame({key: drawn[key] for key in schema}, schema)
        table = table.unique(["uid", "timestamp"], keep="first", maintain_order=True)
        table.write_parquet(flat / f"{name}.parquet")
        return table.rows(named=True)

    listens = table("listens", 2000)
    thumb_of = {"likes": 1, "dislikes": -1, "unlikes": 0, "undislikes": 0}
    events = [
        (row["timestamp"], thumb == 0, thumb, row)
        for name, thumb in thumb_of.items()
        for row in table(name, 100)
    ]
    final = {}
    for _, _, thumb, row in sorted(events, key=lambda event: event[:2]):
        final[row["uid"], row["item_id"]] = thumb, row
    expected = set()
    for (uid, item), (thumb, row) in final.items():
        before = [
            (listen["timestamp"], listen["item_id"])
            for listen in listens
            if listen["uid"] == uid and listen["is_organic"] and listen["played_ratio_pct"] >= 50
            and listen["timestamp"] < row["timestamp"]
        ]  # fmt: skip
        if thumb and not row["is_organic"] and before and max(before)[1] != item:
            expected.add((str(uid), str(max(before)[1]), str(item), thumb))
    assert len(expected) > 20
    monkeypatch.setattr(yambda_module, "ROWS_AT_ONCE", 300)
    found = yambda(yambda_folder)
    assert set(rows(found, "thumbs", "user_id", "seed_id", "track_id", "thumb")) == expected


# --- the Taste Profile --------------------------------------------------------------------------


def test_taste_profile(tmp_path):
    """Song 1 is its first track, A; song 2 has only a mismatched one and goes; song 3 is E, since D
    is mismatched; song 4 has none."""
    made.write_taste_profile(tmp_path)
    found = taste_profile(tmp_path)
    assert rows(found, "tracks", "track_id", "artist", "title", "path") == [
        (echo_track("A"), "Ann", "One", "no audio"), (echo_track("E"), "Ünal", "夜", "no audio"),
    ]  # fmt: skip
    one, two = "a" * 40, "b" * 40
    assert rows(found, "plays", "user_id", "track_id", "count") == [
        (one, echo_track("A"), 3), (two, echo_track("E"), 1), (two, echo_track("A"), 1),
    ]  # fmt: skip
    assert found.notes == [
        "2 mismatched pairs of a song and a track removed; 1 songs have no other track",
        "2 of 5 plays are of songs without a track, left out",
    ]


def test_taste_profile_finds_audio_by_its_name(tmp_path):
    made.write_taste_profile(tmp_path)
    file = tmp_path / f"clips/A/{echo_track('A')}.mp3"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    found = taste_profile(tmp_path, audio=tmp_path / "clips")
    assert rows(found, "tracks", "path") == [(str(file),), ("no audio",)]
    assert found.notes[-1] == "1 of 2 tracks have audio"
    with pytest.raises(InputError, match="is no folder"):
        taste_profile(tmp_path, audio=tmp_path / "gone")


# --- Last.fm-2k ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_lastfm2k(tmp_path, encoding):
    made.write_lastfm2k(tmp_path)
    file = tmp_path / "artists.dat"
    file.write_bytes(file.read_bytes().decode("latin-1").encode(encoding))
    found = lastfm2k(tmp_path)
    assert rows(found, "tracks", "track_id", "title", "artist") == [
        ("1", "Malaya", "Malaya"), ("52", "Beyoncé", "Beyoncé"),
    ]  # fmt: skip
    assert rows(found, "plays", "user_id", "track_id", "count") == [
        ("2", "1", 3), ("2", "52", 11_690), ("3", "52", 1),
    ]  # fmt: skip


def test_lastfm2k_counts_are_whole_numbers(tmp_path):
    made.write_lastfm2k(tmp_path)
    (tmp_path / "user_artists.dat").write_text("userID\tartistID\tweight\n2\t52\t1.5\n")
    with pytest.raises(InputError, match=r"'weight', row 1: '1\.5', expected a whole number"):
        lastfm2k(tmp_path)


# --- Music4All ----------------------------------------------------------------------------------


def test_music4all(tmp_path):
    """The gap of 30 minutes from 10:58 to 11:28 begins a session; the one of 29 before does not,
    though the listen between is of no known track."""
    made.write_music4all(tmp_path)
    found = music4all(tmp_path)
    first, second = "0009fFIM1eYThaPg", "ABCdefGHIjklMNOp"
    assert rows(found, "tracks", "track_id", "title", "album", "duration_s", "style", "path") == [
        (first, "One", "First", 201.0, "jazz", f"{tmp_path}/audios/{first}.mp3"),
        (second, '夜 "live"', "Nights", 90.5, "folk", f"{tmp_path}/audios/{second}.mp3"),
    ]
    plays = found.tables["plays"].collect()
    assert plays.select("user_id", "track_id", "count", "session_id").rows() == [
        ("user_a", first, 1, "user_a 2019-01-02T10:00:00"),
        ("user_a", second, 1, "user_a 2019-01-02T10:00:00"),
        ("user_a", first, 1, "user_a 2019-01-02T11:28:00"),
        ("user_b", first, 1, "user_b 2019-01-02T10:00:00"),
    ]
    assert plays["time"].dt.hour().to_list() == [10, 10, 11, 10]
    assert found.notes == ["1 of 5 rows of plays name tracks without information, left out"]


def test_music4all_takes_other_names_of_columns(tmp_path):
    made.write_music4all(tmp_path)
    file = tmp_path / "listening_history.csv"
    file.write_text(file.read_text().replace("user\tsong\ttimestamp", "when_is_else\tb\tc", 1))
    with pytest.raises(InputError, match="lacks the column 'user'"):
        music4all(tmp_path)
    names = {"user_column": "when_is_else", "song_column": "b", "time_column": "c"}
    assert len(music4all(tmp_path, **names).tables["plays"].collect()) == 4
    file.write_text(file.read_text().replace("10:29", "half past ten"))
    with pytest.raises(InputError, match="column 'c', row 2: '2019-01-02 half past ten'"):
        music4all(tmp_path, **names)


def test_music4all_onion_in_pieces_of_any_size(tmp_path, monkeypatch):
    made.write_music4all(tmp_path)
    monkeypatch.setattr("cbmr.sources.music4all.CHUNK_BYTES", 10)
    found = music4all_onion(tmp_path)
    assert rows(found, "plays", "user_id", "track_id", "count") == [
        ("1", "0009fFIM1eYThaPg", 4), ("2", "ABCdefGHIjklMNOp", 1),
    ]  # fmt: skip
    file = tmp_path / "userid_trackid_count.tsv.bz2"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(InputError, match="was its download cut off"):
        music4all_onion(tmp_path)
    file.write_bytes(bz2.compress(b"user\tsong\n"))
    with pytest.raises(InputError, match="expected the columns user_id, track_id, count"):
        music4all_onion(tmp_path)


# --- FMA ----------------------------------------------------------------------------------------


def test_fma(tmp_path):
    made.write_fma(tmp_path)
    found = fma(tmp_path)
    columns = ("track_id", "title", "artist", "album", "style", "duration_s", "split", "path")
    assert rows(found, "tracks", *columns) == [
        ("000002", "Food\nfight", "AWOL", "AWOL, a way", "Hip-Hop", 168.0, "train",
         f"{tmp_path}/fma_small/000/000002.mp3"),
        ("010140", "Last", "夜", "Ärger", "Rock", 30.0, "test",
         f"{tmp_path}/fma_small/010/010140.mp3"),
    ]  # fmt: skip
    assert "plays" not in found.tables
    assert len(fma(tmp_path, subset="medium").tables["tracks"]) == 3


def test_fma_wants_audio_or_a_subset(tmp_path):
    made.write_fma(tmp_path)
    (tmp_path / "fma_small/000").rmdir()
    (tmp_path / "fma_small").rmdir()
    with pytest.raises(InputError, match="no folder of audio: expected fma_small"):
        fma(tmp_path)
    with pytest.raises(InputError, match="subset=tiny: expected one of small, medium"):
        fma(tmp_path, subset="tiny")
