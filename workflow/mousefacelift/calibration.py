"""Reading calibration files into a rig, and the rig's own JSON form."""

from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.captures import MM_PER_UNIT, Capture
from mousefacelift.errors import UserError
from mousefacelift.files import read_json
from mousefacelift.geometry import Array, Camera, Rig, pad_distortion


def read_rig(capture: Capture, sizes: Array) -> Rig:
    """The capture's calibrated cameras, in its order of cameras, in millimetres.

    sizes: [V, 2] width and height of the videos. Raises UserError naming file and field for anything implausible.
    """
    scale = MM_PER_UNIT[capture.unit]
    rig: list[Camera] = []
    assert isinstance(capture.calibration, tuple)
    for name, path, (width, height) in zip(capture.cameras, capture.calibration, sizes, strict=True):
        where = f"capture {capture.name}, camera {name}: {path}"
        K, dist, R, t = read_dannce(path, where)
        if not (0 < K[0, 2] < width and 0 < K[1, 2] < height):
            raise UserError(
                f"{where}: principal point ({K[0, 2]:.1f}, {K[1, 2]:.1f}) lies outside the {width}x{height} px video: "
                "is this calibration of another resolution?"
            )
        rig.append(Camera(name, int(width), int(height), K, dist, R, t * scale))
    return tuple(rig)


def read_dannce(path: Path, where: str) -> tuple[Array, Array, Array, Array]:
    """One camera of DANNCE's `*_params.mat`: K [3, 3], dist [14], R [3, 3], t [3] in this package's conventions.

    The file holds MATLAB's row-vector model: K and r transposed, the principal point 1-based (first pixel's centre at
    (1, 1)), hence -1 to be zero-centred and +0.5 for the corner-based coordinates used here. `where` begins errors.
    """
    import scipy.io

    try:
        content: dict[str, Any] = scipy.io.loadmat(str(path))
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except Exception as error:  # scipy raises many types for damaged files
        raise UserError(f"{where}: not a readable MATLAB file ({error})") from None
    K = _field(content, "K", (3, 3), where).T.copy()
    R = _field(content, "r", (3, 3), where).T.copy()
    t = _field(content, "t", (3,), where)
    radial = _field(content, "RDistort", (None,), where)
    tangential = _field(content, "TDistort", (2,), where)
    if radial.size not in (2, 3):
        raise UserError(f"{where}: RDistort holds {radial.size} coefficients; 2 or 3 expected")
    if (
        not np.allclose([K[1, 0], K[2, 0], K[2, 1]], 0, atol=1e-9)
        or abs(K[2, 2] - 1) > 1e-9
        or min(K[0, 0], K[1, 1]) <= 0
    ):
        raise UserError(
            f"{where}: K is not a transposed intrinsic matrix (DANNCE stores cx, cy, 1 in its last row):\n{K.T}"
        )
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-4) or np.linalg.det(R) < 0:
        raise UserError(
            f"{where}: r is not a rotation matrix (|r r' - 1| = {np.abs(R @ R.T - np.eye(3)).max():.2g}, det {np.linalg.det(R):.3g})"
        )
    K[:2, 2] -= 0.5
    k1, k2, *k3 = radial
    return K, pad_distortion([k1, k2, *tangential, *k3]), R, t


def _field(content: dict[str, Any], name: str, shape: tuple[int | None, ...], where: str) -> Array:
    if name not in content:
        found = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        raise UserError(f"{where}: no field {name!r} (found {found}); expected DANNCE's K, r, t, RDistort, TDistort")
    try:
        value = np.asarray(content[name], np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{where}: field {name!r} is not a numeric array") from None
    if len(shape) == 1:
        value = value.ravel()
    if value.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, value.shape, strict=True)):
        raise UserError(f"{where}: field {name!r} has shape {np.shape(content[name])}, expected {shape}")
    if not np.isfinite(value).all():
        raise UserError(f"{where}: field {name!r} holds NaN or infinity")
    return value


def rig_to_json(rig: Rig) -> dict[str, Any]:
    """The rig as plain values; conventions are stated in the file."""
    return {
        "convention": "OpenCV camera axes; x_cam = R x_world + t; millimetres; first pixel's centre at (0.5, 0.5)",
        "distortion": "k1 k2 p1 p2 k3 k4 k5 k6",
        "cameras": [
            {
                "name": c.name, "width": c.width, "height": c.height,
                "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(),
            }
            for c in rig
        ],
    }  # fmt: skip


def rig_from_json(path: Path) -> Rig:
    """Read what `cameras` wrote as rig.json."""
    content = read_json(path, "mousefacelift cameras")
    try:
        return tuple(
            Camera(
                c["name"], c["width"], c["height"], np.asarray(c["K"], np.float64), np.asarray(c["dist"], np.float64),
                np.asarray(c["R"], np.float64), np.asarray(c["t"], np.float64),
            )
            for c in content["cameras"]
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a rig ({error!r}); delete it and run `mousefacelift cameras` again") from None
