"""The baselines' features against plain loops, and what they learn on a small made-up store."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from cbmr.corpus import make_corpus
from cbmr.evaluation.baselines import (
    frame_features,
    learn_words,
    mel_statistics,
    ridge_vectors,
    word_shares,
    word_vectors,
)
from cbmr.factors import unit_rows
from cbmr.logmel import MelSpec

MELS, FRAMES = 16, 40


@dataclass
class MadeUpStore:
    """What the baselines read of a store."""

    track_ids: np.ndarray
    logmel: np.ndarray
    frames: np.ndarray
    mel_spec: MelSpec
    mels: int = MELS

    def __len__(self):
        return len(self.track_ids)

    def __getitem__(self, rows):
        return self.logmel[rows].astype(np.float16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """60 tracks of three timbres and their targets, the last 15 held out and the last not heard.
    The padding after the real frames is loud, so that reading it would be seen."""
    rng = np.random.default_rng(0)
    timbre = np.arange(60) % 3
    spectra = rng.random((3, MELS)) * 4
    logmel = spectra[timbre][:, :, None] + 0.3 * rng.standard_normal((60, MELS, FRAMES))
    frames = rng.integers(20, FRAMES, 60)
    for row, length in enumerate(frames):
        logmel[row, :, length:] = 100
    targets = unit_rows(rng.standard_normal((3, 4)))[timbre]
    ids = [f"t{row:02d}" for row in range(60)]
    corpus = make_corpus(
        tmp_path_factory.mktemp("corpus"), pl.DataFrame({"track_id": ids, "path": ["x"] * 60})
    )
    store = MadeUpStore(np.array(ids[:-1]), logmel[:-1], frames[:-1], MelSpec(mels=MELS))
    return corpus, store, targets


def test_frame_features_are_cosine_sums_and_differences():
    logmel = np.random.default_rng(0).random((MELS, 7))
    found = frame_features(logmel)
    mfcc = np.zeros((7, 13))
    for frame in range(7):
        for k in range(13):
            angles = np.pi * k * (2 * np.arange(MELS) + 1) / (2 * MELS)
            scale = np.sqrt((1 if k == 0 else 2) / MELS)
            mfcc[frame, k] = scale * sum(logmel[:, frame] * np.cos(angles))

    def difference(values):
        ends = [values[1] - values[0], values[-1] - values[-2]]
        middle = [(values[t + 1] - values[t - 1]) / 2 for t in range(1, len(values) - 1)]
        return np.stack([ends[0], *middle, ends[1]])

    first = difference(mfcc)
    expected = np.concatenate([mfcc, first, difference(first)], axis=1)
    assert found.shape == (7, 39)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_every_frame_counts_for_its_nearest_word(made):
    _, store, _ = made
    learned = learn_words(store, np.arange(45), words=8, rng_seed=0)
    shares = word_shares(store, learned)
    scale, centres = learned[0], learned[-1].cluster_centers_
    for row in (0, 1, 50):
        real = store[np.array([row])][0, :, : store.frames[row]].astype(np.float32)
        counts = np.zeros(8)
        for frame in (frame_features(real) - scale.mean_) / scale.scale_:
            counts[np.argmin(((frame - centres) ** 2).sum(axis=1))] += 1
        np.testing.assert_allclose(shares[row], counts / store.frames[row])
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_all_baselines_learn_what_is_there_to_hear_and_repeat(made):
    corpus, store, targets = made
    train = np.arange(45)

    def words():
        return word_vectors(
            corpus, store, train, targets[train], words=12, hidden=20, rng_seed=0, report=print
        )

    by_mels = ridge_vectors(corpus, store, mel_statistics(store), train, targets[train])
    rows = {"ridge": by_mels, **words()}
    assert list(rows) == ["ridge", "MFCC words, linear", "MFCC words, MLP"]
    for name, vectors in rows.items():
        assert vectors.shape == (60, 4)
        assert not vectors[59].any(), name  # not heard
        cosine = (vectors[45:59] * targets[45:59]).sum(axis=1)
        assert cosine.mean() > 0.8, name
    for name, vectors in words().items():
        np.testing.assert_array_equal(vectors, rows[name])


def test_held_out_tracks_do_not_move_the_baselines(made):
    corpus, store, targets = made
    train = np.arange(45)
    other = MadeUpStore(**{**vars(store), "logmel": store.logmel.copy()})
    other.logmel[50] += 3
    settings = {"words": 12, "hidden": 20, "rng_seed": 0}
    before = word_vectors(corpus, store, train, targets[train], **settings)
    after = word_vectors(corpus, other, train, targets[train], **settings)
    for name, vectors in before.items():
        same = np.arange(60) != 50
        np.testing.assert_array_equal(after[name][same], vectors[same])
        assert (after[name][50] != vectors[50]).any()


def test_an_unfinished_network_is_said_in_one_line_and_no_warning(made, monkeypatch):
    corpus, store, targets = made
    monkeypatch.setattr("cbmr.evaluation.baselines.MLP_EPOCHS", 2)
    said = []
    settings = {"words": 500_000, "hidden": 4, "rng_seed": 0, "report": said.append}
    few = np.arange(3)  # and fewer frames than words
    word_vectors(corpus, store, few, targets[few], **settings)
    assert said == ["MFCC words, MLP: still gaining when stopped after 2 epochs"]
