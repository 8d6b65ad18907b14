"""The floor as cameras see it: the plane on which an animal's shadow looks the same from everywhere. Arrays in, arrays out.

A point of the floor has the same light in every view that sees it. So a shadow, seen by one camera and carried over by the
right plane to another, falls on equally dark pixels there, and an animal, which stands above the plane, does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from mousefacelift.geometry.camera import Array, Camera, Rig, pixel_rays, project
from mousefacelift.geometry.selection import thinned
from mousefacelift.geometry.up import level_axes, up_from_cameras

Floats = NDArray[np.float32]

SHADED = 0.92  # brightness below this share of the empty floor's is a shadow
LIKE = 0.06  # two views' shares that differ by as much (standard deviation) are of one point
POINTS = 200  # looked at per view and moment
# Where the search begins: around the cameras' own up, and up and down the animal.
TILTS_DEG, HEIGHTS = (-6.0, 0.0, 6.0), 20
LEAST_MATCH = 0.3  # of the shaded pixels; the demo has 0.51, planes that are wrong by 12 mm at most 0.26
NODE_PX = 4  # maps between views are computed at every n-th pixel
NOWHERE = -1e4  # pixel coordinate of what another view does not see


@dataclass(frozen=True)
class Shading:
    """What one view shows against its empty arena, in a box around all that differs.

    x, y: the box's first pixel. share: [h, w] brightness as a share of the empty arena's. differs: [h, w] whether it is an
    animal or its shadow.
    """

    x: int
    y: int
    share: Floats
    differs: NDArray[np.bool_]


@dataclass(frozen=True)
class Plane:
    """All points X with normal @ X = offset.

    normal: [3] unit vector, up. offset: mm.
    """

    normal: Array
    offset: float

    def height(self, points: Array | Floats) -> Array:
        """Height of points [n, 3] above the plane, [n] mm."""
        return np.asarray(points @ self.normal - self.offset)

    def map_to(self, pixels: Array, camera: Camera, other: Camera) -> Floats:
        """Where another camera sees the points of the plane that a camera sees at pixels [n, 2]; [n, 2], else NOWHERE."""
        return self._seen(camera.center, pixel_rays(pixels, camera) @ camera.R, other)

    def _seen(self, origin: Array, rays: Array, other: Camera) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            along = (self.offset - origin @ self.normal) / (rays @ self.normal)
            points = origin + rays * np.where(along > 0, along, np.nan)[:, None]
        seen = np.nan_to_num(project(points, other)[0], nan=NOWHERE)
        return np.clip(seen, NOWHERE, -NOWHERE).astype(np.float32)


def find_floor(
    rig: Rig, moments: Sequence[Sequence[Shading | None]], center_mm: Array, radius_mm: float
) -> Plane | None:
    """Find the plane by which the views' shadows agree best.

    Args:
        rig: V cameras.
        moments: of each moment the V views; None for a view without the animal.
        center_mm: [3] where the animal is, over all moments.
        radius_mm: how far the animal reaches from its centre.

    Returns:
        The plane; None if the cameras do not tell which way is up, or no plane makes LEAST_MATCH of the shadows agree.
    """
    try:
        up = up_from_cameras(rig).up
    except ValueError:
        return None
    first, second = level_axes(up)
    points = [_shaded(camera, [moment[v] for moment in moments]) for v, camera in enumerate(rig)]

    def plane(x: Array) -> Plane:
        normal = up + np.tan(np.radians(x[0])) * first + np.tan(np.radians(x[1])) * second
        normal /= np.linalg.norm(normal)
        return Plane(normal, float(normal @ center_mm + x[2]))

    def mismatch(x: Array) -> float:
        return -_match(plane(x), rig, moments, points)

    starts = [
        np.array([a, b, h])
        for a in TILTS_DEG
        for b in TILTS_DEG
        for h in np.linspace(-1.2 * radius_mm, 0.4 * radius_mm, HEIGHTS)
    ]
    best = min(starts, key=mismatch)
    steps = np.diag([3.0, 3.0, radius_mm / 15])
    found = minimize(
        mismatch,
        best,
        method="Nelder-Mead",
        options={"initial_simplex": np.vstack([best, best + steps]), "xatol": 0.05, "fatol": 1e-4, "maxfev": 200},
    )
    return plane(found.x) if -found.fun >= LEAST_MATCH else None


def _shaded(camera: Camera, shadings: Sequence[Shading | None]) -> tuple[NDArray[np.intp], Array, Floats]:
    """Some shaded pixels of a view: the moment of each [n], the ray through it [n, 3] in the world, its share [n]."""
    moments, pixels, shares = [], [], []
    for k, shading in enumerate(shadings):
        if shading is None:
            continue
        rows, columns = np.nonzero(shading.differs & (shading.share < SHADED))
        some = thinned(np.arange(len(rows)), POINTS)
        moments.append(np.full(len(some), k))
        pixels.append(np.column_stack([columns[some] + shading.x, rows[some] + shading.y]) + 0.5)
        shares.append(shading.share[rows[some], columns[some]])
    if not moments:
        return np.zeros(0, np.intp), np.zeros((0, 3)), np.zeros(0, np.float32)
    return np.concatenate(moments), pixel_rays(np.concatenate(pixels), camera) @ camera.R, np.concatenate(shares)


def _match(
    plane: Plane,
    rig: Rig,
    moments: Sequence[Sequence[Shading | None]],
    points: Sequence[tuple[NDArray[np.intp], Array, Floats]],
) -> float:
    """Share of the shaded pixels that some other view shows equally dark at the same point of the plane."""
    total, count = 0.0, 0
    for v, (moment, rays, share) in enumerate(points):
        best = np.zeros(len(share), np.float32)
        for j, other in enumerate(rig):
            if j == v or not len(share):
                continue
            seen = plane._seen(rig[v].center, rays, other)
            there = np.ones(len(share), np.float32)
            for k in np.unique(moment):
                if (shading := moments[k][j]) is not None:
                    here = moment == k
                    corner = np.array([shading.x, shading.y], np.float32)
                    there[here] = sample(shading.share, seen[here] - corner, 1.0)
            like = np.exp(-(((there - share) / np.float32(LIKE)) ** 2) / 2)
            best = np.maximum(best, np.where(there < SHADED, like, np.float32(0)))
        total, count = total + float(best.sum(dtype=np.float64)), count + len(share)
    return total / max(count, 1)


def sample(image: Floats, pixels: Floats, outside: float) -> Floats:
    """Values of an image [h, w] at pixels [..., 2], interpolated; the first pixel's centre is at (0.5, 0.5)."""
    at = pixels.reshape(-1, 1, 2) if pixels.ndim == 2 else pixels
    taken = cv2.remap(image, at - np.float32(0.5), None, cv2.INTER_LINEAR, borderValue=outside)
    return np.asarray(taken, np.float32).reshape(pixels.shape[:-1])


