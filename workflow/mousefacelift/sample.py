"""Stage 4, sample: which frames become samples, in which split, with the views in which order; and why the rest do not."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mousefacelift.center import Flag
from mousefacelift.config import SPLITS, Sample, Split
from mousefacelift.errors import UserError
from mousefacelift.files import atomic, open_h5
from mousefacelift.geometry import Array, azimuth_elevation, inverse_rigid

SAMPLE_COLUMNS = ("key", "capture", "frame", "time_s", "chunk", "split", "views")
REJECTED_COLUMNS = ("capture", "frame", "time_s", "reason")


def view_order(w2c: Array) -> list[int]:
    """Views by azimuth about the subject, counter-clockwise from the first camera: the same for every sample.

    w2c: [N, V, 4, 4] of all frames of a capture; the cameras' mean directions over the frames decide.
    """
    azimuth, _ = azimuth_elevation(inverse_rigid(w2c)[..., :3, 3].mean(axis=0))
    return [int(v) for v in np.argsort((azimuth - azimuth[0] + 1e-6) % 360, kind="stable")]


def uniform(count: int, wanted: int | None) -> np.ndarray:
    """Indices of at most `wanted` of `count` items, evenly spread, first and last included."""
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int))


def split_blocks(time_s: Array, fractions: Split, gap_s: float, rounds: int = 1) -> list[str | None]:
    """Split of each frame: blocks of the capture's time in the order train, val, test, so often; None within a gap.

    time_s: [N] increasing. Every one of `rounds` equal stretches of time is divided by `fractions`. A gap of gap_s
    seconds is centred on each boundary between two blocks of different splits.
    """
    stretch = (time_s[-1] - time_s[0]) / rounds
    starts: list[float] = []
    names: list[str] = []
    for number in range(rounds):
        passed = 0.0
        for name in SPLITS:
            if getattr(fractions, name) > 0:
                starts.append(time_s[0] + (number + passed) * stretch)
                names.append(name)
            passed += getattr(fractions, name)
    block = np.searchsorted(starts, time_s, side="right") - 1
    borders = [start for start, before, after in zip(starts[1:], names, names[1:], strict=False) if before != after]
    in_gap = (np.abs(time_s[:, None] - np.array(borders)) < gap_s / 2).any(axis=1)
    return [None if gap else names[b] for b, gap in zip(block, in_gap, strict=True)]


def reject_reason(
    flags: np.ndarray, fits: np.ndarray, located: np.ndarray, iou: np.ndarray, cameras: list[str], settings: Sample
) -> str | None:
    """Why a frame cannot be a sample, naming the camera; None if it can.

    Of its views: flags [V]; fits [V], whether the silhouette lies inside the view; located [V], whether the mouse's 3D
    centre lies in front of the camera and within its calibrated field; iou [V], the overlap of silhouette and visual hull,
    NaN where it was not measured.
    """
    checks: list[tuple[str, np.ndarray]] = [
        ("no frame (missing, or cannot be decoded)", (flags & Flag.MISSING) > 0),
        ("no silhouette", (flags & Flag.EMPTY) > 0),
        ("several blobs", (flags & Flag.SEVERAL_BLOBS) > 0),
        ("silhouette far larger than the mouse", (flags & Flag.LARGE) > 0),
        ("unsharp", (flags & Flag.UNSHARP) > 0),
    ]
    if not settings.allow_clipped:
        checks.append(("clipped by the video's edge", (flags & Flag.CLIPPED) > 0))
    checks.append(("mouse's centre behind the camera or beyond its calibrated field", ~located))
    checks.append(
        (
            f"silhouette contradicts the other views (hull IoU below {settings.min_hull_iou:g})",
            iou < settings.min_hull_iou,
        )
    )
    checks.append(("silhouette does not fit the normalised view", ~fits))
    for reason, failed in checks:
        if failed.any():
            return f"{reason}: camera {', '.join(np.array(cameras)[failed])}"
    return None


def sample(
    cameras_file: Path, subject_file: Path, samples_output: Path, rejected_output: Path, settings: Sample
) -> None:
    """Write `sample/{capture}/samples.tsv` and `rejected.tsv`. Every candidate frame is in exactly one of them.

    Raises UserError if the capture has another number of cameras than `views`, or no frame can become a sample.
    """
    with open_h5(cameras_file, "mousefacelift normalize") as file:
        capture, cameras = str(file.attrs["capture"]), [str(c) for c in file.attrs["cameras"]]
        frame, time_s, chunk = file["frame"][()], file["time_s"][()], file["chunk"][()]
        flags, fits, w2c = file["flags"][()], file["fits"][()], file["w2c"][()]
        located = np.isfinite(file["residual_px"][()])
    with open_h5(subject_file, "mousefacelift cameras") as file:
        candidates, candidate_time, iou = file["frame"][()], file["time_s"][()], file["hull_iou"][()]
    if len(cameras) != settings.views:
        raise UserError(f"capture {capture}: has {len(cameras)} cameras; sample.views asks for {settings.views}")

    centred = {int(f): n for n, f in enumerate(frame)}
    reasons: dict[int, str] = {}
    for f, overlap in zip(candidates, iou, strict=True):
        n = centred.get(int(f))
        reason = (
            "mouse found in too few views"
            if n is None
            else reject_reason(flags[n], fits[n], located[n], overlap, cameras, settings)
        )
        if reason:
            reasons[int(f)] = reason

    def rejected() -> list[tuple[object, ...]]:
        rows = zip(candidates, candidate_time, strict=True)
        return [(capture, f, f"{t:.6f}", reasons[int(f)]) for f, t in rows if int(f) in reasons]

    good = np.array([n for n, f in enumerate(frame) if int(f) not in reasons], dtype=int)
    if not len(good):
        _write_tsv(rejected_output, REJECTED_COLUMNS, rejected())
        commonest = max(set(reasons.values()), key=list(reasons.values()).count)
        raise UserError(
            f"capture {capture}: no frame can become a sample ({rejected_output}); commonest reason: {commonest}"
        )
    chosen = good[uniform(len(good), settings.frames)]
    for n in np.setdiff1d(good, chosen):
        reasons[int(frame[n])] = f"not among the {len(chosen)} frames chosen (sample.frames)"
    splits = split_blocks(time_s[chosen], settings.fractions, settings.gap_s, settings.rounds)
    views = ",".join(cameras[v] for v in view_order(w2c))
    rows = []
    for n, split in zip(chosen, splits, strict=True):
        if split is None:
            reasons[int(frame[n])] = f"within the gap of {settings.gap_s:g} s between two splits (sample.gap_s)"
            continue
        rows.append((f"{capture}-{frame[n]:06d}", capture, frame[n], f"{time_s[n]:.6f}", chunk[n], split, views))
    _write_tsv(samples_output, SAMPLE_COLUMNS, rows)
    _write_tsv(rejected_output, REJECTED_COLUMNS, rejected())


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
