"""Silhouettes by difference from the empty arena, which `arena.estimate_background` finds in the recording itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Background, Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image, Segment, segment_frames
from mousefacelift.recordings.video import Frame, Missing

LINEAR_RANGE = (30, 230)  # grey levels from which a gain can be read: neither noise nor saturation
COLOUR_BINS = 32  # of 8 levels of Y, of 4 levels of Cr and Cb around neutral
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


def silhouettes(
    capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, arena: Arena | None = None
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with what differs from the empty arena in it and may be a mouse."""
    if arena is None:
        raise UserError("center.masks: background needs --background, the file that `mousefacelift background` writes")
    return segment_frames(capture, view, frames, settings, threads, segmenter(arena, settings.background))


def segmenter(arena: Arena, settings: Background) -> Segment:
    """Silhouettes by difference from the empty arena; the function returned segments successive frames.

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

    Args:
        arena: what `arena.estimate_background` returned for the camera.
        settings: the section `center.background`.

    Returns:
        A function from a frame [H, W, 3] uint8 RGB to its silhouette [H, W] uint8, 0 or 255. Give it a camera's frames
        in order: it remembers the blobs of the last one.

    Raises:
        UserError: (the function returned) a frame has another size than the arena.
    """
    detector = Detector(arena, settings)
    flashes = _Flashes()
    height, width = arena["background"].shape[:2]

    def segment(image: Image) -> Image:
        if image.shape[:2] != (height, width):
            raise UserError(
                f"the frame is {image.shape[1]}x{image.shape[0]} px, the background {width}x{height}: other videos?"
            )
        small = to_ycc(shrink(image, detector.factor))
        found = detector.find(small)
        if found is None:
            flashes.forget()
            return np.zeros((height, width), np.uint8)
        mask = np.zeros(small.shape[:2], np.uint8)
        mask[found.box] = flashes.confirm(found) * np.uint8(255)
        smooth = cv2.resize(cv2.blur(mask, (3, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
        return np.where(smooth > 127, np.uint8(255), np.uint8(0))

    return segment


@dataclass(frozen=True)
class Detection:
    """The mouse in a frame at the working scale.

    box: rows and columns that hold the mouse. mask: [h, w] of the box. value: [h, w, 3] of the box, the frame's Y Cr Cb
    with the arena's brightness.
    """

    box: tuple[slice, slice]
    mask: NDArray[np.bool_]
    value: NDArray[np.float32]


class Detector:
    """Tells the mouse from one camera's empty arena, at the working scale [h, w] of about `settings.width` pixels."""

    def __init__(self, arena: Arena, settings: Background) -> None:
        self.settings = settings
        self.factor = shrink_factor(arena["background"].shape[1], settings)
        self.level = np.asarray(arena["level"], np.float32)
        self.level8 = np.clip(np.rint(self.level), 0, 255).astype(np.uint8)
        noise = np.sqrt(np.asarray(arena["noise"], np.float32) ** 2 + np.float32(settings.min_noise) ** 2)
        self.noise, self.chroma_noise = np.ascontiguousarray(noise[..., 0]), np.ascontiguousarray(noise[..., 1])
        self.threshold = np.clip(np.rint(4 * self.noise + 4), 0, 255).astype(np.uint8)
        self.colour = np.asarray(arena["colour"], np.float32).ravel() if "colour" in arena else None
        self.area, self.low, self.high = (float(v) for v in arena["mouse"]) if "mouse" in arena else (0.0, 0.0, 0.0)

    def find(self, ycc: Image, shadows: bool = True) -> Detection | None:
        """The mouse in a frame [h, w, 3] Y Cr Cb; None if nothing differs from the arena."""
        settings = self.settings
        gain = relative_gain(ycc[..., 0], self.level8[..., 0])
        box = self.box(ycc, gain)
        if box is None:
            return None
        # Only inside the box: a mouse covers a small part of the frame, and the rest would take most of the time.
        value = without_gain(ycc[box], gain)
        evidence = self._evidence(value, box, shadows)
        # Neighbours decide together (mean field of a Potts model): one pixel's noise makes no hole and no speck.
        field = evidence
        for _ in range(SMOOTHING_STEPS):
            field = evidence + np.float32(SMOOTHING) * cv2.blur(np.tanh(field / 2), (SMOOTHING_PX,) * 2)
        change = np.abs(value - self.level[box])
        contrast = np.maximum(np.maximum(change[..., 0], change[..., 1]), change[..., 2])
        mask = self._plausible(field > 0, contrast, ycc.shape[0] * ycc.shape[1])
        if not mask.any():
            return None
        # Where fur and arena have the same colour the evidence is weak; on arena well away from the mouse it is strong.
        closed = cv2.morphologyEx(np.pad(mask.astype(np.uint8), CLOSING_PX), cv2.MORPH_CLOSE, disc(CLOSING_PX))[
            CLOSING_PX:-CLOSING_PX, CLOSING_PX:-CLOSING_PX
        ]
        mask |= (closed > 0) & (cv2.blur(evidence, (5, 5)) > WEAK_EVIDENCE)
        return Detection(box, _filled(mask, evidence, settings), value)

    def box(self, ycc: Image, gain: float) -> tuple[slice, slice] | None:
        """Where something differs from the arena."""
        # Integers and fixed thresholds: a first look at the whole frame that must be fast, and may find too much.
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
        # The arena as it is: Gaussian noise of luma and of both chroma values.
        other = -((change[..., 0] / noise) ** 2 + (change[..., 1] ** 2 + change[..., 2] ** 2) / chroma**2) / 2 - norm
        if shadows and self.settings.shadow:
            other = np.maximum(other, self._shadow(value, change, box))
        # Without a known colour the mouse may have any of 256 x 64 x 64.
        if self.colour is None:
            return np.clip(np.float32(-np.log(256 * 64 * 64)) - other, -8, 8)
        return np.clip(self.colour[colour_bins(value.reshape(-1, 3))].reshape(other.shape) - other, -8, 8)

    def _shadow(
        self, value: NDArray[np.float32], change: NDArray[np.float32], box: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        """Log density of a pixel's colour under a shadow or a reflection, [h, w] of the box.

        The pixel is arena + part (target - arena), part at most `shadow`, a small one likelier (a triangle). The target is
        black, or for what is brighter than an arena that is darker than the mouse, the mouse's luma.
        """
        most = np.float32(self.settings.shadow)
        level, noise, chroma = self.level[box], self.noise[box], 1.5 * self.chroma_noise[box]
        # The part that explains the luma best. The target is black here: luma falls by part * luma.
        luma = np.maximum(level[..., 0], 1)
        ratio = value[..., 0] / luma
        # Up to 15 % brighter: the light changes in a part of the arena.
        part = np.clip(1 - ratio, -np.float32(0.15), most)
        span = luma
        rest = change[..., 0] + part * luma
        possible = (luma < self.low) | (SHADED * luma > self.high)
        # A reflection of a bright mouse on a darker arena: the target is the mouse's luma instead.
        brighter = (change[..., 0] > 0) & (luma < SHADED * self.low)
        if brighter.any():
            up = np.maximum(self.low - luma, 1)
            part = np.where(brighter, np.clip(change[..., 0] / up, 0, most), part)
            span = np.where(brighter, up, luma)
            rest = np.where(brighter, change[..., 0] - part * up, rest)
        # Less light means less chroma in proportion (128 is neutral); what is left over speaks against a shadow. Colour may
        # be lost more easily than gained: red that the arena does not have is skin.
        hue = change[..., 1:] + part[..., None] * (level[..., 1:] - 128)
        loose = np.sqrt(chroma**2 + (np.float32(0.2) * change[..., 0]) ** 2)
        misfit = (hue[..., 0] / np.where(hue[..., 0] > 0, chroma, loose)) ** 2 + (hue[..., 1] / loose) ** 2
        # A leg or a tail is narrower than a shadow: a closing of the ratio fills it.
        smooth = cv2.blur(np.clip(ratio, 0, np.float32(1.2)), (3, 3))
        thin = (cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, disc(4)) - smooth) * luma
        misfit += (rest / noise) ** 2 + (thin / (3 * noise)) ** 2
        # A triangle over the part: deep shadows are rarer than faint ones.
        prior = np.float32(2 * self.settings.shadow_weight) * (1 - np.clip(part / most, 0, np.float32(0.98)))
        density = np.log(prior / (most * np.maximum(span, 8) * chroma**2)) - np.float32(np.log(2 * np.pi))
        return np.where(possible, density - misfit / 2, np.float32(-50))

    def _plausible(self, mask: NDArray[np.bool_], contrast: NDArray[np.float32], pixels: int) -> NDArray[np.bool_]:
        """Those blobs of a mask [h, w] that may be an animal; pixels: of the whole frame."""
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


class _Flashes:
    """Drops blobs that flash up: see `segmenter`. Remembers the blobs of one frame, before anything was dropped."""

    def __init__(self) -> None:
        self.previous: NDArray[np.float64] | None = None

    def forget(self) -> None:
        """The frame has no blobs."""
        self.previous = np.empty((0, 3))

    def confirm(self, found: Detection) -> NDArray[np.bool_]:
        """The mask of `found` without unconfirmed blobs. A first frame has nothing to be held against."""
        count, labels, stats, centers = cv2.connectedComponentsWithStats(found.mask.astype(np.uint8), connectivity=8)
        corner = [found.box[1].start, found.box[0].start]
        now = np.column_stack([centers + corner, stats[:, cv2.CC_STAT_AREA]])[1:]
        previous, self.previous = self.previous, now
        if previous is None or len(now) <= max(len(previous), 1):
            return found.mask
        # More blobs than in the previous frame: a new one stays if it is a piece of the mouse, next to the largest blob, or
        # if about the same blob was near in the previous frame.
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


def shrink_factor(width: int, settings: Background) -> int:
    """By what whole number a frame of this width is divided to reach the working scale."""
    return max(1, round(width / settings.width))


def shrink(image: Image, factor: int) -> Image:
    """A frame [H, W, 3] at the working scale, [h, w, 3]."""
    if factor == 1:
        return image
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def to_ycc(image: Image) -> Image:
    """RGB to Y Cr Cb: brightness apart from hue."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)


def without_gain(ycc: Image, gain: float) -> NDArray[np.float32]:
    """A frame Y Cr Cb with the arena's brightness; gain: what `relative_gain` found."""
    value = ycc.astype(np.float32)
    value[..., 0] /= np.float32(gain)
    return value


def relative_gain(luma: Image, reference: Image) -> float:
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


def colour_bins(value: NDArray[np.float32]) -> NDArray[np.int32]:
    """Index of colours [n, 3] Y Cr Cb in a flattened `colour` table."""
    index = value.astype(np.int32)
    luma = np.clip(index[:, 0] >> 3, 0, COLOUR_BINS - 1)
    red, blue = (np.clip((index[:, c] - 64) >> 2, 0, COLOUR_BINS - 1) for c in (1, 2))
    return np.asarray((luma * COLOUR_BINS + red) * COLOUR_BINS + blue, np.int32)


def disc(radius: int) -> Image:
    """The kernel of a morphological operation that treats all directions alike."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
