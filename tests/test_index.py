"""The index: both backends against a plain sort, as built and after changes; damage."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

from cbmr.errors import InputError
from cbmr.index import build_index, load_index
from cbmr.vectors import Vectors, load_vectors, save_vectors

TRACKS = 2_000


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def music(rows, size=16, rng_seed=0):
    """Artists of eight tracks each around a common direction, as an encoder leaves them."""
    rng = np.random.default_rng(rng_seed)
    artists = rng.standard_normal((rows // 8 + 1, size))
    return unit(1 + artists[np.arange(rows) // 8] + 0.6 * rng.standard_normal((rows, size)))


def named(rows, vectors):
    return Vectors(np.array([f"t{row}" for row in rows]), vectors)


BUILT = named(range(TRACKS), music(TRACKS))


def changed():
    """100 tracks of `BUILT` are gone, 50 have other vectors, 150 are new, and all are shuffled."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([np.arange(100, TRACKS), np.arange(TRACKS, TRACKS + 150)])
    vectors = np.concatenate([BUILT.vectors[100:], music(150, rng_seed=2)])
    vectors[:50] = music(50, rng_seed=3)
    order = rng.permutation(len(rows))
    return named(rows[order], vectors[order])


@pytest.fixture(scope="module", params=["annoy", "exact"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    build_index(folder, BUILT, encoder_hash="e", backend=request.param)
    return folder


@pytest.fixture(params=["as built", "changed"])
def index(request, folder):
    vectors = BUILT if request.param == "as built" else changed()
    return load_index(folder, vectors, encoder_hash="e")


def sorted_rows(vectors, query, n):
    return sorted(range(len(vectors)), key=lambda row: -float(vectors[row] @ query))[:n]


def queries_of(vectors, rng_seed=4):
    """Between two tracks each, so that none is a track's own."""
    pairs = np.random.default_rng(rng_seed).integers(len(vectors), size=(60, 2))
    return unit(2 * vectors[pairs[:, 0]] + vectors[pairs[:, 1]])


# --- both backends, as built and with changes beside ---------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 64])
def test_the_nearest_are_those_of_a_plain_sort(index, n):
    vectors, found = index.vectors.vectors, 0
    for query in queries_of(vectors):
        rows, cosines = index.nearest(query, n)
        assert len(rows) == len({*rows.tolist()}) == n
        np.testing.assert_allclose(cosines, vectors[rows] @ query, atol=1e-6)
        assert (np.diff(cosines) <= 0).all()
        found += len({*rows.tolist()} & {*sorted_rows(vectors, query, n)})
    assert found >= 0.93 * 60 * n


def test_every_track_is_found_by_its_own_vector(index):
    for row in range(0, len(index), 7):
        rows, cosines = index.nearest(index.vectors.vectors[row], 3)
        assert row == rows[0] and cosines[0] == pytest.approx(1, abs=1e-5)


def test_asking_for_more_than_there_is_gives_all(index):
    rows, _ = index.nearest(index.vectors.vectors[0], 10_000)
    assert sorted(rows.tolist()) == list(range(len(index)))


def test_a_deep_request_misses_nothing(index):
    """Annoy would look at as many candidates as there are tracks."""
    query = queries_of(index.vectors.vectors)[0]
    rows, _ = index.nearest(query, 1_200)
    assert rows.tolist() == sorted_rows(index.vectors.vectors, query, 1_200)


def test_changes_beside_the_index_are_as_a_build_has_them(folder, tmp_path):
    after = changed()
    beside = load_index(folder, after, encoder_hash="e")
    assert beside.changed == 200  # 150 new and 50 other ones
    backend = json.loads((folder / "manifest.json").read_text())["backend"]
    build_index(tmp_path, after, encoder_hash="e", backend=backend)
    rebuilt = load_index(tmp_path, after, encoder_hash="e")
    assert rebuilt.changed == 0
    shared = []
    for query in queries_of(after.vectors):
        ours, theirs = beside.nearest(query, 10)[0], rebuilt.nearest(query, 10)[0]
        shared.append(np.isin(ours, theirs).mean())
    assert np.mean(shared) == 1 if backend == "exact" else np.mean(shared) > 0.9


def test_where_all_the_nearest_are_gone_the_next_ones_come(folder):
    """300 around one track: more than are asked for to make up for a share of 15 %."""
    query = BUILT.vectors[40]
    order = np.argsort(-(BUILT.vectors @ query), kind="stable")
    left = np.sort(order[300:])
    index = load_index(folder, named(left, BUILT.vectors[left]), encoder_hash="e")
    rows, _ = index.nearest(query, 10)
    assert np.isin(left[rows], order[300:312]).sum() >= 9
    assert index.changed == 300


def test_a_build_pays_once_what_is_beside_takes_as_long(tmp_path):
    """Where Annoy takes a tenth of exact search's time, a tenth of the tracks do as well."""
    build_index(tmp_path, BUILT, encoder_hash="e")
    edit(tmp_path, annoy_ms=0.1, exact_ms=1.0)
    more = np.concatenate([BUILT.vectors, music(201, rng_seed=5)])
    slow = [
        load_index(tmp_path, named(range(rows), more[:rows]), encoder_hash="e").slow
        for rows in (TRACKS, TRACKS + 200, TRACKS + 201)
    ]
    assert slow == [False, False, True]


# --- building ------------------------------------------------------------------------------------


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_build_repeats_to_the_byte(tmp_path):
    built = [build_index(tmp_path / name, BUILT, encoder_hash="e") for name in "ab"]
    first, second = ((tmp_path / name / "tracks.ann").read_bytes() for name in "ab")
    assert first == second
    assert built[0].recall == built[1].recall and built[0].search_k == built[1].search_k


@pytest.mark.parametrize("asked", [0.5, 0.95, 1.0])
def test_annoy_reaches_the_recall_asked_for_and_the_manifest_says_how(tmp_path, asked):
    """The file is opened as another program would, with the manifest alone, for other queries."""
    build_index(tmp_path, BUILT, encoder_hash="e", recall=asked)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["recall@10"] >= asked
    annoy = AnnoyIndex(manifest["dimension"], manifest["metric"])
    annoy.load(str(tmp_path / "tracks.ann"))
    assert annoy.get_n_trees() == manifest["trees"]
    shared = []
    for query in queries_of(BUILT.vectors):
        found = annoy.get_nns_by_vector(query, 10, manifest["search_k"])
        shared.append(np.isin(found, sorted_rows(BUILT.vectors, query, 10)).mean())
    assert np.mean(shared) >= asked - 0.05
    if asked == 0.5:
        assert np.mean(shared) < 0.95  # no more is done than was asked for


def test_the_backend_is_the_one_asked_for_or_the_faster_one(tmp_path):
    for backend in ("annoy", "exact"):
        assert build_index(tmp_path, BUILT, encoder_hash="e", backend=backend).backend == backend
    few = named(range(40), BUILT.vectors[:40])
    built = build_index(tmp_path, few, encoder_hash="e")
    assert built.backend == ("annoy" if built.exact_ms > 1.5 * built.annoy_ms else "exact")


class OneNeighbour:
    """As Annoy does on some platforms (its issue 682)."""

    def __init__(self, *arguments):
        self.whole = AnnoyIndex(*arguments)

    def __getattr__(self, name):
        return getattr(self.whole, name)

    def get_nns_by_vector(self, query, n, search_k):
        return self.whole.get_nns_by_vector(query, n, search_k)[:1]


def test_a_recall_out_of_reach_is_told_and_exact_search_answers(tmp_path, monkeypatch):
    monkeypatch.setattr("cbmr.index.AnnoyIndex", OneNeighbour)
    few = named(range(300), BUILT.vectors[:300])
    built = build_index(tmp_path, few, encoder_hash="e")
    assert built.recall == pytest.approx(0.1)
    assert built.backend == "exact"
    query = queries_of(few.vectors)[0]
    rows, _ = load_index(tmp_path, few, encoder_hash="e").nearest(query, 10)
    assert rows.tolist() == sorted_rows(few.vectors, query, 10)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_catalogue_of_hardly_any_tracks(tmp_path, rows):
    few = named(range(rows), unit([[1, 0], [-1, 0], [0, 1]])[:rows])
    for backend in ("annoy", "exact"):
        build_index(tmp_path, few, encoder_hash="e", backend=backend)
        index = load_index(tmp_path, few, encoder_hash="e")
        expected = {1: [0], 2: [0, 1], 3: [0, 2, 1]}[rows]
        assert index.nearest(few.vectors[0], 5)[0].tolist() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "faiss"}, "backend=faiss: expected annoy or exact"),
        ({"recall": 95}, "recall=95: expected a number above 0, at most 1"),
        ({"recall": 0}, "recall=0: expected"),
    ],
)
def test_settings_without_a_meaning(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        build_index(tmp_path, BUILT, encoder_hash="e", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_build_that_is_stopped_leaves_no_pair_that_disagrees(tmp_path, monkeypatch, renamed):
    """Stopped before the first of the two files has its name, and between them."""
    build_index(tmp_path, BUILT, encoder_hash="e")
    replace, done = Path.replace, []

    def stop(path, target):
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path, changed(), encoder_hash="e")
    assert {path.name for path in tmp_path.iterdir()} == {"tracks.ann"}  # a list makes it anew


# --- what is not as it was written ---------------------------------------------------------------


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "format_version is 2, its manifest says 1: another release"),
        ({"dimension": 15}, "dimension is 16, its manifest says 15: it was made for other vectors"),
        ({"metric": "dot"}, "metric is angular, its manifest says dot"),
        ({"encoder": "other"}, "encoder is e, its manifest says other: the stage has been trained"),
    ],
)
def test_a_mismatch_prints_both_values(copy, change, message):
    edit(copy, **change)
    with pytest.raises(InputError, match=message) as error:
        load_index(copy, BUILT, encoder_hash="e")
    assert "python -m tasks.index" in str(error.value)


