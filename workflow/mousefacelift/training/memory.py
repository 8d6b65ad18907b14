"""A forecast of the GPU memory that a training run needs, by part. docs/training.md, "Memory", derives the numbers.

All sizes are in bytes. Symbols: B samples that are computed at a time, V views of S x S px, N Gaussians of a sample.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Loss, Train
from mousefacelift.geometry.views import FACELIFT_FOCAL, FACELIFT_IMAGE_SIZE, MEAN_CAMERA_DISTANCE
from mousefacelift.models.adapt import adapt, trainable
from mousefacelift.models.network import Footprint, Network, Recompute
from mousefacelift.models.registry import network, preset_config
from mousefacelift.training.losses import SSIM_WINDOW

GIB = 2**30
CONTEXT = int(0.6 * GIB)  # CUDA's context, the kernels, and the workspace of cuBLAS
NOTABLE = GIB // 20  # a change that saves less is not named
MARGIN = 0.1  # of the free memory, for what torch's allocator holds between blocks
BLOCK = 256  # values that share a scale in 8-bit AdamW
TILE = 16  # px, of gsplat
RADIUS = 3.33  # standard deviations at which gsplat cuts a Gaussian off
LOW_PASS = 0.3  # px^2, added to a projected variance


@dataclass(frozen=True)
class Forecast:
    """The memory of a run at the moments of a step that may need most: moment -> part -> bytes."""

    moments: dict[str, dict[str, int]]

    @property
    def peak(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def parts(self) -> dict[str, int]:
        """The parts at the peak."""
        return self.moments[self.peak]

    @property
    def bytes(self) -> int:
        """The sum at the peak."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """The parts in GiB, the largest first."""
        parts = sorted(self.parts.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts if value >= NOTABLE)
        return f"{listed} (peak: {self.peak})"


@dataclass(frozen=True)
class Share:
    """Bytes of a part of a step: kept for the backward pass, and on top of that needed for a moment in either pass."""

    kept: int
    forward: int
    backward: int


def forecast(settings: Train, views: int) -> Forecast:
    """Forecast the memory of a step, the optimiser's states being there, and of a validation.

    Args:
        settings: of the run, in which `auto` is resolved.
        views: views V of a sample, inputs and held out.
    """
    config = preset_config(settings.preset, settings.guide)
    model = _skeleton(settings.preset, config, settings.adapt, settings.last_n, settings.lora.rank)
    samples = settings.batch_size // (settings.processes * settings.accumulate)
    size, mixed = settings.image_size, settings.precision == "bf16-mixed"
    recompute: Recompute = settings.recompute  # type: ignore[assignment]  # auto was resolved
    net = model.footprint(samples, settings.num_input_views, size, mixed, recompute)
    drawing = draw(net, settings, samples, views)
    images = image_terms(settings.loss, samples * views, size)
    fixed = _fixed(model, settings, samples * views * size**2)
    after_heads, after_layers, gradients = _gradients(model, settings)
    # Buckets of ddp and the sums of several parts of a batch are there all the time.
    before = 0
    if settings.accumulate > 1 or _buckets(settings):
        before = after_heads = after_layers = gradients

    def moment(grads: int, activations: int, copies: int = 0, **parts: int) -> dict[str, int]:
        listed = {"gradients": grads, "activations": activations, "weights in bf16": copies} | parts
        return {name: value for name, value in (fixed | listed).items() if value}

    trunk, seen = net.kept, {"heads": net.heads, "drawing": drawing.kept}
    return Forecast(
        {
            "forward, layers": moment(before, trunk + net.forward, net.copies),
            "forward, heads": moment(before, trunk, net.copies, heads=net.heads + net.forward_heads),
            "forward, drawing": moment(before, trunk, net.copies, heads=net.heads, drawing=drawing.kept + drawing.forward),
            "forward, loss": moment(before, trunk, net.copies, **seen, images=images.kept + images.forward),
            "backward, loss": moment(before, trunk, net.copies, **seen, images=images.kept + images.backward),
            "backward, drawing": moment(
                before, trunk, net.copies, heads=net.heads, drawing=drawing.kept + drawing.backward
            ),
            "backward, last layer": moment(after_heads, trunk + net.backward_layer, net.copies),
            "backward, first layer": moment(after_layers, net.first_layer + net.backward_layer),
            "backward, end": moment(gradients, net.backward_end),
            "optimiser": moment(gradients, 0),
            "validation": _validation(model, settings, views, fixed | ({"gradients": gradients} if _buckets(settings) else {})),
        }
    )  # fmt: skip


def fitting_recompute(settings: Train, views: int, free_bytes: int) -> Recompute:
    """What `train.recompute: auto` stands for on a GPU: the fastest choice that fits in its memory.

    Args:
        settings: of the run; `precision` is resolved.
        views: views V of a sample, as in the manifest.
        free_bytes: free memory of the GPU, after the CUDA context was made (`torch.cuda.mem_get_info`).

    Returns:
        The first of "none", "selective" and "all" that leaves a tenth of the memory free, or "all"; "none" for a preset
        that recomputes nothing.
    """
    if PRESETS[settings.preset].recompute == "none":
        return "none"
    choices: tuple[Recompute, ...] = ("none", "selective")
    for recompute in choices:
        if fits(forecast(settings.model_copy(update={"recompute": recompute}), views), free_bytes):
            return recompute
    return "all"


def fits(found: Forecast, free_bytes: int) -> bool:
    """Whether a run fits into memory that is free beside its CUDA context, with a margin."""
    return found.bytes - CONTEXT <= (1 - MARGIN) * free_bytes


@dataclass(frozen=True)
class Relief:
    """A change of the settings, and the bytes that it saves after the changes before it."""

    name: str
    value: str
    saved: int

    def __str__(self) -> str:
        return f"train.{self.name}: {self.value} saves {self.saved / GIB:.1f} GiB"


def reliefs(settings: Train, views: int, goal: int) -> tuple[list[Relief], int]:
    """Changes that lower the forecast, those first that cost only time, until it is low enough.

    Args:
        settings: of the run, in which `auto` is resolved.
        views: views V of a sample.
        goal: bytes that the forecast shall not exceed.

    Returns:
        The changes, each with what it saves beside those before it; they may not be enough.
        The forecast with all of them.
    """
    found: list[Relief] = []
    needed = forecast(settings, views).bytes
    for name, value in _changes(settings):
        if needed <= goal:
            break
        changed = settings.model_copy(update={name: value})
        saved = needed - forecast(changed, views).bytes
        if saved >= NOTABLE:
            settings, needed = changed, needed - saved
            if found and found[-1].name == name:  # recompute: all instead of selective
                saved += found.pop().saved
            found.append(Relief(name, str(value).lower(), saved))
    return found, needed


def _changes(settings: Train) -> Iterable[tuple[str, Any]]:
    """Changes that may lower the memory, the dearest last."""
    order = ("none", "selective", "all")
    yield from (("recompute", choice) for choice in order[order.index(settings.recompute) + 1 :])
    if not settings.rerender:
        yield "rerender", True
    yield "accumulate", settings.batch_size // settings.processes
    if settings.optimizer == "adamw" and settings.strategy == "ddp":
        yield "optimizer", "adamw8bit"
    if settings.adapt == "full":
        yield "adapt", "lora"
    if settings.image_size % 16 == 0 and settings.image_size >= 256:
        yield "image_size", settings.image_size // 2


@functools.lru_cache(8)
def _skeleton(preset: str, config: Any, kind: str, last_n: int, rank: int) -> Network:
    """The adapted model without values."""
    with torch.device("meta"):
        model = network(PRESETS[preset].network)(config)
        adapt(model, Train.model_validate({"preset": preset, "adapt": kind, "last_n": last_n, "lora": {"rank": rank}}))
    return model


def tiles(net: Footprint, settings: Train) -> float:
    """Tiles of gsplat that a Gaussian touches in a view, about.

    Gaussians of random weights have the network's own size; trained ones are taken to be a pixel wide. All of them are
    counted, though a trained model hides those of the background.
    """
    size = settings.image_size
    pixel = MEAN_CAMERA_DISTANCE / (FACELIFT_FOCAL * size / FACELIFT_IMAGE_SIZE)  # world units
    width, opacity = (pixel, 1.0) if settings.init or net.start is None else net.start
    reach = min(RADIUS, math.sqrt(2 * math.log(max(255 * opacity, 1))))
    radius = math.ceil(reach * math.sqrt((width / pixel) ** 2 + LOW_PASS))
    return float(min((1 + 2 * radius / TILE) ** 2, math.ceil(size / TILE) ** 2))


def draw(net: Footprint, settings: Train, samples: int, views: int) -> Share:
    """The memory of drawing: of `rasterization` of gsplat 1.5.3, and of what activates the Gaussians before it.

    Args:
        net: of the network.
        settings: image_size, init and rerender are used.
        samples: B.
        views: views V that are drawn of a sample.
    """
    count, pixels = net.gaussians, settings.image_size**2
    together = 1 if settings.rerender else views
    rows, pairs = together * count, int(together * count * tiles(net, settings))
    view = together * pixels
    # Per row: radii, means2d, conics, colours, opacity; per pair its row; per pixel opacity and last Gaussian.
    call = 44 * rows + 4 * pairs + 8 * view
    # Before and after the sort, each pair has a key of 8 and a row; a row's colours and opacity come after it, with the
    # image, when the depths, the numbers of tiles and the sorted keys are still there.
    front = max(20 * pairs - 8 * view, 8 * rows + 8 * pairs + 12 * view)
    scene, upstream = 64 * samples * count, 16 * samples * views * pixels  # activated Gaussians; gradients of the views
    if not settings.rerender:
        return Share(scene + samples * call, front, 36 * rows + upstream)
    # One view at a time, drawn again in the backward pass; 56 bytes of a Gaussian's gradients are summed over the views.
    return Share(scene, call + front + 16 * views * pixels, call + 56 * count + max(front, 36 * rows) + upstream)


def image_terms(loss: Loss, views: int, size: int) -> Share:
    """The memory of the drawn views, the losses and the step's statistics.

    Args:
        loss: its terms; what LPIPS needs is not known.
        views: of all samples.
        size: S of views of S x S px.
    """
    pixels = views * size**2
    # The error of three channels, and a mask for each mean.
    kept = 12 + 4 * sum(weight > 0 for weight in (loss.masked_l2, loss.background, loss.alpha))
    if not loss.ssim:
        return Share(kept * pixels, 40 * pixels, 36 * pixels)
    # Both images, five products of them, blurred along rows, and along columns with seven maps made of them.
    inner = (size - SSIM_WINDOW + 1) / size
    kept += math.ceil(84 + 60 * inner + 144 * inner**2)
    return Share(kept * pixels, 40 * pixels, 180 * pixels)


def _fixed(model: Network, settings: Train, pixels: int) -> dict[str, int]:
    """What is there all the time."""
    changed = list(trainable(model).values())
    states = 8.0
    if settings.optimizer != "adamw":
        states = 2 + 8 / BLOCK
    shares = _shares(settings)
    whole = 0
    if shares > 1:  # two layers at a time are gathered, and what is outside of the layers
        layers = [_bytes(layer.parameters()) for layer in model.transformer_layers]
        whole = _bytes(model.parameters()) - sum(layers) + 2 * max(layers)
    tone = settings.brightness > 0 or settings.contrast > 0
    return {
        "parameters": _bytes(model.parameters()) // shares + whole,
        "optimiser": int(states * _bytes(changed) / 4) // shares,
        "averages": _bytes(changed) // shares if settings.ema is not None else 0,
        "batch": (28 if tone else 16) * pixels,
        "CUDA": CONTEXT,
    }


def _gradients(model: Network, settings: Train) -> tuple[int, int, int]:
    """The gradients after the backward pass of the heads, of the layers but the first one that is trained, and of all.

    With fsdp a share of them, and the whole of one layer's.
    """
    heads = _bytes(p for name, p in trainable(model).items() if name.split(".")[0] in model.parts["heads"])
    layers = [_bytes(trainable(layer).values()) for layer in model.transformer_layers]
    layers = [size for size in layers if size]
    found = heads, heads + sum(layers[1:]), _bytes(trainable(model).values())
    if (shares := _shares(settings)) == 1:
        return found
    return tuple(size // shares + max(layers) for size in found)  # type: ignore[return-value]


def _validation(model: Network, settings: Train, views: int, fixed: dict[str, int]) -> dict[str, int]:
    """One sample without gradients."""
    size, mixed = settings.image_size, settings.precision == "bf16-mixed"
    net = model.footprint(1, settings.num_input_views, size, mixed, "all")
    drawing = draw(net, settings, 1, views)
    network = max(net.forward, net.heads + net.forward_heads)
    drawn = net.heads + drawing.kept + drawing.forward
    return fixed | ({"activations": network} if network > drawn else {"heads": net.heads, "drawing": drawn - net.heads})


def _shares(settings: Train) -> int:
    return settings.processes if settings.strategy == "fsdp" else 1


def _buckets(settings: Train) -> bool:
    return settings.processes > 1 and settings.strategy == "ddp"


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(4 * tensor.numel() for tensor in tensors)
