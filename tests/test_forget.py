"""Forgetting, held against a search of its own kind: every file unpacked and compared by hand."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cbmr.errors import InputError
from cbmr.factors import load_factors
from cbmr.files import read_json, write_arrays, write_json
from cbmr.forget import look_through, wanted_of, without_in_list
from cbmr.forgotten import forgotten, remember
from cbmr.hubs import load_crowding
from cbmr.index import load_index
from cbmr.playlists import read_playlist
from cbmr.sources.adapters import ingest
from cbmr.spectrograms import SpectrogramStore
from cbmr.vectors import load_vectors
from tasks import factorize, forget, index, playlist, radio, regress, scan, status, update
from tasks.manifests import of_same_space
from tests.conftest import tone, write_corpus, write_wav
from tests.test_training import ENCODER, TINY, run_task
from tests.test_update import write_encoder, write_music

TRACK, USER = "t2", "u1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A corpus and a run with everything in them that knows a track or a listener."""
    home = tmp_path_factory.mktemp("whole")
    corpus, run = write_corpus(home / "corpus"), home / "run"
    run.mkdir()
    triplets = "a,b,odd,user_id\nt0,t2,t1,u1\nt0,t4,t1,\nt4,t6,t3,u2\n"
    (corpus / "triplets.csv").write_text(triplets)
    ids, users = np.array([f"t{row}" for row in range(14)]), np.array(["u0", "u1", "u2"])
    write_arrays(corpus / "features.npz", track_ids=ids, features=np.eye(14, 3))
    run_task(scan, corpus, run, "workers=1")
    run_task(factorize, corpus, run, "factors.size=4")
    run_task(regress, corpus, run, *TINY, *ENCODER, "epochs=1")
    run_task(update, corpus, run, "workers=1")  # leaves what was heard, by contents
    write_arrays(run / "regress/users.npz", user_ids=users, user_factors=np.eye(3, 4))
    layer = {"track_ids": ids, "activations": np.eye(14)}
    write_arrays(run / "regress/layers/dense1.npz", **layer)
    run_task(index, corpus, run, "hubs=local_scaling")
    for name in ("a.m3u8", "a.xspf", "a.jspf", "a.csv", "a.json"):
        run_task(playlist, corpus, run, "seed=t0", "n=14", "duplicate_similarity=1",
                 "title_variants=true", "artist_spacing=1", "paths=relative",
                 f"output='{run / 'lists' / name}'")  # fmt: skip
    named = {"title": f"For {USER}", "tracks": []}
    (run / "lists/theirs.json").write_text(json.dumps(named, indent=1) + "\n")
    stations = (("blue", ["seed=t0", f"up={TRACK}", "n=3"]), ("of", [f"seed={TRACK}", "n=2"]),
                ("theirs", ["seed=t0", "down=t1", f"listener={USER}"]))  # fmt: skip
    for name, words in stations:
        run_task(radio, corpus, run, f"station='{run / name}.json'", *words)
    return home


@pytest.fixture
def home(whole, tmp_path):
    """A copy; the store knows files by their paths, which are new, and by their contents."""
    shutil.copytree(whole, tmp_path / "home")
    return tmp_path / "home"


def strings_in(path):
    """Every piece of text in a file, however it is packed: members, cells, lines, keys."""
    if path.suffix == ".parquet":
        table = pl.read_parquet(path).select(pl.col(pl.String))
        return {text for column in table for text in column.to_list()}
    if zipfile.is_zipfile(path):
        found = set()
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as member:
                        array = np.lib.format.read_array(member)
                    found |= {*array.ravel().tolist()} if array.dtype.kind == "U" else set()
                elif "/data/" not in name:
                    found |= {*re.findall(r"\w+", archive.read(name).decode("latin-1"))}
        return found
    if path.suffix in (".wav", ".npy", ".ann"):
        return set()
    return {*re.findall(r"\w+", path.read_text())}


