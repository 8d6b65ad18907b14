"""The run itself: Lightning, from the last checkpoint or from the beginning to the last step."""

import logging
import signal
import warnings
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from mousefacelift.training.checkpoints import Checkpoints, resume
from mousefacelift.training.exhausted import training_memory
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.loggers import open_loggers
from mousefacelift.training.machine import environment, strategy
from mousefacelift.training.metrics_table import MetricsTable
from mousefacelift.training.progress import DataTime, ProgressLines


def fit(module: FineTuning, table: MetricsTable, checkpoint: Path, out_dir: Path, device: str) -> None:
    """Train to the last step, after the checkpoint if there is one.

    Args:
        module: the model with its data and settings, in which `auto` is resolved.
        table: of the run's metrics; filled.
        checkpoint: last.ckpt of the run; read, and written from time to time.
        out_dir: folder for TensorBoard's and W&B's files.
        device: "cuda" or "cpu".

    Raises:
        AlarmError: if the run has failed.
        TerminatedError: after SIGTERM or Ctrl-C.
        UserError: for a checkpoint that is damaged or of another run, and where memory runs out.
    """
    settings = module.settings
    unvalidated = checkpoint.exists() and resume(module, table, checkpoint)
    if module.step >= settings.steps and not unvalidated:
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advice on accelerators and services
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    table.save()  # without the rows that a killed run wrote after its last checkpoint
    with open_loggers(module, table, checkpoint, out_dir) as loggers:
        callbacks = [DataTime(), Checkpoints(checkpoint, settings.checkpoint_every, table), ProgressLines(table)]
        _fit(module, loggers, callbacks, out_dir, device, unvalidated)


def _fit(
    module: FineTuning, loggers: list[Logger], callbacks: list[Callback], out_dir: Path, device: str, unvalidated: bool
) -> None:
    settings = module.settings
    trainer = lightning.Trainer(
        accelerator=device,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=strategy(settings, device),
        plugins=[environment(settings)] if settings.processes > 1 else None,
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
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=out_dir,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings(), training_memory(settings, module.data.manifest.views):
        # The user chooses the workers, which a split in memory does not need; the loggers are given rows, not steps.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 with torch 2.13
        try:
            if unvalidated:
                trainer.validate(module, datamodule=module.data, verbose=False)
            if module.step < settings.steps:
                trainer.fit(module, datamodule=module.data)
        except BaseException as error:
            if not getattr(error, "shared", False):
                _end_the_others(trainer)
            raise


def _end_the_others(trainer: lightning.Trainer) -> None:
    """End the processes that this one started: they would wait for it for half an hour. srun ends those of other machines."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)
