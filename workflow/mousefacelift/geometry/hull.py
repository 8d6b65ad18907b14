"""The visual hull of one frame: where the mouse can be, given its silhouettes. Arrays in, arrays out, no files.

Conventions are those of `camera`; voxels are float32, exact to less than a micrometre.

The hull is where one function of space is positive: the smallest, over the views, of the signed distance between a
point's projection and the silhouette's edge, positive inside, in millimetres at the point's depth. It is evaluated from
coarse to fine: a voxel is divided while a ball around it may touch the hull. On the finest level the distance also says
how much of a voxel is inside, so that voxels of 2 mm measure as well as ones of 1 mm that are either full or empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from mousefacelift.geometry.camera import Array, Camera, Rig, project
from mousefacelift.geometry.selection import far_apart, thinned

# A view's silhouette: alpha [h, w], above 127 is mouse, and its window x, y, width, height in the raw frame.
Cutout = tuple[NDArray[np.uint8], ArrayLike]
Floats = NDArray[np.float32]

LEVELS = 3  # a coarsest voxel is 2**LEVELS finest ones wide
PIXELS_PER_VOXEL = 3  # silhouettes are looked at in about this resolution
UNSEEN = -1e6  # pixel coordinate of what lies behind a camera or beyond its calibrated field: far outside its frame
SURFACE_POINTS, THIN_POINTS, BODY_POINTS = 48, 64, 64  # kept of a hull
CORNERS: Floats = np.array(list(product((-1, 1), repeat=3)), np.float32)


def _directions(count: int) -> Floats:
    """Unit vectors [count, 3] on a Fibonacci lattice of the sphere (Gonzalez 2010, Measurement of areas on a sphere)."""
    turn, z = np.pi * (1 + 5**0.5) * (np.arange(count) + 0.5), 1 - 2 * (np.arange(count) + 0.5) / count
    ring = np.sqrt(1 - z * z)
    return np.stack([np.cos(turn) * ring, np.sin(turn) * ring, z], axis=-1).astype(np.float32)


_DIRECTIONS = _directions(BODY_POINTS)


@dataclass(frozen=True)
class Hull:
    """What one frame's silhouettes say about the mouse's place and size; NaN, and volume 0, where they share nothing.

    Attributes:
        centroid_mm: [3] mean of the voxels, weighted by their depth inside the hull.
        volume_mm3: of the hull, which is never smaller than the mouse.
        axes: [3, 3] rows are the unit principal directions, longest first, signs arbitrary.
        lengths_mm: [3] full axes of the ellipsoid with the hull's second moments, which a tail hardly changes.
        iou: [V] intersection over union of the hull's projection and the silhouette; NaN for a view without one. Perfect
            agreement reads as some 1 - 1.5 voxels / the mouse's width, because the hull's projection is made of voxels.
        cut: [V] share of the hull's volume that lies beyond the view's frame; NaN for a view without a silhouette.
        surface_mm: [at most SURFACE_POINTS, 3] voxels that the hull's surface runs through and all views have in their
            frames, as far apart as can be: the animal's extremes first, then all parts alike.
        thin_mm: [at most THIN_POINTS, 4] such voxels of thin parts, tail and paws, evenly chosen: x, y, z, and the depth
            inside the hull, by which the hull reaches farther in every direction.
        body_mm: [BODY_POINTS, 3] voxels of the body, trunk and head without thin parts: the outermost one in each of as many
            directions, spread evenly. NaN without a hull.
        voxel_mm: edge of a voxel.
        iou_others: [V] the view's IoU with the hull of the other views; None unless asked for with leave_one_out.
        iou_without: [V] the other views' mean IoU with that hull; None unless asked for. The camera that contradicts the
            rest has the lowest iou_others and the highest iou_without: without it the rest agree.
    """

    centroid_mm: Array
    volume_mm3: float
    axes: Array
    lengths_mm: Array
    iou: Array
    cut: Array
    surface_mm: Array
    thin_mm: Array
    body_mm: Array
    voxel_mm: float
    iou_others: Array | None = None
    iou_without: Array | None = None


def outline_radius(rig: Rig, center_mm: Array, outline_rays: Array) -> Array:
    """Find balls that hold the mouse.

    The radius is the distance of the centre from the farthest ray, but at most twice the median view's: a camera that
    contradicts the rest must not make the ball huge.

    Args:
        rig: V cameras.
        center_mm: [N, 3] the mouse's centres in the world; NaN if unknown.
        outline_rays: [N, V, S, 3] unit vectors in each camera's frame through the silhouette's outermost points; NaN
            without a silhouette.

    Returns:
        [N] radii in mm; NaN without a centre or an outline.
    """
    offset = np.stack([center_mm @ camera.R.T + camera.t for camera in rig], axis=1)
    distance = np.linalg.norm(np.cross(outline_rays, offset[:, :, None]), axis=-1)
    farthest = distance.max(axis=-1)
    radius = np.full(len(center_mm), np.nan)
    some = np.isfinite(farthest).any(axis=1)
    radius[some] = np.minimum(np.nanmax(farthest[some], axis=1), 2 * np.nanmedian(farthest[some], axis=1))
    return radius


def visual_hull(
    silhouettes: Sequence[Cutout | None],
    rig: Rig,
    center_mm: ArrayLike,
    radius_mm: float,
    voxel_mm: float = 2.0,
    leave_one_out: bool = False,
) -> Hull:
    """Carve the visual hull (Laurentini, PAMI 1994) of one frame's silhouettes.

    A voxel belongs to the hull if no view sees it outside of its silhouette, and at least half of all views (two or more)
    see it inside. Beyond an edge of its frame that the silhouette touches, a view sees nothing and carves nothing; a
    silhouette that touches no edge is the whole mouse, and carves everywhere in the calibrated field. A part thinner than
    a voxel may be lost. The same silhouettes give the same bits.

    Args:
        silhouettes: of the V views: alpha [h, w] uint8, above 127 is mouse, and its window x, y, width, height in the raw
            frame, px; None for a view without one.
        rig: V cameras.
        center_mm: [3] centre of a ball in the world that holds the mouse.
        radius_mm: of the ball, see `outline_radius`; the cube around it is looked through.
        voxel_mm: edge of a voxel.
        leave_one_out: also compare each view with the hull of the others.

    Returns:
        The hull; NaN and volume 0 if fewer than two views have a silhouette, or they share nothing.
    """
    center = np.asarray(center_mm, np.float64)
    looking = _views(silhouettes, rig, center, radius_mm, voxel_mm)
    present, views = list(looking), list(looking.values())
    iou = np.full(len(rig), np.nan)
    iou_others, iou_without = (iou.copy(), iou.copy()) if leave_one_out else (None, None)
    cut = iou.copy()
    unknown, none, no_body = np.full((3, 3), np.nan), np.zeros((0, 3)), np.full((BODY_POINTS, 3), np.nan)
    nothing = Hull(
        unknown[0], 0.0, unknown, unknown[0], iou, cut, none, np.zeros((0, 4)), no_body, voxel_mm, iou_others, iou_without
    )  # fmt: skip
    if not present:
        return nothing
    # With leave_one_out a voxel that a single view carves away is kept for now: it may be in the hull of the others.
    cameras = [rig[v] for v in present]
    points, pixels, inside = _carve(views, cameras, center, radius_mm, voxel_mm, int(leave_one_out))
    depth, second = _smallest(inside, 2)  # depth in the hull; without the view that limits it, the second smallest

    iou[present] = [view.iou(pixel.compress(depth > 0, axis=1)) for view, pixel in zip(views, pixels, strict=True)]
    if iou_others is not None and iou_without is not None and len(present) > 2:
        for k, v in enumerate(present):
            others = np.where(inside[k] <= depth, second, depth) > 0
            each = np.array(
                [view.iou(pixel.compress(others, axis=1)) for view, pixel in zip(views, pixels, strict=True)]
            )
            iou_others[v], iou_without[v] = each[k], np.delete(each, k).mean()
    # Weighted by depth, tail and paws weigh next to nothing, and neither do the corners that no view could carve away: on
    # the demo capture the plain centroid is off by 1.3 mm (median), this one by 0.6 mm, weighted by depth^2 by 0.8 mm.
    weight = np.maximum(depth, 0.0).astype(np.float64)
    if not weight.any():
        return nothing
    # The surface runs through a voxel whose depth is less than half its edge: it counts in part.
    full = np.clip(0.5 + depth.astype(np.float64) / voxel_mm, 0, 1)
    volume = full.sum()
    in_frame = np.stack([view.in_frame(pixel) for view, pixel in zip(views, pixels, strict=True)])
    cut[present] = (~in_frame @ full) / volume
    # Where some view sees nothing, the others' cones may meet beside the mouse.
    surface = np.flatnonzero((np.abs(depth) <= voxel_mm / 2) & in_frame.all(axis=0))
    offsets = points - (full @ points) / volume
    # A cube's own second moment, so that a hull of one voxel has a size.
    moments, axes = np.linalg.eigh((offsets * full[:, None]).T @ offsets / volume + np.eye(3) * voxel_mm**2 / 12)
    return Hull(
        centroid_mm=(weight @ points) / weight.sum(),
        volume_mm3=float(volume * voxel_mm**3),
        axes=axes.T[::-1],
        lengths_mm=2 * np.sqrt(5 * moments[::-1]),
        iou=iou,
        cut=cut,
        surface_mm=_far_apart(points[surface]),
        thin_mm=_thin(points, depth, surface),
        body_mm=_body(points, depth),
        voxel_mm=voxel_mm,
        iou_others=iou_others,
        iou_without=iou_without,
    )


def hull_voxels(
    silhouettes: Sequence[Cutout | None], rig: Rig, center_mm: ArrayLike, radius_mm: float, voxel_mm: float
) -> Floats:
    """Centres [n, 3] in mm of all voxels at most half a voxel outside the visual hull; arguments as of `visual_hull`."""
    return near_hull(silhouettes, rig, center_mm, radius_mm, voxel_mm, 0)[1]


def near_hull(
    silhouettes: Sequence[Cutout | None], rig: Rig, center: ArrayLike, radius: float, voxel_mm: float, misses: int = 1
) -> tuple[list[int], Floats, Floats, Floats]:
    """All voxels that at most `misses` views carve away, and how each view judges them; else as `visual_hull`.

    Returns:
        The views with a silhouette, by their places in the rig; none if fewer than two have one. Of the voxels' centres:
        places in the world [n, 3], pixels in these views [V, 2, n], signed distances to their edges [V, n] in mm.
    """
    middle = np.asarray(center, np.float64)
    views = _views(silhouettes, rig, middle, radius, voxel_mm)
    if not views:
        return [], np.zeros((0, 3), np.float32), np.zeros((0, 2, 0), np.float32), np.zeros((0, 0), np.float32)
    return list(views), *_carve(list(views.values()), [rig[v] for v in views], middle, radius, voxel_mm, misses)


def open_sides(cutout: Cutout, camera: Camera) -> tuple[bool, bool, bool, bool]:
    """Which edges of the frame (left, upper, right, lower) a silhouette touches, so that the mouse may go on behind."""
    alpha, window = cutout
    x, y, w, h = (int(i) for i in np.asarray(window))
    # Two pixels wide: a mask that was smoothed or eroded ends just before the edge.
    at_edge = (
        (x == 0, alpha[:, :2]),
        (y == 0, alpha[:2]),
        (x + w == camera.width, alpha[:, -2:]),
        (y + h == camera.height, alpha[-2:]),
    )
    left, upper, right, lower = (bool(there and (part > 127).any()) for there, part in at_edge)
    return left, upper, right, lower


@dataclass(frozen=True)
class _View:
    """One silhouette as a map of signed distances to its edge, in raw px, on every `step`-th pixel of its window.

    signed: [h, w], one sample wider than the window on each side. x, y: of sample 0, 0 in the raw frame. width,
    height: of the frame. open_sides: which edges of the frame (left, upper, right, lower) the silhouette touches, so that
    the mouse may go on behind. voxel_px: edge of a voxel at the mouse.
    """

    signed: Floats
    x: float
    y: float
    step: int
    width: int
    height: int
    open_sides: tuple[bool, bool, bool, bool]
    voxel_px: float

    @classmethod
    def of(cls, cutout: Cutout, camera: Camera, center: Array, voxel_mm: float) -> "_View":
        alpha, window = cutout
        x, y = (int(i) for i in np.asarray(window)[:2])
        voxel_px = voxel_mm * camera.focal_px / np.linalg.norm(center - camera.center)
        step = max(1, int(voxel_px / PIXELS_PER_VOXEL))
        first = step // 2
        mouse = np.pad((alpha[first::step, first::step] > 127).astype(np.uint8), 1)
        sides = left, upper, right, lower = open_sides(cutout, camera)
        # Where the mouse may go on the silhouette does not end.
        if left:
            mouse[:, 0] = 1
        if upper:
            mouse[0] = 1
        if right:
            mouse[:, -1] = 1
        if lower:
            mouse[-1] = 1
        # Distances are to the nearest sample of the other kind; the edge lies half-way before it. Not OpenCV's "precise"
        # distance, whose last bits vary from call to call.
        to_outside = cv2.distanceTransform(mouse, cv2.DIST_L2, cv2.DIST_MASK_5)
        to_mouse = cv2.distanceTransform(1 - mouse, cv2.DIST_L2, cv2.DIST_MASK_5)
        signed = (to_outside - to_mouse - np.where(mouse, np.float32(0.5), np.float32(-0.5))) * np.float32(step)
        corner = first + 0.5 - step
        return cls(signed, x + corner, y + corner, step, camera.width, camera.height, sides, float(voxel_px))

    def look(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Signed distances in px of raw pixels [2, n] to the silhouette's edge, and to the field of view's; positive inside.

        The field of view has no end behind an edge that the silhouette does not touch.
        """
        u, v = pixels
        # UNSEEN is far outside on the left and above; what lies there no view judges.
        edge = np.where(u > UNSEEN / 2, np.float32(np.inf), np.float32(UNSEEN))
        for side, is_open in zip((u, v, self.width - u, self.height - v), self.open_sides, strict=True):
            if is_open:
                edge = np.minimum(edge, side)
        h, w = self.signed.shape
        column = (u - np.float32(self.x)) * np.float32(1 / self.step)
        row = (v - np.float32(self.y)) * np.float32(1 / self.step)
        nearest_column, nearest_row = np.clip(column, 0, w - 1), np.clip(row, 0, h - 1)
        half = np.float32(0.5)
        sample = (nearest_row + half).astype(np.int32) * w + (nearest_column + half).astype(np.int32)
        signed = self.signed.ravel()[sample]
        # From beyond the window the silhouette is no nearer than by way of the window's nearest point: there the path
        # turns by a right angle or less, because the window is convex.
        beyond = ((column - nearest_column) ** 2 + (row - nearest_row) ** 2) * np.float32(self.step**2)
        signed = np.where(beyond > 0, -np.sqrt(beyond + signed * signed), signed)
        return np.maximum(signed, -edge), edge

    def in_frame(self, pixels: Floats) -> NDArray[np.bool_]:
        """Whether raw pixels [2, n] lie inside the frame."""
        u, v = pixels
        inside: NDArray[np.bool_] = (u >= 0) & (v >= 0) & (u <= self.width) & (v <= self.height)
        return inside

    def iou(self, pixels: Floats) -> float:
        """Intersection over union of the silhouette and voxels' discs around raw pixels [2, n], in the frame's samples."""
        if pixels.shape[1] == 0:
            return 0.0
        h, w = self.signed.shape
        origin, frame = np.array([self.x, self.y], np.float32), np.array([self.width, self.height])
        samples = np.rint((pixels - origin[:, None]) * np.float32(1 / self.step)).astype(np.int32)
        radius = self.voxel_px / 2 / self.step
        first = np.minimum(samples.min(axis=1) - int(radius), 1)
        last = np.maximum(samples.max(axis=1) + int(radius), [w - 2, h - 2])
        first = np.maximum(first, np.ceil((0.5 - origin) / self.step).astype(int))
        last = np.minimum(last, ((frame - 0.5 - origin) / self.step).astype(int))
        samples -= first[:, None]
        width, height = last - first + 1
        drawn = (samples[0] >= 0) & (samples[0] < width) & (samples[1] >= 0) & (samples[1] < height)
        column, row = samples.compress(drawn, axis=1)
        hull = np.zeros((height, width), np.uint8)
        hull[row, column] = 1
        disc = np.arange(-int(radius), int(radius) + 1) ** 2
        hull = cv2.dilate(hull, (disc[:, None] + disc <= radius**2).astype(np.uint8))
        mouse = np.zeros_like(hull, bool)
        mouse[1 - first[1] :, 1 - first[0] :][: h - 2, : w - 2] = self.signed[1:-1, 1:-1] > 0
        return float(np.count_nonzero(hull & mouse) / np.count_nonzero(hull | mouse))


