"""Which pixels are unknown, for cameras and a body whose answer is known; tests/stages/test_shard.py has the demo's mesh."""

import numpy as np
import pytest

from mousefacelift.geometry.camera import Camera
from mousefacelift.geometry.resampling import View
from mousefacelift.geometry.unknown import Picture, unknown_pixels
from mousefacelift.geometry.views import look_at

SIZE, VOXEL = 64, 2.0
# A rod along y, from -40 to 40 mm.
ROD = np.array([[0.0, y, 0.0] for y in np.arange(-40, 41, VOXEL)], np.float32)


def picture(center, zoom=1.0, shift=0.0, leaves_picture=False, leaves_frame=False):
    """A raw camera that looks at the origin, and a view with another focal length; shift: of its principal point, px.

    The silhouette is all of the picture, so that it bounds nothing.
    """
    center = np.array(center, float)
    R = look_at(center, np.zeros(3))
    K = np.array([[1000.0, 0, 320 + shift], [0, 1000, 240], [0, 0, 1]])
    camera = Camera("a", 640, 480, K, np.zeros(14), R, -R @ center)
    view = View(R, np.array([200 * zoom, 200 * zoom, SIZE / 2, SIZE / 2]), SIZE)
    return Picture(camera, view, np.full((SIZE, SIZE), 255, np.uint8), leaves_picture, leaves_frame)


def column(y, zoom=1.0):
    """Where the camera at x = 300 mm sees a point of the rod."""
    return SIZE / 2 + 200 * zoom * y / 300


ALONG_X = (300, 0, 0)  # sees +y on its right
ALONG_Z = (1, 0, 300)


def test_what_one_picture_does_not_hold_is_unknown_in_the_others():
    narrow, wide = picture(ALONG_X, zoom=2, leaves_picture=True), picture(ALONG_X)
    in_narrow, in_wide = unknown_pixels([narrow, wide], ROD, VOXEL)
    half = 300 * SIZE / 2 / 400  # mm that the narrow one holds on each side
    row = in_wide[SIZE // 2]
    for y in np.arange(-40, 41, 4):
        if abs(abs(y) - half) > 2 * VOXEL:
            assert row[int(column(y))] == (abs(y) > half), y
    assert not in_wide[:28].any() and not in_wide[36:].any(), "above and below the rod"
    assert not in_narrow[:, 8:-8].any(), "what the narrow one shows it holds"


def test_nothing_is_unknown_where_every_picture_holds_all():
    assert not unknown_pixels([picture(ALONG_X), picture(ALONG_Z, zoom=0.5)], ROD, VOXEL).any()


@pytest.mark.parametrize("leaves_frame", [True, False])
def test_beyond_a_raw_frame_that_cuts_the_mouse_all_is_unknown(leaves_frame):
    """The frame ends at the column of y = 30 mm."""
    cut = picture(ALONG_X, shift=220, leaves_frame=leaves_frame)
    in_cut, in_whole = unknown_pixels([cut, picture(ALONG_X)], ROD, VOXEL)
    edge = column(300 * 100 / 1000)
    if not leaves_frame:
        assert not in_cut.any() and not in_whole.any()
        return
    assert in_cut[:, int(edge) + 1 :].all() and not in_cut[:, : int(edge) - 2].any()
    row = in_whole[SIZE // 2]
    assert row[int(column(36))] and not row[int(column(20))]
    assert not in_whole[:28].any(), "the other camera filmed the background"
