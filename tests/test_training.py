"""Both stages through their tasks: determinism, interruption, leakage, and what is exported."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import hydra
import numpy as np
import polars as pl
import pytest
import torch

from cbmr.batches import EpochSampler, StationBatches, station_batches
from cbmr.corpus import Thumbs
from cbmr.embed import embed_file
from cbmr.encoder import Encoder, load_encoder
from cbmr.errors import InputError
from cbmr.evaluation.held_out import HeldOut, no_better
from cbmr.factors import unit_rows
from cbmr.files import read_json
from cbmr.learners import FactorRegression, Listeners, ThumbRanking, train
from cbmr.logmel import MelSpec
from cbmr.preferences import make_preferences
from cbmr.quiet import quiet_loader
from cbmr.report.findings import curves
from cbmr.vectors import load_vectors
from tasks import evaluate, factorize, rank, regress, scan
from tasks.command import CONF
from tests.conftest import FACTORS, make_tables, write_corpus

TINY = [
    "workers=1", "epochs=3", "batch_size=4", "crop_s=3",
]  # fmt: skip
ENCODER = ["encoder.arguments.channels=[8,8,8,8]", "encoder.arguments.hidden=16"]


def run_task(task, folder, run, *overrides):
    name = task.__name__.rsplit(".", 1)[1]
    with hydra.initialize_config_dir(CONF, version_base=None):
        task.run(hydra.compose(name, [f"corpus='{folder}'", f"run='{run}'", *overrides]))


def train_all(folder, run):
    run.mkdir(exist_ok=True)
    run_task(scan, folder, run, "workers=1")
    run_task(factorize, folder, run, *FACTORS)
    run_task(regress, folder, run, *TINY, *ENCODER)
    with kept_whatever_validation_says():
        run_task(rank, folder, run, *TINY, "epochs=6", "learning_rate=0.3", "anchor=0")
    assert read_json(run / "rank/metrics.json")["epochs"] == 6  # not stage 1's encoder again


def kept_whatever_validation_says():
    return patch("cbmr.evaluation.held_out.no_better", lambda *_: "")


def trained(run):
    names = ["factors.npz", "factors.json"]
    for stage in ("regress", "rank"):
        names += [f"{stage}/{file}" for file in ("encoder.pt", "predicted.npz", "embeddings.npz",
                                                 "manifest.json", "metrics.json")]  # fmt: skip
    return {name: (run / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    write_corpus(home / "corpus")
    train_all(home / "corpus", home / "run")
    return home


def keep_validation_votes(made, folder, kept):
    """A copy of corpus and run; of the votes on validation tracks those stay that are `kept`."""
    shutil.copytree(made / "corpus", folder / "corpus")
    shutil.copytree(made / "run", folder / "run")
    path = folder / "corpus/thumbs.parquet"
    tracks, thumbs = pl.read_parquet(folder / "corpus/tracks.parquet"), pl.read_parquet(path)
    split = dict(tracks.select("track_id", "split").iter_rows())
    on_valid = pl.col("track_id").replace_strict(split) == "valid"
    left = thumbs.filter(on_valid).filter(kept)
    assert 0 < len(left) < thumbs.filter(on_valid).height
    pl.concat([thumbs.filter(~on_valid), left]).write_parquet(path)


class Store:
    """Vectors in the shape of log-mels of one frame."""

    def __init__(self, tracks, size):
        self.vectors = np.random.default_rng(0).normal(size=(tracks, size, 1)).astype(np.float16)
        self.frames = np.ones(tracks, dtype=np.int64)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, rows):
        return self.vectors[rows]


@pytest.mark.parametrize("loss", regress.LOSSES)
def test_objectives_are_computed_in_float32_whatever_the_network_is_in(loss):
    """The loss is that of what the network said, taken out of the network's precision."""
    rng = np.random.default_rng(0)
    listeners = Listeners(torch.randn(9, 8), torch.ones(9), learned=loss == "listeners")
    with hydra.initialize_config_dir(CONF, version_base=None):
        options = dict(hydra.compose("regress", [f"loss={loss}"]).loss.options)
    options |= {"alpha": 2.0, "eps": 1e-6} if loss == "wpe" else {}
    arguments = {"mels": 8, "embedding_size": 8, "hidden": [16]}
    if loss == "mdn":
        arguments["components"] = options["components"]
    learner = FactorRegression(
        Encoder("vector", arguments, None, torch.zeros(8), torch.ones(8)),
        None,
        loss=loss, options=options, listeners=listeners, learning_rate=0.1, weight_decay=0.0,
        augmentation={"crop_frames": 1}, rng_seed=0,
    )  # fmt: skip
    learner.eval()
    learner.log = lambda *_, **__: None
    torch.manual_seed(0)
    for weight in learner.encoder.parameters():
        torch.nn.init.normal_(weight)  # the last layer begins at zero
    batch = {
        "logmel": torch.randn(6, 8, 1), "frames": torch.ones(6, dtype=torch.int64),
        "target": torch.from_numpy(unit_rows(rng.normal(size=(6, 8)))),
        "played": torch.from_numpy(rng.integers(0, 6, 40)),
        "listener": torch.from_numpy(rng.integers(0, 9, 40)), "count": torch.ones(40),
    }  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        predicted = learner.predict(batch)
        within = learner.training_step(batch, 0)
    assert torch.equal(within, learner.loss(predicted, batch, listeners))


