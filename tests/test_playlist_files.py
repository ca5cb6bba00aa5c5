"""Playlist files: what is written is read back, by us and by other parsers; and what a person or a
file names is found in the corpus."""

import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cbmr.corpus import make_corpus
from cbmr.errors import InputError
from cbmr.playlists import (
    Catalogue,
    Entry,
    Playlist,
    choose_format,
    find_excluded,
    find_tracks,
    format_playlist,
    read_playlist,
    shown_name,
)
from cbmr.vectors import Vectors

READABLE = ("m3u8", "xspf", "jspf", "csv", "json")
NAMES = (
    "plain", "a, comma", 'a "quote"', "it's; <b>&amp;</b> ]]>", "two\nlines", "a\r\nreturn\rtoo",
    "tab\there", "Beyoncé", "Beyonce\u0301", "夜の歌", "أغنية الليل", "שיר", "Ночь", "ค่ำคืน",
    "🎵 👩‍👩‍👧 🇧🇷", "#1 = 100%20?", "A - B - C", " spaces  around ", "#EXTINF:12,odd", "=1+1",
    "back\\slash", "\u2028separator", "a:b/c", "~", "null",
)  # fmt: skip


def entry_of(number, name, artist=None, seconds=61.25):
    return Entry(
        track_id=f"id {name}",
        title=name,
        artist=name[::-1] if artist is None else artist,
        album=f"on {name}",
        path=Path("/music") / f"{number} {name.replace('/', '_')}.mp3",
        duration_s=seconds,
        similarity=0.5 - number / 1000,
    )


def some_list():
    entries = [entry_of(number, name) for number, name in enumerate(NAMES)]
    entries[1] = replace(entries[1], artist="", album="", duration_s=math.nan)
    entries[2] = replace(entries[2], track_id=None)
    return Playlist('A, "B" & 夜 🎵', tuple(entries))


def read_back(playlist, form, folder, paths="absolute"):
    path = folder / f"list.{form}"
    path.write_text(format_playlist(playlist, form, paths=paths, base=folder), newline="")
    return read_playlist(path)


def one_line(text):
    return " ".join(text.split())


def carried(entry, form):
    """What is left of an entry in a format, by the format's own words."""
    unknown = math.nan
    whole_ms = round(entry.duration_s, 3)
    if form == "m3u8":
        name = one_line(shown_name(entry.artist, entry.title))
        return None, name, "", unknown if math.isnan(whole_ms) else round(whole_ms), unknown
    length = unknown if form == "json" else whole_ms
    names = shown_name(entry.artist, entry.title), "" if form == "json" else entry.album
    return entry.track_id, *names, length, round(entry.similarity, 6)


def seen(entry):
    name = shown_name(entry.artist, entry.title)
    return entry.track_id, name, entry.album, entry.duration_s, entry.similarity


@pytest.mark.parametrize("paths", ["absolute", "relative", "url"])
@pytest.mark.parametrize("form", READABLE)
def test_what_is_written_is_read_back(form, paths, tmp_path):
    playlist = some_list()
    back = read_back(playlist, form, tmp_path, paths)
    assert back.title == ("" if form == "csv" else playlist.title)
    assert len(back.entries) == len(playlist.entries)
    for entry, read in zip(playlist.entries, back.entries, strict=True):
        assert os.path.normpath(read.path) == str(entry.path)
        np.testing.assert_equal(seen(read), carried(entry, form))
        if form not in ("m3u8",):
            assert (read.title, read.artist) == (entry.title, entry.artist)


@pytest.mark.parametrize("form", READABLE)
def test_any_text_survives(form, tmp_path):
    """Random characters of every plane but those that no file of text can hold."""
    rng = np.random.default_rng(0)
    ranges = ((0x20, 0x7F), (0xA0, 0x500), (0x3040, 0x9FFF), (0x1F300, 0x1FAFF), (9, 14))
    entries = []
    for number in range(200):
        spans = rng.integers(len(ranges), size=8)
        name = "".join(chr(rng.integers(*ranges[span])) for span in spans)
        entries.append(entry_of(number, name, artist="x"))
    back = read_back(Playlist("t", tuple(entries)), form, tmp_path)
    for entry, read in zip(entries, back.entries, strict=True):
        # XML has no place for the control characters among them.
        expected = re.sub("[\x0b\x0c]", "\N{REPLACEMENT CHARACTER}", entry.title)
        expected = {"m3u8": one_line(entry.title), "xspf": expected}.get(form, entry.title)
        assert (one_line(read.title) if form == "m3u8" else read.title) == expected
        assert read.path == entry.path


