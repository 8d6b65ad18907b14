"""The picture of held-out views that a run logs at every validation."""

import numpy as np
import pytest
import torch

from mousefacelift.training.pictures import GAP, SAMPLES, SIZE, VIEWS, pictured, strip


@pytest.mark.parametrize(("samples", "places"), [(1, {0}), (3, {0, 1, 2}), (4, {0, 1, 2, 3}), (10, {0, 2, 5, 7})])
def test_the_pictured_samples_are_spread_over_the_split(samples, places):
    assert pictured(samples) == places and len(places) <= SAMPLES


def test_a_strip_shows_image_prediction_and_error_below_each_other():
    size = 32
    image, rgb = torch.full((1, 3, size, size), 0.8), torch.full((1, 3, size, size), 0.8)
    rgb[..., : size // 2] = 0.2  # an error of 0.6, above the scale's end, on the left
    found = strip(rgb, image)
    tile = size + GAP
    assert found.shape == (3 * tile, tile, 3) and found.dtype == np.uint8
    target, drawn, error = (found[i * tile :][:size, :size].astype(int) for i in range(3))
    assert (target == 204).all() and (drawn[:, : size // 2] == 51).all() and (drawn[:, size // 2 :] == 204).all()
    assert (error[:, size // 2 :].sum(-1) < 10).all() and (error[:, : size // 2].sum(-1) > 500).all()
    assert (found[size:tile] == 255).all()


def test_a_strip_is_bounded_whatever_the_data():
    views = torch.rand(6, 3, 1024, 1024) * 3 - 1  # colours beyond the range are cut
    assert strip(views, views.clamp(0, 1)).shape == (3 * (SIZE + GAP), VIEWS * (SIZE + GAP), 3)