@pytest.mark.parametrize("loss", rank.LOSSES)
def test_stage_2_is_the_same_to_the_bit_on_several_threads(
    loss, tmp_path, two_threads, monkeypatch
):
    """So many votes on one track that threads share the sum of its gradients; in float32, where
    each rounding shows."""
    monkeypatch.setattr("cbmr.learners.loop.precision", lambda: "32-true")
    tracks, votes, size = 24, 4000, 32
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, most, votes) for most in (9, tracks, tracks))
    preferences = make_preferences(Thumbs(*rows, rng.random(votes) < 0.5))
    targets = rng.normal(size=(tracks, size)).astype(np.float32)
    with hydra.initialize_config_dir(CONF, version_base=None):
        settings = hydra.compose("rank", [f"loss={loss}"]).loss
    trained = []
    for number in range(2):
        torch.manual_seed(0)
        learner = ThumbRanking(
            Encoder(
                "vector", {"mels": 8, "embedding_size": size, "hidden": [16]}, None,
                torch.zeros(8), torch.ones(8),
            ),
            None,
            loss=loss, options=dict(settings.options), anchor=1.0, layer_decay=1.0,
            frozen_convolutions=False, learning_rate=0.1, weight_decay=0.0,
            augmentation={"crop_frames": 1}, rng_seed=0,
        )  # fmt: skip
        batches = station_batches(
            Store(tracks, 8),
            preferences,
            targets,
            np.ones(tracks, dtype=np.float32),
            targets,
            None,
            batch_size=tracks,
            rng_seed=0,
            workers=0,
        )
        train(learner, batches, tmp_path / str(number), epochs=8, fingerprint="")
        trained.append(learner.encoder.state_dict())
    first, again = trained
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_no_held_out_play_or_vote_reaches_a_training_artefact(made, tmp_path):
    """Every play of a test track is moved to other listeners and counts, every vote on or from one
    is turned round, and there are new ones: all artefacts are the same to the byte."""
    tables = make_tables()
    test = tables["tracks"].filter(pl.col("split") == "test")["track_id"].implode()
    held_play = pl.col("track_id").is_in(test)
    held_vote = held_play | pl.col("seed_id").is_in(test)
    extra = pl.DataFrame({"user_id": ["aaa"], "track_id": ["t13"], "count": [9]})
    plays = pl.concat(
        [
            tables["plays"].filter(~held_play),
            tables["plays"].filter(held_play).with_columns(
                user_id=pl.lit("a stranger ") + pl.col("user_id"), count=pl.col("count") * 7
            ),
            extra,
        ]
    )  # fmt: skip
    thumbs = tables["thumbs"].with_columns(
        thumb=pl.when(held_vote).then(-pl.col("thumb")).otherwise(pl.col("thumb"))
    )
    assert not plays.equals(tables["plays"])
    assert not thumbs.equals(tables["thumbs"])
    write_corpus(tmp_path / "corpus", plays=plays, thumbs=thumbs)
    train_all(tmp_path / "corpus", tmp_path / "run")
    expected = trained(made / "run")
    assert len(expected) == 12
    for name, content in trained(tmp_path / "run").items():
        assert content == expected[name], name


def test_held_out_plays_do_matter_elsewhere(made, tmp_path):
    """The test above can fail: one training play more, and factors and encoder differ."""
    play = pl.DataFrame({"user_id": ["u1"], "track_id": ["t0"], "count": [50]})
    plays = pl.concat([make_tables()["plays"], play])
    write_corpus(tmp_path / "corpus", plays=plays)
    train_all(tmp_path / "corpus", tmp_path / "run")
    differ = [n for n, c in trained(tmp_path / "run").items() if c != trained(made / "run")[n]]
    assert {"factors.npz", "regress/encoder.pt", "rank/encoder.pt"} <= {*differ}


