"""Before stage 1: each camera's silhouettes at a few moments, drawn to be looked at."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.recording import capture_frames
from mousefacelift.recordings.silhouettes.segmentation import Arena
from mousefacelift.recordings.silhouettes.sheet import COLOURS, Tile, preview_sheet
from mousefacelift.recordings.video import Missing
from mousefacelift.stages.background import arenas_of, spread
from mousefacelift.stages.center import Silhouette, animals_masks, measure
from mousefacelift.stages.grades import Pictured, picture_grade

DRAWN, LOOKED_AT = 5, 4  # moments that are drawn, and between two of them how many are looked at, for the worst one


@dataclass(frozen=True)
class Row:
    """One camera's moments: those drawn, and what is said of all that were looked at."""

    tiles: list[Tile]
    worst: Tile | None
    label: str


def preview(
    capture: Capture,
    output: Path,
    settings: Center,
    threads: int = 1,
    background: Path | None = None,
    others: Sequence[Capture] = (),
) -> None:
    """Write `center/{recording}/preview.png`: each camera's frames at a few moments, with the silhouettes' outlines.

    Each row's title grades what the pictures alone say of the silhouettes; `cameras` grades them with the hulls too. The
    last column is the camera's worst moment. others: the recording's other animals. Each animal has rows of its own, and its
    outline the same colour in all rows.
    """
    arenas = arenas_of(capture, settings, background)
    frames = spread(capture_frames(capture, settings), DRAWN * LOOKED_AT)
    animals = (capture, *others)

    def one_camera(view: int) -> list[Row]:
        cv2.setNumThreads(1)
        return _rows(animals, view, frames, settings, arenas[view])

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        found = pool.map(one_camera, range(len(capture.cameras)))
        rows = {
            f"{name}, {animal.name}" if others else name: (name, row)
            for name, of_camera in zip(capture.cameras, found, strict=True)
            for animal, row in zip(animals, of_camera, strict=True)
        }
    for title, (_, row) in rows.items():
        if not any((tile.mask > 127).any() for tile in row.tiles):
            print(f"camera {title}: no mouse was found at any of the moments drawn", file=sys.stderr)
    empty = dict(zip(capture.cameras, arenas, strict=True))
    preview_sheet(
        output,
        {title: row.tiles for title, (_, row) in rows.items()},
        {title: arena["background"] for title, (name, _) in rows.items() if (arena := empty[name])},
        {title: row.label for title, (_, row) in rows.items()},
        {title: row.worst for title, (_, row) in rows.items() if row.worst is not None},
    )


def _rows(animals: Sequence[Capture], view: int, frames: range, settings: Center, arena: Arena | None) -> list[Row]:
    """One camera's row of each animal; its frames are decoded once."""
    drawn = frames[LOOKED_AT // 2 :: LOOKED_AT] or frames
    tiles: list[list[Tile]] = [[] for _ in animals]
    found: list[list[Silhouette]] = [[] for _ in animals]
    worst: list[tuple[float, Tile] | None] = [None for _ in animals]
    masked = animals_masks(animals, view, frames, settings, 1, arena)
    for index, (frame, masks) in zip(frames, masked, strict=True):
        if isinstance(frame, Missing):
            continue
        outlines = [(mask, COLOURS[k % len(COLOURS)]) for k, mask in enumerate(masks)]
        for k, (mask, colour) in enumerate(outlines):
            silhouette = measure(frame, mask, settings)[0]
            quality, before = _quality(silhouette), worst[k]
            # One frame is kept beside those drawn: frames are large.
            is_worst = silhouette.area_px > 0 and (before is None or quality < before[0])
            if index in drawn or is_worst:
                tile = Tile(index, frame.rgb(), mask, colour, tuple(outlines[:k] + outlines[k + 1 :]))
                tiles[k] += [tile] if index in drawn else []
                worst[k] = (quality, tile) if is_worst else before
            found[k].append(silhouette)
    return [
        Row(each, bad[1] if bad else None, _label(silhouettes))
        for each, bad, silhouettes in zip(tiles, worst, found, strict=True)
    ]


def _label(silhouettes: Sequence[Silhouette]) -> str:
    """What the pictures alone say of one camera's silhouettes."""
    seen = [each for each in silhouettes if each.area_px]
    graded = picture_grade(
        Pictured(
            contrast=np.array([each.edge.contrast for each in seen]),
            bare=np.array([each.edge.bare for each in seen]),
            offset_px=np.array([each.edge.offset_px for each in seen]),
            holes=np.array([each.holes for each in seen]),
            area_px=np.array([each.area_px for each in seen]),
        )
    )
    return f"{graded.grade} by the pictures alone" + "".join(f"; {reason}" for reason in graded.reasons)


def _quality(silhouette: Silhouette) -> float:
    """The lower, the more a silhouette deserves a look: an outline far from the picture's edge, without one, or holes."""
    if not silhouette.area_px:
        return np.inf
    offset = silhouette.edge.offset_px if np.isfinite(silhouette.edge.offset_px) else 4.0
    return -abs(offset) / np.sqrt(silhouette.area_px) - silhouette.holes
