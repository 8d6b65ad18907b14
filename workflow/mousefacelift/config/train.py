"""Settings of stage 6, train."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mousefacelift.base.parsing import nearest
from mousefacelift.base.remote import is_url
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.section import Fraction, Section


class Loss(Section):
    """Weights of the loss terms."""

    l2: float = Field(1.0, ge=0, description="mean squared error over the image")
    masked_l2: float = Field(0.1, ge=0, description="mean squared error inside the silhouette")
    background: float = Field(0.0, ge=0, description="mean squared error outside the silhouette")
    ssim: float = Field(0.0, ge=0, description="1 - SSIM")
    lpips: float = Field(
        0.0, ge=0, description="LPIPS with VGG features; on mice it made gradients explode and objects vanish"
    )
    alpha: float = Field(
        0.0,
        ge=0,
        description="mean squared error of the opacity against the silhouette: without it white may be Gaussians",
    )

    held_out: float = Field(
        1.0,
        gt=0,
        description="how much a held-out view counts beside an input view, in all terms",
        exclude_if=lambda weight: weight == 1,  # as for wandb
    )

    @property
    def terms(self) -> dict[str, float]:
        """The weights of the terms by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "held_out"}

    @model_validator(mode="after")
    def _some_term(self) -> "Loss":
        if not any(self.terms.values()):
            raise ValueError("all weights are 0: there is nothing to learn from")
        return self


class Lora(Section):
    """For adapt: lora, low-rank updates of the transformer's matrices."""

    rank: int = Field(16, ge=1, description="rank of every update")
    alpha: float = Field(16.0, gt=0, description="an update is scaled by alpha / rank")


class Guards(Section):
    """Alarms that stop a failed training run; null turns one off."""

    white: int | None = Field(
        100, ge=1, description="steps in a row in which the model draws the mouse white: white collapse"
    )
    norm: int | None = Field(
        50, ge=1, description="steps among the last twice as many that were skipped for their gradients: norm explosion"
    )
    plateau: int | None = Field(
        2000,
        ge=1,
        description="steps without a better loss while the mouse is drawn hardly better than by a white image",
    )


