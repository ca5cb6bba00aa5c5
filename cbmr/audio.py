"""An audio file to a mono float32 waveform `[samples]`, resampled: a chosen excerpt or the whole.

FFmpeg decodes, through PyAV, so that every format a music folder holds is read. An excerpt is
reached by seeking, and only its own samples are ever held, so that time and memory do not grow with
the length of the file. Times are in seconds, rates in samples a second (Hz).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np

from cbmr.errors import InputError

PREROLL_S = 0.5
"""Decoded before an excerpt and thrown away: lossy codecs need a few frames to settle."""


@dataclass(frozen=True)
class Waveform:
    """`samples` is float32 `[samples]` in -1..1, `file_s` the length of the whole file."""

    samples: np.ndarray
    sample_rate: int
    file_s: float


def load_middle(path: Path, *, sample_rate: int, duration_s: float) -> Waveform:
    """The middle `duration_s` of a file, or the whole of a shorter one."""
    (start_s,) = excerpt_starts(path, duration_s=duration_s, excerpts=1)
    return load_audio(path, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s)


def excerpt_starts(path: Path, *, duration_s: float, excerpts: int) -> list[float]:
    """Where the middles of `excerpts` equal parts of a file start, each of `duration_s`; of as many
    parts as fit without overlap where those are fewer, and one where none does.

    Three of 30 s in a file of 300 s start at 35, 135 and 235 s; in one of 70 s two, at 2.5 and
    37.5 s.
    """
    with _open(path) as container:
        file_s = _length_s(container)
    parts = max(1, min(excerpts, int(file_s / duration_s)))
    first_s = max(0.0, (file_s / parts - duration_s) / 2)
    return [first_s + part * file_s / parts for part in range(parts)]


def load_audio(
    path: Path, *, sample_rate: int, start_s: float = 0.0, duration_s: float | None = None
) -> Waveform:
    """Decode `duration_s` of a file from `start_s` on (None: to its end), as mono.

    Raises InputError when the file is missing, holds no audio or does not decode. A file that
    breaks off gives what was decoded before.
    """
    with _open(path) as container:
        file_s = _length_s(container)
        wanted = None if duration_s is None else round(duration_s * sample_rate)
        chunks: list[np.ndarray] = []
        have = 0
        try:
            for chunk in _decode_from(container, start_s, sample_rate):
                chunks.append(chunk if wanted is None else chunk[: wanted - have])
                have += len(chunks[-1])
                if wanted is not None and have >= wanted:
                    break
        except av.error.FFmpegError as error:
            if not have:
                raise InputError(f"{path} does not decode: {error.strerror}") from error
    if not have:
        raise InputError(f"{path} holds no audio at {start_s:.0f} s")
    samples = np.concatenate(chunks)
    if not np.isfinite(samples).all():
        raise InputError(f"{path} decodes to NaN or infinity: it is damaged")
    return Waveform(samples, sample_rate, file_s)


def _open(path: Path) -> av.container.InputContainer:
    try:
        # Tags in a wrong encoding are common in real collections and none of our business.
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or error}") from error
    if not container.streams.audio:
        container.close()
        raise InputError(f"{path} has no audio stream")
    return container


def _length_s(container: av.container.InputContainer) -> float:
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    # A stream that does not say how long it is: count its packets, without decoding them.
    end = 0.0
    for packet in container.demux(stream):
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    container.seek(0)
    return end


def _decode_from(
    container: av.container.InputContainer, start_s: float, sample_rate: int
) -> Iterator[np.ndarray]:
    """Mono chunks from `start_s` on, to the sample where the file's time stamps are right."""
    stream = container.streams.audio[0]
    if start_s > PREROLL_S:
        container.seek(int((start_s - PREROLL_S) * av.time_base))
    # FFmpeg's own way to mono is louder than the mean of the channels, and can leave -1..1.
    resampler = av.AudioResampler(format="fltp", rate=sample_rate)
    to_skip: int | None = None
    for frame in _with_end(container.decode(stream)):
        if frame is not None and to_skip is None:
            first_s = frame.time if frame.time is not None else start_s
            to_skip = max(0, round((start_s - first_s) * sample_rate))
        for resampled in resampler.resample(frame):
            chunk = resampled.to_ndarray().mean(axis=0)
            skipped = min(to_skip or 0, len(chunk))
            to_skip = (to_skip or 0) - skipped
            if skipped < len(chunk):
                yield chunk[skipped:]


def _with_end(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame | None]:
    yield from frames
    yield None  # flushes the resampler
