"""Pictures of an evaluation: bars of the metrics, predictions beside their targets, a turntable video."""

import math
import textwrap
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
from mousefacelift.evaluation.methods import MODEL, REFINED, ScoredSample, method_labels, pictured_methods
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, Metric, metric
from mousefacelift.evaluation.scores import Scores, mean_score, standard_error
from mousefacelift.evaluation.tables import few_samples
from mousefacelift.geometry.views import inverse_rigid, orbit
from mousefacelift.models.gaussians import Gaussians, render

TURNTABLE_FPS = 24
TURNTABLE_START = 270.0  # degrees of azimuth, as FaceLift's


def write_bars(path: Path, scores: Scores, settings: Evaluate) -> None:
    """Means over samples with standard errors: a panel per metric, a group per held-out view and one for all views."""
    labels = method_labels(settings)
    samples, views = scores[MODEL][PRIMARY].shape
    columns = 2
    rows = -(-len(METRICS) // columns)
    # Wide enough for the numbers at the bars, each about 0.2 inches high when it stands upright.
    width = columns * (1.2 + 0.16 * (views + 1) * (len(labels) + 1))
    figure = Figure(figsize=(width, 1.2 + 2.9 * rows), layout="constrained", dpi=120)
    title = f"Novel views of the {settings.split} split: means over {samples} samples ± one standard error"
    heading = (title, textwrap.fill(few_samples(samples) or "", int(11 * width)))
    figure.suptitle("\n".join(filter(None, heading)), fontsize=11)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, each) in zip(panels, METRICS.items(), strict=False):
        for place, (method, label) in enumerate(labels.items()):
            _bar_group(axes, scores[method][name], each, label, (place, len(labels)))
        axes.set(ylabel=each.title)
        axes.set_xticks(range(views + 1), [*map(str, range(views)), "all"])
        axes.margins(x=0.01, y=0.18)
    for axes in panels[len(METRICS) :]:
        axes.remove()
    for axes in panels[len(METRICS) - columns : len(METRICS)]:
        axes.set_xlabel("held-out view")
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, ncols=min(len(labels), int(width / 2.2)), fontsize=9, loc="outside lower center")
    save_figure(figure, path)


def _bar_group(axes: Any, values: Tensor, each: Metric, label: str, place: tuple[int, int]) -> None:
    """One method's bars [N, V] in a panel: one per view, and their mean. place: of the method among how many."""
    views, width = values.shape[1], 0.84 / place[1]
    groups = [*(values[:, [view]] for view in range(views)), values]
    # A view without a silhouette in some samples has its mean over the others.
    means, errors = [mean_score(group) for group in groups], [standard_error(group) for group in groups]
    shown = [error if math.isfinite(error) else 0.0 for error in errors]
    centers = np.arange(views + 1) + (place[0] - (place[1] - 1) / 2) * width
    bars = axes.bar(centers, means, width, yerr=shown, error_kw={"elinewidth": 0.7, "capsize": 1.2}, label=label)
    axes.bar_label(bars, fmt=each.text, fontsize=6, rotation=90, padding=2)


def write_picture(path: Path, sample: ScoredSample, settings: Evaluate) -> None:
    """A grid, a column per view: target, model, the baselines that are pictured, and the error of the model, the refined one where it is."""
    views, labels = len(sample.target), method_labels(settings)
    own = REFINED if REFINED in sample.rgb else MODEL
    error = (sample.rgb[own] - sample.target).abs().mean(1)

    def scored(method: str) -> Callable[[int], str]:
        return lambda view: f"{sample.scores[method][PRIMARY][view]:.1f} {metric(PRIMARY).unit}"

    rows: list[tuple[str, Tensor, Callable[[int], str]]] = [("target", sample.target, lambda view: f"view {view}")]
    for method in pictured_methods(settings):
        rows.append((labels[method], sample.rgb[method], scored(method)))
    rows.append((f"error of {labels[own]}", error, lambda view: f"mean {error[view].mean():.3f}"))

    figure = Figure(figsize=(1.9 * views + 0.8, 2.05 * len(rows) + 0.4), layout="constrained", dpi=120)
    figure.suptitle(textwrap.fill(f"{sample.key}: every view predicted from the others", 20 * views))
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
        line[0].set_ylabel(textwrap.fill(label, 22), fontsize=10)  # a row is as high as 28 letters
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
