"""From Gaussians to splats, and the gradients of Gaussians from those of splats. All sums are in float64.

The perspective is linearised at every Gaussian's centre (EWA splatting, Zwicker et al. 2001): with J the Jacobian of the
projection and R the camera's rotation, the covariance C of a Gaussian becomes (J R) C (J R)^T in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mousefacelift.models.rasterize.compiled import jit
from mousefacelift.models.rasterize.constants import (
    CLAMP_MARGIN,
    LOW_PASS,
    MIN_ALPHA,
    NEAR_PLANE,
    TILE_HEIGHT,
    TILE_WIDTH,
)


@jit
def _rotation(quat: Any) -> Any:
    """Rows of the rotation of a quaternion wxyz of any length, and its unit quaternion and length."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    length = max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return rows, (w, x, y, z), length


@jit
def _covariance(rows: Any, scale: Any) -> Any:
    """xx, xy, xz, yy, yz, zz of R diag(scale^2) R^T."""
    s0, s1, s2 = float(scale[0]) ** 2, float(scale[1]) ** 2, float(scale[2]) ** 2
    (a0, a1, a2), (b0, b1, b2), (c0, c1, c2) = rows
    return (
        a0 * a0 * s0 + a1 * a1 * s1 + a2 * a2 * s2,
        a0 * b0 * s0 + a1 * b1 * s1 + a2 * b2 * s2,
        a0 * c0 * s0 + a1 * c1 * s1 + a2 * c2 * s2,
        b0 * b0 * s0 + b1 * b1 * s1 + b2 * b2 * s2,
        b0 * c0 * s0 + b1 * c1 * s1 + b2 * c2 * s2,
        c0 * c0 * s0 + c1 * c1 * s1 + c2 * c2 * s2,
    )


@jit
def _to_camera(mean: Any, pose: Any) -> Any:
    """A point in camera coordinates."""
    x, y, z = float(mean[0]), float(mean[1]), float(mean[2])
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3],
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3],
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3],
    )


@jit
def _clamped_slope(x: float, z: float, focal: float, center: float, side: float) -> Any:
    """The slope x / z, held within the image and a margin beyond it, and whether it was held."""
    slope, margin = x / z, CLAMP_MARGIN * side
    lowest, highest = (-center - margin) / focal, (side - center + margin) / focal
    return min(max(slope, lowest), highest), slope < lowest or slope > highest


@jit
def _linear_map(slope_x: float, slope_y: float, z: float, fx: float, fy: float, pose: Any) -> Any:
    """Rows of J R, the projection linearised about a centre: from world offsets to pixels."""
    kx, ky = fx / z, fy / z
    return (
        (
            kx * (pose[0, 0] - slope_x * pose[2, 0]),
            kx * (pose[0, 1] - slope_x * pose[2, 1]),
            kx * (pose[0, 2] - slope_x * pose[2, 2]),
        ),
        (
            ky * (pose[1, 0] - slope_y * pose[2, 0]),
            ky * (pose[1, 1] - slope_y * pose[2, 1]),
            ky * (pose[1, 2] - slope_y * pose[2, 2]),
        ),
    )


@jit
def _times_covariance(row: Any, covariance: Any) -> Any:
    """A row vector times a symmetric matrix (xx, xy, xz, yy, yz, zz)."""
    xx, xy, xz, yy, yz, zz = covariance
    a, b, c = row
    return a * xx + b * xy + c * xz, a * xy + b * yy + c * yz, a * xz + b * yz + c * zz


