"""What goes along with a training: its table of metrics, its checkpoints, its progress, its curves."""

import os
import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mousefacelift.base.errors import TerminatedError, UserError
from mousefacelift.base.files import atomic, save_figure
from mousefacelift.training.finetuning import FineTuning


class MetricsTable(Logger):
    """metrics.csv: one row per step, kept in memory and in the checkpoints, so that a resumed run loses none and
    repeats none. `seconds` is the time spent in training up to the row, over all restarts.
    """

    def __init__(self, columns: list[str]):
        super().__init__()
        self.columns = columns
        self.restore({})

    def restore(self, rows: dict[int, dict[str, float]]) -> None:
        """Take over the rows of a checkpoint, and its clock."""
        self.rows = rows
        self._begin = time.monotonic() - max((row["seconds"] for row in rows.values()), default=0.0)

    @property
    def name(self) -> str:
        """Of the logger, to Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """Of the run, to Lightning: there is one per folder."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Settings go to config.yaml."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Merge values into the step's row."""
        assert step is not None
        row = self.rows.setdefault(step, {"step": step})
        row |= metrics | {"seconds": round(time.monotonic() - self._begin, 2)}

    def text(self) -> str:
        """The table as CSV; a cell is empty where a value was not measured at that step."""
        lines = [",".join(self.columns)]
        for _, row in sorted(self.rows.items()):
            lines.append(",".join(f"{row[name]:.7g}" if name in row else "" for name in self.columns))
        return "\n".join(lines) + "\n"


