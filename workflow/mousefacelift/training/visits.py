"""How stored samples become training samples: their order, which views are input, and how they are changed.

Everything is a function of the settings' seed and of a sample's place, so a run that continues repeats the order.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mousefacelift.config.train import Train
from mousefacelift.training.data import Samples

STAGGER = -1  # in place of an epoch's number


@dataclass(frozen=True)
class Recipe:
    """How a stored sample becomes a visit: what is input and what held out, and by how much it is changed.

    Everything is a function of seed, epoch, sample and batch, whatever ran before and wherever it runs. A sample's
    held-out views advance with every epoch: over V epochs each of its V views is held out equally often.

    num_inputs: input views of a visit.
    seed: of all choices.
    augment: turn the sample by another angle in every visit, and mirror it or not.
    brightness, contrast: largest relative change; the factors lie between 1 - this and 1 + this.
    view_dropout: fraction of the batches in which one input less is given.
    shuffle_views: give the inputs of every visit in another order; nothing else changes.
    """

    num_inputs: int
    seed: int = 0
    augment: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    view_dropout: float = 0.0
    shuffle_views: bool = False

    def visit(self, sample: dict[str, Any], epoch: int, first: int, batch: int) -> dict[str, Any]:
        """A stored sample in an epoch, as part of a batch.

        Args:
            sample: of `Samples.stored`.
            epoch: counted from 0.
            first: the first view that is held out in epoch 0.
            batch: number of the batch that the visit belongs to.

        Returns:
            The sample, changed, with the view indices inputs [num_inputs] and held_out [V - num_inputs]: both in their
            order by azimuth, unless `shuffle_views`.
        """
        # All random numbers are drawn whatever the settings: switching one change on leaves the others as they were.
        random = np.random.default_rng([self.seed, epoch, sample["index"]])
        angle, mirror, place = random.uniform(0, 2 * np.pi), random.random() < 0.5, random.random()
        tone = 1 + random.uniform(-1, 1, 2) * (self.brightness, self.contrast)
        if self.augment:
            sample = turned(sample, angle, mirror)
        if self.brightness or self.contrast:
            sample = sample | {"tone": torch.from_numpy(tone).float()}
        views = len(sample["rgba"])
        chosen = split_views(views, self.num_inputs, first + epoch * (views - self.num_inputs))
        # A batch drops a view in all of its samples or in none: they are stacked. Which view, each sample chooses.
        if np.random.default_rng([self.seed, batch, views]).random() < self.view_dropout:
            dropped = chosen["inputs"][int(place * self.num_inputs)]
            chosen["inputs"] = chosen["inputs"][chosen["inputs"] != dropped]
            chosen["held_out"] = torch.cat([chosen["held_out"], dropped[None]]).sort().values
        if self.shuffle_views:
            chosen["inputs"] = chosen["inputs"][random.permutation(len(chosen["inputs"]))]
        return sample | chosen


def recipe(settings: Train) -> Recipe:
    """The recipe of a training run's settings."""
    return Recipe(
        settings.num_input_views, settings.seed, settings.augment, settings.brightness, settings.contrast,
        settings.view_dropout, settings.view_order == "random",
    )  # fmt: skip


class Visits(Dataset[dict[str, Any]]):
    """The endless sequence of training samples: every epoch visits all samples once, in an order of its own.

    Visit i is a function of the recipe and i alone. A batch is `batch_size` visits.
    """

    def __init__(self, samples: Samples, recipe: Recipe, batch_size: int = 1):
        self.samples, self.recipe, self.batch_size = samples, recipe, batch_size

    def __getitem__(self, visit: int) -> dict[str, Any]:
        epoch, place = divmod(visit, len(self.samples))
        index = int(permutation(self.recipe.seed, epoch, len(self.samples))[place])
        first = int(permutation(self.recipe.seed, STAGGER, len(self.samples))[index])
        return self.recipe.visit(self.samples.stored(index), epoch, first, visit // self.batch_size)


class Kept:
    """Some stored samples in memory, with what `HeldOut` asks of `Samples`. At least one."""

    def __init__(self, samples: list[dict[str, Any]]):
        self._samples, self.views = samples, len(samples[0]["rgba"])

    def __len__(self) -> int:
        return len(self._samples)

    def stored(self, index: int) -> dict[str, Any]:
        """As `Samples.stored`; the sample's own `index` is its place in the split that it was taken from."""
        return self._samples[index]


class HeldOut(Dataset[dict[str, Any]]):
    """Samples for validation: every one once. Sample i holds out the views from i on, so all views get their turn.

    `shuffle_seed` as in `input_order`.
    """

    def __init__(self, samples: Samples | Kept, num_inputs: int, shuffle_seed: int | None = None):
        self.samples, self.num_inputs, self.shuffle_seed = samples, num_inputs, shuffle_seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        chosen = split_views(self.samples.views, self.num_inputs, index)
        order = input_order(len(chosen["inputs"]), self.shuffle_seed, index, index % self.samples.views)
        return self.samples.stored(index) | chosen | {"inputs": chosen["inputs"][order]}


def turned(sample: dict[str, Any], angle: float, mirror: bool) -> dict[str, Any]:
    """The same sample in a turned and perhaps mirrored world.

    Exact: a turn leaves the images as they are and moves the cameras; a mirror flips images and principal points, and
    reflects the cameras, in the world and in their own x axis, so that they stay rotations.

    Args:
        sample: of `Samples.stored`.
        angle: of the turn about +Z, radians.
        mirror: whether the world is mirrored in x first.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float32)
    sample = dict(sample)
    if mirror:
        flip = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
        sample["rgba"] = sample["rgba"].flip(-2)
        if "unknown" in sample:
            sample["unknown"] = sample["unknown"].flip(-1)
        sample["c2w"], sample["w2c"] = flip @ sample["c2w"] @ flip, flip @ sample["w2c"] @ flip
        fx, fy, cx, cy = sample["fxfycxcy"].unbind(-1)
        sample["fxfycxcy"] = torch.stack([fx, fy, sample["rgba"].shape[-2] - cx, cy], -1)
    return sample | {"c2w": turn @ sample["c2w"], "w2c": sample["w2c"] @ turn.T}


def split_views(views: int, num_inputs: int, first: int) -> dict[str, Tensor]:
    """Hold out `views - num_inputs` views, from `first` on around the circle; the rest are inputs.

    Returns:
        inputs [num_inputs] and held_out [views - num_inputs], ascending view indices.
    """
    held_out = {(first + i) % views for i in range(views - num_inputs)}
    return {
        "inputs": torch.tensor([view for view in range(views) if view not in held_out]),
        "held_out": torch.tensor(sorted(held_out), dtype=torch.long),
    }


def input_order(count: int, shuffle_seed: int | None, sample: int, held_out: int) -> list[int]:
    """The order of a sample's inputs in validation and evaluation.

    Args:
        count: number of inputs.
        shuffle_seed: None for the order as it is; else the order is random.
        sample: the sample's place in its split.
        held_out: the first view that is held out. Seed, sample and this view decide the order.
    """
    if shuffle_seed is None:
        return list(range(count))
    return np.random.default_rng([shuffle_seed, sample, held_out]).permutation(count).tolist()


def shuffle_seed(settings: Train) -> int | None:
    """The seed of `input_order` by the settings of a training run: None with `view_order` fixed."""
    return settings.seed if settings.view_order == "random" else None


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of `count` samples or shards in an epoch; for epoch STAGGER, the view each sample holds out first."""
    return np.random.default_rng([seed, epoch + 1]).permutation(count)
