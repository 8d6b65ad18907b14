"""Two data sets' cameras side by side: every quantity that pretrained weights depend on, with a verdict.

Angles are in degrees, lengths in world units (mean camera distance 2.7), pixels as everywhere (first centre at 0.5).
`sets` reads the data sets, `page` shows what is measured here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mousefacelift.comparison.sets import CameraSet
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.subject_size import BORNE, LARGER, world_diameter
from mousefacelift.geometry.views import azimuth_elevation, common_normal


@dataclass(frozen=True)
class Measures:
    """What is measured of the N samples' V views; NaN where it is undefined.

    distance: [N, V] of the camera from the origin, world units.
    azimuth, elevation: [N, V] of the camera, seen from the origin, degrees; azimuth in [0, 360).
    roll: [N, V] by which the image's right side is raised above the horizon, degrees.
    focal: [N, V] mean of fx and fy, px.
    up: [N, V, 3] the image's upward direction.
    offset: [N, V, 2] of the principal point from the image's centre, px.
    flatness: [N] rms distance of the cameras from their best plane, over their mean distance.
    normal: [N, 3] of that plane, upward.
    share: [N, V] the subject's share of the image's area. width: [N, V] its silhouette's width over the image's.
    diameter: [N, V] of a disc at the origin that covers this share, world units.
    horizon: [3] unit normal of the cameras' common horizon: the direction most nearly perpendicular to all images'
        horizontals. For level cameras this is exactly up, however they are pitched and spread, which the mean of their up
        vectors is not.
    """

    distance: Array
    azimuth: Array
    elevation: Array
    roll: Array
    focal: Array
    up: Array
    offset: Array
    flatness: Array
    normal: Array
    share: Array
    width: Array
    diameter: Array
    horizon: Array


@dataclass(frozen=True)
class Row:
    """One quantity of both data sets: the numbers, how they are written, and the verdict on them.

    verdict: match, differ, unknown (one of the sets lacks a number), or empty where nothing is judged.
    """

    quantity: str
    values: tuple[tuple[float, ...], tuple[float, ...]]
    texts: tuple[str, str]
    tolerance: str
    verdict: str
    meaning: str


@dataclass(frozen=True)
class Comparison:
    """Two data sets, their measures, the rows of the table, and in plain words what differs and what to do."""

    sets: tuple[CameraSet, CameraSet]
    measures: tuple[Measures, Measures]
    rows: tuple[Row, ...]
    summary: tuple[str, ...]


def measure(cameras: CameraSet) -> Measures:
    """Measure every view of a data set. A camera straight above or below has no azimuth or roll: NaN."""
    R, center = cameras.c2w[..., :3, :3], cameras.c2w[..., :3, 3]
    right, down, axis = R[..., 0], R[..., 1], R[..., 2]
    distance = np.linalg.norm(center, axis=-1)
    azimuth, elevation = azimuth_elevation(center)
    with np.errstate(invalid="ignore"):
        roll = np.where(np.hypot(axis[..., 0], axis[..., 1]) > 1e-6, _degrees(right[..., 2], -down[..., 2]), np.nan)
        offset = np.where(cameras.size > 0, cameras.fxfycxcy[..., 2:] - cameras.size / 2, np.nan)
    above = np.hypot(center[..., 0], center[..., 1]) < 1e-6 * distance
    centred = center - center.mean(axis=1, keepdims=True)
    spread, axes = np.linalg.eigh(np.swapaxes(centred, -1, -2) @ centred / center.shape[1])
    normal = axes[..., 0] * np.where(axes[..., 2:, 0] < 0, -1, 1)
    planar = spread[:, 1] > 1e-9 * spread[:, 2]  # else the cameras stand in a line, which lies in many planes
    flatness = np.sqrt(np.maximum(spread[:, 0], 0)) / distance.mean(axis=1)
    focal, (share, width) = cameras.fxfycxcy[..., :2].mean(axis=-1), np.moveaxis(cameras.silhouettes, -1, 0)
    return Measures(
        distance=distance,
        # Without rounding, an azimuth of -1e-17 would become 360.
        azimuth=np.where(above, np.nan, np.round(azimuth, 9) % 360),
        elevation=elevation,
        roll=roll,
        focal=focal,
        up=-down,
        offset=offset,
        flatness=np.where(planar, flatness, np.nan),
        normal=np.where(planar[:, None], normal, np.nan),
        share=share,
        width=width,
        diameter=world_diameter(
            share, np.sqrt(np.where(cameras.size > 0, cameras.size, np.nan).prod(axis=-1)), distance, focal
        ),
        horizon=_horizon(right, -down),
    )


def per_camera(measures: Measures) -> dict[str, Array]:
    """Means over samples for each of the V views: distance, azimuth, elevation, roll, focal [V], up [V, 3]."""
    up = measures.up.mean(axis=0)
    with np.errstate(invalid="ignore"):
        return {
            "distance": measures.distance.mean(axis=0),
            "azimuth": np.round(_mean_angle(measures.azimuth), 9) % 360,
            "elevation": measures.elevation.mean(axis=0),
            "roll": _mean_angle(measures.roll),
            "focal": measures.focal.mean(axis=0),
            "up": up / np.linalg.norm(up, axis=-1, keepdims=True),
        }


def _degrees(y: Array, x: Array) -> Array:
    return np.degrees(np.arctan2(y, x))


def _mean_angle(degrees: Array) -> Array:
    """Over samples; 359 and 1 have the mean 0."""
    return _degrees(np.sin(np.deg2rad(degrees)).mean(axis=0), np.cos(np.deg2rad(degrees)).mean(axis=0))


def _direction(vectors: Array) -> Array:
    """Unit mean direction [3] of vectors [..., 3]; NaN if they cancel."""
    mean = vectors.reshape(-1, 3).mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 1e-6 else np.full(3, np.nan)


def _horizon(right: Array, up: Array) -> Array:
    """The direction [3] most nearly perpendicular to all of `right`, on the side of `up`; NaN if all are parallel."""
    normal, strength = common_normal(right.reshape(-1, 3))
    side = -1 if normal @ up.reshape(-1, 3).mean(axis=0) < 0 else 1
    return normal * side if strength[1] > 1e-6 * strength.sum() else np.full(3, np.nan)


def _from_up(direction: Array) -> float:
    """Degrees between a unit direction [3] and +Z."""
    return float(_degrees(np.hypot(direction[0], direction[1]), direction[2]))


def _span(values: Array) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)


def _largest_gap(azimuth: Array) -> float:
    """Degrees between the two neighbouring views that stand farthest apart in azimuth."""
    around = np.sort(azimuth[np.isfinite(azimuth)])
    return float(np.diff(around, append=around[0] + 360).max()) if around.size else np.nan


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def _percent_text(values: tuple[float, ...]) -> str:
    known = [f"{100 * value:.1f}" for value in values if np.isfinite(value)]
    return f"{known[0]} % ({known[1]} to {known[2]})" if len(known) == 3 else f"{known[0]} %" if known else "–"


def _sizes(cameras: CameraSet) -> tuple[float, ...]:
    sizes = np.unique(cameras.size.reshape(-1, 2), axis=0)
    return tuple(np.where(sizes > 0, sizes, np.nan).ravel().tolist())


def number_text(value: float, decimals: int) -> str:
    """A number as text: no minus before zero, a dash for NaN."""
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}" if np.isfinite(value) else "–"


def _text(pattern: str, decimals: int) -> Callable[[tuple[float, ...]], str]:
    def text(values: tuple[float, ...]) -> str:
        known = np.isfinite(values).any()
        return pattern.format(*(number_text(value, decimals) for value in values)) if known else "–"

    return text


def _size_text(values: tuple[float, ...]) -> str:
    pairs = zip(values[::2], values[1::2], strict=True)
    return ", ".join(f"{w:.0f}x{h:.0f}" if np.isfinite(w) else "?" for w, h in pairs)


@dataclass(frozen=True)
class Quantity:
    """One row of the table: the numbers of a data set, how they are written, when they match, what it means if not.

    Each of the numbers must match within `absolute`, or within `relative` of the larger one; with neither, they are only
    shown. meaning: {worse} stands for the data set whose numbers are larger.
    """

    name: str
    values: Callable[[CameraSet, Measures], tuple[float, ...]]
    text: Callable[[tuple[float, ...]], str]
    meaning: str = ""
    absolute: float | None = None
    relative: float | None = None
    unit: str = ""

    @property
    def tolerance(self) -> str:
        """The tolerance in words."""
        if self.relative is not None:
            return f"{100 * self.relative:g} %"
        if self.absolute is None:
            return "not compared"
        return f"{self.absolute:g}{self.unit}" if self.absolute else "equal"

    def matches(self, a: tuple[float, ...], b: tuple[float, ...]) -> str:
        """The verdict on two data sets' numbers."""
        if self.absolute is None and self.relative is None:
            return ""
        if not all(map(np.isfinite, a + b)):
            return "unknown"
        if len(a) != len(b):
            return "differ"
        allowed = (self.absolute or 0) + (self.relative or 0) * np.maximum(np.abs(a), np.abs(b))
        return "match" if np.all(np.abs(np.subtract(a, b)) <= allowed + 1e-9) else "differ"


