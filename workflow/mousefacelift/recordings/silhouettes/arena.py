"""The empty arena of one camera's view, and the colours of the mouse in it, estimated from the recording itself."""

from collections.abc import Iterable
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
)  # fmt: skip
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image

# A candidate for the empty arena (see estimate_background) is this many times as rare as the most frequent value, at most.
SUPPORT = 3
ODD_COLOURS = 0.02  # share of the mouse whose colour was never seen before


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
    factor = shrink_factor(frames[0].shape[1], settings)
    small = [to_ycc(shrink(frame, factor)) for frame in frames]
    luma = np.stack([ycc[..., 0] for ycc in small])
    middle = np.median(luma, axis=0).astype(np.uint8)
    gains = [relative_gain(y, middle) for y in luma]
    level = (luma / np.array(gains, np.float32)[:, None, None]).astype(np.float32)
    shows = _frames_of_the_arena(level, middle, settings.mouse)

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
    model: dict[str, NDArray[Any]] = {
        "background": np.clip(np.rint(total / count[..., None]), 0, 255).astype(np.uint8),
        "level": mean,
        "noise": np.dstack([deviation[..., 0], deviation[..., 1:].max(axis=-1)]),
    }
    for learn in (_seeds, _interior):
        view = Detector(model, settings)
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
    regions = cv2.dilate(cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), disc(4))
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


def _seeds(view: "Detector", ycc: Image) -> NDArray[np.float32]:
    """Colours [n, 3] where a frame differs most from the arena: mouse, when nothing is known of it yet.

    Shadows and reflections differ less, as a fraction of the light.
    """
    found = view.find(ycc, shadows=False)
    if found is None or not found.mask.any():
        return np.empty((0, 3), np.float32)
    inside = cv2.erode(found.mask.astype(np.uint8), disc(1)) > 0
    arena, here = view.level[found.box][..., 0][inside], found.value[..., 0][inside]
    if not here.size:
        return np.empty((0, 3), np.float32)
    if view.settings.mouse == "any":
        darker = np.maximum(arena - here, 0).astype(np.int64).sum() > np.maximum(here - arena, 0).astype(np.int64).sum()
    else:
        darker = view.settings.mouse == "dark"
    fraction = (arena - here if darker else here - arena) / np.maximum(np.maximum(arena, here), 1)
    return found.value[inside][fraction > 0.75 * np.percentile(fraction, 95)]


def _interior(view: "Detector", ycc: Image) -> NDArray[np.float32]:
    """Colours [n, 3] of the mouse in a frame, without its outermost pixels."""
    found = view.find(ycc)
    return found.value[cv2.erode(found.mask.astype(np.uint8), disc(1)) > 0] if found else np.empty((0, 3), np.float32)


def _mouse(seeds: bool, found: list[NDArray[np.float32]], model: Arena) -> dict[str, NDArray[Any]]:
    """`colour` and `mouse` of a model from the mouse's colours in each frame."""
    bins = colour_bins(np.concatenate(found))
    histogram = np.bincount(bins, minlength=COLOUR_BINS**3).reshape((COLOUR_BINS,) * 3).astype(np.float64)
    density = gaussian_filter(histogram, 1.0) / (histogram.sum() * 8 * 4 * 4)
    colour = np.log((1 - ODD_COLOURS) * density + ODD_COLOURS / (256 * 64 * 64))
    low, high = (np.median([np.percentile(values[:, 0], q) for values in found]) for q in (5, 90))
    # The luma that shadows do not reach is that of the seeds: in later rounds bare skin would raise it.
    high = high if seeds else model["mouse"][2]
    # Seeds are a part of the mouse: from them nothing follows about its size.
    area = 0.0 if seeds else np.median([len(values) for values in found])
    return {"colour": colour.astype(np.float32), "mouse": np.array([area, low, high], np.float32)}


def _gradient(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hypot(cv2.Sobel(value, cv2.CV_32F, 1, 0), cv2.Sobel(value, cv2.CV_32F, 0, 1))
