"""Scanning speed: `python -m benchmarks.scan [FOLDER]`, against a plain librosa loop.

400 MP3s of three minutes in stereo (four different ones, copied with a tag of their own, so that
each has its own content) are scanned with one worker and with two; the first 50 of each run are not
counted, so that starting the processes is not. The loop reads 50 of them in one process. Beside it
the peak memory of each, that of reading the middle of a two-hour file, and a scan of 100,000 files
of which none has changed, as a command; these are links to ten files, so that the scan before it is
of hashing alone.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import polars as pl

from cbmr.logmel import MelSpec
from cbmr.spectrograms import build_store

FILES, DIFFERENT, SECONDS, UNCOUNTED, RATE = 400, 4, 180, 50, 44_100
UNCHANGED, LINKED = 100_000, 10
CODECS = {".mp3": ("libmp3lame", "fltp"), ".flac": ("flac", "s16")}
PEAK = """
import re, sys, time
from pathlib import Path
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
MIDDLE = f"""{PEAK}
from cbmr.audio import load_middle
before = peak()
load_middle(Path(sys.argv[1]), sample_rate=22_050, duration_s=30)
print((peak() - before) // 1024)
"""
LIBROSA = f"""{PEAK}
import numpy as np
import librosa
def read(path):
    start_s = (librosa.get_duration(path=path) - 30) / 2
    samples, _ = librosa.load(path, sr=22_050, offset=start_s, duration=30)
    power = librosa.feature.melspectrogram(
        y=samples, sr=22_050, n_fft=2_048, hop_length=1_102, n_mels=128, center=False
    )
    return np.log1p(10_000 * power).astype(np.float16)
read(sys.argv[1])  # compiles and loads
began = time.perf_counter()
for path in sys.argv[2:]:
    read(path)
print((len(sys.argv) - 2) / (time.perf_counter() - began), peak() // 1024)
"""


def main() -> None:
    """Print rates, their ratios, peak memory, and the time of a scan with nothing to do."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        paths = _files(folder)
        loop, loop_mib = map(float, _python(LIBROSA, *paths[: UNCOUNTED + 1]).split())
        print(f"a plain librosa loop: {loop:.1f} tracks/s, {loop_mib:.0f} MiB at its peak")
        rates = {}
        for workers in (1, 2):
            rates[workers], peak_mib = _rate(folder, paths, workers)
            print(
                f"{workers} worker(s): {rates[workers]:.1f} tracks/s, {peak_mib:.0f} MiB a worker "
                "at its peak"
            )
        print(f"one worker / the loop: {rates[1] / loop:.2f}")
        print(f"two workers / one: {rates[2] / rates[1]:.2f}")
        long = _encode(folder / "long.flac", 7_200, 0)
        # In a process of its own: a peak that is already high would hide what is added to it.
        grown = _python(MIDDLE, long)
        print(f"memory grown by the middle of a two-hour file: {grown} MiB")
        took = _unchanged(folder / "unchanged")
        print(f"a scan of {UNCHANGED:,} files, none changed, a cold process: {took:.1f} s")


def _files(folder: Path) -> list[Path]:
    masters = [_encode(folder / f"m{i}.mp3", SECONDS, i).read_bytes() for i in range(DIFFERENT)]
    paths = [folder / f"{number:04d}.mp3" for number in range(FILES)]
    for number, path in enumerate(paths):
        # A trailing ID3v1 tag with the number: other content, the same sound.
        tag = b"TAG" + f"{number:030d}".encode() + bytes(95)
        path.write_bytes(masters[number % DIFFERENT] + tag)
    return paths


def _encode(path: Path, seconds: int, rng_seed: int) -> Path:
    """A tone and noise, stereo; MP3 at 192 kbit/s."""
    codec, form = CODECS[path.suffix]
    time_s = np.arange(RATE) / RATE
    noise = np.random.default_rng(rng_seed).standard_normal((2, RATE))
    second = 0.3 * np.sin(2 * np.pi * 220 * (rng_seed + 1) * time_s) + 0.1 * noise
    if form == "s16":
        second = (second.T.reshape(1, -1) * 32_767).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = 192_000
        for _ in range(seconds):
            block = second if form == "s16" else second.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, format=form, layout="stereo")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _rate(folder: Path, paths: list[Path], workers: int) -> tuple[float, float]:
    """Tracks a second, and the peak memory of the largest worker in MiB."""
    began = peak_kib = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal began, peak_kib
        if done == UNCOUNTED:
            began = time.perf_counter()
        if done == total - workers:  # they are still there
            peak_kib = max(_worker_peaks_kib())

    ids = [path.stem for path in paths]
    build_store(
        folder / f"store{workers}", ids, paths, spec=MelSpec(), excerpt_s=30.0, workers=workers,
        progress=progress,
    )  # fmt: skip
    return (FILES - UNCOUNTED) / (time.perf_counter() - began), peak_kib / 1024


def _worker_peaks_kib() -> list[int]:
    """Of the grandchildren of this process: its child is the server that starts them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            status = path.read_text()
        except OSError:  # it has just ended
            continue
        parent, peak = (re.search(rf"{key}:\s+(\d+)", status) for key in ("PPid", "VmHWM"))
        if parent and peak:
            found[int(path.parent.name)] = int(parent[1]), int(peak[1])
    children = {one for one, (parent, _) in found.items() if parent == os.getpid()}
    return [peak for parent, peak in found.values() if parent in children]


def _unchanged(folder: Path) -> float:
    """Seconds of `python -m tasks.scan` where a scan went before."""
    (folder / "audio").mkdir(parents=True)
    sounds = [
        _encode(folder / f"{number}.mp3", 4, number).rename(folder / f"audio/{number}.mp3")
        for number in range(LINKED)
    ]
    paths = [f"audio/{number % 100}/{number}.mp3" for number in range(UNCHANGED)]
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).hardlink_to(sounds[number % LINKED])
    ids = [f"t{number}" for number in range(UNCHANGED)]
    pl.DataFrame({"track_id": ids, "path": paths}).write_parquet(folder / "tracks.parquet")
    scan = [sys.executable, "-m", "tasks.scan", f"corpus={folder}", f"run={folder / 'run'}"]
    subprocess.run(scan, check=True, capture_output=True)
    began = time.perf_counter()
    subprocess.run(scan, check=True, capture_output=True)
    return time.perf_counter() - began


def _python(program: str, *arguments: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


if __name__ == "__main__":
    main()
