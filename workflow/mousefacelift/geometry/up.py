"""World up, from what the cameras, the floor under the animal and the calibration say. Arrays in, arrays out, no files.

Conventions are those of `camera`; directions are unit vectors [3] in the calibration's world.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.config.normalize import UP_AXES
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.selection import thinned
from mousefacelift.geometry.views import common_normal

WARN_DEG = 3.0  # a candidate farther than this from the chosen direction is warned about

# Of the floor: frames looked at, cells of its plane, the share of cells below it (noise), parts of the jackknife; and what
# it takes: points, spread of the animal's places, certainty, cameras (cones of fewer leave phantoms beside a tail).
FLOOR_FRAMES, CELL_MM, BELOW, PARTS = 500, 4.0, 0.05, 10
FLOOR_POINTS, FLOOR_SPAN_MM, FLOOR_MAX_DEG, FLOOR_CAMERAS = 100, 15.0, 5.0, 4
# Errors that repeated measuring does not show: the lowest points' heights differ with the posture, and so with the place;
# and a rig may lean as a whole.
BIAS_MM, LEAN_DEG = 0.3, 2.0
# An axis of the calibration within three uncertainties of the measured direction, or within SNAP_DEG, but never beyond
# SNAP_MAX_DEG, is meant to be up, and is exact where the measurement is not. Of worlds turned at random, one in 22 has an
# axis within 10 degrees.
SNAP_DEG, SNAP_MAX_DEG = 1.0, 10.0


@dataclass(frozen=True)
class Candidate:
    """One opinion about world up.

    Attributes:
        method: where it comes from; `axis` is the calibration's axis nearest to the chosen direction, listed where the
            calibration itself was not asked.
        up: [3] unit vector.
        uncertainty_deg: standard deviation of the direction, degrees; None for the calibration, which is not measured.
    """

    method: Literal["calibration", "axis", "floor", "cameras"]
    up: Array
    uncertainty_deg: float | None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Attributes:
        up: [3] unit vector.
        method: the candidate's that was chosen.
        candidates: all opinions.
        missing: why a method has none, by method.
    """

    up: Array
    method: str
    candidates: tuple[Candidate, ...]
    missing: dict[str, str]

    def confidence(self, candidate: Candidate) -> float:
        """How much a candidate can be trusted.

        Args:
            candidate: one of `candidates`.

        Returns:
            0 to 1. For a measured one, the probability that it lies within WARN_DEG of the truth, if its errors are
            normally distributed with its uncertainty. For the calibration, how well it agrees with the measured ones
            together; 0 without any.
        """
        if candidate.uncertainty_deg is not None:
            return float(1 - np.exp(-0.5 * (WARN_DEG / max(candidate.uncertainty_deg, 0.01)) ** 2))
        weights = {c.method: c.uncertainty_deg**-2 for c in self.candidates if c.uncertainty_deg}
        if not weights:
            return 0.0
        mean = np.sum([weights[c.method] * c.up for c in self.candidates if c.method in weights], axis=0)
        off = angle_deg(candidate.up, mean / np.linalg.norm(mean))
        return float(np.exp(-0.5 * off**2 / (1 / sum(weights.values()) + SNAP_DEG**2)))

    def warnings(self) -> list[str]:
        """Sentences for a person: one for each opinion farther than WARN_DEG from the chosen, or that nothing is measured."""
        if all(c.uncertainty_deg is None for c in self.candidates):
            reasons = "; ".join(f"{method}: {reason}" for method, reason in self.missing.items())
            return [f"nothing measured tells which way is up ({reasons}): the calibration is trusted"]
        return [
            f"up by {c.method} is {angle_deg(c.up, self.up):.1f} degrees from the chosen up (by {self.method}); confidence "
            f"{self.confidence(c):.2f}"
            for c in self.candidates
            if c.method != "axis" and angle_deg(c.up, self.up) > WARN_DEG
        ]


def axis_vector(name: str | Sequence[float]) -> Array:
    """Make a direction of a setting.

    Args:
        name: "+x", "-x", "+y", "-y", "+z", "-z", or three numbers, not all 0.

    Returns:
        [3] unit vector.
    """
    if not isinstance(name, str):
        direction = np.asarray(name, np.float64) / np.abs(name).max()  # first, so that no square overflows
        return direction / np.linalg.norm(direction)
    return np.eye(3)["xyz".index(name[1])] * (1 if name[0] == "+" else -1)