def test_an_interrupted_training_goes_on_to_the_same_encoder(made, tmp_path):
    """`kill -9` between two epochs of a real process, then the same command: the exported encoder
    is, to the byte, that of a training in peace."""
    run = tmp_path / "run"
    settings = [f"corpus={made / 'corpus'}", "workers=1", "epochs=40", "batch_size=4", "crop_s=3"]
    for name in ("killed", "peace"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spectrograms").symlink_to(made / "run/spectrograms")
        for file in ("factors.npz", "factors.json"):
            (tmp_path / name / file).write_bytes((made / "run" / file).read_bytes())
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "tasks.regress", *settings, *ENCODER]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}

    def start(name):
        return subprocess.Popen(
            [*command, f"run={tmp_path / name}"],
            env=environment,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    process = start("killed")
    while not (run / "regress/checkpoints/last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "regress/encoder.pt").exists()
    interrupted = torch.load(run / "regress/checkpoints/last.ckpt", weights_only=True)["epoch"]
    assert interrupted < 38
    assert start("killed").wait() == 0
    assert start("peace").wait() == 0
    killed, peace = (
        (tmp_path / name / "regress/encoder.pt").read_bytes() for name in ("killed", "peace")
    )
    assert killed == peace


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("interrupted_at", [3, 5])
def test_an_interrupted_training_goes_on_wherever_the_run_lies(
    moved, interrupted_at, made, tmp_path, monkeypatch
):
    """Measured are stage 1, three epochs and what they made. Interrupted in the second epoch, or
    when the last is over but nothing is exported, it comes to the encoder of a training in peace.
    """
    calls = itertools.count(1)
    measure = HeldOut.measure

    def interrupted(*arguments):
        if next(calls) == interrupted_at:
            raise RuntimeError("interrupted")
        return measure(*arguments)

    for name in ("run", "peace"):
        (tmp_path / name).mkdir()
        for part in ("spectrograms", "factors.npz", "factors.json", "regress"):
            (tmp_path / name / part).symlink_to(made / "run" / part)
    run = tmp_path / "run"
    with kept_whatever_validation_says():
        run_task(rank, made / "corpus", tmp_path / "peace", *TINY)
        monkeypatch.setattr(HeldOut, "measure", interrupted)
        with pytest.raises(RuntimeError, match="interrupted"):
            run_task(rank, made / "corpus", run, *TINY)
        if moved:
            run = run.rename(tmp_path / "moved")
        run_task(rank, made / "corpus", run, *TINY)
    encoders = [(folder / "rank/encoder.pt").read_bytes() for folder in (run, tmp_path / "peace")]
    assert encoders[0] == encoders[1]
    losses = next(curve for curve in curves(run / "rank/logs") if curve.name == "train/loss")
    assert [epoch for epoch, _ in losses.points] == [1, 2, 3]


def test_ctrl_c_ends_in_one_line_and_130(made, tmp_path):
    command = [sys.executable, "-m", "tasks.regress", f"corpus={made / 'corpus'}", *ENCODER,
               f"run={tmp_path}", "workers=1", "epochs=5000", "batch_size=4"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not (tmp_path / "regress/checkpoints/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted; the same command goes on from here"


def test_a_loading_process_is_quiet_of_a_reader_that_left_alone(monkeypatch):
    """What it hands over to may end at Ctrl-C; anything else is told."""
    told = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: told.append(kind))
    quiet_loader(0)
    for kind in (EOFError, ConnectionResetError, BrokenPipeError, ValueError):
        sys.excepthook(kind, kind(), None)
    assert told == [ValueError]


def test_the_last_epoch_of_stage_1_is_exported(made):
    log = pl.read_csv(made / "run/regress/logs/metrics.csv")
    last = log["valid/listening_auc"].drop_nulls()[-1]
    metrics = json.loads((made / "run/regress/metrics.json").read_text())
    assert metrics["valid_listening_auc"] == pytest.approx(last, abs=0.02)
    assert metrics["epochs"] == log["epoch"].max() + 1


@pytest.mark.parametrize(
    ("listening", "thumbs", "why"),
    [
        (0.7, 0.601, ""),
        (0.6999, 0.9, r"listening is lost on validation (listening_auc 0.7000 to 0.6999)"),
        (0.9, 0.6, r"votes are foretold no better (thumbs_auc 0.6000 to 0.6000)"),
        (None, 0.601, ""),
        (None, 0.599, "votes are foretold no better"),
        (0.7, None, ""),
        (0.699, None, "listening is lost"),
        (None, None, ""),
    ],
)
def test_stage_2_is_kept_where_votes_gain_and_listening_does_not_lose(listening, thumbs, why):
    """As far as validation measures them; stage 1 has .7 and .6."""
    measured = {"listening_auc": (0.7, listening), "thumbs_auc": (0.6, thumbs)}
    both = {name: of for name, of in measured.items() if of[1] is not None}
    said = no_better({n: of[0] for n, of in both.items()}, {n: of[1] for n, of in both.items()})
    assert why in said and bool(why) == bool(said)


def test_stage_1_comes_back_where_stage_2_does_not_help(made, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    shutil.rmtree(run / "rank")
    monkeypatch.setattr("cbmr.evaluation.held_out.no_better", lambda *_: "listening is lost")
    run_task(rank, made / "corpus", run, *TINY)
    metrics = json.loads((run / "rank/metrics.json").read_text())
    assert metrics["epochs"] == 0
    assert metrics["valid_thumbs_auc"] == metrics["valid_thumbs_auc_stage_1"]
    assert "listening is lost, so stage 1's encoder is exported" in capsys.readouterr().err
    exported, stage_1 = (load_encoder(run / s / "encoder.pt").network for s in ("rank", "regress"))
    for name, value in stage_1.state_dict().items():
        assert torch.equal(value, exported.state_dict()[name])
    vectors = [(run / s / "predicted.npz").read_bytes() for s in ("rank", "regress")]
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize("loss", ["cosine", "wpe", "mdn", "listeners"])
def test_every_objective_of_stage_1_trains_and_stage_2_goes_on_from_it(made, tmp_path, loss):
    (tmp_path / "spectrograms").symlink_to(made / "run/spectrograms")
    for file in ("factors.npz", "factors.json"):
        (tmp_path / file).write_bytes((made / "run" / file).read_bytes())
    slow = "learning_rate=0.03"
    run_task(regress, made / "corpus", tmp_path, *TINY, *ENCODER, f"loss={loss}", slow)
    log = pl.read_csv(tmp_path / "regress/logs/metrics.csv")["train/loss"].drop_nulls()
    assert log[-1] < log[0]
    run_task(rank, made / "corpus", tmp_path, *TINY)
    run_task(evaluate, made / "corpus", tmp_path, "bootstraps=2")
    for stage in ("regress", "rank"):
        assert (tmp_path / stage / "confidence.npz").exists() == (loss == "mdn")
    assert (tmp_path / "regress/users.npz").exists() == (loss == "listeners")
    if loss == "mdn":
        vectors, sure = (np.load(tmp_path / f"regress/{name}.npz")
                         for name in ("embeddings", "confidence"))  # fmt: skip
        assert sure["track_ids"].tolist() == vectors["track_ids"].tolist()
        assert ((sure["confidence"] >= 0) & (sure["confidence"] <= 1)).all()
    if loss == "listeners":
        users, factors = (np.load(tmp_path / name) for name in ("regress/users.npz", "factors.npz"))
        assert users["user_ids"].tolist() == factors["user_ids"].tolist()
        assert users["user_factors"].shape == factors["user_factors"].shape


def test_a_diverged_training_without_validation_says_what_helps(made, tmp_path, monkeypatch):
    """One vote and no listening: nothing validates, so it is the vectors that tell."""
    monkeypatch.setattr(HeldOut, "has_listening", False)
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    shutil.copytree(made / "run", tmp_path / "run")
    thumbs = pl.DataFrame({"user_id": "u0", "seed_id": "t0", "track_id": "t2", "thumb": 1})
    thumbs.write_parquet(tmp_path / "corpus/thumbs.parquet")
    with pytest.raises(InputError, match="A lower learning_rate helps"):
        run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY, "learning_rate=1e6")


def test_a_corpus_of_vectors_goes_the_same_way(made, tmp_path, monkeypatch):
    """Features in place of sound, in another order than the tracks and with a stranger among them:
    both stages and the table, nothing is scanned, and no place is hidden as if it were a band."""

    def masked(*_, **__):
        raise AssertionError("a vector was masked")

    monkeypatch.setattr("cbmr.augment.random_mask", masked)
    write_corpus(tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus/audio")
    rng = np.random.default_rng(0)
    ids = [*(f"t{row}" for row in range(14)), "stranger"]
    features = rng.standard_normal((15, 6)) + 3 * (np.arange(15) % 2)[:, None]
    order = rng.permutation(15)
    np.savez(tmp_path / "corpus/features.npz", track_ids=np.array(ids)[order],
             features=features[order])  # fmt: skip
    run = tmp_path / "run"
    small = ["encoder=vector", "encoder.arguments.hidden=[8]"]
    run_task(factorize, tmp_path / "corpus", run, "factors.size=4")
    run_task(regress, tmp_path / "corpus", run, *TINY, *small)
    run_task(rank, tmp_path / "corpus", run, *TINY)
    run_task(evaluate, tmp_path / "corpus", run, "bootstraps=2")
    assert not (run / "spectrograms").exists()
    vectors = np.load(run / "rank/embeddings.npz")
    assert vectors["track_ids"].tolist() == ids[:14]
    with pytest.raises(InputError, match="not sound"):
        embed_file(load_encoder(run / "rank/encoder.pt"), tmp_path / "a.wav", excerpt_s=30)
    (tmp_path / "corpus/features.npz").unlink()
    with pytest.raises(InputError, match=r"features\.npz, which is not there"):
        run_task(regress, tmp_path / "corpus", run, *TINY, *small)


def test_stretches_and_masks_reach_the_training(made, tmp_path):
    (tmp_path / "spectrograms").symlink_to(made / "run/spectrograms")
    for file in ("factors.npz", "factors.json"):
        (tmp_path / file).write_bytes((made / "run" / file).read_bytes())
    changed = ["augment.slowest=0.8", "augment.fastest=1.2", "augment.time_masks=1",
               "augment.band_masks=2"]  # fmt: skip
    encoders = set()
    for overrides in ([], changed[:2], changed[2:]):
        run_task(regress, made / "corpus", tmp_path, *TINY, *ENCODER, *overrides)
        encoders.add((tmp_path / "regress/encoder.pt").read_bytes())
    assert len(encoders) == 3


@pytest.mark.parametrize("loss", ["wpe", "mdn"])
def test_a_unit_output_is_refused_where_it_makes_no_sense(made, tmp_path, loss):
    with pytest.raises(InputError, match="unit_output"):
        run_task(
            regress, made / "corpus", tmp_path, f"loss={loss}", "encoder.arguments.unit_output=true"
        )


@pytest.mark.parametrize("model", ["wmf", "bpr", "vector_exp", "concat"])
def test_every_model_gives_factors_to_learn_from(made, tmp_path, model, capsys):
    """What is chosen, by tuning or, of wmf, by how dense the plays are, is said and kept."""
    factors = [f"factors={model}", "factors.size=3"]
    (tmp_path / "spectrograms").symlink_to(made / "run/spectrograms")
    options = ["factors.tune=true"] if model in ("bpr", "vector_exp") else []
    run_task(factorize, made / "corpus", tmp_path, *factors, *options)
    manifest = json.loads((tmp_path / "factors.json").read_text())
    said = capsys.readouterr().err
    assert ("factorize: chosen" in said) == (model != "concat")
    if model != "concat":
        numbers = [f"{name} {number:.4g}" for name, number in manifest["options"].items()]
        assert f"factorize: chosen {', '.join(numbers)}\n" in said
    run_task(factorize, made / "corpus", tmp_path, *factors, *options)
    assert "factorize: up to date" in capsys.readouterr().err
    run_task(regress, made / "corpus", tmp_path, *TINY, *ENCODER)
    vectors = load_vectors(tmp_path / "regress/embeddings.npz").vectors
    assert vectors.shape == (14, 6 if model == "concat" else 3)


def test_every_loss_trains(made, tmp_path, capsys):
    """Within whichever group; each has an encoder of its own, or brings back stage 1's."""
    shutil.copytree(made / "run", tmp_path / "run")
    for loss in rank.LOSSES:
        within = "station" if loss in ("triplet", "warp") else "listener"
        run_task(rank, made / "corpus", tmp_path / "run", *TINY, f"loss={loss}", f"within={within}")
        assert f"rank: {loss} on" in capsys.readouterr().err
        manifest = json.loads((tmp_path / "run/rank/manifest.json").read_text())
        assert manifest["settings"]["loss"]["name"] == loss


@pytest.mark.parametrize("degenerate", ["one vote", "ups alone", "one kind a station"])
def test_few_or_one_sided_votes_end_in_an_encoder_or_a_message(made, tmp_path, degenerate):
    """Every vote counts for DrLIM; a pair needs both kinds on one seed, and is missed by name."""
    votes = {
        "one vote": [("u0", "t0", "t2", 1)],
        "ups alone": [("u0", "t0", "t2", 1), ("u0", "t0", "t4", 1), ("u2", "t2", "t0", 1)],
        "one kind a station": [("u0", "t0", "t2", 1), ("u0", "t2", "t1", -1)],
    }[degenerate]
    columns = ["user_id", "seed_id", "track_id", "thumb"]
    thumbs = pl.DataFrame(votes, columns, orient="row")
    write_corpus(tmp_path / "corpus", thumbs=thumbs)
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/rank")
    run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY)
    assert load_encoder(tmp_path / "run/rank/encoder.pt").embedding_size == 4
    with pytest.raises(InputError, match="none has both: use loss=drlim"):
        run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY, "loss=ranknet")


def test_an_odd_one_out_answer_trains_beside_the_thumbs(made, tmp_path, capsys):
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "corpus/triplets.csv").write_text("a,b,odd\nt0,t2,t1\nt0,t2,t13\n")
    run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY, "learning_rate=0.1")
    assert "4 pieces of other evidence" in capsys.readouterr().err  # t13 is held out
    encoders = [(folder / "run/rank/encoder.pt").read_bytes() for folder in (made, tmp_path)]
    assert encoders[0] != encoders[1]
    with pytest.raises(InputError, match="exposures"):
        run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY, "evidence.skips=0.5")


