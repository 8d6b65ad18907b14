"""The mean training image of every view: what can be known without looking at the sample."""

from collections.abc import Callable

import torch
from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample
from mousefacelift.training.data import Samples


def prepare(training: Callable[[], Samples]) -> Predict:
    """Average the training split; without training samples the mean is white."""
    image, alpha = mean_sample(training())

    def predict(_sample: Sample, _inputs: list[list[int]]) -> tuple[Tensor, Tensor]:
        return image, alpha

    return predict


def mean_sample(samples: Samples) -> tuple[Tensor, Tensor]:
    """Means over samples of V views.

    Returns:
        image [V, 3, S, S] in [0, 1], white if there are no samples.
        alpha [V, S, S] in [0, 1], 0 if there are no samples.
    """
    size = samples.image_size
    image, alpha = torch.zeros(samples.views, 3, size, size), torch.zeros(samples.views, size, size)
    if not len(samples):
        return image + 1, alpha
    for index in range(len(samples)):
        sample = samples[index]
        image += sample["image"]
        alpha += sample["alpha"]
    return image / len(samples), alpha / len(samples)
