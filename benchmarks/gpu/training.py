"""Steps of training: their time, its parts, and their memory."""

import itertools
from statistics import median
from typing import Any

import torch

from gpu.bench import Bench, attempt
from gpu.flop import step_flop, token_count
from gpu.inputs import device_batch
from measuring import Row, summary
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import build_optimizer, trainable
from mousefacelift.models.network import Network
from mousefacelift.training.finetuning import Batch, predict
from mousefacelift.training.guards import statistics
from mousefacelift.training.losses import image_loss

PHASES = ("model", "render", "loss", "backward", "clip", "optimizer")


def show_training(bench: Bench) -> None:
    """Table of steps, one row for every combination of the options."""
    options, rows = bench.options, []
    choices = itertools.product(
        options.sizes, options.inputs, options.adapt, options.optimizer, options.recompute, options.rerender,
        options.compile, options.attention,
    )  # fmt: skip
    for size, inputs, adapted, optimizer, recompute, rerender, compiled, attention in choices:
        settings = bench.settings(
            size, inputs, adapt=adapted, optimizer=optimizer, recompute=recompute, rerender=rerender,
            compile=compiled,
        )  # fmt: skip
        row: Row = {
            "size": size, "inputs": inputs, "adapt": adapted, "optimizer": optimizer, "recompute": recompute,
            "rerender": rerender, "compile": compiled, "attention": attention,
        }  # fmt: skip
        named = [adapted, optimizer, recompute] + ["rerender"] * rerender + ["compile"] * compiled
        named += [attention] * (attention != "auto")
        row["settings"] = " ".join(named)
        rows.append(row | attempt(training, bench, settings, attention))
    head = {"size": ("px", "d"), "inputs": ("inputs", "d"), "settings": ("settings", "")}
    columns = head | {
        "kernel": ("kernel", ""), "tokens": ("tokens", "d"), "ms": ("step ms", ".1f"), "spread_ms": ("± ms", ".1f"),
        "samples_per_s": ("samples/s", ".3f"), "tflop": ("TFLOP/step", ".4g"),
        "tflop_per_s": ("TFLOP/s", ".4g"), "mfu": ("of matmul", ".1%"),
        "allocated_gib": ("peak allocated GiB", ".2f"), "reserved_gib": ("reserved GiB", ".2f"),
    }  # fmt: skip
    title = (
        f"training: {options.preset}, {options.views} views, {options.batch_size} samples a step; tokens are of one "
        "sample, free ones included; TFLOP without recomputation"
    )
    bench.report.show("training", title, columns, rows)
    columns = head | {f"{phase}_ms": (f"{phase} ms", ".2f") for phase in PHASES}
    bench.report.show("training", "of which (medians, on the device)", columns, rows)


def training(bench: Bench, settings: Train, attention: str) -> Row:
    """Time of a step, its parts, and its memory."""
    options = bench.options
    context, kernel = bench.attend_by(attention, settings, training=True)
    model = bench.model(settings)
    batch = device_batch(options.views, settings.num_input_views, settings.image_size, options.batch_size, bench.device)
    step = Step(model, settings, bench)
    with context:
        for _ in range(options.warm_up):
            step(batch)
        bench.clock.wait()
        if bench.cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(options.steps):
            step(batch)
        bench.clock.wait()
    seconds, parts = step.times(options.steps)
    middle, spread = summary(seconds)
    tflop = step_flop(model.config, step.tokens, settings) * options.batch_size / 1e12
    row = {
        "kernel": kernel, "tokens": step.tokens, "ms": 1e3 * middle, "spread_ms": 1e3 * spread, "tflop": tflop,
        "samples_per_s": options.batch_size / middle, "tflop_per_s": tflop / middle,
        "mfu": tflop * 1e12 / middle / bench.peak if bench.peak else None,
    } | {f"{phase}_ms": 1e3 * part for phase, part in parts.items()}  # fmt: skip
    if bench.cuda:
        row["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return row


class Step:
    """What `FineTuning` does in a step, with the instant at the end of each of PHASES."""

    def __init__(self, model: Network, settings: Train, bench: Bench):
        self.model, self.settings, self.bench = model, settings, bench
        self.optimizer = build_optimizer(model, settings)
        self.parameters = list(trainable(model).values())
        self.tokens = 0
        self.instants: list[list[Any]] = []
        # `predict` reconstructs and draws in one call; the hook marks the instant between the two.
        model.register_forward_hook(self._reconstructed)

    def _reconstructed(self, _model: Any, _inputs: Any, gaussians: Any) -> None:
        self.tokens = token_count(self.model.config, gaussians.xyz.shape[1])
        self._mark()

    def _mark(self) -> None:
        self.instants[-1].append(self.bench.clock.now())

    def __call__(self, batch: Batch) -> None:
        settings = self.settings
        self.instants.append([])
        self._mark()
        # As in `FineTuning`, before the forward pass, which then has the memory of the last step's gradients.
        self.optimizer.zero_grad(set_to_none=True)
        with self.bench.autocast():
            rgb, alpha, gaussians = predict(self.model, batch, settings.rerender)
            self._mark()
            loss, terms = image_loss(rgb, alpha, batch["image"], batch["alpha"], settings.loss)
            seen = statistics(rgb, alpha, gaussians, batch["image"], batch["alpha"])
            seen = torch.cat([torch.stack([loss, *terms.values()]).detach(), seen])
        self._mark()
        loss.backward()
        self._mark()
        # As in `FineTuning`, the CPU waits for the norm and the statistics; here no step is skipped for its norm.
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm).item()
        self._mark()
        self.optimizer.step()
        seen.tolist()
        self._mark()

    def times(self, steps: int, begins: bool = False) -> tuple[list[float], dict[str, float]]:
        """Seconds of each of the last `steps` steps, and the median of every phase; the device must have done them.

        begins: measure from one step's beginning to the next one's, which counts what comes between.
        """
        seconds, last = self.bench.clock.seconds, self.instants[-steps:]
        parts = [[seconds(*pair) for pair in itertools.pairwise(step)] for step in last]
        medians = dict(zip(PHASES, map(median, zip(*parts, strict=True)), strict=True))
        if begins:
            return [seconds(one[0], other[0]) for one, other in itertools.pairwise(last)], medians
        return [seconds(step[0], step[-1]) for step in last], medians
