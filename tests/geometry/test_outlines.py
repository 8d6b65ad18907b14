import cv2
import numpy as np
import pytest

from mousefacelift.geometry.outlines import edge, holes


def mouse(blur=0.0, inside=40, outside=200):
    mask = np.zeros((240, 300), np.uint8)
    cv2.ellipse(mask, (150, 120), (90, 50), 20, 0, 360, 255, -1)
    image = np.where(mask > 0, inside, outside).astype(np.float64)
    image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
    return np.rint(image).astype(np.uint8)[..., None].repeat(3, 2), mask


def grown(mask, px):
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(px) + 1,) * 2)
    return cv2.dilate(mask, kernel) if px > 0 else cv2.erode(mask, kernel)


@pytest.mark.parametrize("blur", [0, 1.5])
@pytest.mark.parametrize("px", [-3, -2, 0, 2, 3])
def test_the_pictures_edge_is_found_where_it_is_blurred_or_not(blur, px):
    image, mask = mouse(blur)
    assert edge(image, grown(mask, px) if px else mask).offset_px == pytest.approx(-px, abs=0.75)


def test_contrast_is_the_step_across_the_outline_and_does_not_depend_on_its_sign():
    assert edge(*mouse(inside=40, outside=100)).contrast == edge(*mouse(inside=100, outside=40)).contrast == 60


def test_an_outline_on_bare_floor_is_bare():
    image, mask = mouse()
    assert edge(image, mask).bare == 0
    shadow = mask.copy()
    cv2.circle(shadow, (240, 190), 30, 255, -1)
    assert 0.1 < edge(image, shadow).bare < 0.5
    plain = edge(np.full_like(image, 128), mask)
    assert plain.bare == 1 and plain.contrast == 0 and np.isnan(plain.offset_px)


def test_an_outline_along_the_pictures_border_tells_nothing():
    found = edge(np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 255, np.uint8))
    assert np.isnan([found.contrast, found.bare, found.offset_px]).all()


def test_holes_are_a_share_of_the_filled_silhouette():
    _, mask = mouse()
    assert holes(mask) == 0 == holes(np.zeros_like(mask))
    hollow = mask.copy()
    cv2.circle(hollow, (150, 120), 20, 0, -1)
    assert holes(hollow) == pytest.approx(1 - np.count_nonzero(hollow) / np.count_nonzero(mask))
