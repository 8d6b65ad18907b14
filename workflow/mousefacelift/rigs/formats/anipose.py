"""Anipose's calibration.toml, also sleap-anipose's and lightning-pose's: one section per camera.

name, size [W, H], matrix, distortions, rotation (a rotation vector, world to camera), translation (in the board's unit),
optional fisheye; OpenCV's pixel origin (github.com/lambdaloop/aniposelib, cameras.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, natural_key
from mousefacelift.geometry.camera import Camera, Rig
from mousefacelift.rigs.checks import checked_camera, image_size, numbers, warn
from mousefacelift.rigs.containers.documents import Document

KINDS = ("TOML",)
LOOKS_FOR = "TOML file with sections that hold matrix, rotation and translation"
FIELDS = {"matrix", "rotation", "translation", "distortions"}


def recognises(document: Document) -> bool:
    """Whether any section looks like a camera."""
    return any(_is_camera(section) for section in document.content.values())


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's cameras by their `name`, or section, in natural order of the sections: cam_2 before cam_10."""
    sections = sorted(document.content.items(), key=lambda item: natural_key(item[0]))
    return [_camera(section, f"{where}, section [{key}]", key) for key, section in sections if _is_camera(section)]


def _is_camera(section: Any) -> bool:
    return isinstance(section, Mapping) and len(FIELDS & set(section)) >= 2


def _camera(section: Mapping[str, Any], where: str, key: str) -> Camera:
    dist = numbers(section, "distortions", (None,), where)
    fisheye = section.get("fisheye", False)
    if not isinstance(fisheye, bool):
        raise UserError(f"{where}: field 'fisheye' must be true or false")
    if fisheye and dist.size == 5:
        # A fisheye lens has four coefficients: some exporters set the flag on every camera.
        warn(f"{where}: fisheye = true, but distortions holds the 5 coefficients of an ordinary lens; read as ordinary")
        fisheye = False
    return checked_camera(
        where,
        str(section.get("name", key)),
        K=numbers(section, "matrix", (3, 3), where),
        R=numbers(section, "rotation", (3,), where),
        t=numbers(section, "translation", (3,), where),
        dist=dist,
        size=image_size(numbers(section, "size", (2,), where), "size", where) if "size" in section else (0, 0),
        first_pixel=0,
        fisheye=fisheye,
        fields=("matrix", "rotation", "distortions"),
    )


def write(rig: Rig, path: Path) -> None:
    """Write a rig in millimetres. Raises UserError for skew, and for coefficients after k3."""
    lines = []
    for i, camera in enumerate(rig):
        if camera.K[0, 1] != 0:
            raise UserError(f"{path}: camera {camera.name!r} has skew, which Anipose cannot hold")
        count = 4 if camera.fisheye else 5
        if camera.dist[count:].any():
            raise UserError(f"{path}: camera {camera.name!r} has more than Anipose's {count} distortion coefficients")
        if not camera.width:
            raise UserError(
                f"{path}: camera {camera.name!r}: the image size is unknown, and Anipose needs it: give it with --size"
            )
        matrix = camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        lines += [
            f"[cam_{i}]",
            # Text in JSON is text in TOML, save for one control character that no name has.
            f"name = {json.dumps(camera.name, ensure_ascii=False)}",
            f"size = [{camera.width}, {camera.height}]",
            f"matrix = {_floats(matrix)}",
            f"distortions = {_floats(camera.dist[:count])}",
            f"rotation = {_floats(Rotation.from_matrix(camera.R).as_rotvec())}",
            f"translation = {_floats(camera.t)}",
            *(["fisheye = true"] if camera.fisheye else []),
            "",
        ]
    with atomic(path) as temporary:
        temporary.write_text("\n".join([*lines, "[metadata]", ""]), encoding="utf-8")


def _floats(values: np.ndarray) -> str:
    return json.dumps(values.tolist())
