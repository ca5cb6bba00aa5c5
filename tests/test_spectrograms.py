"""The store: what is in it, what is skipped, what is decoded again and why.

What a scan has to survive is in `test_faults.py`.
"""

import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cbmr.errors import InputError
from cbmr.logmel import MelSpec, logmel
from cbmr.spectrograms import (
    SpectrogramStore,
    band_scale,
    build_store,
    read_logmels,
    store_frames,
)
from cbmr.spectrograms import store_folder as folder_of
from cbmr.spectrograms.decoding import Decoded
from tests.conftest import tone, write_wav

SPEC = MelSpec(sample_rate=8_000, n_fft=512, hop=256, mels=16)
EXCERPT_S = 4.0


def build(folder, paths, **changed):
    settings = {"spec": SPEC, "excerpt_s": EXCERPT_S, "workers": 2, "piece_rows": 3, **changed}
    return build_store(folder, [path.stem for path in paths], paths, **settings)


def assert_same(folder, other):
    """The same tracks, the same reasons, the same numbers, however they are divided into pieces."""
    one, two = SpectrogramStore(folder), SpectrogramStore(other)
    assert (folder / "catalogue.json").read_bytes() == (other / "catalogue.json").read_bytes()
    assert one.fingerprint == two.fingerprint
    rows = np.arange(len(one))
    for ours, theirs in zip(one.excerpts(rows), two.excerpts(rows), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    lengths = [4.0, 6.0, 3.2, 5.0, 4.5, 4.0, 4.0]
    return [
        write_wav(folder / f"t{row}.wav", tone(seconds, 200 * (row + 1), 8_000, row), 8_000)
        for row, seconds in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def store_folder(audio, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    assert build(folder, audio).decoded == 7
    return folder


def test_a_row_is_the_log_mel_of_the_middle(audio, store_folder):
    store = SpectrogramStore(store_folder)
    assert store.track_ids.tolist() == [f"t{row}" for row in range(7)]
    samples = tone(6.0, 400, 8_000, 1)
    middle = torch.tensor(samples[8_000:40_000]).float()[None]
    expected = logmel(middle, SPEC)[0].numpy()
    row = store[np.array([1])][0]
    assert row.dtype == np.float16
    assert row.shape == (16, store_frames(SPEC, EXCERPT_S))
    np.testing.assert_allclose(row, expected, atol=0.02)


def test_a_shorter_clip_is_padded_and_its_length_kept(store_folder):
    store = SpectrogramStore(store_folder)
    assert store.frames[2] == SPEC.frames(int(3.2 * 8_000)) < store.frames[0]
    row = store[np.array([2])][0]
    assert not row[:, store.frames[2] :].any()
    assert row[:, : store.frames[2]].all()


def test_rows_come_in_the_order_asked_across_pieces(store_folder):
    store = SpectrogramStore(store_folder)
    assert len(list((store_folder / "pieces").glob("*.npy"))) == 3
    one_by_one = np.stack([store[np.array([row])][0] for row in (6, 0, 4)])
    np.testing.assert_array_equal(store[np.array([6, 0, 4])], one_by_one)


def test_a_second_scan_decodes_nothing_and_changes_nothing(audio, store_folder):
    before = {path: path.read_bytes() for path in store_folder.rglob("*") if path.is_file()}
    assert build(store_folder, audio).decoded == 0
    assert {p: p.read_bytes() for p in store_folder.rglob("*") if p.is_file()} == before


def test_workers_do_not_change_the_store(audio, store_folder, tmp_path):
    build(tmp_path, audio, workers=1)
    assert_same(tmp_path, store_folder)


def test_only_new_and_changed_files_are_decoded(audio, tmp_path):
    paths = [write_wav(tmp_path / path.name, tone(4, 300 + row, 8_000, row), 8_000)
             for row, path in enumerate(audio)]  # fmt: skip
    build(tmp_path / "store", paths[:5])
    before = SpectrogramStore(tmp_path / "store")[np.arange(5)]
    write_wav(paths[1], tone(4, 3_000, 8_000), 8_000)
    os.utime(paths[1], ns=(1, 1))
    assert build(tmp_path / "store", paths).decoded == 3
    after = SpectrogramStore(tmp_path / "store")
    assert len(after) == 7
    kept = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(after[kept], before[kept])
    assert not np.array_equal(after[np.array([1])], before[[1]])


def test_bad_files_are_skipped_and_listed(audio, tmp_path):
    short = write_wav(tmp_path / "short.wav", tone(2.5, 300), 22_050)
    silent = write_wav(tmp_path / "silent.wav", np.zeros(40_000), 8_000)
    text = tmp_path / "text.mp3"
    text.write_text("not music")
    gone = tmp_path / "gone.wav"
    scan = build(tmp_path / "store", [short, silent, text, gone, audio[0]])
    assert scan.readable == 1
    assert set(scan.skipped) == {"short", "silent", "text", "gone"}
    assert "2.5 s long, expected at least 3 s" in scan.skipped["short"]
    assert "is silent" in scan.skipped["silent"]
    assert "No such file" in scan.skipped["gone"]
    assert SpectrogramStore(tmp_path / "store").skipped == scan.skipped


def test_a_corpus_without_a_readable_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="none of the 2 audio files can be read"):
        build(tmp_path / "store", [tmp_path / "a.wav", tmp_path / "b.wav"])


def test_equal_files_are_decoded_once(audio, tmp_path):
    copies = [tmp_path / f"copy{number}.wav" for number in range(3)]
    for copy in copies:
        copy.write_bytes(audio[0].read_bytes())
    scan = build(tmp_path / "store", [audio[0], audio[1], *copies])
    assert (scan.decoded, scan.known) == (2, 3)
    store = SpectrogramStore(tmp_path / "store")
    for copy in (2, 3, 4):
        np.testing.assert_array_equal(store[np.array([0])], store[np.array([copy])])
    assert sum(len(np.load(path)) for path in tmp_path.rglob("*.npy")) == 2


def test_moved_and_touched_files_are_not_decoded_again(audio, tmp_path):
    """Nor one that moved and cannot be read; what was deleted is left out."""
    paths = [tmp_path / path.name for path in audio[:4]]
    for path, source in zip(paths, audio, strict=False):
        path.write_bytes(source.read_bytes())
    bad = tmp_path / "bad.wav"
    bad.write_text("not music")
    build(tmp_path / "store", [*paths, bad])
    os.utime(paths[0], ns=(1, 1))
    paths[1] = paths[1].rename(tmp_path / "moved.wav")
    bad = bad.rename(tmp_path / "worse.wav")
    paths.pop(3).unlink()
    scan = build(tmp_path / "store", [*paths, bad])
    assert (scan.decoded, scan.known, scan.readable) == (0, 3, 3)
    assert list(scan.skipped) == ["worse"]
    build(tmp_path / "peace", [*paths, bad])
    assert_same(tmp_path / "store", tmp_path / "peace")
    scan = build(tmp_path / "store", [*paths, bad])
    assert (scan.decoded, scan.known) == (0, 0)


def test_several_excerpts_of_a_track_stand_together(tmp_path):
    """Of 14 s three of 4 s, of 9 s two; a part that is silent is left out, and so is a file that is
    nothing else."""
    long, short = tone(14, 300, 8_000), tone(3.2, 500, 8_000)
    half = np.concatenate([np.zeros(36_000), tone(4.5, 700, 8_000)])
    sounds = {"half": half, "long": long, "short": short, "silent": np.zeros(80_000)}
    paths = [write_wav(tmp_path / f"{name}.wav", x, 8_000) for name, x in sounds.items()]
    copy = tmp_path / "copy.wav"
    copy.write_bytes(paths[1].read_bytes())
    scan = build(tmp_path / "store", [*paths, copy], excerpts=3)
    assert (scan.readable, list(scan.skipped)) == (4, ["silent"])
    store = SpectrogramStore(tmp_path / "store")
    assert store.track_ids.tolist() == ["half", "long", "short", "copy"]

    logmels, frames, of = store.excerpts(np.array([2, 1, 0]))
    assert of.tolist() == [0, 1, 1, 1, 2]
    assert frames.tolist() == [store.frames[2]] + 4 * [SPEC.frames(32_000)]
    starts_s = (14 / 6 - 2, 14 / 2 - 2, 14 * 5 / 6 - 2)
    expected = [long[round(8_000 * s) : round(8_000 * s) + 32_000] for s in starts_s]
    expected += [half[round(8_000 * 4.75) : round(8_000 * 8.75)]]
    for read, samples in zip(logmels[1:], expected, strict=True):
        clip = torch.tensor(samples).float()[None]
        np.testing.assert_allclose(read, logmel(clip, SPEC)[0].numpy(), atol=0.02)
    np.testing.assert_array_equal(store[np.array([1, 2])], logmels[[1, 0]])
    np.testing.assert_array_equal(store.excerpts(np.array([3]))[0], logmels[1:4])
    assert build(tmp_path / "store", [*paths, copy], excerpts=3).decoded == 0


def test_each_plan_of_excerpts_has_a_store_of_its_own():
    names = {folder_of(Path(), SPEC, 30, excerpts).name for excerpts in (1, 2, 3)}
    assert len(names) == 3
    assert folder_of(Path(), SPEC, 30).name.endswith("-middle30s")


def test_a_store_of_another_format_is_explained(store_folder, tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 7}')
    with pytest.raises(InputError, match="has format 7, this cbmr reads 1"):
        SpectrogramStore(tmp_path)


# --- damage, power and upgrades -----------------------------------------------------------------


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["a bit of the array", "a bit of the names", "cut", "gone"])
def test_a_damaged_piece_is_found_and_it_alone_is_decoded_anew(
    store_folder, audio, tmp_path, damage
):
    """A wrong bit is found when the piece is first read, a wrong length when it is next scanned."""
    shutil.copytree(store_folder, tmp_path / "store")
    array = tmp_path / "store/pieces/00001.npy"
    found = []
    if damage == "cut":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "gone":
        array.with_suffix(".json").write_text("{")
    else:
        path = array if damage == "a bit of the array" else array.with_suffix(".json")
        flip(path, -100 if path == array else path.read_bytes().index(b"frames") + 10)
        store = SpectrogramStore(tmp_path / "store")
        with pytest.raises(InputError, match=r"00001\.npy is damaged .*set aside: scan again"):
            store[np.arange(7)]
        with pytest.raises(InputError, match="3 tracks have no log-mel any more"):
            SpectrogramStore(tmp_path / "store")
    assert build(tmp_path / "store", audio, say=found.append).decoded == 3
    assert len(found) == 1
    assert "00001" in found[0]
    assert "decoded anew" in found[0]
    assert_same(tmp_path / "store", store_folder)
    assert build(tmp_path / "store", audio, say=found.append).decoded == 0
    assert len(found) == 1


def test_a_piece_is_on_the_disk_before_it_counts(audio, tmp_path, monkeypatch):
    """A power cut takes what was not flushed: first the array and its name, then the JSON and its
    name."""
    calls = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle):
        calls.append(("flush", Path(f"/proc/self/fd/{handle}").readlink().name))
        real_sync(handle)

    def replace(path, target):
        calls.append(("rename", Path(target).name))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    build(tmp_path / "store", audio[:1])
    expected = []
    for name, folder in [
        ("manifest.json", "store"), ("00000.npy", "pieces"), ("00000.json", "pieces"),
        ("catalogue.json", "store"),
    ]:  # fmt: skip
        expected += [("flush", f".{name}.partial"), ("rename", name), ("flush", folder)]
    assert calls == expected