def level_axes(up: Array) -> Array:
    """Find two directions at right angles to up and to each other.

    Args:
        up: [3] unit vector.

    Returns:
        [2, 3] unit vectors.
    """
    first = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first)])


def angle_deg(a: Array, b: Array) -> float:
    """Measure the angle between two directions, exactly also where it is small.

    Args:
        a: [3] unit vector.
        b: [3] unit vector.

    Returns:
        Degrees, 0 to 180.
    """
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def choose_up(method: str, up_axis: str | Sequence[float] | None, rig: Rig, thin_mm: Array) -> Choice:
    """Choose world up.

    Args:
        method: calibration, floor, cameras, or auto: the floor if it is known, else the cameras; instead of either the
            calibration's axis that agrees with it, if one does.
        up_axis: the calibration's up, see `axis_vector`; None: "+z".
        rig: the calibrated cameras.
        thin_mm: [N, K, 4] points of tail and paws in the world with their depth, mm, as hull.Hull.thin_mm; NaN behind
            the last.

    Returns:
        The choice, with all opinions.

    Raises:
        UserError: the method asked for cannot tell.
    """
    axis = axis_vector(up_axis or "+z")
    candidates: list[Candidate] = []
    missing: dict[str, str] = {}
    try:
        candidates.append(up_from_cameras(rig))
    except ValueError as error:
        missing["cameras"] = str(error)
    # The floor is looked for from below, so that it needs a notion of up: the images', which are hardly upside down.
    start = candidates[0].up if candidates else _mean_image_up(rig, axis)
    try:
        if len(rig) < FLOOR_CAMERAS:
            raise ValueError(f"fewer than {FLOOR_CAMERAS} cameras see a tail too vaguely to show the floor")
        candidates.insert(0, up_from_floor(thin_mm, start))
    except ValueError as error:
        missing["floor"] = str(error)
    measured: dict[str, Candidate] = {c.method: c for c in candidates}
    if method in ("floor", "cameras"):
        if method in missing:
            raise UserError(f"normalize.up: {method}: {missing[method]}: use up: calibration with up_axis, or auto")
        chosen = measured[method]
    elif method == "auto":
        chosen = _agreed(measured, axis)
    else:
        chosen = Candidate("calibration", axis, None)
    if chosen.method != "calibration":
        nearest = max((axis_vector(name) for name in UP_AXES), key=lambda each: float(each @ chosen.up))
        candidates.append(Candidate("axis", nearest, None))
    else:
        candidates.append(chosen)
    return Choice(chosen.up, chosen.method, tuple(candidates), missing)


def _agreed(measured: dict[str, Candidate], otherwise: Array) -> Candidate:
    if not measured:
        return Candidate("calibration", otherwise, None)
    best = measured.get("floor") or measured["cameras"]
    tolerance = min(max(SNAP_DEG, 3 * (best.uncertainty_deg or 0)), SNAP_MAX_DEG)
    near = [axis_vector(name) for name in UP_AXES if angle_deg(axis_vector(name), best.up) <= tolerance]
    return Candidate("calibration", near[0], None) if near else best


def up_from_cameras(rig: Rig) -> Candidate:
    """Find the direction most nearly at right angles to all cameras' horizontal axes: in a level camera that axis is level.

    A camera's pitch does not matter, as it would to the mean of the image-up vectors; its roll does. The uncertainty is
    that of a least-squares normal to directions whose rolls are independent, and LEAN_DEG for a rig that leans as a whole.

    Args:
        rig: the calibrated cameras.

    Returns:
        The cameras' opinion.

    Raises:
        ValueError: there are fewer than three cameras, or all look along one vertical plane.
    """
    if len(rig) < 3:
        raise ValueError("two cameras do not tell how far they are from level")
    up, strength = common_normal(np.stack([camera.R[0] for camera in rig]))
    if strength[1] < 0.05 * len(rig):
        raise ValueError("the cameras' horizontals are nearly parallel")
    image_up = -np.stack([camera.R[1] for camera in rig]).mean(axis=0)
    uncertainty = np.sqrt(max(strength[0], 0.0) / (len(rig) - 2) / strength[1])
    uncertainty_deg = float(np.hypot(np.degrees(uncertainty), LEAN_DEG))
    return Candidate("cameras", up * (1 if up @ image_up >= 0 else -1), uncertainty_deg)


def _mean_image_up(rig: Rig, otherwise: Array) -> Array:
    mean = -np.stack([camera.R[1] for camera in rig]).mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 0.1 else otherwise


