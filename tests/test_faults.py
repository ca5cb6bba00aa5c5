"""A scan that is killed, starved of disk, lied to and fed what is no music.

Everything here is done to real processes and real files: `kill -9` for the scan and all its
workers, a file system that is full, a worker that dies by SIGSEGV.
"""

import os
import random
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.faults import killed_scans, write_tones
from cbmr.errors import InputError
from cbmr.spectrograms import SpectrogramStore
from tests.conftest import tone, write_wav
from tests.test_spectrograms import assert_same, build

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path.cwd())}


def test_a_scan_killed_at_random_moments_goes_on_to_the_same_store(tmp_path):
    """Three of the fifty moments of `python -m benchmarks.faults`."""
    kills = killed_scans(tmp_path, files=60, kills=3, rng_seed=1)
    assert kills.landed >= 2
    assert kills.most_lost <= 5 + 2  # a piece of 5, and what two workers had in hand
    assert kills.identical


def test_a_full_disk_keeps_what_was_written_and_the_scan_goes_on(tmp_path):
    audio = write_tones(tmp_path / "audio", 40)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk]).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        with pytest.raises(InputError, match=r"is the disk full\?"):
            build(disk / "store", audio)
        assert not list(disk.rglob("*.partial"))
        written = len(list(disk.rglob("*.json"))) - 1
        assert written > 3
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        assert build(disk / "store", audio).decoded <= 40 - 3 * written
        build(tmp_path / "peace", audio)
        assert_same(disk / "store", tmp_path / "peace")
    finally:
        subprocess.run(["umount", disk], check=True)


TROUBLE = """
import os, signal, sys, time
from pathlib import Path
import cbmr.spectrograms.decoding as room
from tests.test_spectrograms import build
real = room.load_audio
def load(path, **settings):
    if path.name == "crash.wav": os.kill(os.getpid(), signal.SIGSEGV)
    if path.name == "hang.wav": time.sleep(1_000)
    if path.name == "cut.wav": os.truncate(path, 20_000)
    if path.name == "replaced.wav": path.write_bytes(path.read_bytes()[::-1])
    return real(path, **settings)
room.load_audio = load
if __name__ == "__main__":
    print(build(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]], file_timeout_s=3))
"""


