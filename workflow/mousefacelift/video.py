"""Frame-exact video reading: a frame index means the same instant in every camera, or there is an error."""

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mousefacelift.errors import UserError


def probe(path: Path) -> tuple[int, float]:
    """Number of frames and frame rate (Hz) from a video's header, without decoding; packets are counted where the
    header does not say. Raises UserError if the file is not a readable video.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = _rate(stream, path)
        return stream.frames or sum(1 for packet in container.demux(stream) if packet.size), float(rate)


def read_frames(
    path: Path, frames: range, pixel_format: str, where: str, threads: int = 1
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode `frames` (an increasing range) in order; yields (index, image [H, W] or [H, W, 3]).

    pixel_format: "rgb24" or "gray". Decoding starts at the last key frame before the range, and every frame's timestamp
    must be where a constant rate puts it. A file without usable timestamps (some recorders write all zeros) is decoded
    from its start and its frames are counted. `where` (capture and camera) begins the text of every error.
    """
    if not frames:
        return
    wanted = iter(frames)
    index = next(wanted)
    timed = _has_timestamps(path)
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        rate = _rate(stream, path)
        start = stream.start_time or 0
        if timed and index > 0:
            container.seek(int(start + index / (rate * stream.time_base)), stream=stream, backward=True)
        following = None if timed else 0
        try:
            for frame in container.decode(stream):
                counted = following if not timed else None
                current = _index(frame, start, rate, following, f"{where}: {path}") if counted is None else counted
                following = current + 1
                if current > index:
                    raise UserError(
                        f"{where}: {path}: frame {index} cannot be decoded (the first one found is {current})"
                    )
                if current == index:
                    if frame.is_corrupt:
                        raise UserError(f"{where}: {path}: frame {index} is corrupt")
                    yield index, frame.to_ndarray(format=pixel_format)
                    try:
                        index = next(wanted)
                    except StopIteration:
                        return
        except av.error.FFmpegError as error:
            raise UserError(
                f"{where}: {path}: frame {following or index} cannot be decoded ({error.strerror})"
            ) from None
    raise UserError(
        f"{where}: {path}: the video ends after frame {(following or 0) - 1}; frame {index} is needed (the other cameras have it)"
    )


def _index(frame: av.VideoFrame, start: int, rate: Fraction, expected: int | None, where: str) -> int:
    """A frame's index from its timestamp, which must lie within a quarter of a frame of a constant rate."""
    if frame.pts is None:
        raise UserError(f"{where}: a frame has no timestamp (frame {'?' if expected is None else expected})")
    position = float((frame.pts - start) * frame.time_base * rate)
    index = round(position)
    if abs(position - index) > 0.25 or (expected is not None and index != expected):
        raise UserError(
            f"{where}: frame {index if expected is None else expected} is not where a constant rate of {float(rate):g} Hz puts "
            f"it (found at {position:.2f}): frames were dropped or the rate varies; re-encode the video at a constant rate"
        )
    return index


def _rate(stream: "av.VideoStream", path: Path) -> Fraction:
    """The stream's nominal rate: the container's guess if it agrees with the average, which a dropped frame shifts."""
    guess, average = stream.guessed_rate, stream.average_rate
    if guess and (not average or abs(guess / average - 1) < 0.02 or not _has_timestamps(path)):
        return guess
    if not average:
        raise UserError(f"{path}: the video states no frame rate")
    return average


@lru_cache(maxsize=1024)
def _has_timestamps(path: Path) -> bool:
    """Whether a video's first packets carry distinct timestamps."""
    with _open(path) as container:
        packets = islice(container.demux(container.streams.video[0]), 16)
        stamps = [packet.pts for packet in packets if packet.size]
    return None not in stamps and len(set(stamps)) == len(stamps)


def _open(path: Path) -> "av.container.InputContainer":
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be opened as a video ({error.strerror})") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"{path}: holds no video stream")
    return container
