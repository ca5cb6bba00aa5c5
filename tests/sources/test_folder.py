"""A folder of music: real files with real tags, names of every kind, exports, and what they say."""

import os
import shutil
import sys
from datetime import datetime

import polars as pl
import pytest

from cbmr.audio import load_audio
from cbmr.errors import InputError
from cbmr.sources.adapters import ingest
from cbmr.sources.folder import folder
from cbmr.sources.folder.exports import read_exports
from cbmr.sources.folder.files import find_audio
from cbmr.sources.folder.matching import folded
from cbmr.sources.folder.tags import from_name, read_tags
from cbmr.sources.listening import thumbs_of_sessions, with_sessions
from tests.conftest import tone, write_wav
from tests.data.make_sources import (
    FREDDIE_MBID,
    SO_WHAT_MBID,
    listenbrainz,
    write_audio,
    write_folder,
    write_listenbrainz,
)

BLUE = "Miles Davis/Kind of Blue"
SO_WHAT, FREDDIE = f"{BLUE}/01 - So What.flac", f"{BLUE}/02 - Freddie.mp3"
GREEN, ALL_BLUES = f"{BLUE}/03 - Blue in Green.wav", f"{BLUE}/04 - All Blues.opus"
DEJA_VU, NIGHT = "Beyoncé/Lemonade/Déjà Vu.m4a", "夜/夜の歌.flac"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    made = tmp_path_factory.mktemp("folder")
    write_folder(made)
    return made


@pytest.fixture
def music(made, tmp_path):
    shutil.copytree(made / "music", tmp_path / "music")
    return tmp_path / "music"


def tracks_of(found):
    return {row["track_id"]: row for row in found.tables["tracks"].rows(named=True)}


def names(walk):
    return [file.name for file in walk.files]


# --- tags ---------------------------------------------------------------------------------------


def test_tags_of_every_format(made):
    found = folder(made / "music")
    tracks = tracks_of(found)
    said = {name: (row["title"], row["artist"], row["album"]) for name, row in tracks.items()}
    assert said == {
        SO_WHAT: ("So What", "Miles Davis", "Kind of Blue"),
        FREDDIE: ("Freddie Freeloader", "Miles Davis", "Kind of Blue"),
        GREEN: ("Blue in Green", "Miles Davis", "Kind of Blue"),  # by its name
        ALL_BLUES: ("All Blues", "Miles Davis", "Kind of Blue"),
        DEJA_VU: ("Déjà Vu", "Beyoncé", "Lemonade"),
        NIGHT: ("夜の歌", "夜", "夜"),
    }
    mbids = {name: row["mbid"] for name, row in tracks.items() if row["mbid"]}
    assert mbids == {SO_WHAT: SO_WHAT_MBID, FREDDIE: FREDDIE_MBID}
    assert tracks[SO_WHAT]["isrc"] == "USSM15900113"
    assert all(abs(row["duration_s"] - 2) < 0.1 for row in tracks.values())
    assert any(note.startswith("1 of 6 files have no title in their tags") for note in found.notes)
    for row in tracks.values():  # the paths are those that the scan opens
        assert len(load_audio(made / row["path"], sample_rate=8000).samples) > 15_000


@pytest.mark.parametrize(
    ("name", "title", "artist", "album"),
    [
        ("Miles Davis/Kind of Blue/01 - So What.flac", "So What", "Miles Davis", "Kind of Blue"),
        ("Kind of Blue/01 So What.flac", "So What", "", "Kind of Blue"),
        ("Miles Davis - So What.mp3", "So What", "Miles Davis", ""),
        ("A/B/CD 2/2-07. Title.mp3", "Title", "A", "B"),
        ("A/B/1999.mp3", "1999", "A", "B"),
        ("A/B/99 Luftballons.mp3", "Luftballons", "A", "B"),  # a tag would know better
        ("usr/share/games/asc/music/the_theme.ogg", "the theme", "", "asc / music"),
        ("夜/昼/01 夜の歌.flac", "夜の歌", "夜", "昼"),
    ],
)
def test_what_a_name_says(name, title, artist, album):
    assert from_name(name) == (title, artist, album)


