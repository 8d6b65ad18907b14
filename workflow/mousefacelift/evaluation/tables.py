"""Differences between runs or conditions, as tables and metrics.json show them."""

import math
from collections.abc import Iterable

from mousefacelift.base.tables import markdown_table
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, metric

STANDARD_ERROR = (
    "± is the standard error of the paired difference over samples; moments of one recording are alike, so the true one "
    "is larger"
)


def difference_record(mean: float, error: float) -> dict[str, float | None]:
    """A paired difference in metrics.json; of one sample the standard error is null."""
    return {"mean": mean, "standard_error": error if math.isfinite(error) else None}


def difference_text(mean: float, error: float) -> str:
    """A paired difference of the primary metric in a table; of one sample there is no standard error."""
    digits = metric(PRIMARY).digits
    return f"{mean:+.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def comparison_table(what: str, reference: str, rows: Iterable[tuple[str, dict[str, float], str]]) -> str:
    """Means of all metrics as a Markdown table, and the primary one's difference to a reference.

    Args:
        what: the first column's title.
        reference: the name of the row that the others are compared with.
        rows: label, means by metric, and the difference as text.
    """
    primary = metric(PRIMARY)
    others = {name: each for name, each in METRICS.items() if name != PRIMARY}
    columns = [what, primary.title, f"to `{reference}`, {primary.unit}", *(each.title for each in others.values())]
    cells = [
        [label, primary.text(means[PRIMARY]), difference, *(each.text(means[name]) for name, each in others.items())]
        for label, means, difference in rows
    ]
    return markdown_table(columns, cells)
