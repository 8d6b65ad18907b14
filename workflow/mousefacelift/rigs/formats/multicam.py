"""multicam-calibration and Pose Splatter: an HDF5 file, or JSON with one table per camera.

HDF5: camera_parameters/{intrinsic [C, 3, 3], rotation [C, 3, 3], translation [C, 3]}, some with dist_coefs and
camera_names. JSON: {camera: {R, T, camera_matrix, distortion_coefs}}, in an earlier version with rotation and
translation. World to camera, not transposed, OpenCV's pixel origin (github.com/dattalab-6-cam/multicam-calibration,
github.com/jackgoffinet/pose-splatter).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Camera
from mousefacelift.rigs.checks import checked_camera, describe, field, numbers
from mousefacelift.rigs.containers.documents import Document

KINDS = ("HDF5", "JSON")
LOOKS_FOR = (
    "HDF5 file with camera_parameters/{intrinsic, rotation, translation}, or JSON {camera: {R, T, camera_matrix, …}}"
)
SYNONYMS = {
    "rotation": ("R", "rotation"),
    "translation": ("T", "t", "translation"),
    "dist_coefs": ("distortion_coefs", "dist_coefs", "distortion"),
    "camera_names": ("camera_names", "names"),
}


def recognises(document: Document) -> bool:
    """Whether an HDF5 file has the group camera_parameters, or every table of a JSON file a camera_matrix."""
    content = document.content
    if not isinstance(content, Mapping):
        return False
    if document.kind == "HDF5":
        return isinstance(content.get("camera_parameters"), Mapping)
    return bool(content) and all(isinstance(table, Mapping) and "camera_matrix" in table for table in content.values())


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's cameras; an HDF5 file without camera_names numbers them from 0."""
    if document.kind == "JSON":
        if not isinstance(document.content, Mapping):
            raise UserError(f"{where}: expected a table of cameras, found {describe(document.content)}")
        return [_json_camera(table, each, f"{where}, camera {each!r}") for each, table in document.content.items()]
    table = field(document.content, "camera_parameters", where)
    where = f"{where}, camera_parameters"
    K = numbers(table, "intrinsic", (None, 3, 3), where)
    R = numbers(table, "rotation", (None, 3, 3), where)
    columns = (1,) if np.ndim(table.get("translation")) == 3 else ()
    t = numbers(table, "translation", (None, 3, *columns), where)
    dist_name = _spelling(table, "dist_coefs")
    dist = numbers(table, dist_name, (None, None), where) if dist_name in table else np.zeros((len(K), 0))
    names = table.get(_spelling(table, "camera_names"), [str(i) for i in range(len(K))])
    if not isinstance(names, list) or not len(K) == len(R) == len(t) == len(dist) == len(names):
        raise UserError(
            f"{where}: {len(K)} intrinsic, {len(R)} rotation, {len(t)} translation, {len(dist)} {dist_name}, "
            f"{len(names) if isinstance(names, list) else 'no readable'} names: their numbers must be equal"
        )
    return [
        checked_camera(
            f"{where}, camera {each!r}",
            each,
            K=K[i],
            R=R[i],
            t=t[i].ravel(),
            dist=dist[i],
            first_pixel=0,
            fields=("intrinsic", "rotation", dist_name),
        )
        for i, each in enumerate(names)
    ]


def _json_camera(table: Any, name: str, where: str) -> Camera:
    rotation, dist = _spelling(table, "rotation"), _spelling(table, "dist_coefs")
    return checked_camera(
        where,
        name,
        K=numbers(table, "camera_matrix", (3, 3), where),
        R=numbers(table, rotation, (3, 3), where),
        t=numbers(table, _spelling(table, "translation"), (3,), where),
        dist=numbers(table, dist, (None,), where) if isinstance(table, Mapping) and dist in table else (),
        first_pixel=0,
        fields=("camera_matrix", rotation, dist),
    )


def _spelling(table: Any, name: str) -> str:
    """How a file spells a field; the usual spelling if it has none."""
    return next((each for each in SYNONYMS[name] if isinstance(table, Mapping) and each in table), SYNONYMS[name][0])