def test_a_path_that_is_no_text_is_a_url(tmp_path):
    path = Path(os.fsdecode(b"/music/caf\xe9.mp3"))
    playlist = Playlist("t", (replace(entry_of(0, "a"), path=path),))
    for form in READABLE:
        text = format_playlist(playlist, form, paths="absolute", base=tmp_path)
        assert "file:///music/caf%E9.mp3" in text
        assert read_back(playlist, form, tmp_path).entries[0].path == path


@pytest.mark.parametrize("form", READABLE)
def test_why_survives_where_a_format_has_a_place_for_it(form, tmp_path):
    """And leaves no trace in a list that does not tell."""
    told = replace(entry_of(0, "a"), why='like a, b; "c" & 夜 🎵')
    back = read_back(Playlist("t", (told, entry_of(1, "b"))), form, tmp_path)
    expected = "" if form == "m3u8" else told.why
    assert [entry.why for entry in back.entries] == [expected, ""]
    text = format_playlist(some_list(), form, paths="url", base=tmp_path)
    assert "why" not in text and "annotation" not in text


# --- other parsers ------------------------------------------------------------------------------


def test_xspf_is_what_its_specification_says(tmp_path):
    playlist = some_list()
    for paths in ("absolute", "relative"):
        root = ET.fromstring(format_playlist(playlist, "xspf", paths=paths, base=tmp_path))
        space = {"x": "http://xspf.org/ns/0/"}
        assert (root.tag, root.get("version")) == ("{http://xspf.org/ns/0/}playlist", "1")
        assert root.findtext("x:title", namespaces=space) == playlist.title
        tracks = root.findall("x:trackList/x:track", space)
        assert [track.findtext("x:title", "", space) for track in tracks] == [*NAMES]
        for track in tracks:
            names = [element.tag.partition("}")[2] for element in track]
            order = ["location", "title", "creator", "album", "duration", "meta"]
            assert sorted(names, key=order.index) == names
            location = track.findtext("x:location", "", space)
            assert re.fullmatch(r"[A-Za-z0-9._~:/%-]+", location)  # a URI, all else escaped
            assert location.startswith("file:///") == (paths == "absolute")
        assert tracks[0].findtext("x:duration", "", space) == "61250"
        assert {meta.get("rel") for meta in root.iter("{http://xspf.org/ns/0/}meta")} == {
            "urn:cbmr:track_id",
            "urn:cbmr:similarity",
        }


def test_jspf_has_the_members_of_xspf(tmp_path):
    content = json.loads(format_playlist(some_list(), "jspf", paths="url", base=tmp_path))
    assert [*content] == ["playlist"] and [*content["playlist"]] == ["title", "track"]
    first, second, *_ = content["playlist"]["track"]
    assert [*first] == ["location", "title", "creator", "album", "duration", "meta"]
    assert first["location"] == ["file:///music/0%20plain.mp3"]
    assert first["meta"] == [{"urn:cbmr:track_id": "id plain"}, {"urn:cbmr:similarity": "0.500000"}]
    assert [*second] == ["location", "title", "meta"]


def test_csv_is_read_by_others(tmp_path):
    text = format_playlist(some_list(), "csv", paths="absolute", base=tmp_path)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["title"] for row in rows] == [*NAMES]
    table = pl.read_csv(text.encode(), schema_overrides={"title": pl.String})
    assert table["title"].to_list() == [*NAMES]
    assert table["similarity"][0] == 0.5


