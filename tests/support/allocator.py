"""What torch's allocator on the CPU is asked for by a real step of training, beside what the forecast says."""

import types
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mousefacelift.config.train import Train
from mousefacelift.models.adapt import adapt, build_optimizer, trainable
from mousefacelift.models.registry import build_model
from mousefacelift.training import memory
from mousefacelift.training.data import floating
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.guards import Watch
from support.balls import AZIMUTHS, ELEVATIONS, look_at_origin

VIEWS = 6


class CudaAutocast(TorchFunctionMode):
    """Autocast on CUDA normalises in float32, that on the CPU does not: here the CPU follows CUDA's list."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@dataclass
class Measured:
    """Bytes: of parameters and the optimiser's states, and of the rest at its peak."""

    states: int
    peak: int


def peak_of(work) -> int:
    """The most that `work` holds of what it is given by the allocator, bytes. Arrays of numpy are not counted."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def settings_of(**changes) -> Train:
    """Settings of a run in which `auto` is resolved."""
    return Train.model_validate({"preset": "base", "precision": "32-true", "recompute": "none"} | changes)


def measured(settings: Train, foreground: float | None = None) -> Measured:
    """One step, after one that made the optimiser's states: the gradients are dropped before the forward pass.

    foreground: as for `stored_batch`.
    """
    torch.manual_seed(0)
    model = build_model(settings.preset, settings.guide)
    adapt(model, settings)
    model.recompute = settings.recompute
    module = FineTuning(model, settings, None, Watch(settings.guards), {}, "")
    module.trainer = types.SimpleNamespace(world_size=1)
    optimizer = build_optimizer(model, settings)
    for parameter in trainable(model).values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    states = [tensor for state in optimizer.state.values() for tensor in state.values() if torch.is_tensor(tensor)]
    held = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *states])
    stored = stored_batch(settings, foreground)
    mixed = settings.precision == "bf16-mixed"

    def step():
        batch = floating(stored)
        # As Lightning's bf16-mixed.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if mixed else nullcontext(), CudaAutocast():
            loss = module.training_step(batch, 0)
        loss.backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()

    return Measured(held, peak_of(step))


def stored_batch(settings: Train, foreground: float | None = None) -> dict[str, torch.Tensor]:
    """A batch of noise as a loader gives it, seen by level cameras.

    foreground: the share of the pixels that a disc in the middle, the silhouette of a ball, covers; None for noise.
    """
    samples, size = settings.batch_size, settings.image_size
    c2w = np.array([look_at_origin(AZIMUTHS[v], ELEVATIONS[v], 2.7) for v in range(VIEWS)])
    c2w = torch.from_numpy(c2w).float().expand(samples, -1, -1, -1).contiguous()
    fxfycxcy = torch.tensor([1.07 * size, 1.07 * size, size / 2, size / 2]).expand(samples, VIEWS, 4).contiguous()
    rgba = torch.randint(0, 256, (samples, VIEWS, size, size, 4), dtype=torch.uint8)
    if foreground is not None:
        along = (torch.arange(size) + 0.5) / size - 0.5
        rgba[..., 3] = 255 * (along**2 + along[:, None] ** 2 < foreground / torch.pi)
    return {
        "rgba": rgba,
        "c2w": c2w,
        "w2c": torch.linalg.inv(c2w),
        "fxfycxcy": fxfycxcy,
        "inputs": torch.arange(settings.num_input_views).expand(samples, -1).contiguous(),
        "tone": torch.ones(samples, 2),
    }


def forecast_of_torch(settings: Train) -> int:
    """The forecast of the same step, without what no allocator of torch's gives on a CPU: CUDA, and drawing's arrays.

    The CPU draws with numba. Of drawing, only the activated Gaussians are torch's, 64 bytes each.
    """
    scene = 64 * settings.batch_size * (settings.num_input_views * settings.image_size**2 + 2)
    moments = {name: parts for name, parts in memory.forecast(settings, VIEWS).moments.items() if name != "validation"}
    return max(
        sum(value for part, value in parts.items() if part not in ("CUDA", "drawing")) + scene * ("drawing" in parts)
        for parts in moments.values()
    )
