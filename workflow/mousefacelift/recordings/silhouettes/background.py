"""Silhouettes without mask files: a method gets what is known of a camera's view and segments its frames in turn.

`background` tells the mouse from the empty arena, which it finds in the recording itself; `onnx` runs a network of the
user's. Both fit one signature, `Method`; a third one is a function and a line in METHODS. Only arrays come in and go
out, except for the contact sheet's file and the network's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.config.center import Background, Onnx

Image = NDArray[np.uint8]
Model = Mapping[str, NDArray[Any]]
"""What is known of one camera's view, by name: arrays that HDF5 can hold."""
Segment = Callable[[Image], Image]
"""Called for successive frames of one camera, [H, W, 3] RGB; returns [H, W], 255 where there is mouse, else 0."""
Method = Callable[[Model, Any], Segment]
"""Makes a Segment from a camera's model and the method's section of the configuration, `center.<name of the method>`."""

# A candidate for the empty arena (see estimate_background) is this many times as rare as the most frequent value, at most.
SUPPORT = 3
LINEAR_RANGE = (30, 230)  # grey levels from which a gain can be read: neither noise nor saturation
COLOUR_BINS = 32  # of 8 levels of Y, of 4 levels of Cr and Cb around neutral
ODD_COLOURS = 0.02  # share of the mouse whose colour was never seen before
# Shadows are looked for where the arena is brighter than the mouse by 1 / SHADED at least, or darker than all of it.
# In an arena as dark as the mouse its own fur is taken for shadow: looked for everywhere, IoU 0.70 instead of 0.93 on
# the demo's three hardest cameras; looked for nowhere, 0.63.
SHADED = 0.6
# Noise is not quite Gaussian, light not quite steady, and fur like the curtain behind it: evidence for the arena counts
# for less by this, in nats. 0 instead of 2: IoU 0.913 instead of 0.928 on the same cameras.
ARENA_DOUBT = 2.0
# Strength in nats. On the demo it gains 0.002; on a real rig 5 px keep more of the tail, and laser lines, and 9 px less.
SMOOTHING, SMOOTHING_STEPS, SMOOTHING_PX = 10.0, 8, 7
WEAK_EVIDENCE = -3.0  # above this a gap in the silhouette may be closed
CLOSING_PX = 4
MARGIN_PX = 24

# ---------------------------------------------------------------------------------------------- the empty arena


