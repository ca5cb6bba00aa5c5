"""An audio file to a mono float32 waveform `[samples]`, resampled: a chosen excerpt or the whole.

FFmpeg decodes, through PyAV, so that every format a music folder holds is read. An excerpt is
reached by seeking, and only its own samples are ever held, so that time and memory do not grow with
the length of the file. Times are in seconds, rates in samples a second (Hz).
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path

import av
import av.error
import av.filter
import numpy as np

from cbmr.errors import InputError

PREROLL_S = 0.5
"""Decoded before an excerpt and thrown away: lossy codecs need a few frames to settle."""
FRAMES_AT_ONCE = 16
CHUNK_SAMPLES = 8_192


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
    if start_s > PREROLL_S:
        container.seek(int((start_s - PREROLL_S) * av.time_base))
    frames = _whole_frames(container)
    first = next(frames, None)
    if first is None:
        return
    first_s = first.time if first.time is not None else start_s
    to_skip = max(0, round((start_s - first_s) * sample_rate))
    # Joined files go on in another form; each stretch of one form has filters of its own.
    for _, alike in groupby(chain([first], frames), _form):
        for chunk in _mono(alike, sample_rate):
            skipped = min(to_skip, len(chunk))
            to_skip -= skipped
            if skipped < len(chunk):
                yield chunk[skipped:]


def _whole_frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Frames up to the end, or to where the file breaks off; an error where not one is whole."""
    some = False
    try:
        for frame in container.decode(container.streams.audio[0]):
            some = True
            yield frame
    except av.error.FFmpegError:
        if not some:
            raise


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _mono(frames: Iterator[av.AudioFrame], sample_rate: int) -> Iterator[np.ndarray]:
    """The mean of the channels of frames of one form, resampled, in chunks of several frames.

    It is FFmpeg's filters that join, mix and resample, the channels first and with few calls from
    here: the 1,150 frames of 30 s of MP3 one by one, in stereo, cost more than decoding them.
    """
    filters: av.filter.Graph | None = None
    for number, frame in enumerate(frames, start=1):
        if filters is None:
            filters = _filters(frame, sample_rate)
        filters.push(frame)
        if number % FRAMES_AT_ONCE == 0:
            yield from _ready(filters)
    assert filters is not None  # a stretch has a frame at least
    filters.push(None)
    yield from _ready(filters)


def _filters(frame: av.AudioFrame, sample_rate: int) -> av.filter.Graph:
    channels = len(frame.layout.channels)
    # FFmpeg's own way to mono is louder than the mean of the channels, and can leave -1..1.
    mean = "+".join(f"{1 / channels}*c{channel}" for channel in range(channels))
    filters = av.filter.Graph()
    source = filters.add_abuffer(
        format=frame.format.name,
        layout=frame.layout.name,
        sample_rate=frame.sample_rate,
        time_base=Fraction(1, frame.sample_rate),
    )
    steps = {
        "aformat": "sample_fmts=fltp",
        "pan": f"mono|c0={mean}",
        "aresample": f"{sample_rate}",
        "asetnsamples": f"n={CHUNK_SAMPLES}:p=0",
        "abuffersink": None,
    }
    filters.link_nodes(source, *(filters.add(name, value) for name, value in steps.items()))
    filters.configure()
    return filters


def _ready(filters: av.filter.Graph) -> Iterator[np.ndarray]:
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            chunk = filters.pull()
            assert isinstance(chunk, av.AudioFrame)
            yield chunk.to_ndarray()[0]
