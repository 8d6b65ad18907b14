"""The configuration: one typed model per stage, from which config/schema.json is generated."""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mousefacelift.errors import UserError
from mousefacelift.remote import is_url

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors; values are checked and then frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Background(Section):
    """For masks: background, how the mouse is told from the empty arena."""

    frames: int = Field(60, ge=5, description="frames, uniform over the capture, in which the empty arena is found")
    mouse: Literal["any", "dark", "bright"] = Field(
        "any", description="the mouse is darker or brighter than the arena; any: find out, region by region"
    )
    width: int = Field(640, ge=160, description="frames are worked on at about this width, px")
    min_noise: float = Field(
        0.8, gt=0, description="least standard deviation of a pixel of the empty arena, grey levels of 255"
    )
    shadow: float = Field(
        0.65, ge=0, lt=1, description="a shadow or a reflection takes at most this fraction of the arena's light"
    )
    shadow_weight: float = Field(
        0.5, gt=0, description="larger: what may be shadow or reflection is sooner taken for it, and paws are lost"
    )
    contrast: float = Field(
        15.0, ge=0, description="a quarter of a blob differs from the arena by more than this, grey levels of 255"
    )
    min_area: Fraction = Field(0.0003, description="a smaller blob, as a fraction of the image, is no animal")
    min_blob: Fraction = Field(0.1, description="a smaller blob, as a fraction of the largest, is no animal")
    max_hole: Fraction = Field(
        0.1, description="a hole up to this fraction of the mouse is filled, unless the arena is seen in it"
    )


class Onnx(Section):
    """For masks: onnx, a segmentation network of yours, run with onnxruntime."""

    path: str | None = Field(
        None, description="the network's .onnx file: float32 [1, 3, h, w] RGB in 0..1 to [1, 1 or classes, h, w]"
    )
    width: int | None = Field(
        None, ge=16, description="width of its input, px; null: what the file says, or the frame's"
    )
    height: int | None = Field(None, ge=16, description="height of its input, px; null: as for width")
    output: Literal["logits", "probability"] = Field("logits", description="what the network puts out")
    channel: int = Field(1, ge=0, description="channel of the mouse, of a network with several classes")
    threshold: float = Field(0.5, gt=0, lt=1, description="a pixel at least this probable is mouse")
    threads: int = Field(1, ge=1, description="threads per operator and camera")


class Center(Section):
    """Silhouettes and full-resolution crops of the mouse, from the videos."""

    masks: Literal["provided", "background", "onnx"] = Field(
        "provided",
        description="where silhouettes come from: the table's mask files, the difference to the empty arena, or a network",
    )
    background: Background = Background()
    onnx: Onnx = Onnx()
    stride: int = Field(1, ge=1, description="every n-th video frame is a candidate")
    chunk_frames: int = Field(300, ge=1, description="video frames per job")
    margin_px: int = Field(16, ge=4, description="pixels kept around the silhouette in a crop")
    min_area_px: int = Field(200, ge=1, description="a smaller silhouette counts as empty")
    timing: Literal["rate", "index", "timestamp"] = Field(
        "rate",
        description="which instant a frame is of: by a constant rate, by its number (hardware trigger), or by its timestamp",
    )
    on_bad_frame: Literal["error", "skip"] = Field(
        "error", description="a frame that is missing or cannot be decoded stops the run, or is dropped with a reason"
    )
    blob_fraction: Fraction = Field(
        0.1,
        description="a second blob larger than this fraction of the largest, unless it is thin, is flagged as `several blobs`",
    )
    min_sharpness: float = Field(
        0.0, ge=0, description="variance of the Laplacian inside the silhouette below which a view is flagged `unsharp`"
    )


class Cameras(Section):
    """The rig and the mouse's 3D centre in each frame."""

    max_residual_px: float = Field(
        40.0,
        gt=0,
        description="a camera whose median distance between silhouette and reprojected centre is above this stops the run",
    )
    min_hull_iou: Fraction = Field(
        0.5,
        description="a camera whose mean overlap (IoU) between silhouette and visual hull is below this stops the run",
    )
    max_shift_frames: float = Field(
        1.0, ge=0, description="a camera that is this many frames late or early, beyond doubt, stops the run"
    )
    max_shift_search: float = Field(
        15.0, gt=0, description="how many frames a camera's time is moved to find where it agrees"
    )
    max_area_ratio: float = Field(
        2.5, gt=1, description="a silhouette larger than so many times the camera's median is flagged as `large`"
    )
    voxel_mm: float = Field(2.0, gt=0, description="edge of the visual hull's voxels")
    min_views: int = Field(3, ge=2, description="usable silhouettes a frame needs for its centre to be triangulated")


