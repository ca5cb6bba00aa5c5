"""What tasks tell the person: lines, and a bar of what takes long."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


def say(text: str) -> None:
    """A line for the person, on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar with rate and time left on a terminal, a line every ten seconds elsewhere.

    Yields `report(done, total, numbers={})`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[last]}"),
    )  # fmt: skip
    console = Console(stderr=True)
    began = printed = time.monotonic()
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    shown = bar.add_task(what, total=None, rate="", last="")
    first: int | None = None

    def report(done: int, total: int, numbers: Mapping[str, float] | None = None) -> None:
        nonlocal printed, first
        first = done - 1 if first is None else first  # a resumed task starts in the middle
        now = time.monotonic()
        rate = (done - first) / max(now - began, 1e-9)
        bar.update(shown, completed=done, total=total, rate=f"{rate:.1f}/s")
        if numbers:
            last = " ".join(f"{key} {value:.4f}" for key, value in numbers.items())
            bar.update(shown, last=last)
        last_step = done == total and not numbers
        if not console.is_terminal and (now - printed > 10 or last_step):
            printed = now
            left = (total - done) / rate
            say(f"{what}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left")

    with bar:
        yield report