def test_the_same_command_makes_again_what_is_gone_or_damaged(made, tmp_path):
    """From its last checkpoint, to the same bits."""
    shutil.copytree(made / "run", tmp_path / "run")
    settings = read_json(made / "run/rank/manifest.json")["settings"]
    same = [*TINY, "epochs=6", "learning_rate=0.3", "anchor=0"]
    assert settings["epochs"] == 6
    for name, damage in (("metrics.json", None), ("embeddings.npz", None), ("manifest.json", "{")):
        path = tmp_path / "run/rank" / name
        path.write_text(damage) if damage else path.unlink()
        run_task(rank, made / "corpus", tmp_path / "run", *same)
        assert path.read_bytes() == (made / "run/rank" / name).read_bytes()


def test_other_votes_on_validation_tracks_leave_a_stage_that_can_be_evaluated(made, tmp_path):
    """None on one seed any more: what was trained on and what is held out are the same."""
    keep_validation_votes(made, tmp_path, pl.col("seed_id") != pl.col("seed_id").first())
    run_task(evaluate, tmp_path / "corpus", tmp_path / "run", "bootstraps=2")
    assert (tmp_path / "run/evaluation/metrics.json").exists()


def test_the_2013_network_trains_on_its_own_spectrogram(made, tmp_path):
    (tmp_path / "factors.npz").write_bytes((made / "run/factors.npz").read_bytes())
    (tmp_path / "factors.json").write_bytes((made / "run/factors.json").read_bytes())
    small = ["encoder=nips2013", "encoder.arguments.channels=[4,4]", "encoder.arguments.hidden=8"]
    run_task(regress, made / "corpus", tmp_path, *TINY, *small)
    assert [path.name for path in tmp_path.glob("spectrograms/*")] == [
        "22050hz-1024-512-128mels-middle30s"
    ]
    assert load_encoder(tmp_path / "regress/encoder.pt").mel_spec.n_fft == 1024


