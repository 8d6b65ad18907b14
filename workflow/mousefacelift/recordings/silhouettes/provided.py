"""Silhouettes from the mask files that the captures table names."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import capture_fps, read_camera, recording_length
from mousefacelift.recordings.silhouettes.segmentation import NOTHING, Arena, Image
from mousefacelift.recordings.video import Frame, Missing, probe

LABELS_CHECKED = 20  # the first masks of a chunk: are they black and white?


def files(capture: Capture, settings: Center) -> dict[str, tuple[Path, ...] | Path]:
    """The mask files."""
    return {"masks": capture.masks}


def check_files(capture: Capture, settings: Center) -> None:
    """Raise UserError, from the headers alone, if masks are missing or differ from their video in size or length."""
    if not capture.masks:
        raise UserError(
            f"capture {capture.name}: the table's column 'masks' is empty: name the silhouettes' files there, or set "
            "center.masks: background"
        )
    fps = capture_fps(capture)
    for name, *pair in zip(capture.cameras, capture.videos, capture.masks, strict=True):
        where = f"capture {capture.name}, camera {name}"
        video, mask = (probe(path) for path in pair)
        if (video.width, video.height) != (mask.width, mask.height):
            raise UserError(
                f"{where}: the video is {video.width}x{video.height} px, its masks {mask.width}x{mask.height} ({pair[1]})"
            )
        frames, masks = (recording_length(capture, path, settings, fps) for path in pair)
        if frames != masks and settings.on_bad_frame == "error":
            raise UserError(f"{where}: the video has {frames} frames, its masks {masks} ({pair[1]})")


def silhouettes(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, arena: Arena | None = None
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with its mask [H, W]; a frame without a mask is missing. See `registry.Silhouettes`.

    Raises:
        UserError: a mask has another size than its frame, or masks are labels instead of black and white.
    """
    images = read_camera(capture, capture.videos, view, frames, settings, threads)
    masks = read_camera(capture, capture.masks, view, frames, settings, threads)
    for number, (index, frame, mask) in enumerate(zip(frames, images, masks, strict=True)):
        if isinstance(frame, Missing) or isinstance(mask, Missing):
            yield frame if isinstance(frame, Missing) else mask, NOTHING
            continue
        where = f"capture {capture.name}, camera {capture.cameras[view]}, frame {index}"
        if (frame.width, frame.height) != (mask.width, mask.height):
            raise UserError(
                f"{where}: the video is {frame.width}x{frame.height} px, its masks {mask.width}x{mask.height} "
                f"({capture.masks[view]})"
            )
        grey = mask.gray()
        if number < LABELS_CHECKED and (label := _label(grey, settings)):
            raise UserError(
                f"{where}: the mask holds 0 and {label}, but mouse is what is above 127: write the masks as 0 and 255 "
                f"({capture.masks[view]})"
            )
        yield frame, grey


def _label(mask: Image, settings: Center) -> int:
    """The value of a mask that is a label, such as 1, instead of white; 0 for any other mask (a lossy one has noise)."""
    label = int(mask.max())
    marked = cv2.countNonZero(mask)
    return label if 0 < label <= 127 and settings.min_area_px <= marked == np.count_nonzero(mask == label) else 0
