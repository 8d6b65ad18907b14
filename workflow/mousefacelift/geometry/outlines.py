"""How well a silhouette's outline fits the picture it was made from. Arrays in, arrays out, no files."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Border = NDArray[np.int32]

LUMA = np.array([77, 150, 29], np.int32)  # BT.601, in 256ths
POINTS = 64  # of the outline that are looked at
TANGENT = 3  # a point's tangent goes through its neighbours at this many pixels on both sides
NEAR, FAR = 2, 3  # px from the outline: what lies on its two sides is the mean of two pixels, clear of blurred edges
SHIFTS = 4  # px by which the outline is moved in and out, to see where the picture's edge is
CLOSE = 2  # px from its edge an outline may be
LEAST_STEP = 4.0  # grey levels: without an edge of as much there is no place of it


@dataclass(frozen=True)
class Edge:
    """An outline against the picture's edges.

    contrast: how much the picture changes across the outline, grey levels; the median of its points. NaN if unknown.
    bare: share of the outline without an edge of the picture, of LEAST_STEP grey levels, within two pixels. NaN if unknown.
    offset_px: by how much the picture's edge lies outside of the outline (negative: inside), px; NaN without an edge.
    """

    contrast: float
    bare: float
    offset_px: float


def borders(alpha: Image) -> list[Border]:
    """The outer borders of a silhouette [h, w], above 0 is mouse: [n, 1, 2] the border's pixels one by one, x and y."""
    return [np.asarray(each, np.int32) for each in cv2.findContours(alpha, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]]


def edge(rgb: Image, outer: Sequence[Border], corner: tuple[int, int] = (0, 0)) -> Edge:
    """Look across the outline of a silhouette's outer borders.

    Args:
        rgb: [h, w, 3] uint8, the picture.
        outer: what `borders` returned for the silhouette.
        corner: x and y in the picture of the silhouette's pixel 0, 0.

    Returns:
        What is found; of NaN where all of the outline lies at the picture's border.
    """
    reach = SHIFTS + FAR
    points, normals = _outline(outer)
    height, width = rgb.shape[:2]
    steps = np.arange(-reach, reach + 1)
    places = np.rint(points[:, None] + corner + normals[:, None] * steps[:, None]).astype(np.intp)
    # The farthest places alone: those between lie in the picture if these do.
    ends = places[:, [0, -1]]
    inside = ((ends >= 0) & (ends < [width, height])).all(axis=(1, 2))
    if not inside.any():
        return Edge(np.nan, np.nan, np.nan)
    x, y = np.moveaxis(places[inside], -1, 0)
    # Only here, not of the whole picture: luma times 256.
    profile = rgb[y, x].astype(np.int32) @ LUMA
    pairs = profile[:, :-1] + profile[:, 1:]
    middle = reach + np.arange(-SHIFTS, SHIFTS + 1)
    each = np.abs(pairs[:, middle + NEAR] - pairs[:, middle - FAR]) / 512
    change = np.partition(each, len(each) // 2, axis=0)[len(each) // 2]
    bare = np.mean(each[:, SHIFTS - CLOSE : SHIFTS + CLOSE + 1].max(axis=1) < LEAST_STEP)
    # Around a sharp edge several places see it alike: it lies in their middle. The points are the last pixels of the
    # mouse, and the outline is half a pixel outside of their centres.
    best = np.flatnonzero(change >= 0.95 * change.max()) - SHIFTS - 0.5
    return Edge(float(change[SHIFTS]), float(bare), float(best.mean()) if change.max() >= LEAST_STEP else np.nan)


def holes(area_px: int, outer: Sequence[Border]) -> float:
    """The share of a silhouette, filled within its `borders`, that is holes in it; area_px: its pixels without them."""
    # Pick's theorem: the pixels on and inside a border. It holds where a border runs along a thin part and back, too.
    filled = sum(cv2.contourArea(border) + len(border) / 2 + 1 if len(border) > 1 else 1 for border in outer)
    return 1 - area_px / filled if filled else 0.0


def _outline(outer: Sequence[Border]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [n, 2] (x, y) of a silhouette's outer borders, and unit normals that point out of it."""
    step = max(1, sum(map(len, outer)) // POINTS)
    places, tangents = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for border in outer:
        if len(border) >= 4 * TANGENT:
            line, some = border[:, 0].astype(np.float64), np.arange(0, len(border), step)
            places.append(line[some])
            tangents.append(line[(some + TANGENT) % len(line)] - line[some - TANGENT])
    point, tangent = np.concatenate(places), np.concatenate(tangents)
    length = np.hypot(tangent[:, 0], tangent[:, 1])
    known = length > 0
    # OpenCV goes round an outer border with the mouse on its left in a picture whose y points down.
    return point[known], np.stack([-tangent[known, 1], tangent[known, 0]], axis=1) / length[known, None]
