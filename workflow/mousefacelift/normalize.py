"""Stage 3, normalize: Z-up world with the mouse at the origin, and virtual cameras that look at it, level."""

from pathlib import Path

import h5py
import numpy as np

from mousefacelift import STAGE_VERSIONS
from mousefacelift.center import Flag
from mousefacelift.config import Normalize
from mousefacelift.errors import UserError
from mousefacelift.files import atomic, open_h5, write_json
from mousefacelift.geometry import (
    FACELIFT_FOCAL,
    FACELIFT_IMAGE_SIZE,
    MEAN_CAMERA_DISTANCE,
    Array,
    azimuth_elevation,
    inverse_rigid,
    look_at,
    rigid,
    rotation_between,
)
from mousefacelift.rigs import rig_from_json


def axis_vector(name: str) -> Array:
    """Unit vector [3] of "+x" ... "-z"."""
    return np.eye(3)["xyz".index(name[1])] * (1 if name[0] == "+" else -1)


def floor_normal(positions: Array, side: Array) -> Array:
    """Unit normal [3] of the plane that fits the mouse's positions [N, 3] best, pointing to the side of `side` [3].

    A mouse walks on its floor: the direction in which its centre varies least is up. Raises UserError when the
    positions do not span a plane (the mouse hardly moved, or moved along a line).
    """
    _, spread, axes = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)
    spread = spread / np.sqrt(len(positions))
    if len(positions) < 10 or spread[1] < 2 * spread[2] or spread[1] < 5:
        raise UserError(
            "normalize.up: floor: the mouse's positions do not span a plane (spread along its principal axes "
            f"{', '.join(f'{s:.1f}' for s in spread)} mm): use up: calibration with up_axis"
        )
    return axes[2] * (1 if axes[2] @ side >= 0 else -1)


def fit_zoom(outline: Array, size: int, focal: float, margin: float, quantile: float) -> float:
    """The largest common zoom at which a fraction `quantile` of views holds the whole silhouette with a margin.

    outline: [M, S, 2] silhouette points of each view as (x/z, y/z) in its virtual camera. A view fits when its farthest
    point from the image centre, along x or y, stays below (1/2 - margin) of the image.
    """
    farthest = np.abs(outline).max(axis=(1, 2))
    return float((0.5 - margin) * size / (focal * np.quantile(farthest, quantile, method="higher")))


