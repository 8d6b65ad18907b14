"""What a run knows of its training samples and not of others: one metric on both, and their difference."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GapColumns:
    """The columns of metrics.csv for one metric on held-out views of training and of validation samples.

    metric: the metric's name. train, val: the means. train_error, val_error: their standard errors over samples.
    """

    metric: str

    @property
    def train(self) -> str:
        """The mean over training samples."""
        return f"train_{self.metric}"

    @property
    def val(self) -> str:
        """The mean over validation samples."""
        return f"val_{self.metric}"

    @property
    def train_error(self) -> str:
        """The standard error of `train`."""
        return error_column(self.train)

    @property
    def val_error(self) -> str:
        """The standard error of `val`."""
        return error_column(self.val)

    @property
    def added(self) -> list[str]:
        """The columns that are there for the gap alone."""
        return [self.train, self.train_error, self.val_error]


@dataclass(frozen=True)
class Gap:
    """Training minus validation, after `step`; each a mean over samples with its standard error, NaN if unknown."""

    step: int
    train: tuple[float, float]
    val: tuple[float, float]

    @property
    def difference(self) -> tuple[float, float]:
        """Its mean and standard error. The samples differ, so the errors add as those of independent means."""
        return self.train[0] - self.val[0], math.hypot(self.train[1], self.val[1])


def error_column(column: str) -> str:
    """The column of a mean's standard error."""
    return f"{column}_error"


def over_samples(values: Iterable[Iterable[float]]) -> tuple[float, float]:
    """Mean over samples, and its standard error. A sample's views show one moment, so they are averaged first.

    Args:
        values: of each sample's views; NaN for a view without a value.

    Returns:
        The mean, NaN without any value.
        The standard error, NaN with fewer than two samples.
    """
    known = [[value for value in views if math.isfinite(value)] for views in values]
    means = [float(np.mean(views)) for views in known if views]
    if not means:
        return math.nan, math.nan
    error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(np.mean(means)), error


def last_gap(rows: dict[int, dict[str, float]], columns: GapColumns) -> Gap | None:
    """The gap at the last validation that measured both.

    Args:
        rows: step -> column of metrics.csv -> value.
        columns: of the metric.

    Returns:
        None if no validation did.
    """
    steps = [step for step, row in rows.items() if columns.train in row and columns.val in row]
    if not steps:
        return None
    row = rows[max(steps)]
    errors = (row.get(name, math.nan) for name in (columns.train_error, columns.val_error))
    return Gap(max(steps), *zip((row[columns.train], row[columns.val]), errors, strict=True))
