"""Curves of a training run: losses, gradients, held-out views, what the model drew, and how fast it went."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mousefacelift.base.files import save_figure
from mousefacelift.training.clock import PARTS
from mousefacelift.training.gap import error_column

Rows = list[dict[str, float]]


def write_curves(rows: dict[int, dict[str, float]], path: Path, title: str, validation: dict[str, str]) -> None:
    """Draw the metrics of a training run.

    Args:
        rows: step -> column of metrics.csv -> value; a column is absent where it was not measured.
        path: of the picture.
        title: of the picture.
        validation: column -> label of the metrics of held-out views, all of one unit (dB). A band of one standard error is
            drawn where metrics.csv has it.
    """
    panels: list[tuple[str, dict[str, str], bool]] = [
        ("loss", {"loss": "loss"}, True),
        ("gradient norm before clipping", {"grad_norm": "norm"}, True),
        ("held-out views, dB, ± one standard error", validation, False),
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
    figure = Figure(figsize=(17, 7), layout="constrained", dpi=100)
    figure.suptitle(title, fontsize=10)
    ordered = [row for _, row in sorted(rows.items())]
    grid = figure.subplots(2, 4)
    for axes, (label, lines, log) in zip(grid[:, :3].ravel(), panels, strict=True):
        _draw_panel(axes, ordered, label, lines, log)
    _draw_parts(grid[0, 3], ordered)
    _draw_speed(grid[1, 3], ordered)
    save_figure(figure, path)


def _draw_panel(axes: Any, rows: Rows, label: str, lines: dict[str, str], log: bool) -> None:
    for name, text in lines.items():
        _plot(axes, rows, name, text)
    if log:
        axes.set_yscale("log")
    elif any(-0.1 <= row[name] <= 1.1 for row in rows for name in lines if name in row):
        axes.set_ylim(-0.1, 1.1)  # a mouse brighter than white would flatten the rest
    _label(axes, label)
    if len(lines) > 1 and axes.lines:
        axes.legend(fontsize=8)


def _draw_parts(axes: Any, rows: Rows) -> None:
    """Seconds per step, its parts on top of each other."""
    known = [row for row in rows if all(f"seconds_{part}" in row for part in PARTS)]
    if known:
        steps = [row["step"] for row in known]
        parts = np.array([[row[f"seconds_{part}"] for row in known] for part in PARTS])
        if len(known) == 1:  # an area has two ends
            steps, parts = [steps[0] - 0.5, steps[0] + 0.5], parts.repeat(2, axis=1)
        axes.stackplot(steps, parts, labels=PARTS, linewidth=0)
        # The first steps compile, and one may wait for a disk: they would flatten the rest.
        axes.set_ylim(0, 1.5 * np.median(parts.sum(0)))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], fontsize=8, loc="upper right", ncols=2)
    _label(axes, "seconds per step, by part")


def _draw_speed(axes: Any, rows: Rows) -> None:
    """Samples per second, and on a GPU its memory on an axis of its own."""
    _plot(axes, rows, "samples_per_s", "samples per second")
    axes.set_ylim(bottom=0)
    _label(axes, "samples per second")
    if any("gpu_gb" in row for row in rows):
        memory = axes.twinx()
        _plot(memory, rows, "gpu_gb", "peak GB", color="tab:red")
        memory.set_ylim(bottom=0)
        axes.set_title("samples per second; peak GB of the GPU (red)", fontsize=10)
        memory.tick_params(axis="y", colors="tab:red")


def _plot(axes: Any, rows: Rows, name: str, text: str, **options: Any) -> None:
    points = [(row["step"], row[name]) for row in rows if name in row]
    if points:
        marker = "." if len(points) < 30 else None
        (line,) = axes.plot(*zip(*points, strict=True), label=text, linewidth=1, marker=marker, **options)
        known = [row for row in rows if name in row and error_column(name) in row]
        ends = [[row[name] + sign * row[error_column(name)] for row in known] for sign in (-1, 1)]
        axes.fill_between([row["step"] for row in known], *ends, color=line.get_color(), alpha=0.2, linewidth=0)


def _label(axes: Any, title: str) -> None:
    if not axes.lines and not axes.collections:
        axes.text(0.5, 0.5, "none yet", ha="center", transform=axes.transAxes)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
