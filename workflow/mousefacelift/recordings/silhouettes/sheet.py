"""Frames with their silhouettes' outlines, whole and near, to look at before hours are spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.sheets import GAP, GREY, SheetRow, write_sheet
from mousefacelift.recordings.silhouettes.segmentation import Image

OUTLINE, SECOND_OUTLINE = (0, 255, 0), (255, 0, 255)
WHOLE_PX, CROP_PX = 240, 320  # width of a whole frame, and side of the crop beside it
MARGIN, LEAST_PX = 0.2, 48  # a crop shows this much around the silhouette's box, and at least so many px of the frame


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
    labels: Mapping[str, str] | None = None,
    worst: Mapping[str, Tile] | None = None,
) -> None:
    """Write a contact sheet: one row per camera, one column per moment; each frame whole, and beside it the mouse near.

    Args:
        path: the PNG to write.
        rows: tiles by camera name.
        backgrounds: [H, W, 3] uint8 RGB, the empty arena by camera name, as a first column.
        labels: what a row's title says after the camera's name.
        worst: the camera's worst moment by camera name, as a last column.

    Raises:
        UserError: there is no frame to draw.
    """
    frames = sorted({tile.frame for tiles in rows.values() for tile in tiles})
    if not frames:
        raise UserError(f"{path}: there is no frame to draw")
    sheet = []
    for camera, tiles in rows.items():
        drawn = {tile.frame: pair(tile.image, tile.mask) for tile in tiles}
        arena = (
            [_fitted(backgrounds[camera], WHOLE_PX + CROP_PX // 2) if camera in backgrounds else None]
            if backgrounds
            else []
        )
        last = [pair(worst[camera].image, worst[camera].mask) if camera in worst else None] if worst else []
        said = f": {labels[camera]}" if labels and camera in labels else ""
        if worst and camera in worst:
            said += f"; worst moment: frame {worst[camera].frame}"
        sheet.append(SheetRow(f"camera {camera}{said}", [*arena, *(drawn.get(frame) for frame in frames), *last]))
    columns = [*(["background"] if backgrounds else []), *(f"frame {frame}" for frame in frames)]
    write_sheet(path, sheet, [*columns, *(["worst moment"] if worst else [])])


def pair(image: Image, mask: Image, second: Image | None = None) -> Image:
    """A frame [H, W, 3] with its silhouette's outline, whole, and beside it the mouse near: [h, w, 3].

    second: [H, W] another silhouette, drawn in another colour.
    """
    whole = _fitted(image, WHOLE_PX)
    whole = _outlined(whole, [(mask, OUTLINE)] if second is None else [(second, SECOND_OUTLINE), (mask, OUTLINE)])
    near = crop(image, mask, second)
    tile = np.full((max(len(whole), CROP_PX), WHOLE_PX + GAP + CROP_PX, 3), GREY, np.uint8)
    tile[: len(whole), :WHOLE_PX] = whole
    if near is not None:
        tile[: len(near), WHOLE_PX + GAP :][:, : near.shape[1]] = near
    return tile


def crop(image: Image, mask: Image, second: Image | None = None) -> Image | None:
    """The part of a frame [H, W, 3] around its silhouette, enlarged to CROP_PX, with the outline; None without a mouse."""
    shown = [each for each in (mask, second) if each is not None and (each > 127).any()]
    if not shown:
        return None
    boxes = np.array([cv2.boundingRect((each > 127).astype(np.uint8)) for each in shown])
    x0, y0 = boxes[:, :2].min(axis=0)
    x1, y1 = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    side = round(max(LEAST_PX, (1 + 2 * MARGIN) * max(x1 - x0, y1 - y0)))
    height, width = mask.shape
    # Moved inside the frame, so that a mouse at its edge is drawn as large as any.
    left = int(np.clip((x0 + x1 - side) // 2, 0, max(width - side, 0)))
    top = int(np.clip((y0 + y1 - side) // 2, 0, max(height - side, 0)))
    part = np.s_[top : top + side, left : left + side]
    scale = CROP_PX / max(image[part].shape[:2])
    near = _fitted(image[part], max(1, round(image[part].shape[1] * scale)))
    outlines = [
        (each[part], colour) for each, colour in ((second, SECOND_OUTLINE), (mask, OUTLINE)) if each is not None
    ]
    return _outlined(near, outlines)


def _fitted(image: Image, width: int) -> Image:
    """An image [H, W, 3] at another width, its sides in proportion."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    smaller = width < image.shape[1]
    return np.array(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC))


def _outlined(image: Image, outlines: Sequence[tuple[Image, tuple[int, int, int]]]) -> Image:
    """An image [h, w, 3] with lines one pixel wide around masks [H, W], outside of them: a thin tail stays visible."""
    for mask, colour in outlines:
        height, width = image.shape[:2]
        share = cv2.resize(
            np.where(mask > 127, np.uint8(255), np.uint8(0)), (width, height), interpolation=cv2.INTER_AREA
        )
        # A pixel with a quarter of mouse is mouse: a tail narrower than a pixel is not lost.
        inside = (share > 63).astype(np.uint8)
        image[(cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0) & (inside == 0)] = colour
    return image
