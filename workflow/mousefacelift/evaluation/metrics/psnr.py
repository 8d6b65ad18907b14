"""Peak signal-to-noise ratio of whole views."""

from torch import Tensor

MIN_ERROR = 1e-10  # mean squared error that counts as none: PSNR ends at 100 dB


def psnr(rgb: Tensor, _alpha: Tensor, target: Tensor, _mask: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each view.

    Args:
        rgb: predicted views [..., 3, H, W] in [0, 1].
        target: true views [..., 3, H, W] in [0, 1].
        unknown: [..., H, W] bool, pixels to be left out.

    Returns:
        [...] in dB, at most 100; NaN where nothing is known.
    """
    error = (rgb - target).square().mean(-3)
    if unknown is None:
        return decibels(error.mean(dim=(-2, -1)))
    return decibels((error * ~unknown).sum(dim=(-2, -1)) / (~unknown).sum(dim=(-2, -1)))


def decibels(error: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors [...] of values in [0, 1]; NaN stays NaN."""
    return -10 * error.clamp_min(MIN_ERROR).log10()
