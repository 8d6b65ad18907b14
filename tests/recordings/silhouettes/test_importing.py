"""Masks that were made elsewhere become the lossless ones that the workflow reads."""

import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

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
from support.paths import ROOT
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


def test_the_documented_script_for_sam_2_makes_masks_that_are_imported(tmp_path, monkeypatch):
    """With a stand-in for SAM 2 that follows the brightest animals, and keeps to the interface of its video predictor."""
    script = re.search(
        r"```python\n(\"\"\"python sam2_masks\.py.*?)```", (ROOT / "docs" / "captures.md").read_text(), re.S
    )[1]
    pictures = [blob(k) * np.uint8(100) + other(k) * np.uint8(200) for k in FRAMES]
    capture = capture_of(tmp_path, tmp_path / "sam2")
    write_video(capture.videos[0], pictures, "gray")
    (tmp_path / "points.csv").write_text("frame,animal,x,y\n1,1,30,15\n1,2,55,40\n")

    class Predictor:
        def init_state(self, video_path, offload_video_to_cpu=False):
            paths = sorted(Path(video_path).iterdir(), key=lambda path: int(path.stem))
            return {"frames": [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths], "levels": {}}

        def add_new_points_or_box(self, inference_state, frame_idx, obj_id, points=None, labels=None):
            (x, y), *_ = points.astype(int)
            inference_state["levels"][obj_id] = inference_state["frames"][frame_idx][y, x]
            assert labels.tolist() == [1] * len(points)

        def add_new_mask(self, inference_state, frame_idx, obj_id, mask):
            inference_state["levels"][obj_id] = np.median(inference_state["frames"][frame_idx][mask])

        def propagate_in_video(self, inference_state, start_frame_idx=None, max_frame_num_to_track=None, reverse=False):
            frames, levels = inference_state["frames"], inference_state["levels"]
            for k in range(start_frame_idx, -1, -1) if reverse else range(start_frame_idx, len(frames)):
                logits = [30.0 - abs(frames[k].astype(float) - level) for level in levels.values()]
                yield k, list(levels), torch.tensor(np.array(logits))[:, None]

    module = types.ModuleType("sam2.build_sam")
    module.build_sam2_video_predictor = lambda config_file, ckpt_path, device: Predictor()
    monkeypatch.setitem(sys.modules, "sam2", types.ModuleType("sam2"))
    monkeypatch.setitem(sys.modules, "sam2.build_sam", module)
    arguments = [str(capture.videos[0]), str(tmp_path / "points.csv"), str(tmp_path / "sam2"), "config", "checkpoint"]
    monkeypatch.setattr(sys, "argv", ["sam2_masks.py", *arguments])
    for block in (300, 3):  # the second time in blocks, of which the later ones have no points of their own
        shutil.rmtree(tmp_path / "sam2", ignore_errors=True)
        exec(
            compile(script.replace("BLOCK = 300", f"BLOCK = {block}"), "sam2_masks.py", "exec"),
            {"__name__": "__main__"},
        )
        for keep, settings in ((True, SETTINGS), (False, SETTINGS.model_copy(update={"animal": 2}))):
            import_masks(capture, (tmp_path / "out.mkv",), settings, keep)
            truth = stack(numbers) if keep else stack(other) * 255
            assert np.mean(read(tmp_path / "out.mkv") != truth) < 0.01  # frames go to SAM 2 as JPEG
