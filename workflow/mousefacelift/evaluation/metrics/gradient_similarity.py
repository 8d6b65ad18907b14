"""Similarity of edges around the mouse: the metric that a blurred prediction cannot please."""

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.training.losses import forgiven

LUMA = (0.299, 0.587, 0.114)
STABILITY = 170 / 255**2  # the paper's constant, for values in [0, 1]
MARGIN = 1 / 16  # of the view's width, around the silhouette's bounding box


def gradient_similarity(
    rgb: Tensor, _alpha: Tensor, target: Tensor, mask: Tensor, unknown: Tensor | None = None
) -> Tensor:
    """Mean gradient magnitude similarity of each view, around the true silhouette.

    Xue et al. (2014), Gradient magnitude similarity deviation. Luma at half size, Prewitt gradients. The paper pools the
    map by its standard deviation (GMSD). This is the mean (its GMSM), since higher is better, and since a prediction that is
    wrong everywhere alike has no deviation. White pixels are equal in every prediction, so the mean is over the bounding box
    of the true silhouette with a margin of a sixteenth of the view.

    Args:
        rgb: predicted views [..., 3, H, W] in [0, 1], H and W even.
        target: true views [..., 3, H, W] in [0, 1].
        mask: true opacity [..., H, W] in [0, 1]; the silhouette is where it exceeds 0.5.
        unknown: [..., H, W] bool, pixels to be left out: they are equal in both views, and no half-size pixel with a part of
            one counts.

    Returns:
        [...] in (0, 1], 1 for equal views; NaN where the silhouette is empty.
    """
    first, second = gradient_magnitude(forgiven(rgb, target, unknown)), gradient_magnitude(target)
    similarity = (2 * first * second + STABILITY) / (first.square() + second.square() + STABILITY)
    region = surroundings(functional.max_pool2d((mask > 0.5).to(rgb.dtype).flatten(0, -3), 2).bool())
    region = region.reshape(similarity.shape)
    if unknown is not None:
        halves = functional.max_pool2d(unknown.to(rgb.dtype).flatten(0, -3), 2).bool()
        region = region & ~halves.reshape(similarity.shape)
    region = region.to(rgb.dtype)
    return (similarity * region).sum(dim=(-2, -1)) / region.sum(dim=(-2, -1))


def gradient_magnitude(rgb: Tensor) -> Tensor:
    """Length of the luma's Prewitt gradient at half size.

    Args:
        rgb: [..., 3, H, W] in [0, 1].

    Returns:
        [..., H / 2, W / 2], per half-size pixel.
    """
    luma = (rgb * rgb.new_tensor(LUMA).view(3, 1, 1)).sum(-3)
    half = functional.avg_pool2d(luma.reshape(-1, 1, *luma.shape[-2:]), 2)
    across = rgb.new_tensor([[1.0, 0.0, -1.0]] * 3) / 3
    # Zeros around a white view would be an edge.
    padded = functional.pad(half, (1, 1, 1, 1), mode="replicate")
    gradient = functional.conv2d(padded, torch.stack([across, across.T]).unsqueeze(1))
    return gradient.square().sum(1).sqrt().reshape(*luma.shape[:-2], *half.shape[-2:])


def surroundings(mask: Tensor) -> Tensor:
    """The bounding box of each mask with its margin: [N, H, W] bool, nowhere true where the mask is empty."""
    margin = round(MARGIN * mask.shape[-1])
    rows, columns = _between(mask.any(-1), margin), _between(mask.any(-2), margin)
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)


def _between(there: Tensor, margin: int) -> Tensor:
    """From the first to the last true element of each row [N, L], and `margin` elements on either side."""
    length = there.shape[-1]
    places = torch.arange(length, device=there.device)
    first = torch.where(there, places, length).amin(-1, keepdim=True)
    last = torch.where(there, places, -1).amax(-1, keepdim=True)
    return there.any(-1, keepdim=True) & (places >= first - margin) & (places <= last + margin)