def test_without_holdout_everything_trains_and_it_is_said(made, tmp_path, capsys):
    (tmp_path / "spectrograms").symlink_to(made / "run/spectrograms")
    run_task(factorize, made / "corpus", tmp_path, "factors.size=4", "holdout=false")
    run_task(regress, made / "corpus", tmp_path, *TINY, *ENCODER, "holdout=false")
    assert "no evaluation of it holds" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "regress/metrics.json").read_text())
    assert metrics["train_tracks"] == 14
    assert metrics["epochs"] == 3


# --- batches ------------------------------------------------------------------------------------


def test_an_epoch_of_single_items_holds_each_once_and_none_alone():
    sampler = EpochSampler(np.ones(33), 16, 33, rng_seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 2
    assert sorted(np.concatenate(batches).tolist()) == list(range(33))
    assert min(map(len, batches)) >= 16
    sampler.epoch = 1
    assert not np.array_equal(np.concatenate(list(sampler)), np.concatenate(batches))
    sampler.epoch = 0
    assert np.array_equal(np.concatenate(list(sampler)), np.concatenate(batches))


def test_an_epoch_has_as_many_batches_as_it_says_whatever_the_sizes():
    """Lightning validates at the batch that the length promises: an epoch that ends before it is
    never validated."""
    rng = np.random.default_rng(1)
    for batch_size in (4, 16, 64):
        for sizes in (rng.integers(6, 61, 40), np.array([300, 400, *rng.integers(6, 61, 20)]),
                      np.array([900, 1]), np.array([5])):  # fmt: skip
            sampler = EpochSampler(sizes, batch_size, 600, rng_seed=0)
            for epoch in range(6):
                sampler.epoch = epoch
                batches = list(sampler)
                assert len(batches) == len(sampler)
                assert min(map(len, batches)) >= 1
                items = np.concatenate(batches)
                assert len(np.unique(items)) == len(items)


def test_stations_fill_batches_by_their_size():
    sizes = np.random.default_rng(0).integers(2, 20, 200)
    sampler = EpochSampler(sizes, 64, 400, rng_seed=0)
    filled = [int(sizes[batch].sum()) for batch in sampler]
    assert len(filled) == 6
    assert all(40 <= size <= 90 for size in filled)


class FakeStore:
    """Log-mels whose every value is the row's number."""

    def __init__(self, tracks):
        self.frames = np.full(tracks, 7)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, rows):
        return np.tile(rows[:, None, None], (1, 2, 7)).astype(np.float16)