def test_an_index_of_another_encoder_or_size(folder):
    with pytest.raises(InputError, match="encoder is f, its manifest says e"):
        load_index(folder, BUILT, encoder_hash="f")
    with pytest.raises(InputError, match="dimension is 8, its manifest says 16"):
        load_index(folder, named(range(9), music(9, size=8)), encoder_hash="e")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:-4] + b"\0\0\xc0\x7f"]
)
def test_a_file_that_is_cut_off_or_has_nan(copy, damage):
    path = copy / "tracks.ann"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        InputError, match=r"file is \w+, its manifest says \w+: tracks.ann was cut off"
    ):
        load_index(copy, BUILT, encoder_hash="e")


def test_a_manifest_that_is_cut_off(copy):
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is not JSON .* cut off or edited"):
        load_index(copy, BUILT, encoder_hash="e")


def test_vectors_with_nan_are_refused_at_every_door(tmp_path):
    vectors = BUILT.vectors.copy()
    vectors[7, 3] = np.nan
    with pytest.raises(InputError, match="'t7' has norm nan, expected 1"):
        named(range(TRACKS), vectors)
    save_vectors(tmp_path / "embeddings.npz", BUILT)
    np.savez(tmp_path / "embeddings.npz", track_ids=BUILT.track_ids, vectors=vectors)
    with pytest.raises(InputError, match="array 'vectors' has NaN or infinity in row 7"):
        load_vectors(tmp_path / "embeddings.npz")
