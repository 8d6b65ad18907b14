"""Stage 2, cameras: the calibrated rig, the mouse's 3D centre and hull in each frame, and whether the cameras agree."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import CenteredChunk, ChunkMeasures, Flag
from mousefacelift.artifacts.subject import Subject
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
from mousefacelift.config.cameras import Cameras
from mousefacelift.config.center import Center
from mousefacelift.geometry.agreement import (
    agreeing_cameras,
    camera_medians,
    locate,
    oversized,
    surrounding_polygon,
    usable_silhouettes,
)
from mousefacelift.geometry.camera import Array, Rig, pixel_rays
from mousefacelift.geometry.hull import outline_radius
from mousefacelift.geometry.synchrony import OverTime, Shift, estimate_shifts, residual_over_time
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.clocks import Timing
from mousefacelift.recordings.recording import read_capture_rig
from mousefacelift.rigs.formats.opencv_json import rig_to_json
from mousefacelift.stages.grades import Grade
from mousefacelift.stages.hulls import Hulls, carve_hulls
from mousefacelift.stages.quality import Mice, draw_worst, grade_silhouettes
from mousefacelift.stages.reports import agreement_problems, plot_agreement, print_agreement, print_grades
from mousefacelift.stages.siblings import Company, in_company, jumps_report, print_company

# Synchrony is judged on this many stretches of this many candidate frames, however long the capture is.
STRETCHES, STRETCH_FRAMES = 10, 400
# From a mouse pup to a large rat with its tail.
SMALLEST_MM, LARGEST_MM = 10.0, 600.0


@dataclass(frozen=True)
class Places:
    """N frames' silhouettes in space, and where they place the mouse by their centres of mass alone.

    found: [N, V] whether there is a silhouette.
    rays: [N, V, 3] through its centre of mass, in the calibration's world.
    use: [N, V] whether it is triangulated from.
    triangulated_mm: [N, 3] the mouse's centre, see `agreement.locate`.
    residual_px: [N, V] distance of the silhouette's centre from it in the raw frame.
    outline_px: [N, V, S, 2] polygon around the silhouette in the raw frame.
    outline_rays: [N, V, S, 3] through its corners, in the camera frame.
    """

    found: NDArray[np.bool_]
    rays: Array
    use: NDArray[np.bool_]
    triangulated_mm: Array
    residual_px: Array
    outline_px: Array
    outline_rays: Array


def cameras(
    capture: Capture, chunks: list[Path], output: Path, settings: Cameras, threads: int = 1, timing: Timing = "rate"
) -> None:
    """Write rig.json, subject.h5 (see `Subject`), qc.json and qc.png to a folder, from a capture's calibration and chunks.

    Besides, worst.png shows the worst frames of cameras whose silhouettes are not good, if there are any; `timing`, that
    of the section `center`, is for finding these in the videos.

    Raises UserError if the chunks are not the capture's, a calibration is damaged, or a camera contradicts the others in
    place or in time. Cameras out of step and hulls that fill their silhouettes too little are shown by qc-failed.json and
    qc-failed.png, which are then all that is written but worst.png.
    """
    measures, chunk = _read_chunks(capture, chunks, capture.name)
    siblings = [name for name in CenteredChunk.captures_in(chunks[0]) if name != capture.name]
    rig = read_capture_rig(capture)
    company = None
    if siblings:
        others = {name: _read_chunks(capture, chunks, name)[0] for name in siblings}
        company = in_company(rig, measures, others, settings)
        alone = measures.flags & ~np.uint8(Flag.OCCLUDED)
        measures = replace(measures, flags=alone | company.flags)

    places = _locate(rig, measures, settings, company)
    _check_agreement(capture, rig, measures, places, settings)
    large = oversized(rig, places.triangulated_mm, measures.area_px, settings.max_area_ratio)
    flags = measures.flags | np.where(large, Flag.LARGE, 0).astype(measures.flags.dtype)
    own_rays = np.where(places.found[..., None, None], places.outline_rays, np.nan)
    radius_mm = outline_radius(rig, places.triangulated_mm, own_rays)
    _check_unit(capture, radius_mm)
    radius_mm[_uncarved(measures, places, settings)] = np.nan
    hulls = carve_hulls(
        chunks, chunk, rig, measures, siblings, places.triangulated_mm, places.found, radius_mm, settings, threads
    )
    subject = _subject(capture, rig, measures, chunk, flags, places, hulls)

    shifts, course = _synchrony(rig, measures, places, settings)
    jumped = jumps_report(measures, company, subject.center_mm, subject.lengths_mm[:, 0])
    exchanged = [each.report(measures.frame) for each in company.exchanges] if company else []
    hidden = (measures.flags & Flag.OCCLUDED) > 0
    mice = Mice(capture.name, chunks, chunk, places.found & ~hidden, places.triangulated_mm, radius_mm)
    ious = hulls.hull_iou, hulls.iou_others, hulls.iou_without
    graded = grade_silhouettes(rig, measures, mice, hulls.thin_mm, ious, settings.voxel_mm)
    report = _report(subject, hulls, shifts, course, graded) | {"swaps": exchanged, "jumps": jumped}
    print_agreement(report)
    print_company(measures, company, jumped)
    if draw_worst(
        output / "worst.png",
        capture,
        rig,
        measures,
        mice,
        graded,
        hulls.hull_iou,
        settings.voxel_mm,
        Center(timing=timing),
    ):
        print_grades([report], f"see {output / 'worst.png'}")
    _check_report(capture, report, subject, output, settings)

    write_json(output / "rig.json", rig_to_json(rig))
    subject.write(output / "subject.h5")
    write_json(output / "qc.json", report)
    plot_agreement(output / "qc.png", subject)


def _read_chunks(capture: Capture, chunks: list[Path], name: str) -> tuple[ChunkMeasures, NDArray[np.int64]]:
    """What `center` measured in all chunks, and the number of each frame's chunk [N].

    name: the capture's, or that of another animal of its recording. Raises UserError if these are not the capture's chunks
    in their order.
    """
    parts = []
    for number, path in enumerate(chunks):
        part = ChunkMeasures.read(path, name)
        part.check_cameras(path, capture.cameras, "the captures table")
        part.check_chunk(path, number)
        parts.append(part)
    return ChunkMeasures.joined(parts), np.repeat(np.arange(len(parts)), [len(part.frame) for part in parts])


def _locate(rig: Rig, measures: ChunkMeasures, settings: Cameras, company: Company | None) -> Places:
    found = (measures.flags & Flag.EMPTY) == 0
    if company:
        found &= ~company.foreign
    # What another animal hides in part misleads as what the frame's edge cuts off.
    clipped = (measures.flags & (Flag.CLIPPED | Flag.OCCLUDED)) != 0
    rays = np.stack([pixel_rays(measures.center_px[:, v], camera) @ camera.R for v, camera in enumerate(rig)], axis=1)
    use = usable_silhouettes(found, clipped, rays, settings.min_views)
    triangulated_mm, residual_px = locate(rig, measures.center_px, rays, use, settings.min_views)
    if company:
        residual_px[company.foreign] = np.nan
    outline_px = surrounding_polygon(measures.support_px)
    outline_rays = np.stack([pixel_rays(outline_px[:, v], camera) for v, camera in enumerate(rig)], axis=1)
    return Places(found, rays, use, triangulated_mm, residual_px, outline_px, outline_rays)


def _uncarved(measures: ChunkMeasures, places: Places, settings: Cameras) -> NDArray[np.bool_]:
    """The frames [N] without a hull: too few views to carve away the animals that hide a part of this one in the others."""
    hidden = (measures.flags & Flag.OCCLUDED) > 0
    few: NDArray[np.bool_] = (places.found & ~hidden).sum(axis=1) < settings.min_views
    return hidden.any(axis=1) & few


def _check_agreement(capture: Capture, rig: Rig, measures: ChunkMeasures, places: Places, settings: Cameras) -> None:
    if np.isnan(places.residual_px).all():
        raise UserError(
            f"capture {capture.name}: no frame has a mouse in {settings.min_views} views (cameras.min_views): "
            "look at the silhouettes and at the order of cameras and calibration files"
        )
    medians = camera_medians(places.residual_px)
    if medians.max() <= settings.max_residual_px:
        return
    agrees = agreeing_cameras(rig, measures.center_px, places.rays, places.use, settings.max_residual_px)
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


def _check_unit(capture: Capture, radius_mm: Array) -> None:
    known = radius_mm[np.isfinite(radius_mm)]
    if len(known) and not SMALLEST_MM <= (typical := float(np.median(known))) <= LARGEST_MM:
        raise UserError(
            f"capture {capture.name}: the animal would reach {typical:.3g} mm from its centre: is the calibration in "
            f"{capture.unit} (the table's column 'unit')? {SMALLEST_MM:g} to {LARGEST_MM:g} mm are plausible"
        )


def _subject(
    capture: Capture,
    rig: Rig,
    measures: ChunkMeasures,
    chunk: NDArray[np.int64],
    flags: NDArray[np.uint8],
    places: Places,
    hulls: Hulls,
) -> Subject:
    return Subject(
        capture=capture.name,
        cameras=capture.cameras,
        frame=measures.frame,
        time_s=measures.time_s,
        chunk=chunk,
        flags=flags,
        residual_px=places.residual_px,
        area_px=measures.area_px,
        sharpness=measures.sharpness,
        # The hull's centroid is nearer to the mouse's: on the demo 0.65 mm from it (median), the triangulated centre 1.2 mm.
        center_mm=np.where(np.isfinite(hulls.centroid_mm), hulls.centroid_mm, places.triangulated_mm),
        triangulated_mm=places.triangulated_mm,
        center_rays=np.stack([places.rays[:, v] @ camera.R.T for v, camera in enumerate(rig)], axis=1),
        outline_px=places.outline_px,
        outline_rays=places.outline_rays,
        volume_mm3=hulls.volume_mm3,
        lengths_mm=hulls.lengths_mm,
        axis=hulls.axis,
        hull_iou=hulls.hull_iou,
        cut=hulls.cut,
        surface_mm=hulls.surface_mm,
        thin_mm=hulls.thin_mm,
        body_mm=hulls.body_mm,
    )


def _synchrony(
    rig: Rig, measures: ChunkMeasures, places: Places, settings: Cameras
) -> tuple[tuple[Shift, ...], OverTime]:
    """How late each camera is, and how its residual changes over the capture."""
    some = _stretches(len(measures.frame))
    tracks = measures.center_px[some], measures.frame[some], rig, places.use[some]
    shifts = estimate_shifts(*tracks, settings.max_shift_search)
    return shifts, residual_over_time(*tracks, max_shift_frames=settings.max_shift_search)


def _stretches(count: int) -> NDArray[np.int64]:
    """Indices of STRETCHES evenly spaced runs of STRETCH_FRAMES items; all where there are no more."""
    if count <= STRETCHES * STRETCH_FRAMES:
        return np.arange(count)
    begins = np.linspace(0, count - STRETCH_FRAMES, STRETCHES).astype(int)
    return (begins[:, None] + np.arange(STRETCH_FRAMES)).ravel()


def _report(
    subject: Subject,
    hulls: Hulls,
    shifts: tuple[Shift, ...],
    course: OverTime,
    graded: Sequence[Grade],
) -> dict[str, Any]:
    """qc.json: what was found for each camera. Values that could not be measured are null."""

    def number(value: float) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    def mean(values: Array) -> float | None:
        return number(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else None

    def quantile(values: Array, q: float) -> float | None:
        return number(np.quantile(values[np.isfinite(values)], q)) if np.isfinite(values).any() else None

    rows = []
    for v, (name, shift) in enumerate(zip(subject.cameras, shifts, strict=True)):
        residual_px = subject.residual_px[:, v]
        rows.append(
            {
                "camera": name,
                "frames_with": {
                    flag.name.lower(): int(((subject.flags[:, v] & flag) > 0).sum()) for flag in Flag if flag.name
                },
                "residual_px": {"median": quantile(residual_px, 0.5), "p95": quantile(residual_px, 0.95)},
                "hull_iou": mean(hulls.hull_iou[:, v]),
                "hull_of_others_iou": mean(hulls.iou_others[:, v]),
                "others_iou_without_it": mean(hulls.iou_without[:, v]),
                "silhouettes": graded[v].as_json(),
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
        "capture": subject.capture,
        "frames": len(subject.frame),
        "frames_located": int(np.isfinite(hulls.axis[:, 0]).sum()),
        "hull_volume_mm3": quantile(hulls.volume_mm3[hulls.volume_mm3 > 0], 0.5),
        "time_bins": [number(frame) for frame in course.edge],
        "cameras": rows,
    }


def _check_report(
    capture: Capture,
    report: dict[str, Any],
    subject: Subject,
    output: Path,
    settings: Cameras,
) -> None:
    # Snakemake deletes a failed job's outputs, so the files that explain the failure have other names.
    failed = output / "qc-failed.json", output / "qc-failed.png"
    for path in failed:
        path.unlink(missing_ok=True)
    if problems := agreement_problems(report, capture.sync, settings):
        write_json(failed[0], report)
        plot_agreement(failed[1], subject)
        raise UserError(f"capture {capture.name}: " + "\n  ".join([*problems, f"see {failed[1]} and {failed[0].name}"]))
