"""The loop of a training run, for Lightning: what a step computes, counts and logs, on one device or on several."""

import math
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.models.adapt import build_optimizer, trainable
from mousefacelift.models.gaussians import Gaussians, render
from mousefacelift.models.network import Network
from mousefacelift.training.clock import StepClock
from mousefacelift.training.gap import GapColumns, over_samples
from mousefacelift.training.guards import STATISTICS, Watch, statistics
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.losses import forgiven, image_loss, open_lpips
from mousefacelift.training.pictures import log_picture, pictured, strip

SKIP_FACTOR = (
    20  # a step whose gradient norm exceeds clip_norm this many times is skipped: clipping keeps its direction
)

Batch = dict[str, Tensor]
# rgb [V, 3, S, S], alpha [V, S, S], target [V, 3, S, S], mask [V, S, S] and, if there are any, unknown [V, S, S] -> [V]
Measure = Callable[..., Tensor]


def learning_rate(step: int, settings: Train) -> float:
    """The learning rate of a step: linear warm-up to the peak, then half a cosine to zero after the last step.

    Args:
        step: counted from 0.
        settings: learning_rate is the peak, warmup_steps the warm-up, steps the end.
    """
    warmup = min(settings.warmup_steps, settings.steps - 1)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (settings.steps - warmup)))


def predict(model: nn.Module, batch: Batch, rerender: bool = False) -> tuple[Tensor, Tensor, Gaussians]:
    """Reconstruct from the batch's input views, and draw all of its views.

    Args:
        model: GS-LRM.
        batch: of `ShardData`; of its views, `inputs` [B, I] are given to the model.
        rerender: draw each view again in the backward pass, so that only one is in memory.

    Returns:
        rgb [B, V, 3, S, S] over white, not clamped.
        alpha [B, V, S, S] in [0, 1].
        The Gaussians.
    """
    gaussians = reconstruct(model, batch)
    return *draw(gaussians, batch, rerender), gaussians


def reconstruct(model: nn.Module, batch: Batch) -> Gaussians:
    """The Gaussians that the model makes of the batch's input views; arguments as of `predict`."""
    rows = torch.arange(len(batch["inputs"]), device=batch["inputs"].device)[:, None]
    names = (name for name in ("image", "c2w", "fxfycxcy", "alpha", "unknown") if name in batch)
    gaussians: Gaussians = model(*(batch[name][rows, batch["inputs"]] for name in names))
    return gaussians


def draw(gaussians: Gaussians, batch: Batch, rerender: bool = False) -> tuple[Tensor, Tensor]:
    """Colour and opacity of all of the batch's views; arguments and results as of `predict`."""
    size = batch["image"].shape[-1]
    return render(gaussians, batch["w2c"], batch["fxfycxcy"], size, size, rerender)