# A tolerance is about what moves an outline by a pixel or two at 512 px. It is wider where FaceLift's own use shows that the
# weights bear more: they are trained on views at elevation 20, 11 degrees apart, and used at elevation 0, up to 90 apart.
QUANTITIES = (
    Quantity("samples", lambda c, m: (float(len(c.c2w)),), _text("{}", 0)),
    Quantity(
        "views", lambda c, m: (float(len(c.names)),), _text("{}", 0), absolute=0,
        meaning="The data sets differ in their number of views, which GS-LRM accepts: train with as many inputs as it will get later.",
    ),
    Quantity(
        "image size, px", lambda c, m: _sizes(c), _size_text, absolute=0,
        meaning="Image sizes differ: `normalize` and `shard` render all views at 512 px (normalize.image_size).",
    ),
    Quantity(  # 1 %: 2 px of a silhouette of 200
        "focal length, px: mean (range)",
        lambda c, m: (float(m.focal.mean()), *_span(c.fxfycxcy[..., :2])), _text("{} ({} to {})", 2), relative=0.01,
        meaning="Focal lengths differ: `normalize` renders all views at FaceLift's 548.99 px, times normalize.zoom.",
    ),
    Quantity(
        "focal length / image width", lambda c, m: _span(c.fxfycxcy[..., 0] / np.where(c.size > 0, c.size, np.nan)[..., 0]),
        _text("{} to {}", 3), relative=0.01,
        meaning="Fields of view differ: the weights meet rays at other angles. normalize.zoom: 1.0 gives FaceLift's field.",
    ),
    Quantity(
        "principal point from centre, px: mean x, mean y (largest)",
        lambda c, m: (*(float(v) for v in m.offset.mean(axis=(0, 1))), float(np.linalg.norm(m.offset, axis=-1).max())),
        _text("{}, {} ({})", 2), absolute=1.0, unit=" px",
        meaning="{worse}'s principal points lie off the image centre, as real lenses' do: `normalize` renders views whose principal "
        "point is the centre.",
    ),
    Quantity(  # in area; a factor of two in length
        "subject: share of the image's area, mean", lambda c, m: (_mean(m.share),), _percent_text, relative=1 - 1 / BORNE,
        meaning="{worse}'s subjects are larger in their pictures, so that a patch of the network shows another part of them. To "
        f"make a mouse larger, set {LARGER}.",
    ),
    Quantity(  # how wide FaceLift's subjects are is not known
        "subject: width of its silhouette / image width, mean (range)", lambda c, m: (_mean(m.width), *_span(m.width)),
        _percent_text,
    ),
    Quantity(
        "subject: size in the world (disc of its area), mean", lambda c, m: (_mean(m.diameter),), _text("{}", 2),
        relative=1 - 1 / np.sqrt(BORNE),
        meaning="{worse}'s subjects are larger in their world, so the weights meet other depths and sizes of Gaussians. A focal "
        "length (normalize.zoom) does not change that; normalize.distance: canonical scales the world by the mouse.",
    ),
    Quantity(
        "camera distance: mean", lambda c, m: (float(m.distance.mean()),), _text("{}", 4), relative=0.01,
        meaning="The worlds are scaled differently: `normalize` scales the mean camera distance to 2.7.",
    ),
    Quantity(  # 0.1: 4 % of the distance, and so of the animal's size in the image
        "camera distance: std", lambda c, m: (float(m.distance.std()),), _text("{}", 4), absolute=0.1,
        meaning="{worse}'s cameras stand at unequal distances: the animal is larger in some views than in others. That is true "
        "to the rig and exact; never push a camera to 2.7 without its image.",
    ),
    Quantity(  # wide, for a wrong axis: level cameras that look down from uneven azimuths lean by some degrees in the mean
        "up: mean of the cameras' up vectors", lambda c, m: tuple(_direction(m.up).tolist()), _text("[{}, {}, {}]", 3),
        absolute=0.1,
        meaning="The cameras mean another direction by up: choose the axis that points up (--up-axis here, normalize.up_axis in "
        "the workflow).",
    ),
    Quantity(
        "angle of that to the up axis", lambda c, m: (_from_up(_direction(m.up)),), _text("{}°", 2), absolute=6.0, unit="°",
        meaning="{worse}'s world does not seem to have the up axis that is named: GS-LRM's weights are Z-up.",
    ),
    Quantity(  # 0.5 degrees: 2 px at the edge of a 512 px image
        "tilt of the cameras' common horizon", lambda c, m: (_from_up(m.horizon),), _text("{}°", 2), absolute=0.5, unit="°",
        meaning="{worse}'s cameras lean to one side as a whole: is the up axis right? What remains of it, `normalize` takes out "
        "by levelling each view.",
    ),
    Quantity(  # 1 degree: 4 px at the edge of a 512 px image
        "roll: range", lambda c, m: _span(m.roll), _text("{}° to {}°", 2), absolute=1.0, unit="°",
        meaning="{worse}'s cameras are not level. Turning the world cannot mend each camera's own roll: `normalize` does, with "
        "virtual cameras.",
    ),
    Quantity(
        "elevation: mean (range)", lambda c, m: (float(m.elevation.mean()), *_span(m.elevation)),
        _text("{}° ({}° to {}°)", 1), absolute=15.0, unit="°",
        meaning="The cameras look down at other angles: views from there are new to the weights, so fine-tuning must cover them.",
    ),
    Quantity(
        # not judged: a camera that moves from 359 to 1 degrees changes both ends
        "azimuth: range", lambda c, m: _span(m.azimuth), _text("{}° to {}°", 1),
    ),
    Quantity(
        "azimuth: widest gap between neighbours", lambda c, m: (_largest_gap(per_camera(m)["azimuth"]),),
        _text("{}°", 1), absolute=80.0, unit="°",
        meaning="{worse}'s cameras leave a wide side of the animal between two neighbours: what only they could see is guessed.",
    ),
    Quantity(  # 0.05: 3 degrees of elevation
        "cameras off their best plane, rms / distance", lambda c, m: (float(m.flatness.mean()),), _text("{}", 4), absolute=0.05,
        meaning="{worse}'s cameras do not stand on one plane orbit. No fault: several heights see more of the animal.",
    ),
    Quantity(
        "that plane's normal: angle to up", lambda c, m: (_from_up(_direction(m.normal)),),
        _text("{}°", 2), absolute=5.0, unit="°",
        meaning="{worse}'s orbit leans: is the up axis right, and is one camera's calibration wrong?",
    ),
)  # fmt: skip


