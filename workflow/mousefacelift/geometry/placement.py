"""Virtual cameras that hold the mouse: where they stand, how far they zoom, and how well each view holds its silhouette."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.config.normalize import Normalize
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.views import MEAN_CAMERA_DISTANCE


def smoothed(positions: Array, time_s: Array, sigma_s: float) -> Array:
    """Average positions over time with a Gaussian.

    Args:
        positions: [N, 3].
        time_s: [N] s, increasing.
        sigma_s: standard deviation of the Gaussian, s; below a millisecond positions stay as they are.

    Returns:
        [N, 3].
    """
    if sigma_s < 1e-3:
        return positions
    begin, end = np.searchsorted(time_s, [time_s - 4 * sigma_s, time_s + 4 * sigma_s])
    result = np.empty_like(positions)
    for n in range(len(positions)):
        near = slice(begin[n], end[n])
        weight = np.exp(-0.5 * ((time_s[near] - time_s[n]) / sigma_s) ** 2)
        result[n] = weight @ positions[near] / weight.sum()
    return result


def fit_zoom(outline: Array, size: int, focal: Array | float, margin: float, quantile: float) -> float:
    """The largest common zoom at which a share of the views holds the mouse, or a part of it, with a margin.

    A view holds it when the point farthest from the image's centre, along x or y, stays within (1/2 - margin) of the image.

    Args:
        outline: [M, S, 2] outermost points in each view, as x/z and y/z in its virtual camera.
        size: width and height of the image, px.
        focal: [M] focal lengths before the zoom, px.
        margin: share of the image kept free at each border.
        quantile: share of the views.

    Returns:
        Factor on the focal lengths.
    """
    farthest = np.abs(outline).max(axis=(1, 2)) * focal
    return float((0.5 - margin) * size / np.quantile(farthest, quantile, method="higher"))


@dataclass(frozen=True)
class PlacedCameras:
    """The virtual cameras of N frames and V views under a distance policy.

    world_units_per_mm: [N].
    position: [N, V, 3] relative to the subject, world units.
    image_focal: [N, V] focal lengths with which the images are made, px.
    focal: [N, V] focal lengths of the cameras as they are written, px; the same unless the policy is `canonical`.
    """

    world_units_per_mm: Array
    position: Array
    image_focal: Array
    focal: Array


def place_cameras(offsets_mm: Array, lengths_mm: Array, focal: float, settings: Normalize) -> PlacedCameras:
    """Apply the distance policy, before any zoom.

    `exact` scales the world to a mean camera distance of 2.7, and does nothing else. `focal` also multiplies each view's
    focal length by its distance over 2.7, so that the subject appears equally large in all views. Both are exact.
    `canonical` scales the world so that the animal is canonical_extent long, and moves every camera along its axis to 2.7.
    Its images are made with the focal length at which the subject's depth appears as the moved camera sees it. Points in
    front of the subject's depth and behind it are off: see `reprojection_error`.

    Args:
        offsets_mm: [N, V, 3] from the subject to each camera in a Z-up world, mm.
        lengths_mm: [N] of the animal, mm; NaN where unknown.
        focal: FaceLift's focal length at this image size, px.
        settings: distance, scale and canonical_extent are used.

    Returns:
        The placed cameras.
    """
    distance_mm = np.linalg.norm(offsets_mm, axis=-1)
    if settings.distance == "canonical":
        typical = np.nanmedian(lengths_mm)
        length = np.full_like(lengths_mm, typical)
        if settings.scale == "sample":
            length = np.where(np.isfinite(lengths_mm), lengths_mm, typical)
        scale = settings.canonical_extent / length
    else:
        mean = distance_mm.mean(axis=1) if settings.scale == "sample" else np.full(len(distance_mm), distance_mm.mean())
        scale = MEAN_CAMERA_DISTANCE / mean
    # With this focal length a camera at 2.7 shows the subject as large as this one does.
    equal_size = focal * distance_mm * scale[:, None] / MEAN_CAMERA_DISTANCE
    same = np.full_like(distance_mm, focal)
    if settings.distance == "canonical":
        return PlacedCameras(scale, offsets_mm * (MEAN_CAMERA_DISTANCE / distance_mm)[..., None], equal_size, same)
    image_focal = equal_size if settings.distance == "focal" else same
    return PlacedCameras(scale, offsets_mm * scale[:, None, None], image_focal, image_focal)


def centred_intrinsics(focal: Array, size: int) -> Array:
    """Intrinsics of square pixels with the principal point in the middle of the image.

    Args:
        focal: [...] px.
        size: width and height of the image, px.

    Returns:
        [..., 4] fx, fy, cx, cy, px.
    """
    middle = np.full_like(focal, size / 2)
    return np.stack([focal, focal, middle, middle], axis=-1)


def reprojection_error(
    points_mm: Array,
    world_from_mm: Array,
    w2c: Array,
    focal: Array,
    camera_mm: Array,
    R_view: Array,
    image_focal: Array,
) -> Array:
    """How far one frame's points appear in the images from where the written cameras project them.

    Args:
        points_mm: [K, 3] in the calibration's world, mm.
        world_from_mm: [4, 4] similarity to the written world.
        w2c: [V, 4, 4] written cameras.
        focal: [V] written focal lengths, px.
        camera_mm: [V, 3] optical centres that the images were taken from, in the calibration's world, mm.
        R_view: [V, 3, 3] rotation from the calibration's world to the view.
        image_focal: [V] focal lengths that the images are made with, px.

    Returns:
        [V, K] distances, px.
    """
    world = points_mm @ world_from_mm[:3, :3].T + world_from_mm[:3, 3]
    written = np.einsum("vij,kj->vki", w2c[:, :3, :3], world) + w2c[:, None, :3, 3]
    imaged = np.einsum("vij,vkj->vki", R_view, points_mm - camera_mm[:, None])
    difference = focal[:, None, None] * written[..., :2] / written[..., 2:] - (
        image_focal[:, None, None] * imaged[..., :2] / imaged[..., 2:]
    )
    return np.linalg.norm(difference, axis=-1)


@dataclass(frozen=True)
class Fit:
    """How each of V views in N frames holds its silhouette. NaN without one, or with one beyond the calibrated field.

    fits: [N, V] bool, whether the view holds the whole polygon around the silhouette, so that not a pixel is lost.
    fill: [N, V] the silhouette's share of the image.
    clipped_px: [N, V] the silhouette's pixels beyond the image.
    offset_px: [N, V] distance of the silhouette's centre of mass from the middle of the image, px.
    """

    fits: NDArray[np.bool_]
    fill: Array
    clipped_px: Array
    offset_px: Array


def measure_fit(
    outline_px: Array, raw_outline_px: Array, area_px: NDArray[np.int64], center_px: Array, size: int
) -> Fit:
    """Measure how each view holds its silhouette, without making the image.

    Args:
        outline_px: [N, V, S, 2] polygon around the silhouette in the view, px.
        raw_outline_px: [N, V, S, 2] the same in the raw frame, px.
        area_px: [N, V] the silhouette's pixels in the raw frame.
        center_px: [N, V, 2] the silhouette's centre of mass in the view, px.
        size: width and height of the view, px.

    Returns:
        The fit of every view.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        fits = holds(outline_px, size)
        # The silhouette's area grows from the raw frame to the view as its polygon's does.
        polygon = _area(outline_px)
        shown = area_px * polygon / _area(raw_outline_px)
    # As large a part of the silhouette lies beyond the image as of the polygon.
    clipped = np.where(fits, 0.0, np.nan)
    frame = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    for n, v in np.argwhere(~fits & np.isfinite(polygon)):
        # OpenCV finds no intersection of polygons with corners that coincide; the convex hull takes these out.
        corners = cv2.convexHull(outline_px[n, v].astype(np.float32))
        inside, _ = cv2.intersectConvexConvex(corners, frame)
        clipped[n, v] = shown[n, v] * max(0.0, 1 - inside / polygon[n, v])
    return Fit(
        fits=fits,
        fill=(shown - np.nan_to_num(clipped)) / size**2,
        clipped_px=clipped,
        offset_px=np.linalg.norm(center_px - size / 2, axis=-1),
    )


def holds(points_px: Array, size: int) -> NDArray[np.bool_]:
    """Whether each view's image of `size` px holds all of its points [N, V, S, 2], px; not if one is NaN."""
    return np.asarray(((points_px >= 0) & (points_px <= size)).all(axis=(2, 3)))


def share_of_width(points_px: Array, size: int) -> Array:
    """How much of the image each view's points take up.

    Args:
        points_px: [N, V, S, 2] in the view, px.
        size: width and height of the view, px.

    Returns:
        [N, V] the longer side of the points' bounding box inside the image, as a share of the image's width; NaN if a point
        is NaN.
    """
    return np.ptp(np.clip(points_px, 0, size), axis=2).max(axis=-1) / size


def _area(polygon: Array) -> Array:
    """Areas [...] of polygons [..., S, 2]."""
    x, y = polygon[..., 0], polygon[..., 1]
    return np.abs((x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1)) / 2
