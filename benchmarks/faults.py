"""What a killed scan costs: `python -m benchmarks.faults [KILLS]`.

300 files are scanned in pieces of 5 by a process that is killed with all its workers, by `kill -9`,
at 50 random moments: after some files and some milliseconds, or while it starts. After each, every
piece that stands is held against its checksum; in the end, the store against one built in peace.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmr.files import read_json
from cbmr.spectrograms import SpectrogramStore
from cbmr.spectrograms.store import piece_checksum, piece_paths

FILES, KILLS, PIECE_ROWS = 300, 50, 5
SCAN = """
import sys
from pathlib import Path
from cbmr.logmel import MelSpec
from cbmr.spectrograms import build_store
if __name__ == "__main__":
    paths = sorted(Path(sys.argv[2]).glob("*.wav"))
    build_store(
        Path(sys.argv[1]), [path.stem for path in paths], paths,
        spec=MelSpec(sample_rate=8_000, n_fft=512, hop=256, mels=16), excerpt_s=3.0, workers=2,
        piece_rows=int(sys.argv[3]), progress=lambda done, _: print(done, flush=True),
    )
"""


@dataclass(frozen=True)
class Kills:
    """How many `landed` before the scan ended by itself, the most files that one of them cost, and
    whether the store is `identical` to one built in peace."""

    landed: int
    most_lost: int
    identical: bool


def main() -> None:
    """Print what the kills cost, and whether the store is right."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    with tempfile.TemporaryDirectory() as name:
        result = killed_scans(Path(name), files=FILES, kills=kills, rng_seed=0)
    print(f"killed {result.landed} times in {FILES} files, pieces of {PIECE_ROWS}")
    print(f"files decoded again after one kill: {result.most_lost} at most")
    print(f"the store is that of a scan in peace: {'yes' if result.identical else 'NO'}")


def killed_scans(folder: Path, *, files: int, kills: int, rng_seed: int) -> Kills:
    """Scan `files` tones, killed so often; AssertionError where a piece that stands is damaged."""
    rng = random.Random(rng_seed)
    audio = folder / "audio"
    write_tones(audio, files)
    program = folder / "scan.py"
    program.write_text(SCAN)
    killed, peace = folder / "killed", folder / "peace"
    landed = most_lost = 0
    for _ in range(kills):
        before = _kept(killed)
        with _scan(program, killed, audio) as process:
            assert process.stdout is not None
            done = 0
            for _ in range(rng.randint(0, files // kills)):
                done = int(process.stdout.readline() or done)
            time.sleep(rng.uniform(0, 0.01 if done else 2.0))
            landed += process.poll() is None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            done = max([done, *map(int, process.stdout.read().split())])
        most_lost = max(most_lost, done - (_kept(killed) - before))
    for store in (killed, peace):
        with _scan(program, store, audio) as process:
            process.communicate()
            assert process.returncode == 0
    return Kills(landed, most_lost, _content(killed) == _content(peace))


def write_tones(folder: Path, files: int) -> list[Path]:
    """So many WAV of 3 s at 8 kHz, each of a pitch of its own."""
    import wave

    folder.mkdir()
    paths = [folder / f"t{number:03d}.wav" for number in range(files)]
    for number, path in enumerate(paths):
        samples = np.sin(np.arange(24_000) * (0.1 + 0.003 * number)) * 16_000
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8_000, 0, "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
    return paths


def _scan(program: Path, store: Path, audio: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program, store, audio, str(PIECE_ROWS)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _kept(store: Path) -> int:
    """Files in the pieces that stand, each of which has to be whole."""
    kept = 0
    for path in piece_paths(store):
        piece = read_json(path)
        assert piece_checksum(path.with_suffix(".npy"), piece["files"]) == piece["checksum"], path
        kept += len(piece["files"])
    return kept


def _content(folder: Path) -> tuple[bytes, str, bytes]:
    store = SpectrogramStore(folder)
    rows = store[np.arange(len(store))].tobytes()
    return (folder / "catalogue.json").read_bytes(), store.fingerprint, rows


if __name__ == "__main__":
    main()
