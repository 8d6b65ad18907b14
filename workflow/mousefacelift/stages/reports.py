"""What stages 2 and 4 say about a capture: a table for the log, a figure over time, and what must stop the run."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.artifacts.subject import Subject
from mousefacelift.base.files import read_json, save_figure
from mousefacelift.config.cameras import Cameras
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.selection import SHAPE

BINS = 200
DPI = 120
# What a frame can end as, in the plot's order and colours: a sample of a split, good but not needed, or not good.
OUTCOMES = {
    "train": "tab:blue", "val": "tab:orange", "test": "tab:green", "left out": "tab:gray", "rejected": "tab:red",
}  # fmt: skip


def print_agreement(report: dict[str, Any]) -> None:
    """Print qc.json as a table on stderr, which is the job's log."""
    from rich.console import Console
    from rich.table import Table

    def text(value: float | None, digits: int = 1) -> str:
        return "unknown" if value is None else f"{value:.{digits}f}"

    table = Table("camera", "no silhouette", "clipped", "blobs", "large", "residual px, median and p95", "hull IoU", "silhouettes",
                  "late by, frames", "drift, frames", title=f"capture {report['capture']}: {report['frames']} frames")  # fmt: skip
    for row in report["cameras"]:
        counts, residual = row["frames_with"], row["residual_px"]
        late = text(row["late_frames"])
        if row["late_frames"] is not None:
            late += f" ± {text(row['late_uncertainty_frames'])}"
        table.add_row(
            row["camera"], str(counts["empty"]), str(counts["clipped"]), str(counts["several_blobs"]), str(counts["large"]),
            f"{text(residual['median'])}, {text(residual['p95'])}", text(row["hull_iou"], 2), row["silhouettes"]["grade"],
            late + " (!)" * row["late"], text(row["drift_frames"]) + " (!)" * row["drifts"],
        )  # fmt: skip
    Console(stderr=True, width=140).print(table)
    if unchecked := [row["camera"] for row in report["cameras"] if row["late_frames"] is None]:
        print(
            f"synchrony could not be checked for camera {', '.join(unchecked)}: between two candidate frames (center.stride) the "
            "mouse moves too much, or too little",
            file=sys.stderr,
        )


def print_grades(reports: Sequence[dict[str, Any]], advice: str) -> None:
    """Print a table on stderr of the cameras whose silhouettes are not good, of one or more qc.json; nothing if all are."""
    from rich.console import Console
    from rich.table import Table

    table = Table("capture", "camera", "silhouettes", "why")
    for report in reports:
        for row in report["cameras"]:
            graded = row.get("silhouettes", {"grade": "good"})  # a file of an older version
            if graded["grade"] != "good":
                table.add_row(report["capture"], row["camera"], graded["grade"], "; ".join(graded["reasons"]))
    if table.row_count:
        print("warning: some silhouettes are not to be trusted:", file=sys.stderr)
        Console(stderr=True, width=140).print(table)
        print(advice, file=sys.stderr)


def print_run(paths: Sequence[str]) -> None:
    """Print the captures' grades when the workflow has ended, from those qc.json that there are; quiet if all are good."""
    reports = [read_json(Path(path), "cameras") for path in paths if Path(path).exists()]
    print_grades(reports, "see worst.png beside each capture's qc.json")


def agreement_problems(report: dict[str, Any], sync: Sequence[int], settings: Cameras) -> list[str]:
    """What in qc.json must stop the run: cameras out of step, and hulls that do not fill their silhouettes.

    sync: of each camera, as the captures table has it.
    """
    problems = []
    for row, offset in zip(report["cameras"], sync, strict=True):
        late, name = row["late_frames"], row["camera"]
        if row["late"] and abs(late) >= settings.max_shift_frames:
            total = offset + round(late)
            problems.append(
                f"camera {name} is {'late' if late > 0 else 'early'} by {abs(late):.1f} ± "
                f"{row['late_uncertainty_frames']:.1f} frames against the others: check the recording, or let the table's column "
                f"'sync' say {name}={total}{f' instead of {name}={offset}' if offset else ''}: frame k of the capture is then frame "
                f"k{total:+d} of this video. At most {settings.max_shift_frames:g} are allowed (cameras.max_shift_frames)"
            )
        if row["drifts"] and abs(row["drift_frames"]) >= settings.max_shift_frames:
            problems.append(
                f"camera {name} loses step by {abs(row['drift_frames']):.1f} frames in the course of the capture: it lost frames, or "
                "its clock differs. Record at one trigger, or, if its timestamps are right, set center.timing: timestamp "
                "(cameras.max_shift_frames)"
            )
    return problems + _hull_problems(report["cameras"], settings.min_hull_iou)


def _hull_problems(rows: Sequence[dict[str, Any]], least: float) -> list[str]:
    """The one problem if a camera's mean IoU is below `least`: which cameras, and which one is to blame."""
    ious = {row["camera"]: row["hull_iou"] for row in rows if row["hull_iou"] is not None}
    low = [name for name, iou in ious.items() if iou < least]
    if not low:
        return []
    without = {row["camera"]: row["others_iou_without_it"] for row in rows if row["others_iou_without_it"] is not None}
    suspect = max(without, key=lambda name: without[name], default=None)
    if suspect and without[suspect] >= least:
        advice = (
            f"Without camera {suspect} the others agree best (IoU {without[suspect]:.2f}): look at its calibration and its "
            "silhouettes first"
        )
    else:
        advice = (
            "No camera alone is to blame: look at the silhouettes (preview.png), the unit of the calibration, "
            "and cameras.voxel_mm"
        )
    listed = ", ".join(f"camera {name} (IoU {ious[name]:.2f})" for name in low)
    return [
        f"the visual hull fills its silhouettes too little in {listed}. {advice}; at least {least:g} is asked for "
        "(cameras.min_hull_iou)"
    ]


