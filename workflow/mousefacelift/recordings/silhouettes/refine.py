"""Silhouettes of any origin, corrected by what the other cameras see: their hull proposes, the pixels decide."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.agreement import locate_cutouts
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.hull import Cutout, near_hull
from mousefacelift.recordings.silhouettes.parts import Bools, Near, View, fill_holes, remove_foreign, restore_lost
from mousefacelift.recordings.silhouettes.widths import excess_width, signed_distance

Image = NDArray[np.uint8]
Window = tuple[int, int, int, int]
Picture = Image | Callable[[Window], Image]

MARGIN_PX = 16
LEAST_PX = 50  # a smaller silhouette is left as it is
# Where the cameras agree less than this, calibration or synchrony may be wrong, and silhouettes must show it. With true
# silhouettes the demo has 1.0 and 0.8; with two cameras' calibrations swapped, below 0.7 and 0.2.
LEAST_EXPLAINED, LEAST_IOU = 0.9, 0.6


def refine_views(
    images: Sequence[Picture | None], masks: Sequence[Image | None], rig: Rig, voxel_mm: float = 2.0
) -> list[Image | None]:
    """Correct one frame's silhouettes by those of the other views.

    First, a silhouette that is too wide or too narrow all along its edge is shrunk or grown to the picture's edge
    (`widths`). Then the hull is carved, with one view allowed to contradict, and shows in which parts a view contradicts
    the others. Holes that no other view confirms are filled; thin parts that the others agree on are restored; parts in
    the arena's colours are removed (`parts`). Each part is changed as a whole, and only if the picture supports it: its
    new outline must follow the picture's edges better than its old one.

    Args:
        images: of the V views: the raw frame [H, W, 3] uint8 RGB, or a function from a window x, y, width, height in it
            to that part [h, w, 3]; None for a view to leave alone.
        masks: of the V views: [H, W] uint8, above 127 is mouse; None, or without a mouse, for a view without a silhouette.
        rig: V cameras.
        voxel_mm: edge of a voxel.

    Returns:
        The masks, those that changed as new arrays of 0 and 255. All are as given if fewer than three views have a
        silhouette, or they contradict each other so much that calibration or synchrony may be wrong.
    """
    found: dict[int, tuple[Image, Cutout]] = {}
    for v, (picture, mask) in enumerate(zip(images, masks, strict=True)):
        cutout = None if picture is None or mask is None else _cutout(mask)
        if cutout is not None and picture is not None:
            alpha, window = cutout
            fitted = _fitted(_part(picture, window), alpha)
            if fitted.any():
                found[v] = fitted, (fitted * np.uint8(255), window)
    cutouts = [found[v][1] if v in found else None for v in range(len(rig))]
    place = locate_cutouts(cutouts, rig)
    if place is None or len(found) < 3:
        return list(masks)
    near = _near(images, masks, cutouts, rig, place, voxel_mm)
    if near is None or not _agree(near):
        return list(masks)
    fill_holes(near)
    restore_lost(near)
    remove_foreign(near)
    return [_whole(mask, near.views[v]) if v in near.views else mask for v, mask in enumerate(masks)]


def _cutout(mask: Image) -> tuple[Image, Window] | None:
    """A silhouette's part of the frame, [h, w] of 0 and 1, with a margin; None if there is next to nothing."""
    left, top, w, h = cv2.boundingRect(mask) if mask.size else (0, 0, 0, 0)
    if not w:
        return None
    binary = cv2.threshold(mask[top : top + h, left : left + w], 127, 1, cv2.THRESH_BINARY)[1]
    if cv2.countNonZero(binary) < LEAST_PX:
        return None
    x, y, w, h = cv2.boundingRect(binary)
    window = _grown((x + left, y + top, w, h), MARGIN_PX, mask.shape)
    return _cut(mask, window), window


def _grown(window: Window, margin: int, shape: tuple[int, ...]) -> Window:
    x, y, w, h = window
    x0, y0, x1, y1 = (
        max(x - margin, 0),
        max(y - margin, 0),
        min(x + w + margin, shape[1]),
        min(y + h + margin, shape[0]),
    )
    return x0, y0, x1 - x0, y1 - y0


