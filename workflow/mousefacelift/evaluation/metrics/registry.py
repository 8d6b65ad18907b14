"""The metrics by name. A new metric is a file beside this one and a line in METRICS: nothing else lists them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.evaluation.metrics.gradient_similarity import gradient_similarity
from mousefacelift.evaluation.metrics.mask_iou import mask_iou
from mousefacelift.evaluation.metrics.ms_ssim import ms_ssim
from mousefacelift.evaluation.metrics.psnr import psnr
from mousefacelift.evaluation.metrics.psnr_foreground import psnr_foreground
from mousefacelift.evaluation.metrics.ssim import ssim


@dataclass(frozen=True)
class Metric:
    """A score of predicted views; higher is better.

    label: without the unit. unit: empty for a ratio. digits: decimals in a table. measure: predicted rgb
    [..., 3, H, W], alpha [..., H, W], target [..., 3, H, W], mask [..., H, W] and, if there are any, unknown [..., H, W],
    pixels to be left out -> [...], NaN for a view without a value.
    validated: whether `train` measures it too, on the validation split.
    """

    label: str
    unit: str
    digits: int
    measure: Callable[..., Tensor]
    validated: bool = False

    @property
    def title(self) -> str:
        """The label with the unit, for a column or an axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        """A value as tables show it, without the unit."""
        return f"{value:.{self.digits}f}"


METRICS = {
    "psnr": Metric("PSNR", "dB", 2, psnr, validated=True),
    "psnr_foreground": Metric("PSNR inside the silhouette", "dB", 2, psnr_foreground, validated=True),
    "ssim": Metric("SSIM", "", 3, ssim),
    "ms_ssim": Metric("MS-SSIM", "", 3, ms_ssim),
    "gradient_similarity": Metric("gradient similarity", "", 3, gradient_similarity),
    "mask_iou": Metric("mask IoU", "", 3, mask_iou, validated=True),
}
PRIMARY = "psnr"  # the one by which methods are ranked
# Those that count the mouse alone, whatever it covers of the picture; the first one ranks. A mouse of 0.2 % of the picture, left
# out, costs 27 dB less of what counts over the whole picture than one of a third of it: the rest is white, and easily right.
MOUSE_ALONE = ("psnr_foreground", "mask_iou")


def metric(name: str) -> Metric:
    """The metric of a name. Raises UserError for an unknown one, with those that there are."""
    if name not in METRICS:
        raise UserError(f"{name}: no such metric; there are {', '.join(METRICS)}")
    return METRICS[name]


def score(rgb: Tensor, alpha: Tensor, target: Tensor, mask: Tensor, unknown: Tensor | None = None) -> dict[str, Tensor]:
    """Every metric of V views.

    Args:
        rgb: predicted views [V, 3, S, S] in [0, 1].
        alpha: predicted opacity [V, S, S] in [0, 1].
        target: true views [V, 3, S, S] over white, in [0, 1].
        mask: true opacity [V, S, S] in [0, 1].
        unknown: [V, S, S] bool, pixels of which nothing is known; None without any.

    Returns:
        metric -> [V].
    """
    views = (rgb, alpha, target, mask) if unknown is None else (rgb, alpha, target, mask, unknown)
    return {name: each.measure(*views) for name, each in METRICS.items()}


def validation_metrics() -> dict[str, Metric]:
    """The metrics that `train` measures on held-out views, by the columns of its metrics.csv."""
    return {f"val_{name}": each for name, each in METRICS.items() if each.validated}
