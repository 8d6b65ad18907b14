"""Contact sheets: rows of labelled pictures in one PNG file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.files import atomic

Picture = NDArray[np.uint8]
GAP, LINE = 4, 20  # px between tiles, and of a line of text
GREY = 205  # white pictures on white would have no edges
DPI, FONT_SIZE, LETTER = 100, 9, 8  # points, and px of a letter of that size


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet. tiles: [h, w, 3] RGB each, or None for a place that stays empty."""

    label: str
    tiles: Sequence[Picture | None]


def write_sheet(path: Path, rows: Sequence[SheetRow], columns: Sequence[str] = ()) -> None:
    """Draw a line with the columns' names, then for each row a line with its label and its tiles over grey.

    Columns are as wide as the widest tile, and rows as high as their highest; a text too long for its place is cut.
    """
    from matplotlib.figure import Figure

    side = max(tile.shape[1] for row in rows for tile in row.tiles if tile is not None)
    heights = [max((len(tile) for tile in row.tiles if tile is not None), default=0) for row in rows]
    step = side + GAP
    width = GAP + step * max(len(row.tiles) for row in rows)
    top = LINE if columns else 0
    height = top + sum(LINE + GAP + each + GAP for each in heights)
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def write(text: str, x: int, y: int, room: int) -> None:
        letters = max(3, room // LETTER)
        text = text if len(text) <= letters else f"{text[: letters - 1]}…"
        at = (x / width, 1 - (y + LINE / 2) / height)
        figure.text(*at, text, fontsize=FONT_SIZE, verticalalignment="center", parse_math=False)

    for n, name in enumerate(columns):
        write(name, GAP + n * step, 0, side)
    for row, row_height in zip(rows, heights, strict=True):
        write(row.label, GAP, top, width - 2 * GAP)
        top += LINE
        canvas[top : top + GAP + row_height + GAP] = GREY
        for n, tile in enumerate(row.tiles):
            if tile is not None:
                y, x = top + GAP, GAP + n * step
                canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        top += GAP + row_height + GAP
    figure.figimage(canvas, origin="upper")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")  # whatever the name's extension
