"""Stage 2, cameras: the calibrated rig, the mouse's 3D centre and hull in each frame, and whether the cameras agree."""

import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import combinations, starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, open_h5, write_json
from mousefacelift.base.progress import track
from mousefacelift.config.cameras import Cameras
from mousefacelift.geometry.camera import Array, Rig, pixel_rays, project, triangulate
from mousefacelift.geometry.hull import SURFACE_POINTS, THIN_POINTS, outline_radius, visual_hull
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.geometry.synchrony import OverTime, Shift, estimate_shifts, residual_over_time
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.recording import read_capture_rig
from mousefacelift.rigs.formats.opencv_json import rig_to_json
from mousefacelift.shards.images import decode_crop

# The time of the cameras is judged on so many stretches of so many candidate frames: enough, and soon done.
STRETCHES, STRETCH_FRAMES = 10, 400
# From a mouse pup to a large rat with its tail.
SMALLEST_MM, LARGEST_MM = 10.0, 600.0
# The hull of the other cameras is made for so many frames.
LEAVE_ONE_OUT_FRAMES = 100


def cameras(capture: Capture, chunks: list[Path], output: Path, settings: Cameras, threads: int = 1) -> None:
    """Write rig.json, subject.h5, qc.json and qc.png to a folder, from a capture's calibration and its centred chunks.

    subject.h5: frame [N], time_s [N], chunk [N]; center_mm [N, 3] the visual hull's centroid (NaN without enough
    silhouettes); triangulated_mm [N, 3] from the silhouettes' centres of mass alone, where the hull is looked for, and
    residual_px [N, V] how far these lie from it in the raw frame; outline_px [N, V, S, 2] corners of a polygon around each
    silhouette; unit rays in the camera frame through them, outline_rays [N, V, S, 3], and through the silhouettes' centres of
    mass, center_rays [N, V, 3]; flags (those of center, and LARGE) and area_px; of the hull, see hull.Hull, volume_mm3 [N],
    lengths_mm [N, 3], axis [N, 3], hull_iou and cut [N, V], surface_mm [N, K, 3] and thin_mm [N, K, 4], the last two in
    float32 with NaN behind the last point.

    Raises UserError if a calibration is damaged, a camera contradicts the others in place, or in time.
    """
    data = _read_chunks(chunks)
    rig = read_capture_rig(capture)

    found = (data["flags"] & Flag.EMPTY) == 0
    rays = np.stack([pixel_rays(data["center_px"][:, v], camera) @ camera.R for v, camera in enumerate(rig)], axis=1)
    use = found & np.isfinite(rays).all(axis=-1)
    # A silhouette cut off by the frame's edge has its centre of mass in the wrong place: use it only if there are too few.
    whole = use & ((data["flags"] & Flag.CLIPPED) == 0)
    enough = whole.sum(axis=1, keepdims=True) >= settings.min_views
    use = (whole & enough) | (use & ~enough)
    triangulated_mm, residual_px = locate(rig, data["center_px"], rays, use, settings.min_views)
    _check_agreement(capture, rig, data["center_px"], rays, use, residual_px, settings)
    data["flags"] |= np.where(
        oversized(rig, triangulated_mm, data["area_px"], settings.max_area_ratio), Flag.LARGE, 0
    ).astype(data["flags"].dtype)
    outline_px = surrounding_polygon(data["support_px"])
    outline_rays = np.stack([pixel_rays(outline_px[:, v], camera) for v, camera in enumerate(rig)], axis=1)
    radius_mm = outline_radius(rig, triangulated_mm, outline_rays)
    _check_unit(capture, radius_mm)
    hulls = _hulls(chunks, rig, triangulated_mm, radius_mm, found, settings, threads)
    # The hull's centroid is nearer to the mouse's: on the demo 0.65 mm from it (median), the triangulated centre 1.2 mm.
    center_mm = np.where(np.isfinite(hulls["centroid_mm"]), hulls["centroid_mm"], triangulated_mm)
    stretches = _stretches(len(data["frame"]))
    tracks = data["center_px"][stretches], data["frame"][stretches], rig, use[stretches]
    shifts = estimate_shifts(*tracks, settings.max_shift_search)
    course = residual_over_time(*tracks, max_shift_frames=settings.max_shift_search)
    report = _report(capture, data, residual_px, hulls, shifts, course)
    _print(report)
    problems = _problems(capture, report, settings)
    # Of a failed job Snakemake deletes the outputs; what shows the reason must stay.
    failed = output / "qc-failed.json", output / "qc-failed.png"
    for path in failed:
        path.unlink(missing_ok=True)
    if problems:
        write_json(failed[0], report)
        _plot(failed[1], capture, data["time_s"], residual_px, hulls["hull_iou"])
        raise UserError(f"capture {capture.name}: " + "\n  ".join([*problems, f"see {failed[1]} and {failed[0].name}"]))

    write_json(output / "rig.json", rig_to_json(rig))
    with atomic(output / "subject.h5") as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(
            stage="cameras", version=STAGE_VERSIONS["cameras"], capture=capture.name, cameras=list(capture.cameras)
        )
        for name in ("frame", "time_s", "chunk", "flags", "area_px", "sharpness"):
            file[name] = data[name]
        file["center_mm"] = center_mm
        file["triangulated_mm"] = triangulated_mm
        file["residual_px"] = residual_px
        file["center_rays"] = np.stack([rays[:, v] @ camera.R.T for v, camera in enumerate(rig)], axis=1)
        file["outline_px"] = outline_px
        file["outline_rays"] = outline_rays
        for name in ("volume_mm3", "lengths_mm", "axis", "hull_iou", "cut", "surface_mm", "thin_mm"):
            file[name] = hulls[name]
    write_json(output / "qc.json", report)
    _plot(output / "qc.png", capture, data["time_s"], residual_px, hulls["hull_iou"])


