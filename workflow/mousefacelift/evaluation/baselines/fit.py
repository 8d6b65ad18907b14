"""Gaussians of each sample for itself, optimised on its input views from the visual hull on: 3DGS of one moment."""

from collections.abc import Callable

import torch
from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample
from mousefacelift.models.gaussians import render
from mousefacelift.models.hull.surface import hull_gaussians
from mousefacelift.models.refine import refine
from mousefacelift.training.data import Samples


def prepare(steps: int, _training: Callable[[], Samples]) -> Predict:
    """Nothing is learned from the training split.

    Args:
        steps: of the optimiser, for each held-out view.
    """
    return lambda sample, inputs: predict(sample, inputs, steps)


def predict(sample: Sample, inputs: list[list[int]], steps: int) -> tuple[Tensor, Tensor]:
    """Image [V, 3, S, S] and opacity [V, S, S] of every view, drawn from its inputs' Gaussians, on the sample's device."""
    size = sample["image"].shape[-1]
    drawn = []
    for view, given in enumerate(inputs):
        names = ("image", "alpha", "c2w", "w2c", "fxfycxcy", "unknown")
        own = {name: sample[name][given] for name in names if name in sample}
        hull = hull_gaussians(**own)
        seen = {name: each[None] for name, each in own.items() if name != "c2w"}
        # There is no prediction to stay close to.
        fitted = refine(hull, steps=steps, prior=0.0, **seen)
        own_w2c, own_fxfycxcy = (sample[name][None, view : view + 1] for name in ("w2c", "fxfycxcy"))
        with torch.inference_mode():
            drawn.append(render(fitted, own_w2c, own_fxfycxcy, size, size))
    return torch.cat([rgb[0] for rgb, _ in drawn]).clamp(0, 1), torch.cat([alpha[0] for _, alpha in drawn])