def test_a_station_batch_embeds_each_track_once_and_uses_every_vote_among_them():
    """Two listeners' stations share track 3; a third listener's votes among those tracks count.
    Beside the five tracks of these stations the batch holds two of those with an anchor, 4 to 7."""
    thumbs = Thumbs(
        np.array([0, 0, 1, 1, 2]),
        np.array([1, 1, 5, 5, 1]),
        np.array([2, 3, 3, 4, 5]),
        np.array([True, False, True, False, True]),
    )
    anchors, queries = np.zeros((8, 2), np.float32), np.arange(16).reshape(8, 2)
    weight = np.array([0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4], np.float32)
    certainty = np.array([1, 0.5, 0.25, 0.5, 1])
    preferences = make_preferences(thumbs, certainty=certainty)
    data = StationBatches(FakeStore(8), preferences, anchors, weight, queries, rng_seed=0)
    drawn = [data.tracks(np.array([0, other])) for other in (1, 2) for _ in range(2)]
    assert all((one == again).all() for one, again in (drawn[:2], drawn[2:]))
    batch = data[np.array([0, 1])]
    rows = batch["logmel"][:, 0, 0].int().tolist()
    assert rows == drawn[0].tolist()
    assert {1, 2, 3, 4, 5} <= set(rows) <= {1, 2, 3, 4, 5, 6, 7}
    assert batch["query"].tolist() == queries[rows].tolist()
    assert batch["anchor_weight"].tolist() == weight[rows].tolist()
    votes = {
        (rows[s], rows[t], bool(u))
        for s, t, u in zip(batch["seed"], batch["track"], batch["up"], strict=True)
    }
    expected = zip(thumbs.seed, thumbs.track, thumbs.up, strict=True)
    assert votes == {(int(s), int(t), bool(u)) for s, t, u in expected}
    tracks = [
        (rows[batch["seed"][up]], rows[batch["track"][up]], rows[batch["track"][down]])
        for up, down in batch["pairs"].tolist()
    ]
    assert sorted(tracks) == [(1, 2, 3), (5, 3, 4)]
    # Each station has one pair, which weighs as its strongest vote: 1 and a half, 1 on average.
    weights = dict(zip(tracks, batch["pair_weight"].tolist(), strict=True))
    assert weights == pytest.approx({(1, 2, 3): 4 / 3, (5, 3, 4): 2 / 3})