def test_a_piece_in_hand_is_written_when_it_is_old(audio, tmp_path, monkeypatch):
    monkeypatch.setattr("cbmr.spectrograms.build.PIECE_S", 0.0)
    build(tmp_path, audio, piece_rows=1_000)
    assert len(list(tmp_path.glob("pieces/*.npy"))) == 7


def test_pieces_of_the_first_cbmr_are_read_as_they_are(store_folder, audio, tmp_path):
    """They have no checksum, and their manifest no version of the decoding."""
    shutil.copytree(store_folder, tmp_path / "store")
    for path in (tmp_path / "store").glob("pieces/*.json"):
        path.write_text(json.dumps({"files": json.loads(path.read_text())["files"]}))
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    del manifest["decoding"]
    (tmp_path / "store/manifest.json").write_text(json.dumps(manifest))
    before = SpectrogramStore(tmp_path / "store")
    said = []
    assert build(tmp_path / "store", audio, say=said.append).decoded == 0
    assert said == []
    after = SpectrogramStore(tmp_path / "store")
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after[np.arange(7)], SpectrogramStore(store_folder)[np.arange(7)])


def test_another_decoder_tries_only_what_could_not_be_read(audio, tmp_path, monkeypatch):
    bad = tmp_path / "bad.wav"
    bad.write_text("not music")
    build(tmp_path / "store", [*audio[:2], bad])
    monkeypatch.setattr("cbmr.spectrograms.build.DECODER", "PyAV 99")
    said = []
    assert build(tmp_path / "store", [*audio[:2], bad], say=said.append).decoded == 1
    assert said == ["1 files that another decoder could not read are tried again by PyAV 99"]
    assert build(tmp_path / "store", [*audio[:2], bad], say=said.append).decoded == 0
    assert len(said) == 1