UpAxis = Literal["+x", "-x", "+y", "-y", "+z", "-z"]
UP_AXES = get_args(UpAxis)


class Normalize(Section):
    """Z-up world, mouse at the origin, mean camera distance 2.7, virtual cameras that look at the mouse."""

    up: Literal["auto", "calibration", "floor", "cameras"] = Field(
        "auto",
        description="where world up comes from: an axis of the calibration, the floor under the mouse, level cameras, or the agreement of these",
    )
    up_axis: UpAxis | tuple[float, float, float] | None = Field(
        None,
        description="for up: calibration, the direction in the calibration's world that points up, an axis or [x, y, z]; null: +z",
    )
    cameras_below: bool = Field(
        False,
        description="the mouse is filmed from below; otherwise cameras that all stand below it mean a wrong up axis",
    )
    smooth_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="the mouse's centre is averaged over time with a Gaussian of this standard deviation, s",
    )
    distance: Literal["exact", "focal", "canonical"] = Field(
        "exact",
        description="distance policy: cameras stay where they are; focal lengths make the mouse equally large; cameras are moved to 2.7",
    )
    scale: Literal["capture", "sample"] = Field(
        "capture", description="one scale for the whole capture, so that a mouse keeps its size, or one for each sample"
    )
    canonical_extent: float = Field(
        0.8, ge=0.05, le=5, description="for distance: canonical, the length of the mouse's body in world units"
    )
    zoom: Annotated[float, Field(ge=0.05, le=100)] | Literal["fit"] = Field(
        1.0, description="common factor on every focal length; 1.0 is FaceLift's, fit fills the image with the mouse"
    )
    fit_margin: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.05, description="zoom: fit keeps this fraction of the image free at each border"
    )
    fit_quantile: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="zoom: fit holds this fraction of the views"
    )
    image_size: int = Field(512, ge=64, multiple_of=8, description="width and height of the normalised views, px")

    @field_validator("up_axis", mode="before")
    @classmethod
    def _up_axis_is_a_direction(cls, value: Any) -> Any:
        numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
        if value is None or value in UP_AXES or (numbers and len(value) == 3 and any(value)):
            return value
        raise ValueError(
            f"is neither an axis ({', '.join(UP_AXES)}) nor a direction of three numbers such as [0.1, -0.99, 0]"
        )

    @model_validator(mode="after")
    def _up_axis_is_used(self) -> "Normalize":
        if self.up_axis is not None and self.up != "calibration":
            raise ValueError(f"up_axis is for up: calibration; up is {self.up}, which finds the direction itself")
        return self

    @model_validator(mode="after")
    def _canonical_keeps_the_focal_length(self) -> "Normalize":
        if self.distance == "canonical" and self.zoom != 1.0:
            raise ValueError(
                f"distance: canonical keeps FaceLift's focal length and frames the mouse by canonical_extent: set zoom: 1.0 (found {self.zoom})"
            )
        return self


class Split(Section):
    """Fractions given to each split: of a capture's time, or of the number of captures or animals."""

    train: Fraction = 0.8
    val: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Split":
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, found {self.train + self.val + self.test:g}")
        return self


SPLITS = tuple(Split.model_fields)


