"""What the benchmark of keys asks of layers, on layers whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.harmony import HOME, SEMITONES, by_style, key_told, likeness


@pytest.fixture
def pieces():
    """Twenty pieces of ten artists, of two styles, in all keys."""
    rng = np.random.default_rng(0)
    return [
        SimpleNamespace(
            artist_number=row // 2, style="ab"[row % 2], music=SimpleNamespace(key=int(key))
        )
        for row, key in enumerate(rng.integers(12, size=20))
    ]


def keys(pieces):
    """[pieces, semitones]"""
    return np.array([[(p.music.key + s) % 12 for s in SEMITONES] for p in pieces])


def test_a_layer_that_hears_timbre_alone_is_unmoved_and_tells_no_key(pieces):
    rng = np.random.default_rng(0)
    timbre = rng.standard_normal((20, 1, 8)) + 1e-9 * rng.standard_normal((20, 13, 8))
    np.testing.assert_allclose(likeness(timbre), 1, atol=1e-6)
    assert key_told(timbre, pieces).mean() < 0.2


def test_a_layer_that_hears_keys_alone_tells_them_and_knows_a_piece_by_its_key_only(pieces):
    """One unit a key, so that a transposed piece has nothing in common with itself at home; twelve
    semitones apart, at -6 and 6, both are in the same key."""
    heard = np.eye(12)[keys(pieces)] + 1e-3 * np.random.default_rng(0).standard_normal((20, 13, 12))
    alike = likeness(heard).mean(axis=0)
    assert alike[HOME] == pytest.approx(1)
    assert np.abs(np.delete(alike, HOME)).max() < 0.3
    assert alike[0] == pytest.approx(alike[-1], abs=0.05)
    assert (key_told(heard, pieces) == 1).all()


def test_an_output_that_follows_keys_leaves_its_style_and_comes_to_the_keys(pieces):
    """Styles a and b point up and down, with the keys 0 and 7. An output that points up in key 0,
    down in 7 and aside in all others is nearer to b by 1 for a piece of a that comes into 7 than in
    any other key; one that hears the style alone stays where it is."""
    styles, key_of = {"a": np.array([0, 1.0]), "b": np.array([0, -1.0])}, {"a": 0, "b": 7}
    for piece in pieces:
        piece.music.key = key_of[piece.style]
    heard = keys(pieces)
    follows = np.where(
        (heard == 0)[..., None], [0, 1.0], np.where((heard == 7)[..., None], [0, -1.0], [1.0, 0])
    )
    left, came = by_style(follows, pieces, styles, key_of)
    # Of the eleven keys away from home, the other style's is one, where the cosine falls by 2.
    np.testing.assert_allclose(left, -(10 * 1 + 2) / 11)
    np.testing.assert_allclose(came, 1)
    stays = np.where(np.array([p.style == "a" for p in pieces])[:, None, None], [0, 1.0], [0, -1.0])
    left, came = by_style(np.broadcast_to(stays, (20, 13, 2)), pieces, styles, key_of)
    np.testing.assert_allclose([left, came], 0, atol=1e-12)
