"""One camera's recording as a part of its capture: frame k is the capture's frame k, whatever the file calls it."""

from collections.abc import Iterator
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
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
        files: its videos or its masks, one for each camera.
        view: the camera's place in the capture.
        frames: which of the capture's frames.
        settings: the section `center`.
        threads: of the decoder.

    Raises:
        UserError: a file cannot be opened, or its timestamps do not fit `center.timing`.
    """
    where = f"capture {capture.name}, camera {capture.cameras[view]}"
    shift = capture.sync[view] + (_first_image(capture) if first_image(files[view]) is not None else 0)
    local = range(frames.start + shift, frames.stop + shift, frames.step)
    for _, frame in read_frames(files[view], local, where, settings.timing, capture_fps(capture), threads):
        yield frame


def recording_length(capture: Capture, path: Path, settings: Center, fps: float) -> int:
    """The index after the last frame of one of a capture's recordings, before `sync` is considered."""
    count = length(path, settings.timing, fps)
    return count - _first_image(capture) if first_image(path) is not None else count


def _first_image(capture: Capture) -> int:
    """The number of frame 0 in the capture's image folders: the lowest in any of them."""
    numbers = [first_image(path) for path in (*capture.videos, *capture.masks)]
    return min((number for number in numbers if number is not None), default=0)
