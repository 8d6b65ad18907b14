"""Stage 4, sample: which frames become samples, in which split, with the views in which order; and why the rest do not."""

import csv
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, open_h5, write_json
from mousefacelift.config.sample import SPLITS, Sample
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.selection import (
    SHAPE,
    choose_views,
    evenly_spaced,
    farthest_points,
    pose_strata,
    shape_descriptors,
    split_blocks,
    split_stratified,
    standardised,
    usable_views,
)

SAMPLE_COLUMNS = ("key", "capture", "frame", "time_s", "chunk", "split", "views")
REJECTED_COLUMNS = ("capture", "frame", "time_s", "reason")
# What a frame can end as, in the plot's order and colours: a sample of a split, good but not needed, or not good.
OUTCOMES = {
    "train": "tab:blue", "val": "tab:orange", "test": "tab:green", "left out": "tab:gray", "rejected": "tab:red",
}  # fmt: skip


@dataclass(frozen=True)
class Rejection:
    """Why a frame is no sample: the reason, and the cameras whose views gave it."""

    reason: str
    cameras: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}: camera {', '.join(self.cameras)}" if self.cameras else self.reason


@dataclass(frozen=True)
class Frames:
    """What earlier stages say of a capture's N candidate frames in its V cameras.

    frame, time_s, chunk: [N]. centred: [N], whether the mouse's centre is known; without it the rest is void, and w2c
    [C, V, 4, 4] has the C centred frames alone. flags, fits, located, hull_iou, cut: [N, V], see `view_checks`. shape:
    [N, 6], see `selection.shape_descriptors`.
    """

    capture: str
    cameras: tuple[str, ...]
    frame: NDArray[np.int64]
    time_s: Array
    chunk: NDArray[np.int64]
    centred: NDArray[np.bool_]
    w2c: Array
    flags: NDArray[np.uint8]
    fits: NDArray[np.bool_]
    located: NDArray[np.bool_]
    hull_iou: Array
    cut: Array
    shape: Array


def check_views(capture: str, cameras: Sequence[str], views: int) -> None:
    """Raise UserError, saying what to set, if a capture has fewer cameras than a sample shall have views."""
    if len(cameras) < views:
        inputs = len(cameras) - 1
        few = ", and train.i_know: true (fewer than 4 inputs are known to fail on six-view rigs)" if inputs < 4 else ""
        raise UserError(
            f"capture {capture} has {len(cameras)} cameras ({', '.join(cameras)}), fewer than sample.views ({views}): set "
            f"sample.views: {len(cameras)} and train.num_input_views: {inputs}{few}"
        )


Checks = list[tuple[str, NDArray[np.bool_]]]


def view_checks(
    flags: np.ndarray, fits: np.ndarray, located: np.ndarray, iou: np.ndarray, cut: np.ndarray, settings: Sample
) -> Checks:
    """Each reason why a frame cannot be a sample, the gravest first, and the views [N, V] that give it.

    flags [N, V]; fits [N, V], whether the silhouette lies inside the view; located [N, V], whether the mouse's 3D centre
    lies in front of the camera and within its calibrated field; iou [N, V], the overlap of silhouette and visual hull;
    cut [N, V], the share of the mouse's volume beyond the video's edge. iou and cut are NaN where they were not measured.
    """
    return [
        ("no frame (missing, or cannot be decoded)", (flags & Flag.MISSING) > 0),
        ("no silhouette", (flags & Flag.EMPTY) > 0),
        ("several blobs", (flags & Flag.SEVERAL_BLOBS) > 0),
        ("silhouette far larger than the mouse", (flags & Flag.LARGE) > 0),
        ("unsharp", (flags & Flag.UNSHARP) > 0),
        (f"the video's edge cuts off more than {100 * settings.max_cut:g} % of the mouse", cut > settings.max_cut),
        ("clipped by the video's edge", ((flags & Flag.CLIPPED) > 0) & np.isnan(cut)),
        ("mouse's centre behind the camera or beyond its calibrated field", ~located),
        (
            f"silhouette contradicts the other views (hull IoU below {settings.min_hull_iou:g})",
            iou < settings.min_hull_iou,
        ),
        ("silhouette does not fit the normalised view", ~fits),
    ]


