"""Scores of many samples: their means with standard errors, and how two sets of them differ."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.training.gap import over_samples

Scores = dict[str, dict[str, Tensor]]  # method or condition -> metric -> [N, V]
Estimate = tuple[float, float]  # a mean, and its standard error, infinite with fewer than two samples


@dataclass(frozen=True)
class Lead:
    """What a method has over the best baseline by one metric.

    baseline: its name. mean: the paired difference, method - baseline, so negative where the baseline is better. error: its
    standard error.
    """

    baseline: str
    mean: float
    error: float


def stacked(rows: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The scores of N samples, metric -> [V] each, as metric -> [N, V]."""
    rows = list(rows)
    return {name: torch.stack([row[name] for row in rows]) for name in METRICS}


def mean_score(values: ArrayLike) -> float:
    """The mean over all views that have a value: a view with an empty silhouette has no PSNR inside it."""
    there = np.asarray(values, np.float64)
    there = there[np.isfinite(there)]
    return float(there.mean()) if len(there) else 0.0


def mean_scores(table: Mapping[str, ArrayLike]) -> dict[str, float]:
    """The mean of every metric."""
    return {name: mean_score(table[name]) for name in METRICS}


def standard_error(values: ArrayLike) -> float:
    """The standard error of a mean over samples.

    A sample's views are averaged first: they show one moment and are not independent.

    Args:
        values: [N, V]; NaN for a view without a value.

    Returns:
        The standard deviation of the samples' means over the root of their number, infinite with fewer than two.
    """
    return paired_difference(values, np.zeros(np.shape(values)))[1]


def estimates(table: Mapping[str, ArrayLike]) -> dict[str, Estimate]:
    """Mean and standard error of every metric."""
    return {name: (mean_score(table[name]), standard_error(table[name])) for name in METRICS}


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Mean over samples of first - second, and its standard error.

    A sample's views are averaged first: they show one moment and are not independent.

    Args:
        first: [N, V]; NaN for a view without a value.
        second: [N, V] of the same samples and views.

    Returns:
        The mean, 0 without any value, and its standard error, infinite with fewer than two samples.
    """
    mean, error = over_samples(np.asarray(first, np.float64) - np.asarray(second, np.float64))
    return 0.0 if math.isnan(mean) else mean, math.inf if math.isnan(error) else error


def is_clear(mean: float, error: float) -> bool:
    """Whether a difference exceeds two standard errors."""
    return abs(mean) > 2 * error


def leads(scores: Mapping[str, ArrayLike], baselines: Mapping[str, Mapping[str, ArrayLike]]) -> dict[str, Lead]:
    """How a method compares with the best baseline by each metric: the one with the highest mean.

    Args:
        scores: metric -> [N, V] of the method.
        baselines: baseline -> metric -> [N, V] of the same samples and views; at least one.

    Returns:
        metric -> the paired difference.
    """
    found = {}
    for name in METRICS:
        means = {each: mean_score(table[name]) for each, table in baselines.items()}
        best = max(means, key=lambda each: means[each])
        found[name] = Lead(best, *paired_difference(scores[name], baselines[best][name]))
    return found
