"""Peak signal-to-noise ratio inside the silhouette: the mouse covers a tenth of a view, and white the rest."""

from torch import Tensor

from mousefacelift.evaluation.metrics.psnr import decibels


def psnr_foreground(rgb: Tensor, _alpha: Tensor, target: Tensor, mask: Tensor, unknown: Tensor | None = None) -> Tensor:
    """PSNR of each view over the pixels of the true silhouette.

    Args:
        rgb: predicted views [..., 3, H, W] in [0, 1].
        target: true views [..., 3, H, W] in [0, 1].
        mask: true opacity [..., H, W] in [0, 1]; the silhouette is where it exceeds 0.5.
        unknown: [..., H, W] bool, pixels to be left out.

    Returns:
        [...] in dB, at most 100; NaN where the silhouette is empty.
    """
    inside = mask > 0.5 if unknown is None else (mask > 0.5) & ~unknown
    inside = inside.to(rgb.dtype)
    error = ((rgb - target).square().mean(-3) * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1))
    return decibels(error)
