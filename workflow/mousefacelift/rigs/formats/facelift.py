"""FaceLift's opencv_cameras.json: frames with w, h, fx, fy, cx, cy and w2c [4, 4]; first pixel's centre at (0.5, 0.5).

FaceLift casts rays through (x + 0.5 - cx) / fx. Cameras are named after file_path, or blender_camera_name where images are
not listed. No distortion (github.com/weijielyu/FaceLift).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
from mousefacelift.geometry.camera import Camera, Rig
from mousefacelift.geometry.views import rigid
from mousefacelift.rigs.checks import checked_camera, describe, field, image_size, number, numbers
from mousefacelift.rigs.containers.documents import Document
from mousefacelift.rigs.names import names_from_files

FACELIFT_FILE = "opencv_cameras.json"
KINDS = ("JSON",)
# Its world is scaled so that the cameras stand 2.7 from the subject.
UNITLESS = True
LOOKS_FOR = "JSON with frames[] holding fx, fy, cx, cy, w2c"


def recognises(document: Document) -> bool:
    """Whether a JSON file has frames with w2c."""
    frames = document.content.get("frames") if isinstance(document.content, Mapping) else None
    return isinstance(frames, list) and any(isinstance(frame, Mapping) and "w2c" in frame for frame in frames)


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The frames as cameras."""
    frames = frames_of(document.content, where)
    names = names_from_files([_file_name(frame, i) for i, frame in enumerate(frames)])
    return [
        _camera(frame, each, f"{where}, frames[{i}] ({each!r})")
        for i, (each, frame) in enumerate(zip(names, frames, strict=True))
    ]


def frames_of(content: Any, where: str) -> list[Mapping[str, Any]]:
    """The list `frames`, each a table."""
    frames = field(content, "frames", where)
    if not isinstance(frames, list):
        raise UserError(f"{where}: field 'frames' is not a list, but {describe(frames)}")
    for i, frame in enumerate(frames):
        if not isinstance(frame, Mapping):
            raise UserError(f"{where}: frames[{i}] is not a table, but {describe(frame)}")
    return frames


def _file_name(frame: Mapping[str, Any], index: int) -> str:
    if "file_path" in frame:
        return str(frame["file_path"])
    # A name has no extension to lose.
    return f"{frame.get('blender_camera_name', f'frame{index}')}.png"


def _camera(frame: Mapping[str, Any], name: str, where: str) -> Camera:
    w2c = numbers(frame, "w2c", (4, 4), where)
    check_last_row(w2c, "w2c", where)
    fx, fy, cx, cy = (number(frame, key, where) for key in ("fx", "fy", "cx", "cy"))
    return checked_camera(
        where,
        name,
        K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        R=w2c[:3, :3],
        t=w2c[:3, 3],
        size=image_size([number(frame, key, where) for key in ("w", "h")], "w, h", where),
        first_pixel=0.5,
        fields=("fx, fy, cx, cy", "w2c", ""),
    )


def check_last_row(matrix: np.ndarray, name: str, where: str) -> None:
    """Raise UserError unless a [4, 4] matrix ends in 0 0 0 1; it is transposed if its last column does."""
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        hint = ": it is transposed" if np.abs(matrix[:, 3] - [0, 0, 0, 1]).max() <= 1e-6 else ""
        raise UserError(f"{where}: field {name!r} has the last row {matrix[3].tolist()}, not 0 0 0 1{hint}")


def write(rig: Rig, path: Path) -> None:
    """Write a rig in millimetres. Raises UserError for distortion, skew and cameras of unknown size."""
    frames = []
    for camera in rig:
        if camera.dist.any() or camera.fisheye:
            raise UserError(f"{path}: camera {camera.name!r} has lens distortion, which FaceLift cannot hold")
        if camera.K[0, 1] != 0:
            raise UserError(f"{path}: camera {camera.name!r} has skew, which FaceLift cannot hold")
        check_writable(camera, path)
        (fx, _, cx), (_, fy, cy), _ = camera.K.tolist()
        w2c = rigid(camera.R, camera.t).tolist()
        frames.append(
            {
                "w": camera.width, "h": camera.height, "fx": fx, "fy": fy, "cx": cx, "cy": cy, "w2c": w2c,
                "file_path": f"images/{camera.name}.png",
            }
        )  # fmt: skip
    write_json(path, {"frames": frames})


def check_writable(camera: Camera, path: Path) -> None:
    """Raise UserError for a camera that a format with image sizes and image names cannot hold."""
    if not camera.width:
        raise UserError(
            f"{path}: camera {camera.name!r}: the image size is unknown, and this format needs it: give it with --size"
        )
    if set(camera.name) & set("/\\") or camera.name.strip() != camera.name or set(camera.name) == {"."}:
        raise UserError(f"{path}: camera {camera.name!r} cannot be the name of an image file, which this format needs")
