"""Inference: from images on the device to Gaussians, and to pictures of them."""

import itertools

import torch

from gpu.bench import Bench, attempt
from gpu.flop import model_flop, token_count
from gpu.inputs import device_batch
from measuring import Row, summary
from mousefacelift.models.gaussians import render


def show_latency(bench: Bench) -> None:
    """Table of the model, of drawing, and of both."""
    rows = []
    for size, inputs, attention in itertools.product(
        bench.options.sizes, bench.options.inputs, bench.options.attention
    ):
        row = {"size": size, "inputs": inputs, "attention": attention}
        rows.append(row | attempt(latency, bench, size, inputs, attention))
    views = bench.options.views
    columns = {
        "size": ("px", "d"), "inputs": ("inputs", "d"), "attention": ("attention", ""), "kernel": ("kernel", ""), "tokens": ("tokens", "d"),
        "gaussians": ("Gaussians", "d"), "model_ms": ("model ms", ".2f"), "model_spread_ms": ("± ms", ".2f"),
        "one_view_ms": ("1 view ms", ".2f"), "one_view_spread_ms": ("± ms", ".2f"),
        "all_views_ms": (f"{views} views ms", ".2f"), "all_views_spread_ms": ("± ms", ".2f"),
        "both_ms": (f"model and {views} views ms", ".2f"), "both_spread_ms": ("± ms", ".2f"),
        "tflop_per_s": ("model TFLOP/s", ".4g"),
    }  # fmt: skip
    bench.report.show("latency", "inference of one sample, each alone", columns, rows)


def latency(bench: Bench, size: int, inputs: int, attention: str) -> Row:
    """Times of one sample."""
    settings = bench.settings(size, inputs)
    attention_context, kernel = bench.attend_by(attention, settings, training=False)
    model = bench.model(settings).eval()
    batch = device_batch(bench.options.views, inputs, size, 1, bench.device)
    given = [batch[name][:, :inputs] for name in ("image", "c2w", "fxfycxcy", "alpha")]
    w2c, fxfycxcy = batch["w2c"], batch["fxfycxcy"]
    repeat, warm_up = bench.options.steps, bench.options.warm_up
    row: Row = {"kernel": kernel}
    with torch.inference_mode(), bench.autocast(), attention_context:
        gaussians = model(*given)
        measured = {
            "model": lambda: model(*given),
            "one_view": lambda: render(gaussians, w2c[:, :1], fxfycxcy[:, :1], size, size),
            "all_views": lambda: render(gaussians, w2c, fxfycxcy, size, size),
            "both": lambda: render(model(*given), w2c, fxfycxcy, size, size),
        }
        for name, function in measured.items():
            middle, spread = summary(bench.clock.times(function, repeat, warm_up, alone=True))
            row |= {f"{name}_ms": 1e3 * middle, f"{name}_spread_ms": 1e3 * spread}
    count = gaussians.xyz.shape[1]
    tokens = token_count(model.config, count)
    tflop = sum(model_flop(model.config, tokens).values()) / 1e12
    return row | {"tokens": tokens, "gaussians": count, "tflop_per_s": tflop / (row["model_ms"] / 1e3)}
