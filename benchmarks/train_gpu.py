"""How fast a GPU trains and runs GS-LRM, beside what it can do at best.

    python benchmarks/train_gpu.py --json gpu.json
    python benchmarks/train_gpu.py --sizes 512 --inputs 5 --recompute none selective all --memory-gb 12
    python benchmarks/train_gpu.py --device cpu --preset tiny --sizes 64 --steps 2

A step is that of `FineTuning`, without Lightning. Options that take several values give a row for each combination.
Without --weights the model's are random, but its Gaussians about a pixel wide, as a trained model's: those that `base`
begins with, from nothing, are 0.1 world units wide, which is tens of pixels at 512 px and slow to draw. All of them are
drawn, where a trained model hides the background's.
"""

import argparse
import gc
import itertools
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from measuring import Clock, Report, Row, chosen_device, machine, summary
from mousefacelift.base.errors import UserError
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import adapt, build_optimizer, trainable
from mousefacelift.models.gaussians import render
from mousefacelift.models.gslrm import CHANNELS, GSLRM, PRESETS, GSLRMConfig
from mousefacelift.models.weights import load_weights
from mousefacelift.shards.containers import ShardWriter, encode_view, opencv_cameras
from mousefacelift.shards.manifest import read_manifest, write_manifest
from mousefacelift.training.data import floating
from mousefacelift.training.finetuning import Batch, predict
from mousefacelift.training.guards import statistics
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.losses import image_loss
from mousefacelift.training.machine import set_threads
from scenes import DISTANCE, FOCAL, ring

LATENCY_TARGET = 0.2  # s, forward and rendering of 6 x 512 px with base on an H100
MFU_TARGET = 0.4
MEMORY_TARGET = 12  # GiB, for a step of one sample at 512 px
CONTEXT = 0.6  # GiB that CUDA, its libraries and kernels take beside what torch allocates
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
PHASES = ("model", "render", "loss", "backward", "clip", "optimizer")


def model_flop(config: GSLRMConfig, tokens: int) -> dict[str, float]:
    """Floating-point operations of a forward pass over `tokens` tokens, the free ones included, by part of the model.

    A multiplication and its addition are two. Of width d and T tokens, a layer's four linear maps (3 + 1 + 4 + 4 times
    d x d) take 2 * 12 d^2 T and its attention (scores, then their sums of values) 4 T^2 d; the embedder takes 9 values,
    the head makes 14, of each of a token's p^2 pixels. Norms, activations and rays are not counted.
    """
    d, pixels = config.width, config.patch**2
    image = tokens - config.free_gaussians
    return {
        "embedder": 2.0 * 9 * pixels * d * image,
        "linear": 2.0 * 12 * d**2 * tokens * config.layers,
        "attention": 4.0 * tokens**2 * d * config.layers,
        "heads": 2.0 * d * sum(CHANNELS) * (pixels * image + config.free_gaussians),
    }


def step_flop(config: GSLRMConfig, tokens: int, settings: Train) -> float:
    """Floating-point operations of a sample's forward and backward pass, as `model_flop`; no recomputation is counted.

    Backward, every matrix product is two: a gradient of what comes in, and one of the weights or, in attention, of the
    other factor. None is needed of the pixels, of frozen weights, and of what lies before all that is trained.
    """
    flop = model_flop(config, tokens)
    forward = sum(flop.values())
    if settings.adapt == "heads":
        return forward + 2 * flop["heads"]  # of their linear maps' inputs too, for the norms before them
    if settings.adapt == "lora":
        # The updates themselves, of rank r instead of width d, are left out.
        return forward + flop["linear"] + 2 * flop["attention"] + 2 * flop["heads"]
    if settings.adapt == "last_n":
        share = settings.last_n / config.layers
        return forward + 2 * (share * (flop["linear"] + flop["attention"]) + flop["heads"])
    return 3 * forward - flop["embedder"]


def pixel_sized(preset: str, size: int) -> GSLRMConfig:
    """The preset's config with Gaussians that are about a pixel of `ring`'s cameras wide while weights are random."""
    return replace(PRESETS[preset], scale_bias=math.log(DISTANCE / (FOCAL * size)))


