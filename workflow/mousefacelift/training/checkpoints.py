"""The checkpoints of a training run: written while it runs, read when it continues or ends, locked in between."""

import math
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from mousefacelift.base.errors import TerminatedError, UserError
from mousefacelift.base.files import atomic
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import merged, trainable
from mousefacelift.models.network import Network
from mousefacelift.models.weights.files import save_weights
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.metrics_table import MetricsTable
from mousefacelift.training.runs import initial_model


class Checkpoints(Callback):
    """Writes last.ckpt, always complete: weights, optimiser state and metrics as plain tensors and numbers.

    good.ckpt beside it is the last checkpoint at which nothing looked like a failure. best.ckpt holds the weights with the
    best validation by the module's `primary` metric. best.ckpt alone says which is the best so far.
    So a run that was killed may know a better one than its last checkpoint does, and keeps it. A cluster sends SIGTERM before it
    takes a job's machine away. On SIGTERM and on Ctrl-C the step is finished, the checkpoint is written and
    TerminatedError is raised.
    """

    def __init__(self, path: Path, every: int, table: MetricsTable):
        self.path, self.every, self.table = path, every, table
        self._written = -1
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Take note that the step after which the run continues is already on disk."""
        assert isinstance(module, FineTuning)
        self._written = module.step
        self._listen(module)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Listen to signals here too: a run may continue with a validation."""
        assert isinstance(module, FineTuning)
        self._listen(module)

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """End a single process here; several processes agree at the step's end."""
        assert isinstance(module, FineTuning)
        if module.terminated and trainer.world_size == 1:
            module.exchange_averages()
            # A run that continues with a validation has no optimiser yet, and its checkpoint is already on disk.
            if trainer.state.fn == "fit":
                self.write(module, unvalidated=True)
            self._terminate(module)

    # Before the module's own hook, which puts the averages away: the weights in place are those that were validated.
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keep the weights that were validated, if none before them were as good."""
        assert isinstance(module, FineTuning)
        self.table.save()
        value = module.validated.get(module.primary, math.nan)
        if trainer.strategy.broadcast(trainer.is_global_zero and self._is_best(value)):
            # `averages` as in other checkpoints: these weights are the averages, if there are any.
            state = {"step": module.step, "value": value, "model": module.trained(), "averages": {}}
            if trainer.is_global_zero:
                _save(state, self.path.with_name("best.ckpt"))

    # Before the next step, not after this one: by then the validation that belongs to this step has been logged.
    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Write a checkpoint where one is due."""
        assert isinstance(module, FineTuning)
        if module.between_steps:
            if module.agreed_to_end:
                self.write(module)
                self._terminate(module)
            if module.step % self.every == 0:
                self.write(module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write the last checkpoint, from which the results are made."""
        assert isinstance(module, FineTuning)
        self.write(module)

    def write(self, module: FineTuning, unvalidated: bool = False) -> None:
        """Replace the checkpoint by the module's present state, once per step. All processes must call it."""
        if module.step == self._written:
            return
        self._written = module.step
        state = module.snapshot() | {"rows": self.table.rows, "unvalidated": unvalidated}
        if not module.trainer.is_global_zero:
            return
        _save(state, self.path)
        if module.watch.clear:
            same_file(self.path, self.path.with_name("good.ckpt"))
        self.table.save()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Restore the signals' handlers, also after an error."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before.clear()

    def _is_best(self, value: float) -> bool:
        best = best_validation(self.path)
        return not math.isnan(value) and (best is None or value > best.value)

    def _terminate(self, module: FineTuning) -> None:
        # The signal may have reached another of the processes.
        signum = signal.Signals(module.terminated or signal.SIGTERM)
        raise TerminatedError(
            f"ended by {signum.name} after step {module.step}; nothing is lost: the same command continues ({self.path})",
            signum,
        )

    def _listen(self, module: FineTuning) -> None:
        owner = os.getpid()

        def note(signum: int, *_: Any) -> None:
            # Loader processes inherit this handler; they end when their owner does.
            if os.getpid() != owner:
                return
            if module.terminated:  # the second signal ends the process at once, whatever is lost
                signal.signal(signum, signal.SIG_DFL)
                os.kill(owner, signum)
            module.terminated = signum

        for each in (signal.SIGTERM, signal.SIGINT):
            self._before.setdefault(each, signal.getsignal(each))
            signal.signal(each, note)


@dataclass(frozen=True)
class Best:
    """The best validation of a run: the step after which it was made, its value of the primary metric, the weights' file."""

    step: int
    value: float
    path: Path


def best_validation(checkpoint: Path) -> Best | None:
    """The best validation so far of the run with this last.ckpt, None before the first. Its weights are not read.

    Raises:
        UserError: for a best.ckpt that is damaged.
    """
    path = checkpoint.with_name("best.ckpt")
    if not path.exists():
        return None
    state = _read(path, "delete it", mmap=True)
    try:
        return Best(int(state["step"]), float(state["value"]), path)
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, error) from None


