"""Hubs: counted by a plain loop, moments against other libraries, and what the correction does."""

import numpy as np
import pytest
from scipy import stats

from cbmr.errors import InputError
from cbmr.factors import unit_rows
from cbmr.files import read_json, write_json
from cbmr.hubs import (
    DEPTH,
    NEAREST,
    crowding_of,
    load_crowding,
    measure_hubs,
    occurrence_skew,
    save_crowding,
)
from cbmr.playlists import Catalogue, make_playlist, make_rules
from cbmr.vectors import Vectors, save_vectors
from tasks import index
from tests.test_playlists import corpus_of
from tests.test_training import run_task


def crowded(tracks=300, size=20, rng_seed=0):
    """Unit vectors around a common centre: the nearer to it, the more lists a track is in."""
    rng = np.random.default_rng(rng_seed)
    return unit_rows(rng.standard_normal((tracks, size)) + 0.7)


def counted(vectors, crowding):
    """N by a plain loop over lists."""
    counts = np.zeros(len(vectors), dtype=int)
    for row in range(len(vectors)):
        scores = vectors @ vectors[row] - crowding / 2
        order = [other for other in np.argsort(-scores) if other != row]
        counts[order[:DEPTH]] += 1
    return counts


@pytest.mark.parametrize("corrected", [False, True])
def test_lists_are_counted_as_a_plain_loop_counts_them(corrected, monkeypatch):
    monkeypatch.setattr("cbmr.hubs.AT_ONCE", 7 * 300)  # blocks of seven
    vectors = crowded()
    crowding = crowding_of(vectors) if corrected else np.zeros(300, dtype=np.float32)
    counts = counted(vectors, crowding)
    hubs = measure_hubs(vectors, corrected=corrected)
    assert hubs.skew == pytest.approx(stats.skew(counts))
    assert hubs.none == np.mean(counts == 0) and hubs.tracks == 300


def test_crowding_is_the_mean_of_the_nearest():
    vectors = crowded()
    cosines = np.sort(vectors @ vectors.T - 2 * np.eye(300), axis=1)
    np.testing.assert_allclose(crowding_of(vectors), cosines[:, -NEAREST:].mean(axis=1), rtol=1e-5)
    three = crowding_of(np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(three, np.zeros(3))
    assert crowding_of(np.ones((1, 1), dtype=np.float32)).tolist() == [0]


def test_the_correction_takes_hubs_away():
    """Of a crowd around a centre, with a skew above 1, less than half is left."""
    vectors = crowded(600)
    before, after = measure_hubs(vectors), measure_hubs(vectors, corrected=True)
    assert before.skew > 1 and after.skew < before.skew / 2
    assert after.none < before.none


def test_skew_by_hand():
    assert occurrence_skew(np.array([0, 0, 0, 4])) == pytest.approx(6 / 3**1.5)
    assert occurrence_skew(np.array([2, 2, 2])) == 0


def test_a_large_catalogue_is_measured_in_part(monkeypatch):
    """Every third track, among themselves."""
    vectors = crowded(901)
    monkeypatch.setattr("cbmr.hubs.MEASURED", 301)
    assert measure_hubs(vectors) == measure_hubs(vectors[::3])
    assert measure_hubs(vectors).tracks == 301


def test_crowding_on_disk(tmp_path):
    """Of another encoder it is none, a track that came since has the mean."""
    ids, vectors = np.array(["a", "b", "c"]), np.eye(3, dtype=np.float32)
    made = Vectors(ids[:2], vectors[:2])
    assert load_crowding(tmp_path, made, "x") is None
    save_crowding(tmp_path, made, np.array([0.2, 0.4], dtype=np.float32), "x")
    found = load_crowding(tmp_path, Vectors(ids[::-1].copy(), vectors), "x")
    np.testing.assert_allclose(found, [0.3, 0.4, 0.2], rtol=1e-6)
    assert load_crowding(tmp_path, made, "y") is None


def test_the_index_says_how_many_hubs_there_are_and_keeps_the_correction(tmp_path, capsys):
    """Asked for, it is there and the manifest has both figures; not asked for, it goes."""
    vectors = crowded()
    made = Vectors(np.array([f"t{row}" for row in range(300)]), vectors)
    save_vectors(tmp_path / "regress/embeddings.npz", made)
    made_of = {"settings": {}, "outputs": {"encoder.pt": "e"}}
    write_json(tmp_path / "regress/manifest.json", made_of)
    run_task(index, tmp_path, tmp_path, "hubs=local_scaling")
    before = measure_hubs(vectors)
    after = measure_hubs(vectors, corrected=True)
    assert f"index: hubs: as they are, {before}; corrected, {after}\n" in capsys.readouterr().err
    kept = read_json(tmp_path / "index/manifest.json")["hubs"]
    assert kept == {"as they are": vars(before), "corrected": vars(after)}
    crowding = load_crowding(tmp_path / "index", made, "e")
    np.testing.assert_array_equal(crowding, crowding_of(vectors))
    run_task(index, tmp_path, tmp_path)
    assert load_crowding(tmp_path / "index", made, "e") is None
    assert [*read_json(tmp_path / "index/manifest.json")["hubs"]] == ["as they are"]
    with pytest.raises(InputError, match="hubs=csls: expected none or local_scaling"):
        run_task(index, tmp_path, tmp_path, "hubs=csls")


class Exact:
    """Nearest tracks by all cosines; how many were asked for at most is kept."""

    def __init__(self, vectors):
        self.vectors, self.most = vectors, 0

    def __len__(self):
        return len(self.vectors)

    def nearest(self, query, n):
        self.most = max(self.most, n)
        cosines = self.vectors @ query
        rows = np.argsort(-cosines, kind="stable")[:n]
        return rows, cosines[rows]


def test_a_playlist_is_in_corrected_order_to_its_last_track():
    """What a part of the index was asked for holds is given only where no other can be before it;
    the similarity that is shown stays the cosine."""
    vectors = crowded(2_000)
    made = Vectors(np.array([f"t{row}" for row in range(2_000)]), vectors)
    catalogue, exact = Catalogue(corpus_of(2_000), made), Exact(vectors)
    crowding = crowding_of(vectors)
    rules = make_rules(artist_spacing=1, title_variants=True, duplicate_similarity=1)
    asked = {"rules": rules, "n": 40}
    listed = make_playlist(catalogue, exact, [catalogue.track(7)], crowding=crowding, **asked)
    cosines = vectors @ vectors[7]
    scores = cosines - crowding / 2
    scores[7] = np.inf
    expected = np.argsort(-scores, kind="stable")[:40]
    assert [entry.track_id for entry in listed.entries] == [f"t{row}" for row in expected]
    similarity = [entry.similarity for entry in listed.entries[1:]]
    np.testing.assert_allclose(similarity, cosines[expected[1:]], rtol=1e-5)
    plain = make_playlist(catalogue, exact, [catalogue.track(7)], **asked)
    assert plain.entries != listed.entries
    drawn = make_playlist(
        catalogue, exact, [catalogue.track(7)], crowding=crowding, temperature=0.01, **asked
    )
    assert len(drawn.entries) == 40
