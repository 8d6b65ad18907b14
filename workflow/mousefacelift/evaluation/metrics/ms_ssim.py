"""Structural similarity of whole views at several scales: shape and shading, coarse and fine."""

from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mousefacelift.models.precision import full_precision
from mousefacelift.training.losses import forgiven

# Wang et al. (2003) use five scales, whose window of 11 px needs images larger than 160 px. Four fit 128 px.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363)
WINDOW = 11


def ms_ssim(rgb: Tensor, _alpha: Tensor, target: Tensor, _mask: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Multi-scale structural similarity of each view, over at most four scales.

    Wang, Simoncelli and Bovik (2003), Multi-scale structural similarity for image quality assessment; window and constants
    as in `training.losses.ssim`. A scale halves the image. The weights of the scales that are used are the paper's, divided
    by their sum. A negative term counts as 0.

    Args:
        rgb: predicted views [..., 3, H, W] in [0, 1]; H and W at least 11 px.
        target: true views [..., 3, H, W] in [0, 1].
        unknown: [..., H, W] bool, pixels of which nothing is known: they count as equal in both views.

    Returns:
        [...] in [0, 1].
    """
    shape, weights = rgb.shape[-3:], WEIGHTS[: scales(min(rgb.shape[-2:]))]
    rgb = forgiven(rgb, target, unknown)
    with full_precision(rgb.device):
        values = multiscale_structural_similarity_index_measure(
            rgb.float().reshape(-1, *shape),
            target.float().reshape(-1, *shape),
            kernel_size=WINDOW,
            reduction="none",
            data_range=1.0,
            betas=tuple(weight / sum(weights) for weight in weights),
            normalize="relu",
        )
    # Rounding gives equal views a value above 1.
    return values.reshape(rgb.shape[:-3]).clamp(0, 1)


def scales(size: int) -> int:
    """The number of scales for images of `size` px: as many of the four as torchmetrics lets the window fit."""
    return max(n for n in range(1, len(WEIGHTS) + 1) if n == 1 or size // (n - 1) ** 2 >= WINDOW)
