"""Stage 3, normalize: Z-up world with the mouse at the origin, and virtual cameras that look at it, level."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.subject import Subject
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
from mousefacelift.config.normalize import Normalize
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.placement import (
    Fit,
    PlacedCameras,
    centred_intrinsics,
    fit_zoom,
    holds,
    measure_fit,
    place_cameras,
    reprojection_error,
    share_of_width,
    smoothed,
)
from mousefacelift.geometry.subject_size import FACELIFT_SHARE
from mousefacelift.geometry.up import Choice, angle_deg, choose_up
from mousefacelift.geometry.views import (
    FACELIFT_FOCAL,
    FACELIFT_IMAGE_SIZE,
    azimuth_elevation,
    inverse_rigid,
    look_at,
    rigid,
    rotation_between,
)
from mousefacelift.rigs.formats.opencv_json import rig_from_json

LEAST_FILL = 5e-4  # of an image of 512 px, a mouse some 11 px across


@dataclass(frozen=True)
class World:
    """The Z-up world of a capture's N frames, and what led to it.

    choice: how up was chosen. R: [3, 3] from the calibration's world to Z-up. subject_mm: [N, 3] the mouse's centre in the
    calibration's world, which becomes the origin.
    """

    choice: Choice
    R: Array
    subject_mm: Array


def normalize(
    rig_file: Path, subject_file: Path, cameras_output: Path, world_output: Path, settings: Normalize
) -> None:
    """Write `normalize/{capture}/cameras.h5` (see `Poses`) and `world.json`.

    Raises UserError if up cannot be found as asked, all cameras stand below the mouse, it would hardly be seen, or zoom: fit
    finds no whole silhouette, or no body.
    """
    rig, subject = _read(rig_file, subject_file)
    world = _choose_world(rig, subject, settings)
    poses, zoom, extent = _virtual_cameras(rig, subject, world, settings)
    _, elevation = azimuth_elevation(inverse_rigid(poses.w2c)[..., :3, 3])
    _check_above(subject.capture, elevation.mean(axis=0), world.choice, settings)
    for warning in world.choice.warnings():
        print(f"warning: capture {subject.capture}: {warning}", file=sys.stderr)
    poses.write(cameras_output)
    report = _report(poses, elevation, world, zoom, settings)
    report["subject"]["filling_canonical_extent"] = extent
    print(size_sentence(report), file=sys.stderr)
    write_json(world_output, report)


def _read(rig_file: Path, subject_file: Path) -> tuple[Rig, Subject]:
    """The rig, and the subject in the frames whose centre is known."""
    rig, subject = rig_from_json(rig_file), Subject.read(subject_file)
    subject.check_cameras(subject_file, [camera.name for camera in rig], rig_file)
    known = np.isfinite(subject.center_mm).all(axis=1)
    if not known.any():
        raise UserError(
            f"{subject_file}: the mouse's centre is known in no frame; look at {subject_file.parent / 'qc.png'}"
        )
    return rig, subject.at(known)


def _choose_world(rig: Rig, subject: Subject, settings: Normalize) -> World:
    try:
        choice = choose_up(settings.up, settings.up_axis, rig, subject.thin_mm.astype(np.float64))
    except UserError as error:
        raise UserError(f"capture {subject.capture}: {error}") from None
    positions = smoothed(subject.center_mm, subject.time_s, settings.smooth_s)
    return World(choice, rotation_between(choice.up, [0, 0, 1]), positions)


def _virtual_cameras(
    rig: Rig, subject: Subject, world: World, settings: Normalize
) -> tuple[Poses, Array, float | None]:
    """The virtual cameras of the subject's N frames, their zooms [N], and the extent of `_filling_extent`."""
    size = settings.image_size
    # Level cameras at the raw cameras' optical centres that look at the mouse.
    offsets_mm = (np.stack([camera.center for camera in rig]) - world.subject_mm[:, None]) @ world.R.T
    R_level = _look_at_subject(subject.capture, offsets_mm, world.choice, settings)
    R_view = R_level @ world.R
    placed = _place(subject, offsets_mm, settings)
    w2c = rigid(R_level, -(R_level @ placed.position[..., None])[..., 0])

    # Each silhouette, or body, in its virtual camera decides the zoom, and is judged at that zoom.
    outline, middle = _silhouettes_in_views(rig, subject, R_view)
    body = _bodies_in_views(rig, subject, R_view)
    held = outline if settings.fit == "whole" else body
    zoom = _zoom(subject, held, placed.image_focal, settings)
    image_focal, focal = placed.image_focal * zoom[:, None], placed.focal * zoom[:, None]
    outline_px, body_px = (points * image_focal[..., None, None] + size / 2 for points in (outline, body))
    fit = measure_fit(outline_px, subject.outline_px, subject.area_px, middle * image_focal[..., None] + size / 2, size)
    _check_seen(subject.capture, fit, settings)

    world_from_mm = _similarities(placed.world_units_per_mm, world)
    return Poses(
        capture=subject.capture,
        cameras=subject.cameras,
        image_size=size,
        distance_policy=settings.distance,
        frame=subject.frame,
        time_s=subject.time_s,
        chunk=subject.chunk,
        flags=subject.flags,
        residual_px=subject.residual_px,
        w2c=w2c,
        fxfycxcy=centred_intrinsics(focal, size),
        image_fxfycxcy=centred_intrinsics(image_focal, size),
        R_view=R_view,
        world_from_mm=world_from_mm,
        world_units_per_mm=placed.world_units_per_mm,
        # Measured from the matrices that are written, not restated from the settings.
        distance=np.linalg.norm(inverse_rigid(w2c)[..., :3, 3], axis=-1),
        reprojection_px=_reprojection(rig, subject.surface_mm, world_from_mm, w2c, focal, R_view, image_focal),
        width=share_of_width(outline_px, size),
        body_width=share_of_width(body_px, size),
        body_length=_largest_distance(subject.body_mm) * placed.world_units_per_mm,
        **vars(fit) | ({"fits": holds(body_px, size)} if settings.fit == "body" else {}),
    ), zoom, _filling_extent(subject, held, offsets_mm, settings)  # fmt: skip