def _far_apart(points: Floats) -> Array:
    """The points [n, 3] of Hull.surface_mm, from the one farthest from their mean."""
    if not len(points):
        return np.zeros((0, 3))
    first = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())
    return points[far_apart(points, first, SURFACE_POINTS)].astype(np.float64)


def _thin(points: Floats, depth: Floats, surface: NDArray[np.intp]) -> Array:
    """Voxels [n, 4] of the `surface` on thin parts, with their depth; see Hull.thin_mm."""
    # Voxels stand in the order of space, coarsest cell by cell: every n-th of them are spread over all.
    surface = thinned(surface, 32 * THIN_POINTS)
    thin = thinned(surface[_is_thin(points, depth, surface)], THIN_POINTS)
    return np.column_stack([points[thin], depth[thin]]).astype(np.float64)


def _body(points: Floats, depth: Floats) -> Array:
    """The voxels [BODY_POINTS, 3] of Hull.body_mm."""
    hull = thinned(np.flatnonzero(depth > 0), 4096)
    body = points[hull[~_is_thin(points, depth, hull)]]
    return body[np.argmax(body @ _DIRECTIONS.T, axis=0)].astype(np.float64)


def _is_thin(points: Floats, depth: Floats, some: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each of some voxels belongs to a thin part.

    The thick part is all that is at least a third as deep as the deepest voxel. Thin is what lies farther from it than the
    deepest voxel is deep.
    """
    deepest = float(depth.max())
    thick = points[thinned(np.flatnonzero(depth >= deepest / 3), 500)]
    distance, _ = cKDTree(thick).query(points[some], distance_upper_bound=deepest)
    return np.isinf(distance)


def _views(
    silhouettes: Sequence[Cutout | None], rig: Rig, center: Array, radius_mm: float, voxel_mm: float
) -> dict[int, _View]:
    """The views with a silhouette, by their places in the rig; none if fewer than two have one, or there is no ball."""
    cutouts = {v: s for v, s in enumerate(silhouettes) if s is not None and (s[0] > 127).any()}
    if len(cutouts) < 2 or not np.isfinite([*center, radius_mm]).all():
        return {}
    return {v: _View.of(cutout, rig[v], center, voxel_mm) for v, cutout in cutouts.items()}


def _smallest(values: Floats, count: int) -> list[Floats]:
    """The `count` smallest values over the first axis, in order: np.partition, several times as fast for a few."""
    ranked = [np.full(values.shape[1:], np.inf, np.float32) for _ in range(count)]
    for value in values:
        for k, smaller in enumerate(ranked):
            ranked[k], value = np.minimum(smaller, value), np.maximum(smaller, value)
    return ranked


def _carve(
    views: list[_View], rig: Sequence[Camera], center: Array, radius: float, voxel_mm: float, max_misses: int
) -> tuple[Floats, Floats, Floats]:
    """The finest voxels that may be in the hull: centres [n, 3], their pixels [V, 2, n], signed distances [V, n] in mm.

    Cameras project the coarsest lattice alone. Within its cells pixels are interpolated, trilinearly on the next level
    and linearly below: some hundredths of a millimetre off where a mouse fills a part of the frame.
    """
    # The coarsest lattice, with its corners: the only points that the cameras' lenses are evaluated at.
    size = voxel_mm * 2**LEVELS
    cells = int(np.ceil(2 * radius / size))
    ticks = (np.arange(cells + 1) - cells / 2) * size
    lattice = np.stack(np.meshgrid(*(ticks + c for c in center), indexing="ij"), axis=-1)
    points = _corners(lattice).mean(axis=-1).T
    projected = np.stack([_corners(project(lattice, camera)[0].astype(np.float32)) for camera in rig])
    # A cell with a corner that the camera does not see is unseen as a whole: nothing can be interpolated in it.
    visible = ~np.isnan(projected).any(axis=(1, 3), keepdims=True)
    corners = np.where(visible, projected, np.float32(UNSEEN))
    pixels, slope = _trilinear(corners, np.zeros((1, 3), np.float32), size)
    px_per_mm = _scale(slope)
    needed = max(2, (len(views) + 1) // 2)
    for level in range(LEVELS + 1):
        # Wanted are the finest voxels with their centres at most half a voxel outside the hull. One of them may lie in a
        # corner of this voxel, whose own centre may then be farther outside by the distance to that corner's voxel.
        reach = np.float32(voxel_mm / 2 + np.sqrt(3) / 2 * (size - voxel_mm))
        looks = [view.look(pixel) for view, pixel in zip(views, pixels, strict=True)]
        inside = np.stack([signed for signed, _ in looks]) / px_per_mm
        seen = np.stack([edge for _, edge in looks]) > (0 if level == LEVELS else -reach * px_per_mm)
        # Kept is what no view carves away (max_misses of them may), and what enough views see inside. A coarse voxel
        # counts as seen if any part of it may be.
        depth = _smallest(inside, max_misses + 1)[max_misses]
        keep = (depth >= -reach) & ((seen & (inside >= -reach)).sum(axis=0, dtype=np.uint8) >= needed)
        points, pixels, inside = points[keep], pixels.compress(keep, axis=2), inside.compress(keep, axis=1)
        if level == LEVELS:
            break
        # Divide each kept voxel into eight, and move its pixel along its slope instead of projecting anew.
        size /= 2
        children = CORNERS * np.float32(size / 2)
        points = (points[:, None] + children).reshape(-1, 3)
        if level == 0:
            pixels, slope = _trilinear(corners.compress(keep, axis=2), CORNERS / np.float32(2), 2 * size)
            px_per_mm = _scale(slope)
        else:
            slope = (np.repeat(slope, 8, axis=2) if level > 1 else slope).compress(keep, axis=2)
            pixels = (pixels[..., None] + slope @ children.T).reshape(*pixels.shape[:2], -1)
            px_per_mm = np.repeat(px_per_mm.compress(keep, axis=1), 8, axis=1)
    return points, pixels, inside


def _scale(slope: Floats) -> Floats:
    """Pixels per mm across the line of sight [V, n], from the pixels' slopes [V, 2, n, 3]."""
    return np.sqrt(np.maximum(np.einsum("vknd,vknd->vn", slope, slope) / 2, 1e-12))


def _corners(lattice: Array | Floats) -> Floats:
    """The corners [k, n, 8] of each cell of a lattice [x, y, z, k], in the order of CORNERS."""
    lower, upper = slice(None, -1), slice(1, None)
    cells = np.stack([lattice[x, y, z] for x, y, z in product((lower, upper), repeat=3)], axis=-1)
    return np.moveaxis(cells.reshape(-1, *cells.shape[3:]), 1, 0).astype(np.float32)


def _trilinear(corners: Floats, at: Floats, size: float) -> tuple[Floats, Floats]:
    """Values [V, 2, n * m] and slopes per mm [V, 2, n * m, 3] in cells of this size, given their corners [V, 2, n, 8].

    at: [m, 3] in each cell, from -1 to 1.
    """
    factors = (1 + CORNERS * at[:, None]) / 2
    values = corners @ factors.prod(axis=-1).T
    slopes = [CORNERS[:, d] / np.float32(size) * np.delete(factors, d, axis=-1).prod(axis=-1) for d in range(3)]
    shape = (*corners.shape[:2], -1)
    return values.reshape(shape), np.stack([corners @ s.T for s in slopes], axis=-1).reshape(*shape, 3)