def holders(home, *names):
    """The files, but for sound, in which one of the names stands as a whole word."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return {str(path.relative_to(home)) for path in files if strings_in(path) & {*names}}


def files_of(path):
    return [entry.path.name for entry in read_playlist(path).entries]


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def do(home, *words):
    run_task(forget, home / "corpus", home / "run", *words)


def test_a_track_is_nowhere_and_all_else_is_as_it_was(home, capsys):
    run, corpus = home / "run", home / "corpus"
    before = holders(home, TRACK)
    assert len(before) >= 20
    was = load_vectors(run / "regress/embeddings.npz")
    old_factors, store = load_factors(run / "factors.npz"), next((run / "spectrograms").iterdir())
    old_store = SpectrogramStore(store)
    content = read_json(store / "catalogue.json")["tracks"][TRACK]
    others = [name for name in was.track_ids if name != TRACK]
    rows = old_store[np.flatnonzero(old_store.track_ids != TRACK)]
    lists = {path: files_of(path) for path in (run / "lists").glob("a.*")}
    assert len(lists) == 5
    (run / "regress/.embeddings.npz.partial").write_text(TRACK)  # as a killed process left it
    do(home, f"track={TRACK}")
    out = capsys.readouterr()
    assert f"nothing holds track {TRACK}\n" in out.out
    assert f"note: {corpus / 'audio/t2.wav'} is yours, and stays" in out.err
    assert (corpus / "audio/t2.wav").exists()
    assert holders(home, TRACK, content) == set()
    now = load_vectors(run / "regress/embeddings.npz")
    assert now.track_ids.tolist() == others
    np.testing.assert_array_equal(now.vectors, was.of(np.array(others)))
    new_store = SpectrogramStore(store)
    np.testing.assert_array_equal(new_store[np.arange(len(new_store))], rows)
    assert sum(len(np.load(path)) for path in store.glob("pieces/*.npy")) == len(rows)
    factors = load_factors(run / "factors.npz")
    stay = old_factors.track_ids != TRACK
    np.testing.assert_array_equal(factors.item_factors, old_factors.item_factors[stay])
    np.testing.assert_array_equal(factors.user_factors, old_factors.user_factors)
    encoder = read_json(run / "regress/manifest.json")["outputs"]["encoder.pt"]
    assert len(load_index(run / "index", now, encoder_hash=encoder)) == 13
    assert len(load_crowding(run / "index", now, encoder)) == 13
    assert not (run / "regress/checkpoints").exists() and not (run / "of.json").exists()
    station = read_json(run / "blue.json")
    assert station["votes"] == [] and 0 < len(station["picks"]) <= 3
    for path, names in lists.items():
        assert f"{TRACK}.wav" in names
        names.remove(f"{TRACK}.wav")
        assert names == files_of(path)


def test_a_listener_is_nowhere(home, capsys):
    run = home / "run"
    old = load_factors(run / "factors.npz")
    plays = pl.read_parquet(home / "corpus/plays.parquet")
    assert len(holders(home, USER)) >= 7
    do(home, f"user={USER}")
    assert f"nothing holds user {USER}\n" in capsys.readouterr().out
    assert holders(home, USER) == set()
    new = load_factors(run / "factors.npz")
    np.testing.assert_array_equal(new.user_factors, old.user_factors[old.user_ids != USER])
    np.testing.assert_array_equal(new.item_factors, old.item_factors)
    left = pl.read_parquet(home / "corpus/plays.parquet")
    assert left.equals(plays.filter(pl.col("user_id") != USER))
    assert not (run / "theirs.json").exists() and not (run / "lists/theirs.json").exists()


def test_what_learned_from_it_is_stale_and_still_of_one_space(home, capsys):
    """Freshness says that inputs changed; vectors and factors are blended all the same."""
    do(home, f"user={USER}")
    said = capsys.readouterr().out
    assert re.search(r"\n  python -m tasks.factorize .*\(training plays changed since\)\n", said)
    assert re.search(r"\n  python -m tasks.regress .*factors.npz.* changed since\)\n", said)
    run_task(status, home / "corpus", home / "run")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "stale" in lines["factorize"] and "stale" in lines["regress"]
    assert "present" in lines["index"]
    manifest = read_json(home / "run/regress/manifest.json")
    assert of_same_space(manifest, home / "run/factors.npz")
    assert not of_same_space(manifest, home / "run/regress/users.npz")


def test_a_second_time_and_a_wrong_name(home, capsys):
    do(home, f"track={TRACK}")
    before = contents(home)
    capsys.readouterr()
    do(home, f"track={TRACK}")
    out = capsys.readouterr()
    assert "was forgotten before" in out.err and f"nothing holds track {TRACK}" in out.out
    assert contents(home) == before
    for words, message in (
        (["track=t22"], r"track=t22: nothing holds it; nearest ids: .*t12 \(Newer\)"),
        (["track='Ünder'"], r"nearest ids: t8 \(Ünder\)"),
        (["user=u99"], "user=u99: nothing holds it; nearest ids: u9"),
        ([], "expected either track="),
        (["track=t1", "user=u1"], "expected either track="),
    ):
        with pytest.raises(InputError, match=message):
            do(home, *words)
    assert contents(home) == before


def test_interrupted_anywhere_the_same_command_goes_on_to_the_same_end(home, monkeypatch):
    """Killed at every seventh renaming or deletion of a file, then called again."""
    salted = {"format_version": 1, "salt": "00" * 16, "tracks": [], "files": [], "users": []}
    write_json(home / "corpus/forgotten.json", salted)
    peace = home.parent / "peace"
    shutil.copytree(home, peace)
    do(peace, f"track={TRACK}")
    expected = timeless(peace)
    for places in itertools.count(step=7):
        copy = home.parent / f"copy{places}"
        shutil.copytree(home, copy)
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(Path, name, killed(getattr(Path, name), calls, places))
            try:
                do(copy, f"track={TRACK}")
                break
            except KeyboardInterrupt:
                pass
        do(copy, f"track={TRACK}")
        assert timeless(copy) == expected, places
        shutil.rmtree(copy)
    assert places > 20


def killed(real, calls, places):
    def call(*words, **more):
        if next(calls) == places:
            raise KeyboardInterrupt
        return real(*words, **more)

    return call


KILLED_AT = """
import os, sys
from pathlib import Path
import hydra
from tasks import command, forget
left, real = int(sys.argv[1]), Path.replace
def replace(*words):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return real(*words)
Path.replace = replace
with hydra.initialize_config_dir(command.CONF, version_base=None):
    forget.run(hydra.compose("forget", ["corpus=corpus", "run=run", "track=t2"]))
