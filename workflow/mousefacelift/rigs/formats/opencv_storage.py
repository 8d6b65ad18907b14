"""OpenCV FileStorage (YAML or XML) by its common key names: one camera per file, or several in one file.

Several cameras are tables by name, at the top or in `cameras`, or a list whose entries hold `name`. Key names are compared
without case, dashes and underscores. R may be a matrix or a rotation vector; nothing is transposed; OpenCV's pixel origin.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Array, Camera
from mousefacelift.rigs.checks import checked_camera, describe, image_size, listed, number, numbers
from mousefacelift.rigs.containers.documents import Document

KINDS = ("YAML", "XML")
LOOKS_FOR = "FileStorage YAML or XML with camera_matrix, distortion_coefficients, R or rvec, T or tvec"
KEYS = {
    "K": ("cameramatrix", "k", "intrinsics", "m"),
    "dist": ("distortioncoefficients", "distortioncoeffs", "distcoeffs", "distcoefs", "distortion", "dist", "d"),
    "R": ("r", "rotation", "rotationmatrix", "rot", "rcext", "rvec", "rotationvector"),
    "t": ("t", "tvec", "translation", "translationvector", "trans", "tcext"),
    "width": ("imagewidth", "width", "w"),
    "height": ("imageheight", "height", "h"),
    "size": ("imagesize", "size", "resolution"),
    "name": ("cameraname", "name"),
    "fisheye": ("fisheye", "fisheyemodel"),
}


def recognises(document: Document) -> bool:
    """Whether the file, or the tables in it, have a camera matrix by a common name."""
    tables = _tables(document.content, "")
    return bool(tables) and all(_keys(table, "K") and _keys(table, "t") for table in tables.values())


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's cameras; a single one that has no name is called `name`."""
    tables = _tables(document.content, name)
    if not tables:
        raise UserError(
            f"{where}: no camera in it: expected camera_matrix, R, T, …, found {describe(document.content)}"
        )
    return [_camera(table, each, f"{where}, camera {each!r}") for each, table in tables.items()]


def _tables(content: Any, name: str) -> dict[str, Mapping[str, Any]]:
    """The cameras' tables by name; empty if it does not look like any."""
    if not isinstance(content, Mapping):
        return {}
    if _keys(content, "K") or _keys(content, "t"):
        return {name: content}
    inside = content.get("cameras", content)
    if isinstance(inside, list):
        named = {str(table[keys[0]]): table for table in inside if (keys := _keys(table, "name"))}
        return named if len(named) == len(inside) else {}
    if not isinstance(inside, Mapping):
        return {}
    return {str(key): table for key, table in inside.items() if _keys(table, "K")}


def _keys(table: Any, wanted: str) -> list[str]:
    """The file's own spellings of a key, the commonest first."""
    spelled = (
        {str(key).lower().replace("_", "").replace("-", ""): key for key in table} if isinstance(table, Mapping) else {}
    )
    return [spelled[key] for key in KEYS[wanted] if key in spelled]


def _camera(table: Mapping[str, Any], name: str, where: str) -> Camera:
    K, K_name = _agreed(table, "K", where)
    R, R_name = _agreed(table, "R", where)
    t, _ = _agreed(table, "t", where)
    dist, dist_name = _agreed(table, "dist", where) if _keys(table, "dist") else (np.zeros(0), "")
    flag = next((table[key] for key in _keys(table, "fisheye")), 0)
    return checked_camera(
        where,
        name,
        K=K,
        R=R,
        t=t,
        dist=dist,
        size=_size(table, where),
        first_pixel=0,
        fisheye=str(flag).strip().lower() in ("1", "true"),
        fields=(K_name, R_name, dist_name),
    )


def _agreed(table: Mapping[str, Any], wanted: str, where: str) -> tuple[Array, str]:
    """The numbers for K, R, t or dist, and the field's name; where several fields hold them they must be the same."""
    keys = _keys(table, wanted)
    if not keys:
        raise UserError(
            f"{where}: no field for {wanted} (found {listed(table)}); known names: {', '.join(KEYS[wanted])}"
        )
    values = [_numbers(table, key, wanted, where) for key in keys]
    for key, value in zip(keys, values, strict=True):
        if value.shape != values[0].shape or np.abs(value - values[0]).max(initial=0) > 1e-3:
            raise UserError(f"{where}: fields {keys[0]!r} and {key!r} differ; which one is meant?")
    return values[0], keys[0]


def _numbers(table: Mapping[str, Any], key: str, wanted: str, where: str) -> Array:
    if wanted != "R":
        return numbers(table, key, {"K": (3, 3), "t": (3,), "dist": (None,)}[wanted], where)
    if np.size(table[key]) != 3:
        return numbers(table, key, (3, 3), where)
    return Rotation.from_rotvec(numbers(table, key, (3,), where)).as_matrix()


def _size(table: Mapping[str, Any], where: str) -> tuple[int, int]:
    widths, heights, sizes = (_keys(table, side) for side in ("width", "height", "size"))
    if widths and heights:
        sides = [number(table, side, where) for side in (widths[0], heights[0])]
        return image_size(sides, f"{widths[0]}, {heights[0]}", where)
    if sizes:
        value = table[sizes[0]]
        content = {sizes[0]: value.split() if isinstance(value, str) else value}
        return image_size(numbers(content, sizes[0], (2,), where), sizes[0], where)
    return 0, 0