DAMAGED = [b"x", b"ID3", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"OggS" + bytes(40), b"fLaC\0\0\0\x22",
           b"RIFF\xff\xff\xff\xffWAVEfmt "]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac", "wav", "m4a", "opus"])
def test_a_damaged_file_goes_by_its_name(tmp_path, content, suffix):
    file = tmp_path / f"01 - Title.{suffix}"
    file.write_bytes(content)
    tags = read_tags(file, file.name)
    assert (tags.title, tags.mbid, tags.tagged) == ("Title", "", False)


# --- files --------------------------------------------------------------------------------------


def test_links_copies_and_what_is_hidden(music):
    (music / "a link.wav").symlink_to(music / GREEN)
    (music / "A folder").symlink_to(music / "Beyoncé", target_is_directory=True)
    (music / "Beyoncé/loop").symlink_to(music, target_is_directory=True)
    (music / "broken.mp3").symlink_to(music / "gone.mp3")
    outside = music.parent / "outside"
    shutil.copytree(music / "夜", outside / "夜")
    write_audio(outside / "new.wav", hz=100)
    (music / "more").symlink_to(outside, target_is_directory=True)
    os.link(music / SO_WHAT, music / "hard.flac")
    shutil.copy(music / FREDDIE, music / "copy.mp3")
    (music / ".trash").mkdir()
    for hidden in (".hidden.mp3", ".trash/x.mp3", f"{BLUE}/._02 - Freddie.mp3"):
        (music / hidden).write_bytes(b"x")
    (music / "empty.ogg").write_bytes(b"")
    (music / "cover.jpg").write_bytes(b"x")
    os.mkfifo(music / "pipe.mp3")
    walk = find_audio(music)
    # Of two names of one file, or two copies, that at the top is nearer.
    expected = [DEJA_VU, "hard.flac", "copy.mp3", GREEN, ALL_BLUES, NIGHT, "more/new.wav"]
    assert names(walk) == sorted(expected)
    assert walk.left_out == {
        "a copy of a file that is there already": [FREDDIE, "more/夜/夜の歌.flac"],
        "linked to a file that is there already": [SO_WHAT, "a link.wav"],
        "cannot be read: No such file or directory": ["broken.mp3"],
        "empty": ["empty.ogg"],
        "no regular file": ["pipe.mp3"],
    }


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_no_text_is_said(music):
    (music / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"RIFF")
    walk = find_audio(music)
    assert walk.left_out == {"the name is not UTF-8: rename it": ["caf\ufffd.wav"]}
    assert len(walk.files) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_said(music):
    (music / "夜").chmod(0)
    walk = find_audio(music)
    (music / "夜").chmod(0o755)
    assert walk.left_out == {"cannot be read: Permission denied": ["夜"]}


def test_a_folder_that_cannot_be_read_is_said_to_anyone(music, monkeypatch):
    """As above, for a root that reads everything."""
    from pathlib import Path

    listed = Path.iterdir

    def refusing(path):
        if path.name == "夜":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    walk = find_audio(music)
    assert walk.left_out == {"cannot be read: Permission denied": ["夜"]}
    assert len(walk.files) == 5


