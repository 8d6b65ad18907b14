"""Stage 4, sample: which frames become samples, in which split, with the views in which order; and why the rest do not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import Flag
from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.samples import Rejected, RejectedRow, SampleRow, Samples
from mousefacelift.artifacts.subject import SubjectMeasures
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
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
from mousefacelift.stages.reports import OUTCOMES, plot_sampling, print_sampling


@dataclass(frozen=True)
class Rejection:
    """Why a frame is no sample: the reason, and the cameras whose views gave it."""

    reason: str
    cameras: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}: camera {', '.join(self.cameras)}" if self.cameras else self.reason


@dataclass(frozen=True)
class Frames:
    """What earlier stages say about a capture's N candidate frames in its V cameras.

    frame, time_s, chunk: [N], as in subject.h5.
    centred: [N], whether the mouse's centre is known; without it the following mean nothing.
    w2c: [C, V, 4, 4] virtual cameras of the C centred frames alone.
    flags, fits, located, hull_iou, cut: [N, V], see `view_checks`.
    shape: [N, 6], see `selection.shape_descriptors`.
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


@dataclass(frozen=True)
class Selection:
    """What becomes of a capture's N frames.

    views: the cameras of every sample, in the order of its views.
    min_angle_deg: the smallest angle between two of them, as seen from the mouse.
    left_out: for each camera that views were not chosen from, the share of the centred frames it could be a view of.
    why: [N], why a frame is no sample; None if it is one.
    outcome: [N], one of OUTCOMES.
    chosen: [C] rows of the frames that were split, ascending.
    strata: [C] pose stratum of each of these; None if they were not stratified.
    """

    views: tuple[str, ...]
    min_angle_deg: float
    left_out: dict[str, float]
    why: list[Rejection | None]
    outcome: np.ndarray
    chosen: NDArray[np.int64]
    strata: NDArray[np.int64] | None


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
    """Each reason why a frame cannot be a sample, the gravest first, and the views that give it.

    Args:
        flags: [N, V] uint8, sums of `Flag`.
        fits: [N, V] whether the view holds the silhouette, or the body (`normalize.fit`).
        located: [N, V] whether the mouse's 3D centre lies in front of the camera and within its calibrated field.
        iou: [N, V] overlap of silhouette and visual hull; NaN where it was not measured.
        cut: [N, V] share of the mouse's volume beyond the video's edge; NaN where it was not measured.
        settings: max_cut and min_hull_iou are used.

    Returns:
        Pairs of a reason and [N, V] bool.
    """
    return [
        ("no frame (missing, or cannot be decoded)", (flags & Flag.MISSING) > 0),
        ("no silhouette", (flags & Flag.EMPTY) > 0),
        ("silhouette is another animal's", (flags & Flag.EXCHANGED) > 0),
        ("hidden in part by another animal", (flags & Flag.OCCLUDED) > 0),
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
        ("mouse does not fit the normalised view (normalize.fit)", ~fits),
    ]


def rejections(checks: Checks, cameras: Sequence[str]) -> list[Rejection | None]:
    """Why each of N frames cannot be a sample; None if it can. checks: of these cameras' views alone."""
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
    # Snakemake deletes a failed job's outputs, so the table that explains the failure has another name.
    failed = output / "rejected-failed.tsv"
    failed.unlink(missing_ok=True)
    _check_split(settings, split)
    frames = _read(cameras_file, subject_file)
    check_views(frames.capture, frames.cameras, settings.views)
    selection = select(frames, settings, split)
    summary = _summary(frames, selection, settings, split)
    print_sampling(summary)
    rejected = _rejected(frames, selection)
    if not summary["accepted"]:
        rejected.write(failed)
        raise UserError(
            f"capture {frames.capture}: no frame can become a sample ({failed}): {_why_none(selection, settings)}"
        )
    rejected.write(output / "rejected.tsv")
    _samples(frames, selection).write(output / "samples.tsv")
    write_json(output / "summary.json", summary)
    plot_sampling(output / "summary.png", summary, frames.time_s, selection.outcome)


def _check_split(settings: Sample, split: str | None) -> None:
    if (split is None) != (settings.split == "block"):
        raise UserError(
            f"sample.split is {settings.split}: "
            + ("a capture's split is not given" if split else "the capture's split must be given")
            + " (--split)"
        )


def _read(cameras_file: Path, subject_file: Path) -> Frames:
    poses = Poses.read(cameras_file)
    subject = SubjectMeasures.read(subject_file)
    rows = poses.rows_in(subject, cameras_file, subject_file)

    def of_all(values: np.ndarray, otherwise: float = 0) -> np.ndarray:
        """Values of the centred frames in their rows among all frames."""
        filled = np.full((len(subject.frame), *values.shape[1:]), otherwise, values.dtype)
        filled[rows] = values
        return filled

    centred = subject.at(rows)
    shape = shape_descriptors(centred.lengths_mm, centred.volume_mm3, centred.axis, poses.world_from_mm)
    return Frames(
        capture=poses.capture,
        cameras=poses.cameras,
        frame=subject.frame,
        time_s=subject.time_s,
        chunk=subject.chunk,
        centred=of_all(np.ones(len(rows), bool)),
        w2c=poses.w2c,
        flags=of_all(poses.flags),
        fits=of_all(poses.fits),
        located=of_all(np.isfinite(poses.residual_px)),
        hull_iou=subject.hull_iou,
        cut=subject.cut,
        shape=of_all(shape, np.nan),
    )


