"""MAMMAL's `new_cam.pkl`: a pickled list, or dict by number, of {K, R, T} per undistorted video.

MAMMAL's loader transposes K and R of the file (github.com/anl13/MAMMAL_mouse); other tools write them transposed already.
So the file itself must tell: K by where its 1 and its principal point stand, R by which of the two makes the optical
axes meet in front of every camera. The pixel origin is OpenCV's. The images are undistorted: no coefficients.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Array, Camera
from mousefacelift.rigs.checks import axes_meeting_point, checked_camera, describe, numbers, optical_axes_meet
from mousefacelift.rigs.containers.documents import Document

KINDS = ("pickle",)
LOOKS_FOR = "pickle of a list, or dict by number, of {K, R, T}"
# Wrong rotations can meet in front of all cameras by chance, but then the axes miss each other by far.
CLEARLY_BETTER = 2.0


def recognises(document: Document) -> bool:
    """Whether a pickle is a list, or dict, of tables with K, R and T."""
    tables = list(_tables(document.content).values())
    return bool(tables) and all(
        isinstance(table, Mapping) and len({"K", "R", "T"} & set(table)) >= 2 for table in tables
    )


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's cameras, named by their numbers. Raises UserError if neither or both layouts of R make sense."""
    tables = _tables(document.content)
    if not tables:
        raise UserError(f"{where}: expected a list or dict of cameras, found {describe(document.content)}")
    stored, transposed = (
        [_camera(table, each, where, flip) for each, table in tables.items()] for flip in (False, True)
    )
    if all(np.allclose(a.R, b.R, atol=1e-9) for a, b in zip(stored, transposed, strict=True)):
        return stored
    misses = [_miss(rig) for rig in (stored, transposed)]
    if misses[0] == misses[1] or max(misses) < CLEARLY_BETTER * min(misses):
        raise UserError(
            f"{where}: R: neither the matrices as stored nor the transposed ones clearly make the optical axes meet in front "
            f"of all {len(tables)} cameras, so the file does not tell which is meant; write the rig in another format"
        )
    return stored if misses[0] < misses[1] else transposed


def _tables(content: Any) -> dict[str, Any]:
    if isinstance(content, list):
        return {str(i): table for i, table in enumerate(content)}
    return {str(key): table for key, table in content.items()} if isinstance(content, Mapping) else {}


def _camera(table: Any, name: str, where: str, flip_R: bool) -> Camera:
    where = f"{where}, camera {name!r}"
    K, R = numbers(table, "K", (3, 3), where), numbers(table, "R", (3, 3), where)
    if K[2, 0] != 0 or K[2, 1] != 0:
        K = K.T
    return checked_camera(
        where,
        name,
        K=K,
        R=R.T if flip_R else R,
        t=numbers(table, "T", (3,), where),
        size=_map_size(table),
        first_pixel=0,
    )


def _map_size(table: Mapping[str, Any]) -> tuple[int, int]:
    """The video's size, where the undistortion map that was used to make it lies beside the camera."""
    shape: tuple[int, ...] = getattr(table.get("mapx"), "shape", ())
    return (shape[1], shape[0]) if len(shape) == 2 else (0, 0)


def _miss(rig: list[Camera]) -> float:
    """How far the optical axes are from meeting in one point; inf if the point nearest to all lies behind a camera.

    It is the axes' mean distance from that point, divided by the mean depth, and by how well the axes' directions fix the
    point. The directions matter where the world's origin is the animal: there every axis passes the origin, whether R is
    transposed or not, but transposed rotations put all cameras on one side.
    """
    depths, point = optical_axes_meet(tuple(rig)), axes_meeting_point(tuple(rig))
    if not (depths > 0).all():
        return float("inf")
    offsets: Array = np.array([camera.R[:2] @ point + camera.t[:2] for camera in rig])
    axes = np.stack([camera.R[2] for camera in rig])
    weakest = np.linalg.eigvalsh(np.eye(3) - axes.T @ axes / len(axes))[0]
    return float(np.linalg.norm(offsets, axis=-1).mean() / depths.mean() / np.sqrt(weakest))
