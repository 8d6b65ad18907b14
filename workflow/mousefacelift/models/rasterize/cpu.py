"""The CPU rasteriser: Gaussians projected, binned into tiles, sorted by depth and blended, with an analytic backward.

The model is in `rasterize`, the plain version in `rasterize_reference`. A row is one Gaussian in one view (row = view * N
+ Gaussian), a slot one row in one tile of its bounding rectangle, and a pair a slot whose tile it really touches. All
views of a call are drawn together, in stages of compiled functions that hold no GIL:

    project       Gaussians  their splats, depths and rectangles in every view
    outline       rows       the pixels of every slot
    sort_and_bin  views      the pairs of every tile, front to back
    draw          tiles      image
    draw_back     tiles      gradient of every pair      (backward)
    project_back  Gaussians  gradient of every Gaussian  (backward)

Every value is written by one owner and every sum runs in a fixed order (gradients of pairs are stored, then added up by
Gaussian), so that results are the same bit for bit on any number of threads.

Memory in bytes, for items of 4 (float32) or 8 (float64) bytes: 11 items + 28 per row, 12 per slot, and for the backward
9 items more per slot. A Gaussian 1 px wide has 1 or 2 slots per view, one that covers the image has them all.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from torch import Tensor
from torch.autograd.function import once_differentiable

NEAR_PLANE = 0.2
"""Gaussians whose camera z is not beyond this (world units) are not drawn."""

LOW_PASS = 0.3
"""Added to the diagonal of the projected covariance (px^2), without compensating the opacity."""

CLAMP_MARGIN = 0.15
"""Where the linearisation of the perspective stops following a centre: this part of the image's side beyond it."""

MAX_ALPHA = 0.99
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4

TILE_WIDTH = 8
TILE_HEIGHT = 16
TILE_PIXELS = TILE_WIDTH * TILE_HEIGHT

CHANNELS = 7
X, Y, CLEAR, RED, GREEN, BLUE, BEHIND = (np.uint64(channel * TILE_PIXELS) for channel in range(CHANNELS))
"""Where the channels of a tile's pixels begin: the pixel's centre in the tile; its transmittance, negated once the pixel
is finished; its colour, or dL/drgb in the backward; and, in the backward, what is still behind: dL/drgb times the colour
that later splats and the background add, minus dL/dalpha times the final transmittance.

They share one array at constant distances, which lets the compiler vectorise the blending loops without checking first
whether channels overlap.
"""

STEP = 16
"""Pixels of a tile are blended in runs of a multiple of this, one vector of float32 at a time."""

CHECK_EVERY = 16
"""Gaussians blended between two checks of whether a tile is finished."""

AHEAD = 6
"""How many Gaussians ahead of its use a row of memory is fetched."""

SPLAT = 10
"""Columns of a splat: centre x, y; precision a, shear, d; opacity; half height; red, green, blue.

With dx, dy the offset of a pixel from the centre, its squared Mahalanobis distance is a (dx + shear dy)^2 + d dy^2,
which rounding cannot make negative. The half height bounds the rows where alpha reaches 1/255.
"""

PAIR_GRADIENT = 9
"""Columns of a pair's gradient: red, green, blue; then sums over the pixels of h, h dx, h dy, h dx^2, h dx dy, h dy^2,
where h = alpha dL/dalpha, from which the gradients of opacity, centre and covariance follow."""

jit = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")
pixel_jit = functools.partial(jit, fastmath={"reassoc", "contract", "nsz", "arcp"})
"""Rounding may differ from the plain order of operations; it is still the same in every run."""


def _exp(x: float) -> float:
    """The exponential of x <= 0; in float32 a polynomial that vectorises, its relative error below 4e-7 down to -60."""
    raise NotImplementedError


@overload(_exp, jit_options={"fastmath": {"contract"}})
def _exp_overload(x: Any) -> Callable[[Any], Any]:
    def exp_float64(x: Any) -> Any:
        return math.exp(x)

    lowest, half, one, ln_2, log2_e = (np.float32(value) for value in (-60, 0.5, 1, math.log(2), 1 / math.log(2)))
    c2, c3, c4, c5, c6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))

    def exp_float32(x: Any) -> Any:
        x = max(x, lowest)
        power = np.int32(x * log2_e - half)
        r = x - np.float32(power) * ln_2
        series = one + r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * c6)))))
        return series * np.int32((power + 127) << 23).view(np.float32)

    return exp_float32 if x == numba.float32 else exp_float64


