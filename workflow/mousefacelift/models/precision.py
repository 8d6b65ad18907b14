"""Which float32 products a CUDA GPU may round to TF32, and which it must not.

TF32 keeps 10 bits of a factor's mantissa and is several times faster than float32. The transformer's layers bear that as
they bear bf16. What carries geometry does not: a ray direction rounded to 10 bits moves by a quarter of a pixel at
512 px. Neither do differences of nearly equal numbers, such as SSIM's variances.

The flags are torch's older ones (`allow_tf32`). torch 2.9 added `fp32_precision`, and raises an error when a process
uses both kinds; the older ones work from torch 2.6 on. They hold for the whole process, in all of its threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_cuda_precision(precision: str) -> None:
    """Set what CUDA's float32 products may be rounded to, for the rest of the process; the CPU computes as before.

    In `32-true` the matrix products of the layers, forward and backward, are TF32. In `bf16-mixed` the layers' products
    are bf16, and the few float32 ones stay as they are. cuDNN's convolutions, which torch lets be TF32 by default, are
    float32 in both: they are SSIM's, and those of its backward pass.

    Args:
        precision: `train.precision`, in which `auto` is resolved.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "32-true"
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32: without autocast and, on CUDA, without TF32.

    This holds for what is called inside, not for its backward pass, which runs after the flags are back. Autocast is no
    matter there: gradients have the types of the forward pass. In `32-true` the gradients of the heads' two linear maps
    are TF32 products, like those of the layers. The rays have no backward pass, because cameras are not trained.

    Args:
        device: of the tensors that are computed with.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32
        try:
            matmul.allow_tf32 = cudnn.allow_tf32 = False
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before
