"""What the measurements of `train_gpu` share."""

import argparse
import gc
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

from gpu.inputs import pixel_sized
from measuring import Clock, Report, Row, chosen_device
from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import adapt
from mousefacelift.models.attention import KERNELS, choose_attention
from mousefacelift.models.network import Network
from mousefacelift.models.precision import set_cuda_precision
from mousefacelift.models.registry import network, preset_config
from mousefacelift.models.weights.files import load_weights
from mousefacelift.stages.train import set_threads

CONTEXT = 0.6  # GiB that CUDA, its libraries and kernels take, beside what torch allocates


class Bench:
    """What the measurements share: the command line, the device and its clock, and the report."""

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
        if self.cuda:
            set_cuda_precision("bf16-mixed")
        if self.cuda and options.memory_gb:
            total = torch.cuda.get_device_properties(self.device).total_memory
            limit = (options.memory_gb - CONTEXT) * 2**30
            torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, limit / total)), self.device)

    def settings(self, size: int, inputs: int, **choices: Any) -> Train:
        """Settings of a training run. The rate is so low that the last step is of the same model as the first."""
        return Train(
            preset=self.options.preset, image_size=size, num_input_views=inputs, i_know=True, learning_rate=1e-9,
            batch_size=self.options.batch_size, workers=self.options.workers, **{"recompute": "none"} | choices,
        )  # fmt: skip

    def model(self, settings: Train) -> Network:
        """The model of a row of a table, on the device."""
        torch.manual_seed(0)
        if self.options.weights:
            model = load_weights(self.options.weights).to(self.device)
        else:
            with self.device:
                model = network(PRESETS[settings.preset].network)(pixel_sized(settings.preset, settings.image_size))
        with self.device:
            adapt(model, settings)
        model.recompute = settings.recompute  # type: ignore[assignment]  # never auto here
        if settings.compile:
            model.compile_layers()
        return model

    def autocast(self) -> AbstractContextManager[Any]:
        """Precision as in Lightning's bf16-mixed, which keeps no cache of converted weights."""
        if not self.cuda:
            return nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)

    def tokens(self, size: int, inputs: int) -> int:
        """Tokens of a sample of which no patch is left out, the free ones included."""
        config = preset_config(self.options.preset)
        return int(config.free_gaussians + inputs * (size // config.patch) ** 2)

    def attend_by(self, name: str, settings: Train, training: bool) -> tuple[AbstractContextManager[Any], str]:
        """Compute attention as with this `train.attention`, or by torch's choice: the context, and the kernel's name."""
        if name == "default":
            return nullcontext(), ""
        config = preset_config(self.options.preset)
        tokens = self.tokens(settings.image_size, settings.num_input_views)
        samples = settings.batch_size if training else 1
        wanted: Any = name
        choice = choose_attention(config, samples, tokens, self.dtype, self.device, wanted, training)
        return choice.applied(), "".join(choice.order[:1])

    def attend_alone(self, name: str) -> AbstractContextManager[Any]:
        """Compute attention by one kernel and no other, or by torch's choice."""
        return nullcontext() if name == "default" else sdpa_kernel(KERNELS[name])


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
        # Here no frame holds tensors any more; in the clauses above the error's traceback does.
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {"failed": failed}
