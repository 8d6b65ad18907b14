"""Which splats touch which tile, front to back. Slots and pairs are explained in `cpu`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mousefacelift.models.rasterize.compiled import jit, prefetch
from mousefacelift.models.rasterize.constants import AHEAD, STEP, TILE_HEIGHT, TILE_WIDTH


@jit
def outline(start: int, stop: int, splats: Any, rectangles: Any, row_slots: Any, height: int, slot_spans: Any) -> None:
    """Find the steps of every slot of a range of rows that hold pixels where alpha reaches 1/255.

    Args:
        start: first row.
        stop: past the last row.
        splats: [V*N, SPLAT] as `project` wrote them.
        rectangles: [V*N, 4] as `project` wrote them.
        row_slots: [V*N + 1] the first slot of every row.
        height: image height in pixels.
        slot_spans: [slots, 2] written; first and past-last step in the slot's tile, 0 and 0 if there is none.
    """
    for row in range(start, stop):
        if row_slots[row] == row_slots[row + 1]:
            continue
        splat, (left, right, top, bottom) = splats[row], rectangles[row]
        a, shear, d, half_height = float(splat[2]), float(splat[3]), float(splat[4]), float(splat[6])
        # Within a column of tiles the ellipse alpha = 1/255 is cut at the column's first and last pixel.
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
    start: int, stop: int, keys: Any, rectangles: Any, row_slots: Any, slot_spans: Any, grid: Any, pairs: Any
) -> None:
    """List the pairs of every tile of a range of views, front to back.

    Args:
        start: first view.
        stop: past the last view.
        keys: [V, N] camera z as unsigned integers, whose order is that of positive floats.
        rectangles: [V*N, 4] as `project` wrote them.
        row_slots: [V*N + 1] the first slot of every row.
        slot_spans: [slots, 2] as `outline` wrote them.
        grid: (tiles side by side, tiles in a view); tile (tx, ty) of view v is number v * grid[1] + ty * grid[0] + tx.
        pairs: written; (tile_pairs [tiles, 2] first and past-last pair of every tile, and of every pair its row
            [slots], its slot [slots] and its slot's span [slots, 2]).
    """
    tiles_x, tiles = grid
    tile_pairs, pair_rows, pair_slots, pair_spans = pairs
    count = keys.shape[1]
    for view in range(start, stop):
        first_row, ranges = view * count, tile_pairs[view * tiles : (view + 1) * tiles]
        rows = _sorted_rows(first_row, keys[view], row_slots)

        # Count the pairs of every tile.
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

        # Give every tile its range; a view has at most as many pairs as slots, so that its first slot is a safe start.
        place = row_slots[first_row]
        for tile in range(tiles):
            ranges[tile, 0], place = place, place + ranges[tile, 1]
            ranges[tile, 1] = ranges[tile, 0]

        # Fill the ranges by increasing depth. Memory is visited in no order: what comes soon is fetched ahead.
        for i in range(len(rows)):
            ahead = rows[min(i + AHEAD, len(rows) - 1)]
            prefetch(rectangles, ahead)
            prefetch(slot_spans, row_slots[ahead])
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