def estimate_background(images: Iterable[Image], settings: Background) -> dict[str, NDArray[Any]]:
    """What `background` needs to know of a camera's view, from frames uniform over the recording.

    images: about `settings.frames` frames [H, W, 3] RGB; all are held in memory. Returns arrays, h x w being the
    working scale of about `settings.width` pixels:

    - background [H, W, 3] uint8: the empty arena, RGB.
    - level [h, w, 3] float32: the same, Y Cr Cb. noise [h, w, 2] float32: standard deviation of its luma and chroma.
    - colour [32, 32, 32] float32: log density of the mouse's colour over Y Cr Cb; mouse [3] float32: its area (pixels
      at the working scale) and its luma, low and high (5 % and 90 %). Both are missing if no mouse was found.

    A median fails where the mouse sits for half of the recording. Here each pixel has up to three candidate values: the
    most frequent one, and the brightest and the darkest that are at least a third as frequent. Where these disagree, a
    mouse (or its shadow) is in some of them, and it brings edges: of each connected region the candidate with the least
    edges is taken. `settings.mouse`, if it says dark or bright, decides instead. The frames' brightness is matched
    first. The mouse's colour is learned from where it differs most from the arena: not from shadows and reflections.

    Raises UserError for fewer than 5 images, or images that differ in size.
    """
    frames = list(images)
    if len(frames) < 5:
        raise UserError(f"center.background: {len(frames)} frames are too few to find the empty arena; it takes 5")
    if len(sizes := {frame.shape for frame in frames}) > 1:
        raise UserError(f"center.background: the frames differ in size ({', '.join(map(str, sorted(sizes)))})")
    factor = _factor(frames[0].shape[1], settings)
    small = [_ycc(_shrink(frame, factor)) for frame in frames]
    luma = np.stack([ycc[..., 0] for ycc in small])
    middle = np.median(luma, axis=0).astype(np.uint8)
    gains = [_gain(y, middle) for y in luma]
    level = (luma / np.array(gains, np.float32)[:, None, None]).astype(np.float32)
    shows = _frames_of_the_arena(level, middle, settings.mouse)

    mean, square = np.zeros((2, *small[0].shape), np.float32)
    total = np.zeros(frames[0].shape, np.float32)
    count = np.zeros(frames[0].shape[:2], np.float32)
    for frame, ycc, gain, show in zip(frames, small, gains, shows, strict=True):
        value = _without_gain(ycc, gain)
        mean += value * show[..., None]
        square += value**2 * show[..., None]
        weight = cv2.resize(show.astype(np.uint8), (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_NEAREST)
        total += frame * (weight / np.float32(gain))[..., None]
        count += weight
    seen = shows.sum(axis=0)[..., None].astype(np.float32)
    mean /= seen
    deviation = np.sqrt(np.maximum(square / seen - mean**2, 0))
    model: dict[str, NDArray[Any]] = {
        "background": np.clip(np.rint(total / count[..., None]), 0, 255).astype(np.uint8),
        "level": mean,
        "noise": np.dstack([deviation[..., 0], deviation[..., 1:].max(axis=-1)]),
    }
    for learn in (_seeds, _interior):
        view = _View(model, settings)
        found = [values for ycc in small if len(values := learn(view, ycc)) >= 20]
        if not found:
            return {name: model[name] for name in ("background", "level", "noise")}
        model |= _mouse(learn is _seeds, found, model)
    return model


def _frames_of_the_arena(level: NDArray[np.float32], middle: Image, mouse: str) -> NDArray[np.bool_]:
    """Which frames show the arena at each pixel: level [n, h, w] luma to bool [n, h, w]."""
    ordered = np.sort(level, axis=0)
    flicker = np.median(np.abs(np.diff(level, axis=0)), axis=0) / np.float32(0.6745 * np.sqrt(2))
    # Wide enough for noise and slow changes of the light, too narrow for arena and mouse together.
    width = 2 * np.clip(3 * np.maximum(flicker, np.median(flicker)), 0.02 * middle + 2, 0.03 * middle + 6)
    candidates = []
    for side in {"dark": (1,), "bright": (-1,), "any": (0, 1, -1)}[mouse]:
        low = _windows(ordered, width.astype(np.float32), side)
        candidates.append((level >= low - 0.01) & (level <= low + width + 0.01))
    chosen = candidates[0]
    if len(candidates) == 1:
        return chosen
    values = [((level * inside).sum(axis=0) / inside.sum(axis=0)).astype(np.float32) for inside in candidates]
    edges = [np.rint(np.maximum(_gradient(cv2.blur(value, (3, 3))) - 40, 0)).astype(np.int64) for value in values]
    differs = (np.max(values, axis=0) - np.min(values, axis=0) > 10).astype(np.uint8)
    regions = cv2.dilate(cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), _disc(4))
    count, labels = cv2.connectedComponents(regions)
    sums = np.array([[edge[labels == region].sum() for edge in edges] for region in range(count)])
    best = np.argmin(sums, axis=1)
    best[0] = 0
    pick = best[labels]
    return np.select([pick == k for k in range(1, len(candidates))], candidates[1:], chosen)