def pictures(views: int, size: int, seed: int) -> np.ndarray:
    """RGBA uint8 [V, S, S, 4]: a disc of coarse noise that covers an eighth of each view, transparent around it."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 200, (views, size // 8, size // 8, 3), np.uint8)
    rgba = np.zeros((views, size, size, 4), np.uint8)
    rgba[..., :3] = coarse.repeat(8, axis=1).repeat(8, axis=2)
    rows, columns = np.ogrid[:size, :size]
    inside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < size**2 / (8 * np.pi)
    rgba[:, inside, 3] = 255
    rgba[:, ~inside] = 0
    return rgba


def device_batch(views: int, inputs: int, size: int, samples: int, device: torch.device) -> Batch:
    """A batch as `predict` and `image_loss` take it."""
    rgba = torch.from_numpy(np.stack([pictures(views, size, seed) for seed in range(samples)]))
    rgba[..., :3][rgba[..., 3] == 0] = 255
    w2c, fxfycxcy = ring(views, size)
    batch = {
        "rgba": rgba,
        "w2c": w2c.expand(samples, -1, -1, -1).contiguous(),
        "c2w": torch.linalg.inv(w2c).expand(samples, -1, -1, -1).contiguous(),
        "fxfycxcy": fxfycxcy.expand(samples, -1, -1).contiguous(),
        "inputs": torch.arange(inputs).expand(samples, -1).contiguous(),
    }
    return floating({name: tensor.to(device) for name, tensor in batch.items()})


def write_shards(folder: Path, views: int, size: int, samples: int, shards: int) -> Path:
    """Shards of `pictures` for training; returns their manifest."""
    settings, names = Shard(), [f"{v + 1}" for v in range(views)]
    w2c, fxfycxcy = (tensor.double().numpy() for tensor in ring(views, size))
    paths = [folder / "train" / f"disc-{n:04d}.h5" for n in range(shards)]
    for n, path in enumerate(paths):
        with ShardWriter(path.with_suffix(".tar"), path, samples, names, size, settings) as writer:
            for i in range(n * samples, (n + 1) * samples):
                key = f"disc-{i:06d}"
                images = list(pictures(views, size, i))
                files = [f"{key}.cam{v}.{settings.tar_codec}" for v in range(views)]
                meta = {"id": key, "frame": i, "frames": opencv_cameras(w2c, fxfycxcy, size, files)}
                writer.add(meta, images, [encode_view(image, settings) for image in images])
    write_manifest(paths, folder / "manifest.json")
    return folder / "manifest.json"


def attempt(measure: Callable[..., Row], *arguments: Any) -> Row:
    """A measurement, or why there is none: not enough memory, a package that is missing, or no such kernel."""
    try:
        return measure(*arguments)
    except UserError as error:
        failed = str(error)
    except RuntimeError as error:
        # Extensions such as gsplat raise torch's OutOfMemoryError as a RuntimeError, and cuBLAS has an error of its own.
        if isinstance(error, torch.OutOfMemoryError) or re.search("out of memory|ALLOC_FAILED", str(error)):
            failed = "out of memory"
        elif re.search("No (available kernel|viable backend)", str(error)):
            failed = "attention not available here"
        else:
            raise
    finally:
        # Out of the clauses above no frame holds tensors any more.
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {"failed": failed}


class Bench:
    """The measurements, with what the command line says."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.device = chosen_device(options.device)
        self.cuda = self.device.type == "cuda"
        if not self.cuda:
            set_threads(options.threads)
        self.clock = Clock(self.device)
        self.report = Report()
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.peak: float | None = None  # FLOP/s
        if self.cuda and options.memory_gb:
            total = torch.cuda.get_device_properties(self.device).total_memory
            limit = (options.memory_gb - CONTEXT) * 2**30
            torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, limit / total)), self.device)

    def run(self) -> None:
        """All of it."""
        options, report = self.options, self.report
        found = machine(self.device)
        memory = f", limited to {options.memory_gb:g} GiB" if self.cuda and options.memory_gb else ""
        report.say("machine", found, ", ".join(f"{name} {value}" for name, value in found.items()) + memory)
        report.say("options", {k: str(v) for k, v in vars(options).items()}, "")
        self.show_rates()
        self.show_attention()
        self.show_training()
        self.show_latency()
        self.show_loading()
        self.show_verdicts()
        report.save(options.json)

    # What the card can do

    def show_rates(self) -> None:
        """Matrix products at several sizes; the best is what fractions are of."""
        sides = (4096, 8192, 16384) if self.cuda else (512, 1024)
        config = PRESETS[self.options.preset]
        tokens = config.free_gaussians + max(self.options.inputs) * (max(self.options.sizes) // config.patch) ** 2
        shapes = [(side, side, side) for side in sides] + [(tokens, config.width, 4 * config.width)]
        rows = [{"m": m, "k": k, "n": n} | attempt(self.matmul, m, k, n) for m, k, n in shapes]
        self.peak = max((1e12 * row["tflop_per_s"] for row in rows if "tflop_per_s" in row), default=None)
        columns = {
            "m": ("m", "d"), "k": ("k", "d"), "n": ("n", "d"), "ms": ("ms", ".3f"), "spread_ms": ("± ms", ".3f"),
            "tflop_per_s": ("TFLOP/s", ".2f"),
        }  # fmt: skip
        self.report.show("matmul", f"matrix products m x k x n, {self.dtype}", columns, rows)

    def matmul(self, m: int, k: int, n: int) -> Row:
        """The rate of one product."""
        a = torch.randn(m, k, device=self.device).to(self.dtype)
        b = torch.randn(k, n, device=self.device).to(self.dtype)
        out = torch.empty(m, n, device=self.device, dtype=self.dtype)
        # Long enough that the clock has fallen to what the card can hold.
        repeat = 50 if self.cuda else 3
        seconds, spread = summary(self.clock.times(lambda: torch.mm(a, b, out=out), repeat, repeat))
        return {"ms": 1e3 * seconds, "spread_ms": 1e3 * spread, "tflop_per_s": 2e-12 * m * k * n / seconds}

    def show_attention(self) -> None:
        """Every backend at the sizes of the model."""
        config = PRESETS[self.options.preset]
        rows = []
        for size, inputs in itertools.product(self.options.sizes, self.options.inputs):
            tokens = config.free_gaussians + inputs * (size // config.patch) ** 2
            for name in ("default", *BACKENDS):
                row = {"backend": name, "size": size, "inputs": inputs, "tokens": tokens}
                rows.append(row | attempt(self.attention, config, name, tokens))
        columns = {
            "backend": ("backend", ""), "size": ("px", "d"), "inputs": ("inputs", "d"), "tokens": ("tokens", "d"),
            "forward_ms": ("forward ms", ".3f"), "forward_spread_ms": ("± ms", ".3f"), "forward_tflop_per_s": ("TFLOP/s", ".2f"),
            "backward_ms": ("backward ms", ".3f"), "backward_spread_ms": ("± ms", ".3f"), "backward_tflop_per_s": ("TFLOP/s", ".2f"),
            "chosen": ("kernel", ""),
        }  # fmt: skip
        title = (
            f"attention of one layer: {config.width // config.head_width} heads of {config.head_width}, {self.dtype}; "
            "backward counted as twice forward (kernels compute the scores again, which is not counted)"
        )
        self.report.show("attention", title, columns, rows)

    def attention(self, config: GSLRMConfig, name: str, tokens: int) -> Row:
        """One backend, with the strides that `Attention` gives it."""
        heads = config.width // config.head_width
        qkv = torch.randn(1, tokens, 3, heads, config.head_width, device=self.device).to(self.dtype)
        q, k, v = (part.detach().requires_grad_() for part in qkv.permute(2, 0, 3, 1, 4))
        flop = 4.0 * tokens**2 * config.width
        repeat = self.options.steps

        def forward() -> Tensor:
            return functional.scaled_dot_product_attention(q, k, v)

        with self.attend_by(name):
            out = forward()
            grad = torch.randn_like(out)
            there, spread = summary(self.clock.times(forward, repeat, 2))
            back, spread_back = summary(
                self.clock.times(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True), repeat, 2)
            )
            chosen = SDPBackend(torch._fused_sdp_choice(q, k, v)).name
        return {
            "forward_ms": 1e3 * there, "forward_spread_ms": 1e3 * spread, "forward_tflop_per_s": flop / there / 1e12,
            "backward_ms": 1e3 * back, "backward_spread_ms": 1e3 * spread_back, "backward_tflop_per_s": 2 * flop / back / 1e12,
            "chosen": chosen.lower().removesuffix("_attention"),
        }  # fmt: skip

    # Training

    def show_training(self) -> None:
        """A step of every combination of the options."""
        options, rows = self.options, []
        choices = itertools.product(
            options.sizes, options.inputs, options.adapt, options.optimizer, options.recompute, options.rerender,
            options.compile, options.attention,
        )  # fmt: skip
        for size, inputs, adapted, optimizer, recompute, rerender, compiled, attention in choices:
            settings = self.settings(
                size, inputs, adapt=adapted, optimizer=optimizer, recompute=recompute, rerender=rerender,
                compile=compiled,
            )  # fmt: skip
            row: Row = {
                "size": size, "inputs": inputs, "adapt": adapted, "optimizer": optimizer, "recompute": recompute,
                "rerender": rerender, "compile": compiled, "attention": attention,
            }  # fmt: skip
            named = [adapted, optimizer, recompute] + ["rerender"] * rerender + ["compile"] * compiled
            named += [attention] * (attention != "default")
            row["settings"] = " ".join(named)
            rows.append(row | attempt(self.training, settings, attention))
        head = {"size": ("px", "d"), "inputs": ("inputs", "d"), "settings": ("settings", "")}
        columns = head | {
            "tokens": ("tokens", "d"), "ms": ("step ms", ".1f"), "spread_ms": ("± ms", ".1f"),
            "samples_per_s": ("samples/s", ".3f"), "tflop": ("TFLOP/step", ".4g"),
            "tflop_per_s": ("TFLOP/s", ".4g"), "mfu": ("of matmul", ".1%"),
            "allocated_gib": ("peak allocated GiB", ".2f"), "reserved_gib": ("reserved GiB", ".2f"),
        }  # fmt: skip
        title = (
            f"training: {options.preset}, {options.views} views, {options.batch_size} samples a step; tokens are of one "
            "sample, free ones included; TFLOP without recomputation"
        )
        self.report.show("training", title, columns, rows)
        columns = head | {f"{phase}_ms": (f"{phase} ms", ".2f") for phase in PHASES}
        self.report.show("training", "of which (medians, on the device)", columns, rows)

    def settings(self, size: int, inputs: int, **choices: Any) -> Train:
        """A training's settings. The rate is so low that the last step is of the same model as the first."""
        return Train(
            preset=self.options.preset, image_size=size, num_input_views=inputs, i_know=True, learning_rate=1e-9,
            batch_size=self.options.batch_size, workers=self.options.workers, **{"recompute": "none"} | choices,
        )  # fmt: skip

    def model(self, settings: Train) -> GSLRM:
        """The model of a row, on the device."""
        torch.manual_seed(0)
        if self.options.weights:
            model = load_weights(self.options.weights).to(self.device)
        else:
            with self.device:
                model = GSLRM(pixel_sized(settings.preset, settings.image_size))
        with self.device:
            adapt(model, settings)
        model.recompute = settings.recompute  # type: ignore[assignment]  # never auto here
        if settings.compile:
            model.compile_layers()
        return model

    def training(self, settings: Train, attention: str) -> Row:
        """Time, its parts and memory of a step."""
        options = self.options
        model = self.model(settings)
        batch = device_batch(
            options.views, settings.num_input_views, settings.image_size, options.batch_size, self.device
        )
        step = Step(model, settings, self)
        with self.attend_by(attention):
            for _ in range(options.warm_up):
                step(batch)
            self.clock.wait()
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            for _ in range(options.steps):
                step(batch)
            self.clock.wait()
        seconds, parts = step.times(options.steps)
        middle, spread = summary(seconds)
        tflop = step_flop(model.config, step.tokens, settings) * options.batch_size / 1e12
        row = {
            "tokens": step.tokens, "ms": 1e3 * middle, "spread_ms": 1e3 * spread, "tflop": tflop,
            "samples_per_s": options.batch_size / middle, "tflop_per_s": tflop / middle,
            "mfu": tflop * 1e12 / middle / self.peak if self.peak else None,
        } | {f"{phase}_ms": 1e3 * part for phase, part in parts.items()}  # fmt: skip
        if self.cuda:
            row["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
            row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        return row

    # Inference

    def show_latency(self) -> None:
        """From images on the device to Gaussians, and to pictures of them."""
        rows = []
        for size, inputs, attention in itertools.product(
            self.options.sizes, self.options.inputs, self.options.attention
        ):
            row = {"size": size, "inputs": inputs, "attention": attention}
            rows.append(row | attempt(self.latency, size, inputs, attention))
        views = self.options.views
        columns = {
            "size": ("px", "d"), "inputs": ("inputs", "d"), "attention": ("attention", ""), "tokens": ("tokens", "d"),
            "gaussians": ("Gaussians", "d"), "model_ms": ("model ms", ".2f"), "model_spread_ms": ("± ms", ".2f"),
            "one_view_ms": ("1 view ms", ".2f"), "one_view_spread_ms": ("± ms", ".2f"),
            "all_views_ms": (f"{views} views ms", ".2f"), "all_views_spread_ms": ("± ms", ".2f"),
            "both_ms": (f"model and {views} views ms", ".2f"), "both_spread_ms": ("± ms", ".2f"),
            "tflop_per_s": ("model TFLOP/s", ".4g"),
        }  # fmt: skip
        self.report.show("latency", "inference of one sample, each alone", columns, rows)

    def latency(self, size: int, inputs: int, attention: str) -> Row:
        """Of one sample."""
        model = self.model(self.settings(size, inputs)).eval()
        batch = device_batch(self.options.views, inputs, size, 1, self.device)
        given = [batch[name][:, :inputs] for name in ("image", "c2w", "fxfycxcy")]
        w2c, fxfycxcy = batch["w2c"], batch["fxfycxcy"]
        repeat, warm_up = self.options.steps, self.options.warm_up
        row: Row = {}
        with torch.inference_mode(), self.autocast(), self.attend_by(attention):
            gaussians = model(*given)
            measured = {
                "model": lambda: model(*given),
                "one_view": lambda: render(gaussians, w2c[:, :1], fxfycxcy[:, :1], size, size),
                "all_views": lambda: render(gaussians, w2c, fxfycxcy, size, size),
                "both": lambda: render(model(*given), w2c, fxfycxcy, size, size),
            }
            for name, function in measured.items():
                middle, spread = summary(self.clock.times(function, repeat, warm_up, alone=True))
                row |= {f"{name}_ms": 1e3 * middle, f"{name}_spread_ms": 1e3 * spread}
        count = gaussians.xyz.shape[1]
        tokens = token_count(model.config, count)
        tflop = sum(model_flop(model.config, tokens).values()) / 1e12
        return row | {"tokens": tokens, "gaussians": count, "tflop_per_s": tflop / (row["model_ms"] / 1e3)}

    # Loading

    def show_loading(self) -> None:
        """Steps on batches that a loader brings, beside the same steps on one that is there."""
        options = self.options
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for size in options.sizes:
                # Of one's own shards all that their images can be averaged to; else some of each size.
                manifest = options.manifest or write_shards(Path(folder) / str(size), options.views, size, 8, 4)
                for container in options.container:
                    row = {"size": size, "container": container, "workers": options.workers}
                    rows.append(row | attempt(self.loading, manifest, size, container))
        columns = {
            "size": ("px", "d"), "container": ("container", ""), "workers": ("workers", "d"), "inputs": ("inputs", "d"),
            "views": ("views", "d"), "loaded_ms": ("step, loaded ms", ".1f"), "loaded_spread_ms": ("± ms", ".1f"),
            "there_ms": ("step, on the device ms", ".1f"), "there_spread_ms": ("± ms", ".1f"),
            "samples_per_s": ("samples/s", ".3f"), "there_samples_per_s": ("on the device", ".3f"),
            "loader_samples_per_s": ("loader alone", ".3f"),
        }  # fmt: skip
        what = str(options.manifest) if options.manifest else "synthetic shards"
        self.report.show(
            "loading", f"training from {what}, nothing cached by us, {options.recompute[0]}", columns, rows
        )

    def loading(self, manifest: Path, size: int, container: str) -> Row:
        """A step from a batch's bytes in a shard to the new weights."""
        options = self.options
        data = read_manifest(manifest)
        inputs = min(options.inputs[-1], data.views - 1)
        steps = options.warm_up + 3 * options.steps
        settings = self.settings(
            size, inputs, container=container, cache_gb=0, steps=steps, val_every=steps,
            adapt=options.adapt[0], optimizer=options.optimizer[0], recompute=options.recompute[0],
            rerender=options.rerender[0], compile=options.compile[0],
        )  # fmt: skip
        step = Step(self.model(settings), settings, self)
        shards = ShardData(data, settings)
        with self.attend_by(options.attention[0]):
            for loaded in shards.train_dataloader():
                batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in loaded.items()}
                batch = shards.on_after_batch_transfer(batch, 0)
                step(batch)
            self.clock.wait()
            with_loader, _ = step.times(steps - options.warm_up, begins=True)
            for _ in range(options.steps + 1):
                step(batch)
            self.clock.wait()
            there, _ = step.times(options.steps + 1, begins=True)
        instants = [self.now_on_cpu() for _ in shards.train_dataloader()]
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

    @staticmethod
    def now_on_cpu() -> float:
        """Seconds."""
        return Clock(torch.device("cpu")).now()

    # What it comes to

    def show_verdicts(self) -> None:
        """The project's targets."""
        report, tables, base = self.report, self.report.tables, self.options.preset == "base"
        name = tables["machine"]["name"]
        where = f"this is {self.options.preset} on {name}"
        full = [row for row in tables["latency"] if row["size"] == 512 and row["inputs"] == 6 and "both_ms" in row]
        target = f"forward and rendering of 6 x 512 px, base, in {LATENCY_TARGET} s on an H100"
        if base and self.cuda and "H100" in name and self.options.views == 6 and full:
            best = min(row["both_ms"] for row in full)
            report.verdict(target, best <= 1e3 * LATENCY_TARGET, f"{best:.1f} ms")
        else:
            found = f", {min(row['both_ms'] for row in full):.1f} ms" if full else ""
            report.verdict(target, None, where + found)

        target = f"training at {100 * MFU_TARGET:.0f} % of the measured bf16 matmul rate"
        trained = [row for row in tables["training"] if row.get("mfu")]
        if base and self.cuda and trained:
            best = max(trained, key=lambda row: row["mfu"])
            found = f"{100 * best['mfu']:.1f} % at {best['size']} px, {best['inputs']} inputs, {best['settings']}"
            report.verdict(target, best["mfu"] >= MFU_TARGET, found)
        else:
            report.verdict(target, None, where)

        target = f"a step of one sample at 512 px, base, in {MEMORY_TARGET} GB"
        rows = [row for row in tables["training"] if row["size"] == 512]
        if not (base and self.cuda and rows and self.options.batch_size == 1):
            report.verdict(target, None, where)
            return
        fits = [row for row in rows if row.get("reserved_gib", math.inf) + CONTEXT <= MEMORY_TARGET]
        limited = self.options.memory_gb is not None and self.options.memory_gb <= MEMORY_TARGET
        if fits:
            best = min(fits, key=lambda row: row["ms"])
            used = f"{best['reserved_gib'] + CONTEXT:.1f} GiB, {CONTEXT} of them CUDA's own"
            report.verdict(
                target, True, f"{used}: {best['inputs']} inputs, {best['settings']}, {best['ms']:.0f} ms a step"
            )
        else:
            # Unlimited, torch reserves more than it needs.
            advice = "in none of the rows above" if limited else f"more was reserved: set --memory-gb {MEMORY_TARGET}"
            report.verdict(target, False if limited else None, advice)

    # What the trainer sets

    def autocast(self) -> AbstractContextManager[Any]:
        """As Lightning's bf16-mixed, which keeps no cache of converted weights."""
        if not self.cuda:
            return nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)

    def attend_by(self, name: str) -> AbstractContextManager[Any]:
        """Attention by one backend alone, or by torch's choice."""
        return nullcontext() if name == "default" else sdpa_kernel(BACKENDS[name])


