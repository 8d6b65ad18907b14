"""Which instant each frame of a video file is of: by a constant rate, by its number, or by its timestamp."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np

from mousefacelift.base.errors import UserError

Timing = Literal["rate", "index", "timestamp"]


def open_video(path: Path) -> "av.container.InputContainer":
    """Open a file that holds a video stream. Raises UserError for any other."""
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be opened as a video ({error.strerror})") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"{path}: holds no video stream")
    return container


def read_packets(container: "av.container.InputContainer") -> Iterator["av.Packet"]:
    """The packets of a container's first video stream, as far as they can be read."""
    with suppress(av.error.FFmpegError):
        yield from container.demux(container.streams.video[0])


class Counter:
    """Indices of frames without usable timestamps: counted from the file's first."""

    def index(self, frame: "av.VideoFrame", last: int) -> int:
        """The index of a decoded frame that follows frame `last`."""
        return last + 1


class Rate:
    """Indices by timestamps that must lie within a quarter of a frame of a constant rate."""

    def __init__(self, start: int, rate: Fraction, time_base: Fraction, where: str) -> None:
        self._start, self._per_frame, self._where = start, 1 / (rate * time_base), where

    def seek_to(self, index: int) -> int | None:
        """The timestamp to seek for a frame; None for the file's start."""
        return int(self._start + index * self._per_frame) if index else None

    def position(self, stamp: int) -> int:
        """The index nearest to a timestamp."""
        return round((stamp - self._start) / self._per_frame)

    def index(self, frame: "av.VideoFrame", last: int) -> int:
        """The index of a decoded frame that follows frame `last`. Raises UserError if the rate is not constant."""
        if frame.pts is None:
            raise UserError(f"{self._where}: the frame after frame {last} has no timestamp")
        index = self.position(frame.pts)
        exact = float((frame.pts - self._start) / self._per_frame)
        if index <= last or abs(exact - index) > 0.25:
            raise UserError(
                f"{self._where}: by its timestamp the frame after frame {last} stands at frame {exact:.2f}: the rate varies. If "
                "frame k is the same instant in every camera whatever its timestamp (hardware trigger), set center.timing: "
                "index; if the timestamps are right, set center.timing: timestamp"
            )
        return index


class Table:
    """Indices by a table of the file's timestamps; None where an instant has no frame."""

    def __init__(self, stamps: list[int | None]) -> None:
        self._stamps = stamps
        self._index = {stamp: k for k, stamp in enumerate(stamps) if stamp is not None}

    def seek_to(self, index: int) -> int | None:
        """The timestamp to seek for a frame; None if no frame follows."""
        return next((stamp for stamp in self._stamps[index:] if stamp is not None), None)

    def index(self, frame: "av.VideoFrame", last: int) -> int:
        """The index of a decoded frame; `last` if it serves no instant."""
        return self._index.get(frame.pts, last)


def choose_clock(path: Path, timing: Timing, fps: float | None, where: str) -> "Counter | Rate | Table":
    """How a file's frames are numbered; where: begins errors. Raises UserError if it has no timestamps but needs them."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        rate, base = nominal_rate(stream, path), stream.time_base
    start = first_timestamp(path)
    if start is None and timing != "timestamp":
        return Counter()
    if start is not None and timing == "rate":
        return Rate(start, rate, base, where)
    if start is None:
        raise UserError(f"{where}: the file has no timestamps, which center.timing: timestamp needs; use rate or index")
    stamps = timestamps(path)
    return Table(list(stamps) if timing == "index" else instant_stamps(stamps, base, fps or float(rate)))


def instant_stamps(stamps: tuple[int, ...], base: Fraction, fps: float) -> list[int | None]:
    """The timestamp nearest to each instant n / fps after the first; None if it is farther than half an interval."""
    seconds = (np.array(stamps) - stamps[0]) * float(base)
    instants = np.arange(int(np.floor(seconds[-1] * fps + 0.5)) + 1) / fps
    nearest = np.searchsorted((seconds[1:] + seconds[:-1]) / 2, instants)
    close = np.abs(seconds[nearest] - instants) <= 0.5 / fps
    # A frame serves one instant only: of two at the same distance, the earlier.
    close[1:] &= (nearest[1:] != nearest[:-1]) | ~close[:-1]
    return [stamps[n] if ok else None for n, ok in zip(nearest, close, strict=True)]


def nominal_rate(stream: "av.VideoStream", path: Path) -> Fraction:
    """The stream's nominal rate: the container's guess if it agrees with the average, which a dropped frame shifts."""
    guess, average = stream.guessed_rate, stream.average_rate
    if guess and (not average or abs(guess / average - 1) < 0.02 or first_timestamp(path) is None):
        return guess
    if not average:
        raise UserError(f"{path}: the video states no frame rate")
    return average


@lru_cache(maxsize=1024)
def first_timestamp(path: Path) -> int | None:
    """The timestamp of a video's first frame, in units of its time base; None for a file without usable timestamps.

    Not the container's start time, which in some formats is when decoding starts.
    """
    with open_video(path) as container:
        # AVI stores the order of decoding alone.
        if container.format.name == "avi" and container.streams.video[0].codec_context.has_b_frames:
            return None
        packets = [packet for packet in islice(read_packets(container), 16) if packet.size and not packet.is_discard]
        stamps = [packet.pts for packet in packets if packet.pts is not None]
    return min(stamps) if stamps and len(set(stamps)) == len(packets) else None


@lru_cache(maxsize=64)
def timestamps(path: Path) -> tuple[int, ...]:
    """All timestamps of a video in order, in units of its time base; read from the packets, without decoding."""
    with open_video(path) as container:
        stamps = [packet.pts for packet in read_packets(container) if packet.size]
    return tuple(sorted({stamp for stamp in stamps if stamp is not None}))
