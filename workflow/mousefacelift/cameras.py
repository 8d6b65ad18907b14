"""Stage 2, cameras: the calibrated rig, and the mouse's 3D centre in each frame."""

from pathlib import Path

import h5py
import numpy as np

from mousefacelift import STAGE_VERSIONS
from mousefacelift.calibration import read_rig, rig_to_json
from mousefacelift.captures import Capture
from mousefacelift.center import Flag
from mousefacelift.config import Cameras
from mousefacelift.errors import UserError
from mousefacelift.files import atomic, open_h5, write_json
from mousefacelift.geometry import pixel_rays, project, triangulate


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
    use = np.where(whole.sum(axis=1, keepdims=True) >= settings.min_views, whole, use)
    center_mm = triangulate(np.stack([c.center for c in rig]), rays, use)
    center_mm[use.sum(axis=1) < settings.min_views] = np.nan

    residual_px = np.full(found.shape, np.nan)
    outline_rays = np.empty((*data["support_px"].shape[:3], 3))
    for v, camera in enumerate(rig):
        pixels, _ = project(center_mm, camera)
        residual_px[:, v] = np.where(found[:, v], np.linalg.norm(pixels - data["center_px"][:, v], axis=-1), np.nan)
        outline_rays[:, v] = pixel_rays(data["support_px"][:, v], camera)
    _check_agreement(capture, residual_px, settings)

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


def _check_agreement(capture: Capture, residual_px: np.ndarray, settings: Cameras) -> None:
    if not np.isfinite(residual_px).any():
        raise UserError(
            f"capture {capture.name}: no frame has a mouse in {settings.min_views} views (cameras.min_views): "
            "look at the silhouettes and at the order of cameras and calibration files"
        )
    medians = np.nanmedian(np.where(np.isfinite(residual_px).any(axis=0), residual_px, 0), axis=0)
    if medians.max() > settings.max_residual_px:
        listed = ", ".join(f"{name}: {value:.1f}" for name, value in zip(capture.cameras, medians, strict=True))
        raise UserError(
            f"capture {capture.name}: camera {capture.cameras[int(medians.argmax())]} contradicts the others: its silhouettes' "
            f"centre lies {medians.max():.0f} px (median) from where the cameras together see the mouse; more than "
            f"{settings.max_residual_px:g} (cameras.max_residual_px). Per camera, px: {listed}. Check its calibration and video."
        )
