"""How fast the CPU rasteriser and gsplat on a CUDA GPU draw, and whether they draw the same.

    python benchmarks/raster.py --json raster.json
    python benchmarks/raster.py --device cpu --counts 10000 --sizes 128

The Gaussians are like a trained model's of a mouse: N of six pixel-aligned images, a fair part of them opaque. Without
a GPU the CPU rasteriser is compared with the dense float64 reference, at a small N.
"""

import argparse
import itertools
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from measuring import Clock, Report, Row, chosen_device, machine, summary
from mousefacelift.base.errors import UserError
from mousefacelift.models.rasterize.api import rasterize
from mousefacelift.models.rasterize.reference import rasterize_reference
from mousefacelift.training.machine import set_threads
from scenes import pixel_aligned_scene, ring

NAMES = ("means", "quats", "scales", "opacities", "colors")
PIXELS_TARGET = 0.999  # of the pixels of rgb and alpha within 1/255
GRADIENTS_TARGET = 1e-3  # norm of the difference over the norm
CLEAR_OF_CLAMPS = 0.98  # gsplat clamps alpha at 0.999, the reference of FaceLift and the CPU's rasteriser at 0.99
DENSE = (400, 48)  # Gaussians and px of a scene for the dense reference


def scene(count: int, size: int, views: int, opaque: bool | None = None) -> list[Tensor]:
    """`rasterize`'s tensors: `count` Gaussians drawn at random from the pixels of six images, cameras for `size` px.

    opaque: None as they come; False, none reaches a clamp of alpha; True, half of them do.
    """
    side = math.ceil(math.sqrt(count / 6))
    gaussians = pixel_aligned_scene("trained", side, 6, 1)[:5]
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(len(gaussians[0]), generator=generator)[:count]
    means, quats, scales, opacities, colors = (tensor[chosen] for tensor in gaussians)
    if opaque is not None:
        opacities = opacities.clamp_max(CLEAR_OF_CLAMPS)
    if opaque:
        opacities = torch.where(torch.rand(count, generator=generator) < 0.5, 0.9999, opacities)
    return [means, quats, scales, opacities, colors, *ring(views, size)]