class FloorMap:
    """Where one view's pixels, taken for pixels of the floor, lie in another view: interpolated from every NODE_PX-th."""

    def __init__(self, plane: Plane, camera: Camera, other: Camera) -> None:
        x, y = (np.arange(-NODE_PX / 2, n + 2 * NODE_PX, NODE_PX) for n in (camera.width, camera.height))
        grid = np.stack(np.meshgrid(x, y), axis=-1)
        self._nodes = plane.map_to(grid.reshape(-1, 2), camera, other).reshape(grid.shape)

    def at(self, x: int, y: int, width: int, height: int) -> Floats:
        """Pixels of the other view [height, width, 2] for the box whose first pixel is x, y."""
        # Node k is at (k - 0.5) * NODE_PX; OpenCV's pixel centres are integers.
        columns = (np.arange(x, x + width, dtype=np.float32) + np.float32(0.5)) / NODE_PX + np.float32(0.5)
        rows = (np.arange(y, y + height, dtype=np.float32) + np.float32(0.5)) / NODE_PX + np.float32(0.5)
        return np.asarray(cv2.remap(self._nodes, *np.meshgrid(columns, rows), cv2.INTER_LINEAR), np.float32)


def shrunk(camera: Camera, factor: int) -> Camera:
    """The camera whose pixels are `factor` times as wide; rows and columns that do not fill a pixel are lost."""
    scale = np.diag([1 / factor, 1 / factor, 1])
    return replace(camera, K=scale @ camera.K, width=camera.width // factor, height=camera.height // factor)
