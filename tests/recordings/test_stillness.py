"""Whether a mouse moves enough, from small synthetic films."""

import cv2
import numpy as np
import pytest

from mousefacelift.recordings.silhouettes.background import to_ycc
from mousefacelift.recordings.silhouettes.stillness import movement

WIDTH, HEIGHT = 320, 240
LEAST = 3e-5


def film(places, noise=2.0, fur=35, seed=0):
    """Frames [H, W, 3] Y Cr Cb of a textured floor; a textured ellipse at (x, y, angle) of each place, or none."""
    random = np.random.default_rng(seed)
    floor = 150 * (1 + 0.1 * cv2.GaussianBlur(random.normal(0, 5, (HEIGHT, WIDTH)), (0, 0), 2))
    frames = []
    for place in places:
        image = floor.copy()
        if place:
            x, y, angle = place
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.ellipse(mask, (round(x), round(y)), (32, 18), angle, 0, 360, 1, -1)
            image[mask > 0] = fur
        image += random.normal(0, noise, image.shape)
        frames.append(to_ycc(np.repeat(np.clip(np.rint(image), 0, 255).astype(np.uint8)[..., None], 3, 2)))
    return frames


def walk(count):
    turns = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(160 + 90 * np.cos(a), 120 + 60 * np.sin(a), np.rad2deg(a) + 90) for a in turns]


def trembling(count):
    random = np.random.default_rng(1)
    return [(100 + random.normal(0, 1.5), 120 + random.normal(0, 1.5), 20 + random.normal(0, 8)) for _ in range(count)]


@pytest.mark.parametrize("fur", [35, 230])
@pytest.mark.parametrize("share", [0.8, 0.9, 1.0])
def test_a_mouse_that_leaves_its_place_seldom_or_never_is_still(share, fur):
    sits = round(40 * share)
    found = movement(film(trembling(sits) + walk(40 - sits), fur=fur), LEAST)
    assert found.moves and found.still
    assert found.still_share == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    "places", [walk(40), trembling(20) + walk(20), trembling(24) + walk(16), [None] * 30 + walk(10)]
)
def test_a_mouse_that_walks_is_not_still_and_neither_is_one_that_is_out_of_view(places):
    found = movement(film(places), LEAST)
    assert found.moves and not found.still


def test_without_a_mouse_nothing_moves_though_the_light_flickers():
    frames = film([None] * 20)
    for k, frame in enumerate(frames):
        frame[..., 0] = np.rint(frame[..., 0] * (1 + 0.04 * (k % 2)))
    assert not movement(frames, LEAST).moves


def test_the_brightness_of_the_light_is_no_movement():
    frames = film(walk(30))
    bright = [
        np.dstack([np.rint(f[..., 0] * (1 + 0.05 * (k % 3))).astype(np.uint8), f[..., 1:]])
        for k, f in enumerate(frames)
    ]
    assert not movement(bright, LEAST).still


def test_a_few_frames_do_not_tell_whether_a_mouse_is_still():
    assert movement(film(trembling(12)), LEAST).still
    assert not movement(film(trembling(6)), LEAST).still
