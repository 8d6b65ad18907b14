"""From a raw camera's crop to a virtual camera's image: one map, one interpolation. Arrays in, arrays out."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array, Camera
from mousefacelift.geometry.views import view_map

Image = NDArray[np.uint8]
Region = tuple[int, int, int, int]  # x0, y0, x1, y1
LARGEST_RATIO = 32.0  # raw px per px of a view; a mouse that small cannot be seen
SPLAT_BLUR = 0.3  # px^2 in each direction, which rasterisers of Gaussians add to every one of them


@dataclass(frozen=True)
class View:
    """A virtual camera at a raw camera's optical centre.

    R: [3, 3] rotation from the calibration's world to the camera.
    fxfycxcy: [4] intrinsics, px.
    size: width and height of the image, px.
    """

    R: Array
    fxfycxcy: Array
    size: int


def render_view(crop: Image, window: NDArray[np.int32], camera: Camera, view: View) -> Image:
    """Make the image that a virtual camera at a raw camera's optical centre sees.

    Colours are interpolated multiplied by alpha and divided by it afterwards, so that the arena around the mouse does not
    bleed into its edge.

    A view whose pixels are r > 1 raw pixels wide is sampled from the crop blurred by a Gaussian of variance
    SPLAT_BLUR * (r^2 - 1) raw px^2. The view then has as much blur in its own pixels as the raw image had in its own:
    nothing is aliased, no ring is left around the silhouette, and the image is as sharp as splats can be drawn.

    Args:
        crop: [h, w, 4] uint8 RGBA part of the raw frame, RGB 0 where alpha is 0.
        window: [4] x, y, width and height of the crop in the raw frame, px.
        camera: the raw camera.
        view: the virtual camera.

    Returns:
        [size, size, 4] uint8 RGBA, alpha straight, RGB white where alpha is 0.
    """
    image = _white(view.size).copy()
    # What the view can see of the silhouette's box decides how coarse its pixels are there, and so the blur.
    x, y, w, h = cv2.boundingRect(cv2.extractChannel(crop, 3))
    if w == 0:
        return image
    low, high = window[:2] + [x, y], window[:2] + [x + w, y + h]
    part, ratio = _seen(low, high, camera, view)
    variance = SPLAT_BLUR * max(ratio**2 - 1, 0.0)
    # Lanczos keeps what was blurred, but rings at a sharp silhouette; linear interpolation itself blurs by 1/6 px^2.
    method, own = (cv2.INTER_LANCZOS4, 0.0) if variance > 0.36 else (cv2.INTER_LINEAR, 1 / 6)
    blur = max(variance - own, 0.0) ** 0.5
    reach = 1 + int(np.ceil(3 * blur))
    # The blurred silhouette is wider: what the crop's margin lacks for it is added.
    pad = max(0, reach - min(x, y, crop.shape[1] - x - w, crop.shape[0] - y - h))
    if pad:
        crop = cv2.copyMakeBorder(crop, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    if blur:
        crop = cv2.GaussianBlur(crop, (0, 0), blur)
    raw, inside, (x0, y0) = _dense_map(camera, view, part, low - reach, high + reach)
    if not raw.size:
        return image
    # OpenCV's pixel centres are integers; ours are at halves.
    raw = raw - (window[:2] - pad + 0.5).astype(np.float32)
    # The mouse fills a third of its box: pixels where a cheap look at alpha finds nothing are not interpolated.
    alpha = cv2.remap(cv2.extractChannel(crop, 3), raw, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    rows, columns = np.nonzero(cv2.bitwise_and(cv2.dilate(alpha, np.ones((3, 3), np.uint8)), inside))
    if not len(rows):
        return image
    points = np.resize(raw[rows, columns], (-(-len(rows) // 1024), 1024, 2))  # OpenCV limits the length of a row
    sampled = cv2.remap(crop, points, None, method, borderMode=cv2.BORDER_CONSTANT).reshape(-1, 4)[: len(rows)]
    # At the edge, where alpha is below 255, colours are divided by it; without alpha they are white.
    edge = np.flatnonzero(sampled[:, 3] < 255)
    premultiplied = sampled[edge].astype(np.float32)
    colour = np.minimum(np.rint(premultiplied[:, :3] * (255 / np.maximum(premultiplied[:, 3:], 1))), 255)
    sampled[edge, :3] = np.where(premultiplied[:, 3:] > 0, colour, 255)
    image[rows + y0, columns + x0] = sampled
    return image


@functools.lru_cache(maxsize=4)
def _white(size: int) -> Image:
    return np.full((size, size, 4), (255, 255, 255, 0), np.uint8)


def _seen(low: Array, high: Array, camera: Camera, view: View) -> tuple[Region, float]:
    """Find the part of the view that can see a box of the raw frame, in cells of 16 x 16 px.

    Args:
        low: [2] the box's first corner in the raw frame, px.
        high: [2] its last corner.
        camera: the raw camera.
        view: the virtual camera.

    Returns:
        The region, empty if the view does not see the box; and how many raw pixels wide one of its pixels is there.
    """
    step = 16
    ticks = np.arange(-step, view.size + 2 * step, step, dtype=np.float64)
    raw, radius = view_map(camera, view.R, view.fxfycxcy, ticks, ticks)
    field = radius < camera.field_radius
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1], np.s_[1:, 1:]]
    with np.errstate(invalid="ignore"):
        inside = field & ((raw >= low) & (raw <= high)).all(axis=-1)
        whole = np.logical_and.reduce([field[c] for c in corners])
        # Beyond the field the map folds back: only for cells within it do the corners bound what lies between them.
        least, most = (f.reduce([raw[c] for c in corners]) for f in (np.minimum, np.maximum))
        overlapping = whole & ((least <= high) & (most >= low)).all(axis=-1)
        right, down = raw[:-1, 1:] - raw[:-1, :-1], raw[1:, :-1] - raw[:-1, :-1]
        area = np.abs(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0])
    touched = np.logical_or.reduce([inside[c] for c in corners])
    near = (overlapping | touched).astype(np.uint8)
    # Neighbours belong to it too: the map bends between corners, and cells at the field's edge are not whole.
    x, y, w, h = cv2.boundingRect(cv2.dilate(near, np.ones((3, 3), np.uint8)))
    if not w:
        return (0, 0, 0, 0), 1.0
    x0, x1, y0, y1 = (int(np.clip(ticks[i], 0, view.size)) for i in (x, x + w, y, y + h))
    measured = next(cells for cells in (whole & touched, overlapping, near > 0) if cells.any())
    ratio = np.sqrt(np.median(np.nan_to_num(area[measured], nan=step**2))) / step
    return (x0, y0, x1, y1), min(float(ratio), LARGEST_RATIO)


def _dense_map(
    camera: Camera, view: View, part: Region, low: Array, high: Array
) -> tuple[NDArray[np.float32], Image, tuple[int, int]]:
    """Map the region of the view that sees a box of the raw frame to raw pixels.

    The map is computed in every 4th row and column of `part` and interpolated linearly between. On the demo's rig it is
    within 0.005 px of the view of the exact map, in half the time.

    Args:
        camera: the raw camera.
        view: the virtual camera.
        part: where in the view the region is looked for, px.
        low: [2] the box's first corner in the raw frame, px.
        high: [2] its last corner.

    Returns:
        [H, W, 2] raw pixels of the region.
        [H, W] 255 where they lie in the box, the raw frame and the calibrated field, else 0.
        The region's first column and row in the view.
    """
    block = 4
    left, top, right, bottom = part
    if left >= right or top >= bottom:
        return np.empty((0, 0, 2), np.float32), np.empty((0, 0), np.uint8), (0, 0)
    # Nodes at the centres of blocks, with one block more on each side: cv2.resize interpolates between just these.
    x = left + block * (np.arange(-1.0, -(-(right - left) // block) + 1) + 0.5)
    y = top + block * (np.arange(-1.0, -(-(bottom - top) // block) + 1) + 0.5)
    raw, radius = view_map(camera, view.R, view.fxfycxcy, x, y)
    nodes = np.dstack([raw, radius]).astype(np.float32)
    dense = cv2.resize(nodes, (len(x) * block, len(y) * block), interpolation=cv2.INTER_LINEAR)
    dense = dense[block : block + bottom - top, block : block + right - left]
    lowest, highest = np.maximum(low, 0), np.minimum(high, [camera.width, camera.height])
    inside = cv2.inRange(dense, (*lowest.tolist(), 0.0), (*highest.tolist(), min(camera.field_radius, 1e9)))
    x0, y0, w, h = cv2.boundingRect(inside)
    found = np.s_[y0 : y0 + h, x0 : x0 + w]
    return dense[found][..., :2], np.ascontiguousarray(inside[found]), (left + x0, top + y0)
