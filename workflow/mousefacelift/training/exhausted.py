"""Errors of memory that ran out, said as a user can act on them: where it was, who holds it, and what helps by how much."""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.training.memory import CONTEXT, GIB, Relief, forecast, reliefs
from mousefacelift.training.runs import DIVIDE_STREAMS, NOT_HASHED

# torch raises its OutOfMemoryError; extensions and cuBLAS raise RuntimeErrors with these words.
GPU = re.compile("out of memory|ALLOC_FAILED")
CPU = re.compile("DefaultCPUAllocator|can't allocate memory|not enough memory", re.IGNORECASE)


@contextmanager
def _said(on_cpu: str, on_gpu: Callable[[], str]) -> Iterator[None]:
    """Turn an error of memory into a UserError: where it was, and what helps for the computer's and for the GPU's."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        kind = exhausted(error)
        if kind is None:
            raise
        if kind == "CPU":
            what = f"the computer's memory ran out in {place(error)} ({_first_line(error)})"
            raise UserError(f"{what}: {on_cpu}") from error
        raise UserError(f"{_on_gpu(error)} {on_gpu()}") from error


def training_memory(settings: Train, views: int) -> AbstractContextManager[None]:
    """Say what helps a training run whose memory runs out.

    Args:
        settings: of the run, in which `auto` is resolved.
        views: views V of a sample.

    Raises:
        UserError: inside, instead of an error of memory, of the GPU or of the computer; other errors pass.
    """
    on_cpu = (
        "lower train.cache_gb and train.workers, raise train.accumulate, or set train.recompute: all; the same command then "
        "continues from the last checkpoint, if there is one"
    )
    return _said(on_cpu, lambda: _advice(settings, views))


@contextmanager
def evaluation_memory() -> Iterator[None]:
    """Say what helps where a trained model is run and memory runs out.

    Raises:
        UserError: inside, instead of an error of memory, of the GPU or of the computer; other errors pass.
    """
    on_gpu = "End other programs that use it, or hide the GPU (CUDA_VISIBLE_DEVICES=) to run this on the CPU."
    with _said("give the job more memory", lambda: on_gpu):
        yield


def exhausted(error: BaseException) -> Literal["GPU", "CPU"] | None:
    """Whose memory ran out; None for an error of another kind."""
    if isinstance(error, MemoryError) or CPU.search(str(error)):
        return "CPU"
    if isinstance(error, torch.OutOfMemoryError) or GPU.search(str(error)):
        return "GPU"
    return None


def place(error: BaseException) -> str:
    """The part of a step in which an error was raised, from the functions that were running."""
    frames = [(frame.f_code.co_filename, frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)]

    def ran(folder: str, *functions: str) -> bool:
        return any(folder in file and (not functions or name in functions) for file, name in frames)

    drawn = ran("/models/rasterize/") or ran("/gsplat/") or ran("/models/gaussians.py", "render")
    if ran("/torch/autograd/", "backward", "_engine_run_backward"):
        return "the backward pass of drawing" if drawn else "the backward pass"
    # Lightning calls a step from within the optimiser's: what is deeper is looked for first.
    if drawn:
        found = "drawing"
    elif ran("/training/losses.py") or ran("/training/guards.py"):
        found = "the loss"
    elif ran("/mousefacelift/models/"):
        found = "the forward pass"
    elif not ran("", "training_step", "validation_step") and (
        ran("/torch/optim/") or ran("/bitsandbytes/") or ran("/training/finetuning.py", "configure_gradient_clipping")
    ):
        found = "the optimiser's step"
    else:
        found = "loading the model or a batch"
    return f"{found} of a validation" if ran("", "validation_step") else found


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _on_gpu(error: BaseException) -> str:
    """What ran out where, and who holds the GPU's memory."""
    text = f"the GPU's memory ran out in {place(error)} ({_first_line(error)})."
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved() + CONTEXT
        others = max(total - free - own, 0)
        text += (
            f" {torch.cuda.get_device_name()} has {total / GIB:.1f} GiB: this process holds {own / GIB:.1f} GiB, other "
            f"programs {others / GIB:.1f} GiB."
        )
    return text


def _advice(settings: Train, views: int) -> str:
    """What helps, by how much, and whether the run continues with it."""
    changes, _ = reliefs(settings, views, 0)
    free = NOT_HASHED - DIVIDE_STREAMS if settings.container == "tar" else NOT_HASHED
    kept = [change for change in changes if change.name in free]
    new = [change for change in changes if change not in kept]
    sentences = [f"By the forecast the run needs {forecast(settings, views).bytes / GIB:.1f} GiB."]
    if kept:
        sentences.append(f"{_listed(kept)}: the same command then continues from the last checkpoint, if there is one.")
    if new:
        sentences.append(f"{_listed(new)}: this starts another run at step 0.")
    if not changes:
        sentences.append("No setting lowers it by much: use a larger GPU, or end other programs that use this one.")
    return " ".join(sentences)


def _listed(changes: list[Relief]) -> str:
    return ", ".join(map(str, changes))