class Checkpoints(Callback):
    """Writes the run's last checkpoint, always complete: weights, optimiser, metrics; plain tensors and numbers.

    Beside it `good.ckpt`, the last at which nothing looked like a failure. On SIGTERM, which a cluster sends before it
    takes a job's machine away, and on Ctrl-C the step is finished, the checkpoint written and TerminatedError raised.
    """

    def __init__(self, path: Path, every: int, table: MetricsTable):
        self.path, self.every, self.table = path, every, table
        self._written = -1
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The step that the run continues after is already on disk."""
        assert isinstance(module, FineTuning)
        self._written = module.step
        self._listen(module)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """A run may continue with a validation."""
        assert isinstance(module, FineTuning)
        self._listen(module)

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Of several processes, those that were told wait for the step's end, where all of them agree."""
        assert isinstance(module, FineTuning)
        if module.terminated and trainer.world_size == 1:
            module.exchange_averages()
            # A run that continues with a validation has no optimiser yet, and its checkpoint is as it should be.
            if trainer.state.fn == "fit":
                self.write(module, unvalidated=True)
            self._terminate(module)

    # Before the next step, not after this one: by then the validation that belongs to this step has been logged.
    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Write where a checkpoint is due."""
        assert isinstance(module, FineTuning)
        if module.between_steps:
            if module.agreed_to_end:
                self.write(module)
                self._terminate(module)
            if module.step % self.every == 0:
                self.write(module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write the last one, of which the results are made."""
        assert isinstance(module, FineTuning)
        self.write(module)

    def write(self, module: FineTuning, unvalidated: bool = False) -> None:
        """Replace the checkpoint by the module's present state; once per step. To be called in all processes."""
        if module.step == self._written:
            return
        self._written = module.step
        state = module.snapshot() | {"rows": self.table.rows, "unvalidated": unvalidated}
        if not module.trainer.is_global_zero:
            return
        with atomic(self.path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's word for a full disk
                raise UserError(f"{self.path}: the checkpoint cannot be written ({error}); is the disk full?") from None
        if module.watch.clear:
            with atomic(self.path.with_name("good.ckpt")) as temporary:
                try:
                    os.link(self.path, temporary)  # the same file: `last` is replaced, never changed
                except OSError:  # a file system without links
                    shutil.copyfile(self.path, temporary)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Give the signals back, also after an error."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before.clear()

    def _terminate(self, module: FineTuning) -> None:
        # Of several processes, this one may not have been told itself.
        signum = signal.Signals(module.terminated or signal.SIGTERM)
        raise TerminatedError(
            f"ended by {signum.name} after step {module.step}; nothing is lost: the same command continues ({self.path})",
            signum,
        )

    def _listen(self, module: FineTuning) -> None:
        owner = os.getpid()

        def note(signum: int, *_: Any) -> None:
            # Loader processes inherit this; they end when their owner does.
            if os.getpid() != owner:
                return
            if module.terminated:  # told twice: at once, whatever is lost
                signal.signal(signum, signal.SIG_DFL)
                os.kill(owner, signum)
            module.terminated = signum

        for each in (signal.SIGTERM, signal.SIGINT):
            self._before.setdefault(each, signal.getsignal(each))
            signal.signal(each, note)


class ProgressLines(Callback):
    """A bar on a terminal; twenty lines in a log file, of equal distance."""

    def __init__(self, table: MetricsTable):
        self.table = table
        self._bar: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start the clock, and the bar on a terminal."""
        assert isinstance(module, FineTuning)
        self._start, self._begin = module.step, time.monotonic()
        if sys.stderr.isatty() and trainer.is_global_zero:
            columns = MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=module.settings.steps, completed=module.step)
            self._bar.start()

    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Say what the steps before this one came to."""
        assert isinstance(module, FineTuning)
        if module.between_steps and module.step > self._start:
            self._advance(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The last step has no next one."""
        assert isinstance(module, FineTuning)
        self._advance(trainer, module)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Give the terminal back, also after an error."""
        if self._bar is not None:
            self._bar.stop()

    def _advance(self, trainer: lightning.Trainer, module: FineTuning) -> None:
        step, steps = module.step, module.settings.steps
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._values(module))
        elif trainer.is_global_zero and step * 20 // steps > (step - 1) * 20 // steps:
            rate = (step - self._start) / max(time.monotonic() - self._begin, 1e-9)
            left = timedelta(seconds=round((steps - step) / rate))
            text = f"step {step}/{steps}, {self._values(module)}, {rate:.2f} steps/s, {left} left"
            print(text, file=sys.stderr, flush=True)

    def _values(self, module: FineTuning) -> str:
        psnrs = [row["val_psnr"] for row in self.table.rows.values() if "val_psnr" in row]
        text = f"loss {module.values['loss']:.5f}" + (f", val PSNR {psnrs[-1]:.2f} dB" if psnrs else "")
        return text + (f", {module.skipped} skipped" if module.skipped else "")


def write_curves(rows: dict[int, dict[str, float]], path: Path, title: str) -> None:
    """Draw a training's rows of metrics: losses, gradient norm, held-out PSNR, and what the model drew."""
    panels: list[tuple[str, dict[str, str], bool]] = [
        ("loss", {"loss": "loss"}, True),
        ("gradient norm before clipping", {"grad_norm": "norm"}, True),
        (
            "PSNR of held-out validation views, dB",
            {"val_psnr": "whole view", "val_psnr_foreground": "inside the silhouette"},
            False,
        ),
        ("squared error", {"error_foreground": "inside", "error_background": "outside"}, True),
        (
            "opacity drawn, darkness of the mouse",
            {
                "alpha_foreground": "opacity inside", "alpha_background": "opacity outside",
                "darkness": "darkness drawn", "target_darkness": "darkness of the images",
            },
            False,
        ),
        ("fraction of Gaussians in use", {"opacity_used": "opacity above 0.04"}, False),
    ]  # fmt: skip
    figure = Figure(figsize=(13, 7), layout="constrained", dpi=100)
    figure.suptitle(title, fontsize=10)
    ordered = [row for _, row in sorted(rows.items())]
    for axes, (label, lines, log) in zip(figure.subplots(2, 3).ravel(), panels, strict=True):
        for name, text in lines.items():
            points = [(row["step"], row[name]) for row in ordered if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=text, linewidth=1, marker="." if len(points) < 30 else None)
        if log:
            axes.set_yscale("log")
        elif any(-0.1 <= row[name] <= 1.1 for row in ordered for name in lines if name in row):
            axes.set_ylim(-0.1, 1.1)  # a mouse brighter than white would flatten the rest
        if not axes.lines:
            axes.text(0.5, 0.5, "none yet", ha="center", transform=axes.transAxes)
        axes.set(xlabel="step", title=label)
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        if len(lines) > 1 and axes.lines:
            axes.legend(fontsize=8)
    save_figure(figure, path)
