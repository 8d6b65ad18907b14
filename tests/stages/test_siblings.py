"""Two mice in one arena, from label masks to their hulls: who is where, who hides whom, whose names were exchanged."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest

from mousefacelift.artifacts.center import CenteredChunk, Flag
from mousefacelift.artifacts.subject import Subject
from mousefacelift.base.errors import UserError
from mousefacelift.config.cameras import Cameras
from mousefacelift.config.center import Center
from mousefacelift.recordings import reading, video
from mousefacelift.recordings.masks import pictures
from mousefacelift.stages.cameras import cameras
from mousefacelift.stages.center import center
from mousefacelift.stages.preview import preview
from support.rodent import write_video
from support.twomice import two_mice

FRAMES = 10
OF_A_VIEW = ("center_px", "area_px", "support_px", "sharpness", "flags", "window", "crop_zstd")


@pytest.fixture(scope="module")
def mice(tmp_path_factory):
    """Two mice 130 to 150 mm apart, one of which passes behind the other in camera 4 and, less, in others."""
    return two_mice(tmp_path_factory.mktemp("mice"), begins=(25, 175), frames=FRAMES)


@pytest.fixture(scope="module")
def decoded():
    """How many frames of each file were decoded while `chunk` was made."""
    return Counter()


@pytest.fixture(scope="module")
def chunk(mice, decoded, tmp_path_factory):
    """The file of `center` for both mice."""
    path = tmp_path_factory.mktemp("center") / "0000.h5"

    def counting(file, *arguments):
        for each in video.read_frames(file, *arguments):
            decoded[file] += 1
            yield each

    with pytest.MonkeyPatch.context() as patch:
        for reader in (reading, pictures):
            patch.setattr(reader, "read_frames", counting)
        center(mice.captures[0], 0, path, Center(), threads=2, others=mice.captures[1:])
    return path


@pytest.fixture(scope="module")
def subjects(mice, chunk, tmp_path_factory):
    """What `cameras` says of each mouse."""
    folder = tmp_path_factory.mktemp("cameras")
    return [subject(capture, chunk, folder / capture.name) for capture in mice.captures]


def subject(capture, chunk, folder):
    cameras(capture, [chunk], folder, Cameras())
    return Subject.read(folder / "subject.h5")


def exchanged(chunk, target, frames, views):
    """A copy of the chunk in which the two mice bear each other's names in some frames and views."""
    shutil.copy(chunk, target)
    with h5py.File(target, "r+") as file:
        for name in OF_A_VIEW:
            one, another = (file[mouse][name] for mouse in ("mouse1", "mouse2"))
            before = one[()], another[()]
            for n in frames:
                for v in views:
                    one[n, v], another[n, v] = before[1][n, v], before[0][n, v]
    return target


def errors_mm(mice, subject, k):
    return np.linalg.norm(subject.center_mm - mice.center_mm[k], axis=1)


def report(folder):
    return json.loads((folder / "qc.json").read_text())


def test_videos_and_masks_are_decoded_once_for_all_animals(mice, chunk, decoded):
    videos, masks = mice.captures[0].videos, mice.captures[0].masks
    assert set(decoded) == {*videos, *masks}
    assert {decoded[path] for path in videos} == {FRAMES}
    assert {decoded[path] for path in masks} <= {FRAMES, FRAMES + 1}, "one mask may be looked at before"
    assert CenteredChunk.captures_in(chunk) == ("mouse1", "mouse2")


def test_a_mouse_in_company_is_measured_as_it_is_alone(mice, chunk, tmp_path):
    for capture in mice.captures:
        center(capture, 0, tmp_path / "alone.h5", Center(), threads=2)
        alone, together = CenteredChunk.read(tmp_path / "alone.h5"), CenteredChunk.read(chunk, capture.name)
        for name in OF_A_VIEW[:4]:
            np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))
        assert all(np.array_equal(*pair) for pair in zip(together.crop_zstd.flat, alone.crop_zstd.flat, strict=True))
        assert not (alone.flags & Flag.OCCLUDED).any()


def test_each_captures_hulls_are_those_of_its_mouse(mice, subjects):
    for k, found in enumerate(subjects):
        error = errors_mm(mice, found, k)
        print(f"mouse {k + 1}: centre: median {np.median(error):.2f} mm, at most {error.max():.2f} mm")
        assert np.median(error) <= 1.6 and error.max() <= 3
        assert (found.volume_mm3 > 20_000).all() and (found.volume_mm3 < 120_000).all()


def test_every_view_in_which_the_other_mouse_covers_one_is_flagged(mice, subjects):
    assert (mice.covered > 1000).any(), "no mouse hides the other"
    for covered, found in zip(mice.covered, subjects, strict=True):
        flagged = (found.flags & Flag.OCCLUDED) > 0
        assert flagged[covered > 0].all()
        assert np.isnan(found.hull_iou[flagged]).all(), "half a silhouette judges no hull"
        assert (found.hull_iou[~flagged] > 0.85).all()


def test_the_mouse_in_front_is_not_flagged(mice, subjects):
    behind = mice.covered[1, :, 3] > 1000
    assert not (subjects[0].flags[behind, 3] & Flag.OCCLUDED).any()