def normalize(
    rig_file: Path, subject_file: Path, cameras_output: Path, world_output: Path, settings: Normalize
) -> None:
    """Write `normalize/{capture}/cameras.h5` and `world.json`.

    cameras.h5, for the frames N whose centre is known: frame, time_s, chunk; w2c [N, V, 4, 4] of the virtual cameras in
    world units; fxfycxcy [N, V, 4] in px; R_view [N, V, 3, 3] calibration world to virtual camera (same optical centre
    as the raw camera); world_from_mm [N, 4, 4] similarity; distance [N, V]; fits [N, V] whether the silhouette lies
    inside the image; and what `sample` judges a frame by (flags, residual_px).
    """
    rig = rig_from_json(rig_file)
    with open_h5(subject_file, "mousefacelift cameras") as file:
        capture = str(file.attrs["capture"])
        data = {
            name: file[name][()]
            for name in ("frame", "time_s", "chunk", "center_mm", "outline_rays", "flags", "residual_px")
        }
    known = np.isfinite(data["center_mm"]).all(axis=1)
    data = {name: values[known] for name, values in data.items()}
    subject = data["center_mm"]

    axis = axis_vector(settings.up_axis)
    up = axis if settings.up == "calibration" else floor_normal(subject, axis)
    R_world = rotation_between(up, [0, 0, 1])
    centers = np.stack([c.center for c in rig])
    offsets = (centers - subject[:, None]) @ R_world.T
    distance_mm = np.linalg.norm(offsets, axis=-1)
    scale = MEAN_CAMERA_DISTANCE / distance_mm.mean()

    try:
        R_level = look_at(offsets, np.zeros(3))
    except ValueError as error:
        raise UserError(
            f"capture {capture}: {error}; is normalize.up_axis ({settings.up_axis}) the world's up?"
        ) from None
    position = offsets * scale
    w2c = rigid(R_level, -(R_level @ position[..., None])[..., 0])
    R_view = R_level @ R_world

    # Outline of each silhouette in its virtual camera: raw camera ray -> world -> virtual camera.
    raw_to_view = R_view @ np.stack([c.R.T for c in rig])
    rays = np.einsum("nvij,nvsj->nvsi", raw_to_view, data["outline_rays"])
    outline = rays[..., :2] / rays[..., 2:]
    size = settings.image_size
    base_focal = FACELIFT_FOCAL * size / FACELIFT_IMAGE_SIZE
    if settings.zoom == "fit":
        whole = ((data["flags"] & (Flag.EMPTY | Flag.CLIPPED)) == 0) & np.isfinite(outline).all(axis=(2, 3))
        if not whole.any():
            raise UserError(
                f"capture {capture}: no view holds a whole silhouette: normalize.zoom: fit has nothing to fit"
            )
        zoom = fit_zoom(outline[whole], size, base_focal, settings.fit_margin, settings.fit_quantile)
    else:
        zoom = settings.zoom
    focal = base_focal * zoom
    fxfycxcy = np.broadcast_to([focal, focal, size / 2, size / 2], (*distance_mm.shape, 4))
    with np.errstate(invalid="ignore"):
        fits = (np.abs(outline) * focal <= size / 2).all(axis=(2, 3))

    world_from_mm = np.zeros((len(subject), 4, 4))
    world_from_mm[:, :3, :3] = scale * R_world
    world_from_mm[:, :3, 3] = -scale * subject @ R_world.T
    world_from_mm[:, 3, 3] = 1

    # Measured from the matrices to be written, not restated from the settings.
    right, down = w2c[..., 0, :3], w2c[..., 1, :3]
    roll = np.degrees(np.arctan2(right[..., 2], -down[..., 2]))
    view_centers = inverse_rigid(w2c)[..., :3, 3]
    _, elevation = azimuth_elevation(view_centers)
    distances = np.linalg.norm(view_centers, axis=-1)
    if (elevation.mean(axis=0) < 0).all() and not settings.cameras_below:
        raise UserError(
            f"capture {capture}: with up = {settings.up} {settings.up_axis} all cameras stand below the mouse (mean elevations "
            f"{', '.join(f'{e:.0f}' for e in elevation.mean(axis=0))} degrees): set normalize.up_axis to the axis of the "
            "calibration's world that points up, or normalize.cameras_below: true for a rig that films through the floor"
        )

    with atomic(cameras_output) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(
            stage="normalize", version=STAGE_VERSIONS["normalize"], capture=capture, cameras=[c.name for c in rig],
            image_size=size, distance=settings.distance, scale=scale,
        )  # fmt: skip
        for name in ("frame", "time_s", "chunk", "flags", "residual_px"):
            file[name] = data[name]
        file["w2c"] = w2c
        file["fxfycxcy"] = fxfycxcy
        file["R_view"] = R_view
        file["world_from_mm"] = world_from_mm
        file["distance"] = distance_mm * scale
        file["fits"] = fits
    write_json(
        world_output,
        {
            "capture": capture,
            "up_in_calibration": up.tolist(),
            "up_method": settings.up,
            "up_after_rotation": (R_world @ up).tolist(),
            "rotation": R_world.tolist(),
            "world_units_per_mm": scale,
            "zoom": zoom,
            "focal_px": focal,
            "image_size": size,
            "camera_distance": {
                "mean": distances.mean(),
                "std": distances.std(),
                "per_camera": distances.mean(axis=0).tolist(),
            },
            "elevation_deg": {c.name: e for c, e in zip(rig, elevation.mean(axis=0).tolist(), strict=True)},
            "max_abs_roll_deg": np.abs(roll).max(),
            "frames": len(subject),
            "views_that_fit": fits.mean(),
        },
    )