def test_other_log_mels_are_all_made_anew_and_the_reason_is_said(audio, tmp_path, monkeypatch):
    build(tmp_path, audio[:4])
    before = SpectrogramStore(tmp_path).fingerprint
    for room in ("store", "build"):
        monkeypatch.setattr(f"cbmr.spectrograms.{room}.DECODING_VERSION", 2)
    with pytest.raises(InputError, match="holds log-mels of an earlier cbmr: scan again"):
        SpectrogramStore(tmp_path)
    said = []
    assert build(tmp_path, audio[:4], say=said.append).decoded == 4
    assert len(said) == 1
    assert "this cbmr makes version 2: all files are decoded anew" in said[0]
    assert SpectrogramStore(tmp_path).fingerprint != before
    assert build(tmp_path, audio[:4], say=said.append).decoded == 0


def test_a_file_that_could_not_be_opened_is_tried_again(audio, tmp_path, monkeypatch):
    """A network disk that was away leaves a file's path, size and time as they were."""
    from cbmr.spectrograms import build as room

    real = room.decode_all

    def away(paths, *plan, **settings):
        for place, result in real(paths, *plan, **settings):
            yield place, Decoded(reason="I/O error") if paths[place] == audio[0] else result

    monkeypatch.setattr(room, "decode_all", away)
    first = build(tmp_path, audio)
    assert list(first.skipped.values()) == [f"{audio[0]}: I/O error"]
    monkeypatch.setattr(room, "decode_all", real)
    again = build(tmp_path, audio)
    assert (again.decoded, again.skipped) == (1, {})