def test_a_folder_without_audio(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no audio: expected"):
        folder(tmp_path)
    with pytest.raises(InputError, match="is a file: expected a folder of music"):
        folder(tmp_path / "notes.txt")


# --- ids ----------------------------------------------------------------------------------------


def ids_by_file(corpus):
    table = pl.read_parquet(corpus / "tracks.parquet")
    return dict(table.select("file", "track_id").rows())


def test_ids_stay_with_their_files(music, tmp_path):
    """A file that is tagged anew, one that is moved, a new one in its place, one that is deleted,
    one that is moved and back."""
    corpus = tmp_path / "corpus"
    ingest("folder", music, corpus)
    files = (DEJA_VU, SO_WHAT, FREDDIE, GREEN, ALL_BLUES, NIGHT)
    assert ids_by_file(corpus) == {name: name for name in files}
    write_audio(music / SO_WHAT, "flac", hz=221, tags={"title": "So What (remaster)"})
    (music / "Jazz").mkdir()
    (music / FREDDIE).rename(music / "Jazz/Freddie.mp3")
    write_audio(music / FREDDIE, "libmp3lame", hz=99)
    (music / DEJA_VU).unlink()
    (music / NIGHT).rename(music / "night.flac")
    found = ingest("folder", music, corpus)
    assert "2 files were moved since the last ingest, and keep their ids" in found.notes
    assert ids_by_file(corpus) == {
        SO_WHAT: SO_WHAT, "Jazz/Freddie.mp3": FREDDIE, FREDDIE: f"{FREDDIE} (2)", GREEN: GREEN,
        ALL_BLUES: ALL_BLUES, "night.flac": NIGHT,
    }  # fmt: skip
    (music / "night.flac").rename(music / NIGHT)
    ingest("folder", music, corpus)
    assert ids_by_file(corpus)[NIGHT] == NIGHT
    assert ids_by_file(corpus)[FREDDIE] == f"{FREDDIE} (2)"


def test_a_copy_does_not_take_its_originals_id(music, tmp_path):
    ingest("folder", music, tmp_path / "corpus")
    shutil.copy(music / NIGHT, music / "a copy.flac")
    ingest("folder", music, tmp_path / "corpus")
    assert ids_by_file(tmp_path / "corpus")[NIGHT] == NIGHT
    assert "a copy.flac" not in ids_by_file(tmp_path / "corpus")


def test_a_collection_that_moved_as_a_whole_keeps_its_ids(music, tmp_path):
    ingest("folder", music, tmp_path / "corpus")
    before = ids_by_file(tmp_path / "corpus")
    music.rename(tmp_path / "elsewhere")
    ingest("folder", tmp_path / "elsewhere", tmp_path / "corpus")
    assert ids_by_file(tmp_path / "corpus") == before


# --- matching -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Beyoncé — Déjà Vu!", "BEYONCE DEJA VU"),
        ("Straße", "STRASSE"),
        ("AC/DC", "ac dc"),
        ("Ｆｕｌｌ", "full"),
        ("Guns N’ Roses", "Guns N' Roses"),
    ],
)
def test_what_counts_as_one_name(one, other):
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("one", "other"), [("夜", "昼"), ("!!!", "???"), ("हिन्दी", "हन्द"), ("Один", "Одна")]
)
def test_what_does_not(one, other):
    assert folded(one) != folded(other) != ""


def test_the_album_tells_tracks_of_one_name_apart(music, tmp_path):
    tags = {"artist": "Miles Davis", "title": "So What"}
    write_audio(music / "Live/So What.wav", "pcm_s16le", hz=111)
    write_audio(music / "Live/So What.flac", "flac", hz=112, tags={**tags, "album": "Live!"})
    file = tmp_path / "plays.csv"
    file.write_text(
        "artist,title,album,count\nMiles Davis,So What,LIVE,3\nMiles Davis,So What,,1\n"
    )
    plays = folder(music, listens=file).tables["plays"]
    assert dict(plays.select("track_id", "count").rows()) == {"Live/So What.flac": 3 + 1}
    file.write_text(f"path,count\nfile://{music}/Live/So%20What.wav,2\nLive/So What.flac,5\n")
    plays = folder(music, listens=file).tables["plays"]
    expected = {"Live/So What.flac": 5, "Live/So What.wav": 2}
    assert dict(plays.select("track_id", "count").rows()) == expected


# --- exports ------------------------------------------------------------------------------------


def test_listenbrainz(made, tmp_path):
    """Four listens, of which one is of nothing here, one by its id, two by name; a love and a hate.
    20:00, 20:10 and 20:20 UTC of 31 May are one session, the 21st of June another."""
    found = folder(made / "music", listens=write_listenbrainz(tmp_path / "lb.zip"), user="anna")
    plays = found.tables["plays"]
    assert plays.select("user_id", "track_id", "count", "time", "session_id").rows() == [
        ("anna", SO_WHAT, 1, datetime(2024, 5, 31, 20, 0), "anna 2024-05-31T20:00:00"),
        ("anna", DEJA_VU, 1, datetime(2024, 5, 31, 20, 10), "anna 2024-05-31T20:00:00"),
        ("anna", SO_WHAT, 1, datetime(2024, 6, 21, 20, 0), "anna 2024-06-21T20:00:00"),
    ]
    assert "played_ratio" not in plays.columns
    # Of Miles Davis, So What has the most stars and Freddie Freeloader one; its own seed is
    # the first of the others by id.
    assert found.tables["thumbs"].select("seed_id", "track_id", "thumb").rows() == [
        (SO_WHAT, FREDDIE, -1), (GREEN, SO_WHAT, 1),
    ]  # fmt: skip
    assert "matched 5 of 6 listens and ratings (83%): 3 by id, 2 by name" in found.notes
    assert "not in the folder, the most frequent of 1: Nobody - Nothing (1)" in found.notes
    assert any("0 from early skips" in note for note in found.notes)


