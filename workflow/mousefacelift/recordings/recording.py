"""A capture as a whole: which frames its cameras have in common, in which chunks, and its calibrated rig."""

from collections.abc import Mapping
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.geometry.camera import Rig
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import capture_fps, first_number, first_numbers, recording_length
from mousefacelift.recordings.silhouettes.registry import method
from mousefacelift.recordings.video import probe
from mousefacelift.rigs.checks import check_lengths
from mousefacelift.rigs.names import match_cameras
from mousefacelift.rigs.registry import read_rig


def capture_frames(capture: Capture, settings: Center) -> range:
    """The indices of a capture's frames: those that every camera has, `sync` considered.

    With on_bad_frame: skip, the frames that a shorter recording lacks are in common too, and dropped one by one later.

    Raises UserError, from the files' headers alone, if recordings differ in length or rate by more than `sync` explains,
    the files that the silhouettes' method reads do not fit the videos, or no frame is in common.
    """
    where, strict = f"capture {capture.name}", settings.on_bad_frame == "error"
    fps = capture_fps(capture)
    _check_rates(capture, settings)
    ends = [
        recording_length(capture, path, settings, fps) - s for path, s in zip(capture.videos, capture.sync, strict=True)
    ]
    if strict and max(ends) - min(ends) > max(capture.sync) - min(capture.sync):
        listed = ", ".join(
            f"camera {name}: {end + s}" for name, end, s in zip(capture.cameras, ends, capture.sync, strict=True)
        )
        raise UserError(
            f"{where}: the cameras' videos differ in their number of frames ({listed}) by more than the table's column 'sync' "
            "explains. Find out where frames were lost. If frame k is the same instant in all videos up to the end of the "
            "shortest, set center.on_bad_frame: skip, which drops the rest; if the videos started at different times, state "
            "that in 'sync'"
        )
    method(settings.masks).check_files(capture, settings)
    check_numbers(capture, settings)
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


def read_capture_rig(capture: Capture) -> Rig:
    """The capture's cameras, calibrated, in millimetres. Raises UserError if the calibration does not fit the videos."""
    where = f"capture {capture.name}"
    source: Path | Mapping[str, Path] = (
        capture.calibration
        if isinstance(capture.calibration, Path)
        else dict(zip(capture.cameras, capture.calibration, strict=True))
    )
    calibrated = read_rig(source, capture.format, capture.unit, where)
    check_lengths(calibrated, where)  # also of a format whose unit read_rig leaves open
    sizes = [(video.width, video.height) for video in map(probe, capture.videos)]
    return match_cameras(calibrated, capture.cameras, sizes, where, capture.calibration_names)


def _check_rates(capture: Capture, settings: Center) -> None:
    rates = {name: probe(path).fps for name, path in zip(capture.cameras, capture.videos, strict=True)}
    known = [rate for rate in rates.values() if rate]
    if settings.timing == "rate" and known and max(known) > 1.001 * min(known):
        listed = ", ".join(f"camera {name}: {rate:g}" for name, rate in rates.items() if rate)
        raise UserError(
            f"capture {capture.name}: the cameras' videos state different frame rates, Hz ({listed}). If frame k is the same "
            "instant in all of them, set center.timing: index; if the timestamps are right, center.timing: timestamp"
        )


def check_numbers(capture: Capture, settings: Center) -> None:
    """Raise UserError if a folder of images, which their frames number, starts later than the others and frames may not lack."""
    first = first_numbers(capture)
    if settings.on_bad_frame == "error" and first and max(first.values()) > first_number(capture, settings):
        listed = ", ".join(f"{path}: {number}" for path, number in first.items())
        raise UserError(
            f"capture {capture.name}: the numbers in the images' names, which are those of the frames, begin differently "
            f"({listed}). Complete or renumber the images, or set center.on_bad_frame: skip, which drops the frames that some "
            "lack"
        )
