"""Calibrated cameras: lens distortion, projection, rays, triangulation. No files, no images.

Conventions, here and in all of `geometry`:
    camera frame: OpenCV's, +x right, +y down, +z forward; x_cam = R @ x_world + t.
    pixels: [0, W] x [0, H], with the first pixel's centre at (0.5, 0.5).
    normalised coordinates: x/z, y/z of a point in the camera frame.
    vectors: rows; arrays of points are [..., 3] or [..., 2].
    units: millimetres in the calibration's world (`_mm`), radians unless a name ends in `_deg`.
    numbers: float64; NaN is unknown. N frames, V views.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A calibrated raw camera.

    Attributes:
        name: of the camera.
        width: of its frames, px; 0 if unknown.
        height: of its frames, px; 0 if unknown.
        K: [3, 3] intrinsics in pixels, with skew.
        dist: [14] OpenCV's coefficients k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4 tauX tauY, unused ones 0; of a fisheye lens
            cv2.fisheye's k1 k2 k3 k4, then zeros.
        R: [3, 3] rotation, world to camera.
        t: [3] translation, world to camera, mm.
        fisheye: whether dist is that of cv2.fisheye.
    """

    name: str
    width: int
    height: int
    K: Array
    dist: Array
    R: Array
    t: Array
    fisheye: bool = False

    @property
    def center(self) -> Array:
        """Optical centre in the world, [3] mm."""
        return -self.R.T @ self.t

    @cached_property
    def field_radius(self) -> float:
        """Largest normalised radius of the calibrated field; see the function of this name."""
        return field_radius(self.dist, self.fisheye)

    @property
    def focal_px(self) -> float:
        """Geometric mean of the two focal lengths, px: what a length across the line of sight is at unit distance."""
        return float(np.sqrt(abs(np.linalg.det(self.K))))

    def mm_per_px(self, point: Array) -> float:
        """What a pixel is across the line of sight to a point [3] in the world, mm."""
        return float(np.linalg.norm(point - self.center) / self.focal_px)

    def moved(self, R_world: Array) -> "Camera":
        """The same camera after the world was rotated: x_new = R_world @ x_world."""
        return replace(self, R=self.R @ R_world.T)


Rig = tuple[Camera, ...]


def pad_distortion(coefficients: ArrayLike, fisheye: bool = False) -> Array:
    """Pad a lens's coefficients with zeros to the length of `Camera.dist`.

    Args:
        coefficients: k1 [k2 [p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tauX tauY]]]]]], or k1 k2 k3 k4 of a fisheye lens.
        fisheye: which of the two.

    Returns:
        [14] coefficients in OpenCV's order.

    Raises:
        ValueError: there are as many coefficients as no model has.
    """
    values = np.asarray(coefficients, np.float64).ravel()
    allowed = (0, 4) if fisheye else (0, 1, 2, 4, 5, 8, 12, 14)
    if values.size not in allowed:
        raise ValueError(
            f"expected {', '.join(map(str, allowed[:-1]))} or {allowed[-1]} {'fisheye ' * fisheye}distortion coefficients, "
            f"found {values.size}"
        )
    return np.pad(values, (0, 14 - values.size))


def distort(xy: ArrayLike, dist: Array, fisheye: bool = False) -> Array:
    """Apply a lens's distortion to normalised coordinates.

    OpenCV's calib3d models: Brown-Conrady with rational radial term, thin prism and tilted sensor; for fisheye,
    Kannala and Brandt, PAMI 2006.

    Args:
        xy: [..., 2] normalised coordinates.
        dist: [14] coefficients, see `Camera`.
        fisheye: whether dist is that of a fisheye lens.

    Returns:
        [..., 2] distorted normalised coordinates.
    """
    xy = np.asarray(xy, np.float64)
    x, y = xy[..., 0], xy[..., 1]
    if fisheye:
        radius = np.hypot(x, y)
        theta = np.arctan(radius)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(radius > 1e-12, _fisheye_angle(theta, dist) / radius, 1.0)
        return xy * scale[..., None]
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tau_x, tau_y = dist
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        radial = radial / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    xy2 = 2 * x * y
    bent = np.stack(
        [x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + p2 * xy2], axis=-1
    )
    if s1 or s2 or s3 or s4:
        bent = bent + np.stack([r2 * (s1 + r2 * s2), r2 * (s3 + r2 * s4)], axis=-1)
    if tau_x or tau_y:
        M = _tilt(tau_x, tau_y)
        plane = bent @ M[:, :2].T + M[:, 2]
        bent = plane[..., :2] / plane[..., 2:]
    return bent