def plot_agreement(path: Path, subject: Subject) -> None:
    """Draw each camera's residual and hull IoU over time, as medians of up to BINS bins."""
    from matplotlib.figure import Figure

    time_s = subject.time_s
    bins = min(len(time_s), BINS)
    number = np.arange(len(time_s)) * bins // len(time_s)

    def medians(values: Array) -> Array:
        parts = (values[number == b] for b in range(bins))
        return np.array([np.median(p[np.isfinite(p)]) if np.isfinite(p).any() else np.nan for p in parts])

    time = np.array([time_s[number == b].mean() for b in range(bins)])
    figure = Figure(figsize=(10, 6), layout="constrained", dpi=DPI)
    above, below = figure.subplots(2, 1, sharex=True)
    for v, name in enumerate(subject.cameras):
        above.plot(time, medians(subject.residual_px[:, v]), lw=1, label=name)
        below.plot(time, medians(subject.hull_iou[:, v]), lw=1)
    above.set(
        ylabel="silhouette's centre from\nreprojected centre, raw px",
        title=f"Agreement of the cameras: {subject.capture}",
    )
    above.set_ylim(bottom=0)
    above.legend(title="camera", loc="upper left", bbox_to_anchor=(1, 1))
    below.set(xlabel="time, s", ylabel="IoU of hull and silhouette", ylim=(0, 1))
    for axis in (above, below):
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def print_sampling(summary: dict[str, Any]) -> None:
    """Print summary.json as tables on stderr, which is the job's log."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(stderr=True, width=140)
    print(
        f"capture {summary['capture']}: {summary['candidates']} candidate frames, {summary['accepted']} samples",
        file=sys.stderr,
    )
    table = Table(Column("frames", justify="right"), "became")
    for name, count in summary["samples"].items():
        table.add_row(str(count), name)
    table.add_section()
    for reason, count in summary["rejected"]["by_reason"].items():
        table.add_row(str(count), reason)
    console.print(table)
    if strata := summary.get("strata"):
        columns = ["frames", *SHAPE, *(name for name in OUTCOMES if name != "rejected")]
        table = Table(*columns, title="pose strata: medians, and frames of each split")
        for row in strata:
            table.add_row(*(f"{row[name]:g}" if row[name] is not None else "unknown" for name in columns))
        console.print(table)
    for name, share in summary["cameras_left_out"].items():
        print(
            f"camera {name} is not among those that views are chosen from: it could be one in {100 * share:.0f} % of the frames "
            "with a mouse, less than half as often as the best camera",
            file=sys.stderr,
        )
    for warning in summary["warnings"]:
        print(f"warning: capture {summary['capture']}: {warning}", file=sys.stderr)
    lost = ", ".join(f"{name}: {count}" for name, count in summary["rejected"]["by_camera"].items() if count)
    print(
        f"views {', '.join(summary['views'])}, at least {summary['min_angle_deg']:.1f} degrees apart; "
        f"frames rejected for a camera's view: {lost or 'none'}",
        file=sys.stderr,
    )


def plot_sampling(path: Path, summary: dict[str, Any], time_s: Array, outcome: np.ndarray) -> None:
    """Draw why frames were left out, and what became of each frame [N] over time_s [N]."""
    from matplotlib.figure import Figure

    reasons = summary["rejected"]["by_reason"]
    figure = Figure(figsize=(10, 3.2 + 0.45 * max(len(reasons), 1)), layout="constrained", dpi=DPI)
    above, below = figure.subplots(2, 1, height_ratios=(0.45 * max(len(reasons), 1), 2))
    bars = above.barh([textwrap.fill(reason, 40) for reason in reasons], list(reasons.values()), color="0.35")
    above.bar_label(bars, padding=3)
    above.invert_yaxis()
    above.margins(x=0.08)
    above.xaxis.get_major_locator().set_params(integer=True)
    above.set(
        xlabel="frames",
        title=f"{summary['capture']}: {summary['accepted']} samples of {summary['candidates']} candidate frames",
    )
    if not reasons:
        above.set(xticks=[], yticks=[], xlabel="no frame was left out")
    # One rectangle for a run of frames with one outcome, so that there are few, however long the capture. A frame lasts
    # until the next.
    ends = np.append(time_s[1:], time_s[-1] + (np.median(np.diff(time_s)) if len(time_s) > 1 else 1))
    begins = np.flatnonzero(np.append(True, outcome[1:] != outcome[:-1]))
    last = np.append(begins[1:], len(outcome)) - 1
    for lane, (name, colour) in enumerate(OUTCOMES.items()):
        runs = [(time_s[b], ends[e] - time_s[b]) for b, e in zip(begins, last, strict=True) if outcome[b] == name]
        below.broken_barh(runs, (lane - 0.4, 0.8), color=colour, label=f"{name} ({(outcome == name).sum()})")
    below.set(
        xlabel="time, s", yticks=range(len(OUTCOMES)), yticklabels=list(OUTCOMES), ylim=(len(OUTCOMES) - 0.5, -0.5)
    )
    below.legend(title="frames", loc="upper left", bbox_to_anchor=(1, 1))
    for axis in (above, below):
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    save_figure(figure, path)
