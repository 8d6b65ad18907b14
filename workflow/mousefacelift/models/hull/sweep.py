"""What the other views show along the ray of each pixel, for a network that is to tell how deep the mouse lies there.

A plane sweep (Collins 1996, A space-sweep approach to true multi-image matching), limited to the ray's interval of the
visual hull. Where the ray meets the mouse, the views that see the point show the same colour, and none shows background.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.models.hull.guides import BACK, FRONT, MARGIN, VALID
from mousefacelift.models.precision import full_precision

DEPTHS = 8  # points of a ray's interval
NEIGHBOURS = 3  # other views that are looked at: those that look from the most similar directions
BLUR = 4  # px: what surrounds the point's image is averaged over squares of this side
OWN = 7  # values of the pixel itself: its colour, its opacity, front, back and length of the interval
FEATURES = OWN + NEIGHBOURS * DEPTHS * 8


@torch.no_grad()
def sweep(image: Tensor, alpha: Tensor, c2w: Tensor, fxfycxcy: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Look up points of each foreground pixel's ray in other views.

    Args:
        image: [B, V, 3, H, W] input views in [0, 1], over white.
        alpha: [B, V, H, W] their silhouettes in [0, 1].
        c2w: [B, V, 4, 4] camera to world, OpenCV axes, world units.
        fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        known: [B, V, H, W, 15] the pixels' rays, and what `guides.guides` says of them.

    Returns:
        shown: [F, FEATURES] float32, of the F pixels with a valid interval. First OWN values of the pixel itself, then of
            each neighbour, for points from front to back, colour and opacity at the point's image, and the same
            blurred: from -1 to 1; 0 for neighbours that do not exist.
        place: [B, V, H, W, 1] float32, the row of `shown` for each pixel; -1 where there is none.
    """
    valid = known[..., VALID][..., 0] > 0
    place = torch.full_like(alpha, -1, dtype=torch.float32)
    place[valid] = torch.arange(int(valid.sum()), device=alpha.device, dtype=torch.float32)
    views = torch.cat([image.float(), alpha.float()[:, :, None]], dim=2) * 2 - 1
    length = known[..., BACK] - known[..., FRONT]
    # Intervals are a fraction of a world unit long: a factor makes them as large as the other values.
    own = torch.cat([views.movedim(2, -1), known[..., FRONT], known[..., BACK], 5 * length], dim=-1)[valid]
    with full_precision(alpha.device):
        shown = torch.cat([own, *_neighbours_show(views, c2w.float(), fxfycxcy.float(), known, valid)], dim=-1)
    return functional.pad(shown, (0, FEATURES - shown.shape[1])), place[..., None]


def _neighbours_show(views: Tensor, c2w: Tensor, fxfycxcy: Tensor, known: Tensor, valid: Tensor) -> list[Tensor]:
    """[F, DEPTHS * 8] of each neighbour, at most NEIGHBOURS; views [B, V, 4, H, W] from -1 to 1."""
    b, v, _, height, width = views.shape
    blurred = functional.avg_pool2d(views.flatten(0, 1), BLUR, ceil_mode=True)
    blurred = functional.interpolate(blurred, scale_factor=BLUR, mode="bilinear")[..., :height, :width]
    maps = torch.cat([views, blurred.unflatten(0, (b, v))], dim=2)

    # The views' points are padded to equally many, so that each neighbour is one call.
    foreground = valid.flatten(0, 1).flatten(1)
    view, within = foreground.nonzero()[:, 0], (foreground.cumsum(1) - 1)[foreground]
    rays = known[valid]
    share = (torch.arange(DEPTHS, device=rays.device) + 0.5) / DEPTHS
    front, back = rays[:, FRONT] - MARGIN, rays[:, BACK] + MARGIN
    s = front + share * (back - front)
    points = rays.new_zeros(b * v, int(foreground.sum(1).max()), DEPTHS, 3)
    points[view, within] = rays[:, None, :3] + s[..., None] * rays[:, None, 3:6]

    axes = functional.normalize(c2w[..., :3, 3], dim=-1)
    alike = (axes @ axes.mT).masked_fill(torch.eye(v, dtype=torch.bool, device=axes.device), -2)
    nearest = alike.argsort(dim=-1, descending=True)[..., : min(NEIGHBOURS, v - 1)]
    w2c, sample = torch.linalg.inv(c2w), torch.arange(b, device=c2w.device)[:, None]
    size = fxfycxcy.new_tensor([width, height])
    found = []
    for other in nearest.unbind(-1):
        pose, intrinsics = (each[sample, other].flatten(0, 1) for each in (w2c, fxfycxcy))
        camera = points.flatten(1, 2) @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
        pixel = camera[..., :2] / camera[..., 2:].clamp_min(1e-6) * intrinsics[:, None, :2] + intrinsics[:, None, 2:]
        grid = (pixel / size * 2 - 1).view(b * v, -1, DEPTHS, 2)
        seen = functional.grid_sample(
            maps[sample, other].flatten(0, 1), grid, align_corners=False, padding_mode="border"
        )
        found.append(seen.permute(0, 2, 3, 1)[view, within].flatten(1))
    return found
