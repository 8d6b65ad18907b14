"""Pictures that show the arena: of the empty arena, and frames of another capture of the same rig."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Background
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.silhouettes.arena import learn_mouse
from mousefacelift.recordings.silhouettes.background import relative_gain, shrink, shrink_factor, to_ycc, without_gain
from mousefacelift.recordings.silhouettes.segmentation import Image
from mousefacelift.recordings.video import probe

PLACE = "{camera}"
# A frame agrees with the picture within this many deviations of all their differences, and within these grey levels.
AGREES, AGREES_LEVELS = 4.0, (4.0, 16.0)
LEAST_FRAMES = 5  # that agree at a pixel, for its noise to be known


def arena_pictures(capture: Capture, settings: Background) -> tuple[Path, ...]:
    """The files of the empty arena that `center.background.image` names, one for each camera; none if it is not set."""
    if settings.image is None:
        return ()
    return tuple(Path(settings.image.replace(PLACE, name)) for name in capture.cameras)


def check_pictures(capture: Capture, settings: Background) -> None:
    """Check, from headers alone, that the pictures of the empty arena are there and fit the videos.

    Raises:
        UserError: the pattern does not tell cameras apart, a file is missing or unreadable, or it has another size than
            the camera's video.
    """
    if settings.image is None:
        return
    where = f"center.background.image, capture {capture.name}"
    if settings.image.count(PLACE) == 0 and len(capture.cameras) > 1:
        raise UserError(f"{where}: {settings.image!r} must hold {PLACE} in place of the camera's name")
    for name, video, picture in zip(capture.cameras, capture.videos, arena_pictures(capture, settings), strict=True):
        if not picture.exists():
            raise UserError(f"{where}, camera {name}: no such file: {picture}")
        sizes = [(probed.width, probed.height) for probed in map(probe, (video, picture))]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{where}, camera {name}: {picture} is {sizes[1][0]}x{sizes[1][1]} px, the video {sizes[0][0]}x{sizes[0][1]}"
            )


def check_other(capture: Capture, other: Capture) -> None:
    """Check, from headers alone, that another capture's frames show the arena of this one.

    Raises:
        UserError: the cameras' names or the sizes of their videos differ.
    """
    where = f"center.background.capture: {other.name} does not fit capture {capture.name}"
    if other.cameras != capture.cameras:
        raise UserError(f"{where}: its cameras are {', '.join(other.cameras)}, not {', '.join(capture.cameras)}")
    for name, *videos in zip(capture.cameras, capture.videos, other.videos, strict=True):
        mine, its = ((probed.width, probed.height) for probed in map(probe, videos))
        if mine != its:
            raise UserError(f"{where}: camera {name} films {its[0]}x{its[1]} px there, {mine[0]}x{mine[1]} here")


def pictured_arena(pictures: Sequence[Image], images: Sequence[Image], settings: Background) -> dict[str, NDArray[Any]]:
    """Take the empty arena from pictures of it; learn its noise, and the mouse's colours, from the recording.

    The pictures may be brighter or darker than the recording: the frames' own brightness is the one that counts. A
    pixel's noise is what its frames differ from the picture by, where they agree with it: so small differences between
    picture and recording, of compression for example, count as noise.

    Args:
        pictures: [H, W, 3] uint8 RGB each, one or more, without a mouse.
        images: [H, W, 3] uint8 RGB each, frames spread over the recording.
        settings: the section `center.background`.

    Returns:
        What `arena.estimate_background` returns.

    Raises:
        UserError: there is no picture or no frame, or they differ in size.
    """
    if not pictures or not images:
        raise UserError("center.background.image: no picture of the empty arena, or no frame, could be read")
    if len(sizes := {image.shape for image in (*pictures, *images)}) > 1:
        raise UserError(
            f"center.background.image: pictures and frames differ in size ({', '.join(map(str, sorted(sizes)))})"
        )
    factor = shrink_factor(images[0].shape[1], settings)
    small = [to_ycc(shrink(image, factor)) for image in images]
    empty = np.median(np.stack(pictures), axis=0).astype(np.uint8) if len(pictures) > 1 else pictures[0]
    level = to_ycc(shrink(empty, factor)).astype(np.float32)
    reference = level[..., 0].astype(np.uint8)
    gains = [relative_gain(ycc[..., 0], reference) for ycc in small]
    usual = float(np.median(gains))
    level[..., 0] = np.clip(level[..., 0] * usual, 0, 255)
    arena = {
        "background": np.clip(np.rint(empty * np.float32(usual)), 0, 255).astype(np.uint8),
        "level": level,
        "noise": _noise(level, [without_gain(ycc, gain / usual) for ycc, gain in zip(small, gains, strict=True)]),
    }
    return arena | learn_mouse(arena, small, settings)


def _noise(level: NDArray[np.float32], values: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Standard deviation [h, w, 2] of luma and chroma from an arena [h, w, 3], of the frames that agree with it."""
    # 1.4826: of the median of absolute values, a standard deviation of Gaussian noise.
    typical = np.median([np.median(np.abs(value - level), axis=(0, 1)) for value in values], axis=0) * 1.4826
    least, most = AGREES_LEVELS
    tolerance = np.clip(AGREES * typical, least, most).astype(np.float32)
    square, count = np.zeros_like(level), np.zeros(level.shape[:2], np.float32)
    for value in values:
        change = np.abs(value - level)
        agrees = (change <= tolerance).all(axis=-1)
        square += change**2 * agrees[..., None]
        count += agrees
    known = (count >= LEAST_FRAMES)[..., None]
    deviation = np.where(known, np.sqrt(square / np.maximum(count, 1)[..., None]), typical.astype(np.float32))
    return np.dstack([deviation[..., 0], deviation[..., 1:].max(axis=-1)]).astype(np.float32)
