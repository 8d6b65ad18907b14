"""What the other views show along the ray of each pixel, for a network that is to tell how deep the mouse lies there.

A plane sweep (Collins 1996, A space-sweep approach to true multi-image matching), limited to the ray's interval of the
visual hull. Where the ray meets the mouse, the views that see the point show the same colour, and none shows background.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.models.hull.guides import MARGIN
from mousefacelift.models.precision import full_precision

DEPTHS = 8  # points of a ray's interval
NEIGHBOURS = 3  # other views that are looked at: those that look from the most similar directions
BLUR = 4  # px: what surrounds the point's image is averaged over squares of this side
OWN = 7  # values of the pixel itself: its colour, its opacity, front, back and length of the interval
FEATURES = OWN + NEIGHBOURS * DEPTHS * 8


@torch.no_grad()
def sweep(
    image: Tensor, alpha: Tensor, c2w: Tensor, fxfycxcy: Tensor,
    nearest: Tensor, directions: Tensor, front: Tensor, back: Tensor, valid: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Look up points of each foreground pixel's ray in other views.

    Args:
        image: [B, V, 3, H, W] input views in [0, 1], over white.
        alpha: [B, V, H, W] their silhouettes in [0, 1].
        c2w: [B, V, 4, 4] camera to world, OpenCV axes, world units.
        fxfycxcy: [B, V, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        nearest: [B, V, H, W, 3] the point of each pixel's ray from which `front` and `back` count.
        directions: [B, V, H, W, 3] of the rays, unit vectors.
        front: [B, V, H, W, 1] where the ray enters the hull, world units.
        back: [B, V, H, W, 1] where it leaves it.
        valid: [B, V, H, W, 1] 1 where there is one, and 0.

    Returns:
        shown: [F, FEATURES] float32, of the F pixels with a valid interval. First OWN values of the pixel itself, then of
            each neighbour, for points from front to back, colour and opacity at the point's image, and the same
            blurred: from -1 to 1; 0 for neighbours that do not exist.
        place: [B, V, H, W, 1] float32, the row of `shown` for each pixel; -1 where there is none.
    """
    foreground = valid[..., 0] > 0
    place = torch.full_like(alpha, -1, dtype=torch.float32)
    sample, view, row, col = foreground.nonzero(as_tuple=True)
    place[foreground] = torch.arange(len(row), device=alpha.device, dtype=torch.float32)
    views = torch.cat([image.float(), alpha.float()[:, :, None]], dim=2) * 2 - 1
    front, back = front[foreground], back[foreground]
    # Intervals are a fraction of a world unit long: a factor makes them as large as the other values.
    own = torch.cat([views[sample, view, :, row, col], front, back, 5 * (back - front)], dim=-1)
    with full_precision(alpha.device):
        rays = nearest[foreground], directions[foreground], front - MARGIN, back + MARGIN
        seen = _neighbours_show(views, c2w.float(), fxfycxcy.float(), rays, sample, view)
    shown = torch.cat([own, seen], dim=-1)
    return functional.pad(shown, (0, FEATURES - shown.shape[1])), place[..., None]


def _neighbours_show(
    views: Tensor, c2w: Tensor, fxfycxcy: Tensor, rays: tuple[Tensor, ...], sample: Tensor, view: Tensor
) -> Tensor:
    """[F, N * DEPTHS * 8] of at most NEIGHBOURS neighbours N.

    Args:
        views: [B, V, 4, H, W] from -1 to 1.
        c2w: as for `sweep`.
        fxfycxcy: as for `sweep`.
        rays: a point, the direction, and the ends counted from that point, of each pixel: [F, 3], [F, 3], [F, 1], [F, 1].
        sample: [F] which the pixels are of.
        view: [F] which the pixels are of.
    """
    b, v, _, height, width = views.shape
    blurred = functional.avg_pool2d(views.flatten(0, 1), BLUR, ceil_mode=True)
    blurred = functional.interpolate(blurred, scale_factor=BLUR, mode="bilinear")[..., :height, :width]
    maps = torch.cat([views.flatten(0, 1), blurred], dim=1)

    axes = functional.normalize(c2w[..., :3, 3], dim=-1)
    alike = (axes @ axes.mT).masked_fill(torch.eye(v, dtype=torch.bool, device=axes.device), -2)
    neighbours = alike.argsort(dim=-1, descending=True)[..., : min(NEIGHBOURS, v - 1)]
    other = neighbours[sample, view] + v * sample[:, None]  # [F, N], among the views of all samples
    w2c, fxfycxcy = torch.linalg.inv(c2w).flatten(0, 1)[other], fxfycxcy.flatten(0, 1)[other]

    # A ray is a line in every camera: p + s d, with s from front to back.
    point, direction, front, back = rays
    p = (w2c[..., :3, :3] @ point[:, None, :, None])[..., 0] + w2c[..., :3, 3]
    d = (w2c[..., :3, :3] @ direction[:, None, :, None])[..., 0]
    share = (torch.arange(DEPTHS, device=p.device) + 0.5) / DEPTHS
    s = (front + share * (back - front))[:, None]  # [F, 1, DEPTHS]
    x, y, z = (p[..., i, None] + s * d[..., i, None] for i in range(3))
    fx, fy, cx, cy = fxfycxcy[..., None].unbind(-2)
    z = z.clamp_min(1e-6)
    # All views in one picture, below each other: what leaves a view shows its nearest edge, not the view beside it.
    col = (x / z * fx + cx).clamp(0.5, width - 0.5)
    row = (y / z * fy + cy).clamp(0.5, height - 0.5) + other[..., None] * height
    grid = torch.stack([col / width, row / (b * v * height)], dim=-1) * 2 - 1
    picture = maps.transpose(0, 1).reshape(1, maps.shape[1], -1, width)
    seen = functional.grid_sample(picture, grid.flatten(1, 2)[None], align_corners=False)
    return seen[0].movedim(0, -1).flatten(1)