def _check_unit(capture: Capture, radius_mm: Array) -> None:
    known = radius_mm[np.isfinite(radius_mm)]
    if len(known) and not SMALLEST_MM <= (typical := float(np.median(known))) <= LARGEST_MM:
        raise UserError(
            f"capture {capture.name}: the animal would reach {typical:.3g} mm from its centre: is the calibration in "
            f"{capture.unit} (the table's column 'unit')? {SMALLEST_MM:g} to {LARGEST_MM:g} mm are plausible"
        )


def _read_chunks(chunks: list[Path]) -> dict[str, np.ndarray]:
    fields: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(chunks):
        with open_h5(path, "mousefacelift center") as file:
            for name in ("frame", "time_s", "center_px", "area_px", "support_px", "flags", "sharpness"):
                fields.setdefault(name, []).append(file[name][()])
            fields.setdefault("chunk", []).append(np.full(len(file["frame"]), number))
    return {name: np.concatenate(parts) for name, parts in fields.items()}


def _stretches(count: int) -> NDArray[np.int64]:
    """Indices of STRETCHES evenly spaced runs of STRETCH_FRAMES items; all where there are no more."""
    if count <= STRETCHES * STRETCH_FRAMES:
        return np.arange(count)
    begins = np.linspace(0, count - STRETCH_FRAMES, STRETCHES).astype(int)
    return (begins[:, None] + np.arange(STRETCH_FRAMES)).ravel()


def surrounding_polygon(support_px: Array) -> Array:
    """Corners [..., S, 2] of the polygon of tangents around a silhouette, from its outermost points [..., S, 2].

    The outermost points are those in S directions at equal angles, as `center` finds them. Tangents of neighbouring
    directions meet in a corner, so that the whole silhouette lies inside, also what stands out between two of the points.
    """
    count = support_px.shape[-2]
    angle = np.arange(count) * 2 * np.pi / count
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    along = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    reach = (support_px * direction).sum(axis=-1)
    step = 2 * np.pi / count
    to_corner = (np.roll(reach, -1, axis=-1) - reach * np.cos(step)) / np.sin(step)
    return reach[..., None] * direction + to_corner[..., None] * along


def oversized(rig: Rig, center_mm: Array, area_px: NDArray[np.int64], ratio: float) -> NDArray[np.bool_]:
    """Which silhouettes [N, V] are implausibly large: another animal that touches the mouse, a hand, a wrong mask.

    Their area in mm^2, at the mouse's distance, is more than `ratio` times the camera's median.
    """
    large = np.zeros(area_px.shape, bool)
    for v, camera in enumerate(rig):
        depth = center_mm @ camera.R[2] + camera.t[2]
        area = np.where(area_px[:, v] > 0, area_px[:, v] * depth**2 / abs(np.linalg.det(camera.K)), np.nan)
        if np.isfinite(area).any():
            with np.errstate(invalid="ignore"):
                large[:, v] = area > ratio * np.nanmedian(area)
    return large


