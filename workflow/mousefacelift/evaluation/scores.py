"""Scores of many samples: their means, and how two sets of them differ."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mousefacelift.evaluation.metrics.registry import METRICS

Scores = dict[str, dict[str, Tensor]]  # method or condition -> metric -> [N, V]


def stacked(rows: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The scores of N samples, metric -> [V] each, as metric -> [N, V]."""
    rows = list(rows)
    return {name: torch.stack([row[name] for row in rows]) for name in METRICS}


def mean_score(values: Tensor) -> float:
    """The mean over all views that have a value: a view with an empty silhouette has no PSNR inside it."""
    return float(values[values.isfinite()].mean()) if values.isfinite().any() else 0.0


def mean_scores(table: dict[str, Tensor]) -> dict[str, float]:
    """The mean of every metric."""
    return {name: mean_score(table[name]) for name in METRICS}


def paired_difference(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Mean over samples of first - second, and its standard error.

    A sample's views are averaged first: they show one moment and are not independent.

    Args:
        first: [N, V]; NaN for a view without a value.
        second: [N, V] of the same samples and views.

    Returns:
        The mean, 0 without any value, and its standard error, infinite with fewer than two samples.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    there = np.isfinite(differences)
    views = there.sum(axis=1)
    means = np.where(there, differences, 0).sum(axis=1)[views > 0] / views[views > 0]
    n = len(means)
    return (float(means.mean()) if n else 0.0), (float(means.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf)


def is_clear(mean: float, error: float) -> bool:
    """Whether a difference exceeds two standard errors."""
    return abs(mean) > 2 * error
