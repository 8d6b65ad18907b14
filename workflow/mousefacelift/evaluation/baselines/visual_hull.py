"""The visual hull of the input views, coloured by their pixels: what silhouettes and cameras say without training."""

from collections.abc import Callable

import torch
from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample
from mousefacelift.models.gaussians import render
from mousefacelift.models.hull.surface import hull_gaussians
from mousefacelift.training.data import Samples


def prepare(_training: Callable[[], Samples]) -> Predict:
    """Nothing is learned from the training split."""
    return predict


def predict(sample: Sample, inputs: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Image [V, 3, S, S] and opacity [V, S, S] of every view, drawn from its inputs' hull, on the sample's device."""
    size = sample["image"].shape[-1]
    drawn = []
    with torch.inference_mode():
        for view, given in enumerate(inputs):
            names = (name for name in ("image", "alpha", "c2w", "w2c", "fxfycxcy", "unknown") if name in sample)
            gaussians = hull_gaussians(*(sample[name][given] for name in names))
            w2c, fxfycxcy = (sample[name][None, view : view + 1] for name in ("w2c", "fxfycxcy"))
            drawn.append(render(gaussians, w2c, fxfycxcy, size, size))
    return torch.cat([rgb[0] for rgb, _ in drawn]).clamp(0, 1), torch.cat([alpha[0] for _, alpha in drawn])
