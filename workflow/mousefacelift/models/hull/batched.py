"""The intervals on a GPU: many rays at a time, in torch alone. It runs on the CPU too, for tests.

A ray's points are first looked at in segments. A silhouette that is dilated by more than half a segment's image tells
whether any point of the segment can be inside, and an eroded one whether all of them are. Only the segments that may
hold the ends are then looked at point by point, so the result is that of looking at every point.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.models.hull.constants import (
    FOREGROUND,
    MOST_STEPS,
    NEAR,
    RANGE,
    STEPS_PER_PIXEL,
    least_agreement,
    possible,
)

SEGMENT = 16  # points
REACH = 8  # px: twice half a segment's image at the origin, because what is nearer to a camera is larger
TOGETHER = 8_000_000  # segments or points that are looked at together: a float32 of each is 32 MB
BEYOND = 1 << 30  # past every ray's last point


class Rays(NamedTuple):
    """R rays in their samples' other views.

    a: [R, O, 3] the point nearest to the world's origin in homogeneous pixel coordinates of the O other views, float32.
    b: [R, O, 3] the unit direction, as well. image: [R, O] places of the other views among all of the batch. step: [R]
    world units between points, float32. steps: [R] how many points there are.
    """

    a: Tensor
    b: Tensor
    image: Tensor
    step: Tensor
    steps: Tensor

    def of(self, chosen: Tensor) -> "Rays":
        """Some of the rays."""
        return Rays(*(tensor[chosen] for tensor in self))


class Silhouettes(NamedTuple):
    """The silhouettes of all views of a batch as of `possible`, each [B * I * S * S] bool, and their side S in pixels."""

    inside: Tensor
    dilated: Tensor
    eroded: Tensor
    side: int

    @classmethod
    def of(cls, possible: Tensor) -> "Silhouettes":
        """From [B, I, S, S] bool."""
        inside = possible.float().flatten(0, 1)
        dilated, eroded = _dilated(inside), 1 - _dilated(1 - inside)
        inside, dilated, eroded = (mask.flatten() > 0 for mask in (inside, dilated, eroded))
        return cls(inside, dilated, eroded, possible.shape[-1])


def intervals_batched(
    alpha: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor, unknown: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `api.intervals`, for tensors on any device."""
    front, back = torch.zeros_like(alpha, dtype=torch.float32), torch.zeros_like(alpha, dtype=torch.float32)
    valid = torch.zeros_like(alpha, dtype=torch.bool)
    pixels = (alpha >= FOREGROUND).nonzero()
    if not len(pixels):
        return front, back, valid
    # Rays are set up in float64, so that both implementations follow the same float32 lines.
    c2w, w2c, fxfycxcy = c2w.double(), w2c.double(), fxfycxcy.double()
    pixels_per_unit = (fxfycxcy[..., :2].amax(-1) / c2w[..., :3, 3].norm(dim=-1)).amax(-1)
    steps = (2 * RANGE * STEPS_PER_PIXEL * pixels_per_unit).ceil().clamp(max=MOST_STEPS * alpha.shape[-1]).long()
    silhouettes, segments = Silhouettes.of(possible(alpha, unknown)), -(-int(steps.max()) // SEGMENT)
    for chunk in pixels.split(max(1, TOGETHER // segments)):
        index = tuple(chunk.unbind(-1))
        rays = _rays(chunk, c2w, w2c, fxfycxcy, steps)
        front[index], back[index], valid[index] = _ends(rays, silhouettes, segments)
    return front, back, valid


def _dilated(mask: Tensor) -> Tensor:
    """Masks [N, S, S] of 0 and 1, grown by REACH pixels in rows and columns; nothing lies beyond the image."""
    grown = functional.max_pool2d(mask[:, None], (2 * REACH + 1, 1), stride=1, padding=(REACH, 0))
    return functional.max_pool2d(grown, (1, 2 * REACH + 1), stride=1, padding=(0, REACH))[:, 0]


def _rays(pixels: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor, steps: Tensor) -> Rays:
    """The rays of pixels [R, 4] (sample, view, row, column); cameras [B, I, ...] in float64; steps [B] of samples."""
    sample, view, row, col = pixels.unbind(-1)
    fx, fy, cx, cy = fxfycxcy[sample, view].unbind(-1)
    ray = torch.stack([(col + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, torch.ones_like(fx)], dim=-1)
    pose = c2w[sample, view]
    direction = (pose[:, :3, :3] @ functional.normalize(ray, dim=-1)[..., None])[..., 0]
    origin = pose[:, :3, 3]
    nearest = origin - (origin * direction).sum(-1, keepdim=True) * direction

    views = c2w.shape[1]
    other = torch.arange(views - 1, device=view.device).expand(len(view), -1)
    other = other + (other >= view[:, None])  # all views but the ray's own
    focal, center = fxfycxcy[..., :2, None], fxfycxcy[..., 2:, None]
    projection = torch.cat([focal * w2c[..., :2, :] + center * w2c[..., 2:3, :], w2c[..., 2:3, :]], dim=-2)
    projection = projection[sample[:, None], other]
    a = (projection[..., :3] @ nearest[:, None, :, None])[..., 0] + projection[..., 3]
    b = (projection[..., :3] @ direction[:, None, :, None])[..., 0]
    step = (2 * RANGE / steps.double()).float()
    return Rays(a.float(), b.float(), sample[:, None] * views + other, step[sample], steps[sample])


def _ends(rays: Rays, silhouettes: Silhouettes, segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """front, back and valid [R] of rays."""
    others = rays.image.shape[1]
    segment = torch.arange(segments, device=rays.step.device)
    possible, certain = _segment_counts(rays, silhouettes, segment)
    # A sample may have fewer points than others of its batch.
    possible.masked_fill_(segment * SEGMENT >= rays.steps[:, None], -1)
    certain.masked_fill_((segment + 1) * SEGMENT > rays.steps[:, None], -1)

    first = torch.full_like(rays.steps, BEYOND)
    last = torch.full_like(rays.steps, -1)
    open_ = torch.arange(len(first), device=first.device)
    for need in range(others, least_agreement(others) - 1, -1):
        # The ends are no farther inside than the outermost segments whose points all have the views' agreement.
        sure = certain[open_] >= need
        none = ~sure.any(-1, keepdim=True)
        from_front = segment <= sure.to(torch.uint8).argmax(-1, keepdim=True)
        from_back = segment >= segments - 1 - sure.flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
        place, chosen = ((possible[open_] >= need) & (none | from_front | from_back)).nonzero().unbind(-1)
        _look(rays, silhouettes, need, open_[place], chosen, first, last)
        open_ = open_[last[open_] < 0]
        if not len(open_):
            break
    valid = last >= 0
    front, back = (((k.float() + 0.5) * rays.step - RANGE) * valid for k in (first, last))
    return front, back, valid


def _segment_counts(rays: Rays, silhouettes: Silhouettes, segment: Tensor) -> tuple[Tensor, Tensor]:
    """In how many of the other views some point of each segment may be inside, and in how many all are: [R, J] int8."""
    possible = torch.zeros(len(rays.step), len(segment), dtype=torch.int8, device=segment.device)
    certain = torch.zeros_like(possible)
    half = SEGMENT / 2 * rays.step[:, None]
    s = (segment * SEGMENT + SEGMENT / 2) * rays.step[:, None] - RANGE
    for other in range(rays.image.shape[1]):
        a, b = rays.a[:, other], rays.b[:, other]
        z, place = _look_up(rays, other, s, silhouettes.side)
        # Half a segment's image is as long as docs/geometry.md says, with its end nearer to the camera.
        sideways = (b[:, :2] * a[:, 2:] - a[:, :2] * b[:, 2:]).norm(dim=-1, keepdim=True)
        nearest = z - half * b[:, 2:].abs()
        known = (nearest > NEAR) & (sideways * half < (REACH - 0.1) * z * nearest)
        possible += ~known | silhouettes.dilated[place]
        certain += known & silhouettes.eroded[place]
    return possible, certain


def _look(
    rays: Rays, silhouettes: Silhouettes, need: int, ray: Tensor, segment: Tensor, first: Tensor, last: Tensor
) -> None:
    """Move first and last [R] of rays out to the points inside `need` other views, looking at segments [P] of ray [P]."""
    within = torch.arange(SEGMENT, device=ray.device)
    size = TOGETHER // SEGMENT
    for part, chosen in zip(ray.split(size), segment.split(size), strict=True):
        looked = rays.of(part)
        k = chosen[:, None] * SEGMENT + within
        s = (k.float() + 0.5) * looked.step[:, None] - RANGE
        count = torch.zeros(k.shape, dtype=torch.int8, device=k.device)
        for other in range(looked.image.shape[1]):
            z, place = _look_up(looked, other, s, silhouettes.side)
            count += (z > NEAR) & silhouettes.inside[place]
        agreed = (count >= need) & (k < looked.steps[:, None])
        first.scatter_reduce_(0, part, torch.where(agreed, k, BEYOND).amin(-1), "amin")
        last.scatter_reduce_(0, part, torch.where(agreed, k, -1).amax(-1), "amax")


def _look_up(rays: Rays, other: int, s: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Depth of points at s [R, K] in one of the other views, and where in `Silhouettes` their pixels are: [R, K]."""
    a, b = rays.a[:, other, :, None], rays.b[:, other, :, None]
    z = a[:, 2] + s * b[:, 2]
    col, row = (((a[:, i] + s * b[:, i]) / z).floor().nan_to_num_(0).clamp_(0, side - 1).int() for i in (0, 1))
    return z, (rays.image[:, other, None].int() * side + row) * side + col
