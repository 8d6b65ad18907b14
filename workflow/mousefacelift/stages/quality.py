"""What `cameras` measures for its grades of the silhouettes, and the pictures of the frames that are graded down."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import CenteredChunk, ChunkMeasures, Flag
from mousefacelift.base.errors import UserError
from mousefacelift.base.sheets import SheetRow, write_sheet
from mousefacelift.config.center import Center
from mousefacelift.geometry.camera import Array, Camera, Rig, project
from mousefacelift.geometry.hull import Cutout
from mousefacelift.geometry.reach import allowed_by_others, reachable_iou
from mousefacelift.geometry.selection import thinned
from mousefacelift.geometry.up import choose_up
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import read_camera
from mousefacelift.recordings.silhouettes.sheet import pair
from mousefacelift.recordings.video import Frame
from mousefacelift.stages.grades import Agreement, Grade, Pictured, grades
from mousefacelift.stages.hulls import cutouts_of, frame_crops

Image = NDArray[np.uint8]

NOT_ITS_OWN = Flag.OCCLUDED | Flag.EXCHANGED  # what another animal does to a silhouette says nothing of its quality
FRAMES = 10  # that are carved anew
WORST_FRAMES = 4  # drawn of a camera
LEAST_UP = 0.5  # a camera that sees world up shorter than this share looks down too steeply to tell what is below


@dataclass(frozen=True)
class Mice:
    """N frames' silhouettes as files, and where the mouse is in them.

    capture: its name in the files. chunks: the files. chunk: [N] number of each frame's. found: [N, V] whether there is a
    silhouette. center_mm: [N, 3], and radius_mm: [N], a ball around the mouse, NaN if unknown.
    """

    capture: str
    chunks: Sequence[Path]
    chunk: NDArray[np.int64]
    found: NDArray[np.bool_]
    center_mm: Array
    radius_mm: Array

    def silhouettes(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, list[Cutout | None], list[Image | None]]]:
        """Yield of some frames, in order: the row, and each view's silhouette and its crop [h, w, 4]."""
        for number in np.unique(self.chunk[rows]):
            first = int(np.searchsorted(self.chunk, number))
            with CenteredChunk.open(self.chunks[number], self.capture) as file:
                for row in rows[self.chunk[rows] == number]:
                    n = int(row) - first
                    crops = frame_crops(file, n, self.found[row], self.chunks[number])
                    yield int(row), cutouts_of(crops, file.window[n]), crops


def grade_silhouettes(
    rig: Rig,
    measures: ChunkMeasures,
    mice: Mice,
    thin_mm: NDArray[np.float32],
    ious: tuple[Array, Array, Array],
    voxel_mm: float,
) -> list[Grade]:
    """Grade every camera's silhouettes.

    Args:
        rig: V cameras.
        measures: what `center` measured of N frames.
        mice: the same frames' silhouettes.
        thin_mm: [N, K, 4] see `hull.Hull.thin_mm`: the floor.
        ious: hull_iou, iou_others and iou_without [N, V] of `hull.Hull`.
        voxel_mm: edge of a voxel.

    Returns:
        [V] the grades.
    """
    step_s = float(np.median(np.diff(measures.time_s))) if len(measures.time_s) > 1 else np.inf
    pictured = [
        Pictured(
            contrast=measures.edge_contrast[rows, v],
            bare=measures.edge_bare[rows, v],
            offset_px=measures.edge_offset_px[rows, v],
            holes=measures.holes[rows, v],
            area_px=measures.area_px[rows, v],
            step_s=step_s,
        )
        for v, rows in enumerate(((measures.area_px > 0) & ((measures.flags & NOT_ITS_OWN) == 0)).T)
    ]
    reachable, beyond, below_mm = _against_others(rig, mice, _up(rig, thin_mm), voxel_mm)
    hull_iou, others, without = (_mean(values) for values in ious)
    alone = [without[v] - np.nanmean(np.delete(hull_iou, v)) for v in range(len(rig))]
    columns = (hull_iou, reachable, others, beyond, below_mm, alone)
    return grades(pictured, [Agreement(*map(float, row)) for row in zip(*columns, strict=True)])


def _mean(values: Array) -> Array:
    """The mean [V] of values [N, V] that are known; NaN of none."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _medians(rows: Sequence[Array | list[float]], views: int) -> Array:
    """The median [V] of rows [n][V], of what is known."""
    values = np.array(rows, np.float64).reshape(-1, views)
    return np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in values.T])


def _up(rig: Rig, thin_mm: NDArray[np.float32]) -> Array | None:
    """World up, if something measured tells it."""
    choice = choose_up("auto", None, rig, thin_mm.astype(np.float64))
    return choice.up if any(each.uncertainty_deg is not None for each in choice.candidates) else None


def _against_others(rig: Rig, mice: Mice, up: Array | None, voxel_mm: float) -> tuple[Array, Array, Array]:
    """Of a few frames, medians [V]: the IoU that can be reached, the share beyond the others' hull, and how far below it."""
    reachable, beyond, below = [], [], []
    rows = thinned(np.flatnonzero(np.isfinite(mice.radius_mm)), FRAMES)
    for row, silhouettes, _ in mice.silhouettes(rows):
        ball = mice.center_mm[row], float(mice.radius_mm[row])
        reachable.append(reachable_iou(silhouettes, rig, *ball, voxel_mm))
        pairs = [_beyond(silhouettes, v, rig, *ball, up, voxel_mm) for v in range(len(rig))]
        beyond.append([share for share, _ in pairs])
        below.append([mm for _, mm in pairs])
    return _medians(reachable, len(rig)), _medians(beyond, len(rig)), _medians(below, len(rig))