def _look_at_subject(capture: str, offsets_mm: Array, choice: Choice, settings: Normalize) -> Array:
    try:
        return look_at(offsets_mm, np.zeros(3))
    except ValueError as error:
        raise UserError(
            f"capture {capture}: {error}; is up (normalize.up: {settings.up}, {_direction(choice.up)}) right?"
        ) from None


def _place(subject: Subject, offsets_mm: Array, settings: Normalize) -> PlacedCameras:
    lengths_mm = subject.lengths_mm[:, 0]
    if settings.distance == "canonical" and not np.isfinite(lengths_mm).any():
        raise UserError(
            f"capture {subject.capture}: no frame has a visual hull, whose length normalize.distance: canonical needs"
        )
    return place_cameras(offsets_mm, lengths_mm, FACELIFT_FOCAL * settings.image_size / FACELIFT_IMAGE_SIZE, settings)


def _silhouettes_in_views(rig: Rig, subject: Subject, R_view: Array) -> tuple[Array, Array]:
    """Outlines [N, V, S, 2] and centres of mass [N, V, 2] of the silhouettes in the virtual cameras, as x/z and y/z."""
    raw_to_view = R_view @ np.stack([camera.R.T for camera in rig])
    rays = np.einsum("nvij,nvsj->nvsi", raw_to_view, subject.outline_rays)
    middle = np.einsum("nvij,nvj->nvi", raw_to_view, subject.center_rays)
    return rays[..., :2] / rays[..., 2:], middle[..., :2] / middle[..., 2:]


def _bodies_in_views(rig: Rig, subject: Subject, R_view: Array) -> Array:
    """The bodies' outermost points [N, V, K, 2] in the virtual cameras, as x/z and y/z; NaN without a hull."""
    centers = np.stack([camera.center for camera in rig])
    offsets = subject.body_mm[:, None].astype(np.float64) - centers[:, None]
    points = np.einsum("nvij,nvkj->nvki", R_view, offsets)
    return points[..., :2] / points[..., 2:]


def _largest_distance(points: NDArray[np.float32]) -> Array:
    """Largest distance [N] between two of the points [N, K, 3]; NaN if one is NaN."""
    return np.array([np.linalg.norm(each[:, None] - each, axis=-1).max() for each in points.astype(np.float64)])


