"""A copy of the input view that looks most nearly where the held-out view does."""

from collections.abc import Callable

from torch import Tensor

from mousefacelift.evaluation.predict import Predict, Sample
from mousefacelift.training.data import Samples


def prepare(_training: Callable[[], Samples]) -> Predict:
    """Nothing is learned from the training split."""
    return predict


def predict(sample: Sample, inputs: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Image [V, 3, S, S] and opacity [V, S, S] of each held-out view's nearest input."""
    nearest = [nearest_view(sample["c2w"], given, view) for view, given in enumerate(inputs)]
    return sample["image"][nearest], sample["alpha"][nearest]


def nearest_view(c2w: Tensor, inputs: list[int], held_out: int) -> int:
    """The input view whose optical axis is most nearly parallel to the held-out view's.

    Args:
        c2w: camera to world [V, 4, 4], OpenCV axes.
        inputs: indices of the input views.
        held_out: index of the held-out view.
    """
    axes = c2w[:, :3, 2]
    return inputs[int((axes[inputs] @ axes[held_out]).argmax())]
