"""The metrics of an evaluation: their names, and how two sets of them are compared."""

import math

import numpy as np
from numpy.typing import ArrayLike

LABELS = {
    "psnr": "PSNR, dB",
    "psnr_foreground": "PSNR inside the silhouette, dB",
    "ssim": "SSIM",
    "mask_iou": "mask IoU",
}
METRICS = tuple(LABELS)


def paired_difference(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Mean over samples of first - second, and its standard error; [N, V] each.

    A sample's views are averaged first: they show one moment and are not independent. NaN stands for a view without
    the metric. The error is infinite with fewer than two samples.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    there = np.isfinite(differences)
    views = there.sum(axis=1)
    means = np.where(there, differences, 0).sum(axis=1)[views > 0] / views[views > 0]
    n = len(means)
    return (float(means.mean()) if n else 0.0), (float(means.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf)