class Sample(Section):
    """Which frames and views become samples, and of which split."""

    views: int = Field(
        6, ge=2, description="views per sample: of more cameras those that spread best around the mouse; by azimuth"
    )
    frames: int | None = Field(None, ge=1, description="at most this many frames per capture; null for all")
    select: Literal["uniform", "diverse"] = Field(
        "uniform",
        description="which frames, where `frames` limits them: evenly in time, or as unlike in pose as can be",
    )
    split: Literal["block", "capture", "animal"] = Field(
        "block", description="what goes to one split: blocks in time, whole captures, or all captures of an animal"
    )
    fractions: Split = Split()
    rounds: int = Field(
        1,
        ge=1,
        description="times the blocks train, val, test follow each other: more spread val and test over the session",
    )
    stratify: bool = Field(
        False, description="split: block gives blocks to the splits so that each sees the rare poses, not in turn"
    )
    gap_s: float = Field(0.25, ge=0, description="seconds dropped between two blocks, against leakage")
    min_hull_iou: Fraction = Field(
        0.4, description="a frame is rejected if a view's silhouette overlaps the visual hull less (IoU)"
    )
    max_cut: Fraction = Field(
        0.02,
        description="a frame is rejected if the video's edge cuts off more of the mouse's volume in a view; a tail's tip is less",
    )

    @model_validator(mode="after")
    def _stratifies_blocks(self) -> "Sample":
        if self.stratify and self.split != "block":
            raise ValueError(f"stratify: true is for split: block; split is {self.split}")
        return self

    @model_validator(mode="after")
    def _chooses_diverse_frames_of_more(self) -> "Sample":
        if self.select == "diverse" and self.frames is None:
            raise ValueError("select: diverse chooses among more frames than are wanted: set frames, to how many")
        return self


class Shard(Section):
    """Final images and their containers."""

    tar_codec: Literal["png", "webp", "qoi"] = Field("png", description="lossless format of the views in the tar")
    tar_level: int | None = Field(
        None, ge=0, le=9, description="of png 0 to 9, of webp 0 to 6: more is smaller and slower; null: 1 and 4"
    )
    h5_codec: Literal["zstd", "lz4", "blosc-lz4", "blosc-zstd", "gzip", "lzf"] = Field(
        "zstd", description="compression of the HDF5 images; gzip and lzf can be read without hdf5plugin"
    )
    h5_level: int | None = Field(
        None, ge=0, le=9, description="of zstd, blosc and gzip: more is smaller and slower; null: zstd 3, gzip 1"
    )


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

    @model_validator(mode="after")
    def _some_term(self) -> "Loss":
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0: there is nothing to learn from")
        return self


class Lora(Section):
    """For adapt: lora, low-rank updates of the transformer's matrices."""

    rank: int = Field(16, ge=1, description="rank of every update")
    alpha: float = Field(16.0, gt=0, description="an update is scaled by alpha / rank")


class Guards(Section):
    """Alarms, which stop a training that has failed; null turns one off."""

    white: int | None = Field(
        100, ge=1, description="steps in a row in which the model draws the mouse white: white collapse"
    )
    norm: int | None = Field(
        50, ge=1, description="steps among the last twice as many that were skipped for their gradients: norm explosion"
    )
    plateau: int | None = Field(
        2000, ge=1, description="steps without a better loss while the mouse is drawn hardly better than by white"
    )


LAYERS = {"tiny": 6, "small": 12, "base": 24}  # of the presets: known without importing torch