def test_a_station_batch_rehearses_tracks_that_no_station_plays_evenly():
    """One station of 4 tracks brings 2 of the 20 with an anchor, another two each time, and in the
    long run each as often: a tenth of 400 draws, its deviation 6."""
    thumbs = Thumbs(*(np.array(one) for one in ([0] * 3, [20] * 3, [21, 22, 23], [True] * 3)))
    anchors, weight = np.zeros((24, 2), np.float32), (np.arange(24) < 20).astype(np.float32)
    count = np.zeros(24)
    for rng_seed in range(400):
        data = StationBatches(
            FakeStore(24), make_preferences(thumbs), anchors, weight, anchors, rng_seed
        )
        rows = data.tracks(np.array([0]))
        count[rows] += 1
        assert len(rows) == 6
    assert (count[20:] == 400).all()
    assert 40 - 4 * 6 < count[:20].min() <= count[:20].max() < 40 + 4 * 6


def test_stage_2_notices_thumbs_that_say_nothing(made, tmp_path, capsys):
    """Every listener votes on every training seed and track by a coin: stage 1 comes back, said."""
    rng = np.random.default_rng(0)
    train = [f"t{row}" for row in range(10)]
    votes = [
        (f"u{user}", seed, track, int(rng.choice([-1, 1])))
        for user in range(4)
        for seed in train
        for track in train
        if seed != track
    ]
    names = ["user_id", "seed_id", "track_id", "thumb"]
    thumbs = pl.DataFrame(votes, schema=names, orient="row")
    write_corpus(tmp_path / "corpus", thumbs=thumbs)
    shutil.copytree(made / "run", tmp_path / "run")
    run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY)
    assert "no better than chance" in capsys.readouterr().err
    encoders = [load_encoder(tmp_path / f"run/{stage}/encoder.pt") for stage in ("regress", "rank")]
    for one, other in zip(*(encoder.state_dict().values() for encoder in encoders), strict=True):
        assert torch.equal(one, other)
    assert read_json(tmp_path / "run/rank/metrics.json")["epochs"] == 0


