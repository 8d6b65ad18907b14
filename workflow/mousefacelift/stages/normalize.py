"""Stage 3, normalize: Z-up world with the mouse at the origin, and virtual cameras that look at it, level."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, open_h5, write_json
from mousefacelift.config.normalize import Normalize
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.up import Choice, angle_deg, choose_up
from mousefacelift.geometry.views import (
    FACELIFT_FOCAL,
    FACELIFT_IMAGE_SIZE,
    MEAN_CAMERA_DISTANCE,
    azimuth_elevation,
    inverse_rigid,
    look_at,
    rigid,
    rotation_between,
)
from mousefacelift.rigs.formats.opencv_json import rig_from_json

LEAST_FILL = 5e-4  # of an image of 512 px, a mouse some 11 px across


def smoothed(positions: Array, time_s: Array, sigma_s: float) -> Array:
    """Positions [N, 3] averaged over time_s [N], increasing, with a Gaussian of standard deviation sigma_s.

    As they are for less than a millisecond.
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
    """The largest common zoom at which a fraction `quantile` of views holds the whole silhouette with a margin.

    outline: [M, S, 2] polygon around the silhouette of each view as (x/z, y/z) in its virtual camera, whose focal length
    is focal [M] px before the zoom. A view fits when its farthest point from the image centre, along x or y, stays
    below (1/2 - margin) of the image.
    """
    farthest = np.abs(outline).max(axis=(1, 2)) * focal
    return float((0.5 - margin) * size / np.quantile(farthest, quantile, method="higher"))


@dataclass(frozen=True)
class Cameras:
    """The virtual cameras of N frames and V views under a distance policy.

    world_units_per_mm: [N]. position: [N, V, 3] in world units. image_focal: [N, V] px, of the images as they are made,
    and focal: [N, V] px, of the cameras as they are written: equal unless the policy is `canonical`.
    """

    world_units_per_mm: Array
    position: Array
    image_focal: Array
    focal: Array


def place_cameras(offsets_mm: Array, lengths_mm: Array, focal: float, settings: Normalize) -> Cameras:
    """Distance policies, before any zoom.

    offsets_mm: [N, V, 3] from the subject to each camera, in a Z-up world. lengths_mm: [N] of the animal, NaN where
    unknown. focal: px, FaceLift's at this image size. `exact`: the world is scaled to a mean distance of 2.7, nothing
    else. `focal`: each view's focal length is also multiplied by its distance over 2.7, so that the subject appears
    equally large in all. Both are exact. `canonical`: the world is scaled so that the animal is canonical_extent long, and
    every camera is moved along its axis to 2.7; images are made with the focal length at which what lies at the subject's
    depth appears as the moved camera sees it. Before and behind it does not, quite: see `reprojection_error`.
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
    # What a camera at 2.7 shows as large as this one does.
    equal_size = focal * distance_mm * scale[:, None] / MEAN_CAMERA_DISTANCE
    same = np.full_like(distance_mm, focal)
    if settings.distance == "canonical":
        return Cameras(scale, offsets_mm * (MEAN_CAMERA_DISTANCE / distance_mm)[..., None], equal_size, same)
    image_focal = equal_size if settings.distance == "focal" else same
    return Cameras(scale, offsets_mm * scale[:, None, None], image_focal, image_focal)


def reprojection_error(
    points_mm: Array,
    world_from_mm: Array,
    w2c: Array,
    focal: Array,
    camera_mm: Array,
    R_view: Array,
    image_focal: Array,
) -> Array:
    """How far, in px, points appear in the images from where the written cameras project them: [V, K].

    One frame's points_mm [K, 3] in the calibration's world. As written: world_from_mm [4, 4], w2c [V, 4, 4], focal [V].
    As imaged: camera_mm [V, 3] optical centres, R_view [V, 3, 3] calibration's world to view, image_focal [V].
    """
    world = points_mm @ world_from_mm[:3, :3].T + world_from_mm[:3, 3]
    written = np.einsum("vij,kj->vki", w2c[:, :3, :3], world) + w2c[:, None, :3, 3]
    imaged = np.einsum("vij,vkj->vki", R_view, points_mm - camera_mm[:, None])
    difference = focal[:, None, None] * written[..., :2] / written[..., 2:] - (
        image_focal[:, None, None] * imaged[..., :2] / imaged[..., 2:]
    )
    return np.linalg.norm(difference, axis=-1)


def _area(polygon: Array) -> Array:
    """Areas [...] of polygons [..., S, 2]."""
    x, y = polygon[..., 0], polygon[..., 1]
    return np.abs((x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1)) / 2


def measure_fit(
    outline_px: Array, raw_outline_px: Array, area_px: NDArray[np.int64], center_px: Array, size: int
) -> dict[str, Array]:
    """How each view [N, V] holds its silhouette: fits, fill, clipped_px and offset_px.

    outline_px, raw_outline_px: [N, V, S, 2] polygon around the silhouette in the final view and in the raw frame;
    area_px: [N, V] of the silhouette in the raw frame; center_px: [N, V, 2] its centre of mass in the final view. A view
    that fits holds the whole polygon, so that not a pixel is lost. fill: the silhouette's share of the image, its area
    scaled as the polygon's. clipped_px: its pixels beyond the image, as large a part of it as of the polygon. offset_px:
    distance of its centre of mass from the image's centre. NaN without a silhouette, or with one beyond the calibrated field.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        fits = ((outline_px >= 0) & (outline_px <= size)).all(axis=(2, 3))
        polygon = _area(outline_px)
        shown = area_px * polygon / _area(raw_outline_px)
    clipped = np.where(fits, 0.0, np.nan)
    frame = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    for n, v in np.argwhere(~fits & np.isfinite(polygon)):
        # The convex hull takes corners out that coincide, for which OpenCV finds no intersection.
        corners = cv2.convexHull(outline_px[n, v].astype(np.float32))
        inside, _ = cv2.intersectConvexConvex(corners, frame)
        clipped[n, v] = shown[n, v] * max(0.0, 1 - inside / polygon[n, v])
    return {
        "fits": fits,
        "fill": (shown - np.nan_to_num(clipped)) / size**2,
        "clipped_px": clipped,
        "offset_px": np.linalg.norm(center_px - size / 2, axis=-1),
    }