@intrinsic
def _prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Bring a row of a C-contiguous array into the cache ahead of its use: splats are visited in no order of memory."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0])
        row_bytes = builder.extract_value(data.strides, 0)
        byte, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.gep(builder.bitcast(data.data, byte), [builder.mul(row_bytes, arguments[1])])
        function_type = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0i8")
        read, keep, is_data = ir.Constant(int32, 0), ir.Constant(int32, 3), ir.Constant(int32, 1)
        # A row of 9 or 10 float32 may begin in one 64-byte line and end in the next.
        for offset in (0, 32):
            place = builder.gep(address, [ir.Constant(ir.IntType(64), offset)])
            builder.call(function, [place, read, keep, is_data])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@jit
def _rotation(quat: Any) -> Any:
    """Rows of the rotation of a quaternion wxyz of any length, and its unit quaternion and length."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    length = max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return rows, (w, x, y, z), length


@jit
def _covariance(rows: Any, scale: Any) -> Any:
    """xx, xy, xz, yy, yz, zz of R diag(scale^2) R^T."""
    s0, s1, s2 = float(scale[0]) ** 2, float(scale[1]) ** 2, float(scale[2]) ** 2
    (a0, a1, a2), (b0, b1, b2), (c0, c1, c2) = rows
    return (
        a0 * a0 * s0 + a1 * a1 * s1 + a2 * a2 * s2,
        a0 * b0 * s0 + a1 * b1 * s1 + a2 * b2 * s2,
        a0 * c0 * s0 + a1 * c1 * s1 + a2 * c2 * s2,
        b0 * b0 * s0 + b1 * b1 * s1 + b2 * b2 * s2,
        b0 * c0 * s0 + b1 * c1 * s1 + b2 * c2 * s2,
        c0 * c0 * s0 + c1 * c1 * s1 + c2 * c2 * s2,
    )


@jit
def _to_camera(mean: Any, pose: Any) -> Any:
    x, y, z = float(mean[0]), float(mean[1]), float(mean[2])
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3],
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3],
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3],
    )


@jit
def _clamped_slope(x: float, z: float, focal: float, center: float, side: float) -> Any:
    """The slope x / z, held within the image and a margin beyond it, and whether it was held."""
    slope, margin = x / z, CLAMP_MARGIN * side
    lowest, highest = (-center - margin) / focal, (side - center + margin) / focal
    return min(max(slope, lowest), highest), slope < lowest or slope > highest


@jit
def _linear_map(slope_x: float, slope_y: float, z: float, fx: float, fy: float, pose: Any) -> Any:
    """Rows of J R, the projection linearised about a centre: from world offsets to pixels."""
    kx, ky = fx / z, fy / z
    return (
        (
            kx * (pose[0, 0] - slope_x * pose[2, 0]),
            kx * (pose[0, 1] - slope_x * pose[2, 1]),
            kx * (pose[0, 2] - slope_x * pose[2, 2]),
        ),
        (
            ky * (pose[1, 0] - slope_y * pose[2, 0]),
            ky * (pose[1, 1] - slope_y * pose[2, 1]),
            ky * (pose[1, 2] - slope_y * pose[2, 2]),
        ),
    )


@jit
def _times_covariance(row: Any, covariance: Any) -> Any:
    xx, xy, xz, yy, yz, zz = covariance
    a, b, c = row
    return a * xx + b * xy + c * xz, a * xy + b * yy + c * yz, a * xz + b * yz + c * zz


@jit
def _dot(a: Any, b: Any) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def project(
    start: int,
    stop: int,
    means: Any,
    quats: Any,
    scales: Any,
    opacities: Any,
    colors: Any,
    w2c: Any,
    fxfycxcy: Any,
    width: int,
    height: int,
    splats: Any,
    depths: Any,
    rectangles: Any,
    tile_counts: Any,
) -> None:
    """Splats, camera z, tile rectangles (first and past-last column and row) and their areas, of a range of Gaussians.

    An area of 0 marks a row that is not drawn: behind the near plane, outside the image, nowhere 1/255 opaque, or
    degenerate (not finite).
    """
    count = len(means)
    for gaussian in range(start, stop):
        opacity = float(opacities[gaussian])
        for view in range(len(w2c)):
            tile_counts[view * count + gaussian] = 0
        if not opacity >= MIN_ALPHA:
            continue
        support = 2 * math.log(opacity / MIN_ALPHA)
        rows, _, _ = _rotation(quats[gaussian])
        covariance = _covariance(rows, scales[gaussian])
        for view in range(len(w2c)):
            row = view * count + gaussian
            pose = w2c[view]
            x, y, z = _to_camera(means[gaussian], pose)
            if not z > NEAR_PLANE:
                continue
            fx, fy, cx, cy = fxfycxcy[view, 0], fxfycxcy[view, 1], fxfycxcy[view, 2], fxfycxcy[view, 3]
            slope_x, _ = _clamped_slope(x, z, fx, cx, width)
            slope_y, _ = _clamped_slope(y, z, fy, cy, height)
            map_x, map_y = _linear_map(slope_x, slope_y, z, fx, fy, pose)
            covariance_x = _times_covariance(map_x, covariance)
            var_x = _dot(covariance_x, map_x) + LOW_PASS
            var_xy = _dot(covariance_x, map_y)
            var_y = _dot(_times_covariance(map_y, covariance), map_y) + LOW_PASS
            determinant = var_x * var_y - var_xy * var_xy
            if not (determinant > 0 and determinant < math.inf):
                continue
            center_x, center_y = fx * x / z + cx, fy * y / z + cy
            # Padded so that rounding never drops a pixel that reaches 1/255.
            half_width = math.sqrt(support * var_x) * (1 + 1e-5) + 0.01
            half_height = math.sqrt(support * var_y) * (1 + 1e-5) + 0.01
            left, right = center_x - half_width, center_x + half_width
            top, bottom = center_y - half_height, center_y + half_height
            if not (right > 0 and left < width and bottom > 0 and top < height):
                continue
            splat = splats[row]
            splat[0], splat[1] = center_x, center_y
            splat[2], splat[3], splat[4] = var_y / determinant, -var_xy / var_y, 1 / var_y
            splat[5], splat[6] = opacity, half_height
            splat[7], splat[8], splat[9] = colors[gaussian, 0], colors[gaussian, 1], colors[gaussian, 2]
            depths[row] = z
            rectangle = rectangles[row]
            rectangle[0] = int(max(left, 0.0)) // TILE_WIDTH
            rectangle[1] = (math.ceil(min(right, float(width))) + TILE_WIDTH - 1) // TILE_WIDTH
            rectangle[2] = int(max(top, 0.0)) // TILE_HEIGHT
            rectangle[3] = (math.ceil(min(bottom, float(height))) + TILE_HEIGHT - 1) // TILE_HEIGHT
            tile_counts[row] = (rectangle[1] - rectangle[0]) * (rectangle[3] - rectangle[2])


@jit
def outline(start: int, stop: int, splats: Any, rectangles: Any, row_slots: Any, height: int, slot_spans: Any) -> None:
    """First and past-last step of every slot of a range of rows, 0 and 0 where alpha stays below 1/255.

    Within a column of tiles the ellipse alpha = 1/255 is cut at the column's first and last pixel.
    """
    for row in range(start, stop):
        if row_slots[row] == row_slots[row + 1]:
            continue
        splat, (left, right, top, bottom) = splats[row], rectangles[row]
        a, shear, d, half_height = float(splat[2]), float(splat[3]), float(splat[4]), float(splat[6])
        # At offset x from the centre the ellipse spans slope * x +- sqrt(reach - bend * x^2); its top is at x = lean.
        c = d + a * shear * shear
        slope, lean, reach, bend = -a * shear / c, -shear * half_height, half_height**2 * d / c, a * d / (c * c)
        for tx in range(left, right):
            first_x = tx * TILE_WIDTH + 0.5 - splat[0]
            last_x = first_x + (TILE_WIDTH - 1)
            low_x, high_x = min(max(-lean, first_x), last_x), min(max(lean, first_x), last_x)
            low = splat[1] + slope * low_x - math.sqrt(max(reach - bend * low_x * low_x, 0.0))
            high = splat[1] + slope * high_x + math.sqrt(max(reach - bend * high_x * high_x, 0.0))
            first_y = int(min(max(low + 0.5, 0.0), float(height)))
            last_y = int(min(max(high + 0.5, 0.0), float(height)))
            for ty in range(top, bottom):
                span = slot_spans[row_slots[row] + (ty - top) * (right - left) + tx - left]
                first = max(first_y - ty * TILE_HEIGHT, 0) * TILE_WIDTH
                last = min(last_y - ty * TILE_HEIGHT, TILE_HEIGHT) * TILE_WIDTH
                span[0] = first // STEP if first < last else 0
                span[1] = (last + STEP - 1) // STEP if first < last else 0


@jit
def _sorted_rows(first_row: int, keys: Any, row_slots: Any) -> Any:
    """The drawn rows of one view by increasing key, equal keys by row: a radix sort, 11 bits at a time."""
    drawn = 0
    for row in range(first_row, first_row + len(keys)):
        drawn += row_slots[row] < row_slots[row + 1]
    sorted_keys, spare_keys = np.empty(drawn, keys.dtype), np.empty(drawn, keys.dtype)
    rows, spare_rows = np.empty(drawn, np.int32), np.empty(drawn, np.int32)
    drawn = 0
    for i in range(len(keys)):
        if row_slots[first_row + i] < row_slots[first_row + i + 1]:
            sorted_keys[drawn], rows[drawn] = keys[i], first_row + i
            drawn += 1
    places = np.empty(2048, np.int64)
    for shift in range(0, 8 * keys.itemsize, 11):
        places[:] = 0
        for i in range(drawn):
            places[(sorted_keys[i] >> shift) & 2047] += 1
        place = 0
        for digit in range(2048):
            place, places[digit] = place + places[digit], place
        for i in range(drawn):
            digit = (sorted_keys[i] >> shift) & 2047
            place = places[digit]
            places[digit] = place + 1
            spare_keys[place], spare_rows[place] = sorted_keys[i], rows[i]
        sorted_keys, spare_keys = spare_keys, sorted_keys
        rows, spare_rows = spare_rows, rows
    return rows


@jit
def sort_and_bin(
    start: int,
    stop: int,
    keys: Any,
    rectangles: Any,
    row_slots: Any,
    slot_spans: Any,
    tiles_x: int,
    tiles: int,
    tile_pairs: Any,
    pair_rows: Any,
    pair_slots: Any,
    pair_spans: Any,
) -> None:
    """The pairs of every tile of a range of views, front to back: row, slot and span of each.

    keys [V, N]: the camera z as unsigned integers, whose order is that of positive floats. The tiles of view v are
    v * tiles + ty * tiles_x + tx; the pairs of tile t are tile_pairs[t, 0] to tile_pairs[t, 1].
    """
    count = keys.shape[1]
    for view in range(start, stop):
        first_row, ranges = view * count, tile_pairs[view * tiles : (view + 1) * tiles]
        rows = _sorted_rows(first_row, keys[view], row_slots)
        ranges[:] = 0
        for row in range(first_row, first_row + count):
            slot = row_slots[row]
            if slot == row_slots[row + 1]:
                continue
            left, right, top, bottom = rectangles[row]
            for ty in range(top, bottom):
                for tx in range(left, right):
                    ranges[ty * tiles_x + tx, 1] += slot_spans[slot, 1] > 0
                    slot += 1
        place = row_slots[first_row]
        for tile in range(tiles):
            ranges[tile, 0], place = place, place + ranges[tile, 1]
            ranges[tile, 1] = ranges[tile, 0]
        for i in range(len(rows)):
            ahead = rows[min(i + AHEAD, len(rows) - 1)]
            _prefetch(rectangles, ahead)
            _prefetch(slot_spans, row_slots[ahead])
            row = rows[i]
            left, right, top, bottom = rectangles[row]
            slot = row_slots[row]
            for ty in range(top, bottom):
                for tx in range(left, right):
                    if slot_spans[slot, 1] > 0:
                        place = ranges[ty * tiles_x + tx, 1]
                        ranges[ty * tiles_x + tx, 1] = place + 1
                        pair_rows[place], pair_slots[place] = row, slot
                        pair_spans[place, 0], pair_spans[place, 1] = slot_spans[slot, 0], slot_spans[slot, 1]
                    slot += 1


@jit
def _tile_frame(tile: int, tiles_x: int, tiles: int, width: int, height: int) -> Any:
    """View, first column and row of a tile, and how many of its columns and rows lie in the image."""
    view, tile = divmod(tile, tiles)
    ty, tx = divmod(tile, tiles_x)
    left, top = tx * TILE_WIDTH, ty * TILE_HEIGHT
    return view, left, top, min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)


@jit
def _new_tile(dtype: Any) -> Any:
    tile = np.zeros(CHANNELS * TILE_PIXELS, dtype)
    for pixel in range(TILE_PIXELS):
        tile[X + pixel] = pixel % TILE_WIDTH + 0.5
        tile[Y + pixel] = pixel // TILE_WIDTH + 0.5
    return tile


@pixel_jit
def _finished(tile: Any) -> bool:
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
def draw(
    start: int,
    stop: int,
    tiles_x: int,
    tiles: int,
    tile_pairs: Any,
    pair_rows: Any,
    pair_spans: Any,
    splats: Any,
    background: float,
    rgb: Any,
    transmittance: Any,
) -> None:
    """Blend a range of tiles into rgb [V, H, W, 3] and transmittance [V, H, W]."""
    height, width = transmittance.shape[1:]
    real = rgb.dtype.type
    tile = _new_tile(rgb.dtype)
    for index in range(start, stop):
        view, left, top, columns, rows = _tile_frame(index, tiles_x, tiles, width, height)
        tile[CLEAR : CLEAR + TILE_PIXELS] = 1
        tile[RED : BLUE + TILE_PIXELS] = 0
        first, last = tile_pairs[index]
        for pair in range(first, last):
            _prefetch(splats, pair_rows[min(pair + AHEAD, last - 1)])
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
    start: int,
    stop: int,
    tiles_x: int,
    tiles: int,
    tile_pairs: Any,
    pair_rows: Any,
    pair_slots: Any,
    pair_spans: Any,
    splats: Any,
    rgb: Any,
    transmittance: Any,
    grad_rgb: Any,
    grad_alpha: Any,
    pair_gradients: Any,
) -> None:
    """pair_gradients [P, 9] of the pairs in a range of tiles, by slot, from dL/drgb and dL/dalpha of the image."""
    height, width = transmittance.shape[1:]
    real = rgb.dtype.type
    tile = _new_tile(rgb.dtype)
    for index in range(start, stop):
        view, left, top, columns, rows = _tile_frame(index, tiles_x, tiles, width, height)
        tile[CLEAR : CLEAR + TILE_PIXELS] = 1
        tile[RED : BEHIND + TILE_PIXELS] = 0
        for y in range(rows):
            for x in range(columns):
                i = y * TILE_WIDTH + x
                red, green, blue = grad_rgb[view, top + y, left + x]
                r, g, b = rgb[view, top + y, left + x]
                lost = transmittance[view, top + y, left + x] * grad_alpha[view, top + y, left + x]
                tile[RED + i], tile[GREEN + i], tile[BLUE + i] = red, green, blue
                tile[BEHIND + i] = r * red + g * green + b * blue - lost
        first, last = tile_pairs[index]
        for pair in range(first, last):
            _prefetch(pair_gradients, pair_slots[min(pair + AHEAD, last - 1)])
            _prefetch(splats, pair_rows[min(pair + AHEAD, last - 1)])
            splat = splats[pair_rows[pair]]
            dx, dy = real(splat[0] - left), real(splat[1] - top)
            p, q = pair_spans[pair, 0] * STEP, pair_spans[pair, 1] * STEP
            _blend_back(p, q, splat, dx, dy, tile, pair_gradients[pair_slots[pair]])
            if (pair - first) % CHECK_EVERY == CHECK_EVERY - 1 and _finished(tile):
                break


@jit
def _sum_pairs(first: int, last: int, pair_gradients: Any) -> Any:
    r = g = b = h = hx = hy = hxx = hxy = hyy = 0.0
    for slot in range(first, last):
        pair = pair_gradients[slot]
        r, g, b = r + pair[0], g + pair[1], b + pair[2]
        h, hx, hy = h + pair[3], hx + pair[4], hy + pair[5]
        hxx, hxy, hyy = hxx + pair[6], hxy + pair[7], hyy + pair[8]
    return r, g, b, h, hx, hy, hxx, hxy, hyy


@jit
def project_back(
    start: int,
    stop: int,
    means: Any,
    quats: Any,
    scales: Any,
    w2c: Any,
    fxfycxcy: Any,
    width: int,
    height: int,
    splats: Any,
    row_slots: Any,
    pair_gradients: Any,
    grad_means: Any,
    grad_quats: Any,
    grad_scales: Any,
    grad_opacities: Any,
    grad_colors: Any,
) -> None:
    """Add to the gradients of a range of Gaussians those of their pairs, through the covariances and the projection."""
    count = len(means)
    grad_axes = np.empty((3, 3))
    for gaussian in range(start, stop):
        drawn = False
        for view in range(len(w2c)):
            drawn |= row_slots[view * count + gaussian] < row_slots[view * count + gaussian + 1]
        if not drawn:
            continue
        rotation, unit, length = _rotation(quats[gaussian])
        covariance = _covariance(rotation, scales[gaussian])
        mean_x = mean_y = mean_z = red = green = blue = grad_opacity = 0.0
        grad_xx = grad_xy = grad_xz = grad_yy = grad_yz = grad_zz = 0.0
        for view in range(len(w2c)):
            row = view * count + gaussian
            if row_slots[row] == row_slots[row + 1]:
                continue
            r, g, b, h, hx, hy, hxx, hxy, hyy = _sum_pairs(row_slots[row], row_slots[row + 1], pair_gradients)
            red, green, blue = red + r, green + g, blue + b
            splat = splats[row]
            grad_opacity += h / splat[5]

            # The precision [[p, q], [q, s]] turns the moments of h into gradients of centre and covariance.
            p = float(splat[2])
            q = p * splat[3]
            s = q * splat[3] + splat[4]
            center_x, center_y = p * hx + q * hy, q * hx + s * hy
            px, py = p * hxx + q * hxy, p * hxy + q * hyy
            qx, qy = q * hxx + s * hxy, q * hxy + s * hyy
            var_x, var_xy, var_y = 0.5 * (px * p + py * q), 0.5 * (px * q + py * s), 0.5 * (qx * q + qy * s)

            pose = w2c[view]
            x, y, z = _to_camera(means[gaussian], pose)
            fx, fy, cx, cy = fxfycxcy[view, 0], fxfycxcy[view, 1], fxfycxcy[view, 2], fxfycxcy[view, 3]
            slope_x, held_x = _clamped_slope(x, z, fx, cx, width)
            slope_y, held_y = _clamped_slope(y, z, fy, cy, height)
            map_x, map_y = _linear_map(slope_x, slope_y, z, fx, fy, pose)
            u0, u1, u2 = map_x
            v0, v1, v2 = map_y
            grad_xx += var_x * u0 * u0 + 2 * var_xy * u0 * v0 + var_y * v0 * v0
            grad_yy += var_x * u1 * u1 + 2 * var_xy * u1 * v1 + var_y * v1 * v1
            grad_zz += var_x * u2 * u2 + 2 * var_xy * u2 * v2 + var_y * v2 * v2
            grad_xy += var_x * u0 * u1 + var_xy * (u0 * v1 + u1 * v0) + var_y * v0 * v1
            grad_xz += var_x * u0 * u2 + var_xy * (u0 * v2 + u2 * v0) + var_y * v0 * v2
            grad_yz += var_x * u1 * u2 + var_xy * (u1 * v2 + u2 * v1) + var_y * v1 * v2

            # map_x = fx / z (R_0 - slope_x R_2), likewise map_y: hence the gradients of both slopes and of z.
            covariance_x, covariance_y = _times_covariance(map_x, covariance), _times_covariance(map_y, covariance)
            xx, xy, yy = _dot(covariance_x, map_x), _dot(covariance_x, map_y), _dot(covariance_y, map_y)
            x2, y2 = _dot(covariance_x, pose[2]), _dot(covariance_y, pose[2])
            kx, ky, tilt_x, tilt_y = fx / z, fy / z, x / z, y / z
            grad_x, grad_y = center_x * kx, center_y * ky
            grad_z = -(grad_x * tilt_x + grad_y * tilt_y) - 2 * (var_x * xx + 2 * var_xy * xy + var_y * yy) / z
            if not held_x:
                grad_tilt = -2 * kx * (var_x * x2 + var_xy * y2) / z
                grad_x += grad_tilt
                grad_z -= grad_tilt * tilt_x
            if not held_y:
                grad_tilt = -2 * ky * (var_xy * x2 + var_y * y2) / z
                grad_y += grad_tilt
                grad_z -= grad_tilt * tilt_y
            mean_x += pose[0, 0] * grad_x + pose[1, 0] * grad_y + pose[2, 0] * grad_z
            mean_y += pose[0, 1] * grad_x + pose[1, 1] * grad_y + pose[2, 1] * grad_z
            mean_z += pose[0, 2] * grad_x + pose[1, 2] * grad_y + pose[2, 2] * grad_z

        grad_means[gaussian, 0], grad_means[gaussian, 1], grad_means[gaussian, 2] = mean_x, mean_y, mean_z
        grad_colors[gaussian, 0], grad_colors[gaussian, 1], grad_colors[gaussian, 2] = red, green, blue
        grad_opacities[gaussian] = grad_opacity

        # covariance = axes axes^T with axes = R diag(scale).
        grad_covariance = (grad_xx, grad_xy, grad_xz, grad_yy, grad_yz, grad_zz)
        for j in range(3):
            scale = float(scales[gaussian, j])
            axis = (rotation[0][j], rotation[1][j], rotation[2][j])
            grad_axis = _times_covariance(axis, grad_covariance)
            grad_scales[gaussian, j] = 2 * scale * _dot(grad_axis, axis)
            for i in range(3):
                grad_axes[i, j] = 2 * scale * scale * grad_axis[i]
        _rotation_back(grad_axes, unit, length, grad_quats[gaussian])


@jit
def _rotation_back(grad: Any, unit: Any, length: float, out: Any) -> None:
    """The gradient of a quaternion of any length from that of its rotation matrix."""
    w, x, y, z = unit
    skew_x, skew_y, skew_z = grad[2, 1] - grad[1, 2], grad[0, 2] - grad[2, 0], grad[1, 0] - grad[0, 1]
    xy, xz, yz = grad[0, 1] + grad[1, 0], grad[0, 2] + grad[2, 0], grad[1, 2] + grad[2, 1]
    grad_w = 2 * (x * skew_x + y * skew_y + z * skew_z)
    grad_x = 2 * (w * skew_x + y * xy + z * xz - 2 * x * (grad[1, 1] + grad[2, 2]))
    grad_y = 2 * (w * skew_y + x * xy + z * yz - 2 * y * (grad[0, 0] + grad[2, 2]))
    grad_z = 2 * (w * skew_z + x * xz + y * yz - 2 * z * (grad[0, 0] + grad[1, 1]))
    along = w * grad_w + x * grad_x + y * grad_y + z * grad_z
    out[0], out[1] = (grad_w - along * w) / length, (grad_x - along * x) / length
    out[2], out[3] = (grad_y - along * y) / length, (grad_z - along * z) / length


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The helper threads of one process; a forked child starts its own."""
    return ThreadPoolExecutor(max(numba.config.NUMBA_NUM_THREADS - 1, 1), "rasterize")