def _beyond(
    silhouettes: Sequence[Cutout | None],
    view: int,
    rig: Rig,
    center_mm: Array,
    radius_mm: float,
    up: Array | None,
    voxel_mm: float,
) -> tuple[float, float]:
    """The share of a silhouette outside of what the other views allow, and by how many mm it reaches below that."""
    mine = silhouettes[view]
    allowed = allowed_by_others(silhouettes, view, rig, center_mm, radius_mm, voxel_mm) if mine is not None else None
    if mine is None or allowed is None:
        return np.nan, np.nan
    one, other = (_points(cutout) for cutout in (mine, allowed))
    x, y, w, h = (int(i) for i in allowed[1])
    column, row = (one - [x, y]).T
    inside = (column >= 0) & (row >= 0) & (column < w) & (row < h)
    within = np.count_nonzero(allowed[0][row[inside], column[inside]] > 127)
    share = 1 - within / len(one)
    down = _down(rig[view], center_mm, up)
    if down is None:
        return share, np.nan
    return share, float(((one @ down).max() - (other @ down).max()) / (down @ down))


def _down(camera: Camera, center_mm: Array, up: Array | None) -> Array | None:
    """What a mm of world down at the mouse is in the frame [2], px; None if unknown, or seen too much from above."""
    if up is None:
        return None
    (here, below), depth = project(np.stack([center_mm, center_mm - up]), camera)
    down = below - here
    px_per_mm = camera.focal_px / depth[0]
    return down if np.isfinite(down).all() and np.linalg.norm(down) > LEAST_UP * px_per_mm else None


def _points(cutout: Cutout) -> NDArray[np.int64]:
    """The pixels [n, 2] of a silhouette in the raw frame."""
    alpha, window = cutout
    row, column = np.nonzero(alpha > 127)
    return np.stack([column, row], axis=1) + np.asarray(window, np.int64)[:2]


def draw_worst(
    path: Path,
    capture: Capture,
    rig: Rig,
    measures: ChunkMeasures,
    mice: Mice,
    graded: Sequence[Grade],
    hull_iou: Array,
    voxel_mm: float,
    settings: Center,
) -> bool:
    """Draw the worst frames of each camera that is not good, with what the others allow in another colour.

    Returns:
        Whether there was one: without, there is no file.
    """
    path.unlink(missing_ok=True)
    sheet = []
    for v, (name, grade) in enumerate(zip(capture.cameras, graded, strict=True)):
        rows = _worst_rows(measures, mice, hull_iou, v) if grade.grade != "good" else np.zeros(0, np.int64)
        tiles: list[Image | None] = [
            _drawn(capture, rig, measures, mice, voxel_mm, settings, v, row, cutouts, crops[v])
            for row, cutouts, crops in mice.silhouettes(rows)
        ]
        if tiles:
            frames = ", ".join(str(measures.frame[row]) for row in rows)
            sheet.append(SheetRow(f"camera {name}, {grade.grade}: {'; '.join(grade.reasons)} (frames {frames})", tiles))
    if sheet:
        write_sheet(path, sheet, ["green: the silhouette; magenta: where the other cameras allow a mouse"])
    return bool(sheet)


def _worst_rows(measures: ChunkMeasures, mice: Mice, hull_iou: Array, view: int) -> NDArray[np.int64]:
    """A few frames with the least quality, ascending, of different parts of the capture."""
    area = np.maximum(measures.area_px[:, view], 1)
    offset = np.nan_to_num(np.abs(measures.edge_offset_px[:, view]), nan=4.0) / np.sqrt(area)
    quality = np.nan_to_num(hull_iou[:, view]) - 5 * offset - measures.holes[:, view]
    there = np.flatnonzero(mice.found[:, view] & np.isfinite(mice.radius_mm))
    parts = [part for part in np.array_split(there, WORST_FRAMES) if len(part)]
    return np.array([part[np.argmin(quality[part])] for part in parts], np.int64)


def _drawn(
    capture: Capture,
    rig: Rig,
    measures: ChunkMeasures,
    mice: Mice,
    voxel_mm: float,
    settings: Center,
    view: int,
    row: int,
    cutouts: Sequence[Cutout | None],
    crop: Image | None,
) -> Image | None:
    """One frame's tile: the picture, or without a readable video the crop on grey, with both outlines."""
    camera = rig[view]
    shape = camera.height, camera.width
    mine = cutouts[view]
    if mine is None or crop is None:
        return None
    mask = _placed(mine, shape)
    allowed = allowed_by_others(cutouts, view, rig, mice.center_mm[row], float(mice.radius_mm[row]), voxel_mm)
    index = int(measures.frame[row])
    picture = np.full((*shape, 3), 128, np.uint8)
    x, y, w, h = (int(i) for i in np.asarray(mine[1]))
    picture[y : y + h, x : x + w] = np.where(crop[..., 3:] > 127, crop[..., :3], np.uint8(128))
    with suppress(UserError):
        for frame in read_camera(capture, capture.videos, view, range(index, index + 1), settings):
            picture = frame.rgb() if isinstance(frame, Frame) else picture
    return pair(picture, mask, None if allowed is None else _placed(allowed, shape))


def _placed(cutout: Cutout, shape: tuple[int, int]) -> Image:
    """A silhouette in its frame [H, W]."""
    mask = np.zeros(shape, np.uint8)
    x, y, w, h = (int(i) for i in np.asarray(cutout[1]))
    mask[y : y + h, x : x + w] = cv2.threshold(cutout[0], 127, 255, cv2.THRESH_BINARY)[1]
    return mask
