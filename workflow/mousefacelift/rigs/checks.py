"""The one way from the numbers that a reader found to cameras, and the checks of a whole rig."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Array, Camera, Rig, pad_distortion

MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "m": 1000.0}

# Room-sized rigs: closer together two cameras do not fit, further apart they do not see one mouse.
MIN_RIG_MM, MAX_RIG_MM = 10.0, 50_000.0
# Of a world that is scaled to the subject, with the cameras a few units from it.
MIN_RIG_UNITLESS = 1.0
ROTATION_TOLERANCE = 1e-4
# No length or focal length in any unit comes near it, and its square is still a number.
LARGEST_NUMBER = 1e12
MAX_IMAGE_SIDE = 100_000
MAX_CAMERAS = 500


def warn(message: str) -> None:
    """One line on stderr, where the command line prints its errors too."""
    print(f"mousefacelift: warning: {message}", file=sys.stderr, flush=True)


def field(content: Any, name: str, where: str) -> Any:
    """The entry `name` of a table. Raises UserError listing what the table holds instead."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a table with the field {name!r}, found {describe(content)}")
    if name not in content:
        raise UserError(f"{where}: no field {name!r} (found {listed(content)})")
    return content[name]


def numbers(content: Any, name: str, shape: tuple[int | None, ...], where: str) -> Array:
    """The entry `name` of a table as a float64 array of a shape; None stands for any length.

    A shape of one number also accepts a row or column. Raises UserError for a missing field, something that is not
    numbers, another shape, NaN, infinity and absurdly large numbers.
    """
    stored = field(content, name, where)
    try:
        kind = getattr(stored, "dtype", np.dtype(float)).kind
        value = np.asarray(stored, np.float64) if kind in "biufUO" and stored is not None else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        value = None
    if value is None:
        raise UserError(f"{where}: field {name!r} is not a numeric array, but {describe(stored)}")
    found = value.shape
    if len(shape) == 1 and value.size == max(found, default=1):
        value = value.ravel()
    if value.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, value.shape, strict=True)):
        wanted = "x".join("n" if n is None else str(n) for n in shape)
        raise UserError(f"{where}: field {name!r} has shape {found}, expected {wanted} numbers")
    if not np.isfinite(value).all():
        raise UserError(f"{where}: field {name!r} holds NaN or infinity")
    if np.abs(value).max(initial=0) > LARGEST_NUMBER:
        raise UserError(f"{where}: field {name!r} holds {np.abs(value).max():.3g}, more than any camera has")
    return value


def number(content: Any, name: str, where: str, default: float | None = None) -> float:
    """The entry `name` of a table as one float; `default`, if given, stands for a missing one."""
    if default is not None and isinstance(content, Mapping) and name not in content:
        return default
    return float(numbers(content, name, (1,), where)[0])


def image_size(values: ArrayLike, name: str, where: str) -> tuple[int, int]:
    """Width and height from two numbers, which some writers store as floats."""
    sides = np.asarray(values, np.float64).ravel()
    if sides.size != 2 or not np.isfinite(sides).all() or not ((sides >= 1) & (sides <= MAX_IMAGE_SIDE)).all():
        raise UserError(f"{where}: field {name!r} is not an image size in pixels: {sides.tolist()}")
    if np.abs(sides - np.rint(sides)).max() > 1e-6:
        raise UserError(f"{where}: field {name!r} is not a whole number of pixels: {sides.tolist()}")
    return round(sides[0]), round(sides[1])


def describe(value: Any) -> str:
    """What a value is, short enough for an error message."""
    if value is None:
        return "something else"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of shape {shape}"
    if isinstance(value, Mapping):
        return f"a table with {listed(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"{type(value).__name__} {str(value)[:40]}"


def listed(names: Any) -> str:
    """Up to twelve names, for an error message."""
    texts = [str(name)[:60] for name in names]
    return ", ".join(texts[:12]) + (f" and {len(texts) - 12} more" if len(texts) > 12 else "") or "nothing"


