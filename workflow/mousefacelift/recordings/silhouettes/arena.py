"""The empty arena of one camera's view, and the colours of the mouse in it, estimated from the recording itself."""

from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Background
from mousefacelift.recordings.silhouettes.background import (
    COLOUR_BINS,
    Detector,
    colour_bins,
    disc,
    relative_gain,
    shrink,
    shrink_factor,
    to_ycc,
    without_gain,
)
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image

# A pixel's brightest and darkest values are candidates for the arena if they are at least 1 / SUPPORT as frequent as the
# most frequent one.
SUPPORT = 3
ODD_COLOURS = 0.02  # share of the mouse whose colour was never seen before
GUESSED = (12.0, 4.0)  # noise of luma and chroma where the arena was never seen, grey levels
LEAST_PIXELS = 20  # a frame with fewer pixels of mouse says nothing about its colour


def estimate_background(
    images: Iterable[Image], settings: Background, hidden: NDArray[np.bool_] | None = None
) -> dict[str, NDArray[Any]]:
    """Estimate the empty arena of a camera's view, and the mouse's colours, from a recording with the mouse in it.

    A median over time fails where the mouse sits for half of the recording. Here each pixel has up to three candidate
    values: the most frequent one, and the brightest and the darkest that are at least a third as frequent. Where they
    disagree, some of them show a mouse or its shadow, and a mouse brings edges: in each connected region the candidate
    with the fewest edges wins. If `settings.mouse` says dark or bright, that decides instead. The mouse's colours are
    learned from where it differs most from the arena, because shadows and reflections differ less.

    Args:
        images: about `settings.frames` frames [H, W, 3] uint8 RGB, uniform over the recording; all are held in memory.
        settings: the section `center.background`.
        hidden: [n, h, w] where in each frame an animal is known to hide the arena; then the most frequent value of the
            other frames is taken. A pixel that is always hidden is a guess, with a noise of GUESSED.

    Returns:
        Arrays by name; [h, w] is the working scale, about `settings.width` pixels wide:
        background: [H, W, 3] uint8, the empty arena, RGB.
        level: [h, w, 3] float32, the same, Y Cr Cb in grey levels.
        noise: [h, w, 2] float32, standard deviation of luma and of chroma, grey levels.
        colour: [32, 32, 32] float32, log density of the mouse's colour over Y Cr Cb; absent if no mouse was found.
        mouse: [3] float32, the mouse's area in pixels at the working scale, and its low and high luma (5 % and 90 %);
            absent if no mouse was found.

    Raises:
        UserError: there are fewer than 5 images, or they differ in size.
    """
    frames = list(images)
    if len(frames) < 5:
        raise UserError(f"center.background: {len(frames)} frames are too few to find the empty arena; it takes 5")
    if len(sizes := {frame.shape for frame in frames}) > 1:
        raise UserError(f"center.background: the frames differ in size ({', '.join(map(str, sorted(sizes)))})")
    factor = shrink_factor(frames[0].shape[1], settings)
    small = [to_ycc(shrink(frame, factor)) for frame in frames]
    luma = np.stack([ycc[..., 0] for ycc in small])
    # Equal brightness first: flicker and drift would spread each pixel's values over several candidates.
    middle = np.median(luma, axis=0).astype(np.uint8)
    gains = [relative_gain(y, middle) for y in luma]
    level = (luma / np.array(gains, np.float32)[:, None, None]).astype(np.float32)
    always = None
    if hidden is not None:
        always = hidden.all(axis=0)
        hidden = hidden & ~always
    shows = _frames_of_the_arena(level, middle, settings.mouse, hidden)
    arena = _average(frames, small, gains, shows)
    if always is not None:
        arena["noise"][always] = GUESSED
    return arena | learn_mouse(arena, small, settings)