def up_from_floor(thin_mm: Array, start: Array) -> Candidate:
    """Find the normal of the floor: the plane that tail and paws of all frames stand on.

    The back of an animal rises and falls with its posture, on the demo by 1.6 degrees in the fitted plane; what lies on
    the floor does not. The lowest points of each frame, one for each cell of the plane, are fitted by quantile regression
    (Koenker and Bassett, Econometrica 1978): a share BELOW of them may lie under the floor. The uncertainty is the
    jackknife's over parts of the capture, together with BIAS_MM over the spread of the animal's places.

    Args:
        thin_mm: [N, K, 4] points of tail and paws in the world with their depth, mm; NaN behind the last.
        start: [3] a direction within some 20 degrees of up.

    Returns:
        The floor's opinion.

    Raises:
        ValueError: there are too few points; the animal's places span no plane (an animal that stays where it is shows
            the plane of its posture); or parts of the capture disagree.
    """
    frames = thinned(np.flatnonzero(np.isfinite(thin_mm[:, :, 0]).any(axis=1)), FLOOR_FRAMES)
    chosen = thin_mm[frames].astype(np.float64)
    known = np.isfinite(chosen[..., 0])
    frame, points, depth = np.nonzero(known)[0], chosen[known][:, :3], chosen[known][:, 3]
    if len(points) < FLOOR_POINTS:
        raise ValueError("tail and paws are seen too seldom to show the floor")
    up = _floor_normal(points, depth, frame, start)
    places = np.nanmedian(np.where(known[..., None], chosen[..., :3], np.nan), axis=1)
    spread = float(np.linalg.svd(places - places.mean(axis=0), compute_uv=False)[1] / np.sqrt(len(places)))
    if spread < FLOOR_SPAN_MM:
        raise ValueError(f"the animal's places do not span a plane (they spread by {spread:.0f} mm across)")
    # Parts of the capture, not single frames: neighbouring frames have the same errors.
    part = frame * PARTS // (frame.max() + 1)
    others = np.stack([_floor_normal(points[k], depth[k], frame[k], up) for k in (part != p for p in range(PARTS))])
    variance = (PARTS - 1) * ((others - others.mean(axis=0)) ** 2).sum(axis=1).mean()
    # `variance` is of both components of the direction together, hence half of it for the deviation along one.
    uncertainty = float(np.degrees(np.hypot(np.sqrt(variance / 2), BIAS_MM / spread)))
    if uncertainty > FLOOR_MAX_DEG:
        raise ValueError(f"the animal does not show one floor (parts of the capture differ: {uncertainty:.0f} degrees)")
    return Candidate("floor", up, uncertainty)


def _floor_normal(points: Array, depth: Array, frame: NDArray[np.intp], start: Array) -> Array:
    """Normal [3] of the plane under points [n, 3] with their depth [n], of frames [n]."""
    up = start / np.linalg.norm(start)
    # What is lowest depends on up, so both are found in turn.
    for _ in range(8):
        plane = level_axes(up)
        # A point stands for a ball of its depth, whose lower side may touch the floor. One point for each cell and frame:
        # a tail above the floor must not outvote the paw under it.
        height = points @ up - depth
        cell = np.column_stack([frame, np.floor(points @ plane.T / CELL_MM)])
        order = np.lexsort((height, *cell.T))
        begins = np.concatenate([[True], (np.diff(cell[order], axis=0) != 0).any(axis=1)])
        lowest = order[begins]
        slope = _quantile_plane(points[lowest] @ plane.T, height[lowest], BELOW)
        turned = up - slope @ plane
        turned /= np.linalg.norm(turned)
        change, up = angle_deg(turned, up), turned
        if change < 0.01:
            break
    return up


def _quantile_plane(xy: Array, height: Array, quantile: float) -> Array:
    """Slope [2] of the plane over xy [n, 2] that a share `quantile` of the heights [n] lies below.

    By iteratively re-weighted least squares; residuals below 20 micrometres count as such, which keeps weights finite.
    """
    A = np.column_stack([xy - xy.mean(axis=0), np.ones(len(xy))])
    fit = np.array([0, 0, np.quantile(height, quantile)])
    for _ in range(60):
        above = height - A @ fit
        weighted = A * (np.where(above >= 0, quantile, 1 - quantile) / np.maximum(np.abs(above), 0.02))[:, None]
        before, fit = fit, np.linalg.lstsq(weighted.T @ A, weighted.T @ height, rcond=None)[0]
        if np.abs(fit[:2] - before[:2]).max() < 1e-6:
            break
    return fit[:2]
