"""Whether a silhouette is too wide or too narrow all along its edge, by the picture's own edge. Arrays in, no files."""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

NEAR_PX = 8  # pixels nearer to the silhouette's edge are judged,
FAR_PX = 14  # by what those between the two distances look like inside and outside
POINTS = 250  # of the edge that are looked at
LEAST_PX = 2  # a smaller error is none: the demo's true silhouettes hold the fur's tips and read as up to 1 px too wide
CONTRAST = 40  # grey levels between inside and outside from which a place tells
LIKENESS = 255  # that of a pixel which looks like the inside; 0: like the outside


def signed_distance(mask: Image) -> Floats:
    """Distance of each pixel of a silhouette [h, w], 0 or 1, from its edge, px; positive inside."""
    # Not OpenCV's "precise" distance, whose last bits vary from call to call.
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(inside - outside - np.where(mask > 0, np.float32(0.5), np.float32(-0.5)), np.float32)


def excess_width(rgb: Image, distance: Floats) -> int:
    """By how many pixels a silhouette is too wide all along its edge; negative: too narrow.

    Lines across the edge are looked along. Each of a line's pixels near the edge is placed between the mean colours of the
    line's two ends. All lines together show at which distance from the silhouette's edge the picture's edge lies.

    Args:
        rgb: [h, w, 3] uint8, the picture.
        distance: [h, w] what `signed_distance` returned for the silhouette.

    Returns:
        The error, px; 0 where the picture shows no clear edge, or an error of less than LEAST_PX.
    """
    colours, levels = _lines(rgb, distance)
    inside, outside = levels > NEAR_PX, levels < -NEAR_PX
    inside[:FAR_PX], outside[FAR_PX:] = False, False
    some = (inside.sum(axis=0) >= 4) & (outside.sum(axis=0) >= 4)
    colours, levels, inside, outside = colours[:, some], levels[:, some], inside[:, some], outside[:, some]
    mouse = (colours * inside[..., None]).sum(axis=0) // np.maximum(inside.sum(axis=0), 1)[:, None]
    arena = (colours * outside[..., None]).sum(axis=0) // np.maximum(outside.sum(axis=0), 1)[:, None]
    step = mouse - arena
    square = (step * step).sum(axis=-1)
    tell = square > CONTRAST**2
    # How far each pixel lies on the way from the arena's colour to the mouse's.
    way = ((colours[:, tell] - arena[tell]) * step[tell]).sum(axis=-1)
    likeness = np.clip(LIKENESS * way // np.maximum(square[tell], 1), 0, LIKENESS)
    bins = np.floor(levels[:, tell] + NEAR_PX).astype(np.int64)
    near = (bins >= 0) & (bins < 2 * NEAR_PX)
    count = np.bincount(bins[near], minlength=2 * NEAR_PX)
    if count.min() < 20:
        return 0
    # Integers, because what is decided must not depend on a sum's last bits.
    return _step(np.bincount(bins[near], likeness[near], 2 * NEAR_PX).astype(np.int64) // count)


def _lines(rgb: Image, distance: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Colours [2 FAR_PX + 1, n, 3] along n lines across the edge, from outside to inside, and distances from it [.., n]."""
    height, width = distance.shape
    edge = np.flatnonzero((distance > -1) & (distance < 0))
    rows, columns = np.divmod(edge[:: max(1, len(edge) // POINTS)], width)
    reach = FAR_PX + 1
    inside = (rows >= reach) & (rows < height - reach) & (columns >= reach) & (columns < width - reach)
    rows, columns = rows[inside], columns[inside]
    # Over several pixels, because fur's edge is rough.
    across = sum(distance[rows + k, columns + 5] - distance[rows + k, columns - 5] for k in (-3, 0, 3))
    down = sum(distance[rows + 5, columns + k] - distance[rows - 5, columns + k] for k in (-3, 0, 3))
    length = np.maximum(np.sqrt(across * across + down * down), 1e-3)
    steps = np.arange(-FAR_PX, FAR_PX + 1)[:, None]
    y = np.rint(rows + steps * (down / length)).astype(np.int64)
    x = np.rint(columns + steps * (across / length)).astype(np.int64)
    return rgb[y, x].astype(np.int64), distance[y, x]


def _step(likeness: NDArray[np.int64]) -> int:
    """Where pixels stop to look like the arena, given their mean likeness [2 NEAR_PX] by distance, from outside to inside."""
    places = np.arange(2 * NEAR_PX + 1)
    wrong = [likeness[:k].sum() + (LIKENESS - likeness[k:]).sum() for k in places]
    best = int(np.argmin(wrong))
    padded = np.pad(likeness, 2, mode="edge")
    steepest = int(np.argmax([padded[k + 2 : k + 4].sum() - padded[k : k + 2].sum() for k in places]))
    outer, inner = likeness[: max(best - 2, 1)].mean(), likeness[min(best + 2, 2 * NEAR_PX - 1) :].mean()
    # A shadow beside the mouse looks like it in part, and moves the best place outwards, but not the steepest.
    clear = outer <= (0.3 if best > NEAR_PX else 0.2) * LIKENESS and inner - outer >= 0.5 * LIKENESS
    if not clear or abs(steepest - best) > 1 or min(abs(best - NEAR_PX), abs(steepest - NEAR_PX)) < LEAST_PX:
        return 0
    return best - NEAR_PX
