"""Masks that were made elsewhere become the lossless ones that the workflow reads."""

from dataclasses import replace

import av
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.masks.registry import form_of, open_masks
from mousefacelift.recordings.silhouettes.importing import import_masks
from mousefacelift.recordings.silhouettes.provided import silhouettes
from support.maskfiles import (
    FRAMES,
    H,
    W,
    blob,
    capture_of,
    coco,
    hdf5,
    image_folder,
    npz,
    numbers,
    other,
    sam2,
    stack,
)
from support.rodent import write_video

SETTINGS = Center(min_area_px=50)


def read(path):
    return np.stack([each.numbers() for each in open_masks(path).read(FRAMES, "", "rate", None, 1)])


@pytest.fixture
def imported(tmp_path):
    """imported(masks) -> the values written and what was said of them."""

    def run(masks, settings=SETTINGS, size=(W, H), **options):
        output = tmp_path / "out" / "1.mkv"
        (said,) = import_masks(capture_of(tmp_path, masks, size), (output,), settings, **options)
        with av.open(str(output)) as container:
            assert container.streams.video[0].codec_context.name == "ffv1"
        assert open_masks(output).length("rate", None) == len(FRAMES)
        return read(output), said

    return run


def test_a_mouse_of_any_form_is_written_as_white_on_black(imported, tmp_path):
    forms = [npz(tmp_path / "m.npz", masks=stack()), hdf5(tmp_path / "m.h5", masks=stack())]
    for path in forms:
        values, said = imported(path)
        np.testing.assert_array_equal(values, stack() * 255)
        assert said.form == form_of(path)
        np.testing.assert_array_equal(said.areas, stack().sum(axis=(1, 2)))


@pytest.mark.parametrize("make", [coco, sam2])
def test_one_animal_of_several_or_all_of_them(imported, tmp_path, make):
    path = make(tmp_path / "m.json")
    values, said = imported(path, SETTINGS.model_copy(update={"animal": 2}))
    np.testing.assert_array_equal(values, stack(other) * 255)
    assert said.areas[0] == said.missing == 0
    values, said = imported(path, keep_labels=True)
    np.testing.assert_array_equal(values, stack(numbers))
    assert said.animals == (1, 2)


def test_numbers_above_255_are_kept_in_16_bits_and_read_again(imported, tmp_path):
    path = sam2(tmp_path / "m.json", ids=(1, 300))
    values, _ = imported(path, keep_labels=True)
    np.testing.assert_array_equal(values, stack() + 300 * stack(other).astype(np.uint16))
    capture = replace(capture_of(tmp_path, tmp_path / "out" / "1.mkv"), label=300)
    masks = [mask > 127 for _, mask in silhouettes(capture, 0, FRAMES, SETTINGS)]
    np.testing.assert_array_equal(masks, stack(other))


def test_what_is_imported_is_what_the_source_gives_the_workflow(imported, tmp_path):
    values, _ = imported(npz(tmp_path / "m.npz", masks=stack()), size=(2 * W, 2 * H))
    capture = capture_of(tmp_path, tmp_path / "m.npz", (2 * W, 2 * H))
    np.testing.assert_array_equal(values, [mask for _, mask in silhouettes(capture, 0, FRAMES, SETTINGS)])


def test_inverted_masks_are_named_first_and_then_imported(imported, tmp_path):
    path = write_video(tmp_path / "m.mkv", [np.where(blob(k), 0, 255).astype(np.uint8) for k in FRAMES], "gray")
    with pytest.raises(UserError, match=r"set center\.masks_are: inverted"):
        imported(path)
    values, _ = imported(path, SETTINGS.model_copy(update={"masks_are": "inverted"}))
    np.testing.assert_array_equal(values, stack() * 255)


def test_frames_without_a_mask_are_an_error_or_by_choice_empty(imported, tmp_path):
    path = npz(tmp_path / "m.npz", **{f"f{k}": blob(k) for k in (0, 1, 4)})
    with pytest.raises(UserError, match="no mask of frame 2; --missing empty would write such frames without a mouse"):
        imported(path)
    values, said = imported(path, missing="empty")
    np.testing.assert_array_equal(values, stack() * np.uint8(255) * np.isin(FRAMES, (0, 1, 4))[:, None, None])
    assert said.missing == 2


def test_more_masks_than_frames_are_never_dropped(imported, tmp_path):
    masks = image_folder(tmp_path / "m", lambda k: blob(k).astype(np.uint8) * 255, frames=range(len(FRAMES) + 1))
    for missing in ("error", "empty"):
        with pytest.raises(
            UserError, match=r"the video has 5 frames, its masks 6|more masks than its video has frames"
        ):
            imported(masks, missing=missing)


def test_all_cameras_are_written_or_none(tmp_path):
    one = capture_of(tmp_path / "a", npz(tmp_path / "a.npz", masks=stack()))
    bad = npz(tmp_path / "b.npz", masks=np.concatenate([stack()[:4], stack(numbers)[4:]]))
    both = replace(one, cameras=("1", "2"), videos=one.videos * 2, masks=(*one.masks, bad), sync=(0, 0))
    outputs = (tmp_path / "out" / "1.mkv", tmp_path / "out" / "2.mkv")
    with pytest.raises(UserError, match="camera 2, frame 4: the mask holds values 0, 1 and 2"):
        import_masks(both, outputs, SETTINGS)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_that_is_read_is_replaced(tmp_path):
    path = write_video(tmp_path / "m.mkv", [blob(k).astype(np.uint8) * 255 for k in FRAMES], "gray")
    before = path.read_bytes()
    with pytest.raises(UserError, match="would replace a file that is read"):
        import_masks(capture_of(tmp_path, path), (tmp_path / "." / "m.mkv",), SETTINGS)
    with pytest.raises(UserError, match=r"in a \.mkv file"):
        import_masks(capture_of(tmp_path, path), (tmp_path / "m.mp4",), SETTINGS)
    assert path.read_bytes() == before