def token_count(config: GSLRMConfig, gaussians: int) -> int:
    """Tokens of a sample, of its number of Gaussians: with `skip_blank` fewer than its patches."""
    return config.free_gaussians + (gaussians - config.free_gaussians) // config.patch**2


class Step:
    """What `FineTuning` does in a step, with an instant after each of PHASES."""

    def __init__(self, model: GSLRM, settings: Train, bench: Bench):
        self.model, self.settings, self.bench = model, settings, bench
        self.optimizer = build_optimizer(model, settings)
        self.parameters = list(trainable(model).values())
        self.tokens = 0
        self.instants: list[list[Any]] = []
        # `predict` reconstructs and draws in one: the hook sees what lies between.
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
        with self.bench.autocast():
            rgb, alpha, gaussians = predict(self.model, batch, settings.rerender)
            self._mark()
            loss, terms = image_loss(rgb, alpha, batch["image"], batch["alpha"], settings.loss)
            seen = statistics(rgb, alpha, gaussians, batch["image"], batch["alpha"])
            seen = torch.cat([torch.stack([loss, *terms.values()]).detach(), seen])
        self._mark()
        loss.backward()
        self._mark()
        # As there, the CPU waits for the norm and for the statistics; no step is skipped, whatever the norm.
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm).item()
        self._mark()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seen.tolist()
        self._mark()

    def times(self, steps: int, begins: bool = False) -> tuple[list[float], dict[str, float]]:
        """Seconds of each of the last `steps` steps, and the median of every phase; the device must have done them.

        begins: from one step's beginning to the next one's, so that what comes between is counted.
        """
        seconds, last = self.bench.clock.seconds, self.instants[-steps:]
        parts = [[seconds(*pair) for pair in itertools.pairwise(step)] for step in last]
        medians = dict(zip(PHASES, map(median, zip(*parts, strict=True)), strict=True))
        if begins:
            return [seconds(one[0], other[0]) for one, other in itertools.pairwise(last)], medians
        return [seconds(step[0], step[-1]) for step in last], medians


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["auto", "cuda", "cpu"], default="auto")
    add("--preset", choices=list(PRESETS), default="base")
    add("--weights", type=Path, help="weights of that preset; their Gaussians are those of a trained model")
    add("--sizes", type=int, nargs="+", default=[256, 384, 512], metavar="PX")
    add("--views", type=int, default=6, help="views drawn and compared")
    add(
        "--inputs", type=int, nargs="+", default=[6, 5],
        help="views given to the model: 6 for the cost of base at 6 x 512 px, 24,578 tokens; 5 as in a training",
    )  # fmt: skip
    add("--batch-size", type=int, default=1, help="samples per step")
    add("--steps", type=int, default=10, help="measured steps, after the warm-up")
    add("--warm-up", type=int, default=3, help="steps before; gsplat and torch.compile compile in the first")
    switch = {"off": False, "on": True}
    add("--recompute", nargs="+", choices=["none", "selective", "all"], default=["selective"])
    add("--rerender", nargs="*", choices=list(switch), default=["off"], help="on, off or both; alone: on")
    add("--compile", nargs="*", choices=list(switch), default=["off"], help="on, off or both; alone: on")
    add("--optimizer", nargs="+", choices=["adamw", "adamw8bit", "paged_adamw8bit"], default=["adamw"])
    add("--adapt", nargs="+", choices=["full", "heads", "last_n", "lora"], default=["full"])
    add("--attention", nargs="+", choices=["default", *BACKENDS], default=["default"], help="default: torch's choice")
    add("--memory-gb", type=float, metavar="GIB", help="act as a card of this memory")
    add("--manifest", type=Path, help="manifest.json of shards to load from; without it, synthetic ones are written")
    add("--container", nargs="+", choices=["h5", "tar"], default=["h5"])
    add("--workers", type=int, default=4, help="loader processes")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of the CPU, where that is the device")
    add("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args(words)
    for name in ("rerender", "compile"):
        setattr(options, name, [switch[word] for word in getattr(options, name) or ["on"]])
    if max(options.inputs) > options.views:
        parser.error(f"--inputs {max(options.inputs)} of --views {options.views}")
    if options.weights and not options.weights.exists():
        parser.error(f"--weights {options.weights}: no such file")
    return options


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    try:
        Bench(parse(words)).run()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
