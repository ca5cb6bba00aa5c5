"""A warm start without labels: what it learns, from what, and stage 1 from it on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cbmr.batches import AlbumBatches, HalfBatches, excerpt_batches
from cbmr.encoder import Encoder, load_encoder
from cbmr.errors import InputError
from cbmr.learners import ExcerptContrast, retrieval_score, train
from cbmr.logmel import MelSpec
from tasks import embed, factorize, index, playlist, pretrain, regress, scan, status
from tests.conftest import FACTORS, make_tables, tone, write_corpus, write_wav
from tests.test_training import ENCODER, run_task

TINY = ["workers=1", "epochs=3", "batch_size=4", "crop_s=2", "embedding_size=8"]
SMALL = {"mels": 16, "embedding_size": 8, "channels": [8, 8, 8, 8], "hidden": 16, "dropout": 0.0}


class FakeStore:
    """Tracks of 300 frames whose one trait, a faint pattern over the bands, lasts from the first to
    the last, under much louder noise that never comes again."""

    def __init__(self, tracks, frames=300):
        generator = torch.Generator().manual_seed(0)
        trait = torch.randn(tracks, 16, 1, generator=generator)
        level = 5 * torch.randn(tracks, 1, frames // 30, generator=generator)
        noise = torch.randn(tracks, 16, frames, generator=generator)
        louder = level.repeat_interleave(30, dim=2)
        self.logmels = (trait + louder + noise).half().numpy()
        self.frames = np.full(tracks, frames)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, rows):
        return self.logmels[rows]


def make_learner():
    torch.manual_seed(0)
    encoder = Encoder("spotify2014", SMALL, MelSpec(mels=16), torch.zeros(16), torch.ones(16))
    return ExcerptContrast(
        encoder,
        retrieval_score,
        temperature=0.1,
        learning_rate=0.1,
        weight_decay=0.0,
        augmentation={"crop_frames": 110, "time_masks": 1, "time_width": 10},
        rng_seed=0,
    )


def retrieval(encoder, store, rows):
    halves = HalfBatches(store, rows)[np.arange(len(rows))]
    with torch.no_grad():
        return retrieval_score(encoder.eval()(halves["logmel"], halves["frames"]).numpy())


def test_tracks_it_never_heard_are_told_apart_better_than_before(tmp_path):
    store, learner = FakeStore(96), make_learner()
    train_rows, valid_rows = np.arange(64), np.arange(64, 96)
    before = retrieval(learner.encoder, store, valid_rows)
    batches = excerpt_batches(store, train_rows, valid_rows, batch_size=32, rng_seed=0, workers=0)
    train(learner, batches, tmp_path, epochs=30, fingerprint="")
    after = retrieval(learner.encoder, store, valid_rows)
    assert after["reciprocal_rank"] > before["reciprocal_rank"] + 0.1
    assert after["recall_at_1"] > before["recall_at_1"]


def test_every_layer_learns_from_the_first_step():
    """Also the last one, which elsewhere starts at zero, where nothing would pull."""
    learner = make_learner()
    batch = {
        "logmel": torch.from_numpy(FakeStore(8)[np.arange(8)]),
        "frames": torch.full((8,), 300),
    }
    learner.log = lambda *_, **__: None
    learner.training_step(batch, 0).backward()
    for name, parameter in learner.encoder.named_parameters():
        assert parameter.grad.any(), name


def test_the_two_excerpts_of_a_track_are_drawn_apart():
    learner = make_learner()
    batch = {
        "logmel": torch.from_numpy(FakeStore(8)[np.arange(8)]),
        "frames": torch.full((8,), 300),
    }
    first, second = learner.excerpt(batch), learner.excerpt(batch)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(8))
    assert not torch.isclose(first, second, atol=1e-3).all(dim=1).any()


def test_the_second_excerpt_is_of_the_album_as_often_as_asked():
    """Albums of 1, 2, 3 and 4 tracks: never itself where it is drawn, else each alike; the same for
    the same batch, whatever was drawn before."""
    album = np.array([3, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    batches = AlbumBatches(FakeStore(10), np.arange(10), album, 0.6, rng_seed=0)
    rng = np.random.default_rng(0)
    together = np.zeros((10, 10))
    for _ in range(2_000):
        items = rng.permutation(10)
        others = batches.others(items)
        np.testing.assert_array_equal(others, batches.others(items))
        np.testing.assert_array_equal(album[others], album[items])
        np.add.at(together, (items, others), 1)
    assert together[1, 1] == 2_000
    for row in (0, 2, 4):
        mates = together[row, (album == album[row]) & (np.arange(10) != row)]
        itself = together[row, row]
        assert itself / 2_000 == pytest.approx(0.4, abs=0.05)
        np.testing.assert_allclose(mates / 2_000, 0.6 / len(mates), atol=0.05)


def test_an_album_batch_holds_both_tracks_and_their_album():
    store = FakeStore(6)
    batches = AlbumBatches(store, np.array([5, 4, 3, 2]), np.array([7, 7, 9, 9]), 1.0, rng_seed=0)
    batch = batches[np.array([2, 0])]
    assert batch["album"].tolist() == [1, 0]
    np.testing.assert_array_equal(batch["logmel"], store.logmels[[3, 5]])
    np.testing.assert_array_equal(batch["other_logmel"], store.logmels[[2, 4]])
    learner = make_learner()
    learner.log = lambda *_, **__: None
    assert learner.training_step(batch, 0).item() > 0


def test_halves_are_the_two_halves_of_the_real_frames():
    """Tracks of 8 and of 5 frames, padded with -1: halves of 4, and of 2 with the odd one left."""
    store = FakeStore(2, frames=30)
    store.logmels = np.stack([np.arange(8.0), [0, 1, 2, 3, 4, -1, -1, -1]])[:, None]
    store.frames = np.array([8, 5])
    batch = HalfBatches(store, np.array([1, 0]))[np.array([0, 1])]
    halves = [one[0, :n].tolist() for one, n in zip(batch["logmel"], batch["frames"], strict=True)]
    assert halves == [[0, 1], [2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]


def test_retrieval_by_hand():
    """First halves at 0, 90 and 40 degrees, second ones at 10, 80 and 90. From the first, the own
    half comes first, second (90 is nearer) and third; from the second first, first and second. So
    three of six are found at once, and 1 + 1/2 + 1/3 + 1 + 1 + 1/2 is 4.33."""
    degrees = np.deg2rad([0, 10, 90, 80, 40, 90])
    lengths = np.arange(1, 7)[:, None]
    numbers = retrieval_score(lengths * np.stack([np.cos(degrees), np.sin(degrees)], axis=1))
    assert numbers["recall_at_1"] == pytest.approx(1 / 2)
    assert numbers["reciprocal_rank"] == pytest.approx(13 / 18)


# --- the task -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    write_corpus(home / "corpus")
    run_task(scan, home / "corpus", home / "run", "workers=1")
    run_task(pretrain, home / "corpus", home / "run", *TINY, *ENCODER)
    return home


def test_what_it_leaves(made):
    folder = made / "run/pretrain"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train_tracks"] == 8
    assert 0 <= metrics["valid_recall_at_1"] <= metrics["valid_reciprocal_rank"] <= 1
    vectors = np.load(folder / "embeddings.npz")
    assert vectors["track_ids"].tolist() == [f"t{row}" for row in range(14)]
    np.testing.assert_allclose(np.linalg.norm(vectors["vectors"], axis=1), 1, atol=1e-5)
    encoder = load_encoder(folder / "encoder.pt")
    assert encoder.embedding_size == 8
    assert encoder.arguments["dropout"] == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"spectrograms", "split", "albums"}


def test_no_sound_of_a_held_out_test_track_and_no_play_is_learned_from(made, tmp_path):
    """Test tracks sound otherwise and all plays are gone: the encoder is the same to the byte. One
    training track that sounds otherwise: it is not."""
    encoders = [(made / "run/pretrain/encoder.pt").read_bytes()]
    for name, row in (("test", 13), ("train", 0)):
        folder = write_corpus(tmp_path / name)
        (folder / "plays.parquet").unlink()
        write_wav(folder / f"audio/t{row}.wav", tone(4.0, 700, rng_seed=99))
        run_task(pretrain, folder, tmp_path / f"{name} run", *TINY, *ENCODER)
        encoders.append((tmp_path / f"{name} run/pretrain/encoder.pt").read_bytes())
    assert encoders[0] == encoders[1] != encoders[2]


@pytest.mark.parametrize(("played", "trained"), [(None, 14), (6, 14 - 2)])
def test_audio_that_nobody_plays_is_learned_from(tmp_path, capsys, played, trained):
    """Without a split column and without plays, or with plays of six tracks, whose split holds one
    artist's and one more back."""
    tables = make_tables()
    folder = write_corpus(tmp_path / "corpus", tracks=tables["tracks"].drop("split"))
    if played is None:
        (folder / "plays.parquet").unlink()
    else:
        some = pl.col("track_id").is_in([f"t{row}" for row in range(played)])
        tables["plays"].filter(some).write_parquet(folder / "plays.parquet")
    run_task(pretrain, folder, tmp_path / "run", *TINY, *ENCODER)
    metrics = json.loads((tmp_path / "run/pretrain/metrics.json").read_text())
    assert metrics["train_tracks"] == trained
    assert ("nothing is measured on the way" in capsys.readouterr().err) == (played is None)


