"""The empty arena, where the mouse does not leave its place: 20 frames of the demo in which it grooms."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mousefacelift.artifacts.center import Arenas
from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Background, Center
from mousefacelift.recordings.silhouettes.arena import estimate_background
from mousefacelift.recordings.silhouettes.background import segmenter
from mousefacelift.recordings.video import read_frames
from mousefacelift.stages.background import background, spread
from support.rodent import demo_capture, record, write_video

STAYS = range(46, 86, 2)
VIEWS = (0, 1, 4)


def with_masks(**settings):
    return Center(masks="background", background=Background(**settings))


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    return record(tmp_path_factory.mktemp("still"), STAYS, views=VIEWS)


@pytest.fixture(scope="module")
def empty(tmp_path_factory, still):
    """A folder with a picture of the demo's empty arena for each camera."""
    folder = tmp_path_factory.mktemp("empty")
    for v, name in zip(VIEWS, still.cameras, strict=True):
        frames = [frame.rgb() for _, frame in read_frames(demo_capture().videos[v], range(2, 200, 8), "")]
        picture = estimate_background(frames, Background())["background"]
        assert cv2.imwrite(str(folder / f"empty-{name}.png"), picture[..., ::-1])
    return folder


def overlaps(capture, arenas, settings):
    found = []
    for name, video, masks in zip(capture.cameras, capture.videos, capture.masks, strict=True):
        segment = segmenter(arenas.models[name], settings.background)
        for (_, frame), (_, mask) in zip(
            read_frames(video, range(20), ""), read_frames(masks, range(20), ""), strict=True
        ):
            one, truth = segment(frame.rgb()) > 127, mask.gray() > 127
            found.append(np.count_nonzero(one & truth) / np.count_nonzero(one | truth))
    return float(np.mean(found))


def test_a_mouse_that_stays_in_its_place_is_said_of_every_camera_at_once_with_the_remedies(still, tmp_path):
    with pytest.raises(UserError) as error:
        background(still, tmp_path / "b.h5", with_masks())
    text = str(error.value)
    for name in still.cameras:
        assert f"camera {name}: the mouse sat still in 100 % of the frames looked at" in text
    assert "center.background.image" in text and "center.background.capture" in text
    assert not (tmp_path / "b.h5").exists()


def test_with_a_picture_of_the_empty_arena_a_mouse_that_stays_is_found(still, empty, tmp_path):
    settings = with_masks(image=f"{empty}/empty-{{camera}}.png")
    background(still, tmp_path / "b.h5", settings)
    assert overlaps(still, Arenas.read(tmp_path / "b.h5", still.name, still.cameras), settings) > 0.88


def test_a_darker_film_of_the_empty_arena_serves_too(still, empty, tmp_path):
    for name in still.cameras:
        picture = cv2.imread(str(empty / f"empty-{name}.png"))[..., ::-1]
        noise = np.random.default_rng(0).normal(0, 2, (6, *picture.shape))
        images = [np.clip(0.85 * picture + each, 0, 255).astype(np.uint8) for each in noise]
        write_video(tmp_path / f"film-{name}.mkv", images, "bgr0")
    settings = with_masks(image=f"{tmp_path}/film-{{camera}}.mkv")
    background(still, tmp_path / "b.h5", settings)
    assert overlaps(still, Arenas.read(tmp_path / "b.h5", still.name, still.cameras), settings) > 0.88


def test_with_another_capture_of_the_rig_a_mouse_that_stays_is_found(still, tmp_path):
    other = record(tmp_path / "other", range(100, 200, 5), views=VIEWS, name="walks")
    settings = with_masks(capture="walks")
    background(still, tmp_path / "b.h5", settings, other=other)
    assert overlaps(still, Arenas.read(tmp_path / "b.h5", still.name, still.cameras), settings) > 0.85


def test_pictures_and_captures_that_do_not_fit_are_named(still, empty, tmp_path):
    def refused(match, other=None, **settings):
        with pytest.raises(UserError, match=match):
            background(still, tmp_path / "b.h5", with_masks(**settings), other=other)

    refused("must hold {camera}", image=f"{empty}/empty-1.png")
    refused("camera 1: no such file", image=f"{empty}/none-{{camera}}.png")
    small = np.zeros((100, 200, 3), np.uint8)
    for name in still.cameras:
        cv2.imwrite(str(tmp_path / f"small-{name}.png"), small)
    refused("is 200x100 px, the video 1152x1024", image=f"{tmp_path}/small-{{camera}}.png")
    fewer = replace(
        still, name="fewer", cameras=still.cameras[:2], videos=still.videos[:2], masks=still.masks[:2], sync=(0, 0)
    )
    refused("its cameras are 1, 2, not 1, 2, 5", capture="fewer", other=fewer)
    with pytest.raises(ValueError, match="set one of them"):
        Background(image="a", capture="b")


def test_a_recording_without_a_mouse_is_named(still, empty, tmp_path):
    videos = []
    for name in still.cameras:
        picture = cv2.imread(str(empty / f"empty-{name}.png"))[..., ::-1]
        videos.append(write_video(tmp_path / f"video{name}.mkv", [picture] * 6, "bgr0"))
    with pytest.raises(
        UserError, match="nothing moved in any of the frames looked at, in any camera: is there a mouse"
    ):
        background(replace(still, videos=tuple(videos)), tmp_path / "b.h5", with_masks())


def test_the_background_is_made_of_no_more_frames_than_asked_for():
    for total in (7, 60, 61, 119, 120, 121, 2758):
        frames = spread(range(total), 60)
        assert min(total, 30) <= len(frames) <= 60
        assert frames[0] < frames.step and total - 1 - frames[-1] < frames.step