def test_listenbrainz_as_lines_and_as_one_array(made, tmp_path):
    import json

    listens = [listenbrainz(1_717_185_600, "Miles Davis", "So What"),
               listenbrainz(None, "Miles Davis", "All Blues")]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, listens)) + "\n")
    (tmp_path / "b.json").write_text(json.dumps(listens))
    (tmp_path / "user.json").write_text("{}")
    assert read_exports(tmp_path / "a.jsonl").equals(read_exports(tmp_path / "b.json"))
    found = folder(made / "music", listens=tmp_path)
    assert "1 listens stand twice in the exports, kept once" in found.notes
    counts = dict(found.tables["plays"].group_by("track_id").agg(pl.col("count").sum()).rows())
    assert counts == {SO_WHAT: 1, ALL_BLUES: 2}  # without a time nothing tells two from one


LASTFM = {
    "with a header": "uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\n"
    '"1717185600","31 May 2024, 20:00","Miles Davis","","Kind of Blue","","So What",""\n',
    "without": 'Miles Davis,Kind of Blue,So What,31 May 2024 20:00\n"夜","","夜の歌",\n',
    "with semicolons": "Artist;Album;AlbumId;Track;Date#anna\n"
    '"Miles Davis";"Kind of Blue";"";"So What";"1717185600000"\n',
    "with a byte order mark": "\ufeffartist\talbum\ttrack\tdate\n"
    "Miles Davis\tKind of Blue\tSo What\t2024-05-31T22:00:00+02:00\n",
}


@pytest.mark.parametrize("kind", LASTFM)
def test_lastfm(made, tmp_path, kind):
    (tmp_path / "lastfm.csv").write_text(LASTFM[kind])
    found = folder(made / "music", listens=tmp_path / "lastfm.csv")
    played = found.tables["plays"].select("track_id", "count", "time").rows()
    assert played[0] == (SO_WHAT, 1, datetime(2024, 5, 31, 20, 0))
    assert played[1:] == ([(NIGHT, 1, None)] if kind == "without" else [])
    assert "thumbs" not in found.tables
    assert any(note.startswith("no thumbs: the exports have neither") for note in found.notes)


def test_ratings_counts_and_skips(made):
    """`mine.csv`: So What has five stars, Blue in Green four and seven plays, All Blues three,
    Freddie Freeloader one, Déjà Vu one and no other track by its artist.

    Ratings, on the station of Miles Davis, which So What seeds: Blue in Green up, Freddie
    Freeloader down; So What itself is up on that of the next, Blue in Green. The session: So What
    (1) and All Blues (.95) make an up, Déjà Vu (.1) a down from All Blues; at 23:00 All Blues (.6)
    alone says nothing, but counts as a play.
    """
    found = folder(made / "music", listens=made / "exports")
    thumbs = found.tables["thumbs"].select("seed_id", "track_id", "thumb", "station_id").rows()
    session = "me 2024-05-31T20:00:00"
    assert sorted(thumbs) == sorted([
        (SO_WHAT, GREEN, 1, None), (SO_WHAT, FREDDIE, -1, None), (GREEN, SO_WHAT, 1, None),
        (SO_WHAT, ALL_BLUES, 1, session), (ALL_BLUES, DEJA_VU, -1, session),
    ])  # fmt: skip
    plays = found.tables["plays"].group_by("track_id").agg(pl.col("count").sum())
    assert dict(plays.rows()) == {SO_WHAT: 1, ALL_BLUES: 2, GREEN: 7, NIGHT: 2}
    assert found.notes[1:] == [
        "matched 17 of 20 listens and ratings (85%): 2 by path, 15 by name",
        "not in the folder, the most frequent of 1: Nobody - Nothing (3)",
        "1 listens heard less than half of the track, and are no plays",
        "downs: 1 from one-star ratings, on the stations of their artists, and 1 from early skips "
        "(in the first 25%), on that of the track heard to its end before",
        "1 of the ratings make no vote: no other track of the artist is liked",
    ]


