"""Means and differences with their standard errors, as tables, logs and metrics.json show them."""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from mousefacelift.base.tables import markdown_table
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, metric
from mousefacelift.evaluation.scores import Estimate, Lead, estimates, is_clear

STANDARD_ERROR = (
    "± is one standard error over samples, each the mean of its views; that of a difference is paired. Moments of one "
    "recording are alike, so the true errors are larger"
)
FEW_SAMPLES = 10


def few_samples(samples: int) -> str | None:
    """The warning that stands in a table of few samples; None for enough of them."""
    if samples >= FEW_SAMPLES:
        return None
    if samples < 2:
        return "Warning: 1 sample has no standard error. Nothing follows from these numbers; evaluate more samples."
    doubt = 100 / math.sqrt(2 * (samples - 1))  # of a standard deviation of independent normal values
    return (
        f"Warning: {samples} samples are few. A standard error of so few is itself uncertain by {doubt:.0f} %, so a difference "
        f"of two standard errors is no proof. Evaluate {FEW_SAMPLES} samples or more."
    )


def few_samples_note(samples: int) -> str:
    """The warning as a paragraph of a table; nothing for enough samples."""
    warning = few_samples(samples)
    return f"\n{warning}\n" if warning else ""


def warn_of_few_samples(samples: int) -> None:
    """Print the warning to the log if it applies."""
    if warning := few_samples(samples):
        print(warning, file=sys.stderr, flush=True)


def difference_record(mean: float, error: float) -> dict[str, float | None]:
    """A paired difference in metrics.json; of one sample the standard error is null."""
    return {"mean": mean, "standard_error": _finite(error)}


def uncertainty_records(
    scores: Mapping[str, Mapping[str, Any]], found: Mapping[str, dict[str, Lead]]
) -> dict[str, Any]:
    """What every metrics.json says of its means: their standard errors, the leads, and the warning.

    Args:
        scores: row of the table -> metric -> [N, V].
        found: row -> metric -> its lead over the best baseline.
    """
    samples = max(len(table[PRIMARY]) for table in scores.values())
    return {
        "standard_error": {
            row: {name: _finite(error) for name, (_, error) in estimates(table).items()}
            for row, table in scores.items()
        },
        "to_best_baseline": {
            row: {name: _lead_record(lead) for name, lead in by_metric.items()} for row, by_metric in found.items()
        },
        "warning": few_samples(samples),
    }


def _lead_record(lead: Lead) -> dict[str, Any]:
    clear = {"clear": is_clear(lead.mean, lead.error)}
    return {"baseline": lead.baseline} | difference_record(lead.mean, lead.error) | clear


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def estimate_text(name: str, mean: float, error: float) -> str:
    """A mean by a metric's name; of one sample there is no standard error."""
    each = metric(name)
    return each.text(mean) + (f" ± {each.text(error)}" if math.isfinite(error) else "")


def difference_text(name: str, mean: float, error: float) -> str:
    """A paired difference by a metric's name, always with its sign."""
    return ("" if mean < 0 else "+") + estimate_text(name, mean, error)


def lead_verdict(lead: Lead) -> str:
    """One word or two on a lead: a difference is clear beyond two standard errors."""
    if not math.isfinite(lead.error):
        return "unclear (one sample)"
    if not is_clear(lead.mean, lead.error):
        return "no clear difference"
    return "better" if lead.mean > 0 else "worse"


def lead_sentences(who: str, found: dict[str, Lead]) -> list[str]:
    """One sentence per metric, such as: PSNR, model - white image: -2.30 ± 0.20 dB: the model is worse."""
    sentences = []
    for name, lead in found.items():
        each, verdict = metric(name), lead_verdict(lead)
        size = f"{difference_text(name, lead.mean, lead.error)} {each.unit}".rstrip()
        words = f"the {who} is {verdict}" if verdict in ("better", "worse") else verdict
        sentences.append(f"{each.label}, {who} - {baseline_label(lead.baseline)}: {size}: {words}")
    return sentences


def lead_table(what: str, found: Mapping[str, dict[str, Lead]]) -> str:
    """Every row of a comparison against the best baseline by each metric, as Markdown with a line that explains it."""
    labels = {name: {baseline_label(each[name].baseline) for each in found.values()} for name in METRICS}
    columns = [what, *(f"{METRICS[name].title}: minus {' or '.join(sorted(labels[name]))}" for name in METRICS)]
    cells = []
    for row, by_metric in found.items():
        cells.append([f"`{row}`"])
        for name, lead in by_metric.items():
            cell = f"{difference_text(name, lead.mean, lead.error)}, {lead_verdict(lead)}"
            # Runs with other inputs may have another best baseline.
            cells[-1].append(cell if len(labels[name]) == 1 else f"{cell} than {baseline_label(lead.baseline)}")
    return (
        "Each row minus the baseline that is best by the metric, paired over samples. Better and worse: by more than two "
        f"standard errors.\n\n{_padded(columns, cells)}"
    )


def baseline_label(name: str) -> str:
    """A baseline's label, or its name where a result holds one that is not in the registry."""
    return BASELINES[name].label if name in BASELINES else name


def comparison_table(
    what: str, rows: Iterable[tuple[str, dict[str, Estimate], str]], reference: str | None = None
) -> str:
    """Means of all metrics with their standard errors as a Markdown table.

    Args:
        what: the first column's title.
        rows: label, mean and standard error by metric, and the primary metric's difference to the reference as text.
        reference: the name of the row that the others are compared with; without one there is no such column.
    """
    primary = metric(PRIMARY)
    others = {name: each for name, each in METRICS.items() if name != PRIMARY}
    compared = [f"to `{reference}`, {primary.unit}"] if reference else []
    columns = [what, primary.title, *compared, *(each.title for each in others.values())]
    cells = []
    for label, found, difference in rows:
        first, *rest = (estimate_text(name, *found[name]) for name in (PRIMARY, *others))
        cells.append([label, first, *([difference] if reference else []), *rest])
    return _padded(columns, cells)


def _padded(columns: list[str], cells: list[list[str]]) -> str:
    """A Markdown table whose cells are padded to columns, because a log shows it as it is."""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    head, *lines = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (columns, *cells))
    return markdown_table(head, lines)
