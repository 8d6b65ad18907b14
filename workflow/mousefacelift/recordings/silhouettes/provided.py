"""Silhouettes from the mask files that the captures table names."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import capture_fps, read_camera, recording_length
from mousefacelift.recordings.silhouettes.segmentation import NOTHING, Arena, Image
from mousefacelift.recordings.video import Frame, Missing, probe

Identities = NDArray[np.uint16]

LABELS_CHECKED = 20  # the first masks of a chunk: are they black and white?
ZERO = 65535  # stands for the animal of number 0 in an image of identities, where 0 is nothing


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


def label_of(capture: Capture, settings: Center) -> int | None:
    """The number that the capture's animal has in the masks; None: masks hold one animal."""
    return settings.animal if capture.label is None else capture.label


def identity(capture: Capture, settings: Center) -> int:
    """The value of the capture's animal in the images of `identities`."""
    label = label_of(capture, settings)
    return 1 if label is None else label or ZERO


def identities(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1
) -> Iterator[tuple[Frame | Missing, Identities]]:
    """A camera's frames in order, each with the animals in it [H, W] uint16; a frame without a mask is missing.

    0 is nothing. Of plain masks, and of labels without a choice of animal, 1 is mouse; else an animal has its label, but
    for label 0, which has the value ZERO. `identity` gives a capture's own.

    Raises:
        UserError: as for `silhouettes`.
    """
    for frame, mask in _masks(capture, view, frames, settings, threads):
        if isinstance(frame, Missing):
            yield frame, np.zeros((0, 0), np.uint16)
        elif _labelled(capture, settings):
            yield frame, mask.astype(np.uint16)
        else:
            yield frame, (mask > 127).astype(np.uint16)


def silhouettes(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, arena: Arena | None = None
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with its mask [H, W]; a frame without a mask is missing. See `registry.Silhouettes`.

    Raises:
        UserError: a mask has another size than its frame, or masks are labels instead of black and white.
    """
    for frame, mask in _masks(capture, view, frames, settings, threads):
        if isinstance(frame, Missing) or not _labelled(capture, settings):
            yield frame, mask
        else:
            yield frame, (mask == identity(capture, settings)).astype(np.uint8) * np.uint8(255)


def _labelled(capture: Capture, settings: Center) -> bool:
    """Whether masks hold labels: a label to look for says so, too."""
    return settings.masks_are == "labels" or label_of(capture, settings) is not None


def _masks(
    capture: Capture, view: int, frames: range, settings: Center, threads: int
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with its mask [H, W]: labels, or else what is above 127 is mouse."""
    images = read_camera(capture, capture.videos, view, frames, settings, threads)
    masks = read_camera(capture, capture.masks, view, frames, settings, threads)
    labelled = _labelled(capture, settings)
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
        if settings.masks_are == "alpha":
            raise UserError(f"{where}: the mask has no alpha channel ({capture.masks[view]})")
        if settings.masks_are == "inverted":
            yield frame, 255 - grey
            continue
        if not labelled and number < LABELS_CHECKED and (label := _label(grey, settings)):
            raise UserError(
                f"{where}: the mask holds 0 and {label}, but mouse is what is above 127: write the masks as 0 and 255, or "
                f"set center.masks_are: labels ({capture.masks[view]})"
            )
        if labelled and label_of(capture, settings) is None:
            seen = np.unique(grey)
            if len(seen[seen > 0]) > 1:
                raise UserError(
                    f"{where}: the mask holds the labels {', '.join(map(str, seen[seen > 0]))}: say which is the mouse in the "
                    f"table's column 'label' or in center.animal ({capture.masks[view]})"
                )
            grey = (grey > 0).astype(np.uint8)
        yield frame, grey


def _label(mask: Image, settings: Center) -> int:
    """The value of a mask that is a label, such as 1, instead of white; 0 for any other mask (a lossy one has noise)."""
    label = int(mask.max())
    marked = cv2.countNonZero(mask)
    return label if 0 < label <= 127 and settings.min_area_px <= marked == np.count_nonzero(mask == label) else 0