def test_m3u8_paths_and_lengths():
    entries = (
        replace(entry_of(0, "One", "An artist"), path=Path("/music/audio/1 #%?.mp3")),
        replace(entry_of(1, "Two", ""), path=Path("/music/lists/#2.mp3"), duration_s=math.nan),
    )
    playlist = Playlist("Like One", entries)

    def lines(paths):
        return format_playlist(
            playlist, "m3u8", paths=paths, base=Path("/music/lists")
        ).splitlines()

    assert lines("absolute") == [
        "#EXTM3U", "#PLAYLIST:Like One",
        "#EXTINF:61,An artist - One", "/music/audio/1 #%?.mp3",
        "#EXTINF:-1,Two", "/music/lists/#2.mp3",
    ]  # fmt: skip
    assert lines("relative")[3::2] == ["../audio/1 #%?.mp3", "./#2.mp3"]  # "#" would be a comment
    assert lines("url")[3] == "file:///music/audio/1%20%23%25%3F.mp3"


def test_json_holds_what_the_contract_says(tmp_path):
    playlist = some_list()
    content = json.loads(format_playlist(playlist, "json", paths="absolute", base=tmp_path))
    assert [*content] == ["title", "tracks"]
    assert [*content["tracks"][1]] == ["track_id", "title", "artist", "path", "similarity"]
    assert content["tracks"][1]["similarity"] == 0.499


def test_a_table_has_a_line_a_track(tmp_path):
    lines = format_playlist(some_list(), "table", paths="absolute", base=tmp_path).split("\n")
    assert len(lines) == len(NAMES) + 2
    assert lines[4] == "  4   0.497  >]] >b/<;pma&>b< ;s'ti - it's; <b>&amp;</b> ]]>"


def test_a_table_says_why(tmp_path):
    told = replace(entry_of(0, "a"), why="like\nb")
    text = format_playlist(Playlist("t", (told,)), "table", paths="url", base=tmp_path)
    assert text == "t\n  1   0.500  a - a  (like b)\n"


def test_formats_by_name_and_suffix():
    assert choose_format(None, None) == "table"
    assert choose_format(None, Path("a.M3U8")) == "m3u8"
    assert choose_format("json", Path("a.m3u8")) == "json"
    assert [choose_format(None, Path(f"a.{form}")) for form in READABLE] == [*READABLE]
    with pytest.raises(InputError, match="names no format"):
        choose_format(None, Path("a.doc"))


# --- files of other programs --------------------------------------------------------------------


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_m3u_of_other_programs(tmp_path):
    text = (
        '\ufeff#EXTM3U\r\n#EXTINF:-1 tvg-id="x" group="y",Radio\r\nhttp://radio.example/live\r\n'
        "# a comment\r\n\r\n#EXTINF:123.4, Artist - Title\r\nsub/b c.mp3\r\nplain.mp3\r\n"
        "file:///music/d%20e.mp3\r\n"
    )
    radio, titled, plain, url = read_playlist(written(tmp_path, "a.m3u8", text)).entries
    assert (radio.title, radio.path) == ("Radio", None) and math.isnan(radio.duration_s)
    assert (titled.artist, titled.title, titled.duration_s) == ("Artist", "Title", 123.4)
    assert titled.path == tmp_path / "sub/b c.mp3"
    assert (plain.title, plain.path) == ("", tmp_path / "plain.mp3")
    assert url.path == Path("/music/d e.mp3")
    old = written(tmp_path, "old.m3u", "#EXTINF:1,Beyoncé\nx.mp3\n".encode("latin-1"))
    assert read_playlist(old).entries[0].title == "Beyoncé"


