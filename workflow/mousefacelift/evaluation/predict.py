"""Predictions of a trained model: every view of a sample, drawn from views that were given as input."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.config.reading import load_yaml, validate
from mousefacelift.config.train import Train
from mousefacelift.gpu.driver import unseen
from mousefacelift.models.attention import AttentionChoice, choose_attention
from mousefacelift.models.gaussians import Gaussians, render
from mousefacelift.models.network import Network
from mousefacelift.models.precision import set_cuda_precision
from mousefacelift.models.refine import refine
from mousefacelift.models.weights.files import load_weights
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import Manifest, read_manifest
from mousefacelift.training.data import Samples, SplitName
from mousefacelift.training.machine import choose_accelerator, set_threads
from mousefacelift.training.visits import input_order, shuffle_seed

Sample = dict[str, Any]  # as `Samples` gives it
# A sample, and the input views of each of its V views -> rgb [V, 3, S, S] and alpha [V, S, S]. View v must be predicted
# from inputs[v] alone: of the other images, v's own among them, only the cameras may be used.
Predict = Callable[[Sample, list[list[int]]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trained:
    """A trained model on its device, and the samples of one split to try it on.

    train: the settings of the training run. record: the whole config.yaml of the run, which names its data. attention: the
    kernels that a GPU uses.
    """

    model: Network
    device: str
    train: Train
    record: dict[str, Any]
    data: Manifest
    split: SplitName
    samples: Samples
    attention: AttentionChoice = field(default_factory=AttentionChoice)

    def open_training(self) -> Samples:
        """The training split of the same shards, at the same image size."""
        return Samples(self.data, "train", self.train.image_size, cache_gb=0)


def open_trained(manifest: Path | str, train_dir: Path, split: SplitName, threads: int) -> Trained:
    """Open the model that `train` wrote, with the samples of a split.

    Args:
        manifest: manifest.json of the shards, a path or a URL.
        train_dir: folder of model.safetensors and config.yaml.
        split: the samples' split. Their cameras are those that the model was trained with (`train.cameras`).
        threads: of this process, and for checksums.

    Raises:
        UserError: for missing or damaged files, an empty split, and samples with too few views to hold one out.
    """
    data = read_manifest(manifest)
    record = load_yaml(train_dir / "config.yaml")
    train = validate(Train, record.get("train"), f"{train_dir / 'config.yaml'}: train")
    model = load_weights(train_dir / "model.safetensors").eval()
    refuse_damaged(data, "h5", (split,), threads)
    set_threads(threads)
    # A split is read once, so a cache would only cost memory.
    samples = Samples(data, split, train.image_size, 0, train.cameras)
    if not len(samples):
        raise UserError(f"{manifest}: no {split} samples; see why `sample` rejected them (rejected.tsv)")
    if train.num_input_views >= samples.views:
        raise UserError(
            f"{manifest}: samples have {samples.views} views, and the model of {train_dir} takes "
            f"{train.num_input_views} as inputs: none would be held out"
        )
    device = _device(train)
    attention = AttentionChoice()
    if device == "cuda":
        set_cuda_precision(train.precision)
        mixed = torch.bfloat16 if train.precision == "bf16-mixed" else torch.float32
        tokens = model.tokens(train.num_input_views, train.image_size)
        attention = choose_attention(
            model.config, 1, tokens, mixed, torch.device(device), train.attention, training=False
        )
    return Trained(model.to(device), device, train, record, data, split, samples, attention)


def _device(train: Train) -> str:
    """The device to evaluate on: a model that was trained on a GPU may be evaluated without one, but says so."""
    if torch.cuda.is_available():
        # One process, whatever the training run had.
        return choose_accelerator(train.model_copy(update={"gpus": min(train.gpus, 1), "nodes": 1}))
    why = unseen()
    if why and train.accelerator != "cpu":
        print(f"evaluating on the CPU, although there is a GPU: {why}", file=sys.stderr, flush=True)
    return "cpu"


def predict_views(trained: Trained, sample: Sample, refine_steps: int = 0) -> tuple[Tensor, Tensor]:
    """Predict every view of a sample from its input views, and draw it with its own camera.

    Args:
        trained: the model.
        sample: as `Samples` gives it; c2w, w2c and fxfycxcy may be others than the stored ones.
        refine_steps: as for `reconstruct`.

    Returns:
        rgb [V, 3, S, S] over white, clamped to [0, 1].
        alpha [V, S, S] in [0, 1].
    """
    return draw_held_out(sample, lambda view: reconstruct(trained, sample, view, refine_steps))


def draw_held_out(sample: Sample, reconstructed: Callable[[int], Gaussians]) -> tuple[Tensor, Tensor]:
    """Draw every view of a sample with its own camera, from the Gaussians that its input views give.

    Args:
        sample: as `Samples` gives it.
        reconstructed: the Gaussians for each held-out view; called in inference mode.

    Returns:
        rgb [V, 3, S, S] over white, clamped to [0, 1], on the CPU.
        alpha [V, S, S] in [0, 1], on the CPU.
    """
    size = sample["image"].shape[-1]
    drawn = []
    for view in range(len(sample["image"])):
        with torch.inference_mode():
            gaussians = reconstructed(view)
            w2c, fxfycxcy = (sample[name][None, view : view + 1] for name in ("w2c", "fxfycxcy"))
            device = gaussians.xyz.device
            rgb, alpha = render(gaussians, w2c.to(device), fxfycxcy.to(device), size, size)
            drawn.append((rgb[0, 0].cpu().clamp(0, 1), alpha[0, 0].cpu()))
    return torch.stack([rgb for rgb, _ in drawn]), torch.stack([alpha for _, alpha in drawn])


def reconstruct(trained: Trained, sample: Sample, held_out: int, refine_steps: int = 0) -> Gaussians:
    """One sample's Gaussians from the input views of a held-out view, in the order of the training run.

    Args:
        trained: the model.
        sample: as `Samples` gives it; of its images only the input views' are used.
        held_out: index of the held-out view.
        refine_steps: gradient steps that bring the prediction closer to its input views; 0: none.
    """
    inputs = input_views(len(sample["image"]), trained.train.num_input_views, held_out)
    order = input_order(len(inputs), shuffle_seed(trained.train), sample["index"], held_out)
    inputs = [inputs[place] for place in order]
    names = ("image", "alpha", "c2w", "w2c", "fxfycxcy", "unknown")
    given = {name: sample[name][inputs].unsqueeze(0).to(trained.device) for name in names if name in sample}
    # The precision of the training run, and the fast one: attention has no quick float32 form on a GPU.
    mixed = trained.device == "cuda" and trained.train.precision == "bf16-mixed"
    with trained.attention.applied(), torch.autocast(trained.device, torch.bfloat16, enabled=mixed):
        gaussians = trained.model(
            *(given[name] for name in ("image", "c2w", "fxfycxcy", "alpha", "unknown") if name in given)
        )
    return refine(gaussians, steps=refine_steps, **{name: each for name, each in given.items() if name != "c2w"})


def input_views(views: int, num_inputs: int, held_out: int) -> list[int]:
    """The input views of a held-out view: the `num_inputs` before it around the circle, in ascending order."""
    return sorted((held_out - 1 - i) % views for i in range(num_inputs))
