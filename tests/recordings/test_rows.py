"""A capture's row of the table goes to its job as JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.rows import capture_from_json, capture_json
from support.rodent import demo_capture

DEMO = demo_capture()


def changed(**values):
    return json.dumps(json.loads(capture_json(DEMO)) | values)


@pytest.mark.parametrize(
    "capture",
    [
        DEMO,
        replace(DEMO, calibration=Path("a rig.json"), masks=(), fps=49.5, calibration_names={"1": "le'ft"}),
        replace(DEMO, label=0),
        replace(DEMO, sync=(0, -3, 2, 0, 0, 0), videos=tuple(Path(f"{{x}} \"$(y)'\n{k}") for k in range(6))),
    ],
)
def test_a_capture_is_the_same_after_a_row_whatever_its_files_are_called(capture):
    text = capture_json(capture)
    assert capture_from_json(text, "--row") == capture
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--row: not valid JSON"),
        ("[]", "--row: expected one JSON object with the keys animal, calibration, "),
        ("{}", "--row: expected one JSON object with the keys animal, calibration, "),
        (changed(extra=1), "--row: expected one JSON object with the keys animal, calibration, "),
        (changed(fps="fast"), "--row: fps: Input should be a valid number"),
        (changed(sync=[0.5] * 6), "--row: sync.0: Input should be a valid integer"),
        (changed(videos=["a.mp4"]), "--row: videos: 1 entries for 6 cameras"),
        (changed(masks=["a.mkv"]), "--row: masks: 1 entries for 6 cameras"),
        (changed(calibration=["a.mat"]), "--row: calibration: 1 entries for 6 cameras"),
    ],
)
def test_a_row_that_the_workflow_did_not_write_is_one_line(text, message):
    with pytest.raises(UserError) as caught:
        capture_from_json(text, "--row")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fps", -1),
        ("label", -1),
        ("label", 65535),
        ("fps", 0),
        ("unit", "furlong"),
        ("format", "mylab"),
        ("name", "../../etc"),
        ("cameras", []),
    ],
)
def test_what_the_table_may_not_hold_a_row_may_not_either(key, value):
    row = json.loads(capture_json(demo_capture())) | {key: value}
    with pytest.raises(UserError, match=f"--row: {key}: not what the captures table may hold"):
        capture_from_json(json.dumps(row), "--row")


def test_a_capture_without_a_label_has_the_row_of_a_version_without_labels():
    assert "label" not in json.loads(capture_json(DEMO))
    assert json.loads(capture_json(replace(DEMO, label=2)))["label"] == 2
