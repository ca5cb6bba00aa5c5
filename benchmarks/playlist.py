"""A cold playlist: `python -m benchmarks.playlist`, seconds of whole processes on the demo run."""

import statistics
import subprocess
import sys
import time

ROUNDS = 5
COMMAND = [sys.executable, "-m", "tasks.playlist", "n=20", "format=json"]


def main() -> None:
    """Print the median of five, of a catalogued seed."""
    seconds = []
    for round_ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run([*COMMAND, "seed=t00000"], check=True, capture_output=True)
        if round_:
            seconds.append(time.perf_counter() - began)
    print(f"python -m tasks.playlist, cold process: {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
