"""transforms.json of nerfstudio and instant-ngp: frames with transform_matrix, a c2w [4, 4] in OpenGL's camera axes.

OpenGL's camera looks along -z with +y up: columns 1 and 2 are OpenCV's negated. fl_x, fl_y, cx, cy, w, h (numbers, some
floats) and k1 k2 p1 p2 [k3] stand in each frame or once for all (docs.nerf.studio, "Data conventions").
Programs disagree where the first pixel's centre lies, and the file does not tell: option `pixel_origin`, "corner" for
(0.5, 0.5), the default, or "center" for (0, 0).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
from mousefacelift.geometry.camera import Camera, Rig
from mousefacelift.geometry.views import inverse_rigid, rigid
from mousefacelift.rigs.checks import checked_camera, image_size, number, numbers
from mousefacelift.rigs.containers.documents import Document
from mousefacelift.rigs.formats.facelift import check_last_row, check_writable, frames_of
from mousefacelift.rigs.names import names_from_files

KINDS = ("JSON",)
LOOKS_FOR = "JSON with frames[] holding transform_matrix"
OPTIONS = {"pixel_origin": ("corner", "center")}
MODELS = {"": False, "OPENCV": False, "PINHOLE": False, "SIMPLE_PINHOLE": False, "OPENCV_FISHEYE": True}
OPENGL_FROM_OPENCV = np.array([1.0, -1, -1])


def recognises(document: Document) -> bool:
    """Whether a JSON file has frames with transform_matrix."""
    frames = document.content.get("frames") if isinstance(document.content, Mapping) else None
    return isinstance(frames, list) and any(isinstance(f, Mapping) and "transform_matrix" in f for f in frames)


def read(document: Document, name: str, where: str, pixel_origin: str = "corner") -> list[Camera]:
    """The frames as cameras, named after their images."""
    frames = frames_of(document.content, where)
    names = names_from_files([str(frame.get("file_path", f"frame{i}")) for i, frame in enumerate(frames)])
    shared = {key: value for key, value in document.content.items() if key != "frames"}
    first_pixel = 0.5 if pixel_origin == "corner" else 0.0
    return [
        _camera({**shared, **frame}, each, first_pixel, f"{where}, frames[{i}] ({each!r})")
        for i, (each, frame) in enumerate(zip(names, frames, strict=True))
    ]


def _camera(frame: Mapping[str, Any], name: str, first_pixel: float, where: str) -> Camera:
    c2w = numbers(frame, "transform_matrix", (4, 4), where)
    check_last_row(c2w, "transform_matrix", where)
    size = image_size([number(frame, key, where) for key in ("w", "h")], "w, h", where)
    if "fl_x" in frame:
        fx = number(frame, "fl_x", where)
    else:
        angle = number(frame, "camera_angle_x", where) if "camera_angle_x" in frame else 0.0
        if not 0 < angle < math.pi:
            raise UserError(f"{where}: no field 'fl_x', nor a 'camera_angle_x' between 0 and pi")
        fx = size[0] / 2 / math.tan(angle / 2)
    fy = number(frame, "fl_y", where, default=fx)
    # Without a principal point the axis passes through the middle of the image, whatever the pixel origin.
    middle = np.array(size) / 2 + first_pixel - 0.5
    cx, cy = (number(frame, key, where, default=float(middle[i])) for i, key in enumerate(("cx", "cy")))
    R = c2w[:3, :3].T * OPENGL_FROM_OPENCV[:, None]
    dist, fisheye = _lens(frame, where)
    return checked_camera(
        where,
        name,
        K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        R=R,
        t=-R @ c2w[:3, 3],
        dist=dist,
        size=size,
        first_pixel=first_pixel,
        fisheye=fisheye,
        fields=("fl_x, fl_y, cx, cy", "transform_matrix", "k1, k2, …"),
    )


def _lens(frame: Mapping[str, Any], where: str) -> tuple[list[float], bool]:
    model = frame.get("camera_model", "")
    if model not in MODELS:
        raise UserError(f"{where}: camera_model {str(model)[:40]!r} is not one of {', '.join(filter(None, MODELS))}")
    fisheye = MODELS[model] or frame.get("is_fisheye") is True
    k1, k2, p1, p2, k3, k4 = (number(frame, key, where, default=0) for key in ("k1", "k2", "p1", "p2", "k3", "k4"))
    if fisheye:
        if p1 or p2:
            raise UserError(f"{where}: a fisheye lens has no p1, p2")
        return [k1, k2, k3, k4], True
    if k4:
        # nerfstudio's k4 multiplies r^8; OpenCV's stands in a denominator, and has no such term.
        raise UserError(f"{where}: field 'k4': a term in r^8 has no place in OpenCV's lens model; set camera_model")
    return [k1, k2, p1, p2, k3], False


def write(rig: Rig, path: Path) -> None:
    """Write a rig in millimetres. Raises UserError for skew, coefficients after k3, and cameras of unknown size."""
    models = {camera.fisheye for camera in rig}
    if len(models) > 1:
        raise UserError(
            f"{path}: transforms.json names one camera model for all, and this rig mixes fisheye and others"
        )
    frames = []
    for camera in rig:
        if camera.K[0, 1] != 0:
            raise UserError(f"{path}: camera {camera.name!r} has skew, which transforms.json cannot hold")
        names = ("k1", "k2", "k3", "k4") if camera.fisheye else ("k1", "k2", "p1", "p2", "k3")
        if camera.dist[len(names) :].any():
            raise UserError(f"{path}: camera {camera.name!r} has distortion coefficients after {names[-1]}, which "
                            "transforms.json cannot hold")  # fmt: skip
        check_writable(camera, path)
        (fx, _, cx), (_, fy, cy), _ = camera.K.tolist()
        c2w = inverse_rigid(rigid(camera.R, camera.t))
        c2w[:3, :3] *= OPENGL_FROM_OPENCV
        frames.append(
            {
                "file_path": f"images/{camera.name}.png",
                "w": camera.width, "h": camera.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy,
                **dict(zip(names, camera.dist.tolist(), strict=False)),
                "transform_matrix": c2w.tolist(),
            }
        )  # fmt: skip
    write_json(path, {"camera_model": "OPENCV_FISHEYE" if True in models else "OPENCV", "frames": frames})
