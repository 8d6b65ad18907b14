"""Fine-tuning of GS-LRM on shards.

Everything that decides a run is a function of the settings, the data and the step: the weights at the start, the
samples of a step, their held-out views, the learning rate. So a checkpoint needs only weights, optimiser state, the
watch's counters and the metrics so far, and a run that was killed ends with the weights of one that was not.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numba
import torch
import yaml
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import adapt, merged, trainable
from mousefacelift.models.network import Network
from mousefacelift.models.registry import build_model, preset_config
from mousefacelift.models.weights.files import load_weights, save_weights
from mousefacelift.shards.checksums import checksum
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import Manifest, read_manifest
from mousefacelift.training.callbacks import Checkpoints, MetricsTable, ProgressLines, write_curves
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.guards import STATISTICS, AlarmError, Watch
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.preflight import preflight, report

# Settings that change how fast a run goes, when it is stopped or where it is written, but not what it computes.
NOT_HASHED = {
    "run", "manifest", "gpus", "nodes", "accumulate", "workers", "cache_gb", "checkpoint_every", "recompute", "rerender",
    "compile", "guards", "log_every", "accelerator", "i_know",
    "init",  # by its content instead
}  # fmt: skip
# Which tar is streamed by which loader process, and so the order of samples, depends on how many there are.
DIVIDE_STREAMS = {"gpus", "nodes", "accumulate", "workers"}


def train(
    manifest: Path | str, out_dir: Path, checkpoint_dir: Path, settings: Train, threads: int, check: bool = False
) -> None:
    """Fine-tune on the train split of shards, whose manifest is a path or a URL, and write model.safetensors, metrics.csv,
    curves.png and config.yaml to `out_dir`.

    Checkpoints go to a folder of `checkpoint_dir` named by the hash of settings and data. A rerun continues there after
    the last complete checkpoint; a second process with the same settings and data waits for the first one's lock.
    check: only print the table of what would be trained on what, which otherwise comes before the first step. Raises
    UserError before the first step for unusable settings or data, AlarmError when the run has failed, TerminatedError
    after a SIGTERM or Ctrl-C.
    """
    rank, device = 0 if check else _rank(settings), choose_accelerator(settings)
    settings = settings.model_copy(update=_automatic(settings, device))
    data = read_manifest(manifest)
    if settings.num_input_views >= data.views:
        raise UserError(
            f"train.num_input_views is {settings.num_input_views}, but the shards have {data.views} views: none would "
            f"be held out; use {data.views - 1}"
        )
    if rank == 0:
        refuse_damaged(data, settings.container, ("train",), threads)
        refuse_damaged(data, "h5", ("val",), threads)
    set_threads(threads // settings.devices)
    if not data.split("train"):
        raise UserError(f"{manifest}: no training samples; see why `sample` rejected them (rejected.tsv)")
    shards = ShardData(data, settings, rank, settings.processes)

    model = _initial_model(settings)
    if rank == 0:
        report(preflight(shards, model, device))
    if check:
        return
    config = _run_config(data, settings)
    checkpoint = checkpoint_dir / _identity(config) / "last.ckpt"
    if rank:
        _continue(_module(model, settings, shards), MetricsTable([]), checkpoint, out_dir, device)
        return
    with _locked(checkpoint.with_name("lock")):
        if not checkpoint.exists() and (others := list(checkpoint_dir.glob("*/last.ckpt"))):
            text = f"starting anew: the checkpoints in {checkpoint_dir} ({len(others)}) are of other settings or data"
            print(text, file=sys.stderr, flush=True)
        module = _module(model, settings, shards)
        terms = [name for name, weight in settings.loss.model_dump().items() if weight]
        validation = ["val_psnr", "val_psnr_foreground", "val_mask_iou"] if len(shards.val) else []
        table = MetricsTable(
            ["step", "loss", *terms, "lr", "grad_norm", "skipped", *STATISTICS, *validation, "seconds"]
        )
        title = f"{settings.run}: {settings.preset}, {settings.steps} steps of {settings.batch_size} samples"
        try:
            _continue(module, table, checkpoint, out_dir, device)
        except AlarmError as alarm:
            _write_table(table, out_dir / "metrics-failed.csv")
            write_curves(table.rows, out_dir / "curves-failed.png", f"{title}: stopped at step {module.step}")
            try:
                kept = _keep_good(checkpoint, settings)
            except (UserError, OSError) as error:
                kept = f"The last good weights could not be kept ({error})"
            raise AlarmError(f"{alarm}. See {out_dir / 'curves-failed.png'}. {kept}") from None
        # From the checkpoint, whether this process has just written it or finds the run finished.
        save_weights(_result(checkpoint, settings), out_dir / "model.safetensors")
        for name in ("metrics-failed.csv", "curves-failed.png"):
            (out_dir / name).unlink(missing_ok=True)
        write_curves(table.rows, out_dir / "curves.png", title)
        with atomic(out_dir / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        _write_table(table, out_dir / "metrics.csv")


def _module(model: Network, settings: Train, shards: ShardData) -> FineTuning:
    model.recompute = settings.recompute  # type: ignore[assignment]  # auto was resolved
    if settings.compile:
        model.compile_layers()
    return FineTuning(model, settings, shards, Watch(settings.guards))


def _continue(module: FineTuning, table: MetricsTable, checkpoint: Path, out_dir: Path, device: str) -> None:
    """Run Lightning from the checkpoint, if there is one, or else from the beginning, to the last step."""
    settings = module.settings
    unvalidated = checkpoint.exists() and _resume(module, table, checkpoint)
    if module.step >= settings.steps and not unvalidated:
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advice on accelerators and services
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # purge_step hides what a killed run logged after its last checkpoint.
    tensorboard = TensorBoardLogger(out_dir, name="tensorboard", version="", purge_step=module.step + 1)
    trainer = lightning.Trainer(
        accelerator=device,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=_strategy(settings, device),
        plugins=[_environment(settings)] if settings.processes > 1 else None,
        precision=settings.precision,  # type: ignore[arg-type]  # auto was resolved
        # Lightning counts optimiser steps. With none left there is still a validation to do.
        max_steps=max(settings.steps - module.step, 1),
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=1.0 if len(module.data.val) else 0,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.clip_norm,
        # The GPU rasteriser adds gradients in any order: ordered versions of the rest would cost time for nothing.
        deterministic=device == "cpu",
        callbacks=[Checkpoints(checkpoint, settings.checkpoint_every, table), ProgressLines(table)],
        logger=[table, tensorboard],
        default_root_dir=out_dir,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        # Workers are the user's choice and of no use to a split in memory; the loggers are given rows, not steps.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 with torch 2.13
        if unvalidated:
            trainer.validate(module, datamodule=module.data, verbose=False)
        if module.step < settings.steps:
            trainer.fit(module, datamodule=module.data)


def _strategy(settings: Train, device: str) -> Strategy | str:
    if settings.processes == 1:
        return "auto"
    backend = "nccl" if device == "cuda" else "gloo"
    if settings.strategy == "ddp":
        return DDPStrategy(process_group_backend=backend)
    return ModelParallelStrategy(
        data_parallel_size=settings.processes, tensor_parallel_size=1, process_group_backend=backend
    )


def _environment(settings: Train) -> LightningEnvironment | SLURMEnvironment:
    """Who starts the processes: on one machine this one does, also in a Slurm job; on several, srun does."""
    return LightningEnvironment() if settings.nodes == 1 else SLURMEnvironment(auto_requeue=False)


def _rank(settings: Train) -> int:
    """The process's number among those that train together. Raises UserError if srun did not start that many."""
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