def rejections(checks: Checks, cameras: Sequence[str]) -> list[Rejection | None]:
    """Why each of N frames cannot be a sample; None if it can. checks: of the views of these cameras alone."""
    why: list[Rejection | None] = [None] * len(checks[0][1])
    for reason, failed in reversed(checks):  # the gravest has the last word
        for n in np.flatnonzero(failed.any(axis=1)):
            why[n] = Rejection(reason, tuple(name for name, bad in zip(cameras, failed[n], strict=True) if bad))
    return why


def sample(cameras_file: Path, subject_file: Path, output: Path, settings: Sample, split: str | None = None) -> None:
    """Write samples.tsv, rejected.tsv, summary.json and summary.png to a folder, from what normalize and cameras wrote.

    Every candidate frame is in exactly one of the two tables; the summary counts them by split, reason and camera, and by
    pose stratum if stratified. split: that of the whole capture, for `sample.split: capture` and `animal` (see
    `selection.capture_splits`).

    Raises UserError if the capture has fewer cameras than `views`, or no frame becomes a sample: then rejected-failed.tsv
    is all that is written.
    """
    # Of a failed job Snakemake deletes the outputs; what shows the reason must stay.
    failed = output / "rejected-failed.tsv"
    failed.unlink(missing_ok=True)
    if (split is None) != (settings.split == "block"):
        raise UserError(
            f"sample.split is {settings.split}: "
            + ("a capture's split is not given" if split else "the capture's split must be given")
            + " (--split)"
        )
    frames = _read(cameras_file, subject_file)
    check_views(frames.capture, frames.cameras, settings.views)
    checks = view_checks(frames.flags, frames.fits, frames.located, frames.hull_iou, frames.cut, settings)
    among, left_out = _worth_choosing(frames, checks, settings.views)
    spread, min_angle_deg = choose_views([frames.cameras[v] for v in among], frames.w2c[:, among], settings.views)
    order = [among[v] for v in spread]
    views = [frames.cameras[v] for v in order]

    why = _judge(frames, checks, sorted(order))
    good = np.array([n for n, reason in enumerate(why) if reason is None], int)
    pose = standardised(frames.shape[good])
    if settings.select == "diverse" and settings.frames is not None:
        picked = np.sort(farthest_points(pose, settings.frames))
    else:
        picked = evenly_spaced(len(good), settings.frames)
    chosen = good[picked]
    for n in np.setdiff1d(good, chosen):
        why[n] = Rejection(f"not among the {len(chosen)} frames chosen (sample.frames)")
    strata = pose_strata(pose[picked]) if settings.stratify and len(chosen) else None
    splits = _split(frames.time_s[chosen], strata, settings, split)
    for n, name in zip(chosen, splits, strict=True):
        if name is None:
            why[n] = Rejection(f"within the gap of {settings.gap_s:g} s between two splits (sample.gap_s)")

    outcome = np.full(len(frames.frame), "rejected", object)
    outcome[good] = "left out"
    outcome[chosen] = [name or "left out" for name in splits]
    summary = _summary(frames, why, outcome) | {
        "views": views,
        "min_angle_deg": round(min_angle_deg, 3),
        "cameras_left_out": left_out,
    }
    summary["warnings"] = _warnings(summary["samples"], settings) if split is None else []
    if strata is not None:
        summary["strata"] = _strata(frames.shape[chosen], strata, outcome[chosen])
    _print(summary)

    label = [f"{t:.6f}" for t in frames.time_s]
    rejected = [(frames.capture, frames.frame[n], label[n], reason) for n, reason in enumerate(why) if reason]
    if not summary["accepted"]:
        _write_tsv(failed, REJECTED_COLUMNS, rejected)
        advice = f": {' or '.join(_advice(settings))}" if len(good) else ""
        raise UserError(f"capture {frames.capture}: no frame can become a sample ({failed}): {_commonest(why)}{advice}")
    _write_tsv(output / "rejected.tsv", REJECTED_COLUMNS, rejected)
    samples = [
        (f"{frames.capture}-{frames.frame[n]:06d}", frames.capture, frames.frame[n], label[n], frames.chunk[n], outcome[n], ",".join(views))
        for n in chosen
        if outcome[n] in SPLITS
    ]  # fmt: skip
    _write_tsv(output / "samples.tsv", SAMPLE_COLUMNS, samples)
    write_json(output / "summary.json", summary)
    _plot(output / "summary.png", summary, frames.time_s, outcome)


