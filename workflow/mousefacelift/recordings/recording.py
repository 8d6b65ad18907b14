"""A capture's recordings as one: which frames its cameras have in common, and reading them in step."""

from collections.abc import Iterator
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.video import Frame, Missing, first_image, length, probe, read_frames


def capture_frames(capture: Capture, settings: Center) -> range:
    """The indices of a capture's frames: those that every camera has, `sync` considered.

    Raises UserError, from the files' headers alone, if recordings differ in length or rate by more than `sync` explains,
    masks do not fit their video, or nothing is in common; with on_bad_frame: skip, what a shorter recording lacks is
    dropped frame by frame instead.
    """
    where, strict = f"capture {capture.name}", settings.on_bad_frame == "error"
    fps = capture_fps(capture)
    _check_rates(capture, settings)
    ends = [_length(capture, path, settings, fps) - s for path, s in zip(capture.videos, capture.sync, strict=True)]
    if strict and max(ends) - min(ends) > max(capture.sync) - min(capture.sync):
        listed = ", ".join(
            f"camera {name}: {end + s}" for name, end, s in zip(capture.cameras, ends, capture.sync, strict=True)
        )
        raise UserError(
            f"{where}: the cameras' videos differ in their number of frames ({listed}) by more than the table's column 'sync' "
            "explains. Find out where frames were lost: if frame k is the same instant in all of them up to the shortest one's "
            "end, center.on_bad_frame: skip goes on without what is missing; if they started at different times, say so in "
            "'sync'"
        )
    if settings.masks == "provided":
        _check_masks(capture, settings, fps)
    _check_images(capture, settings)
    first = max(0, -min(capture.sync))
    frames = range(first, max(first, min(ends) if strict else max(ends)))
    if not frames:
        raise UserError(
            f"{where}: the cameras have no frame in common; look at the table's column 'sync': {capture.sync}"
        )
    return frames


def chunk_ranges(frames: range, settings: Center) -> list[range]:
    """The candidate frames of each chunk of a capture with these frames; none is empty."""
    stride, size = settings.stride, settings.chunk_frames
    chunks = (
        range(-(-start // stride) * stride, min(start + size, frames.stop), stride)
        for start in range(frames.start, frames.stop, size)
    )
    return [chunk for chunk in chunks if chunk]


def capture_fps(capture: Capture) -> float:
    """The capture's frame rate in Hz: the table's, or the first camera's. Raises UserError for images without a rate."""
    fps = capture.fps or probe(capture.videos[0]).fps
    if fps is None:
        raise UserError(f"capture {capture.name}: images state no frame rate: give it in the table's column 'fps'")
    return fps


def read_camera(
    capture: Capture, files: tuple[Path, ...], view: int, frames: range, settings: Center, threads: int = 1
) -> Iterator[Frame | Missing]:
    """One camera's frames of a capture, in order, or why there is none. files: the capture's videos or masks."""
    where = f"capture {capture.name}, camera {capture.cameras[view]}"
    shift = capture.sync[view] + (_first_image(capture) if first_image(files[view]) is not None else 0)
    local = range(frames.start + shift, frames.stop + shift, frames.step)
    for _, frame in read_frames(files[view], local, where, settings.timing, capture_fps(capture), threads):
        yield frame


def _first_image(capture: Capture) -> int:
    """The number of frame 0 in the capture's image folders: the lowest in any of them."""
    numbers = [first_image(path) for path in (*capture.videos, *capture.masks)]
    return min((number for number in numbers if number is not None), default=0)


def _length(capture: Capture, path: Path, settings: Center, fps: float) -> int:
    count = length(path, settings.timing, fps)
    return count - _first_image(capture) if first_image(path) is not None else count


def _check_rates(capture: Capture, settings: Center) -> None:
    rates = {name: probe(path).fps for name, path in zip(capture.cameras, capture.videos, strict=True)}
    known = [rate for rate in rates.values() if rate]
    if settings.timing == "rate" and known and max(known) > 1.001 * min(known):
        listed = ", ".join(f"camera {name}: {rate:g}" for name, rate in rates.items() if rate)
        raise UserError(
            f"capture {capture.name}: the cameras' videos state different frame rates, Hz ({listed}). If frame k is the same "
            "instant in all of them, set center.timing: index; if the timestamps are right, center.timing: timestamp"
        )


def _check_masks(capture: Capture, settings: Center, fps: float) -> None:
    if not capture.masks:
        raise UserError(
            f"capture {capture.name}: the table's column 'masks' is empty: name the silhouettes' files there, or set "
            "center.masks: background"
        )
    for name, *pair in zip(capture.cameras, capture.videos, capture.masks, strict=True):
        where = f"capture {capture.name}, camera {name}"
        video, mask = (probe(path) for path in pair)
        if (video.width, video.height) != (mask.width, mask.height):
            raise UserError(
                f"{where}: the video is {video.width}x{video.height} px, its masks {mask.width}x{mask.height} ({pair[1]})"
            )
        frames, masks = (_length(capture, path, settings, fps) for path in pair)
        if frames != masks and settings.on_bad_frame == "error":
            raise UserError(f"{where}: the video has {frames} frames, its masks {masks} ({pair[1]})")


def _check_images(capture: Capture, settings: Center) -> None:
    """Images are numbered by their frames: a folder that starts later than the others lacks their first frames."""
    paths = [p for p in (*capture.videos, *capture.masks) if first_image(p) is not None]
    if len({first_image(path) for path in paths}) > 1 and settings.on_bad_frame == "error":
        listed = ", ".join(f"{path}: {first_image(path)}" for path in paths)
        raise UserError(
            f"capture {capture.name}: the numbers in the images' names, which say what frame they are, begin differently "
            f"({listed}); complete or renumber them, or let center.on_bad_frame: skip drop the frames that some lack"
        )
