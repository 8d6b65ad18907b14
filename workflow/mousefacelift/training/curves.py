"""Curves of a training run: losses, gradients, held-out views, and what the model drew."""

from pathlib import Path

from matplotlib.figure import Figure

from mousefacelift.base.files import save_figure


def write_curves(rows: dict[int, dict[str, float]], path: Path, title: str, validation: dict[str, str]) -> None:
    """Draw the metrics of a training run.

    Args:
        rows: step -> column of metrics.csv -> value; a column is absent where it was not measured.
        path: of the picture.
        title: of the picture.
        validation: column -> label of the metrics of held-out views, all of one unit (dB).
    """
    panels: list[tuple[str, dict[str, str], bool]] = [
        ("loss", {"loss": "loss"}, True),
        ("gradient norm before clipping", {"grad_norm": "norm"}, True),
        ("held-out validation views, dB", validation, False),
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
    figure = Figure(figsize=(13, 7), layout="constrained", dpi=100)
    figure.suptitle(title, fontsize=10)
    ordered = [row for _, row in sorted(rows.items())]
    for axes, (label, lines, log) in zip(figure.subplots(2, 3).ravel(), panels, strict=True):
        for name, text in lines.items():
            points = [(row["step"], row[name]) for row in ordered if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=text, linewidth=1, marker="." if len(points) < 30 else None)
        if log:
            axes.set_yscale("log")
        elif any(-0.1 <= row[name] <= 1.1 for row in ordered for name in lines if name in row):
            axes.set_ylim(-0.1, 1.1)  # a mouse brighter than white would flatten the rest
        if not axes.lines:
            axes.text(0.5, 0.5, "none yet", ha="center", transform=axes.transAxes)
        axes.set(xlabel="step", title=label)
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        if len(lines) > 1 and axes.lines:
            axes.legend(fontsize=8)
    save_figure(figure, path)
