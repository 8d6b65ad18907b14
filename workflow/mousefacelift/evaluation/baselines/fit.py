"""Gaussians of each sample for itself, optimised on its input views from the visual hull on: 3DGS of one moment."""

from collections.abc import Callable

from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample, draw_held_out
from mousefacelift.models.gaussians import Gaussians
from mousefacelift.models.hull.surface import HULL_INPUTS, hull_gaussians
from mousefacelift.models.refine import refine
from mousefacelift.training.data import Samples


def prepare(steps: int, _training: Callable[[], Samples]) -> Predict:
    """Nothing is learned from the training split.

    Args:
        steps: of the optimiser, for each held-out view.
    """
    return lambda sample, inputs: predict(sample, inputs, steps)


def predict(sample: Sample, inputs: list[list[int]], steps: int) -> tuple[Tensor, Tensor]:
    """Image [V, 3, S, S] and opacity [V, S, S] of every view, drawn from its inputs' Gaussians; computed on the sample's device."""

    def fitted(view: int) -> Gaussians:
        own = {name: sample[name][inputs[view]] for name in HULL_INPUTS if name in sample}
        seen = {name: each[None] for name, each in own.items() if name != "c2w"}
        # There is no prediction to stay close to.
        return refine(hull_gaussians(**own), steps=steps, prior=0.0, **seen)

    return draw_held_out(sample, fitted)
