"""The intervals on the CPU: one ray after the other, compiled, with empty space skipped.

A point that lies outside a view's silhouette is d pixels or more from it, which the silhouette's distance transform
tells. In homogeneous pixel coordinates a ray is a + s b, so between s and s' its image moves along a line by

    c |s' - s| / (z z'),   c = |(b_x a_z - a_x b_z, b_y a_z - a_y b_z)|,   z = a_z + s b_z,

and it cannot enter before that is d. The points passed over are outside, so the result is that of looking at each.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mousefacelift.models.hull.constants import (
    FOREGROUND,
    MOST_STEPS,
    NEAR,
    RANGE,
    STEPS_PER_PIXEL,
    least_agreement,
    possible,
)
from mousefacelift.models.rasterize.compiled import jit
from mousefacelift.models.threads import parallel

# From a point in a pixel to one in another is at least the distance of the centres less two half diagonals, 1.42 px; the
# rest is for rounding.
SLACK = 1.5  # px
FAR = 1 << 30  # steps: past every ray's end


def intervals_cpu(
    alpha: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor, unknown: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `api.intervals`, for tensors on the CPU."""
    shape = alpha.shape
    front, back, valid = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    alphas = alpha.detach().float().numpy()
    cameras = [tensor.detach().double().contiguous().numpy() for tensor in (c2w, w2c, fxfycxcy)]
    inside = possible(alpha.detach(), unknown).numpy()
    least = least_agreement(shape[1] - 1)
    for b, silhouettes in enumerate(alphas):
        pose, inverse, intrinsics = (camera[b] for camera in cameras)
        pixels = np.argwhere(silhouettes >= FOREGROUND)
        distances = np.stack([_distance_outside(silhouette) for silhouette in inside[b]])
        views = pose, _projections(inverse, intrinsics), intrinsics
        steps = _step_count(pose, intrinsics, shape[-1])
        parallel(_march, len(pixels), 256, pixels, views, distances, steps, least, (front[b], back[b], valid[b]))
    return torch.from_numpy(front), torch.from_numpy(back), torch.from_numpy(valid)


def _distance_outside(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels from every pixel's centre to that of the nearest one inside, which has 0."""
    if not inside.any():
        return np.full(inside.shape, 1e6, np.float32)
    outside: NDArray[np.uint8] = np.logical_not(inside).view(np.uint8)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float32, copy=False)


def _step_count(c2w: NDArray[np.float64], fxfycxcy: NDArray[np.float64], size: int) -> int:
    """How many points of a ray are looked at."""
    pixels_per_unit = (fxfycxcy[:, :2].max(axis=1) / np.linalg.norm(c2w[:, :3, 3], axis=1)).max()
    return int(min(np.ceil(2 * RANGE * STEPS_PER_PIXEL * pixels_per_unit), MOST_STEPS * size))


