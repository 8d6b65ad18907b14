"""Whether a mouse moves enough for the empty arena to be found behind it, from the pictures of one camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.recordings.silhouettes.background import disc, relative_gain
from mousefacelift.recordings.silhouettes.segmentation import Image

# A value that a pixel keeps may vary by this much to either side, grey levels, or by three deviations of the noise.
STEADY, NOISES = 2.0, 3.0
LEAST_FRAMES = 10  # of fewer, shares of the frames say nothing
# Of the area that differs in a frame (median). Where a mouse stays, its fur and limbs move on the spot: most of its pixels
# show no value in half of the frames. Measured at 0.5: 1.1 to 1.4 where it stays, at most 0.95 where it walks or rears;
# at 0.35: 0.55 to 1.0, and at most 0.48.
UNSETTLED = ((0.5, 1.0), (0.35, 0.5))
# Asleep: in most frames next to nothing differs; when it moves, the place it left differs in all of them alike.
QUIET, SLEEPS, LEFT = 0.3, 0.7, 0.3
# A mouse that only trembles: what differs is a rim, thin for its extent, and stays within one mouse's length.
THIN, EXTENT = 0.12, 1.6


@dataclass(frozen=True)
class Movement:
    """How one camera's pictures change.

    Attributes:
        moves: whether anything that could be an animal differs in any frame from what the frames have in common.
        still: whether the mouse stays in one place for so long that the arena behind it is not seen; False of fewer than
        LEAST_FRAMES frames, which do not tell.
        still_share: share of the frames in which what moves is at its most usual place.
    """

    moves: bool
    still: bool
    still_share: float


def movement(small: Sequence[Image], min_area: float) -> Movement:
    """Judge whether a mouse moves through a camera's pictures, without knowing the mouse or the arena.

    Args:
        small: n frames [h, w, 3] uint8 Y Cr Cb at the working scale, spread over the recording.
        min_area: what differs in less than this share of a frame's pixels is no animal.

    Returns:
        The judgement. One camera alone can be wrong, where something else moves: ask most of them.
    """
    level = _even_brightness(np.stack([ycc[..., 0] for ycc in small]))
    share, differs = _usual(level)
    area = differs.reshape(len(level), -1).sum(axis=1, dtype=np.int64)
    if area.max() < min_area * share.size:
        return Movement(False, False, 1.0)
    extent, thickness, place = (np.array(each) for each in zip(*map(_shape, differs), strict=True))
    usual = max(float(np.median(area)), 1.0)
    unsettled = all(np.count_nonzero(share < least) > much * usual for least, much in UNSETTLED)
    quiet = area < QUIET * np.percentile(area, 95)
    left = np.count_nonzero(differs[~quiet].mean(axis=0) > 0.8) if not quiet.all() else 0
    asleep = quiet.mean() > SLEEPS and left > LEFT * np.median(area[~quiet])
    everywhere = _shape(np.asarray(differs.any(axis=0), np.uint8))[0]
    trembles = np.median(thickness / extent) < THIN and everywhere < EXTENT * np.median(extent)
    near = np.linalg.norm(place - np.median(place, axis=0), axis=1) < np.median(extent)
    still_share = quiet.mean() if asleep else (near | quiet).mean()
    still = len(level) >= LEAST_FRAMES and bool(unsettled or asleep or trembles)
    return Movement(True, still, float(still_share))


def _even_brightness(luma: Image) -> NDArray[np.float32]:
    """Frames [n, h, w] with the brightness of their median, a little blurred against noise."""
    middle = np.median(luma, axis=0).astype(np.uint8)
    return np.stack([cv2.blur(y / np.float32(relative_gain(y, middle)), (3, 3)) for y in luma])


def _usual(level: NDArray[np.float32]) -> tuple[NDArray[np.float64], Image]:
    """Each pixel's most frequent value: in what share of the frames it shows it [h, w]; where frames differ [n, h, w]."""
    flicker = np.median(np.abs(np.diff(level, axis=0)), axis=0) / np.float32(0.6745 * np.sqrt(2))
    steady = np.float32(max(NOISES * float(np.median(flicker)), STEADY))
    held = np.zeros(level.shape[1:], np.int16)
    low = level[0].copy()
    for start in level:
        count = ((level >= start) & (level <= start + 2 * steady)).sum(axis=0, dtype=np.int16)
        low = np.where(count > held, start, low)
        held = np.maximum(held, count)
    other = (level < low - STEADY) | (level > low + 2 * steady + STEADY)
    kernel = np.ones((3, 3), np.uint8)
    return held / len(level), np.stack(
        [cv2.morphologyEx(each.astype(np.uint8), cv2.MORPH_OPEN, kernel) for each in other]
    )


def _shape(mask: Image) -> tuple[float, float, tuple[float, float]]:
    """Of what a mask [h, w] holds: the side of a square as large as its convex hull, its largest depth, and its middle."""
    points = cv2.findNonZero(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc(1)))
    if points is None:
        return 1.0, 0.0, (0.0, 0.0)
    hull = cv2.contourArea(cv2.convexHull(points))
    x, y = np.median(points.reshape(-1, 2), axis=0)
    return (
        max(float(np.sqrt(hull)), 1.0),
        float(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5).max()),
        (x, y),
    )