@pytest.mark.parametrize("known", ["none", "one each", "some"])
def test_albums_are_learned_from_where_two_tracks_share_one(made, tmp_path, capsys, known):
    """The others are albums of their own, whatever number of them have none."""
    albums = {"none": [""] * 14, "one each": [f"album {row}" for row in range(14)],
              "some": ["twice"] * 2 + [""] * 12}[known]  # fmt: skip
    tables = make_tables()["tracks"].with_columns(album=pl.Series(albums))
    folder = write_corpus(tmp_path / "corpus", tracks=tables)
    (tmp_path / "run").mkdir()
    run_task(pretrain, folder, tmp_path / "run", *TINY, *ENCODER)
    manifest = json.loads((tmp_path / "run/pretrain/manifest.json").read_text())
    assert ("albums" in manifest["inputs"]) == (known == "some")
    said = "no two tracks share an album, so it learns from excerpts of tracks alone"
    assert (said in capsys.readouterr().err) == (known != "some")
    run_task(playlist, folder, tmp_path / "run", "seed=t0", "n=2")
    by = "sound and albums alone" if known == "some" else "sound alone"
    assert f"these vectors come from {by}" in capsys.readouterr().err


def test_a_folder_without_plays_is_told_to_pretrain(made, tmp_path):
    """With plays it is told to begin with stage 1, as before."""
    folder = write_corpus(tmp_path / "corpus")
    with pytest.raises(InputError, match=r"python -m tasks.regress"):
        run_task(playlist, folder, tmp_path / "run", "seed=t0")
    (folder / "plays.parquet").unlink()
    with pytest.raises(InputError, match=r"python -m tasks.pretrain"):
        run_task(playlist, folder, tmp_path / "run", "seed=t0")


