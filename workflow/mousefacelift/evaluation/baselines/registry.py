"""The baselines by name. A new baseline is a file beside this one and a line in BASELINES: nothing else lists them.

One that takes long is a line in ON_REQUEST instead, and a value of `evaluate.baselines`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.baselines import fit, mean_train, nearest_view, visual_hull, white
from mousefacelift.evaluation.predict import Predict
from mousefacelift.training.data import Samples


@dataclass(frozen=True)
class Baseline:
    """A prediction without a model.

    label: in legends and tables. prepare: given a function that opens the training split, learns what it needs of it
    and returns the prediction. pictured: whether the pictures of samples show it beside the model.
    """

    label: str
    prepare: Callable[[Callable[[], Samples]], Predict]
    pictured: bool = False


BASELINES = {
    "white": Baseline("white image", white.prepare),
    "mean_train": Baseline("mean training image", mean_train.prepare),
    "nearest_view": Baseline("nearest input", nearest_view.prepare, pictured=True),
    "visual_hull": Baseline("visual hull", visual_hull.prepare, pictured=True),
}

# Those that `evaluate.baselines` asks for by name.
ON_REQUEST: dict[str, Callable[[Evaluate], Baseline]] = {
    "fit": lambda settings: Baseline(
        f"fit, {settings.fit_steps} steps", partial(fit.prepare, settings.fit_steps), pictured=True
    ),
}


def chosen(settings: Evaluate) -> dict[str, Baseline]:
    """The baselines of an evaluation: all of BASELINES, then those that are asked for."""
    return BASELINES | {name: make(settings) for name, make in ON_REQUEST.items() if name in settings.baselines}


def baseline(name: str) -> Baseline:
    """The baseline of a name. Raises UserError for an unknown one, with those that there are."""
    if name not in BASELINES:
        raise UserError(f"{name}: no such baseline; there are {', '.join(BASELINES)}")
    return BASELINES[name]