class FineTuning(lightning.LightningModule):
    """The training loop's body. `step` counts optimiser steps over all restarts; Lightning's own counters do not.

    For Lightning an epoch is the stretch up to the next validation, and a batch one of `accumulate` parts of a step.
    `values` are the last step's loss, its terms, the gradients' norm and STATISTICS, means over all processes.
    `measures` are the metrics of held-out views, by their columns in metrics.csv, the higher the better. `validated` are
    their means of the last validation. `primary` is the one by which a validation is the best. `gap` is the one that is also
    measured on some training samples.

    The host waits for the device once per step, in `configure_gradient_clipping`: all numbers of a step are read there.
    """

    def __init__(
        self, model: Network, settings: Train, data: ShardData, watch: Watch, measures: dict[str, Measure], primary: str,
        gap: GapColumns | None = None,
    ):  # fmt: skip
        super().__init__()
        self.model, self.settings, self.data, self.watch, self.measures = model, settings, data, watch, measures
        self.skipped = 0
        self.values: dict[str, float] = {"loss": math.nan}
        self.terminated = 0  # the signal by which this process was told to end
        self.agreed_to_end = False  # all processes know that one was
        self.between_steps = True
        self.optimizer_state: dict[str, Any] | None = None  # of the checkpoint to continue from
        self.averages: dict[str, Tensor] | None = None  # of the parameters that are trained, if `ema` is set
        self.primary, self.gap = primary, gap
        self.validated: dict[str, float] = {}
        self.clock = StepClock(torch.device("cpu"))
        self._parts: list[Tensor] = []
        self._terms: list[str] = []
        self._skip = False
        # Of validation samples (0) and of training samples (1), by place: each measure's values of the held-out views.
        self._validation: dict[tuple[int, int], list[list[float]]] = {}
        self._strips: dict[int, np.ndarray] = {}
        # In a tuple, so that it is no part of the model.
        self._lpips = (open_lpips(),) if settings.loss.lpips else (None,)
        self._sharded = False

    @property
    def step(self) -> int:
        """Optimiser steps done, which is where the data go on."""
        return self.data.step

    @step.setter
    def step(self, value: int) -> None:
        self.data.step = value

    def configure_model(self) -> None:
        """With `strategy: fsdp`, divide the parameters among the processes, layer by layer."""
        if self.device_mesh is None or self._sharded:
            return
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for layer in self.model.transformer_layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self._sharded = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser and give it the checkpoint's state; the learning rate is set in every step."""
        optimizer = build_optimizer(self.model, self.settings)
        if self.optimizer_state:
            if self._sharded:
                from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

                options = StateDictOptions(full_state_dict=True)
                set_optimizer_state_dict(self.model, optimizer, self.optimizer_state, options=options)
            else:
                optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def on_fit_start(self) -> None:
        """Set up on the device. Raises UserError if the processes do not begin at the same step."""
        self._prepare()
        self.clock = StepClock(self.device)
        if self.trainer.world_size > 1:
            steps: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(steps, self.step)
            if len(set(steps)) > 1:  # another run was writing this one's checkpoint
                raise UserError(f"the processes would begin at different steps ({steps}): start again")

    def on_train_epoch_start(self) -> None:
        """Wait for data from here on: what came before was a validation."""
        self.clock.start()

    def on_train_batch_start(self, _batch: Batch, batch_index: int) -> None:
        """Set the step's learning rate."""
        self.clock.start()  # the callbacks have ended `data`, and may have written a checkpoint
        self.between_steps = False
        if batch_index % self.settings.accumulate == 0:
            rate = learning_rate(self.step, self.settings)
            for group in self.optimizers(use_pl_optimizer=False).param_groups:  # type: ignore[union-attr]
                group["lr"] = rate * group["scale"]

    def training_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """The loss on all views, inputs and held out."""
        gaussians = reconstruct(self.model, batch)
        self.clock.end("model")
        rgb, alpha = draw(gaussians, batch, self.settings.rerender)
        self.clock.end("render")
        held_out = None
        if self.settings.loss.held_out != 1:
            held_out = torch.zeros(alpha.shape[:2], dtype=torch.bool, device=alpha.device)
            held_out.scatter_(1, batch["held_out"], True)
        image, mask, unknown = batch["image"], batch["alpha"], batch.get("unknown")
        loss, terms = image_loss(rgb, alpha, image, mask, self.settings.loss, self._lpips[0], held_out, unknown)
        self._terms = list(terms)
        drawn = forgiven(rgb, image, unknown), forgiven(alpha, mask, unknown)
        seen = statistics(*drawn, gaussians, image, mask)
        self._parts.append(torch.cat([torch.stack([loss, *terms.values()]).detach(), seen]))
        self.clock.end("loss")
        return loss

    def on_after_backward(self) -> None:
        """Mark the end of the backward pass."""
        self.clock.end("backward")

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradients; skip the step, by dropping them, if their norm is not finite or far above the clip."""
        norm = torch.nn.utils.clip_grad_norm_(trainable(self.model).values(), self.settings.clip_norm)
        self.values = self._read(_whole(norm))
        self._skip = not self.values["grad_norm"] <= SKIP_FACTOR * self.settings.clip_norm
        if self._skip:
            optimizer.zero_grad(set_to_none=True)  # AdamW leaves a parameter without a gradient, and its state, alone

    def on_train_batch_end(self, _outputs: Any, _batch: Batch, batch_index: int) -> None:
        """At the end of a step: average, count, log, and look for failures.

        Raises:
            AlarmError: if the run has failed.
        """
        if (batch_index + 1) % self.settings.accumulate:
            self.clock.start()
            return
        # Lightning drops the gradients only after the next forward pass. They would be in memory all through it, and in a
        # validation: 1.2 GB of preset base.
        self.optimizers(use_pl_optimizer=False).zero_grad(set_to_none=True)  # type: ignore[union-attr]
        if self.trainer.world_size == 1:  # several processes agree on what they knew when the numbers were read
            self.agreed_to_end = self.terminated > 0
        # The rate is the one this step was made with: it is taken before the step is counted.
        rate = learning_rate(self.step, self.settings)
        self.step += 1
        self.skipped += self._skip
        self.between_steps = True
        if self.averages is not None and not self._skip:
            # At first an average over the few steps done: with the full decay it would stay near the initial weights.
            decay = min(self.settings.ema or 0.0, self.step / (self.step + 9))
            for name, parameter in trainable(self.model).items():
                self.averages[name].lerp_(parameter.detach(), 1 - decay)
        self.clock.end("optimizer")
        if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
            taken = self.clock.take(self.settings.batch_size)
            self.record(self.values | {"lr": rate, "skipped": self.skipped} | taken)
        # After the row of the step that raises the alarm is in the table.
        self.watch.observe(self.step, self.values, self._skip)
        self.clock.start()

    def validation_step(self, batch: Batch, _batch_index: int, dataloader_idx: int = 0) -> None:
        """Measure the views that were not inputs, and keep the values by sample: several processes may see one twice."""
        rgb, alpha, _ = predict(self.model, batch, self.settings.rerender)
        views = batch["held_out"][0]
        rgb, alpha, image, mask = rgb[0, views], alpha[0, views], batch["image"][0, views], batch["alpha"][0, views]
        unknown = (batch["unknown"][0, views],) if "unknown" in batch else ()
        values = torch.stack(
            [measure(rgb, alpha, image, mask, *unknown) for measure in self.measures.values()]
        ).tolist()
        index = int(batch["index"][0])
        self._validation[dataloader_idx, index] = values
        if not dataloader_idx and index in pictured(len(self.data.val)):
            self._strips[index] = strip(rgb, image)

    def on_validation_start(self) -> None:
        """Put the averaged weights in place, if there are any: they are what is validated."""
        self._validation.clear()
        self._strips.clear()
        self._prepare()
        self.exchange_averages()

    def on_validation_epoch_end(self) -> None:
        """Log the means over all held-out views of all processes, and a picture of some."""
        gathered: list[Any] = [(self._validation, self._strips)]
        if self.trainer.world_size > 1:
            gathered *= self.trainer.world_size
            torch.distributed.all_gather_object(gathered, gathered[0])
        found = {place: values for each, _ in gathered for place, values in each.items()}
        strips = {index: picture for _, each in gathered for index, picture in each.items()}
        values, seen = ([found[place] for place in sorted(found) if place[0] == loader] for loader in (0, 1))
        columns = zip(*values, strict=True)
        means = [torch.tensor([value for view in column for value in view]).nanmean().item() for column in columns]
        self.validated = dict(zip(self.measures, means, strict=True))
        self.record(self.validated | self._gap_row(values, seen))
        if self.trainer.is_global_zero:
            log_picture(self.loggers, [picture for _, picture in sorted(strips.items())], self.step)

    def _gap_row(self, values: list[list[list[float]]], seen: list[list[list[float]]]) -> dict[str, float]:
        """The gap's columns, without what is unknown. values, seen: of validation and training samples, [N][measure][view]."""
        if self.gap is None or self.gap.val not in self.measures:
            return {}
        place = list(self.measures).index(self.gap.val)
        _, val_error = over_samples([sample[place] for sample in values])
        train, train_error = over_samples([sample[place] for sample in seen])
        row = {self.gap.train: train, self.gap.train_error: train_error, self.gap.val_error: val_error}
        return {name: value for name, value in row.items() if math.isfinite(value)}

    def on_validation_end(self) -> None:
        """Put the weights back. Callbacks have seen the validated ones."""
        self.exchange_averages()

    def record(self, row: dict[str, float]) -> None:
        """Give the loggers values for the row of the present step."""
        for logger in self.loggers:
            logger.log_metrics(row, self.step)

    def snapshot(self) -> dict[str, Any]:
        """All that the run needs to continue, as plain tensors and numbers. All processes must call it.

        Of the model only what is trained: the rest is as at the start of the run, which the run's identity fixes.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        averages = dict(self.averages or {})
        model_state = self.trained()
        optimizer_state: dict[str, Any]
        if self._sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer_state = get_optimizer_state_dict(self.model, optimizer, options=options)
            averages = {name: _whole(tensor).cpu() for name, tensor in averages.items()}
        else:
            optimizer_state = optimizer.state_dict()
        return {
            "step": self.step,
            "skipped": self.skipped,
            "model": model_state,
            "optimizer": optimizer_state,
            "averages": averages,
            "watch": self.watch.state(),
        }

    def trained(self) -> dict[str, Any]:
        """The present values of what is trained. All processes must call it; with fsdp only the first is given them."""
        state: dict[str, Any]
        if self._sharded:
            self._reshard()
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(self.model, options=options)
        else:
            state = self.model.state_dict()
        return {name: state[name] for name in trainable(self.model) if name in state}

    @torch.no_grad()
    def exchange_averages(self) -> None:
        """Swap the parameters with their averages, if there are any; a second call swaps them back."""
        self._reshard()
        for name, average in (self.averages or {}).items():
            parameter = self.model.get_parameter(name)
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def _reshard(self) -> None:
        """Divide the parameters again: after a forward pass alone the outermost ones are whole in every process."""
        if self._sharded:
            self.model.reshard()  # type: ignore[operator]

    def _prepare(self) -> None:
        """Set up what depends on the device of the model: the LPIPS network, and the averages."""
        if self._lpips[0] is not None:
            self._lpips[0].to(self.device)
        if self.settings.ema is None:
            return
        saved = self.averages or {}
        self.averages = {}
        for name, tensor in trainable(self.model).items():
            parameter: Any = tensor  # with fsdp a DTensor
            average = parameter.detach().clone()
            if name in saved and not hasattr(saved[name], "full_tensor") and hasattr(parameter, "full_tensor"):
                from torch.distributed.tensor import distribute_tensor

                average = distribute_tensor(saved[name].to(self.device), parameter.device_mesh, parameter.placements)
            elif name in saved:
                average.copy_(saved[name])
            self.averages[name] = average

    def _read(self, norm: Tensor) -> dict[str, float]:
        """The numbers of the step, means over its parts and all processes, and the gradients' norm.

        One reduction and one transfer for all of them: the host waits for the device here, and nowhere else in a step. The
        last number tells every process whether any was told to end, so that all of them end after the same step.
        """
        seen = torch.stack(self._parts).mean(0)
        self._parts.clear()
        # Filled on the device: a tensor that is copied there would make the host wait, too.
        told = seen.new_full((1,), float(self.terminated > 0))
        *numbers, ended, grad_norm = torch.cat([self._mean_of_processes(torch.cat([seen, told])), norm[None]]).tolist()
        self.clock.settle()
        self.agreed_to_end = ended > 0
        return dict(zip(("loss", *self._terms, *STATISTICS), numbers, strict=True)) | {"grad_norm": grad_norm}

    def _mean_of_processes(self, values: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return values
        torch.distributed.all_reduce(values)
        return values / self.trainer.world_size


def _whole(tensor: Any) -> Tensor:
    """The whole of a tensor that may be divided among processes."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole
