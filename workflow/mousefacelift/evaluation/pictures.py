"""Pictures of an evaluation: bars of the metrics, predictions beside their targets, a turntable video."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mousefacelift.base.files import atomic, save_figure
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.methods import MODEL, ScoredSample, method_labels
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, metric
from mousefacelift.evaluation.scores import Scores
from mousefacelift.geometry.views import inverse_rigid, orbit
from mousefacelift.models.gaussians import Gaussians, render

TURNTABLE_FPS = 24
TURNTABLE_START = 270.0  # degrees of azimuth, as FaceLift's


def write_bars(path: Path, scores: Scores, split: str) -> None:
    """The mean of every metric over the samples of each held-out view: a panel per metric, a bar per method."""
    labels = method_labels()
    figure = Figure(figsize=(8, 0.6 + 2.8 * len(METRICS)), layout="constrained", dpi=120)
    figure.suptitle(f"Novel views of the {split} split")
    panels = figure.subplots(len(METRICS), 1, squeeze=False)[:, 0]
    for axes, (name, each) in zip(panels, METRICS.items(), strict=True):
        views = np.arange(scores[MODEL][name].shape[1])
        width = 0.8 / len(labels)
        for place, (method, label) in enumerate(labels.items()):
            # A view without a silhouette in some samples has its mean over the others.
            means = scores[method][name].nanmean(0).numpy()
            bars = axes.bar(views + (place - (len(labels) - 1) / 2) * width, means, width, label=label)
            axes.bar_label(bars, fmt=each.text, fontsize=5)
        axes.set(ylabel=each.title, xticks=views)
        axes.margins(y=0.12)
    panels[-1].set_xlabel("held-out view")
    panels[-1].legend(ncols=len(labels), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    save_figure(figure, path)


def write_picture(path: Path, sample: ScoredSample) -> None:
    """A grid, a column per view: target, model, the baselines that are pictured, and the model's error."""
    views, labels = len(sample.target), method_labels()
    error = (sample.rgb[MODEL] - sample.target).abs().mean(1)

    def scored(method: str) -> Callable[[int], str]:
        return lambda view: f"{sample.scores[method][PRIMARY][view]:.1f} {metric(PRIMARY).unit}"

    rows: list[tuple[str, Tensor, Callable[[int], str]]] = [("target", sample.target, lambda view: f"view {view}")]
    for method in (MODEL, *(name for name, baseline in BASELINES.items() if baseline.pictured)):
        rows.append((labels[method], sample.rgb[method], scored(method)))
    rows.append(("error of model", error, lambda view: f"mean {error[view].mean():.3f}"))

    figure = Figure(figsize=(1.9 * views + 0.8, 2.05 * len(rows) + 0.4), layout="constrained", dpi=120)
    figure.suptitle(f"{sample.key}: every view predicted from the others")
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


def write_turntable(path: Path, gaussians: Gaussians, focal: float, settings: Evaluate) -> None:
    """A full turn around the mouse as H.264.

    Args:
        path: of the video.
        gaussians: of one sample.
        focal: focal length in image widths. With the data's own the mouse is as large as in its views; the data of
            FaceLift's intrinsics have FaceLift's field of view of 50 degrees.
        settings: number of frames, and their width and height in px.
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


def turntable_cameras(frames: int) -> Tensor:
    """Level cameras on FaceLift's circle: radius 2.7, elevation 0, looking at the origin of a Z-up world.

    Returns:
        w2c [frames, 4, 4], OpenCV axes.
    """
    azimuth = TURNTABLE_START + np.arange(frames) * 360 / frames
    return torch.from_numpy(inverse_rigid(orbit(azimuth, 0.0))).float()
