"""Every sample of a split by every method: the model, and the baselines beside it."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.metrics.registry import score
from mousefacelift.evaluation.predict import Sample, Trained, input_views, predict_views

MODEL = "model"


@dataclass(frozen=True)
class ScoredSample:
    """What every method makes of the V views of one sample.

    target: [V, 3, S, S]. rgb: method -> [V, 3, S, S]. scores: method -> metric -> [V].
    """

    key: str
    target: Tensor
    rgb: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]


def method_labels() -> dict[str, str]:
    """The label of every method, the model's first."""
    return {MODEL: "model"} | {name: baseline.label for name, baseline in BASELINES.items()}


def predict_baselines(trained: Trained) -> Callable[[Sample], dict[str, tuple[Tensor, Tensor]]]:
    """A function of a sample that gives every baseline's views: rgb [V, 3, S, S] and alpha [V, S, S]."""
    samples = trained.samples
    training = functools.cache(trained.open_training)
    inputs = [input_views(samples.views, trained.train.num_input_views, view) for view in range(samples.views)]
    prepared = {name: baseline.prepare(training) for name, baseline in BASELINES.items()}
    return lambda sample: {name: predict(sample, inputs) for name, predict in prepared.items()}


def scored_samples(trained: Trained) -> Iterator[ScoredSample]:
    """Predict and score every sample of the split, one after the other."""
    samples, baselines = trained.samples, predict_baselines(trained)
    for index in range(len(samples)):
        sample = samples[index]
        drawn = {MODEL: predict_views(trained, sample)} | baselines(sample)
        truth = sample["image"], sample["alpha"], sample.get("unknown")
        scores = {name: score(rgb, alpha, *truth) for name, (rgb, alpha) in drawn.items()}
        rgb_of = {name: rgb for name, (rgb, _) in drawn.items()}
        yield ScoredSample(samples.keys[index], sample["image"], rgb_of, scores)
