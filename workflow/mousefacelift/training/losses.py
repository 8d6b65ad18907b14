"""Image losses of a training run, and the means and the structural similarity that they are made of."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Loss
from mousefacelift.models.precision import full_precision

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def forgiven(drawn: Tensor, true: Tensor, unknown: Tensor | None) -> Tensor:
    """A prediction with the truth in its place where nothing is known: it cannot be wrong there, and learns nothing there.

    Args:
        drawn: predicted views [..., 3, H, W], or opacity [..., H, W].
        true: what was filmed, of the same shape.
        unknown: [..., H, W] bool; None without any unknown pixel.
    """
    if unknown is None:
        return drawn
    return torch.where(unknown.unsqueeze(-3) if drawn.dim() > unknown.dim() else unknown, true, drawn)


def ssim(first: Tensor, second: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Structural similarity of each view.

    Wang et al. (2004), Image quality assessment: from error visibility to structural similarity. Gaussian window of
    11 px with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, averaged over the pixels where the whole window fits.

    Args:
        first: views [..., 3, H, W] in [0, 1]; H and W at least 11 px.
        second: views [..., 3, H, W] in [0, 1].
        unknown: [..., H, W] bool, pixels to be left out: they are equal in both views, and no window is centred on them.

    Returns:
        [...], clamped to [0, 1]: rounding would give constant regions an SSIM above 1 and a negative loss.
    """
    with full_precision(first.device):  # variances are small differences: in bf16 or TF32 they are noise
        return _ssim(forgiven(first, second, unknown).float(), second.float(), unknown)


def _ssim(first: Tensor, second: Tensor, unknown: Tensor | None) -> Tensor:
    shape, (height, width) = first.shape[:-3], first.shape[-2:]
    x, y = first.reshape(-1, 1, height, width), second.reshape(-1, 1, height, width)
    offset = torch.arange(SSIM_WINDOW, device=x.device) - SSIM_WINDOW // 2
    window = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()

    def blur(image: Tensor) -> Tensor:
        image = functional.conv2d(image, window.view(1, 1, 1, -1))
        return functional.conv2d(image, window.view(1, 1, -1, 1))

    mean_x, mean_y, mean_xx, mean_yy, mean_xy = blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (mean_xy - mean_x * mean_y) + c2) / (mean_xx - mean_x**2 + mean_yy - mean_y**2 + c2)
    similarity = luminance * structure
    if unknown is None:
        return similarity.mean(dim=(-3, -2, -1)).view(*shape, 3).mean(-1).clamp(0, 1)
    edge = SSIM_WINDOW // 2
    known = ~unknown[..., edge : height - edge, edge : width - edge]
    similarity = similarity.view(*shape, 3, *known.shape[-2:]).mean(-3)
    return ((similarity * known).sum(dim=(-2, -1)) / known.sum(dim=(-2, -1)).clamp_min(1)).clamp(0, 1)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pixels of a mask, in each sample.

    Args:
        values: [B, ..., H, W].
        mask: [B, ..., H, W], bool.

    Returns:
        [B]; 0 for an empty mask.
    """
    mask = mask.to(values.dtype)
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def open_lpips() -> Any:
    """LPIPS with VGG features, frozen.

    Zhang et al. (2018), The unreasonable effectiveness of deep features as a perceptual metric.

    Raises:
        UserError: if its package is not installed.
    """
    try:
        import lpips
    except ImportError as error:
        raise UserError(
            f"train.loss.lpips needs the package lpips, which is not installed ({error}): pip install -c "
            "envs/constraints.txt -e '.[lpips]'; or set it to 0, as is best for mice"
        ) from None
    return lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)


def image_loss(
    rgb: Tensor,
    alpha: Tensor,
    target: Tensor,
    target_alpha: Tensor,
    weights: Loss,
    lpips: Any = None,
    held_out: Tensor | None = None,
    unknown: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss: a weighted sum of terms.

    `l2` is over all pixels, of which the mouse covers a tenth: alone it learns white. `masked_l2` and `background` average
    inside and outside the silhouette, so their balance does not depend on the mouse's size. White Gaussians on a white
    background look like none, but hide the mouse from other views: only `alpha` sees them. Every term is a mean over
    samples of the sample's own mean, so a batch that is divided among GPUs has the same loss. Unknown pixels are left out of
    all terms.

    Args:
        rgb: predicted views [B, V, 3, H, W].
        alpha: predicted opacity [B, V, H, W] in [0, 1].
        target: true views [B, V, 3, H, W] over white, in [0, 1].
        target_alpha: true opacity [B, V, H, W] in [0, 1]; the silhouette is where it exceeds 0.5.
        weights: of the terms; a term of weight 0 is not computed.
        lpips: of `open_lpips`, if that term has a weight.
        held_out: [B, V] bool, views that were not inputs, for `weights.held_out`; None: all views count alike.
        unknown: [B, V, H, W] bool, pixels of which nothing is known; None without any.

    Returns:
        The weighted sum, a scalar.
        term -> its value without the weight, a scalar.
    """
    rgb, alpha = forgiven(rgb, target, unknown), forgiven(alpha, target_alpha, unknown)
    known = torch.ones_like(target_alpha, dtype=torch.bool) if unknown is None else ~unknown
    error = (rgb - target).square()
    share: Tensor | float = 1.0  # of each view, 1 on average
    if held_out is not None:
        share = torch.where(held_out, weights.held_out, 1.0)
        share = share / share.mean(1, keepdim=True)
        error = error * share[..., None, None, None]
    terms = {}
    if weights.l2:
        terms["l2"] = error.mean() if unknown is None else mean_over(error.mean(-3), known).mean()
    if weights.masked_l2:
        terms["masked_l2"] = mean_over(error.mean(-3), (target_alpha > 0.5) & known).mean()
    if weights.background:
        terms["background"] = mean_over(error.mean(-3), (target_alpha <= 0.5) & known).mean()
    if weights.ssim:
        terms["ssim"] = 1 - (share * ssim(rgb, target, unknown)).mean()
    if weights.lpips:
        distance = lpips(rgb.flatten(0, -4), target.flatten(0, -4), normalize=True)
        terms["lpips"] = (share * distance.view(rgb.shape[:-3])).mean()
    if weights.alpha:
        wrong = (share[..., None, None] if isinstance(share, Tensor) else share) * (alpha - target_alpha).square()
        terms["alpha"] = wrong.mean() if unknown is None else mean_over(wrong, known).mean()
    total = sum((getattr(weights, name) * term for name, term in terms.items()), start=error.new_zeros(()))
    return total, terms
