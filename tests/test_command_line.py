"""The command line alone, as a person uses it: real processes on a corpus of fourteen tracks.

One run is made once, by the commands of the README; every artefact is then checked for its keys,
types and norms, and every bad input for one clear line, status 1, no traceback, nothing lost.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cbmr.embed import embed_file
from cbmr.encoder import load_encoder
from cbmr.factors import load_factors, unit_targets
from cbmr.files import file_hash
from cbmr.playlists import read_playlist
from cbmr.priors import seed_queries
from cbmr.vectors import load_vectors
from tests.conftest import FACTORS, TITLES, make_tables, tone, write_corpus, write_wav

# In two epochs at its own rate it would leave all tracks in one place, and lists leave copies out.
SMALL_ENCODER = (
    "encoder.arguments.channels=[8,8,8,8]", "encoder.arguments.hidden=16", "learning_rate=0.3",
)  # fmt: skip
QUICK = ("epochs=2", "batch_size=4", "crop_s=4", "workers=1")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path.cwd()), "COLUMNS": "200"}


def task(name, *arguments, cwd, **settings):
    """Run `python -m tasks.NAME` in `cwd`; keyword settings become `key=value`."""
    words = [*arguments, *(f"{key}={value}" for key, value in settings.items())]
    return subprocess.run(
        [sys.executable, "-m", f"tasks.{name}", *words],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def succeeded(result):
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result


def refused(result, *messages, status=1):
    """One line, its status, and what it has to name."""
    assert result.returncode == status, (result.stdout, result.stderr)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().endswith(errors[0])
    for message in messages:
        assert message in errors[0]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with `corpus` and a whole run of it, `made`, as the README's commands leave it."""
    home = tmp_path_factory.mktemp("home")
    write_corpus(home / "corpus")
    shared = {"corpus": "corpus", "run": "made"}
    succeeded(task("scan", "workers=1", cwd=home, **shared))
    succeeded(task("factorize", *FACTORS, cwd=home, **shared))
    succeeded(task("regress", *SMALL_ENCODER, *QUICK, cwd=home, **shared))
    succeeded(task("rank", *QUICK, cwd=home, **shared))
    succeeded(task("index", cwd=home, **shared))
    evaluated = succeeded(task("evaluate", "bootstraps=5", cwd=home, **shared))
    (home / "made/evaluation/stdout.txt").write_text(evaluated.stdout)
    (home / "made/evaluation/stderr.txt").write_text(evaluated.stderr)
    return home


