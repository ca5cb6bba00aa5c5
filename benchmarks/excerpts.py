"""What whole-track analysis costs: `python -m benchmarks.excerpts FOLDER`, seconds of one core a
track to decode 1, 3 and 5 excerpts of 30 s of every file in a folder of whole pieces.

They take turns for two rounds after one to warm up.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

from cbmr.errors import InputError
from cbmr.logmel import MelSpec
from cbmr.spectrograms import read_logmels

PLANS, ROUNDS = (1, 3, 5), 2


def main() -> None:
    """Print a line for each number of excerpts."""
    torch.set_num_threads(1)
    paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if _reads(path))
    seconds: dict[int, list[float]] = {excerpts: [] for excerpts in PLANS}
    for round_ in range(ROUNDS + 1):
        for excerpts in PLANS:
            began = time.process_time()
            read = sum(len(read_logmels(path, MelSpec(), 30.0, excerpts)[1]) for path in paths)
            if round_:
                seconds[excerpts].append((time.process_time() - began) / len(paths))
            if round_ == ROUNDS:
                median = statistics.median(seconds[excerpts])
                print(f"excerpts={excerpts}: {read} of {len(paths)} files, {median:.2f} s a file")


def _reads(path: Path) -> bool:
    try:
        return path.is_file() and len(read_logmels(path, MelSpec(), 30.0, 1)[1]) == 1
    except InputError:
        return False


if __name__ == "__main__":
    main()
