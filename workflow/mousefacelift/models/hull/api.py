"""Where a pixel's ray can meet the mouse: intervals of rays inside the visual hull of a sample's input views."""

import torch
from torch import Tensor

from mousefacelift.models.precision import full_precision


def intervals(
    alpha: Tensor, c2w: Tensor, w2c: Tensor, fxfycxcy: Tensor, unknown: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Find where the ray of every foreground pixel runs inside the silhouettes of all other input views.

    The ray of a pixel is x(s) = nearest + s * direction, with the unit direction through the pixel's centre and the
    ray's point nearest to the world's origin, as in `gslrm.GSLRM`. It is looked at every half pixel (of the view that
    sees the origin largest) for |s| <= 1.8. A point is inside a view's silhouette if it lies in front of the camera and
    projects to a pixel with alpha > 0.5, or to an unknown one. Beyond the image's edge the nearest pixel of the edge
    counts: a silhouette that touches the edge goes on behind it, any other one ends. (If a view carved nothing at all beyond
    its image, rays would run inside the hull up to the cameras wherever a tail leaves several images.)

    Where no point of a ray is inside the silhouettes of all other views, those points count that the largest number of
    them agree on, if that is more than half of them: a view may miss a thin tail. With one input view there is nothing to disagree: the interval is all of the ray.

    Args:
        alpha: [B, I, S, S] silhouettes of the input views in [0, 1].
        c2w: [B, I, 4, 4] camera to world, OpenCV axes, world units.
        w2c: [B, I, 4, 4] its inverse.
        fxfycxcy: [B, I, 4] intrinsics in pixels; the first pixel's centre is (0.5, 0.5).
        unknown: [B, I, S, S] bool, pixels of which nothing is known; None without any.

    Returns:
        front: [B, I, S, S] float32, s of the first such point, world units; 0 where not valid.
        back: [B, I, S, S] float32, s of the last one; 0 where not valid.
        valid: [B, I, S, S] bool: the pixel has alpha >= 0.1, and there are such points on its ray.
    """
    # numba is imported where it is needed, because reading weights does without.
    if alpha.device.type == "cpu":
        from mousefacelift.models.hull.marching import intervals_cpu

        return intervals_cpu(alpha, c2w, w2c, fxfycxcy, unknown)
    from mousefacelift.models.hull.batched import intervals_batched

    with torch.no_grad(), full_precision(alpha.device):
        return intervals_batched(alpha, c2w, w2c, fxfycxcy, unknown)