def test_listening_is_not_forgotten_where_no_vote_validates(made, tmp_path, capsys, monkeypatch):
    """Validation has listening and no downs; each measure after stage 1's is lower or level."""
    keep_validation_votes(made, tmp_path, pl.col("thumb") == 1)
    for lost, kept in ((0.001, False), (0.0, True)):
        heard = iter([0.9])
        monkeypatch.setattr(
            HeldOut,
            "measure",
            lambda *_, now=0.9 - lost, heard=heard: {"listening_auc": next(heard, now)},
        )
        run_task(rank, tmp_path / "corpus", tmp_path / "run", *TINY, f"anchor={lost}")
        said = capsys.readouterr().err
        assert "no votes of both kinds" in said
        assert ("listening is lost on validation" in said) is not kept
        same = load_encoder(tmp_path / "run/rank/encoder.pt").network.state_dict()
        first = load_encoder(made / "run/regress/encoder.pt").network.state_dict()
        assert all(torch.equal(first[name], same[name]) for name in first) is not kept


def test_frozen_convolutions_and_slower_layers(made, tmp_path):
    """Frozen, no convolution moves and the rest does; with layers slower from the top down, the
    first convolution moves less than it does otherwise."""
    shutil.copytree(made / "run", tmp_path / "run")
    before = load_encoder(made / "run/regress/encoder.pt").network.state_dict()

    def moved(*overrides):
        run_task(rank, made / "corpus", tmp_path / "run", *TINY, *overrides)
        last = torch.load(tmp_path / "run/rank/checkpoints/last.ckpt", weights_only=True)
        after = last["state_dict"]
        return {name: (after[f"encoder.network.{name}"] - before[name]).abs().max().item()
                for name in before}  # fmt: skip

    frozen, slower, plain = (
        moved(*overrides) for overrides in (["frozen_convolutions=true"], ["layer_decay=0.5"], [])
    )
    for name, distance in frozen.items():
        assert (distance == 0) == name.startswith("convolutions"), name
    first = "convolutions.0.weight"
    assert 0 < slower[first] < plain[first]


def test_batch_statistics_of_frozen_convolutions_stay():
    """Of the residual network: those up to its last convolution, in training as in evaluation."""
    small = {"mels": 8, "embedding_size": 4, "channels": [8, 8], "hidden": 8}
    learner = ThumbRanking(
        Encoder("residual", small, MelSpec(mels=8), torch.zeros(8), torch.ones(8)),
        None,
        loss="drlim", options={"margin": 1.4}, anchor=1.0, layer_decay=1.0,
        frozen_convolutions=True, learning_rate=0.1, weight_decay=0.0,
        augmentation={"crop_frames": 20}, rng_seed=0,
    )  # fmt: skip
    statistics = {
        layer: layer.running_mean.clone()
        for layer in learner.frozen
        if isinstance(layer, torch.nn.BatchNorm1d)
    }
    learner.train()
    learner.predict({"logmel": torch.randn(6, 8, 20), "frames": torch.full((6,), 20)})
    assert len(statistics) >= 2
    assert all(torch.equal(layer.running_mean, before) for layer, before in statistics.items())
