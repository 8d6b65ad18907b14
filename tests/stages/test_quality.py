"""Damaged masks of the demo, in one camera and in all: who is graded down, and what is drawn of it."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mousefacelift.config.cameras import Cameras
from mousefacelift.config.center import Center
from mousefacelift.recordings.silhouettes.sheet import OUTLINE, SECOND_OUTLINE
from mousefacelift.recordings.video import read_frames
from mousefacelift.stages import cameras as stage
from mousefacelift.stages.cameras import cameras
from mousefacelift.stages.center import center
from mousefacelift.stages.reports import print_run
from support.rodent import record, write_video

FRAMES = range(100, 112)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return record(tmp_path_factory.mktemp("short"), FRAMES)


def graded(capture, folder, damage, views):
    """The cameras' grades and reasons after the masks of some views were damaged."""
    masks = list(capture.masks)
    for v in views:
        images = [frame.gray() for _, frame in read_frames(masks[v], range(len(FRAMES)), "")]
        masks[v] = write_video(folder / f"damaged{v + 1}.mkv", [damage(image) for image in images], "gray")
    center(replace(capture, masks=tuple(masks)), 0, folder / "0000.h5", Center(), threads=2)
    cameras(capture, [folder / "0000.h5"], folder, Cameras())
    rows = json.loads((folder / "qc.json").read_text())["cameras"]
    return [row["silhouettes"]["grade"] for row in rows], [" ".join(row["silhouettes"]["reasons"]) for row in rows]


def grown(mask):
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))


def pierced(mask):
    """With one round hole of about a sixth of the mouse where it is thickest."""
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    row, column = np.unravel_index(np.argmax(distance), mask.shape)
    radius = min(np.sqrt(np.count_nonzero(mask) / 6 / np.pi), 0.95 * distance.max())
    return cv2.circle(mask.copy(), (int(column), int(row)), int(radius), 0, -1)


def with_shadow(mask):
    """With a blob on the floor beside the mouse, half as wide as it."""
    x, y, w, h = cv2.boundingRect(mask)
    return cv2.ellipse(mask.copy(), (x + w, y + h - h // 8), (w // 2, h // 8), 0, 0, 360, 255, -1)


def test_masks_that_are_too_large_in_one_camera_make_that_one_doubtful_and_are_drawn(short, tmp_path, capsys):
    grades, reasons = graded(short, tmp_path, grown, [2])
    assert grades == ["good", "good", "doubtful", "good", "good", "good"]
    assert "outside of the mouse's edge" in reasons[2]
    said = capsys.readouterr().err
    assert "some silhouettes are not to be trusted" in said and "worst.png" in said
    sheet = cv2.imread(str(tmp_path / "worst.png"))[..., ::-1]
    assert all((sheet == colour).all(-1).any() for colour in (OUTLINE, SECOND_OUTLINE))


def test_the_table_at_the_end_of_a_run_names_what_is_doubtful_and_is_quiet_otherwise(short, tmp_path, capsys):
    graded(short, tmp_path, grown, [2])
    capsys.readouterr()
    print_run([str(tmp_path / "qc.json"), str(tmp_path / "none.json")])
    assert "doubtful" in capsys.readouterr().err
    # The same files again with the masks as they are: what an earlier run drew is gone.
    center(short, 0, tmp_path / "0000.h5", Center(), threads=2)
    cameras(short, [tmp_path / "0000.h5"], tmp_path, Cameras())
    capsys.readouterr()
    print_run([str(tmp_path / "qc.json")])
    assert not capsys.readouterr().err and not (tmp_path / "worst.png").exists()


def test_masks_with_holes_are_bad_in_all_cameras(short, tmp_path):
    grades, reasons = graded(short, tmp_path, pierced, range(6))
    assert grades == ["bad"] * 6
    assert all("is holes" in reason for reason in reasons)


def test_a_shadow_in_one_camera_is_where_no_other_sees_a_mouse(short, tmp_path):
    grades, reasons = graded(short, tmp_path, with_shadow, [3])
    assert grades[3] != "good" and [grade for v, grade in enumerate(grades) if v != 3] == ["good"] * 5
    assert "no edge in the picture" in reasons[3] and "no other camera sees a mouse" in reasons[3]


def test_without_its_videos_the_worst_frames_are_drawn_from_the_crops(short, tmp_path):
    away = replace(short, videos=tuple(tmp_path / f"gone{v}.mkv" for v in range(6)))
    graded(short, tmp_path, grown, [2])
    first = (tmp_path / "worst.png").read_bytes()
    rig = stage.read_capture_rig(short)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "read_capture_rig", lambda capture: rig)
        cameras(away, [tmp_path / "0000.h5"], tmp_path, Cameras())
    sheet = cv2.imread(str(tmp_path / "worst.png"))[..., ::-1]
    assert (tmp_path / "worst.png").read_bytes() != first
    assert (sheet == OUTLINE).all(-1).any() and (sheet == 128).all(-1).any()
