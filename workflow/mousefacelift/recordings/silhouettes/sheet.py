"""A contact sheet of frames with their silhouettes' outlines, to look at before hours are spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.sheets import SheetRow, write_sheet
from mousefacelift.recordings.silhouettes.segmentation import Image

COLOURS = ((0, 255, 0), (255, 0, 255), (0, 200, 255), (255, 160, 0))  # of the animals' outlines, RGB


@dataclass(frozen=True)
class Tile:
    """One frame of a contact sheet.

    Attributes:
        frame: its number.
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] uint8, above 127 is mouse.
        others: likewise of the recording's other animals.
    """

    frame: int
    image: Image
    mask: Image
    others: tuple[Image, ...] = ()


def preview_sheet(
    path: Path,
    rows: Mapping[str, Sequence[Tile]],
    backgrounds: Mapping[str, Image] | None = None,
    tile_width: int = 320,
) -> None:
    """Write a contact sheet: one row per camera, one column per moment, with the silhouettes' outlines.

    Args:
        path: the PNG to write.
        rows: tiles by camera name.
        backgrounds: [H, W, 3] uint8 RGB, the empty arena by camera name, as a first column.
        tile_width: width of a tile, px.

    Raises:
        UserError: there is no frame to draw.
    """
    frames = sorted({tile.frame for tiles in rows.values() for tile in tiles})
    if not frames:
        raise UserError(f"{path}: there is no frame to draw")
    sheet = []
    for camera, tiles in rows.items():
        drawn = {tile.frame: _tile(tile.image, (tile.mask, *tile.others), tile_width) for tile in tiles}
        arena = [_small(backgrounds[camera], tile_width) if camera in backgrounds else None] if backgrounds else []
        sheet.append(SheetRow(f"camera {camera}", [*arena, *(drawn.get(frame) for frame in frames)]))
    write_sheet(path, sheet, [*(["background"] if backgrounds else []), *(f"frame {frame}" for frame in frames)])


def _small(image: Image, width: int) -> Image:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.array(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _tile(image: Image, masks: Sequence[Image], width: int) -> Image:
    small = _small(image, width)
    for k, mask in enumerate(masks):
        # At twice the size, or the outline would cover thin parts.
        double = (cv2.resize(mask, (2 * width, 2 * len(small)), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
        contours, _ = cv2.findContours(double, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            small[contour[:, 0, 1] // 2, contour[:, 0, 0] // 2] = COLOURS[k % len(COLOURS)]
    return small