def _hulls(
    chunks: list[Path],
    rig: Rig,
    center_mm: Array,
    radius_mm: Array,
    found: NDArray[np.bool_],
    settings: Cameras,
    threads: int,
) -> dict[str, Array]:
    """What subject.h5 holds of the hulls, and their centroid_mm [N, 3]; of some frames iou_others, iou_without [N, V]."""
    known = np.flatnonzero(np.isfinite(radius_mm))
    leave_one_out = np.zeros(len(radius_mm), bool)
    leave_one_out[known[evenly_spaced(len(known), LEAVE_ONE_OUT_FRAMES)]] = True
    jobs, begin = [], 0
    for path in chunks:
        with open_h5(path, "mousefacelift center") as file:
            rows = slice(begin, begin := begin + len(file["frame"]))
        jobs.append((path, rig, center_mm[rows], radius_mm[rows], found[rows], leave_one_out[rows], settings.voxel_mm))
    done = track(len(jobs), "cameras: hulls of chunks")
    parts = []
    # Processes, because threads wait for each other here: two took as long as one.
    workers = min(threads, len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool:
        for part in pool.map(_hulls_of_chunk, *zip(*jobs, strict=True)) if pool else starmap(_hulls_of_chunk, jobs):
            parts.append(part)
            done()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _hulls_of_chunk(
    path: Path,
    rig: Rig,
    center_mm: Array,
    radius_mm: Array,
    found: NDArray[np.bool_],
    leave_one_out: NDArray[np.bool_],
    voxel_mm: float,
) -> dict[str, Array]:
    cv2.setNumThreads(1)
    count, views = found.shape
    result = {"volume_mm3": np.zeros(count)}
    result |= {name: np.full((count, 3), np.nan) for name in ("centroid_mm", "lengths_mm", "axis")}
    result |= {name: np.full((count, views), np.nan) for name in ("hull_iou", "cut", "iou_others", "iou_without")}
    result["surface_mm"] = np.full((count, SURFACE_POINTS, 3), np.nan, np.float32)
    result["thin_mm"] = np.full((count, THIN_POINTS, 4), np.nan, np.float32)
    with open_h5(path, "mousefacelift center") as file:
        frame, window, stored = file["frame"][()], file["window"][()], file["crop_zstd"]
        for n in np.flatnonzero(np.isfinite(radius_mm)):
            silhouettes = [
                (decode_crop(crop, w[2:], f"{path}, frame {frame[n]}, camera {camera.name}")[..., 3], w)
                if there
                else None
                for crop, w, there, camera in zip(stored[n], window[n], found[n], rig, strict=True)
            ]
            hull = visual_hull(
                silhouettes, rig, center_mm[n], float(radius_mm[n]), voxel_mm, leave_one_out=bool(leave_one_out[n])
            )
            result["volume_mm3"][n], result["lengths_mm"][n] = hull.volume_mm3, hull.lengths_mm
            result["centroid_mm"][n], result["axis"][n] = hull.centroid_mm, hull.axes[0]
            result["hull_iou"][n], result["cut"][n] = hull.iou, hull.cut
            result["surface_mm"][n, : len(hull.surface_mm)] = hull.surface_mm
            result["thin_mm"][n, : len(hull.thin_mm)] = hull.thin_mm
            if hull.iou_others is not None and hull.iou_without is not None:
                result["iou_others"][n], result["iou_without"][n] = hull.iou_others, hull.iou_without
    return result


def _report(
    capture: Capture,
    data: dict[str, np.ndarray],
    residual_px: Array,
    hulls: dict[str, Array],
    shifts: tuple[Shift, ...],
    course: OverTime,
) -> dict[str, Any]:
    """qc.json: what was found of each camera. Values that could not be measured are null."""

    def number(value: float) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    def mean(values: Array) -> float | None:
        return number(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else None

    def quantile(values: Array, q: float) -> float | None:
        return number(np.quantile(values[np.isfinite(values)], q)) if np.isfinite(values).any() else None

    rows = []
    for v, (name, shift) in enumerate(zip(capture.cameras, shifts, strict=True)):
        flags = data["flags"][:, v]
        rows.append(
            {
                "camera": name,
                "frames_with": {flag.name.lower(): int(((flags & flag) > 0).sum()) for flag in Flag if flag.name},
                "residual_px": {"median": quantile(residual_px[:, v], 0.5), "p95": quantile(residual_px[:, v], 0.95)},
                "hull_iou": mean(hulls["hull_iou"][:, v]),
                "hull_of_others_iou": mean(hulls["iou_others"][:, v]),
                "others_iou_without_it": mean(hulls["iou_without"][:, v]),
                "late_frames": number(shift.shift_frames),
                "late_uncertainty_frames": number(shift.uncertainty_frames),
                "late": shift.significant,
                "residual_px_against_others": number(shift.residual_px),
                "residual_px_with_its_time_corrected": number(shift.residual_px_shifted),
                "drift_frames": number(course.drift_frames[v]),
                "drift_uncertainty_frames": number(course.uncertainty_frames[v]),
                "drifts": bool(course.drifts[v]),
                "residual_px_over_time": [number(value) for value in course.residual_px[:, v]],
            }
        )
    return {
        "capture": capture.name,
        "frames": len(data["frame"]),
        "frames_located": int(np.isfinite(hulls["axis"][:, 0]).sum()),
        "hull_volume_mm3": quantile(hulls["volume_mm3"][hulls["volume_mm3"] > 0], 0.5),
        "time_bins": [number(frame) for frame in course.edge],
        "cameras": rows,
    }


def _print(report: dict[str, Any]) -> None:
    """The report as a table on stderr, which is the job's log."""
    from rich.console import Console
    from rich.table import Table

    def text(value: float | None, digits: int = 1) -> str:
        return "unknown" if value is None else f"{value:.{digits}f}"

    table = Table("camera", "no silhouette", "clipped", "blobs", "large", "residual px, median and p95", "hull IoU",
                  "late by, frames", "drift, frames", title=f"capture {report['capture']}: {report['frames']} frames")  # fmt: skip
    for row in report["cameras"]:
        counts, residual = row["frames_with"], row["residual_px"]
        late = text(row["late_frames"])
        if row["late_frames"] is not None:
            late += f" ± {text(row['late_uncertainty_frames'])}"
        table.add_row(
            row["camera"], str(counts["empty"]), str(counts["clipped"]), str(counts["several_blobs"]), str(counts["large"]),
            f"{text(residual['median'])}, {text(residual['p95'])}", text(row["hull_iou"], 2),
            late + " (!)" * row["late"], text(row["drift_frames"]) + " (!)" * row["drifts"],
        )  # fmt: skip
    Console(stderr=True, width=140).print(table)
    if unchecked := [row["camera"] for row in report["cameras"] if row["late_frames"] is None]:
        print(
            f"whether they are synchronous could not be told of camera {', '.join(unchecked)}: the mouse moves too much "
            "between two candidate frames (center.stride), or too little",
            file=sys.stderr,
        )


def _problems(capture: Capture, report: dict[str, Any], settings: Cameras) -> list[str]:
    """What must stop the run: cameras out of step, and hulls that do not fill their silhouettes."""
    problems = []
    for row, sync in zip(report["cameras"], capture.sync, strict=True):
        late, name = row["late_frames"], row["camera"]
        if row["late"] and abs(late) >= settings.max_shift_frames:
            total = sync + round(late)
            problems.append(
                f"camera {name} is {'late' if late > 0 else 'early'} by {abs(late):.1f} ± "
                f"{row['late_uncertainty_frames']:.1f} frames against the others: check the recording, or let the table's column "
                f"'sync' say {name}={total}{f' instead of {name}={sync}' if sync else ''}: frame k of the capture is then frame "
                f"k{total:+d} of this video. At most {settings.max_shift_frames:g} are allowed (cameras.max_shift_frames)"
            )
        if row["drifts"] and abs(row["drift_frames"]) >= settings.max_shift_frames:
            problems.append(
                f"camera {name} loses step by {abs(row['drift_frames']):.1f} frames in the course of the capture: it lost frames, or "
                "its clock differs. Record at one trigger, or, if its timestamps are right, set center.timing: timestamp "
                "(cameras.max_shift_frames)"
            )
    ious = {row["camera"]: row["hull_iou"] for row in report["cameras"] if row["hull_iou"] is not None}
    low = [name for name, iou in ious.items() if iou < settings.min_hull_iou]
    if low:
        without = {
            row["camera"]: row["others_iou_without_it"]
            for row in report["cameras"]
            if row["others_iou_without_it"] is not None
        }
        suspect = max(without, key=lambda name: without[name], default=None)
        suspect = suspect if suspect and without[suspect] >= settings.min_hull_iou else None
        problems.append(
            "the visual hull fills its silhouettes too little in "
            + ", ".join(f"camera {name} (IoU {ious[name]:.2f})" for name in low)
            + (
                f". Without camera {suspect} the others agree best (IoU {without[suspect]:.2f}): look at its calibration and its "
                "silhouettes first"
                if suspect
                else ". No camera alone is to blame: look at the silhouettes (preview.png), the unit of the calibration, "
                "and cameras.voxel_mm"
            )
            + f"; at least {settings.min_hull_iou:g} is asked for (cameras.min_hull_iou)"
        )
    return problems


def _plot(path: Path, capture: Capture, time_s: Array, residual_px: Array, hull_iou: Array) -> None:
    """Residual and hull IoU of each camera in the course of the capture, medians of up to 200 bins."""
    from matplotlib.figure import Figure

    bins = min(len(time_s), 200)
    number = np.arange(len(time_s)) * bins // len(time_s)

    def medians(values: Array) -> Array:
        parts = (values[number == b] for b in range(bins))
        return np.array([np.median(p[np.isfinite(p)]) if np.isfinite(p).any() else np.nan for p in parts])

    time = np.array([time_s[number == b].mean() for b in range(bins)])
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for v, name in enumerate(capture.cameras):
        above.plot(time, medians(residual_px[:, v]), lw=1, label=name)
        below.plot(time, medians(hull_iou[:, v]), lw=1)
    above.set(
        ylabel="silhouette's centre from\nreprojected centre, raw px", title=f"Agreement of the cameras: {capture.name}"
    )
    above.set_ylim(bottom=0)
    above.legend(title="camera", loc="upper left", bbox_to_anchor=(1, 1))
    below.set(xlabel="time, s", ylabel="IoU of hull and silhouette", ylim=(0, 1))
    for axis in (above, below):
        axis.grid(alpha=0.3)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def locate(rig: Rig, center_px: Array, rays: Array, use: NDArray[np.bool_], min_views: int) -> tuple[Array, Array]:
    """The mouse's centre in each frame, and each silhouette's distance from it.

    center_px [N, V, 2] silhouettes' centres in the raw frames, NaN without one; rays [N, V, 3] through them, in the world;
    use [N, V] which to triangulate from. Returns centres [N, 3] in mm, NaN where fewer than min_views are usable, and
    residuals [N, V] in raw px: NaN without silhouette or centre, inf where the centre would lie behind the camera or
    beyond its calibrated field.
    """
    center_mm = triangulate(np.stack([c.center for c in rig]), rays, use)
    center_mm[use.sum(axis=1) < min_views] = np.nan
    pixels = np.stack([project(center_mm, camera)[0] for camera in rig], axis=1)
    distance = np.nan_to_num(np.linalg.norm(pixels - center_px, axis=-1), nan=np.inf)
    measured = np.isfinite(center_px).all(axis=-1) & np.isfinite(center_mm).all(axis=-1, keepdims=True)
    return center_mm, np.where(measured, distance, np.nan)


def _check_agreement(
    capture: Capture,
    rig: Rig,
    center_px: Array,
    rays: Array,
    use: NDArray[np.bool_],
    residual_px: Array,
    settings: Cameras,
) -> None:
    if np.isnan(residual_px).all():
        raise UserError(
            f"capture {capture.name}: no frame has a mouse in {settings.min_views} views (cameras.min_views): "
            "look at the silhouettes and at the order of cameras and calibration files"
        )
    medians = _medians(residual_px)
    if medians.max() <= settings.max_residual_px:
        return
    # One wrong camera drags the centre away from all. Two cameras place the mouse by themselves: those of the pair with
    # which most cameras agree are right, and who does not agree with them is wrong.
    agreement = []
    for pair in combinations(range(len(rig)), 2):
        alone = use & np.isin(np.arange(len(rig)), pair)
        residuals = _medians(locate(rig, center_px, rays, alone, 2)[1])
        agrees = residuals <= settings.max_residual_px
        agreement.append((int(agrees.sum()), -float(residuals[agrees].sum()), agrees))
    _, _, agrees = max(agreement, key=lambda item: item[:2])
    names = [name for name, right in zip(capture.cameras, agrees, strict=True) if not right]
    listed = ", ".join(
        f"{name}: {'behind the camera or beyond its field' if np.isinf(value) else f'{value:.1f}'}"
        for name, value in zip(capture.cameras, medians, strict=True)
    )
    contradiction = (
        f"camera{'s' * (len(names) > 1)} {', '.join(names)} contradict{'s' * (len(names) == 1)} the others"
        if 0 < len(names) <= len(rig) - 3
        else "the cameras contradict each other"
    )
    raise UserError(
        f"capture {capture.name}: {contradiction}: silhouettes' centres lie too far from where the cameras see the mouse. "
        f"Check calibration and videos. Median residuals of all cameras together, px: {listed}; at most "
        f"{settings.max_residual_px:g} are allowed (cameras.max_residual_px)"
    )


def _medians(residual_px: Array) -> Array:
    """Median of each camera's residuals [V]; 0 for a camera that never sees the mouse, which contradicts nobody."""
    columns = (column[~np.isnan(column)] for column in residual_px.T)
    return np.array([np.median(column) if len(column) else 0.0 for column in columns])
