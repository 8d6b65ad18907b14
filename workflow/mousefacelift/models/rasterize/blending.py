"""Blending the splats of a tile's pixels front to back, and its analytic gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from mousefacelift.models.rasterize.compiled import jit, pixel_jit, prefetch
from mousefacelift.models.rasterize.constants import (
    AHEAD,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    STEP,
    TILE_HEIGHT,
    TILE_PIXELS,
    TILE_WIDTH,
)

CHANNELS = 7
X, Y, CLEAR, RED, GREEN, BLUE, BEHIND = (np.uint64(channel * TILE_PIXELS) for channel in range(CHANNELS))
"""Where the channels of a tile's pixels begin: the pixel's centre in the tile; its transmittance, negated once the pixel
is finished; its colour, or dL/drgb in the backward pass; and, in the backward pass, what is still behind: dL/drgb times
the colour that later splats and the background add, minus dL/dalpha times the final transmittance.

They share one array at constant distances, which lets the compiler vectorise the blending loops without checking first
whether channels overlap.
"""

CHECK_EVERY = 16
"""Gaussians blended between two checks of whether a tile is finished."""


def _exp(x: float) -> float:
    """The exponential of x <= 0; in float32 a polynomial whose relative error is below 4e-7 down to -60.

    math.exp is a call that does not vectorise. Measured on the benchmark's scenes, on one thread: with it both passes
    take 1.4 to 2.7 times as long, and a training step of preset tiny at 128 px 1.35 times. Other numerics would change
    every trained weight.
    """
    raise NotImplementedError


@overload(_exp, jit_options={"fastmath": {"contract"}})
def _exp_overload(x: Any) -> Callable[[Any], Any]:
    def exp_float64(x: Any) -> Any:
        return math.exp(x)

    lowest, half, one, ln_2, log2_e = (np.float32(value) for value in (-60, 0.5, 1, math.log(2), 1 / math.log(2)))
    c2, c3, c4, c5, c6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))

    # e^x = 2^power e^r with r in about +-ln(2) / 2: a Taylor series of e^r, and 2^power from the bits of its exponent.
    def exp_float32(x: Any) -> Any:
        x = max(x, lowest)
        power = np.int32(x * log2_e - half)
        r = x - np.float32(power) * ln_2
        series = one + r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * c6)))))
        return series * np.int32((power + 127) << 23).view(np.float32)

    return exp_float32 if x == numba.float32 else exp_float64


@jit
def _tile_frame(tile: int, tiles_x: int, tiles: int, width: int, height: int) -> Any:
    """View, first column and row of a tile, and how many of its columns and rows lie in the image."""
    view, tile = divmod(tile, tiles)
    ty, tx = divmod(tile, tiles_x)
    left, top = tx * TILE_WIDTH, ty * TILE_HEIGHT
    return view, left, top, min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)


@jit
def _new_tile(dtype: Any) -> Any:
    """A tile whose X and Y hold its pixels' centres; the other channels are filled per tile."""
    tile = np.zeros(CHANNELS * TILE_PIXELS, dtype)
    for pixel in range(TILE_PIXELS):
        tile[X + pixel] = pixel % TILE_WIDTH + 0.5
        tile[Y + pixel] = pixel // TILE_WIDTH + 0.5
    return tile


@pixel_jit
def _finished(tile: Any) -> bool:
    """Whether every pixel of a tile is finished."""
    open_pixels = 0
    for i in range(TILE_PIXELS):
        open_pixels += tile[CLEAR + i] > 0
    return open_pixels == 0


@pixel_jit(inline="always")
def _blend(start: int, stop: int, splat: Any, dx0: Any, dy0: Any, tile: Any) -> None:
    """Add one splat, its centre relative to the tile, to a run of pixels."""
    real = tile.dtype.type
    a, shear, d, opacity = real(-0.5) * splat[2], splat[3], real(-0.5) * splat[4], splat[5]
    r, g, b = splat[7], splat[8], splat[9]
    zero, one, cap, least, last = real(0), real(1), real(MAX_ALPHA), real(MIN_ALPHA), real(MIN_TRANSMITTANCE)
    for i in range(np.uint64(start), np.uint64(stop)):
        dy = tile[Y + i] - dy0
        u = tile[X + i] - dx0 + shear * dy
        alpha = min(opacity * _exp(a * u * u + d * dy * dy), cap)
        alpha = alpha if alpha >= least else zero
        before = tile[CLEAR + i]
        after = before * (one - alpha)
        weight = before * alpha if after >= last else zero
        tile[CLEAR + i] = after if after >= last else -abs(before)
        tile[RED + i] += weight * r
        tile[GREEN + i] += weight * g
        tile[BLUE + i] += weight * b


@pixel_jit
def draw(start: int, stop: int, grid: Any, pairs: Any, splats: Any, background: float, image: Any) -> None:
    """Blend the splats of a range of tiles.

    Args:
        start: first tile.
        stop: past the last tile.
        grid: as `sort_and_bin` takes it.
        pairs: as `sort_and_bin` wrote them.
        splats: [V*N, SPLAT] as `project` wrote them.
        background: grey level behind the Gaussians.
        image: written; (rgb [V, H, W, 3] over the background, transmittance [V, H, W]).
    """
    tiles_x, tiles = grid
    tile_pairs, pair_rows, _, pair_spans = pairs
    rgb, transmittance = image
    height, width = transmittance.shape[1:]
    real = rgb.dtype.type
    tile = _new_tile(rgb.dtype)
    for index in range(start, stop):
        view, left, top, columns, rows = _tile_frame(index, tiles_x, tiles, width, height)
        tile[CLEAR : CLEAR + TILE_PIXELS] = 1
        tile[RED : BLUE + TILE_PIXELS] = 0
        first, last = tile_pairs[index]
        for pair in range(first, last):
            prefetch(splats, pair_rows[min(pair + AHEAD, last - 1)])
            splat = splats[pair_rows[pair]]
            dx, dy = real(splat[0] - left), real(splat[1] - top)
            p, q = pair_spans[pair, 0] * STEP, pair_spans[pair, 1] * STEP
            _blend(p, q, splat, dx, dy, tile)
            if (pair - first) % CHECK_EVERY == CHECK_EVERY - 1 and _finished(tile):
                break
        for y in range(rows):
            for x in range(columns):
                i = y * TILE_WIDTH + x
                rest = abs(tile[CLEAR + i])
                transmittance[view, top + y, left + x] = rest
                rgb[view, top + y, left + x, 0] = tile[RED + i] + rest * background
                rgb[view, top + y, left + x, 1] = tile[GREEN + i] + rest * background
                rgb[view, top + y, left + x, 2] = tile[BLUE + i] + rest * background


