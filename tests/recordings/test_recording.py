"""A capture's recordings in step: common frames, late cameras, numbered images, and what does not fit together."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.reading import own_frames, read_camera
from mousefacelift.recordings.recording import capture_frames
from mousefacelift.recordings.video import Missing
from support.rodent import demo_capture, write_video

SETTINGS, SKIP = Center(), Center(on_bad_frame="skip")
SIZE = (32, 48)


def picture(k):
    return np.full(SIZE, 10 * k + 5, np.uint8)


def shown(frame):
    """Which picture a frame shows; None if it is missing."""
    return None if isinstance(frame, Missing) else round((int(frame.gray()[0, 0]) - 5) / 10)


def film(path, pictures, rate=20):
    return write_video(path, [picture(k) for k in pictures], "gray", rate)


def folder(path, numbers, first=0):
    """Images that show picture k at number k + first."""
    path.mkdir(parents=True)
    for k in numbers:
        cv2.imwrite(str(path / f"frame_{k + first:06d}.png"), picture(k))
    return path


def capture(videos, masks=None, sync=(0, 0), fps=20.0):
    demo = demo_capture()
    masks = videos if masks is None else masks
    return replace(
        demo, name="short", cameras=("1", "2"), videos=tuple(videos), masks=tuple(masks), fps=fps, sync=sync,
        calibration=demo.calibration[:2],
    )  # fmt: skip


def seen(capture, files, view, settings=SETTINGS):
    frames = capture_frames(capture, settings)
    return dict(zip(frames, map(shown, read_camera(capture, files, view, frames, settings)), strict=True))


def test_a_missing_first_image_is_missing_and_moves_no_other(tmp_path):
    whole = folder(tmp_path / "a", range(8))
    lacks = folder(tmp_path / "b", range(1, 8))
    one = capture([whole, lacks], masks=[whole, whole])
    assert seen(one, one.videos, 1, SKIP) == {0: None, **{k: k for k in range(1, 8)}}
    assert seen(one, one.masks, 1, SKIP) == {k: k for k in range(8)}
    with pytest.raises(
        UserError, match=r"(begin differently|differ in their number of frames|has 8 frames, its masks)"
    ):
        capture_frames(one, SETTINGS)


def test_numbers_in_names_that_begin_differently_are_an_error(tmp_path):
    early, late = folder(tmp_path / "a", range(8)), folder(tmp_path / "b", range(8), first=3)
    with pytest.raises(
        UserError, match=r"differ in their number of frames .*camera 1: 8, camera 2: 11|begin differently"
    ):
        capture_frames(capture([early, late]), SETTINGS)
    trimmed = folder(tmp_path / "c", range(3, 8))  # as long as the others, but without the first three
    with pytest.raises(UserError, match=r"begin differently \(.*a: 0, .*c: 3"):
        capture_frames(capture([early, trimmed], masks=[early, early]), SETTINGS)


def test_images_may_be_numbered_from_anywhere_if_all_are(tmp_path):
    one, two = (folder(tmp_path / name, range(8), first=31500) for name in "ab")
    video = film(tmp_path / "c.mkv", range(8))
    both = capture([one, two])
    assert capture_frames(both, SETTINGS) == range(8)
    assert seen(both, both.videos, 1) == {k: k for k in range(8)}
    mixed = capture([one, video], masks=[one, two])  # videos count from their first frame
    assert seen(mixed, mixed.videos, 1) == seen(mixed, mixed.masks, 1) == {k: k for k in range(8)}


@pytest.mark.parametrize("settings", [SETTINGS, SKIP])
def test_a_late_video_is_brought_into_step(tmp_path, settings):
    prompt, late = film(tmp_path / "a.mkv", range(8)), film(tmp_path / "b.mkv", [0, 0, 0, *range(8)])
    one = capture([prompt, late], sync=(0, 3))
    assert capture_frames(one, settings) == range(8)
    assert seen(one, one.videos, 1, settings) == seen(one, one.videos, 0, settings) == {k: k for k in range(8)}
    # The same, told of the other camera: the first three instants are the late one's alone.
    other = capture([prompt, late], sync=(-3, 0))
    assert capture_frames(other, settings).start == 3
    assert seen(other, other.videos, 1, settings)[5] == seen(other, other.videos, 0, settings)[5] == 2


def test_sync_explains_as_many_frames_as_it_says_and_no_more(tmp_path):
    long, short = film(tmp_path / "a.mkv", range(20)), film(tmp_path / "b.mkv", range(8))
    one = capture([long, short], sync=(0, 1))
    with pytest.raises(UserError, match=r"differ in their number of frames \(camera 1: 20, camera 2: 8\) by more than"):
        capture_frames(one, SETTINGS)
    frames = seen(one, one.videos, 1, SKIP)
    assert len(frames) == 20
    assert [k for k, s in frames.items() if s is None] == list(range(7, 20))
    assert capture_frames(capture([long, film(tmp_path / "c.mkv", range(18))], sync=(0, -2)), SETTINGS) == range(2, 20)


def test_a_sync_beyond_the_recording_leaves_nothing_in_common(tmp_path):
    one, two = (film(tmp_path / f"{name}.mkv", range(8)) for name in "ab")
    with pytest.raises(UserError, match=r"have no frame in common; look at the table's column 'sync': \(0, 5000\)"):
        capture_frames(capture([one, two], sync=(0, 5000)), SETTINGS)


def test_cameras_of_different_rates_are_an_error_that_says_what_to_set(tmp_path):
    one, two = film(tmp_path / "a.mkv", range(8)), film(tmp_path / "b.mkv", range(8), rate=30)
    different = capture([one, two])
    with pytest.raises(
        UserError, match=r"different frame rates, Hz \(camera 1: 20, camera 2: 30\).*center\.timing: index"
    ):
        capture_frames(different, SETTINGS)
    assert capture_frames(different, Center(timing="index")) == range(8)


def test_masks_of_another_size_are_known_before_anything_is_decoded(tmp_path):
    one = film(tmp_path / "a.mkv", range(8))
    half = write_video(tmp_path / "b.mkv", [picture(k)[:18, :24] for k in range(8)], "gray")
    with pytest.raises(UserError, match=r"camera 2: the video is 48x32 px, its masks 24x18 \(.*b\.mkv\)"):
        capture_frames(capture([one, one], masks=[one, half]), SETTINGS)


def test_an_image_of_another_size_or_depth_is_missing_and_named(tmp_path):
    images = folder(tmp_path / "a", range(6))
    cv2.imwrite(str(images / "frame_000002.png"), picture(2)[:16])
    cv2.imwrite(str(images / "frame_000003.png"), picture(3).astype(np.uint16) * 100)
    one = capture([images, images])
    frames = list(read_camera(one, one.videos, 0, range(6), SETTINGS))
    assert [shown(frame) for frame in frames] == [0, 1, None, None, 4, 5]
    assert "frame_000002.png: is 48x16 px, the first one 48x32" in frames[2].reason
    assert "frame_000003.png: has 16 bits per value" in frames[3].reason


def lacking(tmp_path, numbers):
    """A film of 8 frames and masks with these numbers."""
    return capture([film(tmp_path / "v.mkv", range(8))] * 2, masks=[folder(tmp_path / "m", numbers)] * 2)


@pytest.mark.parametrize(
    ("numbers", "first"), [(range(3, 8), 0), (range(2, 6), 0), (range(3, 9), 1), (range(5, 13), 5)]
)
def test_masks_that_begin_late_beside_a_video_are_never_laid_on_its_first_frames(tmp_path, numbers, first):
    one = lacking(tmp_path, numbers)
    assert len(capture_frames(one, SKIP)) == 8
    assert list(own_frames(one, one.masks[0], 0, range(8), SKIP)) == list(range(first, first + 8))
    if first < min(numbers):
        with pytest.raises(UserError, match=r"begin differently .*skip|has 8 frames, its masks"):
            capture_frames(one, SETTINGS)


@pytest.mark.parametrize("numbers", [range(1, 8), range(1, 5), range(15, 20)])
def test_masks_that_may_be_numbered_from_0_or_from_1_are_an_error(tmp_path, numbers):
    with pytest.raises(UserError, match=f"numbers run from {numbers[0]} to {numbers[-1]} and the videos have 8 frames"):
        capture_frames(lacking(tmp_path, numbers), SKIP)
