"""Files are whole or absent; arrays without pickle and without NaN."""

import numpy as np
import pytest

from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_arrays, read_json, whole_file, write_arrays
from cbmr.vectors import Vectors, load_vectors, save_vectors


def test_an_interrupted_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_arrays_come_back_and_are_the_same_bytes_each_time(tmp_path):
    arrays = {"ids": np.array(["é", "夜"]), "values": np.arange(4, dtype=np.float32)}
    write_arrays(tmp_path / "a.npz", **arrays)
    write_arrays(tmp_path / "b.npz", **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    ids, values = read_arrays(tmp_path / "a.npz", "ids", "values")
    assert ids.tolist() == ["é", "夜"]
    np.testing.assert_array_equal(values, arrays["values"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_both_ways(tmp_path, value):
    bad = np.array([0.0, value])
    with pytest.raises(InputError, match="'x' has NaN or infinity in row 1"):
        write_arrays(tmp_path / "a.npz", x=bad)
    np.savez(tmp_path / "b.npz", x=bad)
    with pytest.raises(InputError, match="NaN or infinity in row 1"):
        read_arrays(tmp_path / "b.npz", "x")


def test_pickles_missing_arrays_and_damage_are_refused(tmp_path):
    with pytest.raises(InputError, match="Python objects"):
        write_arrays(tmp_path / "a.npz", x=np.array([object()]))
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read_arrays(tmp_path / "b.npz", "x")
    write_arrays(tmp_path / "c.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"no array 'y' \(it has x\)"):
        read_arrays(tmp_path / "c.npz", "y")
    (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:50])
    with pytest.raises(InputError, match="cut off or damaged"):
        read_arrays(tmp_path / "c.npz", "x")
    (tmp_path / "d.json").write_text('{"a": ')
    with pytest.raises(InputError, match="not JSON"):
        read_json(tmp_path / "d.json")


def test_hashes_tell_content_type_and_shape_apart(tmp_path):
    values = np.arange(4)
    parts = [values, values.astype(np.int32), values.reshape(2, 2), values[::-1], "0123"]
    assert len({content_hash(part) for part in parts}) == 5
    assert content_hash(values, "a") == content_hash(values.copy(), "a")
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    (tmp_path / "b").write_bytes(b"x" * 999_999 + b"y")
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")


def test_vectors_are_unit_unique_and_survive(tmp_path):
    vectors = Vectors(np.array(["a", "b"]), np.eye(2, dtype=np.float32))
    save_vectors(tmp_path / "embeddings.npz", vectors)
    loaded = load_vectors(tmp_path / "embeddings.npz")
    np.testing.assert_array_equal(loaded.vectors, vectors.vectors)
    with pytest.raises(InputError, match=r"'b' has norm 2\.0000, expected 1"):
        Vectors(vectors.track_ids, np.diag([1.0, 2.0]))
    with pytest.raises(InputError, match="repeat"):
        Vectors(np.array(["a", "a"]), vectors.vectors)
