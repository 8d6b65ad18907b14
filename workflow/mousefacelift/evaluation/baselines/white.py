"""A white image: what any method must beat, as the mouse covers a small part of a view."""

from collections.abc import Callable

import torch
from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample
from mousefacelift.training.data import Samples


def prepare(_training: Callable[[], Samples]) -> Predict:
    """Nothing is learned from the training split."""
    return predict


def predict(sample: Sample, _inputs: list[list[int]]) -> tuple[Tensor, Tensor]:
    """White views [V, 3, S, S] and an opacity of 0 [V, S, S]."""
    return torch.ones(sample["image"].shape), torch.zeros(sample["alpha"].shape)