def compare(a: CameraSet, b: CameraSet) -> Comparison:
    """Measure both data sets, judge each quantity, and say in plain words what differs and what to do."""
    measures = (measure(a), measure(b))
    rows = []
    for quantity in QUANTITIES:
        one, two = (quantity.values(c, m) for c, m in zip((a, b), measures, strict=True))
        worse = "A" if max(map(abs, one), default=0) > max(map(abs, two), default=0) else "B"
        rows.append(
            Row(
                quantity.name, (one, two), (quantity.text(one), quantity.text(two)), quantity.tolerance,
                quantity.matches(one, two), quantity.meaning.format(worse=worse),
            )
        )  # fmt: skip
    return Comparison((a, b), measures, tuple(rows), _summary(rows))


def _summary(rows: list[Row]) -> tuple[str, ...]:
    judged = [row for row in rows if row.verdict]
    different = [row for row in judged if row.verdict == "differ"]
    unknown = [row.quantity for row in judged if row.verdict == "unknown"]
    first = (
        f"A and B differ in {len(different)} of {len(judged)} quantities." if different
        else f"A and B match in {'all' if not unknown else 'the other'} {len(judged) - len(unknown)} quantities."
    )  # fmt: skip
    rest = [f"Not known of both: {'; '.join(unknown)}."] if unknown else []
    return (first, *rest, *dict.fromkeys(row.meaning for row in different))
