"""Scanning speed: `python -m benchmarks.scan [FOLDER]`, tracks a second with one and two workers.

1,000 files of 60 s (ten different mp3, copied under names of their own with a byte of tag changed,
so that each has its own content) are scanned; the first 100 of each run are not counted, so that
starting the processes is not. Beside it, the peak memory of reading the middle of a two-hour file.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from cbmr.logmel import MelSpec
from cbmr.spectrograms import build_store

FILES, DIFFERENT, SECONDS, UNCOUNTED, RATE = 1_000, 10, 60, 100, 44_100
CODECS = {".mp3": ("libmp3lame", "fltp"), ".flac": ("flac", "s16")}
MIDDLE = """
import re, sys
from pathlib import Path
from cbmr.audio import load_middle
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
load_middle(Path(sys.argv[1]), sample_rate=22_050, duration_s=30)
print((peak() - before) // 1024)
"""


def main() -> None:
    """Print rates, their ratio, and the growth of memory."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        paths = _files(folder)
        rates = {workers: _rate(folder, paths, workers) for workers in (1, 2)}
        for workers, rate in rates.items():
            print(f"{workers} worker(s): {rate:.1f} tracks/s")
        print(f"two workers / one: {rates[2] / rates[1]:.2f}")
        long = _encode(folder / "long.flac", 7_200, 0)
        # In a process of its own: a peak that is already high would hide what is added to it.
        grown = subprocess.run(
            [sys.executable, "-c", MIDDLE, long], check=True, capture_output=True, text=True
        )
        print(f"memory grown by the middle of a two-hour file: {grown.stdout.strip()} MiB")


def _files(folder: Path) -> list[Path]:
    masters = [_encode(folder / f"m{i}.mp3", SECONDS, i).read_bytes() for i in range(DIFFERENT)]
    paths = [folder / f"{number:04d}.mp3" for number in range(FILES)]
    for number, path in enumerate(paths):
        # A trailing ID3v1 tag with the number: other content, the same sound.
        tag = b"TAG" + f"{number:030d}".encode() + bytes(95)
        path.write_bytes(masters[number % DIFFERENT] + tag)
    return paths


def _encode(path: Path, seconds: int, rng_seed: int) -> Path:
    codec, form = CODECS[path.suffix]
    time_s = np.arange(RATE) / RATE
    noise = np.random.default_rng(rng_seed).standard_normal(RATE)
    second = (0.3 * np.sin(2 * np.pi * 220 * (rng_seed + 1) * time_s) + 0.1 * noise)[None]
    second = (second * 32_767).astype(np.int16) if form == "s16" else second.astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        for _ in range(seconds):
            frame = av.AudioFrame.from_ndarray(second, format=form, layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _rate(folder: Path, paths: list[Path], workers: int) -> float:
    began = 0.0

    def progress(done: int, _: int) -> None:
        nonlocal began
        if done == UNCOUNTED:
            began = time.perf_counter()

    ids = [path.stem for path in paths]
    build_store(
        folder / f"store{workers}", ids, paths, spec=MelSpec(), excerpt_s=30.0, workers=workers,
        progress=progress,
    )  # fmt: skip
    return (FILES - UNCOUNTED) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
