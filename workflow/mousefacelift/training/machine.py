"""The machine that a training run has: its device, its threads, and the processes that train together."""

import importlib.util
import os

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train


def choose_accelerator(settings: Train) -> str:
    """Choose the device of a training run.

    Returns:
        "cuda" or "cpu".

    Raises:
        UserError: for a GPU that is asked for and absent, or present without its rasteriser.
    """
    cuda = torch.cuda.is_available()
    if settings.accelerator == "cuda" and not cuda:
        raise UserError(
            "train.accelerator is cuda, but torch sees no CUDA GPU; use auto or cpu, or a CUDA build of torch"
        )
    if settings.accelerator == "cpu" or not cuda:
        if settings.optimizer == "paged_adamw8bit":
            raise UserError("train.optimizer: paged_adamw8bit pages a GPU's memory; on the CPU use adamw")
        return "cpu"
    if importlib.util.find_spec("gsplat") is None:
        raise UserError(
            "drawing Gaussians on the GPU needs gsplat, which is not installed: pip install -c envs/constraints.txt -e "
            "'.[gpu]' (it compiles its CUDA code at first use), or set train.accelerator: cpu"
        )
    if settings.gpus > torch.cuda.device_count():
        raise UserError(f"train.gpus is {settings.gpus}, but torch sees {torch.cuda.device_count()}")
    return "cuda"


def set_threads(threads: int) -> None:
    """Use no more threads than the job was given, and no more than there are CPUs."""
    torch.set_num_threads(max(1, min(threads, len(os.sched_getaffinity(0)))))


def without_auto(settings: Train, device: str) -> Train:
    """The settings with `auto` replaced by what it stands for on this device."""
    chosen = {}
    if settings.precision == "auto":
        chosen["precision"] = "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported(False) else "32-true"
    if settings.recompute == "auto":
        chosen["recompute"] = PRESETS[settings.preset].recompute
    return settings.model_copy(update=chosen)


def strategy(settings: Train, device: str) -> Strategy | str:
    """Lightning's strategy: how the processes share the batch, and with `fsdp` the model too."""
    if settings.processes == 1:
        return "auto"
    backend = "nccl" if device == "cuda" else "gloo"
    if settings.strategy == "ddp":
        return DDPStrategy(process_group_backend=backend)
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