"""


@pytest.mark.parametrize("places", [2, 12])
def test_a_process_that_ends_midway_leaves_no_trace_behind(home, places):
    """Without any cleaning up, as `kill -9` ends it: what was half-written is found, too."""
    words = [sys.executable, "-c", KILLED_AT, str(places)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    ended = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    assert [*home.rglob(".*.partial"), *home.rglob(".*.shorter")]
    do(home, f"track={TRACK}")
    assert holders(home, TRACK) == set()
    assert not [*home.rglob(".*.partial"), *home.rglob(".*.shorter")]


def test_pages_of_all_tracks_go_where_they_name_it(home):
    """With the pictures beside them, in which nothing can be searched."""
    run = home / "run"
    (run / "analysis/units").mkdir(parents=True)
    (run / "analysis/map.png").write_bytes(b"pixels")
    (run / "analysis/units/a.csv").write_text(f"track_id\n{TRACK}\n")
    (run / "report.html").write_text("<p>another track</p>")
    do(home, f"track={TRACK}")
    assert not (run / "analysis").exists()
    assert (run / "report.html").exists()


def test_vectors_of_an_encoder_from_elsewhere_are_up_to_date(tmp_path, capsys):
    """They depend on no other track, so nothing is stale and nothing is left to update."""
    folder = write_music(tmp_path / "corpus", range(6))
    encoder = write_encoder(tmp_path / "encoder.pt")
    run_task(update, folder, tmp_path / "run", "workers=1", f"encoder_file='{encoder}'")
    do(tmp_path, "track=t03")
    capsys.readouterr()
    run_task(status, folder, tmp_path / "run")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "present" in lines["update"] and "present" in lines["index"]
    run_task(update, folder, tmp_path / "run", "workers=1")
    said = capsys.readouterr().err.splitlines()
    assert said == [f"update: {tmp_path / 'run/update'} holds {folder} as it is"]


def timeless(home):
    """All files but the one in which speed was measured."""
    files = contents(home)
    del files["run/index/manifest.json"]
    return files


def test_what_it_cannot_mend_it_names(home, capsys):
    run = home / "run"
    (run / "notes.html").write_text(f"<td>{TRACK}</td>")
    with np.load(run / "factors.npz") as archive:
        write_arrays(run / "other.npz", **archive, strange=np.zeros(2))
    (run / "old.json.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(InputError, match="3 files name track t2 still, or may"):
        do(home, f"track={TRACK}")
    out = capsys.readouterr().out
    assert f"still names it: {run / 'notes.html'}" in out
    assert f"still names it: {run / 'other.npz'}" in out
    assert f"not searched: {run / 'old.json.gz'}: it is compressed" in out
    for name in ("notes.html", "other.npz", "old.json.gz"):
        (run / name).unlink()
    do(home, f"track={TRACK}")
    assert holders(home, TRACK) == set()


def test_tracks_and_listeners_of_one_number_are_told_apart(tmp_path):
    """Listener 7 and track 7: as in data sets that number both. A count of 7 is neither."""
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    corpus.mkdir()
    run.mkdir()
    (corpus / "tracks.csv").write_text("track_id,path,title\n7,seven.mp3,7\n8,eight.mp3,7\n")
    (corpus / "plays.csv").write_text("user_id,track_id,count\n7,8,7\n8,7,7\n9,8,7\n")
    (run / "log.txt").write_text("7 of 7\n")
    write_json(run / "some.json", {"track_ids": ["7"], "n": 7})
    do(tmp_path, "user=7")
    assert (corpus / "plays.csv").read_text() == "user_id,track_id,count\n8,7,7\n9,8,7\n"
    assert "7,seven.mp3,7\n" in (corpus / "tracks.csv").read_text()
    with pytest.raises(InputError, match=r"some\.json"):
        do(tmp_path, "track=7")
    assert (corpus / "tracks.csv").read_text() == "track_id,path,title\n8,eight.mp3,7\n"
    assert (corpus / "plays.csv").read_text() == "user_id,track_id,count\n9,8,7\n"
    with pytest.raises(InputError, match="is the only one of"):
        do(tmp_path, "track=8")


def test_a_table_that_would_be_empty_goes_and_categories_go_with_their_rows(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pl.DataFrame({"track_id": ["a1", "b1"], "path": ["a", "b"]}).write_parquet(
        corpus / "tracks.parquet"
    )
    plays = {"user_id": ["one", "one"], "track_id": ["a1", "b1"], "count": [1, 2]}
    coded = pl.DataFrame(plays).with_columns(pl.col("track_id").cast(pl.Enum(["a1", "b1"])))
    coded.write_parquet(corpus / "plays.parquet")
    do(tmp_path, "track=a1")
    assert b"a1" not in (corpus / "plays.parquet").read_bytes()
    do(tmp_path, "user=one")
    assert not (corpus / "plays.parquet").exists()


def test_a_shared_recording_stays_and_forgets_whose_it_was(tmp_path):
    """`t1.wav` is a copy of `t0.wav`: one row for both. Without `t0`, `t1` reads it still."""
    corpus, run = write_corpus(tmp_path / "corpus"), tmp_path / "run"
    run.mkdir()
    shutil.copy(corpus / "audio/t0.wav", corpus / "audio/t1.wav")
    run_task(scan, corpus, run, "workers=1")
    store = next((run / "spectrograms").iterdir())
    before = SpectrogramStore(store)
    row = before[np.flatnonzero(before.track_ids == "t1")]
    do(tmp_path, "track=t0")
    after = SpectrogramStore(store)
    np.testing.assert_array_equal(after[np.flatnonzero(after.track_ids == "t1")], row)
    assert "t0" not in after.track_ids and holders(run, "t0") == set()
    changed = {path: path.stat().st_mtime_ns for path in store.glob("pieces/*")}
    run_task(scan, corpus, run, "workers=1")
    assert changed == {path: path.stat().st_mtime_ns for path in store.glob("pieces/*")}


def test_a_damaged_piece_is_not_made_to_look_whole(tmp_path, capsys):
    corpus, run = write_corpus(tmp_path / "corpus"), tmp_path / "run"
    run.mkdir()
    run_task(scan, corpus, run, "workers=1")
    store = next((run / "spectrograms").iterdir())
    piece = next(store.glob("pieces/*.npy"))
    content = bytearray(piece.read_bytes())
    content[-1000] ^= 1
    piece.write_bytes(content)
    do(tmp_path, f"track={TRACK}")
    assert "is damaged (its content is not what was written)" in capsys.readouterr().err
    run_task(scan, corpus, run, "workers=1")
    assert "13 tracks readable, 13 decoded now" in capsys.readouterr().err
    assert holders(run, TRACK) == set()


def test_a_folder_that_is_read_again_does_not_bring_it_back(tmp_path, capsys):
    """Neither under its name, nor moved, nor with its listens; other new files come as ever."""
    music, corpus = tmp_path / "music", tmp_path / "corpus"
    for row in range(4):
        write_wav(music / f"Artist/{row}.wav", tone(1, 200 + 50 * row, 8_000, row), 8_000)
    listens = tmp_path / "listens.csv"
    listens.write_text("path,count\n" + "".join(f"Artist/{row}.wav,3\n" for row in range(4)))
    words = {"listens": listens, "user": "me"}
    ingest("folder", music, corpus, **words)
    do(tmp_path, "track='Artist/2.wav'")
    found = ingest("folder", music, corpus, **words)
    assert "1 tracks and 0 listeners are left out" in found.notes[-1]
    ids = ["Artist/0.wav", "Artist/1.wav", "Artist/3.wav"]
    assert pl.read_parquet(corpus / "tracks.parquet")["track_id"].to_list() == ids
    assert set(pl.read_parquet(corpus / "plays.parquet")["track_id"]) == {*ids}
    (music / "Artist/2.wav").rename(music / "moved.wav")
    write_wav(music / "new.wav", tone(1, 900, 8_000, 9), 8_000)
    ingest("folder", music, corpus, **words)
    assert pl.read_parquet(corpus / "tracks.parquet")["track_id"].to_list() == [*ids, "new.wav"]
    do(tmp_path, "user=me")
    ingest("folder", music, corpus, **words)
    assert not (corpus / "plays.parquet").exists()
    assert holders(corpus, "me") == set()
    text = (corpus / "forgotten.json").read_text()
    assert "2.wav" not in text and '"me"' not in text


def test_the_list_of_what_was_forgotten(tmp_path):
    """Two corpora hash one name differently; a kind's names are not another's."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        remember(tmp_path / name, tracks=["x"], users=["y"])
        remember(tmp_path / name, tracks=["z"])
        assert forgotten(tmp_path / name, "tracks", ["x", "y", "z"]) == {"x", "z"}
        assert forgotten(tmp_path / name, "users", ["x", "y", "z"]) == {"y"}
    one, two = (read_json(tmp_path / name / "forgotten.json") for name in ("one", "two"))
    assert not {*one["tracks"]} & {*two["tracks"]}
    assert forgotten(tmp_path, "tracks", ["x"]) == set()


