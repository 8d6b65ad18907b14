"""Before stage 1: each camera's silhouettes at a few moments, drawn to be looked at."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.recording import capture_frames
from mousefacelift.recordings.silhouettes.registry import method
from mousefacelift.recordings.silhouettes.segmentation import Arena
from mousefacelift.recordings.silhouettes.sheet import Tile, preview_sheet
from mousefacelift.recordings.video import Missing
from mousefacelift.stages.background import arenas_of, spread
from mousefacelift.stages.center import Silhouette, measure
from mousefacelift.stages.grades import Pictured, picture_grade

DRAWN, LOOKED_AT = 5, 4  # moments that are drawn, and between two of them how many are looked at, for the worst one


@dataclass(frozen=True)
class Row:
    """One camera's moments: those drawn, and what is said of all that were looked at."""

    tiles: list[Tile]
    worst: Tile | None
    label: str


def preview(capture: Capture, output: Path, settings: Center, threads: int = 1, background: Path | None = None) -> None:
    """Write `center/{capture}/preview.png`: each camera's frames at a few moments, with the silhouettes' outlines.

    Each row's title grades what the pictures alone say of the silhouettes; `cameras` grades them with the hulls too. The
    last column is the camera's worst moment.
    """
    arenas = arenas_of(capture, settings, background)
    frames = spread(capture_frames(capture, settings), DRAWN * LOOKED_AT)

    def one_camera(view: int) -> Row:
        cv2.setNumThreads(1)
        return _row(capture, view, frames, settings, arenas[view])

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        rows = dict(zip(capture.cameras, pool.map(one_camera, range(len(capture.cameras))), strict=True))
    for name, row in rows.items():
        if not any((tile.mask > 127).any() for tile in row.tiles):
            print(f"camera {name}: no mouse was found at any of the moments drawn", file=sys.stderr)
    preview_sheet(
        output,
        {name: row.tiles for name, row in rows.items()},
        {name: arena["background"] for name, arena in zip(capture.cameras, arenas, strict=True) if arena},
        {name: row.label for name, row in rows.items()},
        {name: row.worst for name, row in rows.items() if row.worst is not None},
    )


def _row(capture: Capture, view: int, frames: range, settings: Center, arena: Arena | None) -> Row:
    drawn = frames[LOOKED_AT // 2 :: LOOKED_AT] or frames
    tiles, found, worst = [], [], None
    for index, (frame, mask) in zip(
        frames, method(settings.masks).silhouettes(capture, view, frames, settings, arena=arena), strict=True
    ):
        if isinstance(frame, Missing):
            continue
        silhouette = measure(frame, mask, settings)[0]
        if index in drawn:
            tiles.append(Tile(index, frame.rgb(), mask))
        # One frame is kept beside those drawn: frames are large.
        if silhouette.area_px and (worst is None or _quality(silhouette) < worst[0]):
            worst = _quality(silhouette), Tile(index, frame.rgb(), mask)
        found.append(silhouette)
    seen = [each for each in found if each.area_px]
    graded = picture_grade(
        Pictured(
            contrast=np.array([each.edge.contrast for each in seen]),
            bare=np.array([each.edge.bare for each in seen]),
            offset_px=np.array([each.edge.offset_px for each in seen]),
            holes=np.array([each.holes for each in seen]),
            area_px=np.array([each.area_px for each in seen]),
        )
    )
    said = f"{graded.grade} by the pictures alone" + "".join(f"; {reason}" for reason in graded.reasons)
    return Row(tiles, worst[1] if worst else None, said)


def _quality(silhouette: Silhouette) -> float:
    """The lower, the more a silhouette deserves a look: an outline far from the picture's edge, without one, or holes."""
    offset = silhouette.edge.offset_px if np.isfinite(silhouette.edge.offset_px) else 4.0
    return -abs(offset) / np.sqrt(silhouette.area_px) - silhouette.holes