class Train(Section):
    """Fine-tuning of GS-LRM."""

    run: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the results folder")
    preset: Literal["tiny", "small", "base"] = Field("base", description="size of the model")
    init: str | None = Field(
        None,
        description="weights to start from, FaceLift's .pt or a model.safetensors of an earlier run; null: from nothing",
    )
    adapt: Literal["full", "heads", "last_n", "lora"] = Field(
        "full",
        description="what is trained: everything, the output heads, these and the last layers, or these and low-rank updates",
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
        0.0, description="in this fraction of the steps the model is given one input view less, another in each sample"
    )
    view_order: Literal["fixed", "random"] = Field(
        "fixed", description="inputs by azimuth, or in another order in every visit: for `ablation`"
    )
    cameras: Literal["exact", "canonical"] = Field(
        "exact", description="as the shards say, or moved to distance 2.7 whatever the images show: for `ablation`"
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
        description="AdamW; its state in 8 bits, a quarter of the memory; the same, paged out to the CPU if need be",
    )
    loss: Loss = Loss()
    guards: Guards = Guards()
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="of the network; auto: bf16 on a GPU that has it; rasterising is always fp32"
    )
    recompute: Literal["auto", "none", "selective", "all"] = Field(
        "auto",
        description="activations computed again in the backward pass: none, all but attention's, or all; auto: none of tiny, else selective",
    )
    rerender: bool = Field(
        False, description="each view is drawn again in the backward pass, so that only one is in memory at a time"
    )
    compile: bool = Field(False, description="torch.compile for the transformer's layers")
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, data order and held-out views")
    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a CUDA GPU where there is one")
    gpus: int = Field(1, ge=0, description="GPUs per node; 0: the job asks a cluster for none")
    nodes: int = Field(1, ge=1, description="machines of a Slurm cluster that train together")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="of several GPUs each holds the whole model, or a share of it: for what one GPU cannot hold"
    )
    workers: int = Field(0, ge=0, description="loader processes")
    cache_gb: float = Field(2.0, ge=0, description="a split that fits in this much memory at image_size is loaded once")
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints: at most this much is lost by a kill"
    )
    val_every: int = Field(500, ge=1, description="steps between validations")
    log_every: int = Field(10, ge=1, description="steps between rows of metrics.csv")

    @model_validator(mode="after")
    def _enough_inputs(self) -> "Train":
        given = self.num_input_views - (self.view_dropout > 0)
        if given < 4 and not self.i_know:
            raise ValueError(
                f"num_input_views{' less the one that view_dropout takes' if self.view_dropout else ''} is {given}: trained with fewer than 4 inputs of 6 views GS-LRM stays at "
                "PSNR 13 to 15 (1 is an inference setting); use 5, or set i_know: true to train so nevertheless"
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
        if self.adapt == "last_n" and self.last_n > LAYERS[self.preset]:
            raise ValueError(f"last_n is {self.last_n}, but preset {self.preset} has {LAYERS[self.preset]} layers")
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


class Evaluate(Section):
    """Metrics and pictures on views never given as input."""

    split: Literal["val", "test"] = Field("test", description="split to evaluate")
    pictures: int = Field(8, ge=0, description="side-by-side pictures, uniform over the split")
    splats: int = Field(1, ge=0, description="samples written as .ply of Gaussians")
    turntable_frames: int = Field(72, ge=0, description="frames of the turntable video; 0 for none")
    turntable_size: int = Field(256, ge=64, multiple_of=8, description="width and height of the turntable, px")


class Config(Section):
    """The whole configuration, one section per stage."""

    captures: str | None = Field(
        None, description="table of captures (.tsv); null or a table without rows: the demo capture"
    )
    results: str = Field(
        "results",
        pattern=r"^[^{}~]*[^{}~/]/*$",
        description="folder for everything the workflow writes; no braces, no ~",
    )
    center: Center = Center()
    cameras: Cameras = Cameras()
    normalize: Normalize = Normalize()
    sample: Sample = Sample()
    shard: Shard = Shard()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _sizes_divide(self) -> "Config":
        if not self.train.manifest and self.normalize.image_size % self.train.image_size:
            raise ValueError(
                f"train.image_size ({self.train.image_size}) must divide normalize.image_size ({self.normalize.image_size})"
            )
        return self


SectionT = TypeVar("SectionT", bound=Section)


def validate(model: type[SectionT], values: object, where: str) -> SectionT:
    """Check values against a section's model.

    Raises UserError with one line per problem: the key's full name, what is wrong, and for an unknown key the nearest
    valid name. `where` names the file or option the values came from.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            unknown = problem["type"] == "extra_forbidden"
            location = tuple(part for part in problem["loc"] if unknown or not _is_union_branch(part))
            key = ".".join(str(part) for part in location) or "(top level)"
            if unknown:
                names = _valid_names(model, location[:-1])
                near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys here: {', '.join(names)}"
                lines.append(f"unknown key {key!r}: {hint}")
            else:
                lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')} (found {problem['input']!r:.80})")
        raise UserError(f"{where}: " + "\n  ".join(dict.fromkeys(lines))) from None


def _is_union_branch(part: object) -> bool:
    """Pydantic puts the tried type's tag into the location of a union's errors; it is not a key."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-") or part in {"float", "int", "str"})


def _valid_names(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        model = next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError if the file is missing, not YAML, or not a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: not a readable file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values


def load_config(path: Path) -> Config:
    """Read and check a configuration file."""
    return validate(Config, load_yaml(path), str(path))


def section_json(section: Section) -> str:
    """One section as canonical JSON: what a rule passes to its stage, and what Snakemake compares between runs."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def json_schema() -> str:
    """The text of config/schema.json."""
    schema = Config.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
