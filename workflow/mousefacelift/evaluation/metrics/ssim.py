"""Structural similarity of whole views."""

from torch import Tensor

from mousefacelift.training import losses


def ssim(rgb: Tensor, _alpha: Tensor, target: Tensor, _mask: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Structural similarity of each view, as the loss term computes it (`training.losses.ssim`).

    Args:
        rgb: predicted views [..., 3, H, W] in [0, 1].
        target: true views [..., 3, H, W] in [0, 1].
        unknown: [..., H, W] bool, pixels to be left out.

    Returns:
        [...] in [0, 1].
    """
    return losses.ssim(rgb, target, unknown)