def checked_camera(
    where: str,
    name: str,
    *,
    K: Array,
    R: Array,
    t: Array,
    dist: ArrayLike = (),
    size: tuple[int, int] = (0, 0),
    first_pixel: float,
    transposed: bool = False,
    fisheye: bool = False,
    fields: tuple[str, str, str] = ("K", "R", "distortion"),
) -> Camera:
    """Make a camera in this package's conventions from a file's numbers.

    Args:
        where: file and camera, for errors.
        name: the camera's.
        K: [3, 3] intrinsics as stored, px.
        R: [3, 3] rotation as stored, world to camera, or a rotation vector [3].
        t: [3] translation, world to camera, in the file's unit; `read_rig` scales the rig.
        dist: OpenCV's coefficients in OpenCV's order.
        size: width and height, px; 0 if unknown.
        first_pixel: where the format puts the first pixel's centre, on both axes: 0, 0.5 or 1.
        transposed: whether K and R are those of a row-vector model, as MATLAB writes them.
        fisheye: whether dist is that of a fisheye lens.
        fields: the file's names of K, R and dist, for errors.

    Returns:
        The camera, in the file's unit.

    Raises:
        UserError: the numbers cannot be those of a camera.
    """
    K_name, R_name, dist_name = fields
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"{where}: a camera's name must be readable text, found {name!r}")
    if R.shape == (3,):
        from scipy.spatial.transform import Rotation

        R = Rotation.from_rotvec(R).as_matrix()
    if (K.shape, R.shape, t.shape) != ((3, 3), (3, 3), (3,)):
        raise UserError(
            f"{where}: {K_name}, {R_name} or translation has a wrong shape: {K.shape}, {R.shape}, {t.shape}"
        )
    if not all(np.isfinite(value).all() for value in (K, R, t)):
        raise UserError(f"{where}: {K_name}, {R_name} or translation holds NaN or infinity")
    K, R = (K.T.copy(), R.T.copy()) if transposed else (K.copy(), R.copy())
    _check_intrinsics(K, K_name, transposed, size, where)
    K[:2, 2] += 0.5 - first_pixel
    _check_rotation(R, R_name, where)
    try:
        coefficients = pad_distortion(dist, fisheye=fisheye)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {dist_name}: {error}") from None
    if not np.isfinite(coefficients).all():
        raise UserError(f"{where}: {dist_name} holds NaN or infinity")
    return Camera(name, size[0], size[1], K, coefficients, R, t.copy(), fisheye)


def _check_intrinsics(K: Array, name: str, transposed: bool, size: tuple[int, int], where: str) -> None:
    def is_upper_triangular(matrix: Array) -> bool:
        below = [matrix[1, 0], matrix[2, 0], matrix[2, 1], matrix[2, 2] - 1]
        return bool(np.abs(below).max() <= 1e-9)

    if not is_upper_triangular(K):
        layout = "transposed, cx, cy, 1 in its last row" if transposed else "cx, cy, 1 in its last column"
        hint = (
            "it is stored the other way round (transposed)" if is_upper_triangular(K.T) else f"found\n{K.T if transposed else K}"
        )  # fmt: skip
        raise UserError(f"{where}: {name} is not an intrinsic matrix as this format stores it ({layout}): {hint}")
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if min(fx, fy) <= 0:
        raise UserError(f"{where}: {name} has focal lengths {fx:g}, {fy:g} px; they must be positive")
    if not 0.5 <= fx / fy <= 2:
        raise UserError(f"{where}: {name} has focal lengths {fx:g}, {fy:g} px: no camera's pixels are so oblong")
    width, height = size
    if width and not (-width <= cx <= 2 * width and -height <= cy <= 2 * height):
        raise UserError(
            f"{where}: {name} has its principal point at ({cx:.1f}, {cy:.1f}), far outside the {width}x{height} px image: "
            "is this calibration of another resolution?"
        )