def contents(folder):
    """Every file of a folder with its bytes, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def play(home, seed, *arguments, **settings):
    return task("playlist", f"seed={seed}", *arguments, cwd=home, corpus="corpus", run="made",
                **settings)  # fmt: skip


# --- what every task leaves ---------------------------------------------------------------------


def test_factors(home):
    with np.load(home / "made/factors.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert set(arrays) == {
        "track_ids", "item_factors", "item_listeners", "user_ids", "user_factors"
    }  # fmt: skip
    assert arrays["item_factors"].dtype == arrays["user_factors"].dtype == np.float32
    assert arrays["item_factors"].shape == (len(arrays["track_ids"]), 4)
    assert set(arrays["track_ids"]) <= {f"t{row}" for row in range(8)}  # training tracks only


@pytest.mark.parametrize("stage", ["regress", "rank"])
def test_a_stage(home, stage):
    folder = home / "made" / stage
    with np.load(folder / "embeddings.npz", allow_pickle=False) as file:
        track_ids, vectors = file["track_ids"], file["vectors"]
        assert set(file.files) == {"track_ids", "vectors"}
    assert track_ids.tolist() == [f"t{row}" for row in range(14)]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    encoder = torch.load(folder / "encoder.pt", weights_only=True)
    assert set(encoder) == {"format_version", "encoder", "arguments", "mel_spec", "input_mean",
                            "input_std", "state_dict"}  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert "valid_listening_auc" in metrics
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"format_version", "task", "settings", "inputs", "outputs"} <= set(manifest)
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert (folder / "logs" / "metrics.csv").exists()


def test_the_index(home):
    manifest = json.loads((home / "made/index/manifest.json").read_text())
    assert manifest["format_version"] == 2
    assert (manifest["dimension"], manifest["metric"]) == (4, "angular")
    assert manifest["track_ids"] == [f"t{row}" for row in range(14)]
    assert 0 <= manifest["recall@10"] <= 1
    assert (home / "made/index/tracks.ann").stat().st_size > 0


def test_nothing_else_is_left_where_the_person_stands(home):
    assert {path.name for path in home.iterdir()} == {"corpus", "made"}
    assert not list((home / "made").rglob("*.partial"))


def test_evaluation(home):
    said = (home / "made/evaluation/stderr.txt").read_text()
    shown = (home / "made/evaluation/stdout.txt").read_text()
    assert "stage 2 - stage 1" in " ".join(shown.split())
    assert "no table of tracks with few plays" in said
    assert "Warning" not in said
    metrics = json.loads((home / "made/evaluation/metrics.json").read_text())
    rows = ("artist mean + ridge", "ridge + prior", "MFCC words, linear", "MFCC words, MLP",
            "stage 1", "stage 1 + prior", "artist mean + stage 2", "stage 2 + prior")  # fmt: skip
    assert {f"test / known artist / {row} / AUC" for row in rows} <= set(metrics)
    assert "test / new artist / ridge / thumbs AUC low" in metrics
    assert (home / "made/evaluation/table.png").read_bytes().startswith(b"\x89PNG")


def test_a_prior_is_blended_into_new_tracks_and_taken_out_again(home, tmp_path):
    from tasks.stages import predicted_vectors

    shutil.copytree(home / "made", tmp_path / "run")
    shared = {"corpus": "corpus", "run": tmp_path / "run", "cwd": home}
    stage = tmp_path / "run/rank"
    as_trained = (stage / "embeddings.npz").read_bytes()

    succeeded(task("embed", "prior_weight=0.5", **shared))
    with np.load(stage / "embeddings.npz") as file:
        blended = file["vectors"]
    predicted = predicted_vectors(stage).vectors
    moved = np.flatnonzero((blended != predicted).any(axis=1))
    assert moved.tolist() == [8, 9, 10, 11, 12, 13]  # the newcomer's by their albums
    np.testing.assert_allclose(np.linalg.norm(blended, axis=1), 1, atol=1e-5)
    manifest = json.loads((stage / "manifest.json").read_text())
    assert manifest["prior"] == {"name": "artist", "tracks": 6, "weight": 0.5}
    asked = ("seed=t0", "n=14", "artist_spacing=1", "duplicate_similarity=1",
             "title_variants=true", "format=json")  # fmt: skip
    tracks = json.loads(succeeded(task("playlist", *asked, **shared)).stdout)["tracks"]
    factors = load_factors(tmp_path / "run/factors.npz")
    query = seed_queries(blended[:1], np.array(["t0"]), factors)[0]
    assert query @ unit_targets(factors, np.array(["t0"]))[0] > blended[0] @ query
    cosines = {f"t{row}": float(blended[row] @ query) for row in range(1, 14)}
    assert {track["track_id"]: track["similarity"] for track in tracks[1:]} == pytest.approx(
        cosines, abs=1e-5
    )

    result = succeeded(task("embed", "prior=album", **shared))
    prior = json.loads((stage / "manifest.json").read_text())["prior"]
    assert prior["after"]["listening_auc"] >= prior["before"]["listening_auc"]
    assert f"prior=album, weight {prior['weight']}" in result.stderr
    np.testing.assert_array_equal(predicted_vectors(stage).vectors, predicted)

    succeeded(task("embed", "prior=none", **shared))
    np.testing.assert_array_equal(predicted_vectors(stage).vectors, predicted)
    assert not (stage / "predicted.npz").exists()
    assert "prior" not in json.loads((stage / "manifest.json").read_text())

    succeeded(task("embed", **shared))
    assert (stage / "embeddings.npz").read_bytes() == as_trained

    succeeded(task("factorize", "factors.size=4", "factors.options.regularization=2", **shared))
    refused(task("embed", **shared), "two spaces", "python -m tasks.rank", "prior=none")
    result = succeeded(task("playlist", "seed=t0", "n=3", **shared))
    assert "factors.npz has changed since these vectors were trained" in result.stderr


def test_without_validation_a_prior_needs_its_weight(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    path = tmp_path / "run/rank/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["holdout"] = False
    path.write_text(json.dumps(manifest))
    shared = {"corpus": "corpus", "run": tmp_path / "run", "cwd": home}
    result = succeeded(task("embed", **shared))
    assert "no weight can be learned" in result.stderr
    assert not (tmp_path / "run/rank/predicted.npz").exists()
    succeeded(task("embed", "prior_weight=0.3", **shared))
    assert (tmp_path / "run/rank/predicted.npz").exists()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["prior=artists"], ["prior=artists", "artist, album or none"]),
        (
            ["prior=none", "prior_weight=.5"],
            ["prior_weight=0.5", "prior=artist or album is missing"],
        ),
        (["prior=artist", "prior_weight=2"], ["prior_weight=2", "a number from 0 to 1"]),
        (["prior=artist", "prior_weight=much"], ["prior_weight=much", "a number from 0 to 1"]),
    ],
)
def test_a_wrong_prior_is_named(home, words, messages):
    refused(task("embed", *words, cwd=home, corpus="corpus", run="made"), *messages)


def test_tracks_scanned_since_are_missed_before_they_are_scored(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    path = tmp_path / "run/rank/predicted.npz"
    with np.load(path) as file:
        np.savez(path, track_ids=file["track_ids"][:-1], vectors=file["vectors"][:-1])
    result = task("evaluate", cwd=home, corpus="corpus", run=tmp_path / "run")
    refused(result, "1 tracks were scanned since", "python -m tasks.embed stage=rank")


def test_a_layers_activations_stand_beside_the_vectors(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    before = contents(tmp_path / "run")
    shared = {"corpus": "corpus", "run": tmp_path / "run", "cwd": home}
    succeeded(task("embed", "layer=dense1", "stage=regress", **shared))
    after = contents(tmp_path / "run")
    left = Path("regress/layers/dense1.npz")
    assert {**before, left: after[left]} == after
    with np.load(tmp_path / "run" / left, allow_pickle=False) as file:
        assert file["track_ids"].tolist() == [f"t{row}" for row in range(14)]
        assert file["activations"].shape == (14, 16)
    refused(task("embed", "layer=dense3", **shared), "layer=dense3", "convolution1, convolution2")
    refused(task("embed", "layer=dense1", "excerpts=3", **shared), "excerpts=1")


def test_a_finished_task_is_not_done_again(home):
    before = contents(home / "made" / "regress")
    result = succeeded(
        task("regress", *SMALL_ENCODER, *QUICK, cwd=home, corpus="corpus", run="made")
    )
    assert "up to date" in result.stderr
    assert contents(home / "made" / "regress") == before


def test_analyze_leaves_pictures_pages_and_lists(home, tmp_path):
    """Twice the same is not made twice; other titles make it stale, and nothing of the corpus or of
    the stages is touched."""
    shutil.copytree(home / "made", tmp_path / "run")
    shutil.copytree(home / "corpus", tmp_path / "corpus")
    shared = {"cwd": tmp_path, "corpus": "corpus", "run": "run", "workers": "1"}
    before = contents(tmp_path)
    folder = tmp_path / "run/analysis"
    said = succeeded(task("analyze", "filters=[1,4]", "units=[3,5]", "n=4", **shared)).stderr
    assert "4 units of convolution1, dense2" in said
    assert {path.name for path in folder.iterdir()} == {
        "filters.png", "filters_close.png", "map.png", "map.html", "units.html", "units",
        "manifest.json",
    }  # fmt: skip
    lists = sorted(path.name for path in (folder / "units/convolution1").iterdir())
    suffixes = ("csv", "json", "jspf", "m3u8", "txt", "xspf")
    assert lists == [f"{unit}-{by}.{suffix}" for unit in ("003", "005")
                     for by in ("maximum", "mean") for suffix in suffixes]  # fmt: skip
    ids = [entry["track_id"] for entry in json.loads(
        (folder / "units/convolution1/003-mean.json").read_text())["tracks"]]  # fmt: skip
    assert len(ids) == len(set(ids)) <= 4
    for suffix in set(suffixes) - {"txt"}:  # which is for the eye
        read = read_playlist(folder / f"units/convolution1/003-mean.{suffix}")
        assert len(read.entries) == len(ids)
    assert {path: bytes for path, bytes in contents(tmp_path).items() if path in before} == before
    again = task("analyze", "filters=[1,4]", "units=[3,5]", "n=4", **shared)
    assert "analyze: up to date" in succeeded(again).stderr
    tracks = pl.read_parquet(tmp_path / "corpus/tracks.parquet")
    tracks.with_columns(title=pl.lit("new")).write_parquet(tmp_path / "corpus/tracks.parquet")
    (line,) = [line for line in succeeded(task("status", **shared)).stdout.splitlines()
               if line.startswith("analyze")]  # fmt: skip
    assert "stale: tracks changed since" in line


@pytest.mark.parametrize(
    "setting, messages",
    [
        ("filters=[8]", ["filters=[8]: 8 is no filter of the first layer", "0 to 7"]),
        ("filters=loud", ["filters=loud: expected whole numbers from 0"]),
        ("units=[16]", ["units=[16]: convolution1 has 8 units"]),
        ("layer=conv1", ["layer=conv1: spotify2014 has convolution1, convolution2"]),
        ("paths=rel", ["paths=rel: expected one of absolute, relative, url"]),
        ("perplexity=0", ["perplexity=0: expected a number above 0"]),
        ("stage=update", ["no update/embeddings.npz yet"]),
    ],
)
def test_analyze_refuses_what_is_not_there(home, tmp_path, setting, messages):
    shutil.copytree(home / "made", tmp_path / "run")
    shared = {"corpus": home / "corpus", "run": tmp_path / "run", "workers": 1}
    refused(task("analyze", setting, cwd=tmp_path, **shared), *messages)


def test_status_says_what_is_there_and_what_is_stale(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    shutil.copytree(home / "corpus", tmp_path / "corpus")
    shared = {"corpus": "corpus", "run": "run", "cwd": tmp_path}
    shown = succeeded(task("status", **shared)).stdout
    assert "stale" not in shown
    succeeded(task("factorize", "factors.size=5", **shared))
    shown = succeeded(task("status", **shared)).stdout
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "present" in lines["factorize"]
    for name in ("regress", "rank", "evaluate"):
        assert "factors.npz changed since" in lines[name]
    assert "present" in lines["index"]


@pytest.mark.parametrize(
    ("gone", "line"),
    [
        ("factors.npz", "factorize  stale: factors.npz is gone"),
        ("regress/encoder.pt", "regress    stale: encoder.pt is gone"),
        ("rank/embeddings.npz", "rank       stale: embeddings.npz is gone"),
        ("rank/metrics.json", "rank       stale: metrics.json is gone"),
    ],
)
def test_a_file_that_is_gone_is_named_and_so_is_what_makes_it_again(home, tmp_path, gone, line):
    shutil.copytree(home / "made", tmp_path / "run")
    shared = {"corpus": home / "corpus", "run": "run", "cwd": tmp_path}
    (tmp_path / "run" / gone).unlink()
    shown = succeeded(task("status", **shared)).stdout.splitlines()
    assert any(each.startswith(line) for each in shown)
    assert shown[-1].startswith("analyze")  # to the end of its list
    again = f"python -m tasks.{line.split()[0]}"
    if gone in ("factors.npz", "regress/encoder.pt"):
        refused(task("rank", **shared), "is gone", again)
    if gone in ("factors.npz", "rank/embeddings.npz"):
        refused(task("recommend", "user=u0", **shared), "is gone", again)


@pytest.mark.parametrize("text", ['{"task": "rank"', "{}", '{"settings": {}, "inputs": null}'])
def test_a_damaged_manifest_is_named_and_how_it_is_mended(home, tmp_path, text):
    shutil.copytree(home / "made", tmp_path / "run")
    shared = {"corpus": home / "corpus", "run": "run", "cwd": tmp_path}
    (tmp_path / "run/rank/manifest.json").write_text(text)
    shown = succeeded(task("status", **shared)).stdout
    assert "delete it, and python -m tasks.rank makes it anew" in shown
    assert shown.splitlines()[-1].startswith("analyze")
    refused(task("playlist", "seed=t0", **shared), "delete it, and python -m tasks.rank")
    (tmp_path / "run/factors.json").write_text(text)
    refused(task("rank", **shared), "delete it, and python -m tasks.factorize")


def test_status_sees_a_changed_vote_and_a_changed_play(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    shutil.copytree(home / "corpus", tmp_path / "corpus")
    shared = {"corpus": "corpus", "run": "run", "cwd": tmp_path}
    thumbs = pl.read_parquet(tmp_path / "corpus/thumbs.parquet")
    thumbs.with_columns(thumb=-pl.col("thumb")).write_parquet(tmp_path / "corpus/thumbs.parquet")
    lines = succeeded(task("status", **shared)).stdout.splitlines()
    assert [line.split()[0] for line in lines if "stale" in line] == ["rank", "evaluate"]
    assert "training votes changed since" in "".join(lines)
    assert "thumbs changed since" in "".join(lines)
    plays = pl.read_parquet(tmp_path / "corpus/plays.parquet")
    plays.with_columns(count=pl.col("count") + 1).write_parquet(tmp_path / "corpus/plays.parquet")
    lines = succeeded(task("status", **shared)).stdout.splitlines()
    assert "training plays changed since" in next(x for x in lines if x.startswith("factorize"))


def test_a_sweep_gives_each_job_a_run_of_its_own(home, tmp_path):
    result = succeeded(
        task(
            "factorize",
            "-m",
            "factors.size=2,3",
            cwd=tmp_path,
            corpus=home / "corpus",
            run="${a} run",
        )
    )
    assert "${a} run/1: factors.size=3" in result.stderr
    for job, size in enumerate((2, 3)):
        factors = np.load(tmp_path / "${a} run" / str(job) / "factors.npz")
        assert factors["item_factors"].shape[1] == size
    assert [path.name for path in tmp_path.iterdir()] == ["${a} run"]


def test_a_sweep_begins_from_what_its_run_has(home, tmp_path):
    """Stage 2 from the stage 1 that is there, whose files stay as they are."""
    shutil.copytree(home / "made", tmp_path / "run")
    before = (tmp_path / "run/regress/encoder.pt").read_bytes()
    sweep = ["-m", "within=both,station", "epochs=1", "batch_size=4", "crop_s=4", "workers=1"]
    result = succeeded(task("rank", *sweep, cwd=tmp_path, corpus=home / "corpus", run="run"))
    assert "made now by its defaults" not in result.stderr
    for job, within in enumerate(("both", "station")):
        folder = tmp_path / "run" / str(job)
        assert (
            json.loads((folder / "rank/manifest.json").read_text())["settings"]["within"] == within
        )
        assert not (folder / "rank").is_symlink() and not (folder / "index").exists()
        assert (folder / "regress/encoder.pt").read_bytes() == before
    succeeded(task("playlist", "seed=t0", cwd=tmp_path, corpus=home / "corpus", run="run/1"))


# --- playlists ----------------------------------------------------------------------------------


def test_a_playlist_on_standard_output_is_json_alone(home):
    playlist = json.loads(
        succeeded(play(home, "t0", n=5, format="json", duplicate_similarity=1)).stdout
    )
    assert set(playlist) == {"title", "tracks"}
    first, *others = playlist["tracks"]
    assert set(first) == {"track_id", "title", "artist", "path", "similarity"}
    assert (first["track_id"], first["similarity"]) == ("t0", 1.0)
    assert len(others) == 4
    assert len({track["track_id"] for track in playlist["tracks"]}) == 5
    similarities = [track["similarity"] for track in others]
    assert all(-1 <= value <= 1 for value in similarities)


@pytest.mark.parametrize("title", [t for t in TITLES if t not in ("Same",)])
def test_titles_are_typed_as_they_are(home, title):
    """Accents, CJK, emoji, parentheses, `=`, commas, apostrophes, semicolons, `&`, `%`."""
    playlist = json.loads(succeeded(play(home, title, n=1, format="json")).stdout)
    assert playlist["tracks"][0]["title"] == title


def test_a_path_is_a_seed_and_an_unknown_file_is_embedded(home, tmp_path):
    catalogued = json.loads(succeeded(play(home, "corpus/audio/t3.wav", format="json")).stdout)
    assert catalogued["tracks"][0]["track_id"] == "t3"
    odd = write_wav(tmp_path / "it's (new) = 新, $HOME ${x} & more\\.wav", tone(5, 300))
    new = json.loads(succeeded(play(home, odd, n=4, format="json")).stdout)
    assert new["tracks"][0]["track_id"] is None
    assert new["tracks"][0]["path"] == str(odd)
    assert len(new["tracks"]) == 4


def test_m3u8_by_the_suffix_with_relative_paths(home, tmp_path):
    output = tmp_path / "lists" / "müsik (1).m3u8"
    result = succeeded(play(home, "t0", n=3, output=output, paths="relative"))
    assert result.stdout == ""
    lines = output.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#EXTM3U"
    files = [line for line in lines if not line.startswith("#")]
    assert len(files) == 3
    for line in files:
        assert not Path(line).is_absolute()
        assert (output.parent / line).resolve().is_file()


def test_a_catalogued_seed_never_imports_torch(home):
    program = (
        "import sys; sys.argv = ['playlist', 'seed=t0', 'corpus=corpus', 'run=made']\n"
        "import runpy\n"
        "try: runpy.run_module('tasks.playlist', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], cwd=home, env=ENVIRONMENT, check=True)


def test_an_exported_encoder_serves_the_playlists_tracks_without_torch(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    shared = {"corpus": "corpus", "run": tmp_path / "run", "cwd": home}
    exported = succeeded(task("export", **shared))
    assert exported.stderr.splitlines()[-1].endswith(str(tmp_path / "run/export/encoder.onnx"))
    assert len(exported.stderr.splitlines()) == 1
    succeeded(task("embed", "excerpts=2", **shared))
    with np.load(tmp_path / "run/rank/embeddings.npz") as file:  # all shorter than two excerpts
        np.testing.assert_allclose(
            file["vectors"], np.load(home / "made/rank/embeddings.npz")["vectors"], atol=1e-6
        )
    sound = write_wav(
        tmp_path / "new.wav", np.concatenate([tone(31, hz) for hz in (230, 1800, 230)])
    )
    every = ["n=11", "artist_spacing=1", "duplicate_similarity=1", "format=json"]
    listed = task("playlist", f"seed={sound}", *every, **shared)
    tracks = json.loads(succeeded(listed).stdout)["tracks"][1:]
    encoder = load_encoder(tmp_path / "run/rank/encoder.pt")
    query = embed_file(encoder, sound, excerpt_s=30, excerpts=2)
    assert np.abs(query - embed_file(encoder, sound, excerpt_s=30)).max() > 1e-3
    nearest = np.sort(load_vectors(tmp_path / "run/rank/embeddings.npz").vectors @ query)[::-1]
    expected = [track["similarity"] for track in tracks]
    np.testing.assert_allclose(expected, nearest[:10], atol=1e-5)
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['serve_onnx', {str(tmp_path / 'run')!r}, {str(sound)!r}]\n"
        f"runpy.run_path({str(Path('examples/serve_onnx.py').absolute())!r}, run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    served = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    cosines, ids = zip(*(line.split() for line in served.stdout.splitlines()), strict=True)
    assert list(ids) == [track["track_id"] for track in tracks]
    np.testing.assert_allclose(np.array(cosines, float), expected, atol=2e-4)
    metadata = (tmp_path / "run/export/encoder.onnx").read_bytes()
    assert file_hash(tmp_path / "run/rank/encoder.pt").encode() in metadata


def ids_of(result):
    return [track["track_id"] for track in json.loads(succeeded(result).stdout)["tracks"]]


def test_several_seeds_are_a_list_of_what_one_would_be(home):
    """Titles that Hydra's grammar would refuse, quotes where there is a comma; a path keeps their
    order, weights say which counts more."""
    words = '[Beyoncé (live), 🎵 emoji = joy,"It\'s, well; a comma", t6]'
    every = {"duplicate_similarity": 1, "artist_spacing": 1}
    ids = ids_of(play(home, words, mode="path", n=9, format="json", **every))
    assert len({*ids}) == len(ids) == 9
    assert [name for name in ids if name in ("t1", "t3", "t4", "t6")] == ["t1", "t3", "t4", "t6"]
    assert (ids[0], ids[-1]) == ("t1", "t6")
    both = play(home, "[t0,t1]", n=3, format="json", weights="[1000,1]", **every)
    one = play(home, "t0", n=4, format="json", **every)
    assert ids_of(both)[2] == next(name for name in ids_of(one) if name not in ("t0", "t1"))


@pytest.mark.parametrize(
    ("form", "paths"),
    [
        ("m3u8", "relative"), ("xspf", "absolute"), ("jspf", "url"), ("csv", "relative"),
        ("json", "url"),
    ],
)  # fmt: skip
def test_a_list_is_extended_and_left_out_by_its_file(home, tmp_path, form, paths):
    mine = tmp_path / f"my list, 夜.{form}"
    settings = {"n": 3, "title": "Mine", "duplicate_similarity": 1}
    succeeded(play(home, "t0", output=mine, paths=paths, **settings))
    before = mine.read_bytes()
    first = ids_of(play(home, "t0", format="json", **settings))
    longer = play(home, mine, n=6, format="json", duplicate_similarity=1)
    assert ids_of(longer)[:3] == first and len(ids_of(longer)) == 6
    assert json.loads(longer.stdout)["title"] == (
        "Mine" if form != "csv" else "Like Plain and 2 more"
    )
    others = ids_of(play(home, "t0", exclude=mine, n=4, format="json", duplicate_similarity=1))
    assert {*others} & {*first} == {"t0"}
    # Over itself: read whole, then written whole.
    succeeded(play(home, mine, n=6, output=mine, paths=paths, duplicate_similarity=1))
    assert mine.read_bytes() != before and len({path.name for path in tmp_path.iterdir()}) == 1
    assert ids_of(play(home, mine, n=6, format="json")) == ids_of(longer)


def test_what_was_left_out_is_explained(home, tmp_path):
    (tmp_path / "played").write_text("t2\nt4\ngone\n")
    settings = {
        "n": 14,
        "format": "json",
        "exclude": tmp_path / "played",
        "max_per_artist": 2,
        "duplicate_similarity": 1,
        "negative": "t1",
        "negative_distance": 0.001,
    }
    result = play(home, "t0", "explain=true", **settings)
    listed = ids_of(result)
    lines = result.stderr.splitlines()
    reasons = dict(re.findall(r"left out: .*\((t\d+)\): (\w+)=", result.stderr))
    assert (reasons["t2"], reasons["t4"], reasons["t1"]) == (
        "exclude", "exclude", "negative_distance",
    )  # fmt: skip
    assert sorted([*reasons, *listed]) == sorted(f"t{row}" for row in range(14))
    counts = re.findall(r"playlist: (\d+) nearer tracks left out by (\w+)=", result.stderr)
    counted = {rule: int(number) for number, rule in counts}
    assert counted == {rule: [*reasons.values()].count(rule) for rule in {*reasons.values()}}
    assert lines[-1] == f"playlist: {len(listed)} of the 14 asked for: no more tracks fit"
    assert f"exclude={tmp_path / 'played'}: 1 of 3 tracks are not in the corpus" in result.stderr
    quiet = play(home, "t0", **settings)
    assert ids_of(quiet) == listed and "left out:" not in quiet.stderr


def test_temperature_and_total_length_by_their_settings(home):
    def drawn(*arguments):
        return ids_of(play(home, "t0", "format=json", "duplicate_similarity=1", *arguments))

    assert drawn("temperature=9", "rng_seed=1") == drawn("temperature=9", "rng_seed=1")
    assert drawn("temperature=9", "rng_seed=1") != drawn("temperature=9", "rng_seed=2")
    assert len(drawn("total_duration_s=24")) == 6  # of 4 s each
    assert len(drawn("mode=chain", "lookback=1", "total_duration_s=13")) == 3


def test_a_seed_from_outside_stands_on_a_path(home, tmp_path):
    odd = write_wav(tmp_path / "new, one.wav", tone(5, 300))
    every = {"duplicate_similarity": 1, "artist_spacing": 1}
    ids = ids_of(play(home, f"[t1,'{odd}',t6]", mode="path", n=7, format="json", **every))
    assert (ids[0], ids[3], ids[-1]) == ("t1", None, "t6")


# --- recommendations ----------------------------------------------------------------------------


def suggest(home, *arguments, run="made", **settings):
    return task("recommend", *arguments, cwd=home, corpus="corpus", run=run, **settings)


def test_a_listener_gets_unheard_tracks_with_reasons_and_without_torch(home):
    program = (
        "import sys, runpy\n"
        "sys.argv = ['recommend', 'corpus=corpus', 'run=made', 'user=u0', 'n=4', 'format=json']\n"
        "try: runpy.run_module('tasks.recommend', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=home, env=ENVIRONMENT, capture_output=True, text=True
    )
    tracks = json.loads(succeeded(result).stdout)["tracks"]
    assert "k = 3, as usual" in result.stderr
    plays = pl.read_parquet(home / "corpus/plays.parquet").filter(pl.col("user_id") == "u0")
    own = {*plays["track_id"].to_list()}
    assert len(tracks) == 4 and not {track["track_id"] for track in tracks} & own
    similarity = [track["similarity"] for track in tracks]
    assert similarity == sorted(similarity, reverse=True)
    names = {TITLES[int(track_id[1:])] for track_id in own}
    for track in tracks:
        first = track["why"].removeprefix("like ").split("; ")[0]
        assert first.split(" - ")[-1] in names or "It's, well" in first


def test_a_list_for_a_listener_is_read_back_and_left_out(home, tmp_path):
    mine = tmp_path / "mine.xspf"
    succeeded(suggest(home, user="u1", n=3, output=mine))
    listed = read_playlist(mine).entries
    assert len(listed) == 3 and all(entry.why.startswith("like ") for entry in listed)
    result = suggest(home, user="u1", n=14, exclude=mine, format="json")
    assert not {*ids_of(result)} & {entry.track_id for entry in listed}
    assert "nearer tracks left out by exclude=" in result.stderr
    assert "of the 14 asked for: no more tracks fit" in result.stderr


def test_an_audience_is_csv_of_a_track_and_of_a_file(home, tmp_path):
    result = succeeded(suggest(home, audience="Plain"))
    lines = result.stdout.splitlines()
    plays = pl.read_parquet(home / "corpus/plays.parquet").filter(pl.col("track_id") == "t0")
    played = {*plays["user_id"].to_list()}
    assert lines[0] == "user_id,score"
    ids = {line.split(",")[0] for line in lines[1:]}
    assert ids == {f"u{user}" for user in range(16)} - played
    assert f"{len(played)} listeners who played it already are left out" in result.stderr
    new, output = write_wav(tmp_path / "new, one.wav", tone(5, 300)), tmp_path / "audience.csv"
    succeeded(suggest(home, audience=new, n=5, output=output))
    assert len(output.read_text().splitlines()) == 6


def test_a_listener_who_played_nothing_of_the_fit_gets_what_most_played(home, tmp_path):
    shutil.copytree(home / "corpus", tmp_path / "corpus")
    path = tmp_path / "corpus/plays.parquet"
    more = pl.DataFrame([("new", "t13", 1)], ["user_id", "track_id", "count"], orient="row")
    pl.concat([pl.read_parquet(path), more]).write_parquet(path)
    corpus = tmp_path / "corpus"
    result = succeeded(task("recommend", "user=new", cwd=home, corpus=corpus, run="made"))
    assert "nothing is known of their taste" in result.stderr
    assert result.stdout.startswith("What most listeners played")


def test_factors_made_anew_are_not_mixed_with_an_older_stage(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    shared = {"corpus": "corpus", "run": tmp_path / "run", "cwd": home}
    succeeded(task("factorize", "factors.size=4", "factors.options.regularization=2", **shared))
    refused(suggest(home, user="u0", run=tmp_path / "run"), "two spaces", "python -m tasks.rank")
    for again in ("rank", "evaluate"):
        refused(task(again, **shared), "two spaces", "python -m tasks.regress")


def test_a_filter_marks_what_does_not_sound_like_the_rest_or_leaves_it_out(home, tmp_path):
    mine = tmp_path / "my list.txt"
    mine.write_text("t0\nt2\nt4\nt6\nt8\nt1\ngone\n")
    shared = {"corpus": "corpus", "run": "made", "cwd": home}
    result = succeeded(task("filter", "n=1", "format=csv", list=mine, **shared))
    lines = result.stdout.splitlines()
    assert lines[0].endswith("similarity,why") and len(lines) == 7
    fit = {line.split(",")[0]: float(line.split(",")[-2]) for line in lines[1:]}
    marked = [line.split(",")[0] for line in lines if line.endswith("does not sound like the rest")]
    assert marked == [min(fit, key=fit.get)]
    assert "1 of 7 tracks" in result.stderr and "1 of 6 tracks do not sound" in result.stderr
    kept = task("filter", "n=1", "remove=true", "format=json", list=mine, **shared)
    assert ids_of(kept) == [track_id for track_id in fit if track_id not in marked]
    (tmp_path / "few.txt").write_text("t0\nt1\n")
    refused(task("filter", list=tmp_path / "few.txt", **shared), "2 tracks", "5 or more")
    refused(task("filter", list="t0", **shared), "list=t0", ".m3u8")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ([], ["either user=", "or audience="]),
        (["user=u1", "audience=t0"], ["either user=", "or audience="]),
        (["user=u99"], ["user=u99", "nearest ids: u9"]),
        (["audience=nobody knows"], ["audience=nobody knows", "expected a track id"]),
        (["audience=t0", "format=m3u8"], ["format=m3u8", "CSV"]),
        (["user=u1", "k=0"], ["k=0", "above 0"]),
        (["user=u1", "stage=pretrain"], ["tasks.pretrain"]),
        (["user=u1", "run=empty"], ["tasks.regress"]),
    ],
)
def test_a_wrong_setting_of_recommend_is_named(home, words, messages):
    settings = {"corpus": "corpus", "run": "made"} | dict(word.split("=", 1) for word in words)
    refused(task("recommend", cwd=home, **settings), *messages)


# --- mistakes of the person ---------------------------------------------------------------------


def test_a_seed_that_matches_nothing_or_several(home):
    refused(play(home, "Plian"), "seed=Plian", "nearest titles", "Plain")
    refused(play(home, "same"), "2 tracks have this title", "t9", "t10")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["epoch=3"], ["'epoch' is no setting", "is 'epochs' meant"]),
        (["+epochz=3"], ["'epochz' is no setting", "is 'epochs' meant"]),
        (["~epochs"], ["~epochs: nothing is added or left out: expected epochs=VALUE"]),
        (["epochs=many"], ["epochs=many", "a whole number"]),
        (["epochs=0"], ["epochs=0", "above 0"]),
        (["learning_rate=-1"], ["learning_rate=-1", "above 0"]),
        (["loss=drlim"], ["loss=drlim", "rank has others"]),
        (["margin=1"], ["'margin' is no setting"]),
        (["encoder=spotify2015"], ["encoder=spotify2015", "nips2013, residual, spotify2014"]),
        (["encoder_file=it's gone.pt"], ["encoder_file=it's gone.pt is not there"]),
        (["corpus=nowhere"], ["corpus=nowhere does not exist"]),
        (["corpus=corpus/tracks.parquet"], ["is not a folder"]),
        (["run=corpus/tracks.parquet"], ["tracks.parquet", "is a file"]),
    ],
)
def test_a_wrong_override_is_named(home, words, messages):
    before = contents(home / "made")
    settings = {"corpus": "corpus", "run": "made"}
    settings |= dict(word.split("=", 1) for word in words if word.startswith(("corpus", "run")))
    others = [word for word in words if not word.startswith(("corpus", "run"))]
    result = task("regress", *others, cwd=home, **settings)
    refused(result, *messages)
    assert contents(home / "made") == before


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["loss=mse"], ["loss=mse", "regress has others", "bpr, drlim"]),
        (["within=album"], ["within=album", "both, station, listener"]),
        (["loss=triplet", "within=listener"], ["a triplet has one seed"]),
        (["loss=triplet", "loss.options.mine=easy"], ["mine=easy", "all, semihard, hard"]),
        (["loss=ranknet", "loss.options.flip_rate=0.5"], ["flip_rate=0.5", "below 0.5"]),
        (["evidence.skips=-1"], ["skips=-1", "at least 0"]),
        (["anchor=inf"], ["anchor=inf", "finite"]),
    ],
)
def test_a_wrong_option_of_rank_is_named(home, words, messages):
    before = contents(home / "made")
    refused(task("rank", *words, cwd=home, corpus="corpus", run="made"), *messages)
    assert contents(home / "made") == before


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["format=mp3"], ["format=mp3", "table, m3u8, xspf, jspf, csv, json"]),
        (["output=list.docx"], ["list.docx", "suffix"]),
        (["paths=local"], ["paths=local", "absolute, relative, url"]),
        (["run=empty"], ["python -m tasks.regress corpus=corpus run=empty"]),
        (["seed=[]"], ["seed=[]", "at least one"]),
        (["seed={t0: 1}"], ["seed={'t0': 1}", "seed=[a,b]"]),
        (["seed=t0,t1"], ["seed=t0,t1", "several are typed as seed=[a,b]"]),
        (["seed=[t0,nothing]"], ["seed=nothing", "nearest titles"]),
        (["seed=[t0,t1,t2]", "n=2"], ["n=2", "3 seeds", "n=3"]),
        (["seed=gone.m3u8"], ["seed=gone.m3u8", "a playlist"]),
        (["seed='Round Midnight"], ["seed='Round Midnight", "nearest titles"]),
        (["weights=[1,2]"], ["weights=[1, 2]", "expected 1 numbers above 0"]),
        (["weights=1,2"], ["weights=1,2", "weights=[1,2]"]),
        (["weights=[-1]"], ["negative="]),
        (["negative=nobody"], ["negative=nobody", "nearest titles"]),
        (["negative=t1", "negative_distance=near"], ["negative_distance=near", "a number"]),
        (["mode=walk"], ["mode=walk", "nearest, chain, path"]),
        (["mode=path"], ["mode=path", "two or more seeds", "seed=[a,b]"]),
        (["mode=path", "seed=[t0,t1]", "total_duration_s=60"], ["mode=path", "leave one out"]),
        (["mode=chain", "weights=[1]"], ["weights=", "mode=nearest"]),
        (["lookback=0"], ["lookback=0", "above 0"]),
        (["temperature=-1"], ["temperature=-1", "a number"]),
        (["temperature=warm"], ["temperature=warm", "a number"]),
        (["n=many"], ["n=many", "a whole number"]),
        (["n=2.5"], ["n=2.5", "a whole number"]),
        (["n=0"], ["n=0", "above 0"]),
        (["max_per_artist=one"], ["max_per_artist=one", "a whole number"]),
        (["max_per_album=0"], ["max_per_album=0", "above 0"]),
        (["min_duration_s=long"], ["min_duration_s=long", "a number"]),
        (["min_duration_s=9", "max_duration_s=8"], ["min_duration_s=9", "max_duration_s=8"]),
        (["total_duration_s=1h"], ["total_duration_s=1h", "a number"]),
        (["title_variants=some"], ["title_variants=some", "true or false"]),
        (["exclude=gone.txt"], ["exclude=gone.txt is not there"]),
        (["exclude=corpus/tracks.parquet"], ["tracks.parquet", "none of its"]),
        (["max_artist=2"], ["'max_artist' is no setting", "is 'max_per_artist' meant"]),
    ],
)
def test_a_wrong_playlist_option_is_named(home, arguments, messages):
    settings = {"corpus": "corpus", "run": "made", "seed": "t0"}
    settings |= dict(word.split("=", 1) for word in arguments)
    refused(task("playlist", cwd=home, **settings), *messages)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.xspf", "<playlist", "cannot be read as XSPF"),
        ("cut.jspf", '{"playlist":', "cannot be read as JSPF"),
        ("cut.json", "{}", "neither 'tracks' nor 'playlist'"),
        ("odd.csv", "a,b\n1,2\n", "none of track_id, path and title"),
        ("other.m3u8", "#EXTM3U\nnot here.mp3\n", "none of its 1 tracks"),
        ("empty.txt", "\n", "lists no track"),
        ("song.mp3", "no sound", "song.mp3"),
    ],
)
def test_a_bad_file_of_seeds_is_named(home, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    refused(play(home, tmp_path / name), name, message)


@pytest.mark.parametrize(
    ("word", "messages"),
    [
        (
            "loss=mse",
            [
                "loss=mse",
                "bpr, drlim, infonce, lambdarank, margin, ranknet, triplet, warp",
                "regress has others",
            ],
        ),
        (
            "loss=nothing",
            ["loss=nothing", "bpr, cosine, drlim, infonce"],
        ),
        ("loss.options.margins=1", ["is 'loss.options.margin' meant"]),
        ("loss.options.margin=wide", ["loss.options.margin=wide", "a number"]),
        ("crop_s=0", ["crop_s=0", "above 0"]),
    ],
)
def test_an_option_of_the_other_stage_or_a_wrong_one_is_named(home, word, messages):
    refused(task("rank", word, cwd=home, corpus="corpus", run="made"), *messages)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["factors=40"], ["factors=40", "bpr, concat, sessions, vector_exp, wmf"]),
        (["factors.size=0"], ["factors.size=0", "above 0"]),
        (["factors.options.alpha=0"], ["factors.options.alpha=0", "above 0"]),
        (["regularization=1"], ["is 'factors.options.regularization' meant"]),
        (["factors=bpr", "factors.options.alpha=1"], ["'factors.options.alpha' is no setting"]),
        (["factors=concat", "factors.options.models=[wmf]"], ["two or more of wmf, bpr"]),
        (["factors=concat", "factors.tune=true"], ["concat has nothing to choose"]),
        (["factors=sessions"], ["plays.parquet: no play has a 'time' or a 'session_id'"]),
    ],
)
def test_a_wrong_setting_of_the_factors_is_named(home, words, messages):
    before = contents(home / "made")
    refused(task("factorize", *words, cwd=home, corpus="corpus", run="made"), *messages)
    assert contents(home / "made") == before


def test_a_missing_seed_is_named(home):
    refused(task("playlist", cwd=home, corpus="corpus", run="made"), "seed= is missing")


BAD_TABLES = {
    "missing column": ("plays", lambda t: t.drop("count"), "lacks the column 'count'"),
    "wrong type": ("plays", lambda t: t.with_columns(count=pl.lit("x")), "row 1: 'x'"),
    "negative count": ("plays", lambda t: t.with_columns(count=pl.lit(-1)), "row 1: -1"),
    "thumb of 2": ("thumbs", lambda t: t.with_columns(thumb=pl.lit(2)), "+1 (up) or -1 (down)"),
    "duplicate": ("tracks", lambda t: t.with_columns(track_id=pl.lit("a")), "'a' twice"),
    "empty": ("plays", lambda t: t.clear(), "is empty"),
}


@pytest.mark.parametrize("name", list(BAD_TABLES))
def test_a_bad_table_is_named(home, tmp_path, name):
    table, change, message = BAD_TABLES[name]
    for other, content in make_tables().items():
        content = change(content) if other == table else content
        content.write_parquet(tmp_path / f"{other}.parquet")
    result = task("rank", cwd=tmp_path, corpus=".", run="run")
    refused(result, f"{table}.parquet", message)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name != ".lock"]


def test_a_missing_table_is_named_by_the_task_that_needs_it(tmp_path):
    make_tables()["tracks"].write_parquet(tmp_path / "tracks.parquet")
    result = task("factorize", cwd=tmp_path, corpus=".", run="run")
    refused(result, "has no plays.parquet or plays.csv")


def test_a_corpus_where_no_file_decodes(tmp_path):
    for name, table in make_tables().items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "audio").mkdir()
    for row in range(14):
        (tmp_path / f"audio/t{row}.wav").write_text("no audio")
    refused(task("scan", cwd=tmp_path, corpus=".", run="run"), "none of the 14 audio files")


def test_an_index_made_by_another_encoder(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    path = tmp_path / "run/index/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "encoder": "0" * 32}))
    result = task("playlist", "seed=t0", cwd=home, corpus="corpus", run=tmp_path / "run")
    refused(result, "0" * 32, manifest["encoder"], "python -m tasks.index")


def test_an_encoder_file_of_a_newer_format(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    path = tmp_path / "run/rank/encoder.pt"
    torch.save({**torch.load(path, weights_only=True), "format_version": 9}, path)
    result = task("embed", cwd=home, corpus="corpus", run=tmp_path / "run")
    refused(result, "has format 9, this cbmr reads 1")


def test_a_damaged_vector_file(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    path = tmp_path / "run/rank/embeddings.npz"
    path.write_bytes(path.read_bytes()[:200])
    result = task("playlist", "seed=t0", cwd=home, corpus="corpus", run=tmp_path / "run")
    refused(result, "embeddings.npz", "cut off or damaged")


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many KiB, for as long as the test runs."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: int) -> Path:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk])
        if mounted.returncode:
            pytest.skip("no right to mount a small file system here")
        return disk

    yield mount
    subprocess.run(["umount", disk], check=False)


def test_a_full_disk_loses_no_earlier_list(home, small_disk):
    disk = small_disk(64)
    earlier = disk / "list.json"
    earlier.write_text("earlier")
    (disk / "filler").write_bytes(b"x" * 60_000)
    refused(play(home, "t0", output=earlier), "list.json", "No space left on device")
    assert earlier.read_text() == "earlier"
    assert {path.name for path in disk.iterdir()} == {"list.json", "filler"}


def test_a_full_disk_loses_no_earlier_index(home, small_disk):
    disk = small_disk(4_000)
    shutil.copytree(home / "made", disk / "run", ignore=shutil.ignore_patterns("spectrograms"))
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"x" * free)
    before = contents(disk / "run")
    shared = {"cwd": home, "corpus": "corpus", "run": disk / "run"}
    refused(task("index", **shared), "tracks.ann", "is the disk full?")
    assert contents(disk / "run") == before
    succeeded(task("playlist", "seed=t0", **shared))


@pytest.mark.parametrize(("size", "file"), [(64, "pieces/00000.npy"), (2_500, "last.ckpt")])
def test_a_full_disk_leaves_nothing_half_written(home, small_disk, size, file):
    """Full within the store's first piece, then within the first checkpoint of a training."""
    disk = small_disk(size)
    result = task("regress", "workers=1", "epochs=1", cwd=home, corpus="corpus", run=disk / "run")
    refused(result, file, "is the disk full?")
    assert not list(disk.rglob("*.partial"))
    assert not list(disk.rglob(file))