# --- scaling ------------------------------------------------------------------------------------


class Held:
    """A store of log-mels in memory `[rows, mels, frames]`."""

    mel_spec = SPEC

    def __init__(self, logmels):
        self.logmels, self.mels = logmels, logmels.shape[1]
        self.frames = np.full(len(logmels), logmels.shape[2])

    def __getitem__(self, rows):
        return self.logmels[rows]


def test_a_band_is_scaled_by_half_of_the_median_deviation_at_least():
    """Three bands of two frames, 0 and 2, 0 and 4, 1 and 1.02: means 1, 2, 1.01; deviations 1, 2
    and .01, whose median is 1: the last becomes a half. What is no sound stays as it is."""
    store = Held(np.array([[[0, 2], [0, 4], [1, 1.02]]]))
    mean, spread = band_scale(store, np.array([0]))
    np.testing.assert_allclose(mean, [1, 2, 1.01])
    np.testing.assert_allclose(spread, [1, 2, 0.5])
    store.mel_spec = None
    np.testing.assert_allclose(band_scale(store, np.array([0]))[1], [1, 2, 0.01], rtol=1e-5)


def test_the_same_music_from_another_codec_stays_near(tmp_path):
    """An MP3 of 32 kbit/s has its highest bands empty, one of 160 has not. Scaled by their own
    deviation the second is hundreds of deviations off there; scaled as trained it is not."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -1, 16), 22_050 // 4)
    hiss = (loudness * rng.standard_normal(len(loudness))).astype(np.float32)
    logmels = []
    for kilobits in (32, 160):
        with av.open(tmp_path / f"{kilobits}.mp3", "w") as container:
            stream = container.add_stream("libmp3lame", rate=22_050)
            stream.layout, stream.bit_rate = "mono", 1_000 * kilobits
            frame = av.AudioFrame.from_ndarray(hiss[None], format="fltp", layout="mono")
            frame.sample_rate = 22_050
            container.mux([*stream.encode(frame), *stream.encode(None)])
        read, _ = read_logmels(tmp_path / f"{kilobits}.mp3", MelSpec(), 3.0, 1)
        logmels.append(read.astype(np.float64))
    mean, spread = (array.numpy()[:, None] for array in band_scale(Held(logmels[0]), np.array([0])))
    own = logmels[0].std(axis=2).T
    off = np.abs(logmels[1][0] - mean)
    assert (off / own).max() > 100
    assert (off / spread).max() < 10