def normalize(
    rig_file: Path, subject_file: Path, cameras_output: Path, world_output: Path, settings: Normalize
) -> None:
    """Write `normalize/{capture}/cameras.h5` and `world.json`.

    cameras.h5, for the frames N whose centre is known: frame, time_s, chunk; w2c [N, V, 4, 4] of the virtual cameras in
    world units; fxfycxcy [N, V, 4] in px; R_view [N, V, 3, 3] calibration world to virtual camera (same optical centre
    as the raw camera) and image_fxfycxcy [N, V, 4], with which the images are made; world_from_mm [N, 4, 4] similarity
    and its scale world_units_per_mm [N]; distance [N, V]; fits, fill, clipped_px, offset_px [N, V], see `measure_fit`;
    reprojection_px [N, 3] median, 95th percentile and maximum of `reprojection_error` over the hull's surface and the
    views (NaN without a hull); and what `sample` judges a frame by (flags, residual_px).

    Raises UserError if up cannot be told as asked, all cameras stand below the mouse, it would hardly be seen, or zoom: fit
    finds no whole silhouette.
    """
    rig = rig_from_json(rig_file)
    with open_h5(subject_file, "mousefacelift cameras") as file:
        capture = str(file.attrs["capture"])
        names = ("frame", "time_s", "chunk", "center_mm", "center_rays", "outline_rays", "outline_px", "area_px", "flags",
                 "residual_px", "lengths_mm", "hull_iou", "surface_mm", "thin_mm")  # fmt: skip
        data = {name: file[name][()] for name in names}
    known = np.isfinite(data["center_mm"]).all(axis=1)
    if not known.any():
        raise UserError(
            f"{subject_file}: the mouse's centre is known in no frame; look at {subject_file.parent / 'qc.png'}"
        )
    data = {name: values[known] for name, values in data.items()}
    subject = smoothed(data["center_mm"], data["time_s"], settings.smooth_s)

    try:
        choice = choose_up(settings.up, settings.up_axis, rig, data["thin_mm"])
    except UserError as error:
        raise UserError(f"capture {capture}: {error}") from None
    R_world = rotation_between(choice.up, [0, 0, 1])
    centers = np.stack([c.center for c in rig])
    offsets = (centers - subject[:, None]) @ R_world.T
    try:
        R_level = look_at(offsets, np.zeros(3))
    except ValueError as error:
        raise UserError(
            f"capture {capture}: {error}; is up (normalize.up: {settings.up}, {_direction(choice.up)}) right?"
        ) from None
    size = settings.image_size
    if settings.distance == "canonical" and not np.isfinite(data["lengths_mm"][:, 0]).any():
        raise UserError(
            f"capture {capture}: no frame has a visual hull, whose length normalize.distance: canonical needs"
        )
    placed = place_cameras(offsets, data["lengths_mm"][:, 0], FACELIFT_FOCAL * size / FACELIFT_IMAGE_SIZE, settings)
    w2c = rigid(R_level, -(R_level @ placed.position[..., None])[..., 0])
    R_view = R_level @ R_world

    # Each silhouette in its virtual camera: raw camera ray -> world -> virtual camera.
    raw_to_view = R_view @ np.stack([c.R.T for c in rig])
    rays = np.einsum("nvij,nvsj->nvsi", raw_to_view, data["outline_rays"])
    outline = rays[..., :2] / rays[..., 2:]
    middle = np.einsum("nvij,nvj->nvi", raw_to_view, data["center_rays"])
    zoom = _zoom(capture, outline, placed.image_focal, data["flags"], data["hull_iou"], settings)
    image_focal, focal = placed.image_focal * zoom, placed.focal * zoom
    fit = measure_fit(
        outline * image_focal[..., None, None] + size / 2,
        data["outline_px"],
        data["area_px"],
        middle[..., :2] / middle[..., 2:] * image_focal[..., None] + size / 2,
        size,
    )

    _check_seen(capture, fit["fill"], settings)

    scale = placed.world_units_per_mm
    world_from_mm = np.zeros((len(subject), 4, 4))
    world_from_mm[:, :3, :3] = scale[:, None, None] * R_world
    world_from_mm[:, :3, 3] = -scale[:, None] * (subject @ R_world.T)
    world_from_mm[:, 3, 3] = 1
    written = zip(world_from_mm, w2c, focal, R_view, image_focal, strict=True)
    reprojection = np.array(
        [
            _median_p95_max(reprojection_error(_known(points), world, pose, f, centers, R, image_f))
            for points, (world, pose, f, R, image_f) in zip(data["surface_mm"], written, strict=True)
        ]
    )

    # Measured from the matrices to be written, not restated from the settings.
    right, down = w2c[..., 0, :3], w2c[..., 1, :3]
    roll = np.degrees(np.arctan2(right[..., 2], -down[..., 2]))
    view_centers = inverse_rigid(w2c)[..., :3, 3]
    _, elevation = azimuth_elevation(view_centers)
    distances = np.linalg.norm(view_centers, axis=-1)
    if (elevation.mean(axis=0) < 0).all() and not settings.cameras_below:
        raise UserError(
            f"capture {capture}: with up = {_direction(choice.up)} (normalize.up: {settings.up}) all cameras stand below the mouse "
            f"(mean elevations {', '.join(f'{e:.0f}' for e in elevation.mean(axis=0))} degrees): set normalize.up: calibration and "
            "up_axis to the direction of the calibration's world that points up, or normalize.cameras_below: true for a rig that films "
            "through the floor"
        )
    for warning in choice.warnings():
        print(f"warning: capture {capture}: {warning}", file=sys.stderr)

    with atomic(cameras_output) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(
            stage="normalize", version=STAGE_VERSIONS["normalize"], capture=capture, cameras=[c.name for c in rig],
            image_size=size, distance=settings.distance,
        )  # fmt: skip
        for name in ("frame", "time_s", "chunk", "flags", "residual_px"):
            file[name] = data[name]
        file["w2c"] = w2c
        file["fxfycxcy"] = _intrinsics(focal, size)
        file["image_fxfycxcy"] = _intrinsics(image_focal, size)
        file["R_view"] = R_view
        file["world_from_mm"] = world_from_mm
        file["world_units_per_mm"] = scale
        file["distance"] = distances
        file["reprojection_px"] = reprojection
        for name, values in fit.items():
            file[name] = values
    write_json(
        world_output,
        {
            "capture": capture,
            **_up_report(choice, R_world),
            "distance_policy": settings.distance,
            "scale": settings.scale,
            "world_units_per_mm": _summary(scale),
            "zoom": zoom,
            "focal_px": _summary(focal),
            "image_focal_px": _summary(image_focal),
            "image_size": size,
            "camera_distance": {
                "mean": distances.mean(),
                "std": distances.std(),
                "per_camera": distances.mean(axis=0).tolist(),
            },
            "elevation_deg": {c.name: e for c, e in zip(rig, elevation.mean(axis=0).tolist(), strict=True)},
            "max_abs_roll_deg": np.abs(roll).max(),
            "frames": len(subject),
            "views_that_fit": fit["fits"].mean(),
            "fill": _summary(fit["fill"]),
            "clipped_px": _summary(fit["clipped_px"]),
            "offset_px": _summary(fit["offset_px"]),
            "reprojection_px": {
                name: _summary(values) for name, values in zip(("median", "p95", "max"), reprojection.T, strict=True)
            },
        },
    )


