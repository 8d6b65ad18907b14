import cv2
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.base.sheets import GAP, LINE
from mousefacelift.recordings.silhouettes.sheet import CROP_PX, OUTLINE, WHOLE_PX, Tile, crop, pair, preview_sheet

GREEN = np.array(OUTLINE)


def mouse(x=300, y=200, shape=(480, 640)):
    """A frame with a bright ellipse that has a tail one pixel wide, and its mask."""
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, (x, y), (40, 20), 0, 0, 360, 255, -1)
    cv2.line(mask, (x + 40, y), (x + 110, y), 255, 1)
    return np.where(mask[..., None] > 0, np.uint8(200), np.uint8(90)).repeat(3, axis=2), mask


def test_the_contact_sheet_shows_every_camera_whole_and_near_and_its_worst_moment(tmp_path):
    tiles = [Tile(t, *mouse(200 + 60 * t)) for t in range(3)]
    path = tmp_path / "sheet.png"
    preview_sheet(
        path, {"left": tiles, "right": tiles[:2]}, {"left": tiles[0].image}, {"left": "good"}, {"left": tiles[1]}
    )
    sheet = cv2.imread(str(path))
    side, band = WHOLE_PX + GAP + CROP_PX, LINE + GAP + CROP_PX + GAP
    assert sheet.shape[1] == GAP + 5 * (side + GAP)
    green = (sheet == GREEN).all(-1)
    # The empty arena, a column per moment, the worst one: a camera without a frame leaves its place empty.
    for row, filled in ((0, (0, 1, 1, 1, 1)), (1, (0, 1, 1, 0, 0))):
        for column, expected in enumerate(filled):
            top, left = LINE + row * band + LINE + GAP, GAP + column * (side + GAP)
            for part in (slice(left, left + WHOLE_PX), slice(left + WHOLE_PX + GAP, left + side)):
                assert green[top : top + CROP_PX, part].any() == bool(expected)
    assert not [other for other in tmp_path.iterdir() if other != path]
    with pytest.raises(UserError, match="no frame to draw"):
        preview_sheet(path, {})


def test_the_crop_is_on_the_mouse_and_enlarges_it():
    image, mask = mouse()
    near = crop(image, mask)
    assert near.shape == (CROP_PX, CROP_PX, 3)
    bright = (near > 150).all(-1)
    assert bright.sum() > 2 * np.count_nonzero(mask)
    assert bright.any(axis=0).sum() > CROP_PX / 2


@pytest.mark.parametrize("at", [(45, 200), (520, 30), (600, 450)])
def test_a_mouse_at_the_frames_edge_is_drawn_as_large(at):
    near = crop(*mouse(*at))
    assert near.shape == (CROP_PX, CROP_PX, 3)


def test_an_outline_leaves_the_mouse_and_a_thin_tail_visible():
    image, mask = mouse()
    drawn = (crop(image, mask) == GREEN).all(-1)
    # On both sides of the tail a line, and between them the tail itself.
    column = np.flatnonzero(drawn.any(axis=0))[-8]
    rows = np.flatnonzero(drawn[:, column])
    assert len(rows) == 2 and rows[1] - rows[0] >= 2
    assert drawn.mean() < 0.03


def test_without_a_mouse_there_is_no_crop_and_a_second_outline_has_another_colour():
    image, mask = mouse()
    assert crop(image, np.zeros_like(mask)) is None
    assert pair(image, np.zeros_like(mask)).shape == (CROP_PX, WHOLE_PX + GAP + CROP_PX, 3)
    tile = pair(image, mask, np.roll(mask, 30, axis=0))
    assert (tile == GREEN).all(-1).any() and (tile == (255, 0, 255)).all(-1).any()
