"""One suite over every adapter, and `tasks.ingest` as a person types it."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cbmr.errors import InputError
from cbmr.features import FeatureStore
from cbmr.sources.adapters import SOURCES, ingest
from cbmr.sources.tables import WRITTEN, counts, read_corpus
from tests.data.make_sources import WRITERS, write_all

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path.cwd()), "COLUMNS": "200"}
NEEDED = {
    "yambda": ["embeddings.parquet", "flat/50m/listens.parquet", "flat/50m/likes.parquet",
               "flat/50m/dislikes.parquet", "flat/50m/unlikes.parquet",
               "flat/50m/undislikes.parquet"],
    "taste_profile": ["train_triplets.txt", "unique_tracks.txt", "sid_mismatches.txt"],
    "lastfm2k": ["artists.dat", "user_artists.dat"],
    "music4all": ["id_information.csv", "listening_history.csv"],
    "music4all_onion": ["id_information.csv", "userid_trackid_count.tsv.bz2"],
    "fma": ["fma_metadata/tracks.csv"],
}  # fmt: skip
HOLDS = {  # tracks, artists, plays, listeners, ups, downs
    "folder": [6, 3, 12, 1, 3, 2],
    "yambda": [4, 2, 6, 2, 1, 1],
    "taste_profile": [2, 2, 5, 2, 0, 0],
    "lastfm2k": [2, 2, 11_694, 2, 0, 0],
    "music4all": [2, 2, 4, 2, 0, 0],
    "music4all_onion": [2, 2, 5, 2, 0, 0],
    "fma": [2, 2, 0, 0, 0, 0],
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Every source's folder; tests that change one copy it."""
    folder = tmp_path_factory.mktemp("sources")
    write_all(folder)
    return folder


def arguments(made, source):
    if source == "folder":
        return made / "folder/music", {"listens": made / "folder/exports"}
    return made / source, {}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_source_has_its_data_and_its_figures():
    assert set(SOURCES) == set(WRITERS) == set(HOLDS)
    assert set(NEEDED) == set(SOURCES) - {"folder"}


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_ingested_is_a_corpus(made, source, tmp_path):
    path, options = arguments(made, source)
    found = ingest(source, path, tmp_path / "corpus", **options)
    assert all(note and "\n" not in note for note in found.notes)
    corpus = read_corpus(tmp_path / "corpus", needs=[*found.tables][1:], uses=["triplets"])
    assert corpus.notes == ()
    assert corpus.track_ids.dtype.kind == corpus.user_ids.dtype.kind == "U"
    assert [*counts(tmp_path / "corpus").values()] == HOLDS[source]
    for name in found.tables:
        schema = pl.read_parquet_schema(tmp_path / f"corpus/{name}.parquet")
        assert all(schema[column] == pl.String for column in schema if column.endswith("_id"))
    if found.features is not None:
        assert FeatureStore(corpus).track_ids.tolist() == corpus.track_ids.tolist()


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_again_is_the_same_to_the_byte(made, source, tmp_path):
    path, options = arguments(made, source)
    for corpus in ("one", "two"):
        ingest(source, path, tmp_path / corpus, **options)
    once = contents(tmp_path / "one")
    assert once == contents(tmp_path / "two")
    (tmp_path / "one/triplets.csv").write_text("a,b,odd\n")
    ingest(source, path, tmp_path / "one", **options)
    assert contents(tmp_path / "one") == {**once, "triplets.csv": b"a,b,odd\n"}


@pytest.mark.parametrize("source", SOURCES)
def test_its_docstring_says_what_a_reader_needs(source):
    text = inspect.getmodule(SOURCES[source]).__doc__
    for word in ("Licence", "Files", "Citation"):
        assert word in text


@pytest.mark.parametrize(
    ("source", "name"), [(source, name) for source, names in NEEDED.items() for name in names]
)
def test_a_missing_file_is_named_with_where_to_get_it(made, source, name, tmp_path):
    shutil.copytree(made / source, tmp_path / "data")
    (tmp_path / "data" / name).unlink()
    with pytest.raises(InputError, match=rf"data has no {name}: expected it there, from https?://"):
        ingest(source, tmp_path / "data", tmp_path / "corpus")
    with pytest.raises(InputError, match="does not exist: expected the folder with"):
        ingest(source, tmp_path / "dta", tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [(source, name) for source, names in NEEDED.items() for name in names
     if name != "sid_mismatches.txt"],
)  # fmt: skip
def test_a_file_in_another_format_is_refused(made, source, name, tmp_path):
    shutil.copytree(made / source, tmp_path / "data")
    (tmp_path / "data" / name).write_text("this is\nno data set\n")
    with pytest.raises(InputError, match=name) as error:
        ingest(source, tmp_path / "data", tmp_path / "corpus")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus").exists()


