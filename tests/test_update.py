"""The task that follows a corpus: pieces, interruptions, and vectors that stay as they were."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock

from cbmr.encoder import Encoder, last_layer, save_encoder
from cbmr.errors import InputError
from cbmr.files import file_hash
from cbmr.logmel import MelSpec
from cbmr.vectors import load_vectors
from tasks import factorize, index, playlist, radio, recommend, regress, scan, status, update
from tests.conftest import tone, write_corpus, write_wav
from tests.test_training import ENCODER, TINY, run_task

TRACKS = 30
SMALL = {"mels": 16, "embedding_size": 8, "channels": [8, 8, 8, 8], "hidden": 16}


def write_music(folder, rows):
    """Tables and audio of these tracks, no plays."""
    for row in rows:
        path = folder / f"t{row:02d}.wav"
        if not path.exists():
            write_wav(path, tone(3.5, 200 + 60 * row, 8_000, row), 8_000)
    table = pl.DataFrame({
        "track_id": [f"t{row:02d}" for row in rows],
        "path": [f"t{row:02d}.wav" for row in rows],
    })  # fmt: skip
    table.write_parquet(folder / "tracks.parquet")
    return folder


def write_encoder(path, rng_seed=0):
    torch.manual_seed(rng_seed)
    encoder = Encoder("spotify2014", SMALL, MelSpec(mels=16), torch.zeros(16), torch.ones(16))
    last = encoder.network.get_submodule(last_layer(encoder.network))
    torch.nn.init.xavier_uniform_(last.weight)
    save_encoder(path, encoder)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, an encoder from elsewhere, and a run that was brought up to date in peace."""
    home = tmp_path_factory.mktemp("home")
    write_music(home / "corpus", range(TRACKS))
    write_encoder(home / "encoder.pt")
    run_task(update, home / "corpus", home / "peace", *words(home), "piece=1000")
    return home


def words(home, name="encoder.pt"):
    return ["workers=1", f"encoder_file='{home / name}'"]


def artefacts(home, run):
    """What two ways to the same end have to agree in, to the byte, once the index is folded."""
    run_task(index, home / "corpus", run)
    vectors = load_vectors(run / "update/embeddings.npz")
    manifest = json.loads((run / "index/manifest.json").read_text())
    assert manifest["vectors"] and manifest["track_ids"] == vectors.track_ids.tolist()
    names = ("update/embeddings.npz", "update/encoder.pt", "index/tracks.ann")
    return {name: (run / name).read_bytes() for name in names}, manifest["vectors"]


def test_what_it_leaves_is_served_as_any_stage_is(home, capsys):
    assert len(load_vectors(home / "peace/update/embeddings.npz").track_ids) == TRACKS
    run_task(playlist, home / "corpus", home / "peace", "seed=t03", "n=4", "format=json",
             "duplicate_similarity=1")  # fmt: skip
    tracks = json.loads(capsys.readouterr().out)["tracks"]
    assert len({track["track_id"] for track in tracks}) == 4
    run_task(status, home / "corpus", home / "peace")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "present" in lines["update"] and "present" in lines["index"]


def start(home, run, *more, task="update"):
    return subprocess.Popen(
        [sys.executable, "-m", f"tasks.{task}", f"corpus={home / 'corpus'}", f"run={run}", *more],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_midway_it_serves_what_there_is_and_goes_on_to_the_same_end(home, tmp_path):
    """`kill -9` of a real process between two pieces and within one, then the same command."""
    command = (f"encoder_file={home / 'encoder.pt'}", "workers=1", "piece=7")
    seen = set()
    for pieces in (1, 3):
        process = start(home, tmp_path, *command)
        while len(seen) < pieces:
            assert process.poll() is None, process.stderr.read()
            file = tmp_path / "update/manifest.json"
            seen |= {file_hash(file)} if file.exists() else set()
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        there = len(load_vectors(tmp_path / "update/embeddings.npz").track_ids)
        assert 7 * pieces <= there < TRACKS
        asked = ("seed=t03", "n=5", "duplicate_similarity=1", "format=json")
        listed = start(home, tmp_path, *asked, task="playlist")
        out, errors = listed.communicate()
        assert listed.returncode == 0, errors
        assert len(json.loads(out)["tracks"]) == 5
    again = start(home, tmp_path, *command)
    errors = again.communicate()[1]
    assert again.returncode == 0, errors
    assert artefacts(home, tmp_path) == artefacts(home, home / "peace")


def test_a_second_one_ends_at_once(home):
    """As cron wants it: one line, status 0, nothing done."""
    with FileLock(home / "peace/.lock"):
        process = start(home, home / "peace")
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert not out
    assert errors == f"{home / 'peace'} is in use by another process: nothing is done this time\n"


def test_nothing_new_changes_nothing(home, capsys):
    before = {path: path.stat().st_mtime_ns for path in (home / "peace/update").iterdir()}
    run_task(update, home / "corpus", home / "peace", "workers=1")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"update: {home / 'peace/update'} holds {home / 'corpus'} as it is"]
    assert before == {path: path.stat().st_mtime_ns for path in (home / "peace/update").iterdir()}