def _known(points: NDArray[np.float32]) -> Array:
    """The points [K, 3] before the NaN that fill up the array."""
    return points[np.isfinite(points[:, 0])].astype(np.float64)


def _median_p95_max(values: Array) -> tuple[float, float, float]:
    """NaN of no values."""
    return (*np.quantile(values, [0.5, 0.95]), values.max()) if values.size else (np.nan, np.nan, np.nan)


def _check_seen(capture: str, fill: Array, settings: Normalize) -> None:
    known = fill[np.isfinite(fill)]
    if known.size and (covered := float(np.median(known))) < LEAST_FILL:
        raised = "canonical_extent" if settings.distance == "canonical" else "zoom"
        raise UserError(
            f"capture {capture}: the mouse would cover {covered:.2g} of the image, some "
            f"{settings.image_size * np.sqrt(covered):.0f} px across: raise normalize.{raised} ({getattr(settings, raised)})"
        )


def _zoom(
    capture: str, outline: Array, focal: Array, flags: NDArray[np.uint8], hull_iou: Array, settings: Normalize
) -> float:
    if settings.zoom != "fit":
        return settings.zoom
    # What `sample` will hardly accept must not decide how large the mouse appears: a hand, another animal, a shadow.
    measured = hull_iou[np.isfinite(hull_iou)]
    alike = ~(hull_iou < 0.6 * np.median(measured)) if measured.size else np.ones(flags.shape, bool)
    whole = (flags == 0) & alike & np.isfinite(outline).all(axis=(2, 3))
    if not whole.any():
        raise UserError(f"capture {capture}: no view holds a whole silhouette: normalize.zoom: fit has nothing to fit")
    return fit_zoom(outline[whole], settings.image_size, focal[whole], settings.fit_margin, settings.fit_quantile)