@pytest.mark.parametrize(
    ("name", "text", "holds"),
    [
        ("a.m3u8", "#EXTM3U\n../music/song%201.mp3\n", False),
        ("a.m3u8", "#EXTM3U\n../music/song 1.mp3\n", True),
        ("a.m3u8", "#EXTM3U\nfile:///music/../HOME/music/song%201.mp3\n", True),
        ("a.txt", "x-17\n", True),
        ("a.txt", "xx-17 x-171\n", False),
        ("a.html", "<b>x-17</b>", True),
        ("a.json", '{"a": ["x-17"]}', True),
        ("a.json", '{"x-17": 1}', True),
        ("a.json", '{"user_ids": ["x-17"], "b": "other/x-17/y"}', False),
        ("a.csv", "owner,title\nx-17,b\n", True),
        ("a.csv", "owner,title\nb,x-17\n", False),
    ],
)
def test_where_a_name_stands(tmp_path, name, text, holds):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / name
    path.write_text(text.replace("/HOME", str(tmp_path)))
    wanted = wanted_of("track", ["x-17"], paths=[tmp_path / "music/song 1.mp3"])
    looked = look_through([tmp_path], wanted)
    assert looked.found == ((path,) if holds else ()) and looked.searched == 1


def test_a_list_of_another_program_is_not_written_again(tmp_path):
    path = tmp_path / "a.m3u8"
    path.write_text("#EXTM3U\n#COMMENT\nx.mp3\ny.mp3\n")
    wanted = wanted_of("track", ["x"], paths=[tmp_path / "x.mp3"])
    assert look_through([tmp_path], wanted).found == (path,)
    assert without_in_list(path, wanted) is None


def test_the_command_line(home):
    """A real process: what goes is said before, the proof is on standard output."""
    words = [sys.executable, "-m", "tasks.forget", "corpus=corpus", "run=run", f"track={TRACK}"]
    shown = subprocess.run(
        words, cwd=home, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "1 of the 14 rows of corpus/tracks.parquet" in shown.stderr.splitlines()[0]
    assert shown.stdout.endswith(f"nothing holds track {TRACK}\n")
