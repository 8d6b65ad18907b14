"""What the device can do at best: matrix products, and attention by every backend."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend

from gpu.bench import Bench, attempt
from measuring import Row, summary
from mousefacelift.models.attention import KERNELS
from mousefacelift.models.gslrm import GSLRMConfig
from mousefacelift.models.registry import preset_config


def show_rates(bench: Bench) -> None:
    """Table of matrix products at several sizes; rates of training are given as fractions of the best."""
    sides = (4096, 8192, 16384) if bench.cuda else (512, 1024)
    config = preset_config(bench.options.preset)
    tokens = bench.tokens(max(bench.options.sizes), max(bench.options.inputs))
    shapes = [(side, side, side) for side in sides] + [(tokens, config.width, 4 * config.width)]
    rows = [{"m": m, "k": k, "n": n} | attempt(matmul, bench, m, k, n) for m, k, n in shapes]
    bench.peak = max((1e12 * row["tflop_per_s"] for row in rows if "tflop_per_s" in row), default=None)
    columns = {
        "m": ("m", "d"), "k": ("k", "d"), "n": ("n", "d"), "ms": ("ms", ".3f"), "spread_ms": ("± ms", ".3f"),
        "tflop_per_s": ("TFLOP/s", ".2f"),
    }  # fmt: skip
    bench.report.show("matmul", f"matrix products m x k x n, {bench.dtype}", columns, rows)


def matmul(bench: Bench, m: int, k: int, n: int) -> Row:
    """Time and rate of one product."""
    a = torch.randn(m, k, device=bench.device).to(bench.dtype)
    b = torch.randn(k, n, device=bench.device).to(bench.dtype)
    out = torch.empty(m, n, device=bench.device, dtype=bench.dtype)
    # Long enough for the clock to fall to what the card can sustain.
    repeat = 50 if bench.cuda else 3
    seconds, spread = summary(bench.clock.times(lambda: torch.mm(a, b, out=out), repeat, repeat))
    return {"ms": 1e3 * seconds, "spread_ms": 1e3 * spread, "tflop_per_s": 2e-12 * m * k * n / seconds}


def show_attention(bench: Bench) -> None:
    """Table of attention by every backend, at the sizes of the model."""
    config = preset_config(bench.options.preset)
    rows = []
    for size, inputs in itertools.product(bench.options.sizes, bench.options.inputs):
        tokens = bench.tokens(size, inputs)
        for name in ("default", *KERNELS):
            row = {"backend": name, "size": size, "inputs": inputs, "tokens": tokens}
            rows.append(row | attempt(attention, bench, config, name, tokens))
    columns = {
        "backend": ("backend", ""), "size": ("px", "d"), "inputs": ("inputs", "d"), "tokens": ("tokens", "d"),
        "forward_ms": ("forward ms", ".3f"), "forward_spread_ms": ("± ms", ".3f"), "forward_tflop_per_s": ("TFLOP/s", ".2f"),
        "backward_ms": ("backward ms", ".3f"), "backward_spread_ms": ("± ms", ".3f"), "backward_tflop_per_s": ("TFLOP/s", ".2f"),
        "chosen": ("kernel", ""),
    }  # fmt: skip
    title = (
        f"attention of one layer: {config.width // config.head_width} heads of {config.head_width}, {bench.dtype}; "
        "backward counted as twice forward (kernels compute the scores again, which is not counted)"
    )
    bench.report.show("attention", title, columns, rows)


def attention(bench: Bench, config: GSLRMConfig, name: str, tokens: int) -> Row:
    """Time and rate of one backend, on tensors with the strides that GS-LRM's `Attention` gives it."""
    heads = config.width // config.head_width
    qkv = torch.randn(1, tokens, 3, heads, config.head_width, device=bench.device).to(bench.dtype)
    q, k, v = (part.detach().requires_grad_() for part in qkv.permute(2, 0, 3, 1, 4))
    flop = 4.0 * tokens**2 * config.width
    repeat = bench.options.steps

    def forward() -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)

    with bench.attend_alone(name):
        out = forward()
        grad = torch.randn_like(out)
        there, spread = summary(bench.clock.times(forward, repeat, 2))
        back, spread_back = summary(
            bench.clock.times(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True), repeat, 2)
        )
        chosen = SDPBackend(torch._fused_sdp_choice(q, k, v)).name
    return {
        "forward_ms": 1e3 * there, "forward_spread_ms": 1e3 * spread, "forward_tflop_per_s": flop / there / 1e12,
        "backward_ms": 1e3 * back, "backward_spread_ms": 1e3 * spread_back, "backward_tflop_per_s": 2 * flop / back / 1e12,
        "chosen": chosen.lower().removesuffix("_attention"),
    }  # fmt: skip