def _windows(ordered: NDArray[np.float32], width: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Lower end of the window of a given width that holds the most samples; ordered [n, h, w] along n, width [h, w].

    side +1 (-1): instead the brightest (darkest) window with at least 1 / SUPPORT of that many samples.
    """
    n = len(ordered)
    held = np.stack([(ordered <= ordered[i] + width).sum(axis=0, dtype=np.int16) - np.int16(i) for i in range(n)])
    if side:
        enough = held * SUPPORT >= held.max(axis=0)
        edge = n - 1 - np.argmax(enough[::-1], axis=0) if side > 0 else np.argmax(enough, axis=0)
        start = np.take_along_axis(ordered, edge[None], axis=0)[0]
        near = (
            (ordered >= start - width) & (ordered <= start)
            if side > 0
            else (ordered <= start + width) & (ordered >= start)
        )
        held = np.where(near, held, 0)
    return np.take_along_axis(ordered, np.argmax(held, axis=0)[None], axis=0)[0]


def _seeds(view: "_View", ycc: Image) -> NDArray[np.float32]:
    """Colours [n, 3] where a frame differs most from the arena: mouse, when nothing is known of it yet.

    Shadows and reflections differ less, as a fraction of the light.
    """
    found = view.find(ycc, shadows=False)
    if found is None or not found.mask.any():
        return np.empty((0, 3), np.float32)
    inside = cv2.erode(found.mask.astype(np.uint8), _disc(1)) > 0
    arena, here = view.level[found.box][..., 0][inside], found.value[..., 0][inside]
    if not here.size:
        return np.empty((0, 3), np.float32)
    if view.settings.mouse == "any":
        darker = np.maximum(arena - here, 0).astype(np.int64).sum() > np.maximum(here - arena, 0).astype(np.int64).sum()
    else:
        darker = view.settings.mouse == "dark"
    fraction = (arena - here if darker else here - arena) / np.maximum(np.maximum(arena, here), 1)
    return found.value[inside][fraction > 0.75 * np.percentile(fraction, 95)]


def _interior(view: "_View", ycc: Image) -> NDArray[np.float32]:
    """Colours [n, 3] of the mouse in a frame, without its outermost pixels."""
    found = view.find(ycc)
    return found.value[cv2.erode(found.mask.astype(np.uint8), _disc(1)) > 0] if found else np.empty((0, 3), np.float32)


def _mouse(seeds: bool, found: list[NDArray[np.float32]], model: Model) -> dict[str, NDArray[Any]]:
    """`colour` and `mouse` of a model from the mouse's colours in each frame."""
    bins = _bins(np.concatenate(found))
    histogram = np.bincount(bins, minlength=COLOUR_BINS**3).reshape((COLOUR_BINS,) * 3).astype(np.float64)
    density = gaussian_filter(histogram, 1.0) / (histogram.sum() * 8 * 4 * 4)
    colour = np.log((1 - ODD_COLOURS) * density + ODD_COLOURS / (256 * 64 * 64))
    low, high = (np.median([np.percentile(values[:, 0], q) for values in found]) for q in (5, 90))
    # The luma that shadows do not reach is that of the seeds: in later rounds bare skin would raise it.
    high = high if seeds else model["mouse"][2]
    # Seeds are a part of the mouse: from them nothing follows about its size.
    area = 0.0 if seeds else np.median([len(values) for values in found])
    return {"colour": colour.astype(np.float32), "mouse": np.array([area, low, high], np.float32)}


# ---------------------------------------------------------------------------------------------- background method


def background(model: Model, settings: Background) -> Segment:
    """Silhouettes by difference from the empty arena; model: what `estimate_background` returned.

    A frame's brightness is matched to the arena's (flicker, slow drift). At the working scale each pixel is explained
    by the likeliest of three: the arena with its noise, the arena under a shadow or a reflection, the mouse. A shadow
    takes a part of the light and leaves the hue; it may take away colour but not add red, which ears, paws and tail do;
    it is not narrow. A reflection of a bright mouse likewise adds a part of it. The evidence is smoothed (mean field of
    a Potts model), gaps that are not clearly arena are closed.

    Kept is every blob that may be an animal (or a hand): not below `min_area` of the image nor `min_blob` of the
    largest, and in a quarter of its pixels at least `contrast` from the arena. Smaller ones, reflections cut off from
    the mouse for example, are dropped. Where there are more blobs than in the previous frame, those are dropped as
    flashes that are neither next to the largest nor, with about their size, within their own length in the previous
    frame: a second animal appears one frame late. The state is that frame, so that in a chunk only the first may differ.
    """
    view = _View(model, settings)
    temporal = _Temporal()
    height, width = model["background"].shape[:2]

    def segment(image: Image) -> Image:
        if image.shape[:2] != (height, width):
            raise UserError(
                f"the frame is {image.shape[1]}x{image.shape[0]} px, the background {width}x{height}: other videos?"
            )
        small = _ycc(_shrink(image, view.factor))
        found = view.find(small)
        if found is None:
            temporal.forget()
            return np.zeros((height, width), np.uint8)
        mask = np.zeros(small.shape[:2], np.uint8)
        mask[found.box] = temporal.confirm(found) * np.uint8(255)
        smooth = cv2.resize(cv2.blur(mask, (3, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
        return np.where(smooth > 127, np.uint8(255), np.uint8(0))

    return segment


@dataclass(frozen=True)
class _Found:
    """The mouse in a frame at the working scale: the box [rows, columns] that holds it, its mask, and the frame's Y Cr
    Cb there with the arena's brightness.
    """

    box: tuple[slice, slice]
    mask: NDArray[np.bool_]
    value: NDArray[np.float32]


class _View:
    """One camera's model, ready for segmentation at the working scale."""

    def __init__(self, model: Model, settings: Background) -> None:
        self.settings = settings
        self.factor = _factor(model["background"].shape[1], settings)
        self.level = np.asarray(model["level"], np.float32)
        self.level8 = np.clip(np.rint(self.level), 0, 255).astype(np.uint8)
        noise = np.sqrt(np.asarray(model["noise"], np.float32) ** 2 + np.float32(settings.min_noise) ** 2)
        self.noise, self.chroma_noise = np.ascontiguousarray(noise[..., 0]), np.ascontiguousarray(noise[..., 1])
        self.threshold = np.clip(np.rint(4 * self.noise + 4), 0, 255).astype(np.uint8)
        self.colour = np.asarray(model["colour"], np.float32).ravel() if "colour" in model else None
        self.area, self.low, self.high = (float(v) for v in model["mouse"]) if "mouse" in model else (0.0, 0.0, 0.0)

    def find(self, ycc: Image, shadows: bool = True) -> _Found | None:
        """The mouse in a frame [h, w, 3] Y Cr Cb; None if nothing differs from the arena."""
        settings = self.settings
        gain = _gain(ycc[..., 0], self.level8[..., 0])
        box = self._box(ycc, gain)
        if box is None:
            return None
        value = _without_gain(ycc[box], gain)
        evidence = self._evidence(value, box, shadows)
        field = evidence
        for _ in range(SMOOTHING_STEPS):
            field = evidence + np.float32(SMOOTHING) * cv2.blur(np.tanh(field / 2), (SMOOTHING_PX,) * 2)
        change = np.abs(value - self.level[box])
        contrast = np.maximum(np.maximum(change[..., 0], change[..., 1]), change[..., 2])
        mask = self._plausible(field > 0, contrast, ycc.shape[0] * ycc.shape[1])
        if not mask.any():
            return None
        # Where fur and arena have the same colour the evidence is weak; on arena well away from the mouse it is strong.
        closed = cv2.morphologyEx(np.pad(mask.astype(np.uint8), CLOSING_PX), cv2.MORPH_CLOSE, _disc(CLOSING_PX))[
            CLOSING_PX:-CLOSING_PX, CLOSING_PX:-CLOSING_PX
        ]
        mask |= (closed > 0) & (cv2.blur(evidence, (5, 5)) > WEAK_EVIDENCE)
        return _Found(box, _filled(mask, evidence, settings), value)

    def _box(self, ycc: Image, gain: float) -> tuple[slice, slice] | None:
        """Where something differs from the arena."""
        luma = ycc[..., 0] if gain == 1 else cv2.convertScaleAbs(ycc[..., 0], alpha=1 / gain)
        differs = cv2.absdiff(luma, self.level8[..., 0]) > self.threshold
        chroma = cv2.absdiff(ycc, self.level8)
        differs |= (chroma[..., 1] > 8) | (chroma[..., 2] > 8)
        opened = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        blobs = cv2.connectedComponentsWithStats(opened, connectivity=8)[2][1:]
        blobs = blobs[blobs[:, cv2.CC_STAT_AREA] >= 0.1 * self.settings.min_area * opened.size]
        if not len(blobs):
            return None
        x, y, w, h = blobs[:, :4].T
        return (
            slice(max(int(y.min()) - MARGIN_PX, 0), int((y + h).max()) + MARGIN_PX),
            slice(max(int(x.min()) - MARGIN_PX, 0), int((x + w).max()) + MARGIN_PX),
        )

    def _evidence(self, value: NDArray[np.float32], box: tuple[slice, slice], shadows: bool) -> NDArray[np.float32]:
        """Log p(colour | mouse) - log p(colour | arena, shadow or reflection), in [-8, 8], [h, w] of the box."""
        level, noise, chroma = self.level[box], self.noise[box], self.chroma_noise[box]
        change = value - level
        norm = np.log(noise * chroma**2) + np.float32(1.5 * np.log(2 * np.pi) + ARENA_DOUBT)
        other = -((change[..., 0] / noise) ** 2 + (change[..., 1] ** 2 + change[..., 2] ** 2) / chroma**2) / 2 - norm
        if shadows and self.settings.shadow:
            other = np.maximum(other, self._shadow(value, change, box))
        if self.colour is None:
            return np.clip(np.float32(-np.log(256 * 64 * 64)) - other, -8, 8)
        return np.clip(self.colour[_bins(value.reshape(-1, 3))].reshape(other.shape) - other, -8, 8)

    def _shadow(
        self, value: NDArray[np.float32], change: NDArray[np.float32], box: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        """Log density of a pixel's colour under a shadow or a reflection, [h, w] of the box.

        The pixel is arena + part (target - arena), part at most `shadow`, a small one likelier (a triangle). The target is
        black, or for what is brighter than an arena that is darker than the mouse, the mouse's luma.
        """
        most = np.float32(self.settings.shadow)
        level, noise, chroma = self.level[box], self.noise[box], 1.5 * self.chroma_noise[box]
        luma = np.maximum(level[..., 0], 1)
        ratio = value[..., 0] / luma
        # Up to 15 % brighter: the light changes in a part of the arena.
        part = np.clip(1 - ratio, -np.float32(0.15), most)
        span = luma
        rest = change[..., 0] + part * luma
        possible = (luma < self.low) | (SHADED * luma > self.high)
        brighter = (change[..., 0] > 0) & (luma < SHADED * self.low)
        if brighter.any():
            up = np.maximum(self.low - luma, 1)
            part = np.where(brighter, np.clip(change[..., 0] / up, 0, most), part)
            span = np.where(brighter, up, luma)
            rest = np.where(brighter, change[..., 0] - part * up, rest)
        hue = change[..., 1:] + part[..., None] * (level[..., 1:] - 128)
        loose = np.sqrt(chroma**2 + (np.float32(0.2) * change[..., 0]) ** 2)
        misfit = (hue[..., 0] / np.where(hue[..., 0] > 0, chroma, loose)) ** 2 + (hue[..., 1] / loose) ** 2
        # A leg or a tail is narrower than a shadow: a closing of the ratio fills it.
        smooth = cv2.blur(np.clip(ratio, 0, np.float32(1.2)), (3, 3))
        thin = (cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, _disc(4)) - smooth) * luma
        misfit += (rest / noise) ** 2 + (thin / (3 * noise)) ** 2
        prior = np.float32(2 * self.settings.shadow_weight) * (1 - np.clip(part / most, 0, np.float32(0.98)))
        density = np.log(prior / (most * np.maximum(span, 8) * chroma**2)) - np.float32(np.log(2 * np.pi))
        return np.where(possible, density - misfit / 2, np.float32(-50))

    def _plausible(self, mask: NDArray[np.bool_], contrast: NDArray[np.float32], pixels: int) -> NDArray[np.bool_]:
        """Those blobs of a mask that may be an animal."""
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        area = stats[:, cv2.CC_STAT_AREA]
        if count < 2:
            return mask
        # A hand is no reason to drop the mouse: the blobs are held against two mice at most.
        largest = min(area[1:].max(), 2 * self.area) if self.area else area[1:].max()
        strong = np.bincount(labels.ravel(), (contrast > self.settings.contrast).ravel(), count)
        keep = (area >= max(self.settings.min_blob * largest, self.settings.min_area * pixels)) & (strong >= area / 4)
        keep[0] = False
        return keep[labels]


def _filled(mask: NDArray[np.bool_], evidence: NDArray[np.float32], settings: Background) -> NDArray[np.bool_]:
    """A mask without its holes, except those in which the arena is seen, lit or shaded, and the large ones."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    area = np.count_nonzero(mask)
    height, width = mask.shape
    fill = np.zeros(count, bool)
    for hole in range(1, count):
        x, y, w, h, size = stats[hole]
        if size > settings.max_hole * area or x == 0 or y == 0 or x + w == width or y + h == height:
            continue
        part = np.s_[y : y + h, x : x + w]
        inside = evidence[part][labels[part] == hole]
        fill[hole] = size < 0.01 * area or np.median(inside) > WEAK_EVIDENCE - 1
    return mask | fill[labels]


class _Temporal:
    """Drops blobs that flash up: see `background`. Remembers the blobs of one frame, before anything was dropped."""

    def __init__(self) -> None:
        self.previous: NDArray[np.float64] | None = None

    def forget(self) -> None:
        """The frame has no blobs."""
        self.previous = np.empty((0, 3))

    def confirm(self, found: _Found) -> NDArray[np.bool_]:
        """The mask of `found` without unconfirmed blobs. A first frame has nothing to be held against."""
        count, labels, stats, centers = cv2.connectedComponentsWithStats(found.mask.astype(np.uint8), connectivity=8)
        corner = [found.box[1].start, found.box[0].start]
        now = np.column_stack([centers + corner, stats[:, cv2.CC_STAT_AREA]])[1:]
        previous, self.previous = self.previous, now
        if previous is None or len(now) <= max(len(previous), 1):
            return found.mask
        largest = 1 + int(np.argmax(now[:, 2]))
        margin = int(np.sqrt(now[largest - 1, 2]) / 2)
        keep = np.ones(count, bool)
        for blob in range(1, count):
            x, y, w, h, area = stats[blob]
            near = np.s_[max(y - margin, 0) : y + h + margin, max(x - margin, 0) : x + w + margin]
            if blob == largest or (labels[near] == largest).any():
                continue
            steps = np.hypot(previous[:, 0] - now[blob - 1, 0], previous[:, 1] - now[blob - 1, 1])
            like = (previous[:, 2] < 3 * area) & (previous[:, 2] > area / 3)
            keep[blob] = bool(((steps < max(w, h)) & like).any())
        return found.mask & keep[labels]


def _factor(width: int, settings: Background) -> int:
    return max(1, round(width / settings.width))


def _shrink(image: Image, factor: int) -> Image:
    if factor == 1:
        return image
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _ycc(image: Image) -> Image:
    return cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)


def _without_gain(ycc: Image, gain: float) -> NDArray[np.float32]:
    value = ycc.astype(np.float32)
    value[..., 0] /= np.float32(gain)
    return value


def _gain(luma: Image, reference: Image) -> float:
    """Brightness of a frame relative to a reference, both [h, w]; 1 if no pixel tells.

    The median ratio finds the pixels that are the same in both; integer sums over these give the gain, more finely than
    a median of integers' ratios can, and the same from run to run.
    """
    here, there = luma[::3, ::3].ravel(), reference[::3, ::3].ravel()
    low, high = LINEAR_RANGE
    usable = (there > low) & (there < high) & (here < 250)
    here, there = here[usable].astype(np.int64), there[usable].astype(np.int64)
    if here.size < 100:
        return 1.0
    ratio = np.median(here / there)
    same = np.abs(here - ratio * there) < 0.1 * there + 2
    return max(float(here[same].sum() / max(there[same].sum(), 1)), 0.05)


def _bins(value: NDArray[np.float32]) -> NDArray[np.int32]:
    """Index of colours [n, 3] Y Cr Cb in a flattened `colour` table."""
    index = value.astype(np.int32)
    luma = np.clip(index[:, 0] >> 3, 0, COLOUR_BINS - 1)
    red, blue = (np.clip((index[:, c] - 64) >> 2, 0, COLOUR_BINS - 1) for c in (1, 2))
    return np.asarray((luma * COLOUR_BINS + red) * COLOUR_BINS + blue, np.int32)


def _gradient(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hypot(cv2.Sobel(value, cv2.CV_32F, 1, 0), cv2.Sobel(value, cv2.CV_32F, 0, 1))


def _disc(radius: int) -> Image:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


# ---------------------------------------------------------------------------------------------------- onnx method


def onnx(model: Model, settings: Onnx) -> Segment:
    """Silhouettes from a segmentation network of the user's, run with onnxruntime on the CPU; `model` is not looked at.

    The network takes one float32 [1, 3, h, w], RGB in 0..1, not normalised further (a network that wants mean and
    deviation holds them as its first layers), and gives [1, 1, h', w'], the mouse, or [1, C, h', w'], classes of which
    `channel` is the mouse: logits (sigmoid, or softmax over the classes, is applied) or probabilities. Its first output
    counts. h and w are those of the file; where it leaves them open `height` and `width`, or else the frame's. Frames
    are resized to h x w, not padded, and the probability is resized back before the threshold.

    Raises UserError if onnxruntime is not installed, the file is none it can run, or inputs and outputs are others.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "center.masks: onnx needs onnxruntime: pip install -c envs/constraints.txt -e '.[onnx]'"
        ) from None
    if settings.path is None:
        raise UserError("center.onnx.path is not set: it names the network's .onnx file")
    path = Path(settings.path)
    if not path.is_file():
        raise UserError(f"center.onnx.path: {path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
    options.log_severity_level = 4  # what it would log it also raises
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise UserError(f"center.onnx.path: {path}: onnxruntime cannot load it: {_first_line(error)}") from None
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    if (
        len(inputs) != 1
        or inputs[0].type != "tensor(float)"
        or len(shape) != 4
        or shape[1] not in (3, None, str(shape[1]))
    ):
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "none"
        raise UserError(f"{path}: expected one input, tensor(float) [1, 3, h, w], found {found}")
    name = inputs[0].name

    def side(fixed: object, wanted: int | None, frame: int, key: str) -> int:
        if isinstance(fixed, int) and wanted not in (None, fixed):
            raise UserError(f"center.onnx.{key} is {wanted}, but {path} takes {fixed} only: leave {key} out")
        return fixed if isinstance(fixed, int) else wanted or frame

    def segment(image: Image) -> Image:
        height, width = image.shape[:2]
        size = (side(shape[3], settings.width, width, "width"), side(shape[2], settings.height, height, "height"))
        shrinks = size[0] < width or size[1] < height
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        values = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        try:
            output = np.asarray(session.run(None, {name: values})[0])
        except Exception as error:
            raise UserError(f"{path}: the network failed on an input {values.shape}: {_first_line(error)}") from None
        if output.ndim != 4 or output.shape[0] != 1 or output.dtype.kind != "f":
            raise UserError(
                f"{path}: expected an output [1, C, h, w] of floats, found {list(output.shape)} {output.dtype}"
            )
        probability = _probability(output[0].astype(np.float32), settings, path)
        if probability.shape != (height, width):
            probability = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.where(probability >= settings.threshold, np.uint8(255), np.uint8(0))

    return segment


def _probability(output: NDArray[np.float32], settings: Onnx, path: Path) -> NDArray[np.float32]:
    """Probability of mouse [h, w] from a network's output [C, h, w]."""
    classes = len(output)
    if classes > 1 and settings.channel >= classes:
        raise UserError(
            f"center.onnx.channel is {settings.channel}, but {path} has {classes} channels, 0 to {classes - 1}"
        )
    mouse = output[settings.channel if classes > 1 else 0]
    if settings.output == "probability":
        return mouse
    if classes > 1:
        others = np.delete(output, settings.channel, axis=0)
        top = others.max(axis=0)
        mouse = mouse - (top + np.log(np.exp(others - top).sum(axis=0)))
    return np.asarray(0.5 + 0.5 * np.tanh(mouse / 2), np.float32)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


METHODS: dict[str, Method] = {"background": background, "onnx": onnx}


# -------------------------------------------------------------------------------------------------- contact sheet


@dataclass(frozen=True)
class Tile:
    """One frame of a contact sheet: image [H, W, 3] RGB and its mask [H, W], of which above 127 is mouse."""

    frame: int
    image: Image
    mask: Image


def preview_sheet(
    path: Path,
    rows: Mapping[str, Sequence[Tile]],
    backgrounds: Mapping[str, Image] | None = None,
    tile_width: int = 320,
) -> None:
    """Write a contact sheet (PNG, atomically): one row per camera, one column per moment, outlines of the silhouettes.

    rows: tiles by camera name. backgrounds: the empty arena by camera name, [H, W, 3] RGB, as a first column.
    """
    drawn = []
    for camera, tiles in rows.items():
        row = [_tile(tile.image, tile.mask, f"{camera}  {tile.frame}", tile_width) for tile in tiles]
        if backgrounds and camera in backgrounds:
            row.insert(0, _tile(backgrounds[camera], None, f"{camera}  background", tile_width))
        drawn.append(row)
    columns = max((len(row) for row in drawn), default=0)
    if not columns:
        raise UserError(f"{path}: there is no frame to draw")
    bands = []
    for row in drawn:
        height = max((tile.shape[0] for tile in row), default=1)
        band = np.full((height + 2, columns * (tile_width + 2), 3), 255, np.uint8)
        for column, tile in enumerate(row):
            x = column * (tile_width + 2)
            band[: tile.shape[0], x : x + tile_width] = tile
        bands.append(band)
    with atomic(path) as temporary:
        png = cv2.imencode(".png", cv2.cvtColor(np.vstack(bands), cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(png.tobytes())


def _tile(image: Image, mask: Image | None, text: str, width: int) -> Image:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    small = np.array(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    if mask is not None:
        # At twice the size, or the outline would cover thin parts.
        double = (cv2.resize(mask, (2 * width, 2 * height), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
        contours, _ = cv2.findContours(double, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            small[contour[:, 0, 1] // 2, contour[:, 0, 0] // 2] = (0, 255, 0)
    for thickness, colour in ((3, (0, 0, 0)), (1, (255, 255, 0))):
        cv2.putText(small, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)
    return small
