"""Fine-tuning of GS-LRM on shards.

Everything that decides a run is a function of the settings, the data and the step: the weights at the start, the
samples of a step, their held-out views, the learning rate. So a checkpoint needs only weights, optimiser state and
the metrics so far, and a run that was killed ends with the weights of one that was not.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import math
import os
import sys
import time
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
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mousefacelift import STAGE_VERSIONS
from mousefacelift.config import Train
from mousefacelift.errors import UserError
from mousefacelift.files import atomic
from mousefacelift.gslrm import GSLRM, PRESETS, load_weights, render, save_weights
from mousefacelift.loaders import ShardData
from mousefacelift.losses import image_loss, mask_iou, psnr, psnr_foreground
from mousefacelift.manifest import Manifest, read_manifest
from mousefacelift.verify import refuse_damaged

MAX_SKIPPED = 50  # steps in a row
SKIP_FACTOR = 20  # a gradient norm this many times clip_norm is a step into the fog, not a step to be shortened
BETAS = (0.9, 0.95)
# Settings that change how fast a run goes or where it is written, but not what it computes.
NOT_HASHED = {"run", "manifest", "gpus", "workers", "cache_gb", "checkpoint_every"}

Batch = dict[str, Tensor]


def learning_rate(step: int, settings: Train) -> float:
    """Of a step counted from 0: linear warm-up to the peak, then half a cosine to zero after the last step."""
    warmup = min(settings.warmup_steps, settings.steps - 1)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (settings.steps - warmup)))


def predict(model: GSLRM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Reconstruct from the batch's input views and draw all of its views: rgb [B, V, 3, S, S], alpha [B, V, S, S]."""
    rows = torch.arange(len(batch["inputs"]), device=batch["inputs"].device)[:, None]
    image, c2w, fxfycxcy = (batch[name][rows, batch["inputs"]] for name in ("image", "c2w", "fxfycxcy"))
    size = image.shape[-1]
    return render(model(image, c2w, fxfycxcy), batch["w2c"], batch["fxfycxcy"], size, size)


