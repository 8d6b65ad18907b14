"""Rigid transforms and virtual views: cameras that look at the mouse, and where their pixels lie in a raw frame.

Conventions are those of `camera`. Virtual views live in normalised worlds: subject at the origin, +Z up, the mean camera
at distance 2.7. fxfycxcy are pinhole intrinsics fx, fy, cx, cy in pixels of the view.
"""

import numpy as np
from numpy.typing import ArrayLike

from mousefacelift.geometry.camera import Array, Camera, distort, normalized_to_pixels

MEAN_CAMERA_DISTANCE = 2.7
FACELIFT_IMAGE_SIZE = 512
# fx = fy of the pretrained weights: a horizontal field of view of 50 degrees at 512 px.
FACELIFT_FOCAL = 256 / np.tan(np.deg2rad(25))
FACELIFT_ELEVATION = 20.0  # degrees, of all of its training views


def rigid(R: Array, t: Array) -> Array:
    """Join rotations and translations.

    Args:
        R: [..., 3, 3] rotations.
        t: [..., 3] translations.

    Returns:
        [..., 4, 4] matrices.
    """
    matrix = np.zeros((*np.broadcast_shapes(R.shape[:-2], t.shape[:-1]), 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = R, t, 1
    return matrix


def inverse_rigid(matrix: Array) -> Array:
    """Invert matrices of rotation and translation.

    Args:
        matrix: [..., 4, 4] without scale.

    Returns:
        [..., 4, 4] inverses.
    """
    R = np.swapaxes(matrix[..., :3, :3], -1, -2)
    return rigid(R, -(R @ matrix[..., :3, 3:])[..., 0])


def rotation_between(a: ArrayLike, b: ArrayLike) -> Array:
    """Find the smallest rotation that turns one direction into another, by Rodrigues' formula.

    Args:
        a: [3] of any length.
        b: [3] of any length.

    Returns:
        [3, 3] rotation with R @ a parallel to b.
    """
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
    """Turn level cameras towards a target. World up, +Z, is upright in the image: roll is exactly zero.

    Args:
        center: [..., 3] optical centres.
        target: [..., 3] points to look at.

    Returns:
        [..., 3, 3] world-to-camera rotations.

    Raises:
        ValueError: a camera is straight above or below its target, where roll is undefined.
    """
    forward = np.asarray(target, np.float64) - np.asarray(center, np.float64)
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.stack([forward[..., 1], -forward[..., 0], np.zeros(forward.shape[:-1])], axis=-1)
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    if np.any(length < 1e-6):
        raise ValueError("a camera looks straight up or down: its roll is undefined")
    right = right / length
    return np.stack([right, np.cross(forward, right), forward], axis=-2)


def orbit(azimuth_deg: ArrayLike, elevation_deg: float) -> Array:
    """Place level cameras that look at the origin from MEAN_CAMERA_DISTANCE.

    Args:
        azimuth_deg: [V] about +Z from +X.
        elevation_deg: above the XY plane, short of the poles.

    Returns:
        [V, 4, 4] camera-to-world matrices.
    """
    azimuth, elevation = np.deg2rad(np.asarray(azimuth_deg, np.float64)), np.deg2rad(elevation_deg)
    ring = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1) * np.cos(elevation)
    center = MEAN_CAMERA_DISTANCE * np.column_stack([ring, np.full(len(ring), np.sin(elevation))])
    return rigid(np.swapaxes(look_at(center, np.zeros(3)), -1, -2), center)


def moved_to_mean_distance(c2w: Array, fxfycxcy: Array) -> tuple[Array, Array]:
    """Move cameras along their optical axes to MEAN_CAMERA_DISTANCE from the origin, whatever their images show.

    Focal lengths are multiplied by 2.7 / D, D being the distance along the axis, so that what lies at the origin's depth
    keeps its pixels. A point X beside the axis and z behind the origin had its pixel at f X / (D + z), and is now
    projected to (f 2.7 / D) X / (2.7 + z), which differs by f X z (2.7 - D) / (D (2.7 + z) (D + z)).

    Args:
        c2w: [..., 4, 4] camera to world, of cameras that look at the origin.
        fxfycxcy: [..., 4] intrinsics, px.

    Returns:
        [..., 4, 4] moved camera-to-world matrices.
        [..., 4] their intrinsics, px.
    """
    axis, center = c2w[..., :3, 2], c2w[..., :3, 3]
    distance = -(axis * center).sum(-1, keepdims=True)
    moved, intrinsics = c2w.astype(np.float64), fxfycxcy.astype(np.float64)
    moved[..., :3, 3] += (distance - MEAN_CAMERA_DISTANCE) * axis
    intrinsics[..., :2] *= MEAN_CAMERA_DISTANCE / distance
    return moved, intrinsics


def common_normal(directions: Array) -> tuple[Array, Array]:
    """Find the vector most nearly at right angles to directions, in least squares of the cosines.

    Args:
        directions: [N, 3] unit vectors.

    Returns:
        [3] unit vector of either sign.
        [3] eigenvalues of the directions' summed outer products, ascending: the first is the sum of squared cosines.
    """
    strength, axes = np.linalg.eigh(directions.T @ directions)
    return axes[:, 0], strength


def azimuth_elevation(directions: ArrayLike) -> tuple[Array, Array]:
    """Express vectors as angles.

    Args:
        directions: [..., 3] of any length.

    Returns:
        [...] azimuth about +Z from +X, degrees in [0, 360).
        [...] elevation above the XY plane, degrees.
    """
    d = np.asarray(directions, np.float64)
    azimuth = np.degrees(np.arctan2(d[..., 1], d[..., 0])) % 360
    return azimuth, np.degrees(np.arctan2(d[..., 2], np.hypot(d[..., 0], d[..., 1])))


def view_map(camera: Camera, R_view: Array, fxfycxcy: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Find where points of a virtual view lie in the raw frame: undistortion, rotation, zoom and resize in one map.

    The virtual camera shares the raw camera's optical centre. A rotation about that is a homography, whatever the depth
    (Hartley and Zisserman, Multiple View Geometry, 8.4).

    Args:
        camera: the raw camera.
        R_view: [3, 3] rotation, world to view.
        fxfycxcy: [4] the view's intrinsics, px.
        x: [W] columns of the wanted grid, px of the view.
        y: [H] rows of the wanted grid, px of the view.

    Returns:
        [H, W, 2] raw pixels.
        [H, W] the ray's normalised radius in the raw camera; beyond `field_radius` the pixel is meaningless. inf behind
        the camera.
    """
    fx, fy, cx, cy = fxfycxcy
    M = camera.R @ R_view.T
    ray = ((x - cx) / fx)[None, :, None] * M[:, 0] + (((y - cy) / fy)[:, None, None] * M[:, 1] + M[:, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = ray[..., :2] / ray[..., 2:]
    raw = normalized_to_pixels(distort(xy, camera.dist, camera.fisheye), camera.K)
    return raw, np.where(ray[..., 2] > 0, np.hypot(xy[..., 0], xy[..., 1]), np.inf)
