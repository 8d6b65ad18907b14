"""Overlap of the drawn and the true silhouette."""

import torch
from torch import Tensor


def mask_iou(_rgb: Tensor, alpha: Tensor, _target: Tensor, mask: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Intersection over union of each view's silhouettes, which are where an opacity exceeds 0.5.

    Args:
        alpha: predicted opacity [..., H, W] in [0, 1].
        mask: true opacity [..., H, W] in [0, 1].
        unknown: [..., H, W] bool, pixels to be left out of both silhouettes.

    Returns:
        [...] in [0, 1]; 1 where both silhouettes are empty.
    """
    found, expected = alpha > 0.5, mask > 0.5
    if unknown is not None:
        found, expected = found & ~unknown, expected & ~unknown
    intersection = (found & expected).sum(dim=(-2, -1))
    union = (found | expected).sum(dim=(-2, -1))
    return torch.where(union > 0, intersection / union.clamp_min(1), 1.0)
