"""The mouse's surface as the hull alone suggests it: one Gaussian for every pixel inside an input view's silhouette."""

import torch
from torch import Tensor

from mousefacelift.models.gaussians import Gaussians
from mousefacelift.models.hull.api import intervals
from mousefacelift.models.hull.constants import INSIDE, SHARE
from mousefacelift.models.hull.splats import colours, log_scales, logits
from mousefacelift.models.rays import pixel_rays

HULL_INPUTS = ("image", "alpha", "c2w", "w2c", "fxfycxcy", "unknown")  # of a sample's input views; it may lack the last


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
    origins, directions = pixel_rays(c2w[None], fxfycxcy[None], size, size)
    depth = front.lerp(back, SHARE if len(alpha) > 1 else 0.5)[None, ..., None]
    # Along the unit ray the depth counts from the point nearest to the origin, which is this far from the camera.
    distance = depth - (origins * directions).sum(-1, keepdim=True)
    points = origins + distance * directions
    # [1, N, ...] of what each pixel has
    xyz, scale, colour = (
        of_pixels[:, drawn]
        for of_pixels in (points, log_scales(points, c2w[None], fxfycxcy[None]), colours(image[None], alpha[None]))
    )
    return Gaussians(
        xyz=xyz,
        features=colour[:, :, None],
        scaling=scale.expand(-1, -1, 3),
        rotation=torch.tensor([1.0, 0, 0, 0], device=alpha.device).expand(1, xyz.shape[1], 4),
        opacity=logits(alpha[drawn])[None, :, None],
    )