def test_tables_that_are_no_longer_found_go(made, tmp_path):
    music, options = arguments(made, "folder")
    ingest("folder", music, tmp_path / "corpus", **options)
    ingest("folder", music, tmp_path / "corpus")
    assert set(contents(tmp_path / "corpus")) == {"tracks.parquet", "source.json"}


def test_a_corpus_of_something_else_is_left_alone(made, tmp_path):
    ingest("lastfm2k", made / "lastfm2k", tmp_path / "corpus")
    before = contents(tmp_path / "corpus")
    with pytest.raises(InputError, match="a corpus made by source=lastfm2k, which source=fma did"):
        ingest("fma", made / "fma", tmp_path / "corpus")
    assert contents(tmp_path / "corpus") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/plays.csv").write_text("user_id,track_id,count\n")
    with pytest.raises(InputError, match=r"holds plays\.csv, which source=fma did not make"):
        ingest("fma", made / "fma", tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: expected a folder"):
        ingest("fma", made / "fma", tmp_path / "file")


def test_tables_that_make_no_corpus_leave_the_old_ones(made, tmp_path, monkeypatch):
    ingest("lastfm2k", made / "lastfm2k", tmp_path / "corpus")
    before = contents(tmp_path / "corpus")
    shutil.copytree(made / "lastfm2k", tmp_path / "data")
    (tmp_path / "data/user_artists.dat").write_text("userID\tartistID\tweight\n2\t999\t1\n")
    with pytest.raises(InputError, match="none of its tracks"):
        ingest("lastfm2k", tmp_path / "data", tmp_path / "corpus")
    after = contents(tmp_path / "corpus")
    assert {name: after[name] for name in after if name != "source.json"} == {
        name: before[name] for name in before if name != "source.json"
    }


# --- the command line ---------------------------------------------------------------------------


def typed(cwd, *words):
    return subprocess.run(
        [sys.executable, "-m", "tasks.ingest", *words],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def test_the_command_says_what_it_found_and_what_comes_next(made, tmp_path):
    music, options = arguments(made, "folder")
    corpus = tmp_path / "my corpus"
    words = [f"path={music}", f"corpus={corpus}", f"listens={options['listens']}", "user=Zoë (1)"]
    result = typed(tmp_path, "source=folder", *words)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "note: matched " in result.stderr
    assert "note: downs: 1 from one-star ratings" in result.stderr
    held = "ingest: tracks 6, artists 3, plays 12, listeners 1, ups 3, downs 2 -> "
    assert held in result.stderr
    told = "next: python -m tasks.pretrain 'corpus={}' 'run=runs/my corpus'\n"
    assert result.stderr.endswith(told.format(corpus))
    assert read_corpus(corpus, needs=["plays"]).user_ids.tolist() == ["Zoë (1)"]
    assert {path.name for path in tmp_path.iterdir()} == {"my corpus"}
    assert set(contents(corpus)) == {
        ".lock",
        "source.json",
        *(f"{name}.parquet" for name in WRITTEN),
    }

    result = typed(tmp_path, "source=yambda", f"path={made / 'yambda'}", "corpus=y", "subset=50m")
    assert result.stderr.endswith("python -m tasks.rank corpus=y run=runs/y encoder=vector\n")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["source=yamda", "path=."], ["expected one of folder, yambda", "is 'yambda' meant?"]),
        (["source=folder", "path=gone"], ["path=gone does not exist: expected a folder of music"]),
        (["source=folder", "path=none"], ["holds no audio", "1 left out (empty: 'a.mp3')"]),
        (["source=folder"], ["path= is missing"]),
        (["source=fma", "path=.", "listens=x"], ["listens=x is no option of source=fma"]),
        (["source=fma", "path=.", "subst=small"], ["is 'subset' meant?"]),
        (["source=yambda", "path=.", "subset=1g"], ["expected one of 50m, 500m, 5b"]),
    ],
)
def test_what_a_person_can_mend_ends_in_one_line(tmp_path, words, messages):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.mp3").write_bytes(b"")
    result = typed(tmp_path, *words, "corpus=c")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for message in messages:
        assert message in line
