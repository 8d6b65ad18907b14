"""EasyMocap: a folder with intri.yml (K_x, dist_x or D_x, optional H_x, W_x) and extri.yml (R_x, Rot_x, T_x).

`names` lists the cameras x. R_x is a rotation vector, Rot_x the same as a matrix; world to camera, OpenCV's pixel origin,
usually metres (github.com/zju3dv/EasyMocap, mytools/camera_utils.py).
"""

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Array, Camera
from mousefacelift.rigs.checks import checked_camera, field, image_size, listed, numbers, warn
from mousefacelift.rigs.containers.documents import Document, open_document

KINDS = ("folder",)
LOOKS_FOR = "folder with intri.yml and extri.yml"
FILES = ("intri.yml", "extri.yml")


def recognises(document: Document) -> bool:
    """Whether a folder has both files."""
    return all(name in document.content for name in FILES)


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The cameras that both files list, in intri.yml's order; those that only one lists are named on stderr."""
    missing = [file for file in FILES if file not in document.content]
    if missing:
        raise UserError(f"{where}: no {' and no '.join(missing)} in this folder; EasyMocap keeps a rig in both files")
    heres = [f"{where}/{file}" for file in FILES]
    intrinsics, extrinsics = (
        open_document(document.content[file], here, ("YAML",)).content for file, here in zip(FILES, heres, strict=True)
    )
    names, others = _names(intrinsics, heres[0], "K_"), _names(extrinsics, heres[1], "T_")
    both = [each for each in names if each in others]
    lonely = sorted(set(names) ^ set(others))
    if not both:
        raise UserError(f"{where}: intri.yml lists {listed(names)}, extri.yml {listed(others)}: no camera in both")
    if lonely:
        warn(f"{where}: left out, because only one of intri.yml and extri.yml lists them: {listed(lonely)}")
    return [_camera(intrinsics, extrinsics, each, *heres) for each in both]


def _names(table: Any, where: str, prefix: str) -> list[str]:
    if isinstance(table, dict) and "names" not in table:
        return [key.removeprefix(prefix) for key in table if key.startswith(prefix)]
    names = field(table, "names", where)
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names) or len(set(names)) < len(names):
        raise UserError(f"{where}: field 'names' is not a list of different camera names")
    return names


def _camera(intrinsics: Any, extrinsics: Any, name: str, intri: str, extri: str) -> Camera:
    intri, extri = f"{intri}, camera {name!r}", f"{extri}, camera {name!r}"
    dist = next((key for key in (f"dist_{name}", f"D_{name}") if key in intrinsics), None)
    size = (0, 0)
    if f"W_{name}" in intrinsics and f"H_{name}" in intrinsics:
        sides = [numbers(intrinsics, f"{side}_{name}", (), intri) for side in "WH"]
        size = image_size(sides, f"W_{name}, H_{name}", intri)
    return checked_camera(
        intri,
        name,
        K=numbers(intrinsics, f"K_{name}", (3, 3), intri),
        R=_rotation(extrinsics, name, extri),
        t=numbers(extrinsics, f"T_{name}", (3,), extri),
        dist=numbers(intrinsics, dist, (None,), intri) if dist else (),
        size=size,
        first_pixel=0,
        fields=(f"K_{name}", f"R_{name} or Rot_{name}", str(dist)),
    )


def _rotation(extrinsics: Any, name: str, where: str) -> Array:
    """EasyMocap itself reads the vector; where there is a matrix too, they must agree."""
    if f"R_{name}" not in extrinsics:
        return numbers(extrinsics, f"Rot_{name}", (3, 3), where)
    vector = numbers(extrinsics, f"R_{name}", (3,), where)
    R = Rotation.from_rotvec(vector).as_matrix()
    if f"Rot_{name}" in extrinsics:
        matrix = numbers(extrinsics, f"Rot_{name}", (3, 3), where)
        if np.abs(R - matrix).max() > 1e-3:
            raise UserError(
                f"{where}: R_{name} and Rot_{name} are different rotations: not a rotation matrix, or two poses"
            )
    return R
