"""Loading: what it adds to a step on a batch that stays on the device."""

import tempfile
from pathlib import Path

import torch

from gpu.bench import Bench, attempt
from gpu.inputs import write_shards
from gpu.training import Step
from measuring import Clock, Row, summary
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.loaders import ShardData


def show_loading(bench: Bench) -> None:
    """Table of steps on loaded batches, and of the same steps on a batch that stays on the device."""
    options = bench.options
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for size in options.sizes:
            # Given shards serve every size that their images can be averaged to; synthetic ones are made per size.
            manifest = options.manifest or write_shards(Path(folder) / str(size), options.views, size, 8, 4)
            for container in options.container:
                row = {"size": size, "container": container, "workers": options.workers}
                rows.append(row | attempt(loading, bench, manifest, size, container))
    columns = {
        "size": ("px", "d"), "container": ("container", ""), "workers": ("workers", "d"), "inputs": ("inputs", "d"),
        "views": ("views", "d"), "loaded_ms": ("step, loaded ms", ".1f"), "loaded_spread_ms": ("± ms", ".1f"),
        "there_ms": ("step, on the device ms", ".1f"), "there_spread_ms": ("± ms", ".1f"),
        "samples_per_s": ("samples/s", ".3f"), "there_samples_per_s": ("on the device", ".3f"),
        "loader_samples_per_s": ("loader alone", ".3f"),
    }  # fmt: skip
    what = str(options.manifest) if options.manifest else "synthetic shards"
    bench.report.show("loading", f"training from {what}, nothing cached by us, {options.recompute[0]}", columns, rows)


def loading(bench: Bench, manifest: Path, size: int, container: str) -> Row:
    """A step from a batch's bytes in a shard to the new weights."""
    options = bench.options
    data = read_manifest(manifest)
    inputs = min(options.inputs[-1], data.views - 1)
    steps = options.warm_up + 3 * options.steps
    settings = bench.settings(
        size, inputs, container=container, cache_gb=0, steps=steps, val_every=steps,
        adapt=options.adapt[0], optimizer=options.optimizer[0], recompute=options.recompute[0],
        rerender=options.rerender[0], compile=options.compile[0],
    )  # fmt: skip
    step = Step(bench.model(settings), settings, bench)
    shards = ShardData(data, settings)
    attention, _ = bench.attend_by(options.attention[0], settings, training=True)
    with attention:
        for loaded in shards.train_dataloader():
            batch = {name: tensor.to(bench.device, non_blocking=True) for name, tensor in loaded.items()}
            batch = shards.on_after_batch_transfer(batch, 0)
            step(batch)
        bench.clock.wait()
        with_loader, _ = step.times(steps - options.warm_up, begins=True)
        for _ in range(options.steps + 1):
            step(batch)
        bench.clock.wait()
        there, _ = step.times(options.steps + 1, begins=True)
    instants = [now_on_cpu() for _ in shards.train_dataloader()]
    alone = (len(instants) - 1 - options.warm_up) / (instants[-1] - instants[options.warm_up])
    middle, spread = summary(with_loader)
    middle_there, spread_there = summary(there)
    mean = sum(with_loader) / len(with_loader)  # a loader that stalls now and then has a good median
    return {
        "inputs": inputs, "views": data.views, "loaded_ms": 1e3 * middle, "loaded_spread_ms": 1e3 * spread,
        "there_ms": 1e3 * middle_there, "there_spread_ms": 1e3 * spread_there,
        "samples_per_s": options.batch_size / mean, "there_samples_per_s": options.batch_size / middle_there,
        "loader_samples_per_s": options.batch_size * alone,
    }  # fmt: skip


def now_on_cpu() -> float:
    """The CPU's clock, in seconds."""
    return Clock(torch.device("cpu")).now()