class Train(Section):
    """Fine-tuning of GS-LRM."""

    run: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the results folder")
    preset: str = Field("base", description="size of the model", json_schema_extra={"enum": list(PRESETS)})
    init: str | None = Field(
        None,
        description="weights to start from, FaceLift's .pt or a model.safetensors of an earlier run; null: from nothing",
    )
    guide: Literal["none", "clamp", "hull"] | None = Field(
        None,
        description="what the visual hull of the input views decides: nothing; clamp: that Gaussians stay inside it; hull: besides, where tiny and small start, and what the network is told; null: hull for tiny and small, none for base",
    )
    adapt: Literal["full", "heads", "last_n", "lora"] = Field(
        "full",
        description="what is trained: everything, the output heads, the heads and the last layers, or the heads and low-rank updates",
    )
    last_n: int = Field(4, ge=1, description="for adapt: last_n, how many transformer layers are trained")
    lora: Lora = Lora()
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each transformer layer learns this much slower than the one after it"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the weights, which is validated and saved instead of them"
    )
    manifest: str | None = Field(
        None,
        description="manifest.json of other shards to train on, a path or an http(s) URL; null: the workflow's own",
    )
    container: Literal["h5", "tar"] = Field(
        "h5", description="which form of the shards is read: HDF5, in any order, or tars, streamed from disk or web"
    )
    shuffle_buffer: int = Field(
        256, ge=1, description="for container: tar, samples among which each loader draws the next one"
    )
    image_size: int = Field(512, ge=32, multiple_of=8, description="shards are area-averaged to this size, px")
    num_input_views: int = Field(5, ge=1, description="views the model sees; the others are held out, in rotation")
    i_know: bool = Field(False, description="allow fewer than 4 input views, which is known to fail")
    augment: bool = Field(
        False,
        description="turn each sample about +Z and mirror every other one, images and cameras alike: for few samples",
    )
    brightness: float = Field(
        0.1, ge=0, lt=1, description="the mouse's brightness is changed by a factor of up to 1 plus or minus this"
    )
    contrast: float = Field(0.1, ge=0, lt=1, description="the same for its contrast, about its mean grey")
    view_dropout: Fraction = Field(
        0.0,
        description="fraction of the steps in which the model is given one input view less, another one in each sample",
    )
    view_order: Literal["fixed", "random"] = Field(
        "fixed", description="order of the inputs: by azimuth, or another one in every visit, for `ablation`"
    )
    cameras: Literal["exact", "canonical"] = Field(
        "exact", description="as in the shards, or moved to distance 2.7 whatever the images show, for `ablation`"
    )
    steps: int = Field(20000, ge=1, description="optimiser steps")
    batch_size: int = Field(1, ge=1, description="samples per step, of all GPUs together")
    accumulate: int = Field(
        1, ge=1, description="parts in which a GPU computes its share of a batch, one after the other"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak of the schedule")
    warmup_steps: int = Field(500, ge=0, description="linear warm-up, then cosine to zero")
    weight_decay: float = Field(0.05, ge=0, description="AdamW, on tensors with two or more dimensions")
    clip_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm; a step above 20x is skipped")
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = Field(
        "adamw",
        description="AdamW; AdamW with its state in 8 bits, a quarter of the memory; the same, paged out to the CPU if need be",
    )
    loss: Loss = Loss()
    guards: Guards = Guards()
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="of the network; auto: bf16 on a GPU that has it; rasterising is always fp32"
    )
    recompute: Literal["auto", "none", "selective", "all"] = Field(
        "auto",
        description="activations computed again in the backward pass: none, all but attention's, or all; auto: none for tiny, selective for the others",
    )
    rerender: bool = Field(
        False, description="each view is drawn again in the backward pass, so that only one is in memory at a time"
    )
    compile: bool = Field(False, description="torch.compile for the transformer's layers")
    attention: Literal["auto", "flash", "cudnn", "efficient"] = Field(
        "auto",
        description="the attention kernel on a GPU; auto: the fastest for this run's tokens, measured at its start",
        exclude_if=lambda kernel: kernel == "auto",  # as for wandb
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, data order and held-out views")
    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a CUDA GPU where there is one")
    gpus: int = Field(1, ge=0, description="GPUs per node; 0: the job asks a cluster for none")
    nodes: int = Field(1, ge=1, description="machines of a Slurm cluster that train together")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="each of several GPUs holds the whole model (ddp), or a share of it (fsdp) where one GPU cannot hold it",
    )
    workers: int = Field(0, ge=0, description="loader processes")
    cache_gb: float = Field(2.0, ge=0, description="a split that fits in this much memory at image_size is loaded once")
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints: at most this much is lost by a kill"
    )
    val_every: int = Field(500, ge=1, description="steps between validations")
    log_every: int = Field(10, ge=1, description="steps between rows of metrics.csv")
    wandb: str | None = Field(
        None,
        min_length=1,
        description="project on Weights & Biases to log to, too; null: none",
        exclude_if=lambda project: project is None,  # or all finished runs of an older version would run again
    )

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            hint = f"{nearest(name, PRESETS)} valid presets: {', '.join(PRESETS)}"
            raise ValueError(f"unknown preset: {hint.lstrip()}")
        return name

    @model_validator(mode="after")
    def _own_guide(self) -> "Train":
        if self.guide is None:
            self.__dict__["guide"] = PRESETS[self.preset].guide  # no assignment: it would validate again
        return self

    @model_validator(mode="after")
    def _enough_inputs(self) -> "Train":
        given = self.num_input_views - (self.view_dropout > 0)
        if given < 4 and not self.i_know:
            raise ValueError(
                f"num_input_views{' less the one that view_dropout takes' if self.view_dropout else ''} is {given}: trained with fewer than 4 inputs of 6 views, GS-LRM stays "
                "at PSNR 13 to 15 dB (1 is an inference setting); use 5, or set i_know: true to train nevertheless"
            )
        if self.view_dropout and self.num_input_views < 2:
            raise ValueError(f"view_dropout needs at least 2 input views, num_input_views is {self.num_input_views}")
        return self

    @property
    def devices(self) -> int:
        """Processes per machine: one per GPU, or one on the CPU."""
        return max(self.gpus, 1)

    @property
    def processes(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def _batches_divide(self) -> "Train":
        if self.batch_size % (parts := self.processes * self.accumulate):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided among {self.processes} GPUs in {self.accumulate} parts each; "
                f"use a multiple of {parts}"
            )
        return self

    @model_validator(mode="after")
    def _has_the_last_layers(self) -> "Train":
        if self.adapt == "last_n" and self.last_n > (layers := PRESETS[self.preset].layers):
            raise ValueError(f"last_n is {self.last_n}, but preset {self.preset} has {layers} layers")
        return self

    @model_validator(mode="after")
    def _eight_bits_are_whole(self) -> "Train":
        if self.strategy == "fsdp" and self.optimizer != "adamw":
            raise ValueError(
                f"optimizer: {self.optimizer} cannot be divided among GPUs: use adamw with strategy: fsdp, or strategy: ddp"
            )
        return self

    @model_validator(mode="after")
    def _only_tars_are_streamed(self) -> "Train":
        if self.manifest and is_url(self.manifest) and self.container != "tar":
            raise ValueError("manifest is on the web, where HDF5 cannot be read at random: set container: tar")
        return self
