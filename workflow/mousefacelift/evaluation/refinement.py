"""What an evaluation says of test-time refinement and of a fit: what they gain on held-out views, and their time."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.methods import MODEL, REFINED, method_labels
from mousefacelift.evaluation.metrics.registry import metric
from mousefacelift.evaluation.scores import Lead, Scores, leads
from mousefacelift.evaluation.tables import difference_record, difference_text, lead_sentences


def is_timed(settings: Evaluate) -> bool:
    """Whether an evaluation says how long its methods take: only optimised ones, whose time is a choice, make it worth a line."""
    return bool(settings.refine_steps or settings.baselines)


def median_seconds(rows: Sequence[Mapping[str, float]], views: int) -> dict[str, float]:
    """The median time of each method for one held-out view: kernels are compiled in the first sample.

    Args:
        rows: per sample, method -> seconds for all of its views.
        views: of a sample, each predicted from its own input views.
    """
    return {method: statistics.median(row[method] for row in rows) / views for method in rows[0]}


def refinement_gain(scores: Scores) -> dict[str, Lead]:
    """The refined model against the model as it is, by metric, paired over samples."""
    return leads(scores[REFINED], {MODEL: scores[MODEL]})


def loss_warning(gain: Mapping[str, Lead]) -> str | None:
    """The warning that refinement makes held-out views worse on average, by whatever metric; None if it does not."""
    worse = [
        f"{metric(name).label} by {difference_text(name, lead.mean, lead.error)} {metric(name).unit}".rstrip()
        for name, lead in gain.items()
        if lead.mean < 0
    ]
    if not worse:
        return None
    return (
        f"Warning: refinement changes held-out views for the worse, on average: {', '.join(worse)}. It fits the input views at "
        "their cost; take fewer steps (evaluate.refine_steps), or none."
    )


def refinement_record(scores: Scores, settings: Evaluate) -> dict[str, Any]:
    """What metrics.json says of refinement."""
    gain = refinement_gain(scores)
    return {
        "steps": settings.refine_steps,
        "gain": {name: difference_record(lead.mean, lead.error) for name, lead in gain.items()},
        "warning": loss_warning(gain),
    }


def refinement_text(scores: Scores, settings: Evaluate) -> str:
    """What table.md says of refinement."""
    gain = refinement_gain(scores)
    warning = loss_warning(gain)
    lines = "".join(f"- {sentence}\n" for sentence in lead_sentences("refined model", gain))
    return (
        f"\nThe model refined in {settings.refine_steps} gradient steps on its input views, against the model as it is:\n\n{lines}"
        + (f"\n{warning}\n" if warning else "")
    )


def time_text(seconds: Mapping[str, float], settings: Evaluate, machine: str) -> str:
    """What table.md says of time; what takes less than a millisecond is left out."""
    labels = method_labels(settings)
    times = ", ".join(f"{labels[method]} {value:.3g} s" for method, value in seconds.items() if value >= 1e-3)
    return f"\nMedian time for one held-out view, from its input views to the picture, on {machine}: {times}.\n"