def _read(cameras_file: Path, subject_file: Path) -> Frames:
    with open_h5(cameras_file, "mousefacelift normalize") as file:
        capture, cameras = str(file.attrs["capture"]), tuple(str(name) for name in file.attrs["cameras"])
        poses = ("frame", "w2c", "flags", "fits", "residual_px", "world_from_mm")
        centred = {name: file[name][()] for name in poses}
    with open_h5(subject_file, "mousefacelift cameras") as file:
        measures = ("frame", "time_s", "chunk", "hull_iou", "cut", "lengths_mm", "volume_mm3", "axis")
        subject = {name: file[name][()] for name in measures}
    frame = subject["frame"]
    row = np.searchsorted(frame, centred["frame"]).clip(max=len(frame) - 1)
    if not np.array_equal(frame[row], centred["frame"]):
        raise UserError(
            f"{cameras_file}: has frames that {subject_file} has not; delete it and run `mousefacelift normalize` again"
        )

    def of_all(values: np.ndarray, otherwise: float = 0) -> np.ndarray:
        """Values of the centred frames in their rows among all frames."""
        filled = np.full((len(frame), *values.shape[1:]), otherwise, values.dtype)
        filled[row] = values
        return filled

    lengths_mm, volume_mm3, axis = (subject[name][row] for name in ("lengths_mm", "volume_mm3", "axis"))
    shape = shape_descriptors(lengths_mm, volume_mm3, axis, centred["world_from_mm"])
    return Frames(
        capture=capture,
        cameras=cameras,
        frame=frame,
        time_s=subject["time_s"],
        chunk=subject["chunk"],
        centred=of_all(np.ones(len(row), bool)),
        w2c=centred["w2c"],
        flags=of_all(centred["flags"]),
        fits=of_all(centred["fits"]),
        located=of_all(np.isfinite(centred["residual_px"])),
        hull_iou=subject["hull_iou"],
        cut=subject["cut"],
        shape=of_all(shape, np.nan),
    )


def _worth_choosing(frames: Frames, checks: Checks, views: int) -> tuple[list[int], dict[str, float]]:
    """The cameras to choose views from, and of the others the share of the centred frames that each could be a view of."""
    usable = ~np.any([failed for _, failed in checks], axis=0)[frames.centred]
    among = usable_views(frames.cameras, usable, views)
    others = (v for v in range(len(frames.cameras)) if v not in among)
    return among, {frames.cameras[v]: round(float(usable[:, v].mean()), 4) for v in others}


def _judge(frames: Frames, checks: Checks, views: list[int]) -> list[Rejection | None]:
    """The rejection of each frame, by some of its views."""
    of_views = rejections([(reason, failed[:, views]) for reason, failed in checks], [frames.cameras[v] for v in views])
    nowhere = Rejection("mouse found in too few views")
    return [why if centred else nowhere for why, centred in zip(of_views, frames.centred, strict=True)]


def _split(
    time_s: Array, strata: NDArray[np.int64] | None, settings: Sample, split: str | None
) -> Sequence[str | None]:
    """The split of each chosen frame; None within a gap."""
    if split is not None or not len(time_s):
        return [split] * len(time_s)
    if strata is not None:
        return split_stratified(time_s, strata, settings.fractions, settings.gap_s, settings.rounds)
    return split_blocks(time_s, settings.fractions, settings.gap_s, settings.rounds)


def _commonest(why: list[Rejection | None]) -> str:
    """Why frames were rejected, the commonest first, and for which cameras; with its count if not for it every time."""
    reasons = Counter(each.reason for each in why if each)
    parts = []
    for reason, count in reasons.most_common():
        blamed = Counter(name for each in why if each and each.reason == reason for name in each.cameras).most_common()
        cameras = [name if times == count else f"{name} ({times})" for name, times in blamed]
        parts.append(f"{count} x {Rejection(reason, tuple(cameras))}")
    return "; ".join(parts)