def _automatic(settings: Train, device: str) -> dict[str, str]:
    """The settings that `auto` stands for on this machine."""
    chosen = {}
    if settings.precision == "auto":
        chosen["precision"] = "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported(False) else "32-true"
    if settings.recompute == "auto":
        chosen["recompute"] = PRESETS[settings.preset].recompute
    return chosen


def choose_accelerator(settings: Train) -> str:
    """The device to use, "cuda" or "cpu".

    Raises UserError for a GPU that is asked for and absent, or that is there without its rasteriser.
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
    threads = max(1, min(threads, len(os.sched_getaffinity(0)), numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(threads)  # first: when numba starts its OpenMP threads, it resets torch's number of them
    torch.set_num_threads(threads)


def _run_config(data: Manifest, settings: Train) -> dict[str, Any]:
    """What fixes a run's result: settings, model, data and the version of this code."""
    return {
        "train": settings.model_dump(mode="json"),
        "model": asdict(preset_config(settings.preset)),
        "data": {"sha256": data.sha256, "image_size": data.image_size, "views": data.views},
        "init_sha256": checksum(Path(settings.init)) if settings.init else None,
        "version": STAGE_VERSIONS["train"],
    }


def _identity(config: dict[str, Any]) -> str:
    """The name of a run's checkpoints: equal for runs that compute the same."""
    streamed = config["train"]["container"] == "tar"
    free = NOT_HASHED - DIVIDE_STREAMS if streamed else NOT_HASHED | {"shuffle_buffer"}
    settings = {name: value for name, value in config["train"].items() if name not in free}
    for unused in {"last_n", "lora"} - {settings["adapt"]}:
        del settings[unused]
    settings["optimizer"] = settings["optimizer"].removeprefix("paged_")  # the same, elsewhere in memory
    identity = config | {"train": settings}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _initial_model(settings: Train) -> Network:
    """The preset's model as a run begins: random weights, or those of `init`, which must be of the same preset; adapted."""
    torch.manual_seed(settings.seed)
    if settings.init is None:
        model = build_model(settings.preset)
    else:
        try:
            model = load_weights(Path(settings.init), settings.preset)
        except UserError as error:
            raise UserError(f"train.init: {error}") from None
    adapt(model, settings)
    return model