def _check_rotation(R: Array, name: str, where: str) -> None:
    off = np.abs(R @ R.T - np.eye(3)).max() if np.abs(R).max() < 10 else math.inf
    if off > ROTATION_TOLERANCE:
        raise UserError(
            f"{where}: {name} is not a rotation matrix (|R R' - 1| = {off:.2g}, at most {ROTATION_TOLERANCE})"
        )
    if np.linalg.det(R) < 0:
        raise UserError(f"{where}: {name} is mirrored (det -1): one of its axes points the wrong way")


def check_rig(rig: Rig, where: str) -> None:
    """Raise UserError for a rig without cameras or with two of one name; warn of two in one place."""
    if not rig:
        raise UserError(f"{where}: no cameras in it")
    if len(rig) > MAX_CAMERAS:
        raise UserError(f"{where}: {len(rig)} cameras, at most {MAX_CAMERAS}: are these the frames of a moving camera?")
    names = [camera.name for camera in rig]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{where}: several cameras are named {listed(twice)}; every camera needs its own name")
    if len(rig) == 1:
        return
    distances = pairwise_distances(rig)
    turned = np.abs(np.stack([c.R for c in rig])[:, None] - np.stack([c.R for c in rig])).max(axis=(-1, -2))
    same = np.argwhere(np.triu((distances <= 1e-6 * (1 + distances.max())) & (turned <= 1e-6), 1))
    if len(same):
        a, b = same[0]
        warn(f"{where}: cameras {names[a]!r} and {names[b]!r} have the same pose: one calibration used twice?")


def check_lengths(rig: Rig, where: str, smallest: float = MIN_RIG_MM) -> None:
    """Raise UserError unless the cameras of a rig, in millimetres, stand as far apart as in a room.

    smallest: the least that the farthest two may be apart.
    """
    if len(rig) == 1:
        return
    largest = float(pairwise_distances(rig).max())
    if not smallest <= largest <= MAX_RIG_MM:
        factors = {"a thousand times smaller (mm, not m)": 1e-3, "a thousand times larger (m, not mm)": 1e3}
        fits = [f"; a unit {text} fits" for text, factor in factors.items() if 100 <= largest * factor <= 10_000]
        raise UserError(
            f"{where}: translation: the cameras lie at most {largest:.4g} mm apart, expected {smallest:g} to "
            f"{MAX_RIG_MM:g} mm: is the unit off by 1000{''.join(fits)}? State the calibration's unit ("
            f"{', '.join(MM_PER_UNIT)})"
        )


def pairwise_distances(rig: Rig) -> Array:
    """Distances [V, V] between the cameras' centres."""
    centers = np.stack([camera.center for camera in rig])
    return np.linalg.norm(centers[:, None] - centers, axis=-1)


def axes_meeting_point(rig: Rig) -> Array:
    """The point [3] nearest to all optical axes, in the least-squares sense; NaN if the axes are parallel."""
    A, b = np.zeros((3, 3)), np.zeros(3)
    meeting: Array = np.full(3, np.nan)
    for camera in rig:
        axis = camera.R[2]
        projector = np.eye(3) - np.outer(axis, axis)
        A += projector
        b += projector @ camera.center
    if np.linalg.eigvalsh(A)[0] > 1e-6 * len(rig):
        meeting[:] = np.linalg.solve(A, b)
    return meeting


def optical_axes_meet(rig: Rig) -> Array:
    """Depth [V] in each camera of the point nearest to all optical axes; NaN if the axes are parallel.

    In a rig whose cameras look at one animal all are positive. A transposed or inverted rotation usually shows here.
    """
    point = axes_meeting_point(rig)
    return np.array([camera.R[2] @ point + camera.t[2] for camera in rig])


def scaled(rig: Rig, factor: float) -> Rig:
    """The rig in another unit of length."""
    return tuple(replace(camera, t=camera.t * factor) for camera in rig)