def test_new_changed_and_deleted_tracks_are_followed_and_the_others_stay(home, tmp_path, capsys):
    folder, run = write_music(tmp_path / "corpus", range(12)), tmp_path / "run"
    run_task(update, folder, run, *words(home))
    before = load_vectors(run / "update/embeddings.npz")
    write_music(folder, [*range(2, 12), *range(20, 28)])
    (folder / "t05.wav").unlink()
    write_wav(folder / "t07.wav", tone(4, 3_000, 8_000, 99), 8_000)
    (folder / "t08.wav").rename(folder / "t99.wav")
    (folder / "t99.wav").rename(folder / "t08.wav")
    capsys.readouterr()
    run_task(update, folder, run, *words(home), "piece=3")
    said = capsys.readouterr().err
    assert "skipped t05" in said and "5 files are still to be scanned" in said
    after = load_vectors(run / "update/embeddings.npz")
    kept = [row for row in (*range(2, 12), *range(20, 28)) if row != 5]
    assert after.track_ids.tolist() == [f"t{row:02d}" for row in kept]
    same = np.array([f"t{row:02d}" for row in range(2, 12) if row not in (5, 7)])
    np.testing.assert_array_equal(after.of(same), before.of(same))
    changed = np.array(["t07"])
    assert not np.allclose(after.of(changed), before.of(changed), atol=1e-3)
    peace = load_vectors(home / "peace/update/embeddings.npz")
    new = np.array([f"t{row:02d}" for row in range(20, 28)])
    np.testing.assert_array_equal(after.of(new), peace.of(new))


def test_new_tracks_are_found_beside_the_index_as_it_stands(home, tmp_path, capsys):
    folder, run = write_music(tmp_path / "corpus", range(20)), tmp_path / "run"
    run_task(update, folder, run, *words(home))
    before = (run / "index/tracks.ann").read_bytes()
    write_music(folder, range(1, 22))
    run_task(update, folder, run, *words(home))
    assert (run / "index/tracks.ann").read_bytes() == before
    run_task(status, folder, run)
    assert "stale: 2 tracks changed since" in capsys.readouterr().out
    asked = ("seed=t21", "n=21", "duplicate_similarity=1", "format=json")
    run_task(playlist, folder, run, *asked)
    beside = capsys.readouterr().out
    tracks = [track["track_id"] for track in json.loads(beside)["tracks"]]
    assert sorted(tracks) == [f"t{row:02d}" for row in range(1, 22)]
    run_task(index, folder, run)
    capsys.readouterr()
    run_task(playlist, folder, run, *asked)
    assert capsys.readouterr().out == beside


def test_an_index_that_is_built_again_stays_as_it_was_asked_for(home, tmp_path, capsys):
    """First because a build pays, then because its file was cut off."""
    folder, run = write_music(tmp_path / "corpus", range(10)), tmp_path / "run"
    run_task(update, folder, run, *words(home))
    run_task(index, folder, run, "backend=annoy", "recall=0.8")
    assert "annoy answers" in capsys.readouterr().err
    path = run / "index/manifest.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps({**made, "annoy_ms": 0.1, "exact_ms": 1.0}))
    write_music(folder, range(12))
    run_task(update, folder, run, *words(home))
    again = json.loads(path.read_text())
    assert len(again["track_ids"]) == 12
    assert (again["settings"], again["backend"]) == ({"backend": "annoy", "recall": 0.8}, "annoy")
    file = run / "index/tracks.ann"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"tracks\.ann was cut off"):
        run_task(playlist, folder, run, "seed=t01", "n=2")
    run_task(update, folder, run, *words(home))
    run_task(playlist, folder, run, "seed=t01", "n=2")
    assert json.loads(path.read_text())["settings"] == again["settings"]