def _projections(w2c: NDArray[np.float64], fxfycxcy: NDArray[np.float64]) -> NDArray[np.float64]:
    """[I, 3, 4] from homogeneous world points to homogeneous pixels, whose last coordinate is the depth."""
    K = np.zeros((len(w2c), 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = fxfycxcy.T
    K[:, 2, 2] = 1
    return np.ascontiguousarray(K @ w2c[:, :3])


@jit
def _march(
    start: int, stop: int, pixels: Any, views: Any, distances: Any, steps: int, least: int, intervals: Any
) -> None:
    """Fill intervals (front, back, valid) [I, S, S] at pixels [N, 3] (view, row, column), of those from `start` to `stop`.

    views: c2w [I, 4, 4], projections [I, 3, 4], fxfycxcy [I, 4]. least: as `least_agreement`.
    """
    front, back, valid = intervals
    others = len(distances) - 1
    step = np.float32(2 * RANGE / steps)
    # Of the ray in every other view: the view, a, b and c.
    seen, rays = np.empty(others, np.int64), np.empty((others, 7), np.float32)
    skips = np.empty(others, np.int64)
    for n in range(start, stop):
        view, row, col = pixels[n]
        _project_ray(view, row, col, views, seen, rays)
        for need in range(others, least - 1, -1):
            first = _first_inside(seen, rays, distances, need, steps, step, 1, skips)
            if first >= 0:
                last = _first_inside(seen, rays, distances, need, steps, step, -1, skips)
                front[view, row, col] = _place(first, step)
                back[view, row, col] = _place(last, step)
                valid[view, row, col] = True
                break


@jit
def _place(k: int, step: Any) -> Any:
    """How far along the ray its k-th point is, in float32, as the batched version computes it."""
    return (np.float32(k) + np.float32(0.5)) * step - np.float32(RANGE)


@jit
def _project_ray(view: int, row: int, col: int, views: Any, seen: Any, rays: Any) -> None:
    """Fill in the other views and a, b and c of a pixel's ray in each of them."""
    c2w, projections, fxfycxcy = views
    fx, fy, cx, cy = fxfycxcy[view]
    x, y = (col + 0.5 - cx) / fx, (row + 0.5 - cy) / fy
    length = math.sqrt(x * x + y * y + 1)
    x, y, z = x / length, y / length, 1 / length
    R, C = c2w[view, :3, :3], c2w[view, :3, 3]
    d0 = R[0, 0] * x + R[0, 1] * y + R[0, 2] * z
    d1 = R[1, 0] * x + R[1, 1] * y + R[1, 2] * z
    d2 = R[2, 0] * x + R[2, 1] * y + R[2, 2] * z
    along = C[0] * d0 + C[1] * d1 + C[2] * d2
    n0, n1, n2 = C[0] - along * d0, C[1] - along * d1, C[2] - along * d2
    place = 0
    for other in range(len(c2w)):
        if other == view:
            continue
        P, ray = projections[other], rays[place]
        for i in range(3):
            ray[i] = P[i, 0] * n0 + P[i, 1] * n1 + P[i, 2] * n2 + P[i, 3]
            ray[3 + i] = P[i, 0] * d0 + P[i, 1] * d1 + P[i, 2] * d2
        ray[6] = math.hypot(ray[3] * ray[2] - ray[0] * ray[5], ray[4] * ray[2] - ray[1] * ray[5])
        seen[place] = other
        place += 1


@jit
def _first_inside(
    seen: Any, rays: Any, distances: Any, need: int, steps: int, step: Any, direction: int, skips: Any
) -> int:
    """The first point that lies inside `need` of the other views, looking forward (direction 1) or backward (-1).

    Returns:
        Its index from the ray's beginning; -1 if there is none.
    """
    others, looked = len(seen), 0
    while looked < steps:
        k = looked if direction > 0 else steps - 1 - looked
        s = _place(k, step)
        outside = 0
        for place in range(others):
            skip = _skip(rays[place], distances[seen[place]], s, step, direction)
            if skip >= 0:  # outside: keep the skips in ascending order
                slot = outside
                while slot > 0 and skips[slot - 1] > skip:
                    skips[slot] = skips[slot - 1]
                    slot -= 1
                skips[slot] = skip
                outside += 1
        missing = outside - (others - need)
        if missing <= 0:
            return k
        # Before so many of the views have been entered there is nothing.
        looked += skips[missing - 1] + 1
    return -1


@jit
def _skip(ray: Any, distance: Any, s: Any, step: Any, direction: int) -> int:
    """How many points after the one at s are outside a view's silhouette, as it is; -1 if it is inside."""
    z = ray[2] + s * ray[5]
    if not z > np.float32(NEAR):
        return 0
    side = np.float32(len(distance) - 1)
    col = min(max(np.floor((ray[0] + s * ray[3]) / z), np.float32(0)), side)
    row = min(max(np.floor((ray[1] + s * ray[4]) / z), np.float32(0)), side)
    pixels = distance[int(row), int(col)]
    if pixels == 0:
        return -1
    pixels -= np.float32(SLACK)
    if pixels <= 0:
        return 0
    # c ds = pixels z (z + ds direction b_z), solved for ds; without a solution the ray never gets so far.
    slower = ray[6] - pixels * z * direction * ray[5]
    if slower <= 0:
        return FAR
    return int(min(pixels * z * z / (slower * step), FAR))