@jit
def _dot(a: Any, b: Any) -> float:
    """The dot product of two 3-vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def project(start: int, stop: int, scene: Any, cameras: Any, rows: Any) -> None:
    """Project a range of Gaussians into every view.

    Args:
        start: first Gaussian.
        stop: past the last Gaussian.
        scene: (means [N, 3], quats [N, 4], scales [N, 3], opacities [N], colors [N, 3]) as `rasterize` takes them.
        cameras: (w2c [V, 4, 4], fxfycxcy [V, 4], width, height) as `rasterize` takes them, float64.
        rows: written; (splats [V*N, SPLAT], camera z [V*N], rectangles [V*N, 4] of tiles as first and past-last column
            and row, tile counts [V*N] of the rectangles). A count of 0 marks a row that is not drawn: behind the near
            plane, outside the image, nowhere 1/255 opaque, or degenerate (not finite).
    """
    means, quats, scales, opacities, colors = scene
    w2c, fxfycxcy, width, height = cameras
    splats, depths, rectangles, tile_counts = rows
    count = len(means)
    for gaussian in range(start, stop):
        opacity = float(opacities[gaussian])
        for view in range(len(w2c)):
            tile_counts[view * count + gaussian] = 0
        if not opacity >= MIN_ALPHA:
            continue
        # Alpha reaches 1/255 where the squared Mahalanobis distance is within this.
        support = 2 * math.log(opacity / MIN_ALPHA)
        rotation, _, _ = _rotation(quats[gaussian])
        covariance = _covariance(rotation, scales[gaussian])
        for view in range(len(w2c)):
            row = view * count + gaussian
            pose = w2c[view]
            x, y, z = _to_camera(means[gaussian], pose)
            if not z > NEAR_PLANE:
                continue
            # A centre far outside the image is linearised just beyond the border: its own Jacobian would blow up.
            fx, fy, cx, cy = fxfycxcy[view, 0], fxfycxcy[view, 1], fxfycxcy[view, 2], fxfycxcy[view, 3]
            slope_x, _ = _clamped_slope(x, z, fx, cx, width)
            slope_y, _ = _clamped_slope(y, z, fy, cy, height)
            map_x, map_y = _linear_map(slope_x, slope_y, z, fx, fy, pose)
            covariance_x = _times_covariance(map_x, covariance)
            var_x = _dot(covariance_x, map_x) + LOW_PASS
            var_xy = _dot(covariance_x, map_y)
            var_y = _dot(_times_covariance(map_y, covariance), map_y) + LOW_PASS
            determinant = var_x * var_y - var_xy * var_xy
            if not (determinant > 0 and determinant < math.inf):
                continue
            center_x, center_y = fx * x / z + cx, fy * y / z + cy
            # Padded so that rounding never drops a pixel that reaches 1/255.
            half_width = math.sqrt(support * var_x) * (1 + 1e-5) + 0.01
            half_height = math.sqrt(support * var_y) * (1 + 1e-5) + 0.01
            left, right = center_x - half_width, center_x + half_width
            top, bottom = center_y - half_height, center_y + half_height
            if not (right > 0 and left < width and bottom > 0 and top < height):
                continue
            # The precision as a (dx + shear dy)^2 + d dy^2, and the tiles of the ellipse's bounding box.
            splat = splats[row]
            splat[0], splat[1] = center_x, center_y
            splat[2], splat[3], splat[4] = var_y / determinant, -var_xy / var_y, 1 / var_y
            splat[5], splat[6] = opacity, half_height
            splat[7], splat[8], splat[9] = colors[gaussian, 0], colors[gaussian, 1], colors[gaussian, 2]
            depths[row] = z
            rectangle = rectangles[row]
            rectangle[0] = int(max(left, 0.0)) // TILE_WIDTH
            rectangle[1] = (math.ceil(min(right, float(width))) + TILE_WIDTH - 1) // TILE_WIDTH
            rectangle[2] = int(max(top, 0.0)) // TILE_HEIGHT
            rectangle[3] = (math.ceil(min(bottom, float(height))) + TILE_HEIGHT - 1) // TILE_HEIGHT
            tile_counts[row] = (rectangle[1] - rectangle[0]) * (rectangle[3] - rectangle[2])


@jit
def _sum_pairs(first: int, last: int, pair_gradients: Any) -> Any:
    """The sums over a row's slots, in their order; slots that are no pairs hold zeros."""
    r = g = b = h = hx = hy = hxx = hxy = hyy = 0.0
    for slot in range(first, last):
        pair = pair_gradients[slot]
        r, g, b = r + pair[0], g + pair[1], b + pair[2]
        h, hx, hy = h + pair[3], hx + pair[4], hy + pair[5]
        hxx, hxy, hyy = hxx + pair[6], hxy + pair[7], hyy + pair[8]
    return r, g, b, h, hx, hy, hxx, hxy, hyy