def _fisheye_angle(theta: Array, dist: Array) -> Array:
    """Distorted angle of a ray at angle theta from the optical axis (Kannala and Brandt 2006)."""
    t2 = theta * theta
    k1, k2, k3, k4 = dist[:4]
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def _tilt(tau_x: float, tau_y: float) -> Array:
    """Homography [3, 3] of a sensor turned about x by tau_x and then about y by tau_y, in radians (OpenCV calib3d)."""
    cx, sx, cy, sy = np.cos(tau_x), np.sin(tau_x), np.cos(tau_y), np.sin(tau_y)
    R = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    return np.array([[R[2, 2], 0, -R[0, 2]], [0, R[2, 2], -R[1, 2]], [0, 0, 1]]) @ R


def field_radius(dist: Array, fisheye: bool = False) -> float:
    """Find the largest normalised radius sqrt(x^2 + y^2) up to which the radial distortion still grows.

    Beyond it the polynomial folds back, and one raw pixel would be seen twice. The radius is the first positive root of
    d/dr of r N(r^2) / D(r^2), with the polynomials N and D of OpenCV's rational model; of a fisheye lens, the tangent of
    the first positive root of d/dtheta of its polynomial.

    Args:
        dist: [14] coefficients, see `Camera`.
        fisheye: whether dist is that of a fisheye lens.

    Returns:
        The radius; inf if the distortion always grows.
    """
    polynomial = np.polynomial.Polynomial
    if fisheye:
        k1, k2, k3, k4 = dist[:4]
        theta2 = _largest_inverse(polynomial([1, 3 * k1, 5 * k2, 7 * k3, 9 * k4]))
        return float(np.tan(np.sqrt(theta2))) if theta2 < (np.pi / 2) ** 2 else float("inf")
    k1, k2, _, _, k3, k4, k5, k6 = dist[:8]
    numerator, denominator = polynomial([1, k1, k2, k3]), polynomial([1, k4, k5, k6])
    twice_s = polynomial([0, 2])
    slope = (numerator + twice_s * numerator.deriv()) * denominator - twice_s * numerator * denominator.deriv()
    return float(np.sqrt(_largest_inverse(slope, denominator)))


def _largest_inverse(*polynomials: "np.polynomial.Polynomial") -> float:
    """The smallest positive root of any of several polynomials with constant term 1; inf without one.

    Solved for 1 / s, where the constant terms lead: a negligible highest coefficient would make the roots noise.
    """
    roots = np.concatenate([np.polynomial.Polynomial(p.coef[::-1]).roots() for p in polynomials])
    real = [r.real for r in map(complex, roots) if abs(r.imag) < 1e-9 and r.real > 1e-12]
    return 1 / max(real) if real else float("inf")


