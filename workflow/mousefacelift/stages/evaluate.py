"""Evaluation of a trained model on views it was not given: metrics beside three baselines, pictures, video, splats."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, save_figure, write_json
from mousefacelift.base.progress import track
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.reading import load_yaml, validate
from mousefacelift.config.train import Train
from mousefacelift.evaluation.metrics import METRICS
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.geometry.views import inverse_rigid, orbit
from mousefacelift.models.gaussians import Gaussians, render
from mousefacelift.models.network import Network
from mousefacelift.models.splats import write_ply
from mousefacelift.models.weights.files import load_weights
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import Manifest, read_manifest
from mousefacelift.stages.train import choose_accelerator, set_threads
from mousefacelift.training.data import Samples, SplitName, input_order, shuffle_seed
from mousefacelift.training.losses import mask_iou, psnr, psnr_foreground, ssim

METHODS = ("model", "white", "mean_train", "nearest_view")
LABELS = {
    "model": "model",
    "white": "white image",
    "mean_train": "mean training image",
    "nearest_view": "nearest input",
}
TURNTABLE_FPS = 24
TURNTABLE_START = 270.0  # degrees of azimuth, as FaceLift's


@dataclass(frozen=True)
class Trained:
    """A trained model on its device, and one split's samples to try it on.

    train: the settings it was trained with; record: all of the training's config.yaml, which names its data.
    """

    model: Network
    device: str
    train: Train
    record: dict[str, Any]
    data: Manifest
    split: SplitName
    samples: Samples


@dataclass(frozen=True)
class Comparison:
    """What every method says about the V views of one sample.

    rgb: per method [V, 3, S, S]; alpha: per method [V, S, S]; scores: per method and metric [V].
    """

    key: str
    target: Tensor
    rgb: dict[str, Tensor]
    alpha: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]


def evaluate(manifest: Path | str, train_dir: Path, out_dir: Path, settings: Evaluate, threads: int) -> None:
    """Predict every view of every sample of a split from the other views, and score the predictions.

    `train_dir` holds model.safetensors and config.yaml of `train`, which give the image size and the number of inputs.
    Writes metrics.json (means), metrics.tsv (one row per sample, view and method), metrics.png, pictures/{key}.png,
    turntable.mp4 and {key}.ply to `out_dir`. Raises UserError for missing or damaged inputs and for an empty split.
    """
    trained = open_trained(manifest, train_dir, settings.split, threads)
    refuse_damaged(trained.data, "h5", {"train"} - {settings.split}, threads)
    samples = trained.samples

    for stale in (*out_dir.glob("*.ply"), out_dir / "turntable.mp4"):
        stale.unlink(missing_ok=True)
    shutil.rmtree(out_dir / "pictures", ignore_errors=True)

    pictured = evenly_spaced(len(samples), settings.pictures).tolist()
    scores: list[dict[str, dict[str, Tensor]]] = []
    advance = track(len(samples), f"evaluating {settings.split}")
    for index, comparison in enumerate(_comparisons(trained)):
        scores.append(comparison.scores)
        if index in pictured:
            _write_picture(out_dir / "pictures" / f"{comparison.key}.png", comparison)
        advance()
    _write_metrics(out_dir, scores, trained)

    with torch.inference_mode():
        for index in evenly_spaced(len(samples), settings.splats).tolist():
            gaussians = _reconstruct(trained, samples[index], held_out=0)
            write_ply(out_dir / f"{samples.keys[index]}.ply", gaussians, 0)
        if settings.turntable_frames:
            gaussians = _reconstruct(trained, samples[len(samples) // 2], held_out=0)
            focal = samples.fxfycxcy[..., :2].mean().item() / samples.image_size
            _write_turntable(out_dir / "turntable.mp4", gaussians, focal, settings)


def open_trained(manifest: Path | str, train_dir: Path, split: SplitName, threads: int) -> Trained:
    """The model that `train` wrote to `train_dir` (model.safetensors, config.yaml), with the samples of a split.

    The samples' cameras are those that the model was trained with (`train.cameras`).
    Raises UserError for missing or damaged files, for an empty split, and for samples with too few views.
    """
    data = read_manifest(manifest)
    record = load_yaml(train_dir / "config.yaml")
    train = validate(Train, record.get("train"), f"{train_dir / 'config.yaml'}: train")
    model = load_weights(train_dir / "model.safetensors").eval()
    refuse_damaged(data, "h5", (split,), threads)
    set_threads(threads)
    # A split is read once, so that a cache would only cost memory.
    samples = Samples(data, split, train.image_size, 0, train.cameras)
    if not len(samples):
        raise UserError(f"{manifest}: no {split} samples; see why `sample` rejected them (rejected.tsv)")
    if train.num_input_views >= samples.views:
        raise UserError(
            f"{manifest}: samples have {samples.views} views, and the model of {train_dir} takes "
            f"{train.num_input_views} as inputs: none would be held out"
        )
    # A model trained on a GPU may be evaluated where there is none.
    device = choose_accelerator(train) if torch.cuda.is_available() else "cpu"
    return Trained(model.to(device), device, train, record, data, split, samples)


def predict_views(trained: Trained, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Every view of a sample, drawn with its own camera from the views before it: rgb [V, 3, S, S], alpha [V, S, S].

    The views before it are given in the order that the model was trained with (`train.view_order`).
    The sample's c2w, w2c and fxfycxcy are taken at their word; rgb is clamped to [0, 1].
    """
    views, size = len(sample["image"]), sample["image"].shape[-1]
    predicted_rgb, predicted_alpha = [], []
    for view in range(views):
        with torch.inference_mode():
            gaussians = _reconstruct(trained, sample, view)
            w2c, fxfycxcy = (sample[name][None, view : view + 1].to(trained.device) for name in ("w2c", "fxfycxcy"))
            rgb, alpha = render(gaussians, w2c, fxfycxcy, size, size)
        predicted_rgb.append(rgb[0, 0].cpu().clamp(0, 1))
        predicted_alpha.append(alpha[0, 0].cpu())
    return torch.stack(predicted_rgb), torch.stack(predicted_alpha)