def test_pieces_of_which_no_file_can_be_read_do_not_end_it(home, tmp_path):
    folder = write_music(tmp_path / "corpus", range(6))
    for row in range(4):
        (folder / f"t{row:02d}.wav").write_text("no music")
    run_task(update, folder, tmp_path / "run", *words(home), "piece=2")
    vectors = load_vectors(tmp_path / "run/update/embeddings.npz")
    assert vectors.track_ids.tolist() == ["t04", "t05"]
    for row in (4, 5):
        (folder / f"t{row:02d}.wav").write_text("no music")
    with pytest.raises(InputError, match="none of the 6 audio files can be read"):
        run_task(update, folder, tmp_path / "other", *words(home), "piece=2")


def test_another_encoder_gives_other_vectors(home, tmp_path):
    folder, run = write_music(tmp_path / "corpus", range(5)), tmp_path / "run"
    write_encoder(tmp_path / "other.pt", rng_seed=1)
    run_task(update, folder, run, *words(home))
    first = load_vectors(run / "update/embeddings.npz").vectors
    run_task(update, folder, run, *words(tmp_path, "other.pt"))
    second = load_vectors(run / "update/embeddings.npz").vectors
    assert not np.allclose(first, second, atol=1e-3)
    assert file_hash(run / "update/encoder.pt") == file_hash(tmp_path / "other.pt")
    run_task(playlist, folder, run, "seed=t01", "n=2")
    assert len(list((run / "update").glob("heard-*.npz"))) == 1


def test_a_trained_run_goes_on_with_its_own_encoder_and_prior(home, tmp_path, capsys):
    """New tracks of a known artist are blended by the weight that stage 1 learned."""
    folder, run = write_corpus(tmp_path / "corpus"), tmp_path / "run"
    run.mkdir()
    tables = pl.read_parquet(folder / "tracks.parquet")
    tables[:12].write_parquet(folder / "tracks.parquet")
    for task, more in ((scan, ["workers=1"]), (factorize, ["factors.size=4"]),
                       (regress, [*TINY, *ENCODER])):  # fmt: skip
        run_task(task, folder, run, *more)
    made = json.loads((run / "regress/manifest.json").read_text())
    before = load_vectors(run / "regress/embeddings.npz")
    with_new = tables.with_columns(artist=pl.Series(["artist 1"] * len(tables)))
    pl.concat([tables[:12], with_new[12:]]).write_parquet(folder / "tracks.parquet")
    capsys.readouterr()
    run_task(update, folder, run, "workers=1")
    after = load_vectors(run / "regress/embeddings.npz")
    assert len(after.track_ids) == 14
    np.testing.assert_allclose(after.of(before.track_ids), before.vectors, atol=1e-5)
    manifest = json.loads((run / "regress/manifest.json").read_text())
    assert manifest["prior"] == made["prior"] and manifest["inputs"] == made["inputs"]
    assert manifest["outputs"]["embeddings.npz"] == file_hash(run / "regress/embeddings.npz")
    alone = load_vectors(run / "regress/predicted.npz").of(np.array(["t13"]))
    moved = not np.allclose(alone, after.of(np.array(["t13"])), atol=1e-4)
    assert moved == (made["prior"]["weight"] > 0)
    with pytest.raises(InputError, match="has regress, and its playlists are made of that"):
        run_task(update, folder, run, *words(home))


def test_without_an_encoder_it_says_where_one_comes_from(home, tmp_path):
    with pytest.raises(InputError, match=r"has no encoder: .* tasks.pretrain corpus="):
        run_task(update, home / "corpus", tmp_path)
    with pytest.raises(InputError, match=r"encoder_file=.*nowhere.pt is not there"):
        run_task(update, home / "corpus", tmp_path, *words(tmp_path, "nowhere.pt"))


def test_an_encoder_from_elsewhere_does_not_meet_the_listeners_of_factors(home, tmp_path):
    """Its vectors are of no space that the plays of this corpus made."""
    corpus, run = write_corpus(tmp_path / "corpus"), tmp_path / "run"
    run_task(factorize, corpus, run, "factors.size=8")
    run_task(update, corpus, run, *words(home))
    with pytest.raises(InputError, match="the stage is update"):
        run_task(recommend, corpus, run, "user=u0")
    with pytest.raises(InputError, match="this station is of update"):
        run_task(radio, corpus, run, f"station='{tmp_path / 'a.json'}'", "seed=t0", "listener=u0")
