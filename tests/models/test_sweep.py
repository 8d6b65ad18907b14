"""The plane sweep: what other views show at points of a pixel's ray."""

import numpy as np
import pytest
import torch

from mousefacelift.models.hull.guides import MARGIN
from mousefacelift.models.hull.sweep import DEPTHS, FEATURES, NEIGHBOURS, OWN, sweep
from mousefacelift.models.rays import pixel_rays
from support.balls import look_at_origin

SIZE = 24


def looking_at_the_origin(azimuths):
    """[V, 4, 4] camera to world, OpenCV axes."""
    return np.stack([look_at_origin(azimuth, 0.3, 2.5) for azimuth in azimuths])


def ramps(views, samples):
    """Views whose colours are where a pixel is: column, row, and which view of which sample; everything is the mouse's."""
    where = (torch.arange(SIZE) + 0.5) / SIZE
    column, row = where.expand(SIZE, SIZE), where[:, None].expand(SIZE, SIZE)
    which = torch.arange(samples * views).view(samples, views, 1, 1) / (samples * views)
    image = torch.stack([column.expand(samples, views, -1, -1), row.expand(samples, views, -1, -1)], dim=2)
    return torch.cat([image, which[:, :, None].expand(-1, -1, 1, SIZE, SIZE)], dim=2), torch.ones(
        samples, views, SIZE, SIZE
    )


@pytest.mark.parametrize("views", [1, 2, 5])
def test_points_of_a_ray_are_seen_where_they_project_in_the_views_that_look_alike(views):
    azimuths = np.array([[0.0, 1.1, 2.9, 3.6, 5.0], [0.4, 1.0, 2.1, 3.3, 5.5]])[:, :views]
    c2w = np.stack([looking_at_the_origin(each) for each in azimuths])
    focal = np.array([30.0, 31.0, 11.9, 12.1])  # of some views other points leave the picture
    image, alpha = ramps(views, 2)
    cameras = torch.tensor(c2w).float(), torch.tensor(focal).float().expand(2, views, 4)
    origins, directions = pixel_rays(*cameras, SIZE, SIZE)
    nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
    valid = torch.zeros(2, views, SIZE, SIZE, 1)
    chosen = [(b, v, row, col) for b in range(2) for v in range(views) for row, col in ((3, 20), (11, 7))]
    for b, v, row, col in chosen:
        valid[b, v, row, col] = 1
    front, back = torch.full_like(valid, -0.9), torch.full_like(valid, 0.7)
    shown, place = sweep(image, alpha, *cameras, nearest, directions, front, back, valid)
    assert shown.shape == (len(chosen), FEATURES) and int((place >= 0).sum()) == len(chosen)

    share = (np.arange(DEPTHS) + 0.5) / DEPTHS
    depths = -0.9 - MARGIN + share * (1.6 + 2 * MARGIN)
    for b, v, row, col in chosen:
        found = shown[int(place[b, v, row, col])].numpy()
        own = (*(2 * image[b, v, :, row, col] - 1), 1.0, -0.9, 0.7, 5 * 1.6)
        np.testing.assert_allclose(found[:OWN], own, atol=1e-5)
        pixel = np.array([(col + 0.5 - focal[2]) / focal[0], (row + 0.5 - focal[3]) / focal[1], 1])
        ray = c2w[b, v, :3, :3] @ (pixel / np.linalg.norm(pixel))
        centre = c2w[b, v, :3, 3]
        points = centre - (centre @ ray) * ray + depths[:, None] * ray
        angles = [
            np.arccos(np.clip(c2w[b, o, :3, 3] @ centre / np.linalg.norm(centre) ** 2, -1, 1)) for o in range(views)
        ]
        others = [o for o in np.argsort(angles) if o != v][:NEIGHBOURS]
        for n, other in enumerate(others):
            seen = found[OWN:].reshape(NEIGHBOURS, DEPTHS, 8)[n]
            inverse = np.linalg.inv(c2w[b, other])
            x, y, z = inverse[:3, :3] @ points.T + inverse[:3, 3:]
            column = np.clip(focal[0] * x / z + focal[2], 0.5, SIZE - 0.5) / SIZE
            line = np.clip(focal[1] * y / z + focal[3], 0.5, SIZE - 0.5) / SIZE
            expected = np.stack(
                [column, line, np.full(DEPTHS, (b * views + other) / (2 * views)), np.ones(DEPTHS)], axis=1
            )
            np.testing.assert_allclose(seen[:, :4], 2 * expected - 1, atol=2e-5)
            # Away from the edges a blurred ramp is the ramp.
            inner = (column > 0.2) & (column < 0.8) & (line > 0.2) & (line < 0.8)
            np.testing.assert_allclose(seen[inner, 4:], seen[inner, :4], atol=2e-5)
        assert not found[OWN + len(others) * DEPTHS * 8 :].any(), "neighbours that do not exist show nothing"


def test_without_a_foreground_there_is_nothing_to_look_up():
    image, alpha = ramps(3, 1)
    cameras = torch.tensor(looking_at_the_origin([0.0, 1.0, 2.0])).float()[None], torch.full((1, 3, 4), 20.0)
    origins, directions = pixel_rays(*cameras, SIZE, SIZE)
    nothing = torch.zeros(1, 3, SIZE, SIZE, 1)
    shown, place = sweep(image, alpha, *cameras, origins.expand_as(directions), directions, nothing, nothing, nothing)
    assert shown.shape == (0, FEATURES) and (place == -1).all()