def _load(path: Path) -> dict[str, Any]:
    """A checkpoint's content. Only plain tensors and numbers are read from it, never code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise  # the file may be as it should
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise UserError(
            f"{path}: damaged checkpoint ({error}); put good.ckpt, if it is beside it, in its place, or delete it to start over"
        ) from None
    return state if isinstance(state, dict) else {}


def _resume(module: FineTuning, table: MetricsTable, path: Path) -> bool:
    """Continue after a checkpoint; returns whether its step is yet to be validated."""
    state = _load(path)
    try:
        _load_trained(module.model, state["model"])
        module.step, module.skipped, module.optimizer_state = int(state["step"]), state["skipped"], state["optimizer"]
        module.averages = dict(state["averages"]) or None
        module.watch.restore(state["watch"])
        table.restore(state["rows"])
        unvalidated = bool(state["unvalidated"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint of this run ({error!r:.300}); delete it to start over") from None
    if module.data.rank == 0:
        print(f"continuing after step {module.step} ({path})", file=sys.stderr, flush=True)
    return unvalidated


def _load_trained(model: Network, state: dict[str, Any]) -> None:
    """Set what is trained. Raises KeyError or RuntimeError unless the state holds that, and nothing else."""
    if state.keys() != trainable(model).keys():
        raise KeyError(f"tensors {sorted(state.keys() ^ trainable(model).keys())[:3]}")
    model.load_state_dict(state, strict=False)


def _result(path: Path, settings: Train) -> Network:
    """The model that a checkpoint stands for: averaged weights, where there are any, and low-rank updates merged."""
    state, model = _load(path), _initial_model(settings)
    try:
        _load_trained(model, state["model"] | state["averages"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint of this run ({error!r:.300}); delete it to start over") from None
    return merged(model)


def _keep_good(checkpoint: Path, settings: Train) -> str:
    """Write the weights of the last checkpoint without a sign of failure; says where, and how to go on."""
    good = checkpoint.with_name("good.ckpt")
    text = f"The same command would stop again; {checkpoint.parent} can be deleted"
    if not good.exists():
        return f"No checkpoint without a sign of failure was written. {text}"
    path = checkpoint.with_name("good.safetensors")
    save_weights(_result(good, settings), path)
    return f"The weights of step {_load(good)['step']}, the last good ones, are in {path}: set train.init to go on from them. {text} but for them"


def _write_table(table: MetricsTable, path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text(table.text(), encoding="utf-8")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock; wait, saying so, while another process holds it. A killed process holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process trains this very run (lock {path})", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Loader processes that have not ended yet hold copies of the handle: closing this one would not release it.
            fcntl.flock(handle, fcntl.LOCK_UN)
