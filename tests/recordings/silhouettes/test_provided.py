"""Masks that the captures table names, whatever they hold."""

from dataclasses import replace

import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.silhouettes.provided import identities, identity, silhouettes
from support.rodent import write_video

H, W, FRAMES = 48, 64, range(4)


def blob(frame=0):
    mask = np.zeros((H, W), bool)
    mask[10 : 26 + frame, 20:40] = True
    return mask


def other(frame=0):
    mask = np.zeros((H, W), bool)
    mask[34:46, 44 + frame : 60] = True
    return mask


def capture_of(folder, masks, **more) -> Capture:
    """A capture of one camera with grey pictures and these masks, a file or folder."""
    pictures = [np.full((H, W), 90 + k, np.uint8) for k in FRAMES]
    video = write_video(folder / "video.mkv", pictures, "gray")
    return Capture("m", "a", ("1",), (video,), (masks,), folder, "auto", None, "mm", (0,), {}, **more)


def labels(k):
    return blob(k) + 2 * other(k).astype(np.uint8)


def found(capture, **settings):
    return [mask > 127 for _, mask in silhouettes(capture, 0, FRAMES, Center(min_area_px=50, **settings))]


def test_of_labels_the_one_of_the_table_or_of_the_settings_is_the_mouse(tmp_path):
    capture = capture_of(tmp_path, write_video(tmp_path / "m.mkv", [labels(k) for k in FRAMES], "gray"))
    np.testing.assert_array_equal(found(capture, masks_are="labels", animal=2), [other(k) for k in FRAMES])
    np.testing.assert_array_equal(found(replace(capture, label=1), animal=2), [blob(k) for k in FRAMES])


def test_several_labels_without_a_choice_are_named(tmp_path):
    capture = capture_of(tmp_path, write_video(tmp_path / "m.mkv", [labels(k) for k in FRAMES], "gray"))
    with pytest.raises(UserError, match=r"camera 1, frame 0: .*labels 1, 2.*'label'.*center\.animal"):
        found(capture, masks_are="labels")


def test_a_single_label_is_the_mouse(tmp_path):
    masks = [blob(k).astype(np.uint8) * 3 for k in FRAMES]
    capture = capture_of(tmp_path, write_video(tmp_path / "m.mkv", masks, "gray"))
    np.testing.assert_array_equal(found(capture, masks_are="labels"), [blob(k) for k in FRAMES])


def test_identities_hold_all_animals_of_a_frame(tmp_path):
    capture = capture_of(tmp_path, write_video(tmp_path / "m.mkv", [labels(k) for k in FRAMES], "gray"), label=2)
    for k, (_, ids) in enumerate(identities(capture, 0, FRAMES, Center())):
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids, labels(k))
    assert identity(capture, Center()) == 2


def test_identities_of_plain_masks_are_one_mouse(tmp_path):
    masks = [blob(k).astype(np.uint8) * 255 for k in FRAMES]
    capture = capture_of(tmp_path, write_video(tmp_path / "m.mkv", masks, "gray"))
    for k, (_, ids) in enumerate(identities(capture, 0, FRAMES, Center())):
        np.testing.assert_array_equal(ids, blob(k))
    assert identity(capture, Center()) == 1
