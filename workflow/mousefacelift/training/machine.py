"""The machine that a training run has: its device, its threads, and the processes that train together."""

import os
import sys

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.gpu.checks import missing, rapid, unsupported
from mousefacelift.gpu.driver import unseen
from mousefacelift.gpu.extension import ready
from mousefacelift.models.attention import AttentionChoice, choose_attention
from mousefacelift.models.network import Network
from mousefacelift.models.precision import set_cuda_precision
from mousefacelift.training.memory import fitting_recompute


def choose_accelerator(settings: Train) -> str:
    """Choose the device of a training run.

    `auto` is a GPU where there is one. A GPU that is there and cannot be used is an error, except that `tiny` then trains
    on the CPU, for which it is made; a line on stderr says why.

    Returns:
        "cuda" or "cpu".

    Raises:
        UserError: for a GPU that is asked for and absent, or there and unusable, with what to do.
    """
    if settings.accelerator == "cpu":
        return _cpu(settings)
    wrong = _unusable(settings.devices)
    if wrong is None:
        if settings.gpus > torch.cuda.device_count():
            raise UserError(f"train.gpus is {settings.gpus}, but torch sees {torch.cuda.device_count()}")
        return "cuda"
    if settings.accelerator == "cuda":
        raise UserError(f"train.accelerator is cuda: {wrong or 'torch sees no CUDA GPU, and the system shows none'}")
    expected = wrong and settings.gpus > 0
    if expected and not PRESETS[settings.preset].on_cpu:
        raise UserError(f"{wrong}. To train on the CPU all the same, set train.accelerator: cpu")
    if expected:
        print(f"using the CPU, although there is a GPU: {wrong}", file=sys.stderr, flush=True)
    return _cpu(settings)


def _unusable(gpus: int) -> str | None:
    """Why no GPU can be used: "" if there is none; None if one can be used."""
    if torch.cuda.is_available():
        return missing(unsupported(gpus) or rapid()) or None
    return unseen() or ""


def _cpu(settings: Train) -> str:
    if settings.optimizer == "paged_adamw8bit":
        raise UserError("train.optimizer: paged_adamw8bit pages a GPU's memory; on the CPU use adamw")
    return "cpu"


def set_threads(threads: int) -> None:
    """Use no more threads than the job was given, and no more than there are CPUs."""
    torch.set_num_threads(max(1, min(threads, len(os.sched_getaffinity(0)))))


def without_auto(settings: Train, device: str, views: int) -> Train:
    """The settings with `auto` replaced by what it stands for on this device.

    Args:
        settings: of the run.
        device: "cuda" or "cpu".
        views: of a sample, as in the manifest.
    """
    if settings.precision == "auto":
        fast = device == "cuda" and torch.cuda.is_bf16_supported(False)
        settings = settings.model_copy(update={"precision": "bf16-mixed" if fast else "32-true"})
    if settings.recompute == "auto":
        chosen = PRESETS[settings.preset].recompute
        if device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            chosen = fitting_recompute(settings, views, free)
        settings = settings.model_copy(update={"recompute": chosen})
    return settings


def prepare_gpu(settings: Train, model: Network, samples: int, threads: int) -> AttentionChoice:
    """Get a GPU ready for a run: gsplat compiled and loaded, precision set, attention chosen.

    Args:
        settings: in which `auto` is resolved.
        model: of the run, anywhere.
        samples: that it computes at a time.
        threads: for compiling.

    Returns:
        The attention kernels, to be applied around all steps.

    Raises:
        UserError: gsplat cannot be compiled, or the attention kernel that was asked for cannot compute this.
    """
    ready(threads)
    set_cuda_precision(settings.precision)
    dtype = torch.bfloat16 if settings.precision == "bf16-mixed" else torch.float32
    tokens = model.tokens(settings.num_input_views, settings.image_size)
    device = torch.device("cuda", torch.cuda.current_device())
    choice = choose_attention(model.config, samples, tokens, dtype, device, settings.attention)
    torch.cuda.empty_cache()  # what was measured with
    return choice


def strategy(settings: Train, device: str) -> Strategy | str:
    """Lightning's strategy: how the processes share the batch, and with `fsdp` the model too."""
    if settings.processes == 1:
        return "auto"
    backend = "nccl" if device == "cuda" else "gloo"
    if settings.strategy == "ddp":
        # Gradients lie in the buckets that are sent, instead of beside them: base saves 1.2 GB.
        return DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)
    return ModelParallelStrategy(
        data_parallel_size=settings.processes, tensor_parallel_size=1, process_group_backend=backend
    )


def environment(settings: Train) -> LightningEnvironment | SLURMEnvironment:
    """Who starts the processes: this one on a single machine, also in a Slurm job; srun on several machines."""
    return LightningEnvironment() if settings.nodes == 1 else SLURMEnvironment(auto_requeue=False)


def rank(settings: Train) -> int:
    """The number of this process among those that train together.

    Raises:
        UserError: if srun did not start as many processes as the settings need.
    """
    if settings.processes == 1:
        return 0
    if settings.nodes == 1:
        return LightningEnvironment().local_rank()
    tasks = os.environ.get("SLURM_NTASKS", "none")
    if tasks != str(settings.processes) or "SLURM_PROCID" not in os.environ:
        raise UserError(
            f"train.nodes is {settings.nodes} and train.gpus {settings.gpus}: start {settings.processes} tasks with srun "
            f"--nodes={settings.nodes} --ntasks-per-node={settings.devices} (found {tasks}), as the Slurm profile does"
        )
    return SLURMEnvironment(auto_requeue=False).global_rank()