def test_a_wrong_share_of_albums_is_named(made, tmp_path):
    with pytest.raises(InputError, match=r"albums=1.5: expected a share from 0 to 1"):
        run_task(pretrain, made / "corpus", tmp_path, "albums=1.5")


def test_vectors_have_no_excerpts(made, tmp_path):
    with pytest.raises(InputError, match="encoder=vector reads one vector a track"):
        run_task(pretrain, made / "corpus", tmp_path, "encoder=vector")


def test_a_folder_that_nobody_has_played_is_served(made, tmp_path, capsys):
    folder = write_corpus(tmp_path / "corpus")
    for table in ("plays", "thumbs"):
        (folder / f"{table}.parquet").unlink()
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    run_task(embed, folder, run)
    run_task(index, folder, run)
    assert "14 tracks of pretrain" in capsys.readouterr().err
    run_task(playlist, folder, run, "seed=t0", "n=3", "format=json")
    out, errors = capsys.readouterr()
    assert len(json.loads(out)["tracks"]) == 3
    assert "no plays and no thumbs: these vectors come from sound and albums alone" in errors
    run_task(status, folder, run)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "present" in lines["pretrain"]
    assert "present" in lines["index"]
    assert not (run / "pretrain/predicted.npz").exists()


def test_an_interrupted_pretraining_goes_on_to_the_same_encoder(made, tmp_path):
    """`kill -9` between two epochs of a real process, then the same command."""
    words = [f"corpus={made / 'corpus'}", *TINY, "epochs=40", *ENCODER]

    def start(name):
        (tmp_path / name).mkdir(exist_ok=True)
        if not (tmp_path / name / "spectrograms").exists():
            (tmp_path / name / "spectrograms").symlink_to(made / "run/spectrograms")
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.pretrain", *words, f"run={tmp_path / name}"],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    process = start("killed")
    while not (tmp_path / "killed/pretrain/checkpoints/last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/pretrain/encoder.pt").exists()
    assert start("killed").wait() == 0
    assert start("peace").wait() == 0
    killed, peace = (
        (tmp_path / name / "pretrain/encoder.pt").read_bytes() for name in ("killed", "peace")
    )
    assert killed == peace