def _average(
    frames: list[Image], small: list[Image], gains: list[float], shows: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """`background`, `level` and `noise` from the frames that show the arena, for each pixel; shows: [n, h, w]."""
    # Sums frame by frame: a stack of all full-size frames in float32 would take some gigabytes.
    mean, square = np.zeros((2, *small[0].shape), np.float32)
    total = np.zeros(frames[0].shape, np.float32)
    count = np.zeros(frames[0].shape[:2], np.float32)
    for frame, ycc, gain, show in zip(frames, small, gains, shows, strict=True):
        value = without_gain(ycc, gain)
        mean += value * show[..., None]
        square += value**2 * show[..., None]
        weight = cv2.resize(show.astype(np.uint8), (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_NEAREST)
        total += frame * (weight / np.float32(gain))[..., None]
        count += weight
    seen = shows.sum(axis=0)[..., None].astype(np.float32)
    mean /= seen
    deviation = np.sqrt(np.maximum(square / seen - mean**2, 0))
    return {
        "background": np.clip(np.rint(total / count[..., None]), 0, 255).astype(np.uint8),
        "level": mean,
        "noise": np.dstack([deviation[..., 0], deviation[..., 1:].max(axis=-1)]),
    }


def _frames_of_the_arena(
    level: NDArray[np.float32], middle: Image, mouse: str, hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Which frames show the arena at each pixel: level [n, h, w] luma to bool [n, h, w]."""
    if hidden is not None:
        # Far from any value, and from each other: no window holds two of them.
        level = np.where(hidden, -1e4 * (1 + np.arange(len(level), dtype=np.float32)[:, None, None]), level)
    ordered = np.sort(level, axis=0)
    # The median step between frames ignores the few steps at which the mouse comes or goes; 0.6745 makes it a standard
    # deviation of Gaussian noise, and a difference of two values has sqrt(2) times that of one.
    flicker = np.median(np.abs(np.diff(level, axis=0)), axis=0) / np.float32(0.6745 * np.sqrt(2))
    # Wide enough for noise and slow changes of the light, too narrow for arena and mouse together.
    width = 2 * np.clip(3 * np.maximum(flicker, np.median(flicker)), 0.02 * middle + 2, 0.03 * middle + 6)
    held = _held(ordered, width.astype(np.float32))
    candidates = []
    sides = {"dark": (1,), "bright": (-1,), "any": (0, 1, -1)}[mouse] if hidden is None else (1,)
    for side in sides:
        low = _fullest(ordered, held, width.astype(np.float32), side)
        candidates.append((level >= low - 0.01) & (level <= low + width + 0.01))
    if len(candidates) == 1:
        return candidates[0]
    pick = _least_edges(level, candidates)
    return np.select([pick == k for k in range(1, len(candidates))], candidates[1:], candidates[0])


def _least_edges(level: NDArray[np.float32], candidates: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Which candidate [n, h, w] to take at each pixel, [h, w]: in a region where they differ, that with the fewest edges.

    Elsewhere the first. One choice for a whole region: a mouse's flat side has no edges of its own, its outline has.
    """
    values = [((level * inside).sum(axis=0) / inside.sum(axis=0)).astype(np.float32) for inside in candidates]
    # Below 40 a gradient is noise or texture, which is everywhere. Integers: their sums do not depend on the order.
    edges = [np.rint(np.maximum(_gradient(cv2.blur(value, (3, 3))) - 40, 0)).astype(np.int64) for value in values]
    differs = (np.max(values, axis=0) - np.min(values, axis=0) > 10).astype(np.uint8)
    # Dilated, so that the outline of what differs lies inside the region.
    regions = cv2.dilate(cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), disc(4))
    count, labels = cv2.connectedComponents(regions)
    sums = np.array([[edge[labels == region].sum() for edge in edges] for region in range(count)])
    best = np.argmin(sums, axis=1)
    best[0] = 0  # label 0 is everything outside the regions
    return best[labels]


def _held(ordered: NDArray[np.float32], width: NDArray[np.float32]) -> NDArray[np.int16]:
    """How many samples the window of a given width holds that begins at each sample; ordered [n, h, w], width [h, w]."""
    return np.stack(
        [(ordered <= start + width).sum(axis=0, dtype=np.int16) - np.int16(i) for i, start in enumerate(ordered)]
    )


def _fullest(
    ordered: NDArray[np.float32], held: NDArray[np.int16], width: NDArray[np.float32], side: int
) -> NDArray[np.float32]:
    """Lower end [h, w] of the window that holds the most samples; held: what `_held` counted.

    side +1 (-1): instead the brightest (darkest) window with at least 1 / SUPPORT of that many samples.
    """
    if side:
        # The outermost window with enough samples may only touch a peak: the fullest one within its width is the peak.
        enough = held * SUPPORT >= held.max(axis=0)
        edge = len(ordered) - 1 - np.argmax(enough[::-1], axis=0) if side > 0 else np.argmax(enough, axis=0)
        start = np.take_along_axis(ordered, edge[None], axis=0)[0]
        near = (
            (ordered >= start - width) & (ordered <= start)
            if side > 0
            else (ordered <= start + width) & (ordered >= start)
        )
        held = np.where(near, held, 0)
    return np.take_along_axis(ordered, np.argmax(held, axis=0)[None], axis=0)[0]


def learn_mouse(arena: Arena, small: list[Image], settings: Background) -> dict[str, NDArray[Any]]:
    """`colour` and `mouse` of an arena from frames [h, w, 3] Y Cr Cb; empty if no frame shows a mouse.

    In two rounds: what differs most is surely mouse, and with its colours known the rest of the mouse is found.
    """
    seeds = _colours(_seeds, arena, small, settings)
    if not seeds:
        return {}
    low, high = _luma_range(seeds)
    # Seeds are a part of the mouse: from them nothing follows about its size.
    learned = {"colour": _colour_density(seeds), "mouse": np.array([0.0, low, high], np.float32)}
    inside = _colours(_interior, {**arena, **learned}, small, settings)
    if not inside:
        return {}
    low, _ = _luma_range(inside)
    # The luma that shadows do not reach stays that of the seeds: bare skin would raise it here.
    area = np.median([len(values) for values in inside])
    return {
        "colour": _colour_density(inside),
        "mouse": np.array([area, low, learned["mouse"][2]], np.float32),
    }


def _colours(
    learn: Callable[[Detector, Image], NDArray[np.float32]], arena: Arena, small: list[Image], settings: Background
) -> list[NDArray[np.float32]]:
    """What `learn` finds in each frame that shows enough of the mouse: colours [n, 3]."""
    detector = Detector(arena, settings)
    return [values for ycc in small if len(values := learn(detector, ycc)) >= LEAST_PIXELS]


def _seeds(detector: Detector, ycc: Image) -> NDArray[np.float32]:
    """Colours [n, 3] where a frame differs most from the arena: mouse, when nothing is known of it yet.

    Shadows and reflections differ less, as a fraction of the light.
    """
    found = detector.find(ycc, shadows=False)
    if found is None or not found.mask.any():
        return np.empty((0, 3), np.float32)
    inside = cv2.erode(found.mask.astype(np.uint8), disc(1)) > 0
    arena, here = detector.level[found.box][..., 0][inside], found.value[..., 0][inside]
    if not here.size:
        return np.empty((0, 3), np.float32)
    if detector.settings.mouse == "any":
        darker = np.maximum(arena - here, 0).astype(np.int64).sum() > np.maximum(here - arena, 0).astype(np.int64).sum()
    else:
        darker = detector.settings.mouse == "dark"
    fraction = (arena - here if darker else here - arena) / np.maximum(np.maximum(arena, here), 1)
    return found.value[inside][fraction > 0.75 * np.percentile(fraction, 95)]


def _interior(detector: Detector, ycc: Image) -> NDArray[np.float32]:
    """Colours [n, 3] of the mouse in a frame, without its outermost pixels, which are part arena."""
    found = detector.find(ycc)
    return found.value[cv2.erode(found.mask.astype(np.uint8), disc(1)) > 0] if found else np.empty((0, 3), np.float32)


def _colour_density(found: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Log density of the mouse's colour over Y Cr Cb, from its colours [n, 3] in each frame."""
    bins = colour_bins(np.concatenate(found))
    histogram = np.bincount(bins, minlength=COLOUR_BINS**3).reshape((COLOUR_BINS,) * 3).astype(np.float64)
    density = gaussian_filter(histogram, 1.0) / (histogram.sum() * 8 * 4 * 4)  # a bin's volume is 8 x 4 x 4 levels
    # A uniform share over all colours: one that was never seen is unlikely, not impossible.
    return np.log((1 - ODD_COLOURS) * density + ODD_COLOURS / (256 * 64 * 64)).astype(np.float32)


def _luma_range(found: list[NDArray[np.float32]]) -> tuple[float, float]:
    """The mouse's low and high luma: medians over the frames of the 5 % and 90 % percentiles."""
    low, high = (np.median([np.percentile(values[:, 0], q) for values in found]) for q in (5, 90))
    return float(low), float(high)


def _gradient(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hypot(cv2.Sobel(value, cv2.CV_32F, 1, 0), cv2.Sobel(value, cv2.CV_32F, 0, 1))