def _cut(mask: Image, window: Window) -> Image:
    x, y, w, h = window
    return cv2.threshold(mask[y : y + h, x : x + w], 127, 1, cv2.THRESH_BINARY)[1]


def _part(picture: Picture, window: Window) -> Image:
    x, y, w, h = window
    return picture(window) if callable(picture) else np.ascontiguousarray(picture[y : y + h, x : x + w])


def _fitted(rgb: Image, mask: Image) -> Image:
    """A silhouette [h, w], 0 or 1, shrunk or grown to the picture's edge if it is too wide or too narrow."""
    distance = signed_distance(mask)
    excess = excess_width(rgb, distance)
    # A pixel's centre is half a pixel inside of its own edge.
    return (distance > excess - 0.5).astype(np.uint8) if excess else mask


def _near(
    images: Sequence[Picture | None],
    masks: Sequence[Image | None],
    cutouts: Sequence[Cutout | None],
    rig: Rig,
    place: tuple[Array, float],
    voxel_mm: float,
) -> Near | None:
    """The voxels near the hull, and the views around their own silhouette and the hull of the others."""
    center, radius = place
    present, points, pixels, inside = near_hull(cutouts, rig, center, radius, voxel_mm)
    if len(present) < 3 or not points.size:
        return None
    # A voxel whose centre is less than half its edge outside is inside in part.
    misses = inside < -voxel_mm / 2
    total = misses.sum(axis=0, dtype=np.int32)
    views = {}
    for k, v in enumerate(present):
        picture, mask, cutout = images[v], masks[v], cutouts[v]
        assert picture is not None and mask is not None and cutout is not None
        fitted, own = cutout[0], tuple(int(i) for i in np.asarray(cutout[1]))
        of_others = pixels[k][:, total == misses[k]]
        voxel_px = voxel_mm * rig[v].focal_px / np.linalg.norm(center - rig[v].center)
        window = _holding((own[0], own[1], own[2], own[3]), of_others, mask.shape)
        placed = np.zeros((window[3], window[2]), np.uint8)
        row, column = own[1] - window[1], own[0] - window[0]
        placed[row : row + own[3], column : column + own[2]] = fitted > 0
        views[v] = View.of(_part(picture, window), placed, window[:2], pixels[k], max(2, round(float(voxel_px))))
    return Near(views, rig, points, misses, total, voxel_mm)


def _holding(own: Window, pixels: NDArray[np.float32], shape: tuple[int, ...]) -> Window:
    """A window that holds the own one and pixels [2, n], as far as they lie in the frame."""
    u, v = pixels[:, ((pixels >= 0).all(axis=0)) & (pixels[0] < shape[1]) & (pixels[1] < shape[0])]
    x, y, w, h = own
    if not u.size:
        return own
    left, top = min(x, int(u.min()) - 8), min(y, int(v.min()) - 8)
    right, low = max(x + w, int(u.max()) + 9), max(y + h, int(v.max()) + 9)
    return _grown((left, top, right - left, low - top), 0, shape)


def _agree(near: Near) -> bool:
    """Whether the views agree so well that what they contradict each other in can be blamed on single silhouettes."""
    explained, iou = [], []
    for k, view in enumerate(near.views.values()):
        mouse = view.cells(view.mask)
        seen, hull = (view.shown(voxels) > 0 for voxels in (near.others(k), near.total == 0))
        explained.append(_share(mouse & seen, mouse))
        iou.append(_share(mouse & hull, mouse | hull))
    return bool(np.median(explained) >= LEAST_EXPLAINED and np.median(iou) >= LEAST_IOU)


def _share(part: Bools, whole: Bools) -> float:
    return np.count_nonzero(part) / max(int(np.count_nonzero(whole)), 1)


def _whole(mask: Image | None, view: View) -> Image | None:
    """A frame's mask with what was found for it; the mask itself if nothing has changed."""
    assert mask is not None
    height, width = view.mask.shape
    x, y = view.corner
    if np.array_equal(_cut(mask, (x, y, width, height)), view.mask):
        return mask
    whole = np.zeros_like(mask)
    whole[y : y + height, x : x + width] = view.mask * np.uint8(255)
    return whole
