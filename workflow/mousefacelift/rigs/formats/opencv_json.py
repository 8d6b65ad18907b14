"""The rig.json of this package, and other JSON rigs that say which convention their numbers follow.

{"convention": text, "cameras": [{name, width, height, K, dist, R, t, fisheye}]}, or cameras by name with `size`, and with
dist or a field such as dist_k1k2p1p2k3. The convention decides where the first pixel's centre lies; it is read, never
guessed: from `first_pixel_center` ([0.5, 0.5]), or from a text such as "first pixel's centre at (0.5, 0.5)".
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import read_json, write_json
from mousefacelift.geometry.camera import Camera, Rig
from mousefacelift.rigs.checks import checked_camera, describe, field, image_size, number, numbers
from mousefacelift.rigs.containers.documents import Document

KINDS = ("JSON",)
LOOKS_FOR = "JSON with `cameras` holding K, R, t, and `convention` or `first_pixel_center`"
# The order of coefficients that geometry.Camera keeps, whatever prefix of it a file's field is named after.
DIST_NAME = re.compile(r"dist(_k1k2(p1p2(k3(k4k5k6)?)?)?)?")


def recognises(document: Document) -> bool:
    """Whether a JSON file has cameras with K, R and t."""
    content = document.content
    cameras = content.get("cameras") if isinstance(content, Mapping) else None
    tables = list(cameras.values()) if isinstance(cameras, Mapping) else cameras if isinstance(cameras, list) else []
    return bool(tables) and all(
        isinstance(table, Mapping) and len({"K", "R", "t"} & set(table)) >= 2 for table in tables
    )


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's cameras. Raises UserError if it does not say where the first pixel's centre lies."""
    content = document.content
    cameras = field(content, "cameras", where)
    first_pixel = _first_pixel(content, where)
    if isinstance(cameras, Mapping):
        named = list(cameras.items())
    elif isinstance(cameras, list):
        named = [(field(table, "name", f"{where}, cameras[{i}]"), table) for i, table in enumerate(cameras)]
    else:
        raise UserError(f"{where}: field 'cameras' is neither a list nor a table, but {describe(cameras)}")
    return [_camera(table, each, first_pixel, f"{where}, camera {each!r}") for each, table in named]


def _first_pixel(content: Mapping[str, Any], where: str) -> float:
    text = content.get("convention", "")
    if not isinstance(text, str) or "opengl" in text.lower():
        raise UserError(f"{where}: field 'convention' must be a text that states OpenCV's camera axes")
    if "first_pixel_center" in content:
        stated = [f"{value:g}" for value in numbers(content, "first_pixel_center", (2,), where)]
    else:
        found = re.search(r"first pixel[^()]{0,40}\(\s*([\d.]{1,9})\s*,\s*([\d.]{1,9})\s*\)", text)
        stated = list(found.groups()) if found else []
    known = {"0": 0.0, "0.0": 0.0, "0.5": 0.5, "1": 1.0, "1.0": 1.0}
    if len(set(stated)) != 1 or stated[0] not in known:
        raise UserError(
            f"{where}: does not say where the first pixel's centre lies (found 'convention': {text[:120]!r}): add "
            '"first_pixel_center": [0.5, 0.5], or [0, 0] for numbers in OpenCV\'s own convention'
        )
    return known[stated[0]]


def _camera(table: Any, name: Any, first_pixel: float, where: str) -> Camera:
    K = numbers(table, "K", (3, 3), where)
    dist = [key for key in table if DIST_NAME.fullmatch(key)]
    if len(dist) > 1:
        raise UserError(f"{where}: several lists of distortion coefficients: {', '.join(dist)}")
    fisheye = table.get("fisheye", False)
    if not isinstance(fisheye, bool):
        raise UserError(f"{where}: field 'fisheye' must be true or false")
    coefficients = numbers(table, dist[0], (None,), where) if dist else numbers({"dist": []}, "dist", (None,), where)
    if fisheye and coefficients.size == 14 and not coefficients[4:].any():
        coefficients = coefficients[:4]
    return checked_camera(
        where,
        name,
        K=K,
        R=numbers(table, "R", (3, 3), where),
        t=numbers(table, "t", (3,), where),
        dist=coefficients,
        size=_size(table, where),
        first_pixel=first_pixel,
        fisheye=fisheye,
        fields=("K", "R", dist[0] if dist else "dist"),
    )


def _size(table: Mapping[str, Any], where: str) -> tuple[int, int]:
    if "size" in table:
        return image_size(numbers(table, "size", (2,), where), "size", where)
    sides = [number(table, side, where, default=0) for side in ("width", "height")]
    return image_size(sides, "width, height", where) if any(sides) else (0, 0)


def rig_to_json(rig: Rig) -> dict[str, Any]:
    """A rig in millimetres as plain values; the conventions are stated with them."""
    return {
        "convention": "OpenCV camera axes; x_cam = R x_world + t; millimetres; first pixel's centre at (0.5, 0.5)",
        "distortion": "k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4 tauX tauY; of a fisheye lens k1 k2 k3 k4 and zeros",
        "first_pixel_center": [0.5, 0.5],
        "cameras": [
            {
                "name": c.name, "width": c.width, "height": c.height, "fisheye": c.fisheye,
                "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(),
            }
            for c in rig
        ],
    }  # fmt: skip


def rig_from_json(path: Path) -> Rig:
    """Read what the stage `cameras` wrote as rig.json, bit for bit."""
    content = read_json(path, "mousefacelift cameras")
    try:
        return tuple(read(Document(path, "JSON", content), path.stem, str(path)))
    except UserError as error:
        raise UserError(f"{path}: not a rig ({error}); delete it and run `mousefacelift cameras` again") from None


def write(rig: Rig, path: Path) -> None:
    """Write a rig in millimetres: everything that a Camera holds."""
    write_json(path, rig_to_json(rig))
