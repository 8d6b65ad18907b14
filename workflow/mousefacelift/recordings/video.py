"""Frame-exact access to recordings: a frame index means the same instant in every camera, or it is said to be missing.

A recording is a video, a folder with one video in parts (`0.mp4`, `3000.mp4`, …), or a folder of images.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.recordings.clocks import (
    Counter,
    Rate,
    Timing,
    choose_clock,
    first_timestamp,
    instant_stamps,
    nominal_rate,
    open_video,
    read_packets,
    timestamps,
)

Image = NDArray[np.uint8]

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".wmv"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
# Frames this far apart are sought one by one: about the longest distance between key frames that encoders use.
SEEK_STEP = 250
# One byte per sample, one plane per channel: a window can be cut out before the conversion to RGB.
_PLANAR = {"gray", "yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}


class Frame:
    """One frame. Pixels are converted on demand, and a part alone if that is enough.

    On one thread: by default every conversion starts its own threads, which on small parts costs more than the work.
    """

    def __init__(self, source: "av.VideoFrame | Image") -> None:
        self._source = source
        self.height, self.width = source.shape[:2] if isinstance(source, np.ndarray) else (source.height, source.width)

    def rgb(self, window: tuple[int, int, int, int] | None = None) -> Image:
        """The frame [H, W, 3], or its part [h, w, 3] at window x, y, w, h."""
        x, y, w, h = window or (0, 0, self.width, self.height)
        source = self._source
        if isinstance(source, np.ndarray):
            part = source[y : y + h, x : x + w]
            return cv2.cvtColor(part, cv2.COLOR_GRAY2RGB) if part.ndim == 2 else np.ascontiguousarray(part)
        if window is None or source.format.name not in _PLANAR:
            return source.to_ndarray(format="rgb24", threads=1)[y : y + h, x : x + w]
        # Cut at even pixels, where a chroma sample starts, and convert the part alone.
        x0, y0 = x & ~1, y & ~1
        w0, h0 = min((x + w + 1) & ~1, self.width) - x0, min((y + h + 1) & ~1, self.height) - y0
        cut = av.VideoFrame(w0, h0, source.format.name)
        cut.colorspace, cut.color_range = source.colorspace, source.color_range
        for target, plane in zip(cut.planes, source.planes, strict=True):
            sx, sy = round(self.width / plane.width), round(self.height / plane.height)
            row, column = y0 // sy, x0 // sx
            rows = _rows(plane)[row : row + target.height, column : column + target.width]
            _rows(target)[:, : target.width] = rows
        return cut.to_ndarray(format="rgb24", threads=1)[y - y0 : y - y0 + h, x - x0 : x - x0 + w]

    def gray(self) -> Image:
        """The frame's brightness [H, W]."""
        source = self._source
        if isinstance(source, np.ndarray):
            return source if source.ndim == 2 else cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)
        if source.format.name == "gray":
            return _rows(source.planes[0])[:, : self.width]
        return source.to_ndarray(format="gray", threads=1)

    def alpha(self) -> Image | None:
        """The frame's opacity [H, W]; None if it has none."""
        source = self._source
        if isinstance(source, np.ndarray) or not any(part.is_alpha for part in source.format.components):
            return None
        return np.ascontiguousarray(source.to_ndarray(format="rgba", threads=1)[..., 3])

    def gray16(self) -> NDArray[np.uint16] | None:
        """The frame's brightness [H, W] in 16 bits; None if it has fewer."""
        source = self._source
        if isinstance(source, np.ndarray) or source.format.name not in ("gray16le", "gray16be"):
            return None
        return source.to_ndarray(format="gray16le", threads=1)

    @property
    def is_grey(self) -> bool:
        """Whether the frame has no colours."""
        source = self._source
        return source.ndim == 2 if isinstance(source, np.ndarray) else source.format.name.startswith("gray")


def _rows(plane: "av.video.plane.VideoPlane") -> Image:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


@dataclass(frozen=True)
class Missing:
    """There is no usable frame at an index, and why."""

    reason: str


@dataclass(frozen=True)
class Probe:
    """A recording's frame rate in Hz (None for images) and size in pixels."""

    fps: float | None
    width: int
    height: int


@lru_cache(maxsize=1024)
def probe(path: Path) -> Probe:
    """What a recording's headers say, without decoding.

    Raises UserError if there is no recording at `path`, or it cannot be read.
    """
    first, last = (_parts(path)[k].path for k in (0, -1))
    if first.suffix.lower() in IMAGE_SUFFIXES:
        height, width = read_image(first).shape[:2]
        return Probe(None, width, height)
    if _probe_video(first) != _probe_video(last):
        raise UserError(f"{path}: its parts {first.name} and {last.name} differ in size or frame rate")
    return _probe_video(first)


def _probe_video(path: Path) -> Probe:
    with open_video(path) as container:
        stream = container.streams.video[0]
        return Probe(float(nominal_rate(stream, path)), stream.codec_context.width, stream.codec_context.height)


