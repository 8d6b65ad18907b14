"""A contact sheet of frames with their silhouettes' outlines, to look at before hours are spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.recordings.silhouettes.segmentation import Image


@dataclass(frozen=True)
class Tile:
    """One frame of a contact sheet.

    Attributes:
        frame: its number.
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] uint8, above 127 is mouse.
    """

    frame: int
    image: Image
    mask: Image


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
    drawn = []
    for camera, tiles in rows.items():
        row = [_tile(tile.image, tile.mask, f"{camera}  {tile.frame}", tile_width) for tile in tiles]
        if backgrounds and camera in backgrounds:
            row.insert(0, _tile(backgrounds[camera], None, f"{camera}  background", tile_width))
        drawn.append(row)
    columns = max((len(row) for row in drawn), default=0)
    if not columns:
        raise UserError(f"{path}: there is no frame to draw")
    bands = []
    for row in drawn:
        height = max((tile.shape[0] for tile in row), default=1)
        band = np.full((height + 2, columns * (tile_width + 2), 3), 255, np.uint8)
        for column, tile in enumerate(row):
            x = column * (tile_width + 2)
            band[: tile.shape[0], x : x + tile_width] = tile
        bands.append(band)
    with atomic(path) as temporary:
        png = cv2.imencode(".png", cv2.cvtColor(np.vstack(bands), cv2.COLOR_RGB2BGR))[1]
        temporary.write_bytes(png.tobytes())


def _tile(image: Image, mask: Image | None, text: str, width: int) -> Image:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    small = np.array(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    if mask is not None:
        # At twice the size, or the outline would cover thin parts.
        double = (cv2.resize(mask, (2 * width, 2 * height), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
        contours, _ = cv2.findContours(double, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            small[contour[:, 0, 1] // 2, contour[:, 0, 0] // 2] = (0, 255, 0)
    for thickness, colour in ((3, (0, 0, 0)), (1, (255, 255, 0))):
        cv2.putText(small, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)
    return small