def select(frames: Frames, settings: Sample, split: str | None = None) -> Selection:
    """Choose views for the capture, judge its frames in them, choose among the good ones and split these.

    split: that of all of them; None for blocks in time.
    """
    # Views come first: a camera that is seldom of use must not reject the frames that the others see well.
    checks = view_checks(frames.flags, frames.fits, frames.located, frames.hull_iou, frames.cut, settings)
    among, left_out = _worth_choosing(frames, checks, settings.views)
    spread, min_angle_deg = choose_views([frames.cameras[v] for v in among], frames.w2c[:, among], settings.views)
    order = [among[v] for v in spread]

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

    # The split comes last: its gaps and shares are of the frames that are really used.
    strata = pose_strata(pose[picked]) if settings.stratify and len(chosen) else None
    splits = _split(frames.time_s[chosen], strata, settings, split)
    for n, name in zip(chosen, splits, strict=True):
        if name is None:
            why[n] = Rejection(f"within the gap of {settings.gap_s:g} s between two splits (sample.gap_s)")
    outcome = np.full(len(frames.frame), "rejected", object)
    outcome[good] = "left out"
    outcome[chosen] = [name or "left out" for name in splits]
    views = tuple(frames.cameras[v] for v in order)
    return Selection(views, min_angle_deg, left_out, why, outcome, chosen, strata)


def _rejected(frames: Frames, selection: Selection) -> Rejected:
    return Rejected(
        tuple(
            RejectedRow(frames.capture, int(frames.frame[n]), float(frames.time_s[n]), str(reason))
            for n, reason in enumerate(selection.why)
            if reason
        )
    )


def _samples(frames: Frames, selection: Selection) -> Samples:
    return Samples(
        tuple(
            SampleRow(
                key=f"{frames.capture}-{frames.frame[n]:06d}",
                capture=frames.capture,
                frame=int(frames.frame[n]),
                time_s=float(frames.time_s[n]),
                chunk=int(frames.chunk[n]),
                split=selection.outcome[n],
                views=selection.views,
            )
            for n in selection.chosen
            if selection.outcome[n] in SPLITS
        )
    )


def _worth_choosing(frames: Frames, checks: Checks, views: int) -> tuple[list[int], dict[str, float]]:
    """The cameras to choose views from; and for each other camera the share of the centred frames it could be a view of."""
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


def _why_none(selection: Selection, settings: Sample) -> str:
    """Why no frame became a sample; and what to change, if some frames were good."""
    good = (selection.outcome != "rejected").any()
    return _commonest(selection.why) + (f": {' or '.join(_advice(settings))}" if good else "")


def _commonest(why: list[Rejection | None]) -> str:
    """Why frames were rejected, the commonest reason first, and for which cameras.

    A camera has its count behind it, unless it gave the reason every time.
    """
    reasons = Counter(each.reason for each in why if each)
    parts = []
    for reason, count in reasons.most_common():
        blamed = Counter(name for each in why if each and each.reason == reason for name in each.cameras).most_common()
        cameras = [name if times == count else f"{name} ({times})" for name, times in blamed]
        parts.append(f"{count} x {Rejection(reason, tuple(cameras))}")
    return "; ".join(parts)


def _advice(settings: Sample) -> list[str]:
    """What to change if there are good frames, but one split or all got none."""
    changes = {
        f"lower sample.gap_s (now {settings.gap_s:g} s)": settings.gap_s > 0,
        f"lower sample.rounds (now {settings.rounds})": settings.rounds > 1,
        f"raise sample.frames (now {settings.frames})": settings.frames is not None,
    }
    return [change for change, helps in changes.items() if helps]


def _warnings(samples: dict[str, int], settings: Sample) -> list[str]:
    """The splits that got no sample, although their fraction is above 0. For a capture that is divided in time."""
    empty = [name for name in SPLITS if getattr(settings.fractions, name) > 0 and not samples[name]]
    if not empty or not any(samples.values()):
        return []
    advice = " or ".join([*_advice(settings), "set the fraction to 0 (sample.fractions)"])
    return [f"no sample is for {' and '.join(empty)}: {advice}"]


def _summary(frames: Frames, selection: Selection, settings: Sample, split: str | None) -> dict[str, Any]:
    """summary.json: counts of frames. One that was rejected for several cameras counts for each of them."""
    rejections = [reason for reason in selection.why if reason]
    outcome, strata, chosen = selection.outcome, selection.strata, selection.chosen
    samples = {name: int((outcome == name).sum()) for name in SPLITS}
    summary = {
        "capture": frames.capture,
        "candidates": len(selection.why),
        "accepted": len(selection.why) - len(rejections),
        "samples": samples,
        "rejected": {
            "total": len(rejections),
            "by_reason": dict(Counter(each.reason for each in rejections).most_common()),
            "by_camera": {name: sum(name in each.cameras for each in rejections) for name in frames.cameras},
        },
        "views": list(selection.views),
        "min_angle_deg": round(selection.min_angle_deg, 3),
        "cameras_left_out": selection.left_out,
        "warnings": _warnings(samples, settings) if split is None else [],
    }
    if strata is not None:
        summary["strata"] = _strata(frames.shape[chosen], strata, outcome[chosen])
    return summary


def _strata(shape: Array, strata: NDArray[np.int64], outcome: np.ndarray) -> list[dict[str, Any]]:
    """Each pose stratum of the chosen frames, rarest first: its median shape, and its frames in each split.

    shape [C, 6], strata [C], outcome [C]: those of the chosen frames.
    """
    described = []
    for stratum in sorted(set(strata.tolist()), key=lambda stratum: (strata == stratum).sum()):
        members = strata == stratum
        known = shape[members & np.isfinite(shape).all(axis=1)]
        median = np.median(known, axis=0).round(3).tolist() if len(known) else [None] * len(SHAPE)
        counts = {name: int((outcome[members] == name).sum()) for name in OUTCOMES if name != "rejected"}
        described.append({"frames": int(members.sum()), **dict(zip(SHAPE, median, strict=True)), **counts})
    return described
