"""Before stage 1: each camera's silhouettes at a few moments, drawn to be looked at."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.recording import capture_frames
from mousefacelift.recordings.silhouettes.moments import Seen, moments
from mousefacelift.recordings.silhouettes.sheet import COLOURS, Tile, preview_sheet
from mousefacelift.recordings.video import Missing
from mousefacelift.stages.background import arenas_of, spread
from mousefacelift.stages.center import Silhouette, measure
from mousefacelift.stages.grades import Pictured, picture_grade

DRAWN, LOOKED_AT = 5, 4  # moments that are drawn, and between two of them how many are looked at, for the worst one


class Row:
    """One animal's moments in one camera: those drawn, the worst one, and what is said of all that were looked at."""

    def __init__(self, animal: int) -> None:
        self.animal = animal
        self.tiles: list[Tile] = []
        self.worst: tuple[float, Tile] | None = None
        self.found: list[Silhouette] = []

    def add(self, index: int, seen: Seen, draw: bool, settings: Center) -> None:
        """Look at one more moment."""
        if isinstance(seen.frame, Missing):
            return
        silhouette = measure(seen.frame, seen.masks[self.animal], settings)[0]
        quality = _quality(silhouette)
        # One frame is kept beside those drawn: frames are large.
        worst = silhouette.area_px > 0 and (self.worst is None or quality < self.worst[0])
        if draw or worst:
            outlines = [(mask, COLOURS[k % len(COLOURS)]) for k, mask in enumerate(seen.masks)]
            mask, colour = outlines.pop(self.animal)
            tile = Tile(index, seen.frame.rgb(), mask, colour, tuple(outlines))
            self.tiles += [tile] if draw else []
            self.worst = (quality, tile) if worst else self.worst
        self.found.append(silhouette)


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
    drawn = frames[LOOKED_AT // 2 :: LOOKED_AT] or frames
    animals = (capture, *others)
    rows = {
        f"{name}, {animal.name}" if others else name: (v, Row(k))
        for v, name in enumerate(capture.cameras)
        for k, animal in enumerate(animals)
    }
    for index, moment in zip(frames, moments(animals, frames, settings, arenas, threads), strict=True):
        for v, row in rows.values():
            row.add(index, moment[v], index in drawn, settings)
    for title, (_, row) in rows.items():
        if not any((tile.mask > 127).any() for tile in row.tiles):
            print(f"camera {title}: no mouse was found at any of the moments drawn", file=sys.stderr)
    preview_sheet(
        output,
        {title: row.tiles for title, (_, row) in rows.items()},
        {title: arena["background"] for title, (v, _) in rows.items() if (arena := arenas[v])},
        {title: _label(row.found) for title, (_, row) in rows.items()},
        {title: row.worst[1] for title, (_, row) in rows.items() if row.worst is not None},
    )


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
