"""The intervals on a GPU: many rays at a time, in torch alone. It runs on the CPU too, for tests."""

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.models.hull.constants import (
    FOREGROUND,
    INSIDE,
    MOST_STEPS,
    NEAR,
    RANGE,
    STEPS_PER_PIXEL,
    least_agreement,
)

POINTS = 4_000_000  # of rays that are looked at together: some 300 MB


def intervals_batched(alpha: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `api.intervals`, for tensors on any device."""
    front, back = torch.zeros_like(alpha, dtype=torch.float32), torch.zeros_like(alpha, dtype=torch.float32)
    valid = torch.zeros_like(alpha, dtype=torch.bool)
    size = alpha.shape[-1]
    # Rays are set up in float64, so that both implementations march along the same float32 lines.
    c2w, w2c, fxfycxcy = c2w.double(), w2c.double(), fxfycxcy.double()
    pixels_per_unit = (fxfycxcy[..., :2].amax(-1) / c2w[..., :3, 3].norm(dim=-1)).amax(-1)
    steps = (2 * RANGE * STEPS_PER_PIXEL * pixels_per_unit).ceil().clamp(max=MOST_STEPS * size).long()
    pixels = (alpha >= FOREGROUND).nonzero()
    for chunk in pixels.split(max(1, POINTS // int(steps.max()))):
        index = tuple(chunk.unbind(-1))
        front[index], back[index], valid[index] = _march(chunk, alpha > INSIDE, c2w, w2c, fxfycxcy, steps)
    return front, back, valid


def _project_rays(pixels: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels' rays in homogeneous pixel coordinates of all views of their samples.

    Args:
        pixels: [N, 4] sample, view, row, column.
        c2w: [B, I, 4, 4] float64.
        w2c: [B, I, 4, 4] float64.
        fxfycxcy: [B, I, 4] float64.

    Returns:
        a: [N, I, 3] of the point nearest to the world's origin, float32.
        b: [N, I, 3] of the direction, float32.
    """
    sample, view, row, col = pixels.unbind(-1)
    fx, fy, cx, cy = fxfycxcy[sample, view].unbind(-1)
    ray = torch.stack([(col + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, torch.ones_like(fx)], dim=-1)
    pose = c2w[sample, view]
    direction = (pose[:, :3, :3] @ functional.normalize(ray, dim=-1)[..., None])[..., 0]
    origin = pose[:, :3, 3]
    nearest = origin - (origin * direction).sum(-1, keepdim=True) * direction
    focal, center = fxfycxcy[..., :2, None], fxfycxcy[..., 2:, None]
    projection = torch.cat([focal * w2c[..., :2, :] + center * w2c[..., 2:3, :], w2c[..., 2:3, :]], dim=-2)[sample]
    a = (projection[..., :3] @ nearest[:, None, :, None])[..., 0] + projection[..., 3]
    b = (projection[..., :3] @ direction[:, None, :, None])[..., 0]
    return a.float(), b.float()


def _march(
    pixels: Tensor, inside: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """front, back and valid [N] of pixels [N, 4] (sample, view, row, column)."""
    sample, view = pixels[:, 0], pixels[:, 1]
    a, b = _project_rays(pixels, c2w, w2c, fxfycxcy)
    k = torch.arange(int(steps.max()), device=steps.device)
    s = (k.float() + 0.5) * (2 * RANGE / steps[sample, None].double()).float() - RANGE
    count = torch.zeros(s.shape, dtype=torch.int16, device=s.device)
    for other in range(inside.shape[1]):
        count += _seen_inside(inside[:, other], sample, a[:, other], b[:, other], s) & (view != other)[:, None]
    # Samples of a batch have different numbers of points.
    count[k >= steps[sample, None]] = -1
    most = count.amax(-1, keepdim=True)
    agreed = (count == most).to(torch.uint8)
    first, last = agreed.argmax(-1, keepdim=True), len(k) - 1 - agreed.flip(-1).argmax(-1, keepdim=True)
    valid = most[:, 0] >= least_agreement(inside.shape[1] - 1)
    front, back = (s.gather(-1, end)[:, 0] * valid for end in (first, last))
    return front, back, valid


def _seen_inside(inside: Tensor, sample: Tensor, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Whether points at s [N, K] of rays lie inside one view's silhouette [B, S, S]."""
    side = inside.shape[-1]
    z = a[:, 2:] + s * b[:, 2:]
    col, row = (((a[:, i : i + 1] + s * b[:, i : i + 1]) / z).floor().clamp(0, side - 1) for i in (0, 1))
    there = z > NEAR
    place = (sample[:, None] * side + row.nan_to_num_().int()) * side + col.nan_to_num_().int()
    return inside.reshape(-1)[place] & there