def first_image(path: Path) -> int | None:
    """The number of the first image of a folder of images; None for a video."""
    part = _parts(path)[0]
    return part.start if part.path.suffix.lower() in IMAGE_SUFFIXES else None


def image_files(path: Path) -> dict[int, Path] | None:
    """The images of a folder by their numbers; None for a video."""
    parts = _parts(path)
    return {part.start: part.path for part in parts} if parts[0].path.suffix.lower() in IMAGE_SUFFIXES else None


@lru_cache(maxsize=1024)
def length(path: Path, timing: Timing, fps: float | None) -> int:
    """The index after a recording's last, as `read_frames` numbers them; missing frames count."""
    part = _parts(path)[-1]
    if part.path.suffix.lower() in IMAGE_SUFFIXES:
        return part.start + 1
    start = first_timestamp(part.path)
    if timing == "index" or start is None:
        return part.start + _count(part.path)
    with open_video(part.path) as container:
        stream = container.streams.video[0]
        if timing == "timestamp":
            return len(
                instant_stamps(timestamps(part.path), stream.time_base, fps or float(nominal_rate(stream, part.path)))
            )
        clock = Rate(start, nominal_rate(stream, part.path), stream.time_base, str(part.path))
        return part.start + 1 + clock.position(_last_timestamp(container, stream))


def _last_timestamp(container: "av.container.InputContainer", stream: "av.VideoStream") -> int:
    """The largest timestamp of a file's last packets, or of all packets where a file cannot be sought."""
    # A second before the end, because without key frames to go to the packets around that place may be out of order.
    with suppress(av.error.FFmpegError):
        if stream.duration is not None:
            end = (stream.start_time or 0) + stream.duration
            container.seek(max(end - int(1 / stream.time_base), 0), stream=stream, backward=True)
        elif container.duration is not None:
            end = (container.start_time or 0) + container.duration
            container.seek(max(end - av.time_base, 0), backward=True)
    return max((packet.pts for packet in read_packets(container) if packet.pts is not None), default=0)


