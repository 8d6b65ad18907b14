"""Silhouettes from the mask files that the captures table names, in any form that `masks.registry` knows."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.animals import label_of
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.masks.meaning import Meaning, several
from mousefacelift.recordings.masks.pictures import resize
from mousefacelift.recordings.masks.registry import open_masks
from mousefacelift.recordings.masks.stored import ZERO, MaskFile, Stored
from mousefacelift.recordings.reading import (
    capture_fps,
    masks_length,
    own_frames,
    read_camera,
    recording_length,
)
from mousefacelift.recordings.silhouettes.segmentation import NOTHING, Arena, Image
from mousefacelift.recordings.video import Frame, Missing, probe

Identities = NDArray[np.uint16]

LARGEST_RATIO = 8  # of a video's size to its masks', either way
SAMPLED = 16  # masks from all over a file, to settle a doubt


def files(capture: Capture, settings: Center) -> dict[str, tuple[Path, ...] | Path]:
    """The mask files."""
    return {"masks": capture.masks}


def check_files(capture: Capture, settings: Center) -> None:
    """Raise UserError as `check_headers`, or if a camera's first mask holds something else than the settings say.

    So masks of another kind stop a run before its first job.
    """
    check_headers(capture, settings)
    first = max(0, -min(capture.sync))
    for view, name in enumerate(capture.cameras):
        meaning = _meaning(capture, view, settings)
        next(masks(capture, view, range(first, first + 1), settings, meaning=meaning))
        meaning.survey(f"capture {capture.name}, camera {name}")


def check_headers(capture: Capture, settings: Center) -> None:
    """Raise UserError, from the headers alone, if masks are missing, do not fit their video, or lack the chosen animal."""
    if not capture.masks:
        raise UserError(
            f"capture {capture.name}: the table's column 'masks' is empty: name the silhouettes' files there, or set "
            "center.masks: background"
        )
    fps = capture_fps(capture)
    for name, video, path in zip(capture.cameras, capture.videos, capture.masks, strict=True):
        where = f"capture {capture.name}, camera {name}"
        file, probed = open_masks(path), probe(video)
        check_size((probed.width, probed.height), file.size, where, path)
        _check_labels(file, capture, settings, f"{where}: {path}")
        frames, count = recording_length(capture, video, settings, fps), masks_length(capture, path, settings, fps)
        if frames != count and settings.on_bad_frame == "error":
            raise UserError(f"{where}: the video has {frames} frames, its masks {count} ({path})")


def check_size(video: tuple[int, int], masks: tuple[int, int], where: str, path: Path) -> None:
    """Raise UserError unless masks have the video's width and height, or both enlarged or reduced alike."""
    ratio = Fraction(video[0], masks[0])
    if ratio != Fraction(video[1], masks[1]) or not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
        raise UserError(
            f"{where}: the video is {video[0]}x{video[1]} px, its masks {masks[0]}x{masks[1]} ({path}); masks of another size "
            f"are enlarged or reduced if both sides have the same ratio, up to {LARGEST_RATIO}"
        )


def _check_labels(masks: MaskFile, capture: Capture, settings: Center, where: str) -> None:
    """Raise UserError if the chosen animal cannot be in the masks, or several are there and none was chosen."""
    label = label_of(capture, settings.animal)
    chosen = settings.masks_are == "labels" or label is not None
    if settings.masks_are in ("alpha", "inverted") and (label is not None or masks.labels is not None):
        raise UserError(f"{where}: center.masks_are: {settings.masks_are} does not go with masks of numbered animals")
    if chosen and masks.lossy:
        raise UserError(
            f"{where}: {masks.lossy} does not keep the labels' values: write them as PNG, or as FFV1 in a .mkv file"
        )
    if masks.labels is None:
        if label == 0:
            raise UserError(f"{where}: in these masks 0 is where no animal is; the mouse's label is another number")
        return
    if label is None and len(masks.labels) > 1:
        raise UserError(f"{where}: the masks hold {several(masks.labels)}")
    if label is not None and label not in masks.labels:
        listed = ", ".join(map(str, masks.labels)) or "none"
        raise UserError(f"{where}: the masks do not hold the animal {label}; labels there: {listed}")


