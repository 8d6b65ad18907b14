"""Contact sheets: every picture is where its row and column are, untouched."""

import numpy as np
import PIL.Image
import pytest

from mousefacelift.base.sheets import GAP, GREY, LINE, SheetRow, write_sheet


def tiles(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def read(path):
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def test_tiles_of_several_sizes_and_missing_ones_keep_their_places(tmp_path):
    wide, high, small = tiles((40, 100), (80, 50), (30, 30))
    rows = [SheetRow("first", [wide, None, small]), SheetRow("second", [high, wide])]
    write_sheet(tmp_path / "sheet", rows, ["a", "b", "c"])
    sheet = read(tmp_path / "sheet")  # a PNG, whatever it is called
    tops = [2 * LINE + GAP, 3 * LINE + 2 * GAP + 40 + GAP]
    assert sheet.shape == (tops[1] + 80 + GAP, GAP + 3 * (100 + GAP), 3)
    for row, y in zip(rows, tops, strict=True):
        for column, tile in enumerate(row.tiles):
            x = GAP + column * (100 + GAP)
            if tile is None:
                assert (sheet[y : y + 40, x : x + 100] == GREY).all()
            else:
                np.testing.assert_array_equal(sheet[y : y + len(tile), x : x + tile.shape[1]], tile)


@pytest.mark.parametrize("columns", [[], ["view 1"]])
def test_labels_are_written_and_too_long_ones_cut(tmp_path, columns):
    (tile,) = tiles((20, 60))
    write_sheet(tmp_path / "sheet.png", [SheetRow("a label $that^ is far too long for its place", [tile])], columns)
    sheet = read(tmp_path / "sheet.png")
    assert len(sheet) == LINE * bool(columns) + LINE + 2 * GAP + 20
    for line in np.split(sheet[: LINE * (1 + bool(columns))], 1 + bool(columns)):
        assert (line < 128).any()
