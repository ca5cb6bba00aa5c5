"""Lightning without its banners, and with Ctrl-C as Python has it."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's banners and its advice on settings that were chosen on purpose stay unsaid; the
    SystemExit by which it ends on Ctrl-C is a KeyboardInterrupt again."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="(pytorch_)?lightning")
            yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def quiet_loader(_: int) -> None:
    """For a process that loads batches: where Ctrl-C ends the one it hands them to in the middle of
    that, the thread that hands over says nothing of it."""
    say = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (EOFError, ConnectionError)):
            say(kind, error, trace)

    sys.excepthook = hook
