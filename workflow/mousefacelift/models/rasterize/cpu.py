"""The CPU rasteriser: Gaussians projected, binned into tiles, sorted by depth and blended, with an analytic backward.

The model is in `api.rasterize`, the plain version in `reference`. A row is one Gaussian in one view (row = view * N +
Gaussian), a slot one row in one tile of its bounding rectangle, and a pair a slot whose tile it really touches. All
views of a call are drawn together, in stages of compiled functions that hold no GIL:

    projection.project       Gaussians  their splats, depths and rectangles in every view
    binning.outline          rows       the pixels of every slot
    binning.sort_and_bin     views      the pairs of every tile, front to back
    blending.draw            tiles      image
    blending.draw_back       tiles      gradient of every pair      (backward)
    projection.project_back  Gaussians  gradient of every Gaussian  (backward)

Every value is written by one owner and every sum runs in a fixed order (gradients of pairs are stored, then added up by
Gaussian), so that results are the same bit for bit on any number of threads.

Memory in bytes, for items of 4 (float32) or 8 (float64) bytes: 11 items + 28 per row, 12 per slot, and for the backward
9 items more per slot. A Gaussian 1 px wide has 1 or 2 slots per view, one that covers the image has them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mousefacelift.models.rasterize.binning import outline, sort_and_bin
from mousefacelift.models.rasterize.blending import draw, draw_back
from mousefacelift.models.rasterize.constants import PAIR_GRADIENT, SPLAT, TILE_HEIGHT, TILE_WIDTH
from mousefacelift.models.rasterize.projection import project, project_back
from mousefacelift.models.threads import parallel


class Drawn(NamedTuple):
    """What the backward pass needs of the forward pass; the kernels say what the arrays hold."""

    splats: np.ndarray
    row_slots: np.ndarray
    pairs: tuple[np.ndarray, ...]
    image: tuple[np.ndarray, np.ndarray]


def forward(scene: tuple[np.ndarray, ...], cameras: tuple[Any, ...], background: float) -> Drawn:
    """Draw all views.

    Args:
        scene: means, quats, scales, opacities and colors as `rasterize` takes them, all float32 or all float64.
        cameras: w2c, fxfycxcy, width and height as `rasterize` takes them, float64.
        background: grey level behind the Gaussians.

    Returns:
        The image, rgb [V, H, W, 3] over the background and transmittance [V, H, W], and what `backward` needs.

    Raises:
        ValueError: the Gaussians touch more tiles than an int32 can number.
    """
    w2c, _, width, height = cameras
    views, count, dtype = len(w2c), len(scene[0]), scene[0].dtype
    rows = views * count
    splats, depths = np.empty((rows, SPLAT), dtype), np.empty(rows, dtype)
    rectangles, tile_counts = np.empty((rows, 4), np.int32), np.empty(rows, np.int32)
    parallel(project, count, 1024, scene, cameras, (splats, depths, rectangles, tile_counts))

    # A row's slots are numbered one after the other, so that every row can be worked on alone.
    row_slots = np.zeros(rows + 1, np.int64)
    np.cumsum(tile_counts, out=row_slots[1:])
    slots = int(row_slots[-1])
    if max(rows, slots) > np.iinfo(np.int32).max:
        raise ValueError(
            f"rasterize: {count} Gaussians in {views} views touch {slots} tiles, more than 2^31; draw fewer views at a time"
        )
    slot_spans, pair_spans = np.empty((slots, 2), np.uint8), np.empty((slots, 2), np.uint8)
    parallel(outline, rows, 2048, splats, rectangles, row_slots, height, slot_spans)

    # Positive floats are in the order of their bits, which sort as integers do.
    grid = _tile_grid(width, height)
    keys = depths.view(np.uint32 if dtype == np.float32 else np.uint64).reshape(views, count)
    tile_pairs = np.empty((views * grid[1], 2), np.int64)
    pairs = tile_pairs, np.empty(slots, np.int32), np.empty(slots, np.int32), pair_spans
    parallel(sort_and_bin, views, 1, keys, rectangles, row_slots, slot_spans, grid, pairs)

    image = np.empty((views, height, width, 3), dtype), np.empty((views, height, width), dtype)
    parallel(draw, len(tile_pairs), 8, grid, pairs, splats, background, image)
    return Drawn(splats, row_slots, pairs, image)


def backward(
    upstream: tuple[np.ndarray, np.ndarray], scene: tuple[np.ndarray, ...], cameras: tuple[Any, ...], drawn: Drawn
) -> list[np.ndarray]:
    """Gradients of the scene's arrays.

    Args:
        upstream: dL/drgb [V, H, W, 3] and dL/dalpha [V, H, W].
        scene: as `forward` took it.
        cameras: as `forward` took them.
        drawn: what `forward` returned.

    Returns:
        Gradients of means, quats, scales, opacities and colors.
    """
    _, _, width, height = cameras
    tile_pairs, pair_rows, _, _ = drawn.pairs
    pair_gradients = np.zeros((len(pair_rows), PAIR_GRADIENT), drawn.splats.dtype)
    grid = _tile_grid(width, height)
    parallel(draw_back, len(tile_pairs), 8, grid, drawn.pairs, drawn.splats, drawn.image, upstream, pair_gradients)
    grads = [np.zeros_like(array) for array in scene]
    buffers = drawn.splats, drawn.row_slots, pair_gradients
    parallel(project_back, len(scene[0]), 1024, scene, cameras, *buffers, tuple(grads))
    return grads


def _tile_grid(width: int, height: int) -> tuple[int, int]:
    """How many tiles lie side by side, and how many make a view."""
    tiles_x = -(-width // TILE_WIDTH)
    return tiles_x, tiles_x * -(-height // TILE_HEIGHT)


class CpuRasterizer(torch.autograd.Function):
    """`rasterize` on CPU tensors of one dtype, checked and clamped already."""

    @staticmethod
    def forward(
        ctx: Any, width: int, height: int, background: float, w2c: Tensor, fxfycxcy: Tensor, *gaussians: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Results of `rasterize`; gaussians are its first five arguments."""
        scene = [tensor.detach().contiguous() for tensor in gaussians]
        views = [tensor.detach().double().contiguous() for tensor in (w2c, fxfycxcy)]
        ctx.size = width, height
        ctx.drawn = forward(_arrays(scene), (*_arrays(views), width, height), float(background))
        ctx.save_for_backward(*views, *scene)
        rgb, transmittance = ctx.drawn.image
        return torch.from_numpy(rgb.copy()), torch.from_numpy(1 - transmittance)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rgb: Tensor, grad_alpha: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the five Gaussian tensors from those of both results."""
        w2c, fxfycxcy, *scene = _arrays(ctx.saved_tensors)
        upstream = grad_rgb.contiguous().numpy(), grad_alpha.contiguous().numpy()
        grads = backward(upstream, tuple(scene), (w2c, fxfycxcy, *ctx.size), ctx.drawn)
        return None, None, None, None, None, *(torch.from_numpy(grad) for grad in grads)


def _arrays(tensors: Iterable[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy() for tensor in tensors)
