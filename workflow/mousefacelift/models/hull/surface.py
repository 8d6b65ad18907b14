"""The mouse's surface as the hull alone suggests it: one Gaussian for every pixel inside an input view's silhouette."""

import torch
from torch import Tensor

from mousefacelift.models.gaussians import SH_C0, Gaussians
from mousefacelift.models.hull.api import intervals
from mousefacelift.models.hull.constants import INSIDE, OPACITY, SHARE, SPLAT
from mousefacelift.models.rays import pixel_rays


def hull_gaussians(
    image: Tensor, alpha: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor, unknown: Tensor | None = None
) -> Gaussians:
    """Put one isotropic Gaussian on the ray of every pixel inside its view's silhouette.

    The hull is never smaller than the mouse, so the surface is looked for a quarter of the interval behind its front,
    not at it. The Gaussian's standard deviation is 0.4 of the pixel's width at its depth. Its opacity is 0.95 times the
    pixel's alpha, and its colour the pixel's, without the white that is mixed into the silhouette's edge. With one input
    view, which has no hull, the Gaussians lie in the points of the rays that are nearest to the world's origin.

    Args:
        image: [I, 3, S, S] input views in [0, 1], over white.
        alpha: [I, S, S] their silhouettes in [0, 1].
        c2w: [I, 4, 4] camera to world, OpenCV axes, world units.
        w2c: [I, 4, 4] its inverse.
        fxfycxcy: [I, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        unknown: [I, S, S] bool, pixels of which nothing is known; None without any.

    Returns:
        N Gaussians of one sample, in the order view, row, column; N may be 0.
    """
    size = alpha.shape[-1]
    unseen = None if unknown is None else unknown[None]
    found = intervals(alpha[None], c2w[None], w2c[None], fxfycxcy[None], unseen)
    front, back, valid = (result[0] for result in found)
    drawn = valid & (alpha > INSIDE)
    origins, directions = (rays[0] for rays in pixel_rays(c2w[None], fxfycxcy[None], size, size))
    view = drawn.nonzero()[:, 0]
    origins, directions = origins[view, 0, 0], directions[drawn]
    depth = front[drawn].lerp(back[drawn], SHARE if len(alpha) > 1 else 0.5)
    # Along the unit ray the depth counts from the point nearest to the origin, which is this far from the camera.
    distance = depth - (origins * directions).sum(-1)
    xyz = origins + distance[:, None] * directions
    z = distance * (directions * c2w[view, :3, 2]).sum(-1)
    opacity = alpha[drawn][:, None]
    rgb = ((image.movedim(1, -1)[drawn] - (1 - opacity)) / opacity).clamp(0, 1)
    pixel = z / fxfycxcy[view, :2].mean(-1)
    return Gaussians(
        xyz=xyz[None],
        features=((rgb - 0.5) / SH_C0)[None, :, None],
        scaling=(SPLAT * pixel).log()[None, :, None].expand(1, -1, 3),
        rotation=torch.tensor([1.0, 0, 0, 0], device=alpha.device).expand(1, len(xyz), 4),
        opacity=(OPACITY * opacity).logit()[None],
    )