def undistort(xy_distorted: ArrayLike, dist: Array, fisheye: bool = False) -> Array:
    """Invert `distort` by Newton's method.

    OpenCV's fixed-point iteration diverges for strong distortion; Newton's method does not within the calibrated field.

    Args:
        xy_distorted: [..., 2] distorted normalised coordinates.
        dist: [14] coefficients, see `Camera`.
        fisheye: whether dist is that of a fisheye lens.

    Returns:
        [..., 2] normalised coordinates; NaN where no point of the calibrated field maps there.
    """
    target = np.asarray(xy_distorted, np.float64)
    limit = field_radius(dist, fisheye)
    if fisheye:
        return _undistort_fisheye(target, dist, min(np.arctan(limit), np.pi / 2 - 1e-6))
    xy = target.copy()
    if np.isfinite(limit):  # start inside the field, where the radial function is monotonic
        radius = np.linalg.norm(xy, axis=-1, keepdims=True)
        xy *= np.minimum(1, 0.9 * limit / np.maximum(radius, 1e-12))
    step = 1e-6  # of the central differences: small against the field, large against rounding
    for _ in range(30):
        value = distort(xy, dist)
        jx = (distort(xy + [step, 0], dist) - distort(xy - [step, 0], dist)) / (2 * step)
        jy = (distort(xy + [0, step], dist) - distort(xy - [0, step], dist)) / (2 * step)
        error = target - value
        determinant = jx[..., 0] * jy[..., 1] - jx[..., 1] * jy[..., 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            dx = (error[..., 0] * jy[..., 1] - error[..., 1] * jy[..., 0]) / determinant
            dy = (error[..., 1] * jx[..., 0] - error[..., 0] * jx[..., 1]) / determinant
        # Short steps, because a long one may leave the field, beyond which Newton's method finds the wrong branch.
        update = np.stack([dx, dy], axis=-1)
        length = np.linalg.norm(update, axis=-1, keepdims=True)
        xy = xy + update * np.minimum(1, 0.1 / np.maximum(length, 1e-12))
        if not np.any(length > 1e-13):
            break
    good = (np.linalg.norm(distort(xy, dist) - target, axis=-1) < 1e-9) & (np.linalg.norm(xy, axis=-1) <= limit)
    return np.where(good[..., None], xy, np.nan)


def _undistort_fisheye(target: Array, dist: Array, widest: float) -> Array:
    """Bisection for the angle, which grows with the distorted one up to `widest`: NaN beyond."""
    wanted = np.linalg.norm(target, axis=-1)
    low, high = np.zeros_like(wanted), np.full_like(wanted, widest)
    for _ in range(60):
        middle = (low + high) / 2
        below = _fisheye_angle(middle, dist) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(wanted > 1e-12, np.tan((low + high) / 2) / wanted, 1.0)
    reached = wanted <= _fisheye_angle(np.array(widest), dist)
    return np.where(reached[..., None], target * scale[..., None], np.nan)


def project(points: ArrayLike, camera: Camera) -> tuple[Array, Array]:
    """Project world points into a raw frame.

    Args:
        points: [..., 3] in the world, mm.
        camera: a calibrated camera.

    Returns:
        [..., 2] raw pixels; NaN behind the camera or beyond its calibrated field.
        [...] depths along the optical axis, mm.
    """
    x_cam = np.asarray(points, np.float64) @ camera.R.T + camera.t
    depth = x_cam[..., 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xy = x_cam[..., :2] / depth[..., None]
        pixels = normalized_to_pixels(distort(xy, camera.dist, camera.fisheye), camera.K)
    visible = (depth > 0) & (np.linalg.norm(xy, axis=-1) <= camera.field_radius)
    return np.where(visible[..., None], pixels, np.nan), depth


def normalized_to_pixels(xy: Array, K: Array) -> Array:
    """Apply intrinsics, with skew.

    Args:
        xy: [..., 2] distorted normalised coordinates.
        K: [3, 3] intrinsics, px.

    Returns:
        [..., 2] pixels.
    """
    return np.stack([K[0, 0] * xy[..., 0] + K[0, 1] * xy[..., 1] + K[0, 2], K[1, 1] * xy[..., 1] + K[1, 2]], axis=-1)


def pixel_rays(pixels: ArrayLike, camera: Camera) -> Array:
    """Find the rays through raw pixels.

    Args:
        pixels: [..., 2] in the raw frame.
        camera: a calibrated camera.

    Returns:
        [..., 3] unit vectors in the camera frame; NaN outside the calibrated field.
    """
    pixels = np.asarray(pixels, np.float64)
    K = camera.K
    y = (pixels[..., 1] - K[1, 2]) / K[1, 1]
    x = (pixels[..., 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    xy = undistort(np.stack([x, y], axis=-1), camera.dist, camera.fisheye)
    rays = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def triangulate(origins: Array, directions: Array, use: NDArray[np.bool_]) -> Array:
    """Find the point nearest to the views' rays, in each frame.

    Minimises the rays' squared angles: each ray's squared distance is divided by the squared range to the point, which
    iterative re-weighting finds. Hartley and Sturm, Triangulation, 1997, re-weight the linear method likewise.

    Args:
        origins: [V, 3] optical centres in the world, mm.
        directions: [N, V, 3] unit vectors in the world.
        use: [N, V] which rays to use.

    Returns:
        [N, 3] points in the world, mm; NaN where fewer than two rays are usable.
    """
    # A ray's distance from x is |(I - d d') (x - origin)|: a linear problem for given weights.
    d = np.where(use[..., None], directions, 0.0)
    projector = np.where(use[..., None, None], np.eye(3) - d[..., :, None] * d[..., None, :], 0.0)
    enough = use.sum(axis=1) >= 2
    points = np.full((len(d), 3), np.nan)
    weights = np.ones(use.shape)
    for _ in range(4):
        weighted = projector[enough] * weights[enough][..., None, None]
        A = weighted.sum(axis=1)
        b = np.einsum("nvij,vj->ni", weighted, origins)
        points[enough] = np.linalg.solve(A, b[..., None])[..., 0]
        ranges = np.linalg.norm(points[:, None] - origins, axis=-1)
        weights = 1 / np.maximum(np.nan_to_num(ranges, nan=1.0), 1e-9) ** 2
    return points
