"""The store: what is in it, what is skipped, and what survives an interruption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cbmr.errors import InputError
from cbmr.logmel import MelSpec, logmel
from cbmr.spectrograms import SpectrogramStore, build_store, store_frames
from cbmr.spectrograms import store_folder as folder_of
from tests.conftest import tone, write_wav

SPEC = MelSpec(sample_rate=8_000, n_fft=512, hop=256, mels=16)
EXCERPT_S = 4.0


def build(folder, paths, **changed):
    settings = {"spec": SPEC, "excerpt_s": EXCERPT_S, "workers": 2, "piece_rows": 3, **changed}
    return build_store(folder, [path.stem for path in paths], paths, **settings)


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
    for path in store_folder.rglob("*.npy"):
        same = tmp_path / path.relative_to(store_folder)
        assert same.read_bytes() == path.read_bytes()


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


def test_equal_files_share_a_row(audio, tmp_path):
    copy = tmp_path / "copy.wav"
    copy.write_bytes(audio[0].read_bytes())
    build(tmp_path / "store", [audio[0], audio[1], copy])
    store = SpectrogramStore(tmp_path / "store")
    np.testing.assert_array_equal(store[np.array([0])], store[np.array([2])])
    assert np.load(tmp_path / "store/pieces/00000.npy").shape[0] == 2


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


SCAN_PROGRAM = """
import sys
from pathlib import Path
from tests.test_spectrograms import build
if __name__ == "__main__":
    build(Path(sys.argv[1]), sorted(Path(sys.argv[2]).glob("*.wav")), piece_rows=4)
"""


def test_a_scan_killed_at_any_moment_goes_on_to_the_same_store(tmp_path):
    """`kill -9` after each piece in turn, then once in peace: the pieces are those of a scan that
    was never disturbed, and no worker outlives its parent."""
    audio = tmp_path / "audio"
    for row in range(24):
        write_wav(audio / f"t{row:02d}.wav", tone(4, 100 + 50 * row, 8_000, row), 8_000)
    program = tmp_path / "scan.py"
    program.write_text(SCAN_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}

    def scan(folder):
        return subprocess.Popen(
            [sys.executable, program, folder, audio], env=environment, start_new_session=True
        )

    assert scan(tmp_path / "peace").wait() == 0
    for pieces in (1, 3):
        process = scan(tmp_path / "killed")
        while len(list((tmp_path / "killed").glob("pieces/*.json"))) < pieces:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "catalogue.json").exists()
    time.sleep(1.0)
    alive = subprocess.run(["pgrep", "-f", str(program)], capture_output=True, text=True).stdout
    assert alive == ""
    assert scan(tmp_path / "killed").wait() == 0
    names = sorted(p.relative_to(tmp_path / "peace") for p in (tmp_path / "peace").rglob("*.*"))
    assert len(names) >= 14
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "peace" / name).read_bytes()


def test_a_file_that_could_not_be_read_is_tried_again(audio, tmp_path, monkeypatch):
    """A network disk that was away leaves a file's path, size and time as they were."""
    from cbmr.spectrograms import build as room

    real = room.decode_all

    def away(paths, *settings):
        for path, result in zip(paths, real(paths, *settings), strict=True):
            yield (
                ({**room.file_stat(path), "reason": "I/O error"}, [])
                if path == audio[0]
                else result
            )

    monkeypatch.setattr(room, "decode_all", away)
    first = build(tmp_path, audio)
    assert list(first.skipped.values()) == [f"{audio[0]}: I/O error"]
    monkeypatch.setattr(room, "decode_all", real)
    again = build(tmp_path, audio)
    assert (again.decoded, again.skipped) == (1, {})


def test_a_decoder_that_takes_its_process_down_costs_one_file(audio, tmp_path, monkeypatch):
    """A worker really dies by SIGSEGV on one of the files; the others are all read."""
    crash = tmp_path / "crash.wav"
    crash.write_bytes(audio[0].read_bytes() + b"x")
    program = tmp_path / "scan.py"
    program.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import cbmr.spectrograms.decoding as s\n"
        "from tests.test_spectrograms import build\n"
        "real = s.load_audio\n"
        "def load(path, **k):\n"
        "    if path.name == 'crash.wav': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return real(path, **k)\n"
        "s.load_audio = load\n"
        "if __name__ == '__main__':\n"
        "    print(build(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]))\n"
    )
    result = subprocess.run(
        [sys.executable, program, tmp_path / "store", *audio[:3], crash, *audio[3:]],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    store = SpectrogramStore(tmp_path / "store")
    assert len(store) == 7
    assert list(store.skipped) == ["crash"]
    assert "crashes the decoder" in store.skipped["crash"]