@pixel_jit(inline="always")
def _blend_back(start: int, stop: int, splat: Any, dx0: Any, dy0: Any, tile: Any, out: Any) -> None:
    """Repeat `_blend` and write the pair's gradient to out [9]; the tile's colours are the pixels' dL/drgb."""
    real = tile.dtype.type
    a, shear, d, opacity = real(-0.5) * splat[2], splat[3], real(-0.5) * splat[4], splat[5]
    r, g, b = splat[7], splat[8], splat[9]
    zero, one, cap, least, last = real(0), real(1), real(MAX_ALPHA), real(MIN_ALPHA), real(MIN_TRANSMITTANCE)
    sum_r = sum_g = sum_b = sum_h = sum_x = sum_y = sum_xx = sum_xy = sum_yy = zero
    for i in range(np.uint64(start), np.uint64(stop)):
        dx, dy = tile[X + i] - dx0, tile[Y + i] - dy0
        u = dx + shear * dy
        unclamped = opacity * _exp(a * u * u + d * dy * dy)
        alpha = min(unclamped, cap)
        alpha = alpha if alpha >= least else zero
        before = tile[CLEAR + i]
        after = before * (one - alpha)
        weight = before * alpha if after >= last else zero
        tile[CLEAR + i] = after if after >= last else -abs(before)
        red, green, blue = tile[RED + i], tile[GREEN + i], tile[BLUE + i]
        shade = r * red + g * green + b * blue
        behind = tile[BEHIND + i] - weight * shade
        tile[BEHIND + i] = behind
        h = weight * shade - alpha * behind / (one - alpha)
        h = h if after >= last and unclamped <= cap else zero
        sum_r += weight * red
        sum_g += weight * green
        sum_b += weight * blue
        sum_h += h
        sum_x += h * dx
        sum_y += h * dy
        sum_xx += h * dx * dx
        sum_xy += h * dx * dy
        sum_yy += h * dy * dy
    out[0], out[1], out[2] = sum_r, sum_g, sum_b
    out[3], out[4], out[5], out[6], out[7], out[8] = sum_h, sum_x, sum_y, sum_xx, sum_xy, sum_yy


@pixel_jit
def draw_back(
    start: int, stop: int, grid: Any, pairs: Any, splats: Any, image: Any, upstream: Any, pair_gradients: Any
) -> None:
    """Gradients of the pairs in a range of tiles.

    Args:
        start: first tile.
        stop: past the last tile.
        grid: as `sort_and_bin` takes it.
        pairs: as `sort_and_bin` wrote them.
        splats: [V*N, SPLAT] as `project` wrote them.
        image: (rgb, transmittance) as `draw` wrote them.
        upstream: (dL/drgb [V, H, W, 3], dL/dalpha [V, H, W]).
        pair_gradients: [slots, PAIR_GRADIENT] written, by slot; pairs behind a finished tile keep their zeros.
    """
    tiles_x, tiles = grid
    tile_pairs, pair_rows, pair_slots, pair_spans = pairs
    rgb, transmittance = image
    grad_rgb, grad_alpha = upstream
    height, width = transmittance.shape[1:]
    real = rgb.dtype.type
    tile = _new_tile(rgb.dtype)
    for index in range(start, stop):
        view, left, top, columns, rows = _tile_frame(index, tiles_x, tiles, width, height)
        tile[CLEAR : CLEAR + TILE_PIXELS] = 1
        tile[RED : BEHIND + TILE_PIXELS] = 0
        # Pixels of the tile beyond the image keep a gradient of 0.
        for y in range(rows):
            for x in range(columns):
                i = y * TILE_WIDTH + x
                red, green, blue = grad_rgb[view, top + y, left + x]
                r, g, b = rgb[view, top + y, left + x]
                lost = transmittance[view, top + y, left + x] * grad_alpha[view, top + y, left + x]
                tile[RED + i], tile[GREEN + i], tile[BLUE + i] = red, green, blue
                tile[BEHIND + i] = r * red + g * green + b * blue - lost
        # Front to back again: with the final image known, what lies behind a splat is what is left of it.
        first, last = tile_pairs[index]
        for pair in range(first, last):
            prefetch(pair_gradients, pair_slots[min(pair + AHEAD, last - 1)])
            prefetch(splats, pair_rows[min(pair + AHEAD, last - 1)])
            splat = splats[pair_rows[pair]]
            dx, dy = real(splat[0] - left), real(splat[1] - top)
            p, q = pair_spans[pair, 0] * STEP, pair_spans[pair, 1] * STEP
            _blend_back(p, q, splat, dx, dy, tile, pair_gradients[pair_slots[pair]])
            if (pair - first) % CHECK_EVERY == CHECK_EVERY - 1 and _finished(tile):
                break
