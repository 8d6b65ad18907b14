import cv2
import numpy as np
import pytest

from mousefacelift.config.center import Center
from mousefacelift.recordings.silhouettes import moments as of_moments
from mousefacelift.stages import preview as stage
from mousefacelift.stages.preview import preview
from support.rodent import record


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return record(tmp_path_factory.mktemp("short"), range(100, 140, 5), views=(0, 1))


def drawn(capture, path, monkeypatch, settings=None):
    """The rows that are handed to the sheet, while the sheet is written too."""
    seen = {}

    def spy(output, rows, backgrounds, labels, worst):
        seen.update(rows=rows, labels=labels, worst=worst)
        return plain(output, rows, backgrounds, labels, worst)

    plain = stage.preview_sheet
    monkeypatch.setattr(stage, "preview_sheet", spy)
    preview(capture, path, settings or Center())
    assert cv2.imread(str(path)) is not None
    return seen


def test_the_preview_grades_each_camera_and_shows_its_worst_moment(short, tmp_path, monkeypatch):
    seen = drawn(short, tmp_path / "preview.png", monkeypatch)
    assert list(seen["rows"]) == list(short.cameras)
    assert all(label.startswith("good by the pictures alone") for label in seen["labels"].values())
    assert set(seen["worst"]) == set(short.cameras)


def changed_masks(monkeypatch, change):
    """The provided masks, each changed by a function of the frame's number and the mask."""
    plain = of_moments.method

    class Changed:
        together = None

        @staticmethod
        def silhouettes(capture, view, frames, settings, threads=1, arena=None):
            found = plain("provided").silhouettes(capture, view, frames, settings)
            for index, (frame, mask) in zip(frames, found, strict=True):
                yield frame, change(index, mask)

    monkeypatch.setattr(of_moments, "method", lambda name: Changed)


def test_hollow_masks_are_called_bad_and_the_hollowest_moment_is_the_worst(short, tmp_path, monkeypatch):
    def hollow(index, mask):
        wall = 31 if index == 3 else 51
        return mask - cv2.erode(mask, np.ones((wall, wall), np.uint8))

    changed_masks(monkeypatch, hollow)
    seen = drawn(short, tmp_path / "preview.png", monkeypatch)
    assert all(label.startswith("bad") and "holes" in label for label in seen["labels"].values())
    assert all(tile.frame == 3 for tile in seen["worst"].values())


def test_a_camera_without_a_mouse_is_named(short, tmp_path, monkeypatch, capsys):
    changed_masks(monkeypatch, lambda index, mask: np.zeros_like(mask))
    preview(short, tmp_path / "preview.png", Center())
    assert "camera 1: no mouse was found" in capsys.readouterr().err
