"""Pure geometry: cameras, lens distortion, virtual views, triangulation. No files, no images, float64 throughout.

Conventions: camera frame OpenCV (+x right, +y down, +z forward), x_cam = R @ x_world + t. Pixel coordinates span
[0, W] x [0, H] with the first pixel's centre at (0.5, 0.5). Vectors are rows: arrays of points are [..., 3] or [..., 2].
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MEAN_CAMERA_DISTANCE = 2.7
FACELIFT_IMAGE_SIZE = 512
# fx = fy of the pretrained weights: a horizontal field of view of 50 degrees at 512 px.
FACELIFT_FOCAL = 256 / np.tan(np.deg2rad(25))


@dataclass(frozen=True)
class Camera:
    """A calibrated raw camera.

    K: [3, 3] intrinsics in pixels, skew kept. dist: [8] OpenCV coefficients k1 k2 p1 p2 k3 k4 k5 k6.
    R [3, 3], t [3]: world to camera, t in millimetres.
    """

    name: str
    width: int
    height: int
    K: Array
    dist: Array
    R: Array
    t: Array

    @property
    def center(self) -> Array:
        """Optical centre in the world, [3]."""
        return -self.R.T @ self.t

    def moved(self, R_world: Array) -> "Camera":
        """The same camera after the world was rotated: x_new = R_world @ x_world."""
        return replace(self, R=self.R @ R_world.T)


Rig = tuple[Camera, ...]


def pad_distortion(coefficients: ArrayLike) -> Array:
    """OpenCV's 4, 5 or 8 coefficients (k1 k2 p1 p2 [k3 [k4 k5 k6]]) as 8. Raises ValueError for other counts."""
    values = np.asarray(coefficients, np.float64).ravel()
    if values.size not in (0, 4, 5, 8):
        raise ValueError(f"expected 0, 4, 5 or 8 distortion coefficients, found {values.size}")
    return np.pad(values, (0, 8 - values.size))


def distort(xy: ArrayLike, dist: Array) -> Array:
    """Lens distortion of normalised image coordinates (x/z, y/z).

    xy: [..., 2]; dist: [8]. The Brown-Conrady model with OpenCV's rational radial term (OpenCV calib3d documentation).
    """
    xy = np.asarray(xy, np.float64)
    k1, k2, p1, p2, k3, k4, k5, k6 = dist
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        radial = radial / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    xy2 = 2 * x * y
    return np.stack(
        [x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + p2 * xy2], axis=-1
    )


def field_radius(dist: Array) -> float:
    """Largest normalised radius sqrt(x^2 + y^2) up to which the radial distortion still grows; inf if it always does.

    Beyond it the polynomial folds back, and one raw pixel would be seen twice. dist: [8].
    The radius is the first positive root of d/dr of r N(r^2) / D(r^2).
    """
    k1, k2, _, _, k3, k4, k5, k6 = dist
    polynomial = np.polynomial.Polynomial
    numerator, denominator = polynomial([1, k1, k2, k3]), polynomial([1, k4, k5, k6])
    twice_s = polynomial([0, 2])
    slope = (numerator + twice_s * numerator.deriv()) * denominator - twice_s * numerator * denominator.deriv()
    # Solved for 1 / r^2: there the constant terms lead, which are 1; a negligible k3 or k6 would make the roots noise.
    roots = np.concatenate([polynomial(p.coef[::-1]).roots() for p in (slope, denominator)])
    real = [r.real for r in map(complex, roots) if abs(r.imag) < 1e-9 and r.real > 1e-12]
    return float(1 / np.sqrt(max(real))) if real else float("inf")