@jit
def _moments_back(splat: Any, hx: float, hy: float, hxx: float, hxy: float, hyy: float) -> Any:
    """Gradients of a splat's centre (x, y) and covariance (xx, xy, yy) from the moments of h in a pair's gradient."""
    # The precision is [[p, q], [q, s]].
    p = float(splat[2])
    q = p * splat[3]
    s = q * splat[3] + splat[4]
    px, py = p * hxx + q * hxy, p * hxy + q * hyy
    qx, qy = q * hxx + s * hxy, q * hxy + s * hyy
    center = p * hx + q * hy, q * hx + s * hy
    return center, (0.5 * (px * p + py * q), 0.5 * (px * q + py * s), 0.5 * (qx * q + qy * s))


@jit
def _covariance_back(map_x: Any, map_y: Any, variance: Any) -> Any:
    """Gradient of a Gaussian's covariance (xx, xy, xz, yy, yz, zz) from that of a splat's (xx, xy, yy)."""
    var_x, var_xy, var_y = variance
    u0, u1, u2 = map_x
    v0, v1, v2 = map_y
    return (
        var_x * u0 * u0 + 2 * var_xy * u0 * v0 + var_y * v0 * v0,
        var_x * u0 * u1 + var_xy * (u0 * v1 + u1 * v0) + var_y * v0 * v1,
        var_x * u0 * u2 + var_xy * (u0 * v2 + u2 * v0) + var_y * v0 * v2,
        var_x * u1 * u1 + 2 * var_xy * u1 * v1 + var_y * v1 * v1,
        var_x * u1 * u2 + var_xy * (u1 * v2 + u2 * v1) + var_y * v1 * v2,
        var_x * u2 * u2 + 2 * var_xy * u2 * v2 + var_y * v2 * v2,
    )


@jit(inline="always")  # LLVM alone does not inline it, and a call costs a fifth of `project_back`
def _projection_back(mean: Any, covariance: Any, center: Any, variance: Any, pose: Any, lens: Any, size: Any) -> Any:
    """Gradients of a Gaussian's mean (x, y, z) and covariance from those of its splat's centre and covariance."""
    width, height = size
    center_x, center_y = center
    var_x, var_xy, var_y = variance
    x, y, z = _to_camera(mean, pose)
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    slope_x, held_x = _clamped_slope(x, z, fx, cx, width)
    slope_y, held_y = _clamped_slope(y, z, fy, cy, height)
    map_x, map_y = _linear_map(slope_x, slope_y, z, fx, fy, pose)

    # map_x = fx / z (R_0 - slope_x R_2), likewise map_y: hence the gradients of both slopes and of z.
    covariance_x, covariance_y = _times_covariance(map_x, covariance), _times_covariance(map_y, covariance)
    xx, xy, yy = _dot(covariance_x, map_x), _dot(covariance_x, map_y), _dot(covariance_y, map_y)
    x2, y2 = _dot(covariance_x, pose[2]), _dot(covariance_y, pose[2])
    kx, ky, tilt_x, tilt_y = fx / z, fy / z, x / z, y / z
    grad_x, grad_y = center_x * kx, center_y * ky
    grad_z = -(grad_x * tilt_x + grad_y * tilt_y) - 2 * (var_x * xx + 2 * var_xy * xy + var_y * yy) / z
    # A slope that is held does not move with the centre.
    if not held_x:
        grad_tilt = -2 * kx * (var_x * x2 + var_xy * y2) / z
        grad_x += grad_tilt
        grad_z -= grad_tilt * tilt_x
    if not held_y:
        grad_tilt = -2 * ky * (var_xy * x2 + var_y * y2) / z
        grad_y += grad_tilt
        grad_z -= grad_tilt * tilt_y
    grad_mean = (
        pose[0, 0] * grad_x + pose[1, 0] * grad_y + pose[2, 0] * grad_z,
        pose[0, 1] * grad_x + pose[1, 1] * grad_y + pose[2, 1] * grad_z,
        pose[0, 2] * grad_x + pose[1, 2] * grad_y + pose[2, 2] * grad_z,
    )
    return grad_mean, _covariance_back(map_x, map_y, variance)