def score(rgb: Tensor, alpha: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Every metric of V views, [V] each; rgb, target [V, 3, S, S], alpha, mask [V, S, S]."""
    return {
        "psnr": psnr(rgb, target),
        "psnr_foreground": psnr_foreground(rgb, target, mask),
        "ssim": ssim(rgb, target),
        "mask_iou": mask_iou(alpha, mask),
    }


def mean_score(values: Tensor) -> float:
    """Over all views that have a value: a view with an empty silhouette has no foreground PSNR."""
    return float(values[values.isfinite()].mean()) if values.isfinite().any() else 0.0


def provenance(trained: Trained) -> dict[str, Any]:
    """What a metrics.json says of the samples and the weights that its numbers are of."""
    return {
        "split": trained.split,
        "samples": len(trained.samples),
        "views": trained.samples.views,
        "num_input_views": trained.train.num_input_views,
        "image_size": trained.train.image_size,
        "run": trained.train.run,
        "trained_on": trained.record.get("data"),
        "data": trained.data.sha256,
    }


def write_rows(path: Path, samples: Samples, column: str, values: dict[str, dict[str, Tensor]]) -> None:
    """metrics.tsv: a row per sample, view and key of `values`, which stands in `column`; values [N, V] per metric."""
    lines = ["\t".join(["key", "frame", "view", column, *METRICS])]
    for index, (key, frame) in enumerate(zip(samples.keys, samples.frames, strict=True)):
        for view in range(samples.views):
            for name, table in values.items():
                cells = [f"{table[metric][index, view].item():.5g}" for metric in METRICS]
                lines.append("\t".join([key, str(frame), str(view), name, *cells]))
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def input_views(views: int, num_inputs: int, held_out: int) -> list[int]:
    """The views given to the model for one held-out view: the `num_inputs` before it around the circle, in order."""
    return sorted((held_out - 1 - i) % views for i in range(num_inputs))


def nearest_view(c2w: Tensor, inputs: list[int], held_out: int) -> int:
    """The input view whose optical axis points most nearly where the held-out one's does; c2w [V, 4, 4]."""
    axes = c2w[:, :3, 2]
    return inputs[int((axes[inputs] @ axes[held_out]).argmax())]


def turntable_cameras(frames: int) -> Tensor:
    """w2c [frames, 4, 4] of level cameras on FaceLift's circle: radius 2.7, elevation 0, looking at the origin."""
    azimuth = TURNTABLE_START + np.arange(frames) * 360 / frames
    return torch.from_numpy(inverse_rigid(orbit(azimuth, 0.0))).float()


def _reconstruct(trained: Trained, sample: dict[str, Any], held_out: int) -> Gaussians:
    """One sample's Gaussians from the views that are given for a held-out one."""
    inputs = input_views(len(sample["image"]), trained.train.num_input_views, held_out)
    order = input_order(len(inputs), shuffle_seed(trained.train), sample["index"], held_out)
    inputs = [inputs[place] for place in order]
    given = (sample[name][inputs].unsqueeze(0).to(trained.device) for name in ("image", "c2w", "fxfycxcy"))
    # As it was trained, and fast: attention has no quick float32 form on a GPU.
    mixed = trained.device == "cuda" and trained.train.precision == "bf16-mixed"
    with torch.autocast(trained.device, torch.bfloat16, enabled=mixed):
        return trained.model(*given)


def _comparisons(trained: Trained) -> Iterator[Comparison]:
    """Every sample of the split, by every method."""
    samples, num_inputs = trained.samples, trained.train.num_input_views
    mean_image, mean_alpha = _mean_train(trained.data, trained.train)
    for sample in (samples[index] for index in range(len(samples))):
        target, mask = sample["image"], sample["alpha"]
        rgb, alpha = predict_views(trained, sample)
        nearest = [
            nearest_view(sample["c2w"], input_views(samples.views, num_inputs, view), view)
            for view in range(samples.views)
        ]
        rgb_of = {
            "model": rgb,
            "white": torch.ones_like(target),
            "mean_train": mean_image,
            "nearest_view": target[nearest],
        }
        alpha_of = {
            "model": alpha,
            "white": torch.zeros_like(mask),
            "mean_train": mean_alpha,
            "nearest_view": mask[nearest],
        }
        scores = {method: score(rgb_of[method], alpha_of[method], target, mask) for method in METHODS}
        yield Comparison(samples.keys[sample["index"]], target, rgb_of, alpha_of, scores)


def _mean_train(data: Manifest, train: Train) -> tuple[Tensor, Tensor]:
    """Mean training image [V, 3, S, S] and alpha [V, S, S] of every view; white if there are no training samples."""
    samples = Samples(data, "train", train.image_size, cache_gb=0)
    size = train.image_size
    image, alpha = torch.zeros(data.views, 3, size, size), torch.zeros(data.views, size, size)
    if not len(samples):
        return image + 1, alpha
    for index in range(len(samples)):
        sample = samples[index]
        image += sample["image"]
        alpha += sample["alpha"]
    return image / len(samples), alpha / len(samples)


def _write_metrics(out_dir: Path, scores: list[dict[str, dict[str, Tensor]]], trained: Trained) -> None:
    """metrics.tsv with every value, metrics.json with the means over samples and views, metrics.png with bars."""
    values = {m: {name: torch.stack([s[m][name] for s in scores]) for name in METRICS} for m in METHODS}  # [N, V] each
    write_rows(out_dir / "metrics.tsv", trained.samples, "method", values)

    means = {method: {name: mean_score(table[name]) for name in METRICS} for method, table in values.items()}
    model, baselines = means["model"], {method: means[method] for method in METHODS[1:]}
    best = {name: max(b[name] for b in baselines.values()) for name in METRICS}
    result = {
        "model": model,
        "baselines": baselines,
        "gain": {name: model[name] - best[name] for name in METRICS},
        "best_baseline": max(baselines, key=lambda method: baselines[method]["psnr"]),
        **provenance(trained),
    }
    _write_bars(out_dir / "metrics.png", values, trained.split)
    write_json(out_dir / "metrics.json", result)


def _write_bars(path: Path, values: dict[str, dict[str, Tensor]], split: str) -> None:
    """Mean PSNR of every held-out view, a bar per method."""
    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    views = np.arange(values["model"]["psnr"].shape[1])
    width = 0.8 / len(METHODS)
    for place, method in enumerate(METHODS):
        means = values[method]["psnr"].mean(0).numpy()
        bars = axes.bar(views + (place - (len(METHODS) - 1) / 2) * width, means, width, label=LABELS[method])
        axes.bar_label(bars, fmt="%.1f", fontsize=6)
    axes.set(xlabel="held-out view", ylabel="PSNR (dB)", xticks=views, title=f"Novel views of the {split} split")
    axes.legend(ncols=len(METHODS), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    axes.margins(y=0.12)
    save_figure(figure, path)


def _write_picture(path: Path, comparison: Comparison) -> None:
    """A grid: a column per view; target, model, nearest input view, and the model's error."""
    views = len(comparison.target)
    error = (comparison.rgb["model"] - comparison.target).abs().mean(1)
    rows: list[tuple[str, Tensor, Callable[[int], str]]] = [
        ("target", comparison.target, lambda view: f"view {view}"),
        ("model", comparison.rgb["model"], lambda view: f"{comparison.scores['model']['psnr'][view]:.1f} dB"),
        (
            "nearest input",
            comparison.rgb["nearest_view"],
            lambda view: f"{comparison.scores['nearest_view']['psnr'][view]:.1f} dB",
        ),
        ("error of model", error, lambda view: f"mean {error[view].mean():.3f}"),
    ]
    figure = Figure(figsize=(1.9 * views + 0.8, 2.05 * len(rows) + 0.4), layout="constrained", dpi=120)
    figure.suptitle(f"{comparison.key}: every view predicted from the others")
    grid = figure.subplots(len(rows), views, squeeze=False)
    for line, (label, images, title) in zip(grid, rows, strict=True):
        for view, axes in enumerate(line):
            image = images[view]
            if image.ndim == 3:
                shown = axes.imshow(image.movedim(0, -1).numpy(), interpolation="nearest")
            else:
                shown = axes.imshow(image.numpy(), interpolation="nearest", cmap="magma", vmin=0, vmax=0.5)
            axes.set(xticks=[], yticks=[])
            axes.set_title(title(view), fontsize=9)
        line[0].set_ylabel(label, fontsize=10)
    figure.colorbar(shown, ax=list(grid[-1]), shrink=0.8, pad=0.01, label="|error| (0 to 1)")
    save_figure(figure, path)


def _write_turntable(path: Path, gaussians: Gaussians, focal: float, settings: Evaluate) -> None:
    """A full turn as H.264. `focal` is in image widths: the data's own, so that the mouse is as large as in its views;
    FaceLift's 50 degrees if the data has FaceLift's intrinsics.
    """
    size = settings.turntable_size
    device = gaussians.xyz.device
    fxfycxcy = torch.tensor([focal * size, focal * size, size / 2, size / 2], device=device).expand(1, 1, 4)
    with atomic(path) as temporary, av.open(str(temporary), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", TURNTABLE_FPS, options={"crf": "18"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for w2c in turntable_cameras(settings.turntable_frames):
            rgb, _ = render(gaussians, w2c.to(device).view(1, 1, 4, 4), fxfycxcy, size, size)
            image = (rgb[0, 0].movedim(0, -1).clamp(0, 1) * 255).round().byte().cpu().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
