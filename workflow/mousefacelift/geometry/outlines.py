"""How well a silhouette's outline fits the picture it was made from. Arrays in, arrays out, no files."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

POINTS = 128  # of the outline that are looked at
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


def edge(rgb: Image, alpha: Image) -> Edge:
    """Look across the outline of a silhouette's outer borders.

    Args:
        rgb: [h, w, 3] uint8, the picture.
        alpha: [h, w] uint8, above 127 is mouse.

    Returns:
        What is found; of NaN where all of the outline lies at the picture's border.
    """
    reach = SHIFTS + FAR
    points, normals = _outline(alpha)
    steps = np.arange(-reach, reach + 1)
    places = np.rint(points[:, None] + normals[:, None] * steps[:, None]).astype(np.intp)
    inside = ((places >= 0) & (places < [alpha.shape[1], alpha.shape[0]])).all(axis=(1, 2))
    if not inside.any():
        return Edge(np.nan, np.nan, np.nan)
    x, y = np.moveaxis(places[inside], -1, 0)
    profile = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[y, x].astype(np.int32)
    pairs = profile[:, :-1] + profile[:, 1:]
    middle = reach + np.arange(-SHIFTS, SHIFTS + 1)
    each = np.abs(pairs[:, middle + NEAR] - pairs[:, middle - FAR]) / 2
    change = np.median(each, axis=0)
    bare = np.mean(each[:, SHIFTS - CLOSE : SHIFTS + CLOSE + 1].max(axis=1) < LEAST_STEP)
    # Around a sharp edge several places see it alike: it lies in their middle. The points are the last pixels of the
    # mouse, and the outline is half a pixel outside of their centres.
    best = np.flatnonzero(change >= 0.95 * change.max()) - SHIFTS - 0.5
    return Edge(float(change[SHIFTS]), float(bare), float(best.mean()) if change.max() >= LEAST_STEP else np.nan)


def holes(alpha: Image) -> float:
    """The share of a silhouette [h, w], filled, that is holes in it; above 127 is mouse. 0 without a silhouette."""
    mouse = (alpha > 127).astype(np.uint8)
    contours, _ = cv2.findContours(mouse, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros_like(mouse)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    area = cv2.countNonZero(filled)
    return 1 - cv2.countNonZero(mouse) / area if area else 0.0


def _outline(alpha: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [n, 2] (x, y) of the outer borders of a silhouette [h, w], and unit normals that point out of it."""
    contours, _ = cv2.findContours((alpha > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    places, normals = [np.zeros((0, 2))], [np.zeros((0, 2))]
    total = sum(map(len, contours))
    for contour in contours:
        line = contour[:, 0].astype(np.float64)
        if len(line) < 4 * TANGENT:
            continue
        tangent = np.roll(line, -TANGENT, axis=0) - np.roll(line, TANGENT, axis=0)
        length = np.linalg.norm(tangent, axis=1)
        some = np.flatnonzero(length > 0)[:: max(1, total // POINTS)]
        # OpenCV goes round an outer border with the mouse on its left in a picture whose y points down.
        normal = np.stack([-tangent[some, 1], tangent[some, 0]], axis=1) / length[some, None]
        places.append(line[some])
        normals.append(normal)
    return np.concatenate(places), np.concatenate(normals)