def _parallel(kernel: Callable[..., None], size: int, block: int, *args: Any) -> None:
    """Run kernel(start, stop, *args) on blocks of range(size), by as many threads as numba may use."""
    starts = iter(range(0, size, block))

    def work() -> None:
        for start in starts:
            kernel(start, min(start + block, size), *args)

    helpers = min(numba.get_num_threads(), -(-size // block)) - 1
    futures = [_pool(os.getpid()).submit(work) for _ in range(helpers)]
    work()
    for future in futures:
        future.result()


def forward(
    gaussians: list[np.ndarray], w2c: np.ndarray, fxfycxcy: np.ndarray, width: int, height: int, background: float
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The image [V, H, W, 3], its transmittance [V, H, W] and what `backward` needs.

    gaussians: means, quats, scales, opacities and colors, all float32 or all float64; the cameras are float64.
    """
    views, count, dtype = len(w2c), len(gaussians[0]), gaussians[0].dtype
    rows = views * count
    splats = np.empty((rows, SPLAT), dtype)
    depths = np.empty(rows, dtype)
    rectangles = np.empty((rows, 4), np.int32)
    tile_counts = np.empty(rows, np.int32)
    projected = splats, depths, rectangles, tile_counts
    _parallel(project, count, 1024, *gaussians, w2c, fxfycxcy, width, height, *projected)

    row_slots = np.zeros(rows + 1, np.int64)
    np.cumsum(tile_counts, out=row_slots[1:])
    slots = int(row_slots[-1])
    if max(rows, slots) > np.iinfo(np.int32).max:
        raise ValueError(
            f"rasterize: {count} Gaussians in {views} views touch {slots} tiles, more than 2^31; draw fewer views at a time"
        )
    slot_spans, pair_spans = np.empty((slots, 2), np.uint8), np.empty((slots, 2), np.uint8)
    _parallel(outline, rows, 2048, splats, rectangles, row_slots, height, slot_spans)

    tiles_x, tiles = _tile_grid(width, height)
    tile_pairs = np.empty((views * tiles, 2), np.int64)
    pair_rows, pair_slots = np.empty(slots, np.int32), np.empty(slots, np.int32)
    keys = depths.view(np.uint32 if dtype == np.float32 else np.uint64).reshape(views, count)
    pairs = tile_pairs, pair_rows, pair_slots, pair_spans
    _parallel(sort_and_bin, views, 1, keys, rectangles, row_slots, slot_spans, tiles_x, tiles, *pairs)

    rgb, transmittance = np.empty((views, height, width, 3), dtype), np.empty((views, height, width), dtype)
    drawn = tile_pairs, pair_rows, pair_spans, splats
    _parallel(draw, views * tiles, 8, tiles_x, tiles, *drawn, background, rgb, transmittance)
    saved = {
        "splats": splats,
        "row_slots": row_slots,
        "tile_pairs": tile_pairs,
        "pair_rows": pair_rows,
        "pair_slots": pair_slots,
        "pair_spans": pair_spans,
        "rgb": rgb,
        "transmittance": transmittance,
    }
    return rgb, transmittance, saved


def backward(
    grad_rgb: np.ndarray,
    grad_alpha: np.ndarray,
    gaussians: list[np.ndarray],
    w2c: np.ndarray,
    fxfycxcy: np.ndarray,
    saved: dict[str, np.ndarray],
) -> list[np.ndarray]:
    """Gradients of means, quats, scales, opacities and colors, from those of the image and of its alpha."""
    views, height, width = grad_alpha.shape
    tiles_x, tiles = _tile_grid(width, height)
    splats, image = saved["splats"], (saved["rgb"], saved["transmittance"])
    pairs = [saved[name] for name in ("tile_pairs", "pair_rows", "pair_slots", "pair_spans")]
    pair_gradients = np.zeros((len(saved["pair_rows"]), PAIR_GRADIENT), splats.dtype)
    gradients = grad_rgb, grad_alpha, pair_gradients
    _parallel(draw_back, views * tiles, 8, tiles_x, tiles, *pairs, splats, *image, *gradients)

    means, quats, scales, _, _ = gaussians
    grads = [np.zeros_like(array) for array in gaussians]
    cameras = w2c, fxfycxcy, width, height
    buffers = splats, saved["row_slots"], pair_gradients
    _parallel(project_back, len(means), 1024, means, quats, scales, *cameras, *buffers, *grads)
    return grads


def _tile_grid(width: int, height: int) -> tuple[int, int]:
    """How many tiles lie side by side, and how many make a view."""
    tiles_x = -(-width // TILE_WIDTH)
    return tiles_x, tiles_x * -(-height // TILE_HEIGHT)


class CpuRasterizer(torch.autograd.Function):
    """`rasterize` on CPU tensors of one dtype, checked and clamped already."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        w2c: Tensor,
        fxfycxcy: Tensor,
        width: int,
        height: int,
        background: float,
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results of `rasterize`."""
        gaussians = [tensor.detach().contiguous() for tensor in (means, quats, scales, opacities, colors)]
        cameras = [tensor.detach().double().contiguous() for tensor in (w2c, fxfycxcy)]
        arrays = [tensor.numpy() for tensor in gaussians]
        rgb, transmittance, ctx.buffers = forward(
            arrays, cameras[0].numpy(), cameras[1].numpy(), width, height, float(background)
        )
        ctx.save_for_backward(*gaussians, *cameras)
        return torch.from_numpy(rgb.copy()), torch.from_numpy(1 - transmittance)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rgb: Tensor, grad_alpha: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the five Gaussian tensors from those of both results."""
        *gaussians, w2c, fxfycxcy = (tensor.numpy() for tensor in ctx.saved_tensors)
        upstream = grad_rgb.contiguous().numpy(), grad_alpha.contiguous().numpy()
        grads = backward(*upstream, gaussians, w2c, fxfycxcy, ctx.buffers)
        return *(torch.from_numpy(grad) for grad in grads), None, None, None, None, None
