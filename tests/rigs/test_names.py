"""The cameras of a calibration are matched to those of the videos by name."""

from dataclasses import replace

import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.rigs.names import match_cameras
from support.rigs import PLAIN, SIZE, by_name


def called(*names):
    return tuple(
        replace(PLAIN[0], name=name, width=0, height=0, t=PLAIN[0].t + 100 * i) for i, name in enumerate(names)
    )


@pytest.mark.parametrize(
    ("capture", "calibration", "found"),
    [
        (["b", "a"], ["a", "b", "c"], ["b", "a"]),
        (["left"], ["Left", "right"], ["Left"]),
        (["1", "2"], ["Camera2", "Camera1"], ["Camera1", "Camera2"]),
        (["1"], ["cam_1", "cam_11"], ["cam_1"]),
        (["1", "11"], ["hires_cam11", "hires_cam1"], ["hires_cam1", "hires_cam11"]),
        (["Camera1"], ["1", "2"], ["1"]),
        (["E"], ["CameraE", "CameraS"], ["CameraE"]),
        (["1"], ["1", "cam1"], ["1"]),
        (["cam1"], ["Cam1", "front_cam1"], ["Cam1"]),
    ],
)
def test_cameras_are_matched_by_name(capture, calibration, found):
    rig_ = called(*calibration)
    matched = match_cameras(rig_, capture, [SIZE] * len(capture), "capture x")
    assert [c.name for c in matched] == capture
    assert [(c.width, c.height) for c in matched] == [SIZE] * len(capture)
    for camera, name in zip(matched, found, strict=True):
        np.testing.assert_array_equal(camera.t, by_name(rig_)[name].t)


@pytest.mark.parametrize(
    ("capture", "calibration", "problem"),
    [
        (["1"], ["cam11", "cam21"], "camera '1' is not in the calibration"),
        (["am"], ["cam"], "camera 'am' is not in the calibration"),
        (["1"], ["left1", "right1"], "camera '1' could be any of left1, right1"),
        (["a"], ["A", "a "], None),
        (["1", "cam1"], ["Cam1"], "cameras '1' and 'cam1' are both the calibration's 'Cam1'"),
    ],
)
def test_missing_and_ambiguous_cameras_list_both_sides(capture, calibration, problem):
    if problem is None:
        assert match_cameras(called(*calibration), capture, [SIZE], "capture x")[0].name == "a"
        return
    listing = f"the capture has {', '.join(capture)}; the calibration has {', '.join(calibration)}"
    with pytest.raises(UserError, match=f"^capture x: {problem}: {listing}$"):
        match_cameras(called(*calibration), capture, [SIZE] * len(capture), "capture x")


def test_aliases_name_what_no_rule_finds():
    matched = match_cameras(called("cam1", "cam2"), ["E", "2"], [SIZE] * 2, "x", {"E": "cam1"})
    assert [c.t[0] for c in matched] == [c.t[0] for c in called("cam1", "cam2")]
    with pytest.raises(UserError, match="camera 'E' is not in the calibration"):
        match_cameras(called("cam1"), ["E"], [SIZE], "x", {"E": "cam9"})


def test_another_resolution_is_noticed(capsys):
    with pytest.raises(
        UserError, match=r"calibrated at 1152x1024 px, but the video has 576x512 px.*another resolution"
    ):
        match_cameras(PLAIN[:1], ["cam_1"], [(576, 512)], "capture x")
    with pytest.raises(UserError, match=r"principal point \(.*\) lies outside the 320x240 px video"):
        match_cameras(called("cam_1"), ["cam_1"], [(320, 240)], "capture x")
    corner = (replace(called("cam_1")[0], K=np.array([[1500.0, 0, 11], [0, 1500, 1020], [0, 0, 1]])),)
    assert match_cameras(corner, ["cam_1"], [SIZE], "a principal point far off centre is rare, not wrong")
    assert "warning" not in capsys.readouterr().err
    beside = (replace(called("cam_1")[0], K=np.array([[5500.0, 0, 600], [0, 5500, 1560], [0, 0, 1]])),)
    assert match_cameras(beside, ["cam_1"], [SIZE], "capture x")
    assert "capture x: camera 'cam_1'" in (said := capsys.readouterr().err) and "(600.0, 1560.0) lies outside" in said
