"""Audio files to log-mels, in worker processes that may hang or die."""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import av
import numpy as np
import torch

from cbmr.audio import excerpt_starts, load_audio
from cbmr.errors import InputError
from cbmr.files import file_hash
from cbmr.logmel import MelSpec, logmel
from cbmr.spectrograms.store import file_key, store_frames

SHORTEST_S = 3.0
SILENT_RMS = 1e-4
"""Below -80 dBFS there is nothing to hear."""
DECODER = f"PyAV {av.__version__}"
"""Another one may read what this one cannot."""


@dataclass(frozen=True)
class Decoded:
    """What came of a file: each excerpt with its real frames, or the reason why there is none.

    Neither where its content is known already. `key` is that of `file_key`, None where another try
    may end otherwise: the file changed meanwhile, the disk was away, the decoder hung or died.
    """

    content: str | None = None
    logmels: list[tuple[np.ndarray, int]] = field(default_factory=list)
    reason: str | None = None
    key: tuple[str, int, int] | None = None


def read_logmels(
    path: Path, spec: MelSpec, excerpt_s: float, excerpts: int
) -> tuple[np.ndarray, np.ndarray]:
    """One file's `excerpt_starts` as float16 `[excerpts, mels, frames]` padded with zeros, and
    their real frames `[excerpts]`.

    What does not decode, is silent or is shorter than 3 s is left out; InputError, that of the
    first, where nothing is left.
    """
    read, refused = [], []
    for start_s in excerpt_starts(path, duration_s=excerpt_s, excerpts=excerpts):
        try:
            read.append(_read_logmel(path, spec, start_s, excerpt_s))
        except InputError as error:
            refused.append(error)
    if not read:
        raise refused[0]
    return np.stack([padded for padded, _ in read]), np.array([frames for _, frames in read])


def _read_logmel(
    path: Path, spec: MelSpec, start_s: float, excerpt_s: float
) -> tuple[np.ndarray, int]:
    waveform = load_audio(
        path, sample_rate=spec.sample_rate, start_s=start_s, duration_s=excerpt_s
    ).samples
    length_s = len(waveform) / spec.sample_rate
    if length_s < SHORTEST_S and start_s > 0:
        raise InputError(
            f"{path} breaks off at {start_s + length_s:.0f} s, {length_s:.1f} s into its excerpt: "
            f"expected at least {SHORTEST_S:g} s"
        )
    if length_s < SHORTEST_S:
        raise InputError(f"{path} is {length_s:.1f} s long, expected at least {SHORTEST_S:g} s")
    if np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) < SILENT_RMS:
        raise InputError(f"{path} is silent for {length_s:.0f} s from {start_s:.0f} s on")
    frames = spec.frames(len(waveform))
    padded = np.zeros((spec.mels, store_frames(spec, excerpt_s)), dtype=np.float16)
    padded[:, :frames] = logmel(torch.from_numpy(waveform)[None], spec)[0].numpy()
    return padded, frames


def decode_all(
    paths: Sequence[Path],
    spec: MelSpec,
    excerpt_s: float,
    excerpts: int,
    *,
    workers: int,
    file_timeout_s: float,
    is_new: Callable[[str], bool],
) -> Iterator[tuple[int, Decoded]]:
    """The place among `paths` and what came of each, as they come.

    Every worker has one file in hand, so that whatever happens to a worker is that file's fault
    alone: one that dies, or is killed after `file_timeout_s`, is replaced, and its file has a
    reason. A file is hashed first, and decoded where `is_new` says so of its content.
    """
    waiting = deque(range(len(paths)))
    arguments = spec, excerpt_s, excerpts
    hired = [_hire(*arguments) for _ in range(min(workers, len(paths)))]
    try:
        while hired:
            due = min(worker.deadline for worker in hired) - time.monotonic()
            ready = wait(
                [worker.connection for worker in hired],
                timeout=None if due == math.inf else max(0.0, due),
            )
            for worker in list(hired):
                lost = ""
                said: Decoded | str | None = None
                if worker.connection in ready:
                    try:
                        said = worker.connection.recv()
                    except (EOFError, OSError):
                        lost = f"crashes the decoder ({_ending(worker.process)})"
                elif time.monotonic() > worker.deadline:
                    worker.process.kill()
                    lost = f"takes longer than {file_timeout_s:g} s to decode"
                else:
                    continue
                if isinstance(said, str):
                    new = is_new(said)
                    worker.content = said if new else None
                    worker.send(new)
                    continue
                place = worker.place
                if lost:
                    if place is None:
                        raise RuntimeError(f"a process that decodes cannot start: it {lost}")
                    said = Decoded(worker.content, reason=lost)
                if lost or not waiting:
                    hired.remove(worker)
                    worker.connection.close()  # by which it ends
                    if waiting:
                        hired.append(_hire(*arguments))
                else:
                    worker.place, worker.content = waiting.popleft(), None
                    worker.deadline = time.monotonic() + file_timeout_s
                    worker.send(paths[worker.place])
                if place is not None and said is not None:
                    yield place, said
    finally:
        for worker in hired:
            worker.process.kill()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    place: int | None = None  # None until it has started
    content: str | None = None
    deadline: float = math.inf

    def send(self, what: Path | bool) -> None:
        with suppress(BrokenPipeError):  # it has died: the next look at its connection says so
            self.connection.send(what)


def _hire(spec: MelSpec, excerpt_s: float, excerpts: int) -> _Worker:
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    context.set_forkserver_preload([__name__])  # torch is loaded once, not once a worker
    ours, its = context.Pipe()
    # A context that is chosen by name is typed as the base of all, which has no Process.
    process = context.Process(  # type: ignore[attr-defined]
        target=_work, args=(its, spec, excerpt_s, excerpts), daemon=True
    )
    process.start()
    its.close()
    return _Worker(process, ours)


def _ending(process: BaseProcess) -> str:
    process.join(1.0)
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"status {code}"


# --- in the worker ------------------------------------------------------------------------------


def _work(connection: Connection, spec: MelSpec, excerpt_s: float, excerpts: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # A parent killed with -9 kills nobody, and a decoder that hangs would hang for ever.
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()

    def is_new(content: str) -> bool:
        connection.send(content)
        answer: bool = connection.recv()
        return answer

    with suppress(EOFError, OSError):  # the parent has no more work, or is gone
        connection.send(None)
        while True:
            path = connection.recv()
            connection.send(_decode_one(path, spec, excerpt_s, excerpts, is_new))


def _decode_one(
    path: Path, spec: MelSpec, excerpt_s: float, excerpts: int, is_new: Callable[[str], bool]
) -> Decoded:
    content = None
    try:
        key = file_key(path)
        content = file_hash(path)
        if not is_new(content):
            return Decoded(content, key=key)
        try:
            logmels, frames = read_logmels(path, spec, excerpt_s, excerpts)
            excerpts_read = list(zip(logmels, frames.tolist(), strict=True))
            decoded = Decoded(content, excerpts_read, key=key)
        except InputError as error:
            decoded = Decoded(content, reason=str(error).removeprefix(f"{path} "), key=key)
        if file_key(path) != key:
            return Decoded(content, reason="changed while it was read")
        return decoded
    except OSError as error:
        return Decoded(content, reason=error.strerror or str(error))
