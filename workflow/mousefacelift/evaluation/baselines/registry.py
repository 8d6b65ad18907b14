"""The baselines by name. A new baseline is a file beside this one and a line in BASELINES: nothing else lists them."""

from collections.abc import Callable
from dataclasses import dataclass

from mousefacelift.base.errors import UserError
from mousefacelift.evaluation.baselines import mean_train, nearest_view, visual_hull, white
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


def baseline(name: str) -> Baseline:
    """The baseline of a name. Raises UserError for an unknown one, with those that there are."""
    if name not in BASELINES:
        raise UserError(f"{name}: no such baseline; there are {', '.join(BASELINES)}")
    return BASELINES[name]