class FineTuning(lightning.LightningModule):
    """The training loop's body. `step` counts optimiser steps over all restarts; Lightning's own counters do not.

    An epoch, to Lightning, is the stretch up to the next validation.
    """

    def __init__(self, model: GSLRM, settings: Train, data: ShardData):
        super().__init__()
        self.model, self.settings, self.data = model, settings, data
        self.skipped = 0
        self._skipped_in_a_row = 0
        self.optimizer_state: dict[str, Any] | None = None  # of the checkpoint to continue from
        self._grad_norm = math.nan
        self._validation: dict[str, list[Tensor]] = {}

    @property
    def step(self) -> int:
        """Optimiser steps done, which is where the data go on."""
        return self.data.step

    @step.setter
    def step(self, value: int) -> None:
        self.data.step = value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weight decay on matrices only. The learning rate is set in every step."""
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, betas=BETAS, fused=True)
        if self.optimizer_state:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def training_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """The loss on all views, inputs and held out."""
        for group in self.optimizers(use_pl_optimizer=False).param_groups:  # type: ignore[union-attr]
            group["lr"] = learning_rate(self.step, self.settings)
        rgb, alpha = predict(self.model, batch)
        loss, terms = image_loss(rgb, alpha, batch["image"], batch["alpha"], self.settings.loss)
        if not loss.isfinite():
            raise UserError(
                f"the loss is {loss.item()} at step {self.step + 1}; the last checkpoint is kept. Lower "
                "train.learning_rate or train.clip_norm, or use precision 32-true"
            )
        self._terms = {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}
        return loss

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip; drop the gradients of a step whose norm is not finite or far above the clip, which skips the step."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self._grad_norm = norm.item()
        if self._grad_norm <= SKIP_FACTOR * self.settings.clip_norm:
            self._skipped_in_a_row = 0
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row == MAX_SKIPPED:
                raise UserError(
                    f"{self._skipped_in_a_row} steps in a row were skipped, up to step {self.step + 1}: the gradients' norm is "
                    f"{self._grad_norm:.3g}, more than {SKIP_FACTOR} times train.clip_norm. Lower train.learning_rate, or "
                    "delete the last checkpoint to start over"
                )
            optimizer.zero_grad(set_to_none=True)  # AdamW leaves a parameter without a gradient, and its state, alone

    def on_train_batch_end(self, *_: Any) -> None:
        """Count the step and log it."""
        self.step += 1
        if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
            row = {name: term.item() for name, term in self._terms.items()}
            row |= {"lr": learning_rate(self.step - 1, self.settings), "grad_norm": self._grad_norm}
            self.record(row | {"skipped": self.skipped})

    def validation_step(self, batch: Batch, _batch_index: int) -> None:
        """Metrics of the views that were not inputs."""
        rgb, alpha = predict(self.model, batch)
        views = batch["held_out"][0]
        rgb, alpha, image, mask = rgb[0, views], alpha[0, views], batch["image"][0, views], batch["alpha"][0, views]
        metrics = {
            "val_psnr": psnr(rgb, image),
            "val_psnr_foreground": psnr_foreground(rgb, image, mask),
            "val_mask_iou": mask_iou(alpha, mask),
        }
        for name, value in metrics.items():
            self._validation.setdefault(name, []).append(value)

    def on_validation_end(self) -> None:
        """Log the means over all held-out views."""
        self.record({name: torch.cat(values).nanmean().item() for name, values in self._validation.items()})
        self._validation.clear()

    def record(self, row: dict[str, float]) -> None:
        """Give a row of metrics to the loggers, under the step's number."""
        for logger in self.loggers:
            logger.log_metrics(row, self.step)


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
    """Writes the run's one checkpoint, always complete: weights, optimiser, metrics; plain tensors and numbers."""

    def __init__(self, path: Path, every: int, table: MetricsTable):
        self.path, self.every, self.table = path, every, table

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The step that the run continues after is already on disk."""
        assert isinstance(module, FineTuning)
        self._written = module.step

    # Before the next step, not after this one: by then the validation that belongs to this step has been logged.
    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Write where a checkpoint is due."""
        assert isinstance(module, FineTuning)
        if module.step % self.every == 0:
            self.write(module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write the last one, from which a rerun only writes the results."""
        assert isinstance(module, FineTuning)
        self.write(module)

    def write(self, module: FineTuning) -> None:
        """Replace the checkpoint by the module's present state; once per step."""
        if module.step == self._written:
            return
        self._written = module.step
        optimizer = module.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        state = {
            "step": module.step,
            "skipped": module.skipped,
            "model": module.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rows": self.table.rows,
        }
        with atomic(self.path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's word for a full disk
                raise UserError(f"{self.path}: the checkpoint cannot be written ({error}); is the disk full?") from None


class ProgressLines(Callback):
    """A bar on a terminal; twenty lines in a log file, of equal distance."""

    def __init__(self, table: MetricsTable):
        self.table = table
        self._bar: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start the clock, and the bar on a terminal."""
        assert isinstance(module, FineTuning)
        self._start, self._begin = module.step, time.monotonic()
        if sys.stderr.isatty():
            columns = MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=module.settings.steps, completed=module.step)
            self._bar.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        """Advance by one step. Callbacks come before the module's own hook, so it has not counted this step yet."""
        assert isinstance(module, FineTuning)
        step, steps = module.step + 1, module.settings.steps
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._values(module))
        elif step * 20 // steps > (step - 1) * 20 // steps:
            rate = (step - self._start) / max(time.monotonic() - self._begin, 1e-9)
            left = time.strftime("%H:%M:%S", time.gmtime((steps - step) / rate))
            text = f"step {step}/{steps}, {self._values(module)}, {rate:.2f} steps/s, {left} left"
            print(text, file=sys.stderr, flush=True)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Give the terminal back, also after an error."""
        if self._bar is not None:
            self._bar.stop()

    def _values(self, module: FineTuning) -> str:
        psnrs = [row["val_psnr"] for row in self.table.rows.values() if "val_psnr" in row]
        text = f"loss {module._terms['loss'].item():.5f}" + (f", val PSNR {psnrs[-1]:.2f} dB" if psnrs else "")
        return text + (f", {module.skipped} skipped" if module.skipped else "")


def train(manifest: Path | str, out_dir: Path, checkpoint_dir: Path, settings: Train, threads: int) -> None:
    """Fine-tune on the train split of shards, whose manifest is a path or a URL, and write model.safetensors, metrics.csv and config.yaml to `out_dir`.

    Checkpoints go to a folder of `checkpoint_dir` named by the hash of settings and data. A rerun continues there after
    the last complete checkpoint; a second process with the same settings and data waits for the first one's lock.
    Raises UserError before the first step for unusable settings or data, and at a step whose loss is not finite.
    """
    data = read_manifest(manifest)
    accelerator = choose_accelerator(settings)
    if settings.num_input_views >= data.views:
        raise UserError(
            f"train.num_input_views is {settings.num_input_views}, but the shards have {data.views} views: none would "
            f"be held out; use {data.views - 1}"
        )
    refuse_damaged(data, settings.container, ("train",), threads)
    refuse_damaged(data, "h5", ("val",), threads)
    set_threads(threads)
    if not data.split("train"):
        raise UserError(f"{manifest}: no training samples; see why `sample` rejected them (rejected.tsv)")
    shards = ShardData(data, settings)

    torch.manual_seed(settings.seed)
    model = _initial_model(settings)
    config = _run_config(data, settings)
    # Which tar is streamed by which loader process, and so the order of samples, depends on how many there are.
    free = NOT_HASHED - {"workers"} if settings.container == "tar" else NOT_HASHED | {"shuffle_buffer"}
    identity = config | {"train": {k: v for k, v in config["train"].items() if k not in free}}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    checkpoint = checkpoint_dir / name / "last.ckpt"
    with _locked(checkpoint.with_name("lock")):
        module = FineTuning(model, settings, shards)
        terms = [name for name, weight in settings.loss.model_dump().items() if weight]
        validation = ["val_psnr", "val_psnr_foreground", "val_mask_iou"] if len(shards.val) else []
        columns = ["step", "loss", *terms, "lr", "grad_norm", "skipped", *validation, "seconds"]
        table = MetricsTable(columns)
        if checkpoint.exists():
            _resume(module, table, checkpoint)
        if module.step < settings.steps:
            _fit(module, table, checkpoint, out_dir, accelerator, validate=len(shards.val) > 0)

        save_weights(module.model, out_dir / "model.safetensors")
        with atomic(out_dir / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        with atomic(out_dir / "metrics.csv") as temporary:
            temporary.write_text(table.text(), encoding="utf-8")


def _fit(
    module: FineTuning, table: MetricsTable, checkpoint: Path, out_dir: Path, accelerator: str, validate: bool
) -> None:
    """Run Lightning from the module's step to the last one."""
    settings = module.settings
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advice on accelerators and services
    # purge_step hides what a killed run logged after its last checkpoint.
    tensorboard = TensorBoardLogger(out_dir, name="tensorboard", version="", purge_step=module.step + 1)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=settings.precision,
        max_steps=settings.steps - module.step,
        max_epochs=-1,
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.clip_norm,
        # The GPU rasteriser adds gradients in any order; torch can only warn about what it has no ordered version of.
        deterministic=True if accelerator == "cpu" else "warn",
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
        trainer.fit(module, datamodule=module.data)


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
        return "cpu"
    if importlib.util.find_spec("gsplat") is None:
        raise UserError(
            "drawing Gaussians on the GPU needs gsplat, which is not installed: pip install -c envs/constraints.txt -e "
            "'.[gpu]' (it compiles its CUDA code at first use), or set train.accelerator: cpu"
        )
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
        "model": asdict(PRESETS[settings.preset]),
        "data": {"sha256": data.sha256, "image_size": data.image_size, "views": data.views},
        "init_sha256": hashlib.sha256(Path(settings.init).read_bytes()).hexdigest() if settings.init else None,
        "version": STAGE_VERSIONS["train"],
    }


def _initial_model(settings: Train) -> GSLRM:
    """The preset's model with random weights, or with those of `init`, which must be of the same preset."""
    if settings.init is None:
        return GSLRM(PRESETS[settings.preset])
    model = load_weights(Path(settings.init))
    if model.config != PRESETS[settings.preset]:
        found, wanted = asdict(model.config), asdict(PRESETS[settings.preset])
        differing = ", ".join(
            f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]
        )
        raise UserError(f"train.init: {settings.init} is not a model of preset {settings.preset} ({differing})")
    return model


def _resume(module: FineTuning, table: MetricsTable, path: Path) -> None:
    """Continue after a checkpoint. Only plain tensors and numbers are read from it, never code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise UserError(f"{path}: damaged checkpoint ({error}); delete it to start over") from None
    try:
        module.model.load_state_dict(state["model"])
        module.step, module.skipped, module.optimizer_state = int(state["step"]), state["skipped"], state["optimizer"]
        table.restore(state["rows"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint of this run ({error!r:.300}); delete it to start over") from None
    print(f"continuing after step {module.step} ({path})", file=sys.stderr, flush=True)


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