def undistort(xy_distorted: ArrayLike, dist: Array) -> Array:
    """Inverse of `distort` by Newton's method; NaN where no point of the calibrated field maps there.

    xy_distorted: [..., 2]; dist: [8]. OpenCV's fixed-point iteration diverges for strong distortion; Newton's does not
    within the field.
    """
    target = np.asarray(xy_distorted, np.float64)
    limit = field_radius(dist)
    xy = target.copy()
    if np.isfinite(limit):  # start inside the field, where the radial function is monotonic
        radius = np.linalg.norm(xy, axis=-1, keepdims=True)
        xy *= np.minimum(1, 0.9 * limit / np.maximum(radius, 1e-12))
    step = 1e-6
    for _ in range(30):
        value = distort(xy, dist)
        jx = (distort(xy + [step, 0], dist) - distort(xy - [step, 0], dist)) / (2 * step)
        jy = (distort(xy + [0, step], dist) - distort(xy - [0, step], dist)) / (2 * step)
        error = target - value
        determinant = jx[..., 0] * jy[..., 1] - jx[..., 1] * jy[..., 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            dx = (error[..., 0] * jy[..., 1] - error[..., 1] * jy[..., 0]) / determinant
            dy = (error[..., 1] * jx[..., 0] - error[..., 0] * jx[..., 1]) / determinant
        update = np.stack([dx, dy], axis=-1)
        length = np.linalg.norm(update, axis=-1, keepdims=True)
        xy = xy + update * np.minimum(1, 0.1 / np.maximum(length, 1e-12))
        if not np.any(length > 1e-13):
            break
    good = (np.linalg.norm(distort(xy, dist) - target, axis=-1) < 1e-9) & (np.linalg.norm(xy, axis=-1) <= limit)
    return np.where(good[..., None], xy, np.nan)


def project(points: ArrayLike, camera: Camera) -> tuple[Array, Array]:
    """World points [..., 3] to raw pixels [..., 2] and depths [...]; NaN behind the camera or beyond its field."""
    x_cam = np.asarray(points, np.float64) @ camera.R.T + camera.t
    depth = x_cam[..., 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xy = x_cam[..., :2] / depth[..., None]
        pixels = normalized_to_pixels(distort(xy, camera.dist), camera.K)
    visible = (depth > 0) & (np.linalg.norm(xy, axis=-1) <= field_radius(camera.dist))
    return np.where(visible[..., None], pixels, np.nan), depth


def normalized_to_pixels(xy: Array, K: Array) -> Array:
    """Distorted normalised coordinates [..., 2] to pixels [..., 2], skew included."""
    return np.stack([K[0, 0] * xy[..., 0] + K[0, 1] * xy[..., 1] + K[0, 2], K[1, 1] * xy[..., 1] + K[1, 2]], axis=-1)


def pixel_rays(pixels: ArrayLike, camera: Camera) -> Array:
    """Unit rays [..., 3] in the camera frame through raw pixels [..., 2]; NaN outside the calibrated field."""
    pixels = np.asarray(pixels, np.float64)
    K = camera.K
    y = (pixels[..., 1] - K[1, 2]) / K[1, 1]
    x = (pixels[..., 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    xy = undistort(np.stack([x, y], axis=-1), camera.dist)
    rays = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def triangulate(origins: Array, directions: Array, use: NDArray[np.bool_]) -> Array:
    """The point nearest to several rays, per frame; NaN where fewer than two rays are usable.

    origins: [V, 3]; directions: [N, V, 3] unit vectors; use: [N, V]. Returns [N, 3]. Minimises the rays' squared
    angles: each ray's squared distance is divided by the squared range to the point, found by re-weighting.
    """
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


def rotation_between(a: ArrayLike, b: ArrayLike) -> Array:
    """The smallest rotation matrix that turns direction a [3] into direction b [3] (Rodrigues' formula)."""
    a = np.asarray(a, np.float64) / np.linalg.norm(a)
    b = np.asarray(b, np.float64) / np.linalg.norm(b)
    axis, cosine = np.cross(a, b), float(a @ b)
    if cosine < -0.5:  # half a turn about a perpendicular axis, the nearest to a x b, makes it a small rotation
        perpendicular = axis if np.linalg.norm(axis) > 1e-9 else np.cross(a, np.eye(3)[np.argmin(np.abs(a))])
        perpendicular = perpendicular - a * (a @ perpendicular)
        perpendicular /= np.linalg.norm(perpendicular)
        return rotation_between(-a, b) @ (2 * np.outer(perpendicular, perpendicular) - np.eye(3))
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def look_at(center: ArrayLike, target: ArrayLike) -> Array:
    """World-to-camera rotations [..., 3, 3] of level cameras at `center` [..., 3] looking at `target` [..., 3].

    World up is +Z and appears upright in the image: roll is exactly zero. Undefined for a camera straight above or
    below its target; raises ValueError there.
    """
    forward = np.asarray(target, np.float64) - np.asarray(center, np.float64)
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.stack([forward[..., 1], -forward[..., 0], np.zeros(forward.shape[:-1])], axis=-1)
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    if np.any(length < 1e-6):
        raise ValueError("a camera looks straight up or down: its roll is undefined")
    right = right / length
    return np.stack([right, np.cross(forward, right), forward], axis=-2)


def view_map(camera: Camera, R_view: Array, fxfycxcy: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Where points of a virtual view lie in the raw frame: undistortion, rotation, zoom and resize in one map.

    The virtual camera shares the raw camera's optical centre, has rotation R_view [3, 3] (world to view) and pinhole
    intrinsics fxfycxcy [4] in pixels. x [W], y [H]: columns and rows of the wanted grid, in pixels of the view. Returns
    raw pixels [H, W, 2], and [H, W] the ray's normalised radius in the raw camera, which is only meaningful up to
    `field_radius`; inf behind the camera. A rotation about the optical centre is a homography, whatever the depth
    (Hartley and Zisserman, Multiple View Geometry, 8.4).
    """
    fx, fy, cx, cy = fxfycxcy
    M = camera.R @ R_view.T
    ray = ((x - cx) / fx)[None, :, None] * M[:, 0] + (((y - cy) / fy)[:, None, None] * M[:, 1] + M[:, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = ray[..., :2] / ray[..., 2:]
    raw = normalized_to_pixels(distort(xy, camera.dist), camera.K)
    return raw, np.where(ray[..., 2] > 0, np.hypot(xy[..., 0], xy[..., 1]), np.inf)


def rigid(R: Array, t: Array) -> Array:
    """[..., 4, 4] matrices from rotations [..., 3, 3] and translations [..., 3]."""
    matrix = np.zeros((*np.broadcast_shapes(R.shape[:-2], t.shape[:-1]), 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = R, t, 1
    return matrix


def inverse_rigid(matrix: Array) -> Array:
    """Inverse of [..., 4, 4] rotation-and-translation matrices."""
    R = np.swapaxes(matrix[..., :3, :3], -1, -2)
    return rigid(R, -(R @ matrix[..., :3, 3:])[..., 0])


def azimuth_elevation(directions: ArrayLike) -> tuple[Array, Array]:
    """Azimuth in [0, 360) about +Z from +X, and elevation above the XY plane, in degrees, of vectors [..., 3]."""
    d = np.asarray(directions, np.float64)
    azimuth = np.degrees(np.arctan2(d[..., 1], d[..., 0])) % 360
    return azimuth, np.degrees(np.arctan2(d[..., 2], np.hypot(d[..., 0], d[..., 1])))