def test_a_run_folder_that_cannot_be_written(home):
    refused(task("scan", cwd=home, corpus="corpus", run="/proc/cbmr"), "/proc/cbmr")


def test_control_c_ends_a_whole_sweep(home, tmp_path):
    from filelock import FileLock

    (tmp_path / "run/0").mkdir(parents=True)
    lock = FileLock(tmp_path / "run/0/.lock")
    lock.acquire()  # so that the first job is there to be ended
    command = [sys.executable, "-m", "tasks.factorize", "-m", f"corpus={home / 'corpus'}",
               f"run={tmp_path / 'run'}", "factors.size=3,4"]  # fmt: skip
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while "waiting" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    lock.release()
    assert process.returncode == 130
    assert rest == "interrupted; the same command goes on from here\n"
    assert not (tmp_path / "run/1").exists()


def test_a_second_process_waits_and_says_so(home, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    lock = FileLock(tmp_path / "run/.lock")
    lock.acquire()
    command = [sys.executable, "-m", "tasks.factorize", f"corpus={home / 'corpus'}",
               f"run={tmp_path / 'run'}", "factors.size=4"]  # fmt: skip
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert "in use by another process; waiting" in process.stderr.readline()
        assert process.poll() is None
        lock.release()
        process.stderr.read()
    assert process.returncode == 0
    assert (tmp_path / "run/factors.npz").exists()