# --- stage 1 from it ----------------------------------------------------------------------------


def test_stage_1_begins_from_it(made, tmp_path, capsys):
    """And learns something else than afresh; another encoder is another input, and stale."""
    (tmp_path / "spectrograms").symlink_to(made / "run/spectrograms")
    run_task(factorize, made / "corpus", tmp_path, *FACTORS)
    stage_1 = [*ENCODER, "workers=1", "epochs=1", "batch_size=4", "crop_s=3", "learning_rate=1e-9"]
    encoder_file = made / "run/pretrain/encoder.pt"
    encoders = []
    for words in ([], [f"encoder_file='{encoder_file}'"]):
        run_task(regress, made / "corpus", tmp_path, *stage_1, *words)
        encoders.append(load_encoder(tmp_path / "regress/encoder.pt").network.state_dict())
    assert f"begins from {encoder_file}" in capsys.readouterr().err
    begun_from = load_encoder(encoder_file).network.state_dict()
    for name, value in begun_from.items():
        if value.shape == encoders[1][name].shape:
            torch.testing.assert_close(encoders[1][name], value)
            assert not value.any() or not torch.allclose(encoders[0][name], value)
    manifest = json.loads((tmp_path / "regress/manifest.json").read_text())
    assert manifest["inputs"]["encoder_file"]
    run_task(regress, made / "corpus", tmp_path, *stage_1, f"encoder_file='{encoder_file}'")
    assert "up to date" in capsys.readouterr().err


def test_an_encoder_file_that_does_not_fit_or_is_not_there_is_named(made, tmp_path):
    (tmp_path / "spectrograms").symlink_to(made / "run/spectrograms")
    run_task(factorize, made / "corpus", tmp_path, *FACTORS)
    words = ["workers=1", "epochs=1", f"encoder_file='{made / 'run/pretrain/encoder.pt'}'"]
    with pytest.raises(InputError, match=r"channels=\[8, 8, 8, 8\], this training's has channels"):
        run_task(regress, made / "corpus", tmp_path, *words)
    with pytest.raises(
        InputError, match=r"encoder_file=nowhere.pt is not there: .* tasks.pretrain"
    ):
        run_task(regress, made / "corpus", tmp_path, "encoder_file=nowhere.pt")
