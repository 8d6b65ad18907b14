"""What the hull alone says of a pixel's Gaussian: size, opacity and colour."""

from torch import Tensor

from mousefacelift.models.gaussians import SH_C0
from mousefacelift.models.hull.constants import INSIDE, OPACITY, SPLAT


def log_scales(points: Tensor, c2w: Tensor, fxfycxcy: Tensor) -> Tensor:
    """The size of a splat that stands for a pixel.

    Args:
        points: [B, V, H, W, 3] centres, one on the ray of each pixel, world units.
        c2w: [B, V, 4, 4] camera to world, OpenCV axes.
        fxfycxcy: [B, V, 4] intrinsics in pixels.

    Returns:
        [B, V, H, W, 1] log of the standard deviation, world units: SPLAT pixels at the point's depth.
    """
    offset = points - c2w[..., None, None, :3, 3]
    depth = (offset * c2w[..., None, None, :3, 2]).sum(-1, keepdim=True)
    focal = fxfycxcy[..., :2].mean(-1)[..., None, None, None]
    return (SPLAT * depth.clamp_min(1e-6) / focal).log()


def logits(alpha: Tensor) -> Tensor:
    """Logits of the splats' opacity [...]: OPACITY times the pixel's, which is alpha [...] above INSIDE."""
    return (OPACITY * alpha.clamp_min(INSIDE)).logit()


def colours(image: Tensor, alpha: Tensor) -> Tensor:
    """The mouse's own colour in each pixel: at its edge a pixel is a mixture with the white background.

    Args:
        image: [B, V, 3, H, W] in [0, 1], over white.
        alpha: [B, V, H, W] opacity in [0, 1], above INSIDE where it matters.

    Returns:
        [B, V, H, W, 3] coefficients of the constant spherical harmonic.
    """
    alpha = alpha[:, :, None].clamp_min(INSIDE)
    own = ((image - (1 - alpha)) / alpha).clamp(0, 1)
    return (own.movedim(2, -1) - 0.5) / SH_C0
