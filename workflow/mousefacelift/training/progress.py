"""The progress of a training run on stderr."""

import sys
import time
from datetime import timedelta
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.metrics_table import MetricsTable


class DataTime(Callback):
    """Ends the time that a step waits for data. The first of the callbacks, because others write checkpoints."""

    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """End the step's `data`."""
        assert isinstance(module, FineTuning)
        module.clock.end("data")


class ProgressLines(Callback):
    """A bar on a terminal; in a log file twenty lines, evenly spaced."""

    def __init__(self, table: MetricsTable):
        self.table = table
        self._bar: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start the clock, and on a terminal the bar."""
        assert isinstance(module, FineTuning)
        self._start, self._begin = module.step, time.monotonic()
        if sys.stderr.isatty() and trainer.is_global_zero:
            columns = MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=module.settings.steps, completed=module.step)
            self._bar.start()

    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Report the steps before this one."""
        assert isinstance(module, FineTuning)
        if module.between_steps and module.step > self._start:
            self._advance(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Report the last step, which no other follows."""
        assert isinstance(module, FineTuning)
        self._advance(trainer, module)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Release the terminal, also after an error."""
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
