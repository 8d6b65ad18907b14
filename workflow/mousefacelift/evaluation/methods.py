"""Every sample of a split by every method: the model, the model refined at test time, and the baselines beside them."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mousefacelift.base.parallel import in_order
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.baselines.registry import Baseline, chosen
from mousefacelift.evaluation.metrics.registry import score
from mousefacelift.evaluation.predict import Sample, Trained, input_views, predict_views

MODEL = "model"
REFINED = "refined"
Views = tuple[Tensor, Tensor]  # rgb [V, 3, S, S] and alpha [V, S, S], on the CPU


@dataclass(frozen=True)
class ScoredSample:
    """What every method makes of the V views of one sample.

    target: [V, 3, S, S]. rgb: method -> [V, 3, S, S]. scores: method -> metric -> [V]. seconds: method -> wall time.
    """

    key: str
    target: Tensor
    rgb: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]
    seconds: dict[str, float]


def method_labels(settings: Evaluate) -> dict[str, str]:
    """The label of every method, the model's first."""
    refined = {REFINED: f"model, refined in {settings.refine_steps} steps"} if settings.refine_steps else {}
    return {MODEL: "model"} | refined | {name: each.label for name, each in chosen(settings).items()}


def pictured_methods(settings: Evaluate) -> list[str]:
    """The methods that the pictures of samples show, in order."""
    pictured = {name for name, each in chosen(settings).items() if each.pictured} | {MODEL, REFINED}
    return [name for name in method_labels(settings) if name in pictured]


def predict_baselines(trained: Trained, baselines: dict[str, Baseline]) -> dict[str, Callable[[Sample], Views]]:
    """For each baseline a function of a sample that predicts its views, on the model's device."""
    samples = trained.samples
    training = functools.cache(trained.open_training)
    inputs = [input_views(samples.views, trained.train.num_input_views, view) for view in range(samples.views)]

    def prepared(baseline: Baseline) -> Callable[[Sample], Views]:
        predict = baseline.prepare(training)

        def predict_here(sample: Sample) -> Views:
            moved = {key: x.to(trained.device) if isinstance(x, Tensor) else x for key, x in sample.items()}
            rgb, alpha = predict(moved, inputs)
            return rgb.cpu(), alpha.cpu()

        return predict_here

    return {name: prepared(each) for name, each in baselines.items()}


def at_once(trained: Trained) -> int:
    """How many samples are worked on at once: on the CPU as many as there are threads, one on a GPU.

    A view of a mouse is too little work to share: two threads together are no faster than one.
    """
    return min(torch.get_num_threads(), len(trained.samples)) if trained.device == "cpu" else 1


def scored_samples(trained: Trained, settings: Evaluate) -> Iterator[ScoredSample]:
    """Predict and score every sample of the split, and give the results in the split's order."""
    samples, workers, threads = trained.samples, at_once(trained), torch.get_num_threads()
    methods: dict[str, Callable[[Sample], Views]] = {MODEL: functools.partial(predict_views, trained)}
    if settings.refine_steps:
        methods[REFINED] = functools.partial(predict_views, trained, refine_steps=settings.refine_steps)
    methods |= predict_baselines(trained, chosen(settings))

    def scored(item: tuple[str, Sample]) -> ScoredSample:
        key, sample = item
        if workers > 1:
            torch.set_num_threads(threads // workers)  # of this worker
        drawn, seconds = {}, {}
        for name, predict in methods.items():
            start = time.perf_counter()
            drawn[name] = predict(sample)  # on the CPU, so a GPU's work is done
            seconds[name] = time.perf_counter() - start
        truth = sample["image"], sample["alpha"], sample.get("unknown")
        scores = {name: score(rgb, alpha, *truth) for name, (rgb, alpha) in drawn.items()}
        rgb_of = {name: rgb for name, (rgb, _) in drawn.items()}
        return ScoredSample(key, sample["image"], rgb_of, scores, seconds)

    # Samples are read here: HDF5 files are not for several threads.
    read = ((samples.keys[index], samples[index]) for index in range(len(samples)))
    try:
        yield from in_order(scored, read, workers) if workers > 1 else map(scored, read)
    finally:  # a worker's number is that of all threads that are started after it
        torch.set_num_threads(threads)