def _advice(settings: Sample) -> list[str]:
    """What may be changed where good frames are there and a split, or all, got none."""
    changes = {
        f"lower sample.gap_s (now {settings.gap_s:g} s)": settings.gap_s > 0,
        f"lower sample.rounds (now {settings.rounds})": settings.rounds > 1,
        f"raise sample.frames (now {settings.frames})": settings.frames is not None,
    }
    return [change for change, helps in changes.items() if helps]


def _warnings(samples: dict[str, int], settings: Sample) -> list[str]:
    """Of a capture that is divided in time: the splits that it was to have and has no sample of."""
    empty = [name for name in SPLITS if getattr(settings.fractions, name) > 0 and not samples[name]]
    if not empty or not any(samples.values()):
        return []
    advice = " or ".join([*_advice(settings), "set the fraction to 0 (sample.fractions)"])
    return [f"no sample is for {' and '.join(empty)}: {advice}"]


def _summary(frames: Frames, why: list[Rejection | None], outcome: np.ndarray) -> dict[str, Any]:
    """Counts of frames. One that was rejected for several cameras counts for each of them."""
    rejections = [reason for reason in why if reason]
    return {
        "capture": frames.capture,
        "candidates": len(why),
        "accepted": len(why) - len(rejections),
        "samples": {name: int((outcome == name).sum()) for name in SPLITS},
        "rejected": {
            "total": len(rejections),
            "by_reason": dict(Counter(each.reason for each in rejections).most_common()),
            "by_camera": {name: sum(name in each.cameras for each in rejections) for name in frames.cameras},
        },
    }


def _strata(shape: Array, strata: NDArray[np.int64], outcome: np.ndarray) -> list[dict[str, Any]]:
    """Of each pose stratum of the chosen frames, rarest first: its median shape, and its frames in each split.

    shape [N, 6], strata [N], outcome [N]: of the chosen frames.
    """
    described = []
    for stratum in sorted(set(strata.tolist()), key=lambda stratum: (strata == stratum).sum()):
        members = strata == stratum
        known = shape[members & np.isfinite(shape).all(axis=1)]
        median = np.median(known, axis=0).round(3).tolist() if len(known) else [None] * len(SHAPE)
        counts = {name: int((outcome[members] == name).sum()) for name in OUTCOMES if name != "rejected"}
        described.append({"frames": int(members.sum()), **dict(zip(SHAPE, median, strict=True)), **counts})
    return described


def _print(summary: dict[str, Any]) -> None:
    """The totals as tables on stderr, which is the job's log."""
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
            "with a mouse, in less than half as many as the best camera",
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


def _plot(path: Path, summary: dict[str, Any], time_s: Array, outcome: np.ndarray) -> None:
    """Why frames were left out, and what became of them in the course of the capture."""
    from matplotlib.figure import Figure

    reasons = summary["rejected"]["by_reason"]
    figure = Figure(figsize=(10, 3.2 + 0.45 * max(len(reasons), 1)), layout="constrained")
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
    # Runs of frames with one outcome, each frame until the next: few rectangles, however long the capture.
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
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def read_samples(path: Path) -> list[dict[str, str]]:
    """Rows of samples.tsv. Raises UserError, naming the line, if the file is missing or not such a table."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is written by `mousefacelift sample`") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from None
    table = list(csv.reader(lines, delimiter="\t"))
    if not table or tuple(table[0]) != SAMPLE_COLUMNS:
        raise UserError(f"{path}: expected the columns {', '.join(SAMPLE_COLUMNS)}")
    rows = []
    for number, cells in enumerate(table[1:], 2):
        row = dict(zip(SAMPLE_COLUMNS, cells, strict=False))
        if (
            len(cells) != len(SAMPLE_COLUMNS)
            or not (row["frame"] + row["chunk"]).isdecimal()
            or row["split"] not in SPLITS
        ):
            raise UserError(
                f"{path}, line {number}: not a row as `mousefacelift sample` writes it; delete the file and rerun"
            )
        rows.append(row)
    return rows


def _write_tsv(path: Path, columns: tuple[str, ...], rows: Sequence[Sequence[object]]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