def leaves(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on a device, the Gaussians' with gradients."""
    moved = [tensor.detach().to(device) for tensor in tensors]
    return [tensor.requires_grad_() for tensor in moved[:5]] + moved[5:]


def upstream(views: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gradients of rgb and alpha, the same on every device."""
    generator = torch.Generator().manual_seed(2)
    rgb = torch.randn(views, size, size, 3, generator=generator)
    alpha = torch.randn(views, size, size, generator=generator)
    return rgb.to(device), alpha.to(device)


def timed(count: int, size: int, views: int, device: torch.device, repeat: int) -> Row:
    """Forward without gradients, and forward and backward."""
    tensors, grads = leaves(scene(count, size, views), device), upstream(views, size, device)
    clock = Clock(device)

    def draw() -> None:
        with torch.no_grad():
            rasterize(*tensors, size, size)

    def differentiate() -> None:
        torch.autograd.grad(rasterize(*tensors, size, size), tensors[:5], grads)

    row: Row = {}
    for name, function in (("forward", draw), ("both", differentiate)):
        if clock.cuda:
            torch.cuda.reset_peak_memory_stats(device)
        # gsplat and numba compile in the first call.
        middle, spread = summary(clock.times(function, repeat, 2))
        row |= {f"{name}_ms": 1e3 * middle, f"{name}_spread_ms": 1e3 * spread}
        if clock.cuda:
            row[f"{name}_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return row | {"views_per_s": views / row["forward_ms"] * 1e3}


def drawn(draw: Any, tensors: list[Tensor], size: int, device: torch.device) -> dict[str, Tensor]:
    """rgb, alpha and the gradients of the Gaussians, in float64 on the CPU."""
    tensors = leaves(tensors, device)
    rgb, alpha = draw(*tensors, size, size)
    grads = [grad.to(rgb.dtype) for grad in upstream(len(alpha), size, device)]
    found = dict(zip(NAMES, torch.autograd.grad((rgb, alpha), tensors[:5], grads), strict=True))
    return {name: tensor.detach().double().cpu() for name, tensor in {"rgb": rgb, "alpha": alpha, **found}.items()}


def agreement(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Row:
    """Fraction of equal pixels, of every channel, and relative errors of gradients."""
    pixels = {
        name: ((found[name] - expected[name]).abs() <= 1 / 255).double().mean().item() for name in ("rgb", "alpha")
    }
    norm = torch.linalg.vector_norm
    errors = {name: (norm(found[name] - expected[name]) / norm(expected[name])).item() for name in NAMES}
    return pixels | errors


def run(options: argparse.Namespace) -> None:
    """Measure, compare, print."""
    device, cpu = chosen_device(options.device), torch.device("cpu")
    set_threads(options.threads)
    report = Report()
    found = machine(device)
    report.say("machine", found, ", ".join(f"{name} {value}" for name, value in found.items()))

    rows = []
    devices = [cpu, device] if device.type == "cuda" else [cpu]
    for count, size, views in itertools.product(options.counts, options.sizes, options.views):
        for each in devices:
            row = {"count": count, "size": size, "views": views, "rasterizer": "gsplat" if each != cpu else "cpu"}
            rows.append(row | timed(count, size, views, each, options.repeat))
    columns = {
        "count": ("Gaussians", "d"), "size": ("px", "d"), "views": ("views", "d"), "rasterizer": ("by", ""),
        "forward_ms": ("forward ms", ".2f"), "forward_spread_ms": ("± ms", ".2f"), "views_per_s": ("views/s", ".1f"),
        "both_ms": ("forward + backward ms", ".2f"), "both_spread_ms": ("± ms", ".2f"),
        "forward_gib": ("peak forward GiB", ".3f"), "both_gib": ("+ backward GiB", ".3f"),
    }  # fmt: skip
    report.show("speed", "drawing: time, and memory of the GPU", columns, rows)

    compare(options, report, device)
    report.save(options.json)


def compare(options: argparse.Namespace, report: Report, device: torch.device) -> None:
    """The CPU's rasteriser with gsplat, or with the dense reference."""
    cpu = torch.device("cpu")
    if device.type == "cuda":
        pair, cases = "gsplat and the CPU's", itertools.product(options.counts, options.sizes, (False, True))
    else:
        pair, cases = "the CPU's and the dense float64 reference", [(*DENSE, False), (*DENSE, True)]
        report.say(
            "compared", "reference", "no CUDA GPU: gsplat is not measured; the CPU's is compared with the reference"
        )
    rows = []
    for count, size, opaque in cases:
        views = max(options.views)
        tensors = scene(count, size, views, opaque)
        ours = drawn(rasterize, tensors, size, cpu)
        if device.type == "cuda":
            found, expected = drawn(rasterize, tensors, size, device), ours
        else:
            found, expected = ours, drawn(rasterize_reference, tensors, size, cpu)
        row = {"count": count, "size": size, "views": views, "scene": "opaque" if opaque else "below the clamps"}
        rows.append(row | agreement(found, expected))
    columns = {
        "count": ("Gaussians", "d"), "size": ("px", "d"), "views": ("views", "d"), "scene": ("scene", ""),
        "rgb": ("rgb within 1/255", ".4%"), "alpha": ("alpha within 1/255", ".4%"),
        **{name: (f"error of d{name}", ".1e") for name in NAMES},
    }  # fmt: skip
    report.show("agreement", f"{pair}: pixels, and gradients (norm of the difference / norm)", columns, rows)
    if device.type == "cuda":
        print("opaque scenes differ by the clamps of alpha, 0.999 and 0.99: they count for no verdict")
    clear = [row for row in rows if row["scene"] != "opaque"]
    for name in ("rgb", "alpha"):
        worst = min(row[name] for row in clear)
        target = f"{100 * PIXELS_TARGET:.1f} % of {name} within 1/255"
        report.verdict(target, worst >= PIXELS_TARGET, f"{100 * worst:.4f} %, {pair}")
    for name in NAMES:
        worst = max(row[name] for row in clear)
        # A comparison with NaN is false: not met.
        report.verdict(
            f"gradient of {name} within {GRADIENTS_TARGET:.0e}", worst <= GRADIENTS_TARGET, f"{worst:.1e}, {pair}"
        )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: gsplat too, where there is a CUDA GPU")
    add("--counts", type=int, nargs="+", default=[10_000, 98_304, 1_572_864], metavar="N", help="Gaussians")
    add("--sizes", type=int, nargs="+", default=[128, 512], metavar="PX")
    add("--views", type=int, nargs="+", default=[1, 6], metavar="V")
    add("--repeat", type=int, default=5, help="measured calls, after two that warm up")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of the CPU rasteriser")
    add("--json", type=Path, help="write the numbers to this file, too")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    try:
        run(parse(words))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
