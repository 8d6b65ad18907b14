"""The visual hull of the input views, coloured by their pixels: what silhouettes and cameras say without training."""

from collections.abc import Callable

from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample, draw_held_out
from mousefacelift.models.hull.surface import HULL_INPUTS, hull_gaussians
from mousefacelift.training.data import Samples


def prepare(_training: Callable[[], Samples]) -> Predict:
    """Nothing is learned from the training split."""
    return predict


def predict(sample: Sample, inputs: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Image [V, 3, S, S] and opacity [V, S, S] of every view, drawn from its inputs' hull; computed on the sample's device."""
    names = [name for name in HULL_INPUTS if name in sample]
    return draw_held_out(sample, lambda view: hull_gaussians(**{name: sample[name][inputs[view]] for name in names}))