def _zoom(subject: Subject, held: Array, focal: Array, settings: Normalize) -> Array:
    """The zoom of each frame [N]. held: [N, V, S, 2] the outermost points of what the views must hold, as x/z and y/z."""
    count = len(held)
    if settings.zoom != "fit":
        return np.full(count, settings.zoom)
    # What `sample` will hardly accept must not decide how large the mouse appears: a hand, another animal, a shadow.
    hull_iou = subject.hull_iou
    measured = hull_iou[np.isfinite(hull_iou)]
    alike = ~(hull_iou < 0.6 * np.median(measured)) if measured.size else np.ones(subject.flags.shape, bool)
    good = (subject.flags == 0) & alike & np.isfinite(held).all(axis=(2, 3))
    if not good.any():
        what = "no view holds a whole silhouette" if settings.fit == "whole" else "no frame has a visual hull"
        raise UserError(f"capture {subject.capture}: {what}: normalize.zoom: fit has nothing to fit")
    size, margin = settings.image_size, settings.fit_margin
    if settings.scale == "capture":
        return np.full(count, fit_zoom(held[good], size, focal[good], margin, settings.fit_quantile))
    zoom = np.full(count, np.nan)
    for n in np.flatnonzero(good.any(axis=1)):
        zoom[n] = fit_zoom(held[n, good[n]], size, focal[n, good[n]], margin, quantile=1.0)
    # No sample can come of the frames without a good view.
    return np.where(np.isnan(zoom), np.nanmedian(zoom), zoom)


def _filling_extent(subject: Subject, held: Array, offsets_mm: Array, settings: Normalize) -> float | None:
    """The canonical_extent at which `distance: canonical` frames the mouse as `zoom: fit` frames it; None if nothing fits.

    A view's focal length is proportional to the extent there, as it is to the zoom elsewhere. One extent serves all frames.
    """
    canonical = settings.model_copy(update={"distance": "canonical", "canonical_extent": 1.0, "zoom": "fit"})
    try:
        return float(np.min(_zoom(subject, held, _place(subject, offsets_mm, canonical).image_focal, canonical)))
    except UserError:  # no hull, or no whole silhouette: this is advice, and must not stop a run
        return None


def size_sentence(report: dict[str, Any]) -> str:
    """How large the mouse is, by a world.json, beside FaceLift's subjects. From pixels that show no mouse little is learned."""
    size, extent = report["subject"], report["subject"]["filling_canonical_extent"]

    def median(name: str, factor: float, pattern: str) -> str:
        return pattern.format(factor * size[name]["median"]) if size[name] else "unknown"

    text = (
        f"capture {report['capture']}: the mouse covers {median('area', 100, '{:.1f} %')} of a view and "
        f"{median('width', 100, '{:.0f} %')} of its width; its body covers {median('body_width', 100, '{:.0f} %')} of the width and "
        f"is {median('body_length', 1, '{:.2f}')} world units long (medians); FaceLift's subjects cover {100 * FACELIFT_SHARE:.1f} % "
        "of a view"
    )
    if extent is None:
        return text
    what = "mouse" if report["fit"] == "whole" else "mouse's body"
    return f"{text}. normalize.canonical_extent {extent:.2f} fills the picture with the {what}"


def _check_seen(capture: str, fit: Fit, settings: Normalize) -> None:
    known = fit.fill[np.isfinite(fit.fill)]
    if known.size and (covered := float(np.median(known))) < LEAST_FILL:
        raised = "canonical_extent" if settings.distance == "canonical" else "zoom"
        raise UserError(
            f"capture {capture}: the mouse would cover {covered:.2g} of the image, some "
            f"{settings.image_size * np.sqrt(covered):.0f} px across: raise normalize.{raised} ({getattr(settings, raised)})"
        )


def _similarities(scale: Array, world: World) -> Array:
    """[N, 4, 4] from the calibration's world in mm to worlds with the mouse at the origin. scale: [N] world units per mm."""
    matrices = np.zeros((len(scale), 4, 4))
    matrices[:, :3, :3] = scale[:, None, None] * world.R
    matrices[:, :3, 3] = -scale[:, None] * (world.subject_mm @ world.R.T)
    matrices[:, 3, 3] = 1
    return matrices


