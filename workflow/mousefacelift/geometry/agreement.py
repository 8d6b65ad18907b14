"""Whether silhouettes and cameras agree: where the mouse is, how far each camera is from it, which cameras contradict."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array, Rig, pixel_rays, project, triangulate
from mousefacelift.geometry.hull import Cutout


def surrounding_polygon(support_px: Array) -> Array:
    """The polygon of tangents around a silhouette, which holds all of it.

    Tangents of neighbouring directions meet in a corner, so that also what stands out between two of the outermost points
    lies inside.

    Args:
        support_px: [..., S, 2] outermost points in S directions at equal angles from +x, px.

    Returns:
        [..., S, 2] corners, px, in the order of the directions.
    """
    count = support_px.shape[-2]
    angle = np.arange(count) * 2 * np.pi / count
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    along = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    reach = (support_px * direction).sum(axis=-1)
    step = 2 * np.pi / count
    to_corner = (np.roll(reach, -1, axis=-1) - reach * np.cos(step)) / np.sin(step)
    return reach[..., None] * direction + to_corner[..., None] * along


def usable_silhouettes(
    found: NDArray[np.bool_], clipped: NDArray[np.bool_], rays: Array, min_views: int
) -> NDArray[np.bool_]:
    """Which silhouettes to triangulate from.

    A silhouette cut off by the frame's edge has its centre of mass in the wrong place: it counts only in a frame with too
    few whole ones.

    Args:
        found: [N, V] whether there is a silhouette.
        clipped: [N, V] whether the frame's edge cuts it off.
        rays: [N, V, 3] through its centre of mass; NaN beyond the calibrated field.
        min_views: whole silhouettes that are enough.

    Returns:
        [N, V] bool.
    """
    use = found & np.isfinite(rays).all(axis=-1)
    whole = use & ~clipped
    enough = whole.sum(axis=1, keepdims=True) >= min_views
    return (whole & enough) | (use & ~enough)


def locate(rig: Rig, center_px: Array, rays: Array, use: NDArray[np.bool_], min_views: int) -> tuple[Array, Array]:
    """Triangulate the mouse's centre in each frame, and measure how far each silhouette is from it.

    Args:
        rig: V cameras.
        center_px: [N, V, 2] silhouettes' centres of mass in the raw frames, px; NaN without one.
        rays: [N, V, 3] through them, in the world.
        use: [N, V] which to triangulate from.
        min_views: how many a frame needs for a centre.

    Returns:
        Centres [N, 3] in mm, NaN in a frame with too few silhouettes.
        Residuals [N, V] in raw px, NaN without silhouette or centre, inf where the centre would lie behind the camera or
        beyond its calibrated field.
    """
    center_mm = triangulate(np.stack([c.center for c in rig]), rays, use)
    center_mm[use.sum(axis=1) < min_views] = np.nan
    pixels = np.stack([project(center_mm, camera)[0] for camera in rig], axis=1)
    distance = np.nan_to_num(np.linalg.norm(pixels - center_px, axis=-1), nan=np.inf)
    measured = np.isfinite(center_px).all(axis=-1) & np.isfinite(center_mm).all(axis=-1, keepdims=True)
    return center_mm, np.where(measured, distance, np.nan)


def camera_medians(residual_px: Array) -> Array:
    """Each camera's median residual; 0 for a camera that never sees the mouse, which contradicts nobody.

    Args:
        residual_px: [N, V] px, NaN where unknown.

    Returns:
        [V] px.
    """
    columns = (column[~np.isnan(column)] for column in residual_px.T)
    return np.array([np.median(column) if len(column) else 0.0 for column in columns])


def agreeing_cameras(
    rig: Rig, center_px: Array, rays: Array, use: NDArray[np.bool_], max_residual_px: float
) -> NDArray[np.bool_]:
    """Which cameras agree with the pair of cameras that most cameras agree with.

    Args:
        rig: V cameras.
        center_px: [N, V, 2] silhouettes' centres of mass in the raw frames, px; NaN without one.
        rays: [N, V, 3] through them, in the world.
        use: [N, V] which to triangulate from.
        max_residual_px: the largest median residual of a camera that agrees.

    Returns:
        [V] bool.
    """
    # One wrong camera drags the centre of all away from every camera. Two cameras place the mouse by themselves: the pair
    # that most cameras agree with is right, and who does not agree with it is wrong.
    agreement = []
    for pair in combinations(range(len(rig)), 2):
        alone = use & np.isin(np.arange(len(rig)), pair)
        residuals = camera_medians(locate(rig, center_px, rays, alone, 2)[1])
        agrees = residuals <= max_residual_px
        agreement.append((int(agrees.sum()), -float(residuals[agrees].sum()), agrees))
    _, _, agrees = max(agreement, key=lambda item: item[:2])
    return agrees


def oversized(rig: Rig, center_mm: Array, area_px: NDArray[np.int64], ratio: float) -> NDArray[np.bool_]:
    """Which silhouettes are implausibly large: another animal that touches the mouse, a hand, a wrong mask.

    Args:
        rig: V cameras.
        center_mm: [N, 3] the mouse's centre, mm; NaN where unknown.
        area_px: [N, V] of the silhouettes, raw px; 0 without one.
        ratio: how many times the camera's median area is too large; areas are compared in mm^2 at the mouse's distance.

    Returns:
        [N, V] bool.
    """
    area = area_mm2(rig, center_mm, area_px)
    large = np.zeros(area_px.shape, bool)
    for v in range(len(rig)):
        if np.isfinite(area[:, v]).any():
            with np.errstate(invalid="ignore"):
                large[:, v] = area[:, v] > ratio * np.nanmedian(area[:, v])
    return large


def area_mm2(rig: Rig, center_mm: Array, area_px: NDArray[np.int64]) -> Array:
    """Silhouettes' areas [N, V] in mm^2 at the mouse's distance; NaN without a silhouette or a centre.

    Args:
        rig: V cameras.
        center_mm: [N, 3] the mouse's centre, mm; NaN where unknown.
        area_px: [N, V] of the silhouettes, raw px; 0 without one.
    """
    area = np.full(area_px.shape, np.nan)
    for v, camera in enumerate(rig):
        depth = center_mm @ camera.R[2] + camera.t[2]
        area[:, v] = np.where(area_px[:, v] > 0, area_px[:, v] * depth**2 / abs(np.linalg.det(camera.K)), np.nan)
    return area


def locate_cutouts(cutouts: Sequence[Cutout | None], rig: Rig) -> tuple[Array, float] | None:
    """Find roughly where one moment's silhouettes place the animal.

    Args:
        cutouts: of the V views, see `hull.Cutout`.
        rig: the V cameras.

    Returns:
        Its centre [3] and how far it reaches from there, mm; None if fewer than two views show it.
    """
    rays, reach = np.full((len(rig), 3), np.nan), {}
    for v, (cutout, camera) in enumerate(zip(cutouts, rig, strict=True)):
        if cutout is None:
            continue
        alpha, window = cutout
        rows, columns = np.nonzero(alpha > 127)
        if len(rows):
            x, y = np.asarray(window)[:2]
            middle = np.array([columns.mean() + x, rows.mean() + y]) + 0.5
            rays[v] = (pixel_rays(middle[None], camera) @ camera.R)[0]
            reach[int(v)] = float(np.hypot(columns + x - middle[0], rows + y - middle[1]).max())
    use = np.isfinite(rays).all(axis=1)
    if use.sum() < 2:
        return None
    center = triangulate(np.stack([camera.center for camera in rig]), np.nan_to_num(rays)[None], use[None])[0]
    if not np.isfinite(center).all():
        return None
    radii = [reach[int(v)] * rig[v].mm_per_px(center) for v in np.flatnonzero(use)]
    return center, 1.1 * float(np.median(radii))