def test_each_of_many_troubles_costs_its_file_alone(tmp_path):
    """A worker dies, a decoder hangs, and files are cut and replaced while they are read: the scan
    ends, names them, reads all others, and next time reads them too."""
    names = ("a", "crash", "b", "hang", "c", "cut", "d", "replaced", "e", "f")
    paths = [
        write_wav(tmp_path / f"{name}.wav", tone(4, 300 + row, 8_000, row), 8_000)
        for row, name in enumerate(names)
    ]
    program = tmp_path / "scan.py"
    program.write_text(TROUBLE)
    result = subprocess.run(
        [sys.executable, program, tmp_path / "store", *paths],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    store = SpectrogramStore(tmp_path / "store")
    assert store.track_ids.tolist() == list("abcdef")
    reasons = {name: reason.partition(": ")[2] for name, reason in store.skipped.items()}
    assert reasons == {
        "crash": "crashes the decoder (SIGSEGV)",
        "hang": "takes longer than 3 s to decode",
        "cut": "changed while it was read",
        "replaced": "changed while it was read",
    }
    write_wav(paths[7], tone(4, 900, 8_000), 8_000)
    assert build(tmp_path / "store", paths).decoded == 4
    build(tmp_path / "peace", paths)
    assert_same(tmp_path / "store", tmp_path / "peace")


# --- hostile files ------------------------------------------------------------------------------


def wav_header(channels, rate, bits, data_bytes, form=1):
    block = channels * bits // 8
    return b"RIFF" + struct.pack(
        "<I4s4sIHHIIHH4sI", min(36 + data_bytes, 2**32 - 1), b"WAVE", b"fmt ", 16, form,
        channels, rate, rate * block, block, bits, b"data", data_bytes,
    )  # fmt: skip


def pcm(samples, channels=1, dtype="<i2"):
    scaled = samples * 32_767 if dtype == "<i2" else samples
    return np.repeat(scaled[:, None], channels, axis=1).astype(dtype).tobytes()


def sound(path, seconds, rate, channels=1, dtype="<i2", claimed_s=None):
    """A WAV whose header may claim another length than there is."""
    content = pcm(tone(seconds, 440, rate), channels, dtype)
    item = np.dtype(dtype).itemsize
    claimed = len(content) if claimed_s is None else claimed_s * rate * channels * item
    form = 3 if "f" in dtype else 1
    path.write_bytes(wav_header(channels, rate, 8 * item, claimed, form) + content)
    return path


def mp3(path, seconds, cover=False):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=22_050, layout="mono")
        if cover:
            picture = container.add_stream("png", width=64, height=64, pix_fmt="rgb24")
            picture.disposition = av.stream.Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            for packet in [*picture.encode(image), *picture.encode(None)]:
                container.mux(packet)
        samples = tone(seconds, 440).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 22_050
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def hostile_files(folder):
    """Each file, and what its reason says; None where there is music in it."""
    noise = random.Random(0).randbytes(200_000)
    zero, junk, text = folder / "zero.mp3", folder / "junk.mp3", folder / "text.mp3"
    zero.write_bytes(b"")
    junk.write_bytes(noise)
    text.write_text("this is text, not music\n" * 500)
    whole = mp3(folder / "whole.mp3", 20).read_bytes()
    half, stump, damaged = folder / "half.mp3", folder / "stump.mp3", folder / "damaged.mp3"
    half.write_bytes(whole[: len(whole) // 2])
    stump.write_bytes(whole[:700])
    damaged.write_bytes(whole[:30_000] + noise[:9_000] + whole[39_000:])
    long = folder / "ten hours.wav"
    with long.open("wb") as file:
        file.write(wav_header(1, 8_000, 16, 36_000 * 16_000))
        file.truncate(44 + 36_000 * 16_000)  # zeros that take no room
    pipe, link, lines = folder / "pipe.mp3", folder / "link.mp3", folder / "two\nlines.wav"
    os.mkfifo(pipe)
    link.symlink_to(folder / "nowhere.mp3")
    return {
        zero: "cannot be opened",
        junk: ".",
        text: "cannot be opened|has no audio|does not decode",
        half: "breaks off at 10 s, 2.0 s into its excerpt",
        stump: ".",
        damaged: None,
        sound(folder / "claims an hour.wav", 5, 8_000, claimed_s=3_600): None,
        sound(folder / "claims nothing.wav", 5, 8_000, claimed_s=0): None,
        sound(folder / "one second.wav", 1, 8_000): "is 1.0 s long",
        long: "is silent",
        sound(folder / "eight channels.wav", 5, 44_100, channels=8): None,
        sound(folder / "low.wav", 5, 8_000): None,
        sound(folder / "high.wav", 5, 192_000): None,
        sound(folder / "double.wav", 5, 44_100, channels=2, dtype="<f8"): None,
        mp3(folder / "cover.mp3", 5, cover=True): None,
        pipe: "is no regular file",
        link: "No such file",
        folder: "is no regular file",
        write_wav(lines, tone(5, 440)): None,
    }


HOSTILE = """
import sys
from pathlib import Path
from tests.test_spectrograms import build
if __name__ == "__main__":
    build(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]], file_timeout_s=60)
"""


def worker_peaks_mib(scan):
    """Peak resident memory of a scan's workers, by process id: they are children of its child, the
    server that starts them."""
    peaks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            if os.getsid(int(folder.name)) == scan:
                parent, peak = re.search(r"PPid:\s+(\d+)(?s:.*)VmHWM:\s+(\d+)", status).groups()
                # Whoever outlives the scan for a moment has another parent by then.
                if int(parent) != scan and os.getsid(int(parent)) == scan:
                    peaks[folder.name] = int(peak) / 1024
        except (OSError, AttributeError):  # it has just ended
            continue
    return peaks


def test_hostile_files_are_read_or_listed_in_bounded_memory(tmp_path):
    (tmp_path / "audio").mkdir()
    expected = hostile_files(tmp_path / "audio")
    program = tmp_path / "scan.py"
    program.write_text(HOSTILE)
    process = subprocess.Popen(
        [sys.executable, program, tmp_path / "store", *expected],
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    peaks = {}
    while process.poll() is None:
        peaks |= worker_peaks_mib(process.pid)
        time.sleep(0.02)
    assert process.returncode == 0
    assert len(peaks) == 2
    assert max(peaks.values()) < 500
    store = SpectrogramStore(tmp_path / "store")
    read = set(store.track_ids)
    for path, reason in expected.items():
        if reason is None:
            assert path.stem in read, store.skipped.get(path.stem)
        else:
            assert re.search(reason, store.skipped[path.stem]), (path, store.skipped[path.stem])
    assert len(read) + len(store.skipped) == len(expected)