def _reprojection(
    rig: Rig,
    surface_mm: NDArray[np.float32],
    world_from_mm: Array,
    w2c: Array,
    focal: Array,
    R_view: Array,
    image_focal: Array,
) -> Array:
    """Median, 95th percentile and maximum [N, 3] of `reprojection_error` over the hull's surface and the views."""
    centers = np.stack([camera.center for camera in rig])
    cameras = zip(world_from_mm, w2c, focal, R_view, image_focal, strict=True)
    return np.array(
        [
            _median_p95_max(reprojection_error(_known(points), world, pose, f, centers, R, image_f))
            for points, (world, pose, f, R, image_f) in zip(surface_mm, cameras, strict=True)
        ]
    )


def _known(points: NDArray[np.float32]) -> Array:
    """The points [K, 3] before the NaN that fill up the array."""
    return points[np.isfinite(points[:, 0])].astype(np.float64)


def _median_p95_max(values: Array) -> tuple[float, float, float]:
    """NaN of no values."""
    return (*np.quantile(values, [0.5, 0.95]), values.max()) if values.size else (np.nan, np.nan, np.nan)


def _check_above(capture: str, elevation_deg: Array, choice: Choice, settings: Normalize) -> None:
    """elevation_deg: [V], of each camera in the mean over the frames."""
    if (elevation_deg < 0).all() and not settings.cameras_below:
        raise UserError(
            f"capture {capture}: with up = {_direction(choice.up)} (normalize.up: {settings.up}) all cameras stand below the mouse "
            f"(mean elevations {', '.join(f'{e:.0f}' for e in elevation_deg)} degrees): set normalize.up: calibration and "
            "up_axis to the direction of the calibration's world that points up, or normalize.cameras_below: true for a rig that films "
            "through the floor"
        )


def _direction(up: Array) -> str:
    return f"({', '.join(f'{x:.3f}' for x in up)}) in the calibration's world"


def _report(poses: Poses, elevation: Array, world: World, zoom: Array, settings: Normalize) -> dict[str, Any]:
    """world.json. Values that are unknown in all frames are null."""
    # A level camera's right vector is horizontal, and its down vector points down.
    right, down = poses.w2c[..., 0, :3], poses.w2c[..., 1, :3]
    roll = np.degrees(np.arctan2(right[..., 2], -down[..., 2]))
    return {
        "capture": poses.capture,
        **_up_report(world.choice, world.R),
        "distance_policy": settings.distance,
        "scale": settings.scale,
        "world_units_per_mm": _summary(poses.world_units_per_mm),
        "zoom": zoom[0] if settings.scale == "capture" or settings.zoom != "fit" else _summary(zoom),
        "focal_px": _summary(poses.fxfycxcy[..., 0]),
        "image_focal_px": _summary(poses.image_fxfycxcy[..., 0]),
        "image_size": poses.image_size,
        "camera_distance": {
            "mean": poses.distance.mean(),
            "std": poses.distance.std(),
            "per_camera": poses.distance.mean(axis=0).tolist(),
        },
        "elevation_deg": dict(zip(poses.cameras, elevation.mean(axis=0).tolist(), strict=True)),
        "max_abs_roll_deg": np.abs(roll).max(),
        "frames": len(poses.frame),
        "views_that_fit": poses.fits.mean(),
        "fit": settings.fit,
        # Shares of the image's width and area, and world units.
        "subject": {
            "width": _summary(poses.width),
            "body_width": _summary(poses.body_width),
            "area": _summary(poses.fill),
            "body_length": _summary(poses.body_length),
        },
        "fill": _summary(poses.fill),
        "clipped_px": _summary(poses.clipped_px),
        "offset_px": _summary(poses.offset_px),
        "reprojection_px": {
            name: _summary(values)
            for name, values in zip(("median", "p95", "max"), poses.reprojection_px.T, strict=True)
        },
    }


def _summary(values: Array) -> dict[str, float] | None:
    """Median, least and largest of the values that are known; None without any."""
    known = values[np.isfinite(values)]
    return {"median": float(np.median(known)), "min": known.min(), "max": known.max()} if known.size else None


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