def test_hardly_a_view_is_flagged_in_which_no_mouse_hides_the_other(mice, subjects):
    extra = [((s.flags & Flag.OCCLUDED) > 0) & (c == 0) for c, s in zip(mice.covered, subjects, strict=True)]
    assert np.mean(extra) < 0.02


def test_an_exchange_in_one_camera_is_named_and_its_view_does_no_harm(mice, chunk, tmp_path, capsys):
    path = exchanged(chunk, tmp_path / "0000.h5", range(3, 6), [2])
    for k, capture in enumerate(mice.captures):
        found = subject(capture, path, tmp_path / capture.name)
        names = [mice.captures[k].name, mice.captures[1 - k].name]
        assert report(tmp_path / capture.name)["swaps"] == [
            {"camera": "3", "animals": names, "first_frame": 3, "last_frame": 5}
        ]
        assert np.argwhere(found.flags & Flag.EXCHANGED).tolist() == [[3, 2], [4, 2], [5, 2]]
        assert errors_mm(mice, found, k).max() <= 3
        assert np.isnan(found.residual_px[3:6, 2]).all()
    assert (
        "warning: capture mouse1: mouse1 and mouse2 are exchanged in camera 3 in frames 3 to 5"
        in capsys.readouterr().err
    )


def test_an_exchange_in_half_of_the_cameras_is_named_in_each(mice, chunk, tmp_path):
    path = exchanged(chunk, tmp_path / "0000.h5", range(2, 8), [1, 2, 5])
    subject(mice.captures[0], path, tmp_path)
    swaps = report(tmp_path)["swaps"]
    assert [swap["camera"] for swap in swaps] == ["2", "3", "6"]
    assert {(swap["first_frame"], swap["last_frame"]) for swap in swaps} == {(2, 7)}


def test_an_exchange_in_all_cameras_at_once_is_named(mice, chunk, tmp_path):
    path = exchanged(chunk, tmp_path / "0000.h5", range(4, 7), range(6))
    found = subject(mice.captures[1], path, tmp_path)
    assert report(tmp_path)["swaps"] == [
        {"camera": None, "animals": ["mouse2", "mouse1"], "first_frame": 4, "last_frame": 6}
    ]
    assert np.flatnonzero((found.flags & Flag.EXCHANGED).all(axis=1)).tolist() == [4, 5, 6]
    assert report(tmp_path)["jumps"] == [], "it is explained"


@pytest.mark.parametrize(
    ("frames", "views", "words"),
    [
        (range(5, FRAMES), [3], "in camera 4 in frames 5 to 9, the last one"),
        (range(FRAMES), [0], "in camera 1 in frames 0 to 9, the last one"),
        (range(5, FRAMES), range(6), "in all cameras at once in frames 5 to 9, the last one"),
    ],
)
def test_an_exchange_up_to_the_end_is_an_error_that_says_where_it_begins(mice, chunk, tmp_path, frames, views, words):
    path = exchanged(chunk, tmp_path / "0000.h5", frames, views)
    with pytest.raises(UserError, match=rf"(?s)capture mouse1: .*not known which names are right.*{words}"):
        subject(mice.captures[0], path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_true_mice_have_no_swaps_and_no_jumps(mice, chunk, tmp_path, capsys):
    subject(mice.captures[0], chunk, tmp_path)
    assert (report(tmp_path)["swaps"], report(tmp_path)["jumps"]) == ([], [])
    assert "warning: capture mouse1" not in capsys.readouterr().err


def test_masks_that_jump_to_another_animal_are_named_though_nobody_lists_that_one(mice, chunk, tmp_path, capsys):
    path = exchanged(chunk, tmp_path / "both.h5", range(5, FRAMES), range(6))
    CenteredChunk.read(path, "mouse1").write(tmp_path / "0000.h5")
    subject(mice.captures[0], tmp_path / "0000.h5", tmp_path)
    (jump,) = report(tmp_path)["jumps"]
    assert (jump["last_frame"], jump["next_frame"]) == (4, 5) and 120 < jump["distance_mm"] < 160
    assert "warning: capture mouse1: the mouse jumps by" in capsys.readouterr().err


def test_a_lost_frame_is_lost_for_all_animals(mice, tmp_path):
    first = [frame.rgb() for _, frame in video.read_frames(mice.captures[0].videos[0], range(3), "camera 1")]
    paths = (write_video(tmp_path / "video1.mkv", first, "bgr0"), *mice.captures[0].videos[1:])
    lost = [replace(capture, videos=paths) for capture in mice.captures]
    center(lost[0], 0, tmp_path / "0000.h5", Center(on_bad_frame="skip"), others=lost[1:])
    for capture in lost:
        flags = CenteredChunk.read(tmp_path / "0000.h5", capture.name).flags
        assert (flags[3:, 0] == Flag.MISSING | Flag.EMPTY).all() and not (flags[:, 1:] & Flag.EMPTY).any()


def test_a_preview_draws_each_animal_in_its_colour(mice, tmp_path):
    preview(mice.captures[0], tmp_path / "preview.png", Center(), others=mice.captures[1:])
    image = cv2.imread(str(tmp_path / "preview.png"))[..., ::-1]
    for colour in ((0, 255, 0), (255, 0, 255)):
        assert (image == colour).all(axis=-1).sum() > 1000
