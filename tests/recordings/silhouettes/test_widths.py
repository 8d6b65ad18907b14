"""How much too wide or narrow a silhouette is, on a disc in front of a plain arena."""

import cv2
import numpy as np
import pytest

from mousefacelift.recordings.silhouettes.widths import excess_width, signed_distance

SIZE, RADIUS = 200, 60


def disc(radius):
    return cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (SIZE // 2, SIZE // 2), radius, 1, -1)


def picture(mouse=40, arena=150, seed=0):
    noise = np.random.default_rng(seed).normal(0, 5, (SIZE, SIZE, 3))
    return np.clip(np.where(disc(RADIUS)[..., None] > 0, mouse, arena) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("excess", [-4, -3, -2, 2, 3, 4])
def test_the_error_of_a_silhouette_is_found(excess):
    assert excess_width(picture(), signed_distance(disc(RADIUS + excess))) == excess


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_an_error_of_a_pixel_is_none(excess):
    assert excess_width(picture(), signed_distance(disc(RADIUS + excess))) == 0


def test_without_contrast_nothing_is_said():
    assert excess_width(picture(arena=60), signed_distance(disc(RADIUS + 3))) == 0


def test_a_soft_shadow_around_the_mouse_is_no_part_of_it():
    image = picture().astype(float)
    shade = cv2.GaussianBlur(disc(RADIUS).astype(np.float32), (0, 0), 12)
    shadow = np.where(disc(RADIUS) > 0, 1, 1 - 0.7 * shade)
    image = np.clip(image * shadow[..., None], 0, 255).astype(np.uint8)
    assert excess_width(image, signed_distance(disc(RADIUS))) == 0
