"""What a single mask looks like: labels, inverted, a picture, colours. Arrays in, answers out."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.recordings.masks.stored import Image, Numbers, Stored

DARK = 16  # grey levels that a lossy codec leaves where there is nothing
FEW = 16  # values: more of them are soft edges or a lossy codec's work
COLOURED = 40  # between a pixel's strongest channel and its weakest; codecs leave less on grey
SHOWN = 4  # values in a message


def labels(numbers: Numbers) -> list[int]:
    """The values of a mask [H, W] other than 0, ascending."""
    if numbers.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(_histogram(numbers)) if v]
    return [int(v) for v in np.unique(numbers) if v]


def values(numbers: Numbers) -> str:
    """The values of a mask in words, with the part of it that each takes."""
    found, counts = np.unique(numbers, return_counts=True)
    order = np.sort(np.argsort(-counts, kind="stable")[:SHOWN])
    shown = [str(found[k]) for k in order]
    parts = ", ".join(percent(counts[k] / numbers.size) for k in order)
    if len(found) > SHOWN:
        return f"{len(found)} values from {found[0]} to {found[-1]} ({', '.join(shown)} in {parts})"
    named = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    return f"value{'s' if len(shown) > 1 else ''} {named} in {parts}"


def percent(part: float) -> str:
    """A part of 1 in words, with two digits that say something."""
    return f"{100 * part:.0f} %" if part > 0.1 else f"{100 * part:.2g} %"


def colours(stored: Stored) -> str:
    """A mask's colours in words, the commonest first."""
    rgb = stored.rgb()
    flat = (stored.grey()[..., None] if rgb is None else rgb).reshape(stored.size[0] * stored.size[1], -1)
    found, counts = np.unique(flat, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    listed = ", ".join(f"({', '.join(map(str, found[k]))}) in {percent(counts[k] / len(flat))}" for k in order)
    return f"the colours {listed}" + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def shape_in_alpha(stored: Stored, min_area: int) -> str:
    """What is in the colours if the mouse's shape is in the alpha channel instead; "" if it is not."""
    alpha = stored.alpha()
    if alpha is None or alpha.min() == alpha.max():
        return ""
    grey, opaque = stored.grey(), alpha > 127
    if not min_area <= np.count_nonzero((grey > 127) != opaque):
        return ""
    what = f"are {grey[0, 0]} everywhere" if grey.min() == grey.max() else "hold a picture"
    share = percent(np.count_nonzero(opaque) / alpha.size)
    return f"the shape is in the mask's alpha channel (opaque in {share}), and its colours {what}"


def coloured(rgb: Image, min_area: int) -> bool:
    """Whether pixels [H, W, 3] have a colour, in more than what a lossy codec does to grey."""
    spread = _strongest(rgb) - rgb.min(axis=2)
    return cv2.countNonZero((spread > COLOURED).view(np.uint8)) >= min_area


def one_colour_on_black(
    rgb: Image, min_area: int, before: NDArray[np.float64] | None = None
) -> NDArray[np.float64] | None:
    """The colour [3], of length 1, of all that is not black [H, W, 3], as of a red mouse on black.

    None if there is an area of another colour, or of another than in the masks before.
    """
    bright = _strongest(rgb) > 100
    pixels = rgb[bright].astype(np.float64)
    if len(pixels) > 0.9 * bright.size:
        return None
    if not len(pixels):
        return np.ones(3) / np.sqrt(3) if before is None else before
    hues = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    middle = np.median(hues, axis=0)
    colour = middle / np.linalg.norm(middle) if before is None else before
    other = np.zeros(bright.shape, np.uint8)
    other[bright] = hues @ colour < np.cos(np.deg2rad(15))
    # Along edges a lossy codec mixes colours: what counts is an area.
    inside = cv2.erode(other, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return colour if cv2.countNonZero(inside) < min_area / 2 else None


def several_labels(grey: Image, min_area: int) -> bool:
    """Whether a mask [H, W] has areas of several values other than 0, such as 1 and 2, and not as soft edges have them."""
    found = np.flatnonzero(_histogram(grey))
    if not 2 < len(found) <= FEW:
        return False
    return sum(_flat(grey, int(v)) >= min_area for v in found if v) > 1


def dark_label(grey: Image, min_area: int) -> bool:
    """Whether a mask [H, W] has no value above 127 but an area of values below, such as 1."""
    marked = cv2.countNonZero(grey)
    if marked < min_area or cv2.minMaxLoc(grey)[1] > 127:
        return False
    counts = _histogram(grey)
    found = [int(v) for v in np.argsort(-counts, kind="stable")[:8] if v and counts[v]]
    single = max(found, key=lambda v: counts[v])
    return counts[single] == marked or sum(_flat(grey, v) for v in found) > max(min_area, marked / 2)


def inverted(grey: Image, min_area: int) -> bool:
    """Whether a mask [H, W] is white all along the frame's border and on most of it, with something black inside.

    A mouse before one side of the frame leaves black on the others, and one that fills the frame leaves no black.
    """
    sides = [side > 127 for side in (grey[0], grey[-1], grey[:, 0], grey[:, -1])]
    if np.concatenate(sides).mean() <= 0.9 or min(side.mean() for side in sides) <= 0.5:
        return False
    black = grey.size - cv2.countNonZero((grey > 127).view(np.uint8))
    return min_area <= black < grey.size / 2


def picture(grey: Image, min_area: int) -> bool:
    """Whether much of what a mask [H, W] shows is neither black nor white, nor one level, and not only along edges."""
    between = cv2.inRange(grey, DARK + 1, 255 - DARK)
    inside = cv2.erode(between, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if cv2.countNonZero(inside) < min_area:
        return False
    shown = grey[grey > DARK].astype(np.int16)
    if cv2.countNonZero(inside) < 0.3 * shown.size:
        return False
    return bool(np.mean(abs(shown - np.median(shown)) < DARK) < 0.7)


def _histogram(grey: Image) -> NDArray[Any]:
    return np.rint(cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()).astype(np.int64)


def _flat(grey: Image, value: int) -> int:
    """Pixels that have a value together with all their neighbours."""
    same = cv2.inRange(grey, value, value)
    return cv2.countNonZero(cv2.erode(same, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0))


def _strongest(rgb: Image) -> Image:
    return rgb.max(axis=2)
