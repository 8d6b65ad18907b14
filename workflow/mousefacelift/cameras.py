"""Stage 2, cameras: the calibrated rig, and the mouse's 3D centre in each frame."""

from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.calibration import read_rig, rig_to_json
from mousefacelift.captures import Capture
from mousefacelift.center import Flag
from mousefacelift.config import Cameras
from mousefacelift.errors import UserError
from mousefacelift.files import atomic, open_h5, write_json
from mousefacelift.geometry import Array, Rig, pixel_rays, project, triangulate


def cameras(capture: Capture, chunks: list[Path], rig_output: Path, subject_output: Path, settings: Cameras) -> None:
    """Write `cameras/{capture}/rig.json` and `subject.h5` from the calibration and the capture's centred chunks.

    subject.h5: frame [N], time_s [N], chunk [N]; center_mm [N, 3] (NaN without enough silhouettes); residual_px [N, V]
    distance in the raw frame between a silhouette's centre of mass and the reprojected centre; outline_rays [N, V, S, 3]
    unit rays in the camera frame through the silhouette's outermost points; flags and area_px as center found them.

    Raises UserError if a calibration is damaged, or a camera's residual says that it contradicts the others.
    """
    fields: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(chunks):
        with open_h5(path, "mousefacelift center") as file:
            sizes = file.attrs["size"]
            for name in ("frame", "time_s", "center_px", "area_px", "support_px", "flags", "sharpness"):
                fields.setdefault(name, []).append(file[name][()])
            fields.setdefault("chunk", []).append(np.full(len(file["frame"]), number))
    data = {name: np.concatenate(parts) for name, parts in fields.items()}
    rig = read_rig(capture, sizes)

    found = (data["flags"] & Flag.EMPTY) == 0
    rays = np.stack([pixel_rays(data["center_px"][:, v], camera) @ camera.R for v, camera in enumerate(rig)], axis=1)
    use = found & np.isfinite(rays).all(axis=-1)
    # A silhouette cut off by the frame's edge has its centre of mass in the wrong place: use it only if there are too few.
    whole = use & ((data["flags"] & Flag.CLIPPED) == 0)
    enough = whole.sum(axis=1, keepdims=True) >= settings.min_views
    use = (whole & enough) | (use & ~enough)
    center_mm, residual_px = locate(rig, data["center_px"], rays, use, settings.min_views)
    _check_agreement(capture, rig, data["center_px"], rays, use, residual_px, settings)
    outline_rays = np.stack([pixel_rays(data["support_px"][:, v], camera) for v, camera in enumerate(rig)], axis=1)

    write_json(rig_output, rig_to_json(rig))
    with atomic(subject_output) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(
            stage="cameras", version=STAGE_VERSIONS["cameras"], capture=capture.name, cameras=list(capture.cameras)
        )
        for name in ("frame", "time_s", "chunk", "flags", "area_px", "sharpness"):
            file[name] = data[name]
        file["center_mm"] = center_mm
        file["residual_px"] = residual_px
        file["outline_rays"] = outline_rays


def locate(rig: Rig, center_px: Array, rays: Array, use: NDArray[np.bool_], min_views: int) -> tuple[Array, Array]:
    """The mouse's centre in each frame, and each silhouette's distance from it.

    center_px [N, V, 2] silhouettes' centres in the raw frames, NaN without one; rays [N, V, 3] through them, in the world;
    use [N, V] which to triangulate from. Returns centres [N, 3] in mm, NaN where fewer than min_views are usable, and
    residuals [N, V] in raw px: NaN without silhouette or centre, inf where the centre would lie behind the camera or
    beyond its calibrated field.
    """
    center_mm = triangulate(np.stack([c.center for c in rig]), rays, use)
    center_mm[use.sum(axis=1) < min_views] = np.nan
    pixels = np.stack([project(center_mm, camera)[0] for camera in rig], axis=1)
    distance = np.nan_to_num(np.linalg.norm(pixels - center_px, axis=-1), nan=np.inf)
    measured = np.isfinite(center_px).all(axis=-1) & np.isfinite(center_mm).all(axis=-1, keepdims=True)
    return center_mm, np.where(measured, distance, np.nan)


def _check_agreement(
    capture: Capture,
    rig: Rig,
    center_px: Array,
    rays: Array,
    use: NDArray[np.bool_],
    residual_px: Array,
    settings: Cameras,
) -> None:
    if np.isnan(residual_px).all():
        raise UserError(
            f"capture {capture.name}: no frame has a mouse in {settings.min_views} views (cameras.min_views): "
            "look at the silhouettes and at the order of cameras and calibration files"
        )
    medians = _medians(residual_px)
    if medians.max() <= settings.max_residual_px:
        return
    # One wrong camera drags the centre away from all. Two cameras place the mouse by themselves: those of the pair with
    # which most cameras agree are right, and who does not agree with them is wrong.
    agreement = []
    for pair in combinations(range(len(rig)), 2):
        alone = use & np.isin(np.arange(len(rig)), pair)
        residuals = _medians(locate(rig, center_px, rays, alone, 2)[1])
        agrees = residuals <= settings.max_residual_px
        agreement.append((int(agrees.sum()), -float(residuals[agrees].sum()), agrees))
    _, _, agrees = max(agreement, key=lambda item: item[:2])
    names = [name for name, right in zip(capture.cameras, agrees, strict=True) if not right]
    listed = ", ".join(
        f"{name}: {'behind the camera or beyond its field' if np.isinf(value) else f'{value:.1f}'}"
        for name, value in zip(capture.cameras, medians, strict=True)
    )
    contradiction = (
        f"camera{'s' * (len(names) > 1)} {', '.join(names)} contradict{'s' * (len(names) == 1)} the others"
        if 0 < len(names) <= len(rig) - 3
        else "the cameras contradict each other"
    )
    raise UserError(
        f"capture {capture.name}: {contradiction}: silhouettes' centres lie too far from where the cameras see the mouse. "
        f"Check calibration and videos. Median residuals of all cameras together, px: {listed}; at most "
        f"{settings.max_residual_px:g} are allowed (cameras.max_residual_px)"
    )


def _medians(residual_px: Array) -> Array:
    """Median of each camera's residuals [V]; 0 for a camera that never sees the mouse, which contradicts nobody."""
    columns = (column[~np.isnan(column)] for column in residual_px.T)
    return np.array([np.median(column) if len(column) else 0.0 for column in columns])
