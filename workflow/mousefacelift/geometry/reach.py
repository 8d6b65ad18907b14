"""What a rig could see at best: silhouettes of a hull, and how far a real one lies from what the others allow.

Arrays in, arrays out, no files. Conventions are those of `camera` and `hull`.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array, Camera, Rig, project
from mousefacelift.geometry.hull import Cutout, Floats, hull_voxels, visual_hull

Mask = NDArray[np.uint8]


def drawn(voxels: Floats, camera: Camera, voxel_mm: float) -> tuple[Mask, NDArray[np.int32]] | None:
    """Draw voxels as a camera would see them.

    Args:
        voxels: [n, 3] their centres in the world, mm.
        camera: the camera.
        voxel_mm: edge of a voxel.

    Returns:
        The silhouette [h, w] uint8, 0 or 255, and its window x, y, width, height in the raw frame, px; None if no voxel
        lies in the frame.
    """
    pixels, depth = project(voxels, camera)
    seen = np.isfinite(pixels).all(axis=1)
    if not seen.any():
        return None
    # A cube seen from any side is about as wide as a disc of 1.2 times its edge.
    radius = int(np.ceil(0.6 * voxel_mm * camera.focal_px / np.median(depth[seen])))
    places = np.floor(pixels[seen]).astype(np.int64)
    low = np.maximum(places.min(axis=0) - radius, 0)
    high = np.minimum(places.max(axis=0) + radius + 1, [camera.width, camera.height])
    if (high <= low).any():
        return None
    # With a border, so that a voxel just outside of the frame reaches into it.
    mask = np.zeros(high - low + 2 * radius, np.uint8).T
    column, row = (places - low + radius).T
    inside = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
    mask = np.ascontiguousarray(mask)
    mask[row[inside], column[inside]] = 255
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.dilate(mask, kernel)[radius : mask.shape[0] - radius, radius : mask.shape[1] - radius]
    if not mask.any():
        return None
    return np.ascontiguousarray(mask), np.array([*low, *(high - low)], np.int32)


def reachable_iou(
    silhouettes: Sequence[Cutout | None], rig: Rig, center_mm: Array, radius_mm: float, voxel_mm: float
) -> Array:
    """Find the hull IoU that perfect silhouettes of a mouse of this shape would have in this rig, at this voxel size.

    The hull stands for the mouse: its own silhouettes are drawn, and carved anew. Arguments as of `hull.visual_hull`.

    Returns:
        [V] intersection over union; NaN for a view without a silhouette, or without a hull.
    """
    voxels = hull_voxels(silhouettes, rig, center_mm, radius_mm, voxel_mm)
    if not len(voxels):
        return np.full(len(rig), np.nan)
    perfect = [
        None if given is None else drawn(voxels, camera, voxel_mm)
        for given, camera in zip(silhouettes, rig, strict=True)
    ]
    return visual_hull(perfect, rig, center_mm, radius_mm, voxel_mm).iou


def allowed_by_others(
    silhouettes: Sequence[Cutout | None], view: int, rig: Rig, center_mm: Array, radius_mm: float, voxel_mm: float
) -> tuple[Mask, NDArray[np.int32]] | None:
    """Where one view can see the mouse, by the hull of all other views; None without such a hull.

    Returns:
        A silhouette and its window, as `drawn` returns them. It is never smaller than the mouse.
    """
    others = [None if v == view else given for v, given in enumerate(silhouettes)]
    voxels = hull_voxels(others, rig, center_mm, radius_mm, voxel_mm)
    return drawn(voxels, rig[view], voxel_mm) if len(voxels) else None