@jit
def project_back(
    start: int, stop: int, scene: Any, cameras: Any, splats: Any, row_slots: Any, pair_gradients: Any, grads: Any
) -> None:
    """Gradients of a range of Gaussians from those of their pairs, through the covariances and the projection.

    Args:
        start: first Gaussian.
        stop: past the last Gaussian.
        scene: as `project` takes it.
        cameras: as `project` takes them.
        splats: [V*N, SPLAT] as `project` wrote them.
        row_slots: [V*N + 1] the first slot of every row.
        pair_gradients: [slots, PAIR_GRADIENT] as `draw_back` wrote them.
        grads: written; gradients of the arrays of `scene`, which are 0 where a Gaussian is drawn in no view.
    """
    means, quats, scales, _, _ = scene
    w2c, fxfycxcy, width, height = cameras
    grad_means, grad_quats, grad_scales, grad_opacities, grad_colors = grads
    count = len(means)
    grad_axes = np.empty((3, 3))
    for gaussian in range(start, stop):
        drawn = False
        for view in range(len(w2c)):
            drawn |= row_slots[view * count + gaussian] < row_slots[view * count + gaussian + 1]
        if not drawn:
            continue
        rotation, unit, length = _rotation(quats[gaussian])
        covariance = _covariance(rotation, scales[gaussian])
        mean_x = mean_y = mean_z = red = green = blue = grad_opacity = 0.0
        grad_xx = grad_xy = grad_xz = grad_yy = grad_yz = grad_zz = 0.0
        # Views are added in their order, so that the sums do not depend on the number of threads.
        for view in range(len(w2c)):
            row = view * count + gaussian
            if row_slots[row] == row_slots[row + 1]:
                continue
            r, g, b, h, hx, hy, hxx, hxy, hyy = _sum_pairs(row_slots[row], row_slots[row + 1], pair_gradients)
            red, green, blue = red + r, green + g, blue + b
            grad_opacity += h / splats[row, 5]
            center, variance = _moments_back(splats[row], hx, hy, hxx, hxy, hyy)
            (x, y, z), (xx, xy, xz, yy, yz, zz) = _projection_back(
                means[gaussian], covariance, center, variance, w2c[view], fxfycxcy[view], (width, height)
            )
            mean_x, mean_y, mean_z = mean_x + x, mean_y + y, mean_z + z
            grad_xx, grad_xy, grad_xz = grad_xx + xx, grad_xy + xy, grad_xz + xz
            grad_yy, grad_yz, grad_zz = grad_yy + yy, grad_yz + yz, grad_zz + zz

        grad_means[gaussian, 0], grad_means[gaussian, 1], grad_means[gaussian, 2] = mean_x, mean_y, mean_z
        grad_colors[gaussian, 0], grad_colors[gaussian, 1], grad_colors[gaussian, 2] = red, green, blue
        grad_opacities[gaussian] = grad_opacity

        # covariance = axes axes^T with axes = R diag(scale).
        grad_covariance = (grad_xx, grad_xy, grad_xz, grad_yy, grad_yz, grad_zz)
        for j in range(3):
            scale = float(scales[gaussian, j])
            axis = (rotation[0][j], rotation[1][j], rotation[2][j])
            grad_axis = _times_covariance(axis, grad_covariance)
            grad_scales[gaussian, j] = 2 * scale * _dot(grad_axis, axis)
            for i in range(3):
                grad_axes[i, j] = 2 * scale * scale * grad_axis[i]
        _rotation_back(grad_axes, unit, length, grad_quats[gaussian])


@jit
def _rotation_back(grad: Any, unit: Any, length: float, out: Any) -> None:
    """The gradient of a quaternion of any length from that of its rotation matrix."""
    w, x, y, z = unit
    skew_x, skew_y, skew_z = grad[2, 1] - grad[1, 2], grad[0, 2] - grad[2, 0], grad[1, 0] - grad[0, 1]
    xy, xz, yz = grad[0, 1] + grad[1, 0], grad[0, 2] + grad[2, 0], grad[1, 2] + grad[2, 1]
    grad_w = 2 * (x * skew_x + y * skew_y + z * skew_z)
    grad_x = 2 * (w * skew_x + y * xy + z * xz - 2 * x * (grad[1, 1] + grad[2, 2]))
    grad_y = 2 * (w * skew_y + x * xy + z * yz - 2 * y * (grad[0, 0] + grad[2, 2]))
    grad_z = 2 * (w * skew_z + x * xz + y * yz - 2 * z * (grad[0, 0] + grad[1, 1]))
    along = w * grad_w + x * grad_x + y * grad_y + z * grad_z
    out[0], out[1] = (grad_w - along * w) / length, (grad_x - along * x) / length
    out[2], out[3] = (grad_y - along * y) / length, (grad_z - along * z) / length
