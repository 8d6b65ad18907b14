"""One camera's recording as a part of its capture: frame k is the capture's frame k, whatever the file calls it."""

from collections.abc import Iterator
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.masks.registry import open_masks
from mousefacelift.recordings.video import Frame, Missing, first_image, length, probe, read_frames


def capture_fps(capture: Capture) -> float:
    """The capture's frame rate in Hz: the table's, or the first camera's. Raises UserError for images without a rate."""
    fps = capture.fps or probe(capture.videos[0]).fps
    if fps is None:
        raise UserError(f"capture {capture.name}: images state no frame rate: give it in the table's column 'fps'")
    return fps


def read_camera(
    capture: Capture, files: tuple[Path, ...], view: int, frames: range, settings: Center, threads: int = 1
) -> Iterator[Frame | Missing]:
    """Yield one camera's frames of a capture in order, or why there is none.

    Args:
        capture: the recording.
        files: its videos, one for each camera.
        view: the camera's place in the capture.
        frames: which of the capture's frames.
        settings: the section `center`.
        threads: of the decoder.

    Raises:
        UserError: a file cannot be opened, or its timestamps do not fit `center.timing`.
    """
    where = f"capture {capture.name}, camera {capture.cameras[view]}"
    numbered = first_image(files[view]) is not None
    local = _shifted(frames, capture.sync[view] + (first_number(capture, settings) if numbered else 0))
    for _, frame in read_frames(files[view], local, where, settings.timing, capture_fps(capture), threads):
        yield frame


def own_frames(capture: Capture, masks: Path, view: int, frames: range, settings: Center) -> range:
    """The indices in one camera's mask file of the capture's frames."""
    return _shifted(
        frames, capture.sync[view] + (first_number(capture, settings) if open_masks(masks).first is not None else 0)
    )


def _shifted(frames: range, by: int) -> range:
    return range(frames.start + by, frames.stop + by, frames.step)


def masks_length(capture: Capture, masks: Path, settings: Center, fps: float) -> int:
    """The index after the last frame of one of a capture's mask files, before `sync` is considered."""
    file = open_masks(masks)
    return file.length(settings.timing, fps) - (0 if file.first is None else first_number(capture, settings))


def first_numbers(capture: Capture) -> dict[Path, int]:
    """The number of the first frame in every recording of the capture whose frames are numbered by names."""
    videos = {path: first_image(path) for path in capture.videos}
    masks = {path: open_masks(path).first for path in capture.masks}
    return {path: number for path, number in {**videos, **masks}.items() if number is not None}


def recording_length(capture: Capture, path: Path, settings: Center, fps: float) -> int:
    """The index after the last frame of one of a capture's recordings, before `sync` is considered."""
    count = length(path, settings.timing, fps)
    return count - first_number(capture, settings) if first_image(path) is not None else count


def first_number(capture: Capture, settings: Center) -> int:
    """The number of frame 0 where names number the frames.

    It is the lowest in any of the capture's recordings. Where only masks are numbered, beside videos that are not, it is the
    lowest if the masks are as many as the frames; else masks are lacking, and numbers count from 0, or from 1 if the last one
    is the number of frames.

    Raises UserError if masks are lacking and it could be either.
    """
    numbers = first_numbers(capture)
    lowest = min(numbers.values(), default=0)
    if not lowest or set(numbers) & set(capture.videos):
        return lowest
    fps = capture_fps(capture)
    frames = max(length(path, settings.timing, fps) for path in capture.videos)
    end = max(open_masks(path).length(settings.timing, fps) for path in capture.masks if path in numbers)
    if end - lowest >= frames:
        return lowest
    if end == frames + 1 or (end <= frames and lowest > 1):
        return end - frames if end > frames else 0
    raise UserError(
        f"capture {capture.name}: the masks' numbers run from {lowest} to {end - 1} and the videos have {frames} frames, so that "
        "it is not clear which frame a number means: number the masks from 0, or write one for every frame"
    )