def identity(capture: Capture, settings: Center) -> int:
    """The value of the capture's animal in the images of `identities`."""
    label = label_of(capture, settings.animal)
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
    meaning = _meaning(capture, view, settings)
    for frame, mask in _masks(capture, view, frames, settings, threads, meaning):
        if isinstance(frame, Missing):
            yield frame, np.zeros((0, 0), np.uint16)
        else:
            yield frame, (mask if meaning.labelled else mask > 127).astype(np.uint16)


def silhouettes(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, arena: Arena | None = None
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with its mask [H, W]; a frame without a mask is missing. See `registry.Silhouettes`.

    Raises:
        UserError: a mask does not fit its frame's size, or holds something else than `center.masks_are` says.
    """
    meaning, own = _meaning(capture, view, settings), identity(capture, settings)
    for frame, mask in _masks(capture, view, frames, settings, threads, meaning):
        if isinstance(frame, Missing) or not meaning.labelled:
            yield frame, mask
        else:
            yield frame, (mask == own).astype(np.uint8) * np.uint8(255)


def is_labelled(capture: Capture, view: int, settings: Center) -> bool:
    """Whether `masks` gives the animals' numbers of a camera."""
    return _meaning(capture, view, settings).labelled


def masks(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, meaning: Meaning | None = None
) -> Iterator[NDArray[Any] | Missing]:
    """A camera's masks alone, in their own size [h, w]: what is above 127 is mouse, or the animals' numbers.

    meaning: how they are understood, by default as the settings say. Raises UserError as for `silhouettes`.
    """
    meaning = meaning or _meaning(capture, view, settings)
    path, where = capture.masks[view], f"capture {capture.name}, camera {capture.cameras[view]}"
    own = own_frames(capture, path, view, frames, settings)
    stored = open_masks(path).read(own, where, settings.timing, capture_fps(capture), threads)
    for index, each in zip(frames, stored, strict=True):
        if isinstance(each, Missing):
            yield each
        elif meaning.labelled:
            yield meaning.animals(each, f"{where}, frame {index}")
        else:
            yield meaning.mouse(each, f"{where}, frame {index}")
    meaning.finish()


def _meaning(capture: Capture, view: int, settings: Center) -> Meaning:
    path, fps = capture.masks[view], capture_fps(capture)
    file = open_masks(path)

    def elsewhere() -> Iterator[Stored]:
        first, end = file.first or 0, file.length(settings.timing, fps)
        spread = range(first, end, max(1, (end - first) // SAMPLED))
        found = file.read(spread, f"capture {capture.name}", settings.timing, fps, 1)
        yield from (each for each in found if not isinstance(each, Missing))

    return Meaning(file, settings.masks_are, label_of(capture, settings.animal), settings.min_area_px, path, elsewhere)


def _masks(
    capture: Capture, view: int, frames: range, settings: Center, threads: int, meaning: Meaning
) -> Iterator[tuple[Frame | Missing, NDArray[Any]]]:
    """A camera's frames in order, each with its mask [H, W]: labels, or else what is above 127 is mouse."""
    images = read_camera(capture, capture.videos, view, frames, settings, threads)
    found = masks(capture, view, frames, settings, threads, meaning)
    for index, frame, mask in zip(frames, images, found, strict=True):
        if isinstance(frame, Missing):
            yield frame, NOTHING
        elif isinstance(mask, Missing):
            yield mask, NOTHING
        else:
            size, own = (frame.width, frame.height), (mask.shape[1], mask.shape[0])
            where = f"capture {capture.name}, camera {capture.cameras[view]}, frame {index}"
            check_size(size, own, where, capture.masks[view])
            yield frame, mask if own == size else resize(mask, size)
