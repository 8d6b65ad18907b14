"""Rat7M: a MATLAB file whose struct `cameras` has one struct per camera, by name.

IntrinsicMatrix, rotationMatrix, translationVector, RadialDistortion and TangentialDistortion are those of MATLAB's
cameraParameters: row-vector model, 1-based principal point, as in DANNCE's files (Marshall et al. 2021, Rat7M).
"""

from collections.abc import Mapping

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Camera
from mousefacelift.rigs.checks import checked_camera, field, numbers
from mousefacelift.rigs.containers.documents import Document

KINDS = ("MATLAB",)
LOOKS_FOR = "MATLAB file with cameras.<name>.IntrinsicMatrix, rotationMatrix, translationVector"
FIELDS = {"IntrinsicMatrix", "rotationMatrix", "translationVector", "RadialDistortion", "TangentialDistortion"}


def recognises(document: Document) -> bool:
    """Whether a MATLAB file has `cameras` with structs of MATLAB's camera parameters."""
    cameras = document.content.get("cameras")
    tables = cameras.values() if isinstance(cameras, Mapping) else []
    return any(isinstance(table, Mapping) and len(FIELDS & set(table)) >= 2 for table in tables)


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The cameras of the struct `cameras`, with their fields' names."""
    cameras = field(document.content, "cameras", where)
    if not isinstance(cameras, Mapping):
        raise UserError(f"{where}: field 'cameras' is not a struct with one field per camera")
    rig = []
    for each, table in cameras.items():
        here = f"{where}, cameras.{each}"
        radial = numbers(table, "RadialDistortion", (None,), here)
        if radial.size not in (2, 3):
            raise UserError(f"{here}: field 'RadialDistortion' holds {radial.size} coefficients; 2 or 3 expected")
        tangential = numbers(table, "TangentialDistortion", (2,), here)
        rig.append(
            checked_camera(
                here,
                each,
                K=numbers(table, "IntrinsicMatrix", (3, 3), here),
                R=numbers(table, "rotationMatrix", (3, 3), here),
                t=numbers(table, "translationVector", (3,), here),
                dist=np.concatenate([radial[:2], tangential, radial[2:]]),
                first_pixel=1,
                transposed=True,
                fields=("IntrinsicMatrix", "rotationMatrix", "RadialDistortion and TangentialDistortion"),
            )
        )
    return rig
