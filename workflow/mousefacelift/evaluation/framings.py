"""Framings of the same moments: how large `normalize` shows the mouse, from which cameras, and what given weights make of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mousefacelift.config.normalize import Normalize
from mousefacelift.config.reading import validate
from mousefacelift.evaluation.metrics.registry import MOUSE_ALONE, metric
from mousefacelift.evaluation.scores import Scores, is_clear, mean_score, paired_difference
from mousefacelift.evaluation.tables import difference_text


@dataclass(frozen=True)
class Framing:
    """A way to frame the mouse.

    label: in words. changes: keys of `normalize` that it sets. fills: whether canonical_extent is the one at which the mouse
    fills the picture.
    """

    label: str
    changes: Mapping[str, Any]
    fills: bool = False


FRAMINGS = {
    "exact": Framing("cameras as they stand, FaceLift's focal length", {"distance": "exact", "zoom": 1.0, "fit": "whole"}),
    "fit": Framing(
        "cameras as they stand, the focal length at which the mouse fills the picture",
        {"distance": "exact", "zoom": "fit", "fit": "whole"},
    ),
    "canonical": Framing(
        "FaceLift's distance and focal length, the world scaled so that the mouse fills the picture; approximate",
        {"distance": "canonical", "zoom": 1.0, "fit": "whole"},
        fills=True,
    ),
    # The last: what the framings before it report as the filling extent is the whole mouse's.
    "fit_body": Framing(
        "cameras as they stand, the focal length at which trunk and head fill the picture; a tail may leave it",
        {"distance": "exact", "zoom": "fit", "fit": "body"},
    ),
}  # fmt: skip


def framed(settings: Normalize, name: str, extent: float | None) -> Normalize:
    """The settings of `normalize` with a framing.

    Args:
        settings: the configured ones; what a framing does not set stays.
        name: of the framing.
        extent: canonical_extent for a framing that fills the picture by it; None keeps the configured one.
    """
    framing = FRAMINGS[name]
    changes = dict(framing.changes) | ({"canonical_extent": extent} if framing.fills and extent else {})
    return validate(Normalize, settings.model_dump(mode="json") | changes, f"framing {name}: normalize")


def lead(model: Mapping[str, Any], hull: Mapping[str, Any], name: str) -> Any:
    """What the model has over the visual hull of the same pictures by a metric, [N, V]."""
    return model[name] - hull[name]


def verdict(models: Scores, hulls: Scores) -> str:
    """What the numbers say: with which framing the weights are farthest above the visual hull of the same pictures.

    The visual hull sees the same pictures at the same scale, so what makes a large or a small mouse easier is in both.

    Args:
        models: framing -> metric -> [N, V], of the same samples and views.
        hulls: the same of the visual hull.
    """
    if len(models) < 2:
        return f"`{next(iter(models))}` alone could be made: there is nothing to compare it with."
    best = {name: _ranked(models, hulls, name)[0] for name in MOUSE_ALONE}
    first, *others = _ranked(models, hulls, MOUSE_ALONE[0])
    each = metric(MOUSE_ALONE[0])
    leads = {name: lead(models[name], hulls[name], MOUSE_ALONE[0]) for name in models}
    gaps = {name: paired_difference(leads[first], leads[name]) for name in others}
    level = [name for name, gap in gaps.items() if not is_clear(*gap)]
    above = f"{difference_text(MOUSE_ALONE[0], mean_score(leads[first]), float('inf'))} {each.unit}"
    text = (
        f"By {each.label}, `{first}` compares best with the visual hull of the same pictures: model - hull is {above}"
    )
    if level:
        text += f", but not clearly above that of {' and '.join(f'`{name}`' for name in level)}."
    else:
        text += (
            f", {difference_text(MOUSE_ALONE[0], *gaps[others[0]])} {each.unit} above that of the next, `{others[0]}`."
        )
    for name in MOUSE_ALONE[1:]:
        agrees = "it is the best, too" if best[name] == first else f"`{best[name]}` is the best"
        text += f" By {metric(name).label} {agrees}."
    return text


def _ranked(models: Scores, hulls: Scores, name: str) -> list[str]:
    return sorted(models, key=lambda framing: mean_score(lead(models[framing], hulls[framing], name)), reverse=True)