def test_a_sum_holds_the_timed_listens(made, tmp_path):
    """Ten plays in all, of which two are known with their time: eight more. A sum below them adds
    nothing."""
    (tmp_path / "x.csv").write_text(
        "artist,title,count,time\nMiles Davis,So What,10,\nMiles Davis,So What,,2024-05-31 20:00\n"
        "Miles Davis,So What,,2024-05-31 21:00\nMiles Davis,All Blues,1,\n"
        "Miles Davis,All Blues,,2024-05-31 22:00\nMiles Davis,All Blues,,2024-05-31 23:00\n"
    )
    plays = folder(made / "music", listens=tmp_path / "x.csv").tables["plays"]
    sums = plays.group_by("track_id").agg(pl.col("count").sum())
    assert dict(sums.rows()) == {SO_WHAT: 10, ALL_BLUES: 2}


def test_sessions_and_their_votes():
    """Worked in the docstring of `thumbs_of_sessions`; x is of nothing here, but goes on with the
    session, and the seed before it stays."""
    minutes = [0, 10, 20, 45, 74, 104, 105]
    shares = [1, 0.1, 0.5, 0.9, 0.9, 0.9, 0.2]
    listens = pl.DataFrame(
        {
            "user_id": ["me"] * 7,
            "track_id": ["a", "b", "c", "d", None, "f", "e"],
            "time": [datetime(2024, 1, 1, minute // 60, minute % 60) for minute in minutes],
            "played_ratio": [float(share) for share in shares],
        }
    )
    listens = with_sessions(listens)
    first, second = "me 2024-01-01T00:00:00", "me 2024-01-01T01:44:00"
    assert listens["session_id"].to_list() == [first] * 5 + [second] * 2
    votes = thumbs_of_sessions(listens).select("seed_id", "track_id", "thumb", "station_id")
    assert votes.rows() == [("a", "b", -1, first), ("a", "d", 1, first), ("f", "e", -1, second)]


BAD = {
    "no such file": (None, None, "does not exist: expected an export"),
    "another table": ("x.csv", "id,price\n1,2\n", "begins with 'id,price': expected a header"),
    "a bad time": ("x.csv", "artist,title,time\na,b,soon\n", "line 2: 'soon', expected a time"),
    "stars out of ten": ("x.csv", "artist,title,rating\na,b,9\n", "'9', expected stars from 1"),
    "per cent": ("x.csv", "artist,title,played_ratio\na,b,80\n", "is it in per cent"),
    "half a play": ("x.csv", "artist,title,count\na,b,1.5\n", "expected a whole number of plays"),
    "other JSON": ("x.json", '[{"a": 1}]', "entry 1: expected a listen of ListenBrainz"),
    "cut off": ("x.jsonl", '{"track_metadata": {"artist_na', "line 1 is no JSON"),
    "no zip": ("x.zip", "PK", "is no zip file"),
    "empty": ("x.csv", "artist,title\n", "holds no listen"),
    "other music": ("x.csv", "artist,title,count\nElse,Where,1\n", "none of its 1 rows is of a"),
    "a number too large": ("x.csv", f"artist,title,time\na,b,{'9' * 30}\n", "expected a time"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_export_in_the_wrong_format(made, tmp_path, kind):
    name, content, message = BAD[kind]
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        folder(made / "music", listens=tmp_path / (name or "gone.csv"))
    assert "\n" not in str(error.value)


def test_an_export_in_another_encoding(made, tmp_path):
    (tmp_path / "x.csv").write_bytes("artist,title,count\nBeyoncé,x,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 .*: save it as text in UTF-8"):
        folder(made / "music", listens=tmp_path / "x.csv")


def test_a_file_with_a_name_of_two_lines(tmp_path):
    write_wav(tmp_path / "music/one\ntwo.wav", tone(1.0, 300))
    ingest("folder", tmp_path / "music", tmp_path / "corpus")
    assert ids_by_file(tmp_path / "corpus") == {"one\ntwo.wav": "one\ntwo.wav"}
