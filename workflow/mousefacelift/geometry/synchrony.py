"""Are the cameras synchronous? Time shifts and drifts from the tracks of silhouettes' centres. Arrays in, arrays out.

A camera whose video is late sees the mouse where it was: its track, read a little later, agrees with the point that the
other cameras place. Shifts are in frames and positive for a late camera: its frame k + shift shows the instant that
the others show in their frame k. A camera that lost a frame is early from there on, by -1.

Conventions are those of `camera`: silhouettes' centres are in pixels of the raw frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array, Rig, pixel_rays, project, triangulate

Mask = NDArray[np.bool_]

MIN_SAMPLES = 20
BLOCKS = 12  # stretches of time that are left out in turn to measure a shift's uncertainty
MIN_CORRELATION = 0.3  # of a camera's own velocity and the predicted one: below it the mouse moves too little
MIN_SHIFT = 0.5  # frames; less than what silhouettes of a walking body can tell, and harmless
MIN_DRIFT = 0.6  # frames; more than MIN_SHIFT, for the difference of two shifts, and less than one lost frame
SIGMAS = 5.0  # many, because a jackknife with few blocks has longer tails than a normal distribution
EXPLAINED = 0.9  # a real shift, undone, leaves at most this fraction of the residuals' spread
CONTRADICTS = 3.0  # times the median camera's spread at any shift: a wrong calibration, not a wrong time
NEGLIGIBLE_PX = 2.0  # a smaller spread contradicts nothing


@dataclass(frozen=True)
class Shift:
    """One camera's time against the others.

    Attributes:
        camera: its name.
        shift_frames: positive if the video is late; NaN, unknown, if the mouse moves too little to tell, if no shift
            within the range makes the camera agree, or if fewer than two others see the mouse.
        uncertainty_frames: standard deviation of the shift; inf if unknown.
        residual_px: median distance between its silhouettes' centres and the point that the others place.
        residual_px_shifted: the same with the shift undone.
        significant: whether the camera is not synchronous.
    """

    camera: str
    shift_frames: float
    uncertainty_frames: float
    residual_px: float
    residual_px_shifted: float
    significant: bool


@dataclass(frozen=True)
class OverTime:
    """Agreement with the other cameras in the course of a capture.

    Attributes:
        edge: [B + 1] frames that bound the bins.
        residual_px: [B, V] median residual in each bin; NaN without data.
        drift_frames: [V] shift in the last third less that in the first; NaN if unknown.
        uncertainty_frames: [V] standard deviation of the drift.
        drifts: [V] whether the drift is more than chance: the video lost frames, or the clock runs differently.
    """

    edge: Array
    residual_px: Array
    drift_frames: Array
    uncertainty_frames: Array
    drifts: Mask


def estimate_shifts(
    center_px: Array, frame: NDArray[np.int64], rig: Rig, use: Mask, max_shift_frames: float = 15.0
) -> tuple[Shift, ...]:
    """Estimate each camera's constant time shift against the others.

    Several cameras may be late, but most must be synchronous. A late camera drags the point that the others are compared
    with: the one that stands out most is corrected first, then all are measured anew.

    Args:
        center_px: [N, V, 2] silhouettes' centres, raw px; NaN without one.
        frame: [N] increasing video frames.
        rig: V calibrated cameras.
        use: [N, V] which centres to trust.
        max_shift_frames: the largest shift looked for.

    Returns:
        The V cameras' shifts.
    """
    tracks = _Tracks(center_px, frame, rig, use)
    applied, trusted = np.zeros(len(rig)), np.ones(len(rig), bool)
    for _ in range(3 * len(rig)):
        measured = [tracks.measure(v, applied, trusted, max_shift_frames) for v in range(len(rig))]
        spread = np.array([m.spread_px if t else np.nan for m, t in zip(measured, trusted, strict=True)])
        # A camera that agrees at no time must not drag the others.
        if trusted.sum() > 3 and np.nanmax(spread, initial=0) > max(CONTRADICTS * _median(spread), NEGLIGIBLE_PX):
            trusted[np.nanargmax(spread)] = False
            continue
        # What each camera is late by beyond what was corrected already; then the latest of the significant ones is corrected.
        remainder = _remainders(np.array([m.shift for m in measured]) - applied, trusted)
        late = [
            abs(r) if t and m.significant(a + r, r) else 0.0
            for m, t, a, r in zip(measured, trusted, applied, remainder, strict=True)
        ]
        if not max(late):
            break
        latest = np.argmax(late)
        applied[latest] += remainder[latest]
        remainder[latest] = 0
    shifts = []
    for camera, m, total, trust in zip(rig, measured, applied + remainder, trusted, strict=True):
        known = bool(trust and np.isfinite(total))
        shifts.append(
            Shift(
                camera.name,
                shift_frames=float(total) if known else float("nan"),
                uncertainty_frames=m.uncertainty if known else float("inf"),
                residual_px=m.residual_now_px,
                residual_px_shifted=m.residual_px,
                significant=known and m.significant(total, total),
            )
        )
    return tuple(shifts)


def residual_over_time(
    center_px: Array, frame: NDArray[np.int64], rig: Rig, use: Mask, bins: int = 10, max_shift_frames: float = 15.0
) -> OverTime:
    """Measure how each camera agrees with the others over time, and whether its time drifts.

    Args:
        center_px: [N, V, 2] silhouettes' centres, raw px; NaN without one.
        frame: [N] increasing video frames.
        rig: V calibrated cameras.
        use: [N, V] which centres to trust.
        bins: equal stretches of time.
        max_shift_frames: the largest shift looked for.

    Returns:
        Residuals by bin, and each camera's shift in the last third of the capture against that in the first.
    """
    tracks = _Tracks(center_px, frame, rig, use)
    edge = np.linspace(frame[0], frame[-1] + 1, bins + 1)
    residual = np.stack([tracks.residuals(v) for v in range(len(rig))], axis=1)
    in_bin = np.clip(np.searchsorted(edge, frame, side="right") - 1, 0, bins - 1)
    medians = np.array([[_median(column[in_bin == b]) for column in residual.T] for b in range(bins)])

    third = (frame[-1] - frame[0]) / 3
    ends = [frame <= frame[0] + third, frame >= frame[-1] - third]
    first, last = (estimate_shifts(center_px[rows], frame[rows], rig, use[rows], max_shift_frames) for rows in ends)
    drift = np.array([b.shift_frames - a.shift_frames for a, b in zip(first, last, strict=True)])
    uncertainty = np.array(
        [np.hypot(a.uncertainty_frames, b.uncertainty_frames) for a, b in zip(first, last, strict=True)]
    )
    drifts = np.nan_to_num(np.abs(drift)) > np.maximum(MIN_DRIFT, SIGMAS * uncertainty)
    return OverTime(edge, medians, drift, uncertainty, drifts)


@dataclass(frozen=True)
class _Measured:
    """A camera against the others.

    shift, uncertainty: in frames; NaN and inf if unknown. spread_px, residual_px: of its errors at that shift, see
    `_agreement`. spread_now_px, residual_now_px: of its errors as they are.
    """

    shift: float
    uncertainty: float
    spread_px: float
    residual_px: float
    spread_now_px: float
    residual_now_px: float

    def significant(self, total: float, remainder: float) -> bool:
        """Whether a shift of `total` frames, of which `remainder` is not corrected yet, is more than chance."""
        beyond_chance = abs(remainder) >= max(MIN_SHIFT, SIGMAS * self.uncertainty)
        return bool(beyond_chance and abs(total) >= MIN_SHIFT and self.spread_px <= EXPLAINED * self.spread_now_px)


class _Tracks:
    """The cameras' tracks, readable at any time, and the rays through them."""

    def __init__(self, center_px: Array, frame: NDArray[np.int64], rig: Rig, use: Mask) -> None:
        self.rig, self.frame = rig, frame.astype(np.float64)
        self.stride = float(np.median(np.diff(self.frame))) if len(frame) > 1 else 1.0
        use = use & np.isfinite(center_px).all(axis=-1)
        self.tracks = [(self.frame[use[:, v]], center_px[use[:, v], v]) for v in range(len(rig))]
        self.origins = np.stack([c.center for c in rig])
        self._rays: dict[tuple[int, float], Array] = {}

    def at(self, track: tuple[Array, Array], time: Array) -> Array:
        """A track's points [len(time), 2], linear between samples; NaN in gaps and beyond the ends."""
        frames, points = track
        if len(frames) < 2:
            return np.full((len(time), 2), np.nan)
        after = np.clip(np.searchsorted(frames, time), 1, len(frames) - 1)
        before = after - 1
        length = frames[after] - frames[before]
        share = (time - frames[before]) / length
        exact = (share == 0) | (share == 1)
        good = (share >= 0) & (share <= 1) & ((length <= 1.5 * self.stride) | exact)
        return np.where(good[:, None], points[before] + share[:, None] * (points[after] - points[before]), np.nan)

    def rays(self, view: int, shift: float) -> Array:
        """World rays [N, 3] through a camera's silhouettes at the instants of the frames."""
        key = (view, shift)
        if key not in self._rays:
            pixels = self.at(self.tracks[view], self.frame + shift)
            self._rays[key] = pixel_rays(pixels, self.rig[view]) @ self.rig[view].R
        return self._rays[key]

    def placed(self, view: int, applied: Array, trusted: Mask) -> Array:
        """Where the trusted other cameras, corrected, put the mouse in this camera's image: [N, 2]."""
        rays = np.stack([self.rays(k, float(applied[k])) for k in range(len(self.rig))], axis=1)
        usable = np.isfinite(rays).all(axis=-1) & trusted
        usable[:, view] = False
        return project(triangulate(self.origins, rays, usable), self.rig[view])[0]

    def residuals(self, view: int) -> Array:
        """Distances [N] in px of a camera's silhouettes from where all others put the mouse, as they are."""
        placed = self.placed(view, np.zeros(len(self.rig)), np.ones(len(self.rig), bool))
        return np.linalg.norm(self.at(self.tracks[view], self.frame) - placed, axis=-1)

    def measure(self, view: int, applied: Array, trusted: Mask, limit: float) -> _Measured:
        """The shift at which a camera agrees best with the others, corrected."""
        placed = self.placed(view, applied, trusted)
        known = np.isfinite(placed).all(axis=-1)
        now = _agreement(self.at(self.tracks[view], self.frame) - placed)
        # Whole samples first: there nothing is interpolated, which would smooth noise away and make the shifts between
        # samples look better than they are.
        samples = np.arange(-int(limit / self.stride), int(limit / self.stride) + 1) * self.stride
        spreads = [_agreement(self.at(self.tracks[view], self.frame + d) - placed)[0] for d in samples]
        if not np.isfinite(spreads).any():
            return _Measured(np.nan, np.inf, *now, *now)
        # Then between samples, by Newton-like steps of at most one sample.
        shift, uncertainty = float(samples[np.nanargmin(spreads)]), np.inf
        for _ in range(5):
            step, uncertainty = self.refine(view, (self.frame[known], placed[known]), shift)
            shift += float(np.clip(step, -self.stride, self.stride))
        best = _agreement(self.at(self.tracks[view], self.frame + shift) - placed)
        if not (abs(shift) <= limit and uncertainty <= MIN_SHIFT):
            return _Measured(np.nan, np.inf, *best, *now)
        return _Measured(shift, uncertainty, *best, *now)

    def refine(self, view: int, placed: tuple[Array, Array], shift: float) -> tuple[float, float]:
        """How much later than `shift` a camera agrees best with the track `placed`, and the standard deviation of that.

        Linear in time: track(t + d) = placed(t) + constant - velocity(t + d) * step. Both velocities are noisy, which
        would bias a least-squares step towards 0. The instrumental-variable estimate -cov(v', error) / cov(v', v), with
        the velocity v' that the other cameras see, is not biased. A still mouse leaves it undetermined, and its jackknife
        over stretches of time says so.
        """
        time, h = placed[0], self.stride
        error = self.at(self.tracks[view], time + shift) - placed[1]
        own = self.at(self.tracks[view], time + shift + h) - self.at(self.tracks[view], time + shift - h)
        others = self.at(placed, time + h) - self.at(placed, time - h)
        good = np.isfinite(error + own + others).all(axis=-1)
        if good.sum() < MIN_SAMPLES:
            return 0.0, np.inf
        error, own, others, time = error[good], own[good] / (2 * h), others[good] / (2 * h), time[good]
        # A constant bias, as of a camera that sees the mouse from behind, is no shift.
        error = error - np.median(error, axis=0)
        distance = np.linalg.norm(error, axis=-1)
        # Cauchy's weights: a silhouette that misses half of the mouse counts little.
        weight = 1 / (1 + (distance / max(2 * np.median(distance), 1e-9)) ** 2)
        error, own, others = (x - np.average(x, axis=0, weights=weight) for x in (error, own, others))

        def products(a: Array, b: Array) -> Array:
            return weight * (a * b).sum(axis=-1)

        correlation = products(own, others).sum() / np.sqrt(products(own, own).sum() * products(others, others).sum())
        if not correlation > MIN_CORRELATION:
            return 0.0, np.inf
        # Sums by block give the estimate without each of them: the jackknife.
        block = np.minimum((np.arange(len(time)) * BLOCKS) // len(time), BLOCKS - 1)
        up = np.bincount(block, products(others, error), BLOCKS)
        down = np.bincount(block, products(others, own), BLOCKS)
        steps = -(up.sum() - up) / (down.sum() - down)
        return -up.sum() / down.sum(), float(np.sqrt((BLOCKS - 1) * steps.var()))


def _remainders(measured: Array, trusted: Mask) -> Array:
    """What is left to correct of each camera's time, from its shifts [V] against the mean of the others.

    Against the others, camera c seems late by r_c - mean of the others' r. With V cameras that is solved by
    r = (V - 1) / V * measured up to a constant, which no tracks can tell; most cameras being synchronous, the median's.
    """
    known = trusted & np.isfinite(measured)
    if known.sum() < 3:
        return np.full(len(measured), np.nan)
    count = known.sum()
    return np.where(trusted, (count - 1) / count * (measured - np.median(measured[known])), np.nan)


def _agreement(error: Array) -> tuple[float, float]:
    """Median distance of errors [N, 2] from their median, which a constant bias does not touch, and from zero."""
    error = error[np.isfinite(error).all(axis=-1)]
    if len(error) < MIN_SAMPLES:
        return float("nan"), float("nan")
    return (
        float(np.median(np.linalg.norm(error - np.median(error, axis=0), axis=-1))),
        float(np.median(np.linalg.norm(error, axis=-1))),
    )


def _median(values: Array) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")
