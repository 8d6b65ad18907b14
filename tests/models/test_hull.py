"""Intervals of rays inside the hull are those of a plain march, and of closed forms where there are any."""

import numpy as np
import pytest
import torch

from mousefacelift.models.gslrm import pixel_rays
from mousefacelift.models.hull.api import intervals
from mousefacelift.models.hull.batched import intervals_batched
from support.balls import AZIMUTHS, ELEVATIONS, ball, look_at_origin

SIZE = 48
FOCAL = 1.6 * SIZE
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", [intervals, intervals_batched])
STEP = 2.7 / FOCAL / 2  # world units; at most so far apart are two points that are looked at


def cameras(count, distance=2.7):
    """c2w, w2c and fxfycxcy [1, I, ...] of the rig of `support.balls`."""
    c2w = torch.tensor(np.array([look_at_origin(AZIMUTHS[v], ELEVATIONS[v], distance) for v in range(count)]))
    fxfycxcy = torch.tensor([FOCAL, FOCAL, SIZE / 2, SIZE / 2]).expand(1, count, 4)
    return c2w.float()[None], torch.linalg.inv(c2w).float()[None], fxfycxcy


def scene(parts, count=5, distance=2.7):
    """alpha, c2w, w2c and fxfycxcy of balls (center, radius), seen by the first views of the rig."""
    c2w, w2c, fxfycxcy = cameras(count, distance)
    clear = np.ones((count, SIZE, SIZE))
    for center, radius in parts:
        for v in range(count):
            clear[v] *= 1 - ball(c2w[0, v].double().numpy(), fxfycxcy[0, v].numpy(), SIZE, center, radius)[..., 3] / 255
    return torch.tensor(1 - clear).float()[None], c2w, w2c, fxfycxcy


BODY = [(np.array([0.05, 0.0, 0.02]), 0.3), (np.array([-0.25, 0.1, -0.05]), 0.2), (np.array([0.4, 0.1, 0.1]), 0.06)]


def plain(alpha, c2w, w2c, fxfycxcy):
    """The definition, point by point, in float64."""
    _, views, size, _ = alpha.shape
    alpha, w2c, fxfycxcy = (tensor[0].double().numpy() for tensor in (alpha, w2c, fxfycxcy))
    origins, directions = (
        tensor[0].double().numpy() for tensor in pixel_rays(c2w, torch.tensor(fxfycxcy)[None], size, size)
    )
    centers = origins.reshape(views, 3)
    count = int(np.ceil(2 * 1.8 * 2 * (fxfycxcy[:, 0] / np.linalg.norm(centers, axis=1)).max()))
    s = (np.arange(count) + 0.5) * 3.6 / count - 1.8
    front, back = np.zeros((2, views, size, size))
    valid = np.zeros((views, size, size), bool)
    for v, row, col in np.argwhere(alpha >= 0.1):
        direction = directions[v, row, col]
        points = centers[v] - (centers[v] @ direction) * direction + s[:, None] * direction
        agree = np.zeros(count, int)
        for other in set(range(views)) - {v}:
            x, y, z = w2c[other, :3, :3] @ points.T + w2c[other, :3, 3:]
            fx, fy, cx, cy = fxfycxcy[other]
            u, w = (np.clip(np.floor(p), 0, size - 1).astype(int) for p in (fx * x / z + cx, fy * y / z + cy))
            agree += (z > 0) & (alpha[other, w, u] > 0.5)
        if agree.max() > (views - 1) / 2 or views == 1:
            there = np.flatnonzero(agree == agree.max())
            front[v, row, col], back[v, row, col], valid[v, row, col] = s[there[0]], s[there[-1]], True
    return front, back, valid


@IMPLEMENTATIONS
@pytest.mark.parametrize("views", [1, 2, 3, 5])
def test_the_interval_is_that_of_a_plain_march(implementation, views):
    given = scene(BODY, views)
    front, back, valid = (result[0].numpy() for result in implementation(*given))
    expected_front, expected_back, expected_valid = plain(*given)
    assert valid.sum() > 100 and np.array_equal(valid, expected_valid)
    # The reference rounds elsewhere: a point on the edge of a pixel may fall to the other side of it.
    for found, expected in ((front, expected_front), (back, expected_back)):
        assert np.mean(np.abs(found - expected)[valid] > STEP + 1e-5) < 0.002


def test_both_implementations_agree():
    given = scene(BODY)
    for one, other in zip(intervals(*given), intervals_batched(*given), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