def same_file(source: Path, target: Path) -> None:
    """Give a file, which is replaced but never changed, a second name. Where links are not possible, copy it."""
    with atomic(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def resume(module: FineTuning, table: MetricsTable, path: Path) -> bool:
    """Set a module and its table to a checkpoint.

    Returns:
        Whether the checkpoint's step is yet to be validated.

    Raises:
        UserError: for a checkpoint that is damaged or of another run.
    """
    state = _read(path)
    try:
        _load_trained(module.model, state["model"])
        module.step, module.skipped, module.optimizer_state = int(state["step"]), state["skipped"], state["optimizer"]
        module.averages = dict(state["averages"]) or None
        module.watch.restore(state["watch"])
        table.restore(state["rows"])
        unvalidated = bool(state["unvalidated"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _foreign(path, error) from None
    if module.data.rank == 0:
        print(f"continuing after step {module.step} ({path})", file=sys.stderr, flush=True)
    return unvalidated


def finished_model(path: Path, settings: Train) -> Network:
    """The model of a checkpoint, as a run saves it: with averaged weights, if there are any, and low-rank updates merged.

    Raises:
        UserError: for a checkpoint that is damaged or of another run.
    """
    state, model = _read(path), initial_model(settings)
    try:
        _load_trained(model, state["model"] | state["averages"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise _foreign(path, error) from None
    return merged(model)


def keep_good(checkpoint: Path, settings: Train) -> str:
    """Write the weights of good.ckpt beside the last checkpoint of a run that has failed.

    Returns:
        Where they are and how to go on, as text for the error.
    """
    good = checkpoint.with_name("good.ckpt")
    if not good.exists():
        return (
            "No checkpoint without a sign of failure was written. The same command would stop again; "
            f"{checkpoint.parent} can be deleted"
        )
    path = checkpoint.with_name("good.safetensors")
    save_weights(finished_model(good, settings), path)
    return (
        f"The weights of step {_read(good)['step']}, the last good ones, are in {path}: set train.init to continue from them. "
        f"The same command would stop again; all else in {checkpoint.parent} can be deleted"
    )


def _save(state: dict[str, Any], path: Path) -> None:
    """Replace a checkpoint. Raises UserError if there is no room for it."""
    with atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch raises for a full disk
            raise UserError(f"{path}: the checkpoint cannot be written ({error}); is the disk full?") from None


def _read(
    path: Path,
    remedy: str = "replace it by the good.ckpt beside it, if there is one, or delete it to start over",
    mmap: bool = False,
) -> dict[str, Any]:
    """A checkpoint's content. Only plain tensors and numbers are read from it, never code.

    mmap: read a tensor when it is used.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, MemoryError):
        raise  # the file may be sound
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise UserError(f"{path}: damaged checkpoint ({error}); {remedy}") from None
    return state if isinstance(state, dict) else {}


def _foreign(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a checkpoint of this run ({error!r:.300}); delete it to start over")


def _load_trained(model: Network, state: dict[str, Any]) -> None:
    """Set the trained tensors. Raises KeyError or RuntimeError unless the state holds these and nothing else."""
    if state.keys() != trainable(model).keys():
        raise KeyError(f"tensors {sorted(state.keys() ^ trainable(model).keys())[:3]}")
    model.load_state_dict(state, strict=False)