def _intrinsics(focal: Array, size: int) -> Array:
    """Intrinsics [..., 4], fx fy cx cy, of square pixels with the principal point in the middle."""
    middle = np.full_like(focal, size / 2)
    return np.stack([focal, focal, middle, middle], axis=-1)


def _summary(values: Array) -> dict[str, float] | None:
    """Median, least and largest of the values that are known; None without any."""
    known = values[np.isfinite(values)]
    return {"median": float(np.median(known)), "min": known.min(), "max": known.max()} if known.size else None


def _direction(up: Array) -> str:
    return f"({', '.join(f'{x:.3f}' for x in up)}) in the calibration's world"


def _up_report(choice: Choice, R_world: Array) -> dict[str, Any]:
    return {
        "up_in_calibration": choice.up.tolist(),
        "up_method": choice.method,
        "up_after_rotation": (R_world @ choice.up).tolist(),
        "rotation": R_world.tolist(),
        "up_candidates": [
            {
                "method": c.method,
                "up_in_calibration": c.up.tolist(),
                "angle_to_chosen_deg": angle_deg(c.up, choice.up),
                "uncertainty_deg": c.uncertainty_deg,
                "confidence": choice.confidence(c),
            }
            for c in choice.candidates
        ],
        "up_unknown_by": choice.missing,
        "warnings": choice.warnings(),
    }
