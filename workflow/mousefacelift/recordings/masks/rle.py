"""Run lengths and polygons of COCO's formats as masks.

A run-length code lists the lengths of runs of 0 and 1 in turn, from 0 on, down the columns. As text each length, less that
of two runs before from the fourth on, is written in pieces of five bits, lowest first, with a sixth bit that says whether
pieces follow; 48 makes each a printable character (`rleToString` in cocoapi's maskApi.c).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError

Mask = NDArray[np.bool_]


def is_rle(value: Any) -> bool:
    """Whether a value of a JSON file is a run-length code."""
    return isinstance(value, dict) and {"size", "counts"} <= set(value)


def rle_size(value: dict[str, Any], where: str) -> tuple[int, int]:
    """Width and height of a run-length code's mask, px. Raises UserError if they are none."""
    size = value["size"]
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 0 < n < 2**16 for n in size)):
        raise UserError(f"{where}: a run-length code's size is [height, width], found {size!r:.60}")
    return size[1], size[0]


def decode_rle(value: dict[str, Any], where: str) -> Mask:
    """A run-length code's mask [H, W]. Raises UserError if its runs do not fill it."""
    width, height = rle_size(value, where)
    counts = value["counts"]
    runs = _decode_text(counts, where) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs) or sum(runs) != width * height:
        raise UserError(f"{where}: the run lengths of a mask of {width}x{height} px do not add up to its pixels")
    ones = np.arange(len(runs)) % 2 == 1
    return np.repeat(ones, runs).reshape(width, height).T


def _decode_text(text: str, where: str) -> list[int]:
    runs: list[int] = []
    number, shift = 0, 0
    for character in text:
        piece = ord(character) - 48
        if not 0 <= piece < 64 or shift > 30:
            raise UserError(f"{where}: not a compressed run-length code of COCO ({text!r:.40})")
        number |= (piece & 31) << shift
        shift += 5
        if piece & 32:
            continue
        if piece & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise UserError(f"{where}: a compressed run-length code ends in the middle of a number")
    return runs


def fill_polygons(polygons: Any, size: tuple[int, int], where: str) -> Mask:
    """The pixels [H, W] whose centre lies inside one of the polygons.

    Args:
        polygons: each x0, y0, x1, y1, ... in px, with the first pixel's centre at (0.5, 0.5).
        size: width and height of the mask, px.
        where: begins the text of errors.

    Raises:
        UserError: a polygon is not a list of at least three points.
    """
    width, height = size
    mask = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        flat = isinstance(polygon, list) and all(type(n) in (int, float) for n in polygon)
        if not flat or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise UserError(
                f"{where}: a polygon is a list x0, y0, x1, y1, … of three or more points, found {polygon!r:.60}"
            )
        _fill(mask, np.array(polygon, np.float64).reshape(-1, 2))
    return mask


def _fill(mask: Mask, points: NDArray[np.float64]) -> None:
    """Set the pixels of `mask` whose centre lies inside a polygon [N, 2], by the crossings of each row's middle."""
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    height, width = mask.shape
    low, high = np.clip([np.floor(y0.min()), np.ceil(y0.max())], 0, height).astype(int)
    for row in range(low, high):
        y = row + 0.5
        crossed = (y0 <= y) != (y1 <= y)
        x = np.sort(x0[crossed] + (y - y0[crossed]) * (x1[crossed] - x0[crossed]) / (y1[crossed] - y0[crossed]))
        for start, end in np.clip(np.ceil(x - 0.5), 0, width).astype(int).reshape(-1, 2):
            mask[row, start:end] = True