def test_xspf_and_jspf_of_other_programs(tmp_path):
    bare = "<playlist><trackList><track><title>A</title></track><track/></trackList></playlist>"
    first, second = read_playlist(written(tmp_path, "bare.xspf", bare)).entries
    assert (first.title, first.path, second.title) == ("A", None, "")
    latin = (
        '<?xml version="1.0" encoding="ISO-8859-1"?><playlist version="1" '
        'xmlns="http://xspf.org/ns/0/"><trackList><track><location>a%20b.mp3</location>'
        "<location>other.mp3</location><title>É</title><extension application='x'><y>1</y>"
        "</extension></track></trackList></playlist>"
    )
    (entry,) = read_playlist(written(tmp_path, "latin.xspf", latin.encode("latin-1"))).entries
    assert (entry.title, entry.path) == ("É", tmp_path / "a b.mp3")
    jspf = {"playlist": {"track": [{"location": "https://x.example/y", "title": "B"}, {}]}}
    first, _ = read_playlist(written(tmp_path, "a.json", json.dumps(jspf))).entries
    assert (first.title, first.path, first.track_id) == ("B", None, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xspf", "<playlist><track>", "a.xspf cannot be read as XSPF"),
        ("a.jspf", "{", "a.jspf cannot be read as JSPF"),
        ("a.json", "[1]", "neither 'tracks' nor 'playlist'"),
        ("a.json", '{"tracks": [1]}', "a.json cannot be read as JSON"),
        ("a.json", '{"playlist": 3}', "a.json cannot be read as JSON"),
        ("a.csv", "name;artist\n1;2\n", "none of track_id, path and title"),
        ("a.csv", "track_id,similarity\n1,high\n", "could not convert string to float: 'high'"),
        ("a.csv", "", "none of track_id, path and title"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_is_named(tmp_path, name, content, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_playlist(written(tmp_path, name, content))


# --- names and files to tracks of the corpus ----------------------------------------------------


def catalogue_of(folder, vectors=None, **columns):
    rows = len(NAMES)
    table = pl.DataFrame(
        {
            "track_id": [f"t{row}" for row in range(rows)],
            "path": [f"audio/{row} #%?.mp3" for row in range(rows)],
            "title": [*NAMES],
            "artist": [f"artist {row % 5}" for row in range(rows)],
            "album": ["one"] * rows,
            "duration_s": [61.0] * rows,
            **columns,
        }
    )
    corpus = make_corpus(folder, table)
    ids = corpus.track_ids if vectors is None else corpus.track_ids[:vectors]
    angles = np.linspace(0, 3, len(ids))
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return Catalogue(corpus, Vectors(ids, unit))


def found(catalogue, *words, **settings):
    return find_tracks(catalogue, words, **settings).tracks


def test_seeds_by_id_path_and_name(tmp_path):
    catalogue = catalogue_of(tmp_path)
    (tmp_path / "audio").mkdir()
    inside = written(tmp_path / "audio", "4 #%?.mp3", b"")
    outside = written(tmp_path, "4 #%?.mp3", b"")
    assert found(catalogue, "t7", "audio/4 #%?.mp3", "夜の歌") == (7, 4, 9)
    first, second = found(catalogue, str(inside), str(outside))
    assert (first, second.path, second.title, second.artist) == (4, outside, "4 #%?", "")
    # Accents are coded in either of two ways.
    assert found(catalogue, "Artist 2 - BEYONCÉ", "artist 2 - beyonce\u0301") == (7,)
    assert found(catalogue, "artist 1 - a - b - c", "~") == (16, NAMES.index("~"))
    with pytest.raises(InputError, match=r"nearest titles: .*plain by artist 0 \(t0\)"):
        found(catalogue, "plian")
    with pytest.raises(InputError, match=r"several are typed as seed=\[a,b\]"):
        found(catalogue, "t1,t2")
    for odd in ("~nobody/x", "a" * 300, "\0", "", "/", "."):
        with pytest.raises(InputError, match="expected a track id"):
            found(catalogue, odd)


def test_a_title_of_several_tracks_is_asked_about_and_one_without_a_vector_said(tmp_path):
    titles = ["Same", "same", *NAMES[2:]]
    catalogue = catalogue_of(tmp_path, title=titles, vectors=10)
    with pytest.raises(InputError, match=r"2 tracks have this title.*\(t0\).*\(t1\)"):
        found(catalogue, "SAME")
    assert found(catalogue, "Artist 1 - Same") == (1,)
    with pytest.raises(InputError, match=r"audio/20 .* has no vector"):
        found(catalogue, "t20", setting="negative")


def test_weights_are_of_words_and_add_up(tmp_path):
    catalogue = catalogue_of(tmp_path)
    seeds = written(tmp_path, "seeds.txt", "t1\nt2\n\nt3\n")
    given = find_tracks(catalogue, [str(seeds), "t5", "t2"], weights=[1, 0.5, 2])
    assert given.tracks == (1, 2, 3, 5)
    assert given.weights == (1, 3, 1, 0.5)
    assert given.notes == ("seed: of 5 tracks 1 were repeated",)
    assert find_tracks(catalogue, ["t1"]).weights is None
    for weights in ([1], [1, 0], [1, "x"], [1, True], [1, 1, 1]):
        with pytest.raises(InputError, match="expected 2 numbers above 0, one for each seed"):
            find_tracks(catalogue, ["t1", "t2"], weights=weights)


@pytest.mark.parametrize("paths", ["absolute", "relative", "url"])
@pytest.mark.parametrize("form", READABLE)
def test_a_list_of_ours_is_found_again(tmp_path, form, paths):
    """By its ids or paths; and by its names alone where the music has moved, with new ids."""
    catalogue = catalogue_of(tmp_path)
    rows = (3, 0, 9, 14, 7)
    playlist = Playlist("Kept", tuple(catalogue.entry(row, 0.5) for row in rows))
    path = tmp_path / f"mine.{form}"
    path.write_text(format_playlist(playlist, form, paths=paths, base=tmp_path))
    read = find_tracks(catalogue, [str(path)])
    assert read.tracks == rows
    assert read.title == ("" if form == "csv" else "Kept")
    moved = catalogue_of(
        Path("/elsewhere"),
        track_id=[f"new {row}" for row in range(len(NAMES))],
        path=[f"other/{row}.ogg" for row in range(len(NAMES))],
    )
    assert find_tracks(moved, [str(path)]).tracks == rows


def test_what_of_a_file_is_not_there_is_counted(tmp_path):
    catalogue = catalogue_of(tmp_path, title=["Same", "Same", *NAMES[2:]], vectors=20)
    seeds = written(tmp_path, "seeds.txt", "t5\nnothing like it\nSame\nt24\n夜の歌\n")
    read = find_tracks(catalogue, [str(seeds)])
    assert read.tracks == (5, 9)
    assert read.notes == (
        f"seed={seeds}: 3 of 5 tracks are not in the corpus, have no vector there, or share their "
        "name with others, the first is 'nothing like it'",
    )
    with pytest.raises(InputError, match=r"none of its 1 tracks \(the first is 'x'\)"):
        found(catalogue, str(written(tmp_path, "none.txt", "x\n")))
    with pytest.raises(InputError, match=r"empty.m3u8 lists no track"):
        found(catalogue, str(written(tmp_path, "empty.m3u8", "#EXTM3U\n")))
    with pytest.raises(InputError, match="expected at least one"):
        found(catalogue)


def test_audio_from_outside_keeps_the_names_of_its_list(tmp_path):
    catalogue = catalogue_of(tmp_path / "music")
    written(tmp_path, "x.mp3", b"")
    named = written(tmp_path, "a.m3u8", "#EXTINF:200,Someone - Their song\nx.mp3\n")
    bare = written(tmp_path, "b.txt", "x.mp3\nt3\n")
    first, second = found(catalogue, str(named), str(bare))
    assert (first.track_id, first.path, second) == (None, tmp_path / "x.mp3", 3)
    assert (first.artist, first.title, first.duration_s) == ("Someone", "Their song", 200)
    track = catalogue.track(first, np.array([1, 0]))
    assert (track.artist, track.duration_s) == ("someone", 200)
    assert catalogue.entry(first, 1.0) == replace(first, similarity=1.0)
    assert found(catalogue, str(bare))[0].title == "x"


def test_a_history_leaves_out_all_that_it_may_mean(tmp_path):
    catalogue = catalogue_of(tmp_path, title=["Same", "Same", *NAMES[2:]])
    history = written(tmp_path, "played", "t5\nsame\ngone\n\n")
    rows, notes = find_excluded(catalogue, history)
    assert rows == {0, 1, 5}
    assert len(notes) == 1 and "1 of 3 tracks are not in the corpus" in notes[0]
    playlist = Playlist("", (catalogue.entry(8, 0.5),))
    path = tmp_path / "last.xspf"
    path.write_text(format_playlist(playlist, "xspf", paths="absolute", base=tmp_path))
    assert find_excluded(catalogue, path) == (frozenset({8}), ())
    assert find_excluded(catalogue, written(tmp_path, "empty", "")) == (frozenset(), ())
    with pytest.raises(
        InputError, match="is not there: expected a playlist or a file of track ids"
    ):
        find_excluded(catalogue, tmp_path / "nowhere")
    with pytest.raises(InputError, match="none of its 1 tracks"):
        find_excluded(catalogue, written(tmp_path, "other", "id-of-another-corpus\n"))
