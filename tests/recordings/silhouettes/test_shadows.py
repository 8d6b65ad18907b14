"""Silhouettes that all cameras make together, of a white animal with a shadow on a white floor whose truth is known."""

from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from mousefacelift.config.center import Background, Center
from mousefacelift.geometry.camera import project
from mousefacelift.geometry.floor import shrunk
from mousefacelift.recordings.silhouettes import shadows
from mousefacelift.recordings.silhouettes.agreeing import agreeing_arenas
from mousefacelift.recordings.silhouettes.arena import estimate_background
from mousefacelift.recordings.silhouettes.background import segmenter
from support.maskdamage import demo_rig

SETTINGS = Background()
RIG = tuple(shrunk(camera, 2) for camera in demo_rig())[:5]
FLOOR_LUMA, FUR = 200, 185


@dataclass(frozen=True)
class Film:
    """n moments of V views: frames [H, W, 3] uint8 RGB, and the animal's true silhouettes [H, W] bool."""

    frames: list[list[np.ndarray]]
    truth: list[list[np.ndarray]]


def ellipsoid(place, turn):
    """Points [n, 3] of an animal's skin, 80 x 32 x 30 mm, standing on the floor z = 0."""
    angle, up = np.meshgrid(np.linspace(0, 2 * np.pi, 60), np.linspace(-np.pi / 2, np.pi / 2, 30))
    x, y, z = 40 * np.cos(up) * np.cos(angle), 16 * np.cos(up) * np.sin(angle), 15 + 15 * np.sin(up)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([c * x - s * y + place[0], s * x + c * y + place[1], z], axis=-1).reshape(-1, 3)


def filled(camera, points):
    pixels = project(points, camera)[0].astype(np.float32)
    mask = np.zeros((camera.height, camera.width), np.uint8)
    return cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(pixels - 0.5).astype(np.int32)), 1)


def film(count=12, shadow=0.5):
    random = np.random.default_rng(0)
    frames, truth = [], []
    for k in range(count):
        turn = 2 * np.pi * k / count
        place = 45 * np.cos(turn), 45 * np.sin(turn)
        skin = ellipsoid(place, turn + np.pi / 2)
        # Light from one side: the shadow lies beside the animal, larger than it, on the floor.
        cast = skin * [1.1, 1.4, 0] + [0.02 * place[0] + 14, 0.0, 0.0]
        views, masks = [], []
        for camera in RIG:
            fur = cv2.GaussianBlur(random.normal(0, 40, (camera.height, camera.width)).astype(np.float32), (0, 0), 1.5)
            mouse, shade = filled(camera, skin), filled(camera, cast).astype(np.float32)
            image = np.full((camera.height, camera.width), FLOOR_LUMA, np.float32)
            image *= 1 - shadow * cv2.GaussianBlur(shade, (0, 0), 6)
            image = np.where(mouse > 0, FUR + fur, image) + random.normal(0, 1, image.shape)
            views.append(np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=-1))
            masks.append(mouse > 0)
        frames.append(views)
        truth.append(masks)
    return Film(frames, truth)


@pytest.fixture(scope="module")
def white():
    return film()


@pytest.fixture(scope="module")
def arenas(white):
    """What each camera alone says of its arena, and what all cameras together make of it."""
    alone = [estimate_background([views[v] for views in white.frames], SETTINGS) for v in range(len(RIG))]

    def again(view, hidden):
        return estimate_background([views[view] for views in white.frames], SETTINGS, hidden)

    return alone, agreeing_arenas(alone, RIG, lambda: iter(white.frames), 12, again, SETTINGS)


def overlap(mask, truth):
    mask = mask > 127
    return np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth)


def test_a_shadow_that_each_camera_takes_for_the_animal_is_told_from_it_by_all(white, arenas):
    alone, together = arenas
    segments = [segmenter(arena, SETTINGS) for arena in alone]
    joint = shadows.together(together, RIG, Center(masks="background"))
    assert joint is not None
    before = [
        overlap(s(i), t) for k in range(12) for s, i, t in zip(segments, white.frames[k], white.truth[k], strict=True)
    ]
    after = [overlap(m, t) for k in range(12) for m, t in zip(joint(white.frames[k]), white.truth[k], strict=True)]
    assert np.mean(before) < 0.8 and np.mean(after) > 0.88


def test_the_floor_is_stored_with_every_camera(arenas):
    _, together = arenas
    for arena in together:
        assert np.degrees(np.arccos(arena["floor"][2])) < 1 and abs(arena["floor"][3]) < 1
        assert arena["fur"].shape == (shadows.LUMA_BINS,)


def test_a_missing_frame_has_no_silhouette_and_the_others_have_theirs(white, arenas):
    joint = shadows.together(arenas[1], RIG, Center(masks="background"))
    masks = joint([None, *white.frames[0][1:]])
    assert masks[0] is None
    assert all(overlap(m, t) > 0.7 for m, t in zip(masks[1:], white.truth[0][1:], strict=True))


def test_an_empty_arena_has_empty_silhouettes(arenas):
    joint = shadows.together(arenas[1], RIG, Center(masks="background"))
    masks = joint([arena["background"] for arena in arenas[1]])
    assert not any(mask.any() for mask in masks)


def test_the_same_frames_give_the_same_silhouettes(white, arenas):
    joint = shadows.together(arenas[1], RIG, Center(masks="background"))
    first = joint(white.frames[3])
    shifted = [np.ascontiguousarray(np.pad(image, ((0, 0), (3, 0), (0, 0)))[:, 3:]) for image in white.frames[3]]
    assert all((a == b).all() for a, b in zip(first, joint(shifted), strict=True))


def test_where_each_cameras_own_silhouettes_are_good_nothing_changes():
    dark = film(shadow=0.0)
    for views, masks in zip(dark.frames, dark.truth, strict=True):
        for image, mask in zip(views, masks, strict=True):
            image[mask] = 40
    alone = [estimate_background([views[v] for views in dark.frames], SETTINGS) for v in range(len(RIG))]
    together = agreeing_arenas(alone, RIG, lambda: iter(dark.frames), 12, None, SETTINGS)
    assert together is alone
    assert shadows.together(together, RIG, Center(masks="background")) is None
