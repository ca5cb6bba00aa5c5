"""Audio files to log-mels, in worker processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cbmr.audio import excerpt_starts, load_audio
from cbmr.errors import InputError
from cbmr.files import file_hash
from cbmr.logmel import MelSpec, logmel
from cbmr.spectrograms.store import store_frames

SHORTEST_S = 3.0
SILENT_RMS = 1e-4
"""Below -80 dBFS there is nothing to hear."""

Decoded = tuple[dict[str, Any], list[tuple[np.ndarray, int]]]
"""A file, and each of its excerpts with its real frames: none where there is a reason."""


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
    if length_s < SHORTEST_S:
        raise InputError(f"{path} is {length_s:.1f} s long, expected at least {SHORTEST_S:g} s")
    if np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) < SILENT_RMS:
        raise InputError(f"{path} is silent for {length_s:.0f} s from {start_s:.0f} s on")
    frames = spec.frames(len(waveform))
    padded = np.zeros((spec.mels, store_frames(spec, excerpt_s)), dtype=np.float16)
    padded[:, :frames] = logmel(torch.from_numpy(waveform)[None], spec)[0].numpy()
    return padded, frames


def _decode_one(path: Path, spec: MelSpec, excerpt_s: float, excerpts: int) -> Decoded:
    file: dict[str, Any] = file_stat(path)
    try:
        file["content"] = file_hash(path)
        logmels, frames = read_logmels(path, spec, excerpt_s, excerpts)
    except (InputError, OSError) as error:
        return {**file, "reason": str(error).removeprefix(f"{path} ")}, []
    return file, list(zip(logmels, frames.tolist(), strict=True))


def decode_all(
    paths: Sequence[Path], spec: MelSpec, excerpt_s: float, excerpts: int, workers: int
) -> Iterator[Decoded]:
    """Results in the order of `paths`, with few in flight, so that memory stays flat.

    When a decoder takes its process down, the files in flight are tried again one by one, each in
    a process of its own, and the one that does it again is skipped like any other bad file.
    """
    waiting = deque(paths)
    while waiting:
        in_flight: deque[tuple[Path, Future[Decoded]]] = deque()
        with _pool(workers) as pool, contextlib.suppress(BrokenProcessPool):
            while waiting or in_flight:
                while waiting and len(in_flight) < 4 * workers:
                    future = pool.submit(_decode_one, waiting[0], spec, excerpt_s, excerpts)
                    in_flight.append((waiting.popleft(), future))
                result = in_flight[0][1].result()
                in_flight.popleft()
                yield result
        for path, _ in in_flight:
            with _pool(1) as pool:
                pool.submit(os.getpid).result()  # a process that cannot start is no file's fault
                try:
                    result = pool.submit(_decode_one, path, spec, excerpt_s, excerpts).result()
                except BrokenProcessPool:
                    result = {**file_stat(path), "reason": "crashes the decoder"}, []
            yield result


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])  # torch is loaded once, not once a worker
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # A parent killed with -9 closes nothing, and its workers would wait for work for ever.
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def file_stat(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