def _count(path: Path) -> int:
    """Number of frames by the file's header, or else by its packets."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        return stream.frames or sum(1 for packet in read_packets(container) if packet.size)


@dataclass(frozen=True)
class _Part:
    """A file of a recording, and the index of its first frame."""

    path: Path
    start: int


@lru_cache(maxsize=1024)
def _parts(path: Path) -> tuple[_Part, ...]:
    """The files of a recording, in order."""
    if not path.is_dir():
        return (_Part(path, 0),)
    files = sorted(
        (f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")), key=lambda f: natural_key(f.name)
    )
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
    if bool(images) == bool(videos):
        raise UserError(
            f"{path}: the folder of a recording holds {'both images and videos' if images else 'neither images nor videos'}; "
            "expected image files, or the parts of one video (0.mp4, 3000.mp4, …)"
        )
    return _image_parts(path, images) if images else _video_parts(videos)


def _image_parts(folder: Path, images: list[Path]) -> tuple[_Part, ...]:
    """Images by the last number in their names; if some have none, by their natural order."""
    numbers = [re.search(r"(\d+)\D*$", f.stem) for f in images]
    if not all(numbers):
        return tuple(_Part(f, k) for k, f in enumerate(images))
    indices = [int(m[1]) for m in numbers if m]
    if len(set(indices)) < len(indices):
        raise UserError(f"{folder}: two images have the same number; keep one recording to a folder")
    return tuple(_Part(f, k) for k, f in sorted(zip(indices, images, strict=True)))


def _video_parts(videos: list[Path]) -> tuple[_Part, ...]:
    """Parts of one video. Names that are numbers, from 0, say at which frame a part starts; others follow one another."""
    numbered = all(f.stem.isdecimal() for f in videos) and int(videos[0].stem) == 0
    parts, end = [], 0
    for f in videos:
        start = int(f.stem) if numbered else end
        if start < end:
            raise UserError(
                f"{f}: by its name it starts at frame {start}, but the part before it ends at frame {end - 1}"
            )
        parts.append(_Part(f, start))
        end = start + _count(f)
    return tuple(parts)


def read_frames(
    path: Path, frames: range, where: str, timing: Timing = "rate", fps: float | None = None, threads: int = 1
) -> Iterator[tuple[int, Frame | Missing]]:
    """Yield each of `frames` (an increasing range of indices), in order: the frame, or why there is none.

    Decoding is sequential from the last key frame before the range; from one before each frame if these are far apart.
    An image's index is the last number in its name, or without numbers its place in natural order. A video without
    usable timestamps (some recorders write all zeros) is decoded from its start, and its frames are counted.

    Args:
        path: a video, a folder with the parts of one, or a folder of images.
        frames: indices, from the recording's first frame.
        where: capture and camera, which begin the text of errors.
        timing: which instant index n of a video means.
            "rate": frames stand at a constant rate by their timestamps, which are checked: a dropped frame is missing.
            "index": the n-th frame, whatever its timestamp, as a hardware trigger makes it.
            "timestamp": n / fps after the first frame; the nearest frame within half an interval is taken.
        fps: for "timestamp", in Hz; None is the file's own rate.
        threads: of the decoder.

    Raises:
        UserError: a file cannot be opened, or its timestamps do not fit `timing`.
    """
    parts = _parts(path)
    if parts[0].path.suffix.lower() in IMAGE_SUFFIXES:
        yield from _read_images(path, {part.start: part.path for part in parts}, frames, where)
        return
    if timing == "timestamp" and len(parts) > 1:
        raise UserError(f"{where}: {path}: center.timing: timestamp needs a video in one file, found {len(parts)}")
    ends = [part.start for part in parts[1:]] + [max(frames.stop, 0)]
    for part, end in zip(parts, ends, strict=True):
        first = next((k for k in frames if part.start <= k < end), None)
        if first is None:
            continue
        local = range(first - part.start, min(frames.stop, end) - part.start, frames.step)
        for index, frame in _read_video(part.path, local, f"{where}: {part.path}", timing, fps, threads):
            yield index + part.start, frame


def _read_images(
    folder: Path, by_index: dict[int, Path], frames: range, where: str
) -> Iterator[tuple[int, Frame | Missing]]:
    size = probe(folder)
    for index in frames:
        if index in by_index:
            yield index, _image_frame(by_index[index], (size.width, size.height), where)
        else:
            yield index, Missing(f"{where}: {folder}: no image {index}")


def _read_video(
    path: Path, frames: range, where: str, timing: Timing, fps: float | None, threads: int, seek: bool = True
) -> Iterator[tuple[int, Frame | Missing]]:
    """`read_frames` of one file; indices from its first frame. seek: go to the first frame wanted instead of decoding to it."""
    clock = choose_clock(path, timing, fps, where)
    if frames.step > SEEK_STEP and len(frames) > 1 and not isinstance(clock, Counter):
        for single in frames:
            yield from _read_video(path, range(single, single + 1), where, timing, fps, threads)
        return
    wanted = iter(frames)
    index: int | None = next(wanted)
    dropped = "no frame has its time: frames were dropped, or the rate varies"
    reason, last = dropped, -1
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        sought = False
        if not isinstance(clock, Counter):
            # An error instead of an invented picture; where frames are counted, one less would shift all that follow.
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
            if seek and (target := clock.seek_to(frames.start)) is not None:
                container.seek(target, stream=stream, backward=True)
                sought = True
        for frame, damage in _decode(container, stream):
            if frame is None:
                reason = f"cannot be decoded ({damage})"
                continue
            last = clock.index(frame, last)
            if sought and (damage or not frame.key_frame or last > frames.start):
                break  # not a key frame before the place asked for: some formats cannot be sought
            sought = False
            # What was passed over is missing; `reason` is what was damaged since the last sound frame, if anything.
            while index is not None and index < last:
                yield index, Missing(f"{where}: frame {index}: {reason}")
                index = next(wanted, None)
            if index == last:
                yield index, Missing(f"{where}: frame {index} is damaged: {damage}") if damage else Frame(frame)
                index = next(wanted, None)
            if index is None:
                return
            if not damage:
                reason = dropped
    # Nothing usable came after seeking: decode from the start, which finds every frame that there is.
    if sought:
        yield from _read_video(path, frames, where, timing, fps, threads, seek=False)
        return
    while index is not None:
        ends = f"the video ends after frame {last}" if reason == dropped else reason
        yield index, Missing(f"{where}: frame {index}: {ends}")
        index = next(wanted, None)


def _decode(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> Iterator[tuple["av.VideoFrame | None", str | None]]:
    """Frames in order of display with what is wrong with them; (None, why) where decoding fails.

    What follows a damaged frame is built upon it and counts as damaged up to the next sound key frame.
    """
    damage: str | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            yield None, str(error.strerror)
            return
        if packet is None:
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError as error:
            damage = str(error.strerror)
            yield None, damage
            continue
        for frame in decoded:
            if frame.is_corrupt:
                damage = "the decoder calls it corrupt, or one before it that it needs"
            elif frame.key_frame:
                damage = None
            yield frame, damage


def read_image(path: Path) -> Image:
    """An image [H, W] or [H, W, 3] RGB. Raises UserError if it cannot be read or has more than 8 bits."""
    image = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise UserError(f"{path}: cannot be read as an image")
    if image.dtype != np.uint8:
        raise UserError(f"{path}: has {8 * image.itemsize} bits per value; convert the images to 8 bits")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _image_frame(path: Path, size: tuple[int, int], where: str) -> Frame | Missing:
    try:
        frame = Frame(read_image(path))
    except UserError as error:
        return Missing(f"{where}: {error}")
    if (frame.width, frame.height) != size:
        return Missing(f"{where}: {path}: is {frame.width}x{frame.height} px, the first one {size[0]}x{size[1]}")
    return frame
