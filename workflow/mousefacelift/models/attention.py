"""Which of torch's attention kernels a GPU uses: the fastest for the tokens of this run, by a measurement.

Attention is three quarters of the arithmetic of `base` at 512 px. The order of the kernels depends on the card: others
report that flash takes 1.7 to 2.3 times as long as cuDNN's on an H100, and less than it on an A100.
"""

import re
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mousefacelift.base.errors import UserError

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
BUDGET = 0.2  # s for the measured calls of a kernel, after one that loads and plans it
CALLS = 5  # measured calls at most

# What torch and cuDNN say of a kernel that cannot do this, and of a card without the memory for it.
UNFIT = re.compile(r"no available kernel|no viable backend|cudnn|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class AttentionChoice:
    """The kernels of a run, in the order in which torch tries them.

    order: names in KERNELS; empty for torch's own order. milliseconds: of one layer, by kernel. unfit: why a kernel is
    left out. trained: whether the times are of the forward and the backward pass.
    """

    order: tuple[str, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    trained: bool = True

    def __str__(self) -> str:
        """The line for the log, such as "attention: cudnn 3.1 ms, flash 5.4 ms per layer: cudnn"."""
        chosen = self.order[0] if self.order else "torch's plain one"
        times = ", ".join(
            f"{name} {self.milliseconds[name]:.1f} ms" for name in self.order if name in self.milliseconds
        )
        passes = "forward and backward" if self.trained else "forward"
        found = f"{times} per layer, {passes}: {chosen}" if times else chosen
        reasons = "; ".join(f"{name} left out: {why}" for name, why in self.unfit.items())
        return f"attention: {found}" + (f" ({reasons})" if reasons else "")

    def applied(self) -> AbstractContextManager[Any]:
        """Let attention use these kernels, and torch's plain one where none of them can do it.

        A later kernel takes over where an earlier one cannot: flash takes no mask, which batches with padding have. The
        flags are the process's, not the thread's. They hold in the backward pass too, which computes activations again
        in threads of its own, and for what torch.compile traces inside.
        """
        if not self.order:
            return nullcontext()
        return sdpa_kernel([*(KERNELS[name] for name in self.order), SDPBackend.MATH], set_priority=True)


def seconds_on_gpu(call: Callable[[], None]) -> float:
    """Mean seconds of a call on the GPU, over as many as fit in BUDGET, CALLS at most."""
    torch.cuda.synchronize()
    begin, calls, seconds = time.perf_counter(), 0, 0.0
    while calls < CALLS and seconds < BUDGET:
        call()
        torch.cuda.synchronize()
        calls, seconds = calls + 1, time.perf_counter() - begin
    return seconds / calls


def choose_attention(
    config: Any,
    samples: int,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    wanted: Literal["auto", "flash", "cudnn", "efficient"] = "auto",
    training: bool = True,
    measure: Callable[[Callable[[], None]], float] = seconds_on_gpu,
) -> AttentionChoice:
    """Choose the kernels of a run, before its first step.

    With `auto` each kernel computes the attention of one layer, on tensors with the shapes and strides that the network
    gives it, which takes about a second in all. A kernel that raises an error for memory or for what it supports is left
    out. A kernel that is wanted is tried once and comes first; the others follow in the order of KERNELS.

    Args:
        config: of the network; `width` and `head_width` are used.
        samples: on this device at a time.
        tokens: of a sample, the free ones included.
        dtype: of the layers under autocast.
        device: of the run. On the CPU nothing is chosen or measured.
        wanted: `train.attention`.
        training: whether gradients will be computed, or the forward pass alone.
        measure: function -> seconds of one call; the function has been called once before.

    Raises:
        UserError: the kernel that is wanted cannot compute this.
    """
    if device.type != "cuda":
        return AttentionChoice(trained=training)
    call = _layer(config, samples, tokens, dtype, device, training)
    if wanted != "auto":
        if reason := _attempt(wanted, call):
            raise UserError(
                f"train.attention is {wanted}, which cannot compute this run's attention ({samples} x {tokens} tokens, "
                f"heads of {config.head_width}, {dtype}: {reason}); use auto"
            )
        return AttentionChoice((wanted, *(name for name in KERNELS if name != wanted)), trained=training)
    reasons = {name: _attempt(name, call) for name in KERNELS}
    fit = [name for name, reason in reasons.items() if not reason]
    times: dict[str, float] = {}
    if len(fit) > 1:
        for name in fit:
            with sdpa_kernel(KERNELS[name]):
                times[name] = measure(call)
    order = tuple(sorted(fit, key=lambda name: times.get(name, 0.0)))
    milliseconds = {name: 1e3 * seconds for name, seconds in times.items()}
    unfit = {name: reason for name, reason in reasons.items() if reason}
    return AttentionChoice(order, milliseconds, unfit, training)


def _layer(
    config: Any, samples: int, tokens: int, dtype: torch.dtype, device: torch.device, training: bool
) -> Callable[[], None]:
    """The attention of one layer on random tokens, with the strides that the network's `Attention` makes."""
    heads, width = config.width // config.head_width, config.head_width
    # Random numbers of its own: the run's must not depend on whether attention was measured.
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    qkv = random(samples, tokens, 3, heads, width).requires_grad_(training)
    grad = random(samples, tokens, heads, width).transpose(1, 2)

    def call() -> None:
        with torch.set_grad_enabled(training):
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            out = functional.scaled_dot_product_attention(q, k, v)
        if training:
            torch.autograd.grad(out, qkv, grad)

    return call


def _attempt(name: str, call: Callable[[], None]) -> str:
    """Call once with one kernel alone: why it is unfit, or nothing."""
    with warnings.catch_warnings(record=True) as said, sdpa_kernel(KERNELS[name]):
        warnings.simplefilter("always")
        try:
            call()
        except RuntimeError as error:
            if not UNFIT.search(str(error)):
                raise
            # torch warns of every kernel's reasons, those of the kernels that are off among them.
            texts = [str(warning.message).split(" (Triggered")[0] for warning in said]
            reasons = [text for text in texts if not re.search("not used because|disabled", text)]
            return " ".join(dict.fromkeys(reasons)) or str(error).splitlines()[0]
    return ""
