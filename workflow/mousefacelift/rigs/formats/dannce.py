"""DANNCE and Label3D: one `*_params.mat` per camera, or `*_dannce.mat` with a cell of such structs.

K and r are MATLAB's (row-vector model [x y z 1] [r; t] K), with skew in K[1, 0]; the principal point is 1-based; RDistort
holds k1 k2 [k3], TDistort p1 p2 (github.com/spoonsso/dannce, github.com/diegoaldarondo/Label3D). Label3D's labels agree:
labelData's data_3d project to its data_2d in 1-based pixels, through lens and skew.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Camera
from mousefacelift.rigs.checks import checked_camera, numbers
from mousefacelift.rigs.containers.documents import Document

KINDS = ("MATLAB",)
LOOKS_FOR = "MATLAB file with K, r, t, RDistort, TDistort, or with params or camParams holding them"
FIELDS = {"K", "r", "t", "RDistort", "TDistort"}
SETS = ("params", "camParams")


def recognises(document: Document) -> bool:
    """Whether a MATLAB file holds one camera's fields, or a list of cameras with them."""
    content = document.content
    found = [content, *(entry for name in SETS for entry in _list(content.get(name))[:1])]
    return any(isinstance(entry, Mapping) and len(FIELDS & set(entry)) >= 3 for entry in found)


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's camera, called `name`, or the cameras of a Label3D file with its own names."""
    content = document.content
    key = next((key for key in SETS if key in content), None)
    if key is None:
        return [_camera(content, name, where)]
    tables = _list(content[key])
    names = [str(entry) for entry in _list(content.get("camnames"))] or [f"Camera{i + 1}" for i in range(len(tables))]
    if len(names) != len(tables):
        raise UserError(f"{where}: field 'camnames' has {len(names)} names for {len(tables)} cameras in {key!r}")
    return [_camera(table, each, f"{where}, {key}") for each, table in zip(names, tables, strict=True)]


def _camera(table: Any, name: str, where: str) -> Camera:
    where = f"{where}, camera {name!r}"
    K, R = numbers(table, "K", (3, 3), where), numbers(table, "r", (3, 3), where)
    radial, tangential = numbers(table, "RDistort", (None,), where), numbers(table, "TDistort", (2,), where)
    if radial.size not in (2, 3):
        raise UserError(f"{where}: field 'RDistort' holds {radial.size} coefficients; 2 or 3 expected")
    return checked_camera(
        where,
        name,
        K=K,
        R=R,
        t=numbers(table, "t", (3,), where),
        dist=np.concatenate([radial[:2], tangential, radial[2:]]),
        first_pixel=1,
        transposed=True,
        fields=("K", "r", "RDistort and TDistort"),
    )


def _list(value: Any) -> list[Any]:
    """A cell or struct array; MATLAB makes no difference between one struct and a list of one."""
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, Mapping | str) else []
