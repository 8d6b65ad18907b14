"""Intervals of rays inside the hull are those of a plain march, and of closed forms where there are any."""

from itertools import product

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from mousefacelift.models.hull.api import intervals
from mousefacelift.models.hull.batched import intervals_batched
from mousefacelift.models.hull.surface import hull_gaussians
from mousefacelift.models.rays import pixel_rays
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


def plain(alpha, c2w, w2c, fxfycxcy, unknown=None):
    """The definition, point by point, in float64."""
    _, views, size, _ = alpha.shape
    alpha, w2c, fxfycxcy = (tensor[0].double().numpy() for tensor in (alpha, w2c, fxfycxcy))
    origins, directions = (
        tensor[0].double().numpy() for tensor in pixel_rays(c2w, torch.tensor(fxfycxcy)[None], size, size)
    )
    centers = origins.reshape(views, 3)
    possible = alpha > 0.5 if unknown is None else (alpha > 0.5) | unknown[0].numpy()
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
            agree += (z > 0) & possible[other, w, u]
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


@pytest.mark.parametrize("seed", range(8))
def test_both_implementations_pass_over_nothing_whatever_the_silhouettes_and_cameras(seed):
    """Blobs that agree on nothing, cameras near and far, turned aside, within the reach of the rays, with any focal length.

    Both pass over points, for different reasons.
    """
    random = np.random.default_rng(seed)
    views = int(random.integers(2, 6))
    noise = cv2.GaussianBlur(random.uniform(size=(SIZE, SIZE, views)), None, random.uniform(0.5, 4))
    alpha = torch.tensor(noise > np.quantile(noise, random.uniform(0.3, 0.98))).float().movedim(-1, 0)[None]
    c2w = np.array([look_at_origin(*random.uniform(-1.4, 1.4, 2), random.uniform(0.4, 4)) for _ in range(views)])
    c2w[:, :3, 3] += random.normal(0, 0.2, (views, 3))
    focal = random.uniform(0.5, 4, (views, 1)) * SIZE
    fxfycxcy = torch.tensor(np.hstack([focal, 1.1 * focal, random.uniform(0, SIZE, (views, 2))])).float()[None]
    c2w = torch.tensor(c2w).float()[None]
    given = alpha.reshape(1, views, SIZE, SIZE), c2w, torch.linalg.inv(c2w), fxfycxcy
    (front, back, valid), (other_front, other_back, other_valid) = intervals(*given), intervals_batched(*given)
    assert torch.equal(valid, other_valid) and valid.any()
    # Lines that differ in their last bit may pass a pixel's corner on different sides.
    assert (front != other_front).float().mean() < 1e-3 and (back != other_back).float().mean() < 1e-3


@IMPLEMENTATIONS
def test_a_sample_has_the_same_intervals_alone_and_in_a_batch(implementation):
    """The other sample's cameras are nearer, so that its rays have more points."""
    samples = [scene(BODY), scene(BODY[:1], distance=1.9)]
    together = implementation(*(torch.cat(tensors) for tensors in zip(*samples, strict=True)))
    for place, sample in enumerate(samples):
        for one, many in zip(implementation(*sample), together, strict=True):
            assert torch.equal(one[0], many[place])


def lines(c2w, w2c, fxfycxcy, view):
    """A view's rays in the world, points [S, S, 3] and unit directions, and camera matrices [I, 3, 4]; float64."""
    origins, directions = (t[0, view].double().numpy() for t in pixel_rays(c2w, fxfycxcy, SIZE, SIZE))
    nearest = origins - (origins * directions).sum(-1, keepdims=True) * directions
    K = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    return nearest, directions, K @ w2c[0, :, :3].double().numpy()


def extent(candidates, is_inside):
    """First and last of the candidates that is inside a closed set whose parts they bound; None if none is."""
    inside = [s for s in candidates if abs(s) <= 1.8 and is_inside(s)]
    return (min(inside), max(inside)) if inside else None


def cone_extent(nearest, direction, centers, center, radius, grown):
    """A ray's extent inside the cones from the cameras' centers around a ball, each wider by `grown` px; closed form."""
    cones = []
    for C in centers:
        axis = (center - C) / np.linalg.norm(center - C)
        angle = np.arcsin(radius / np.linalg.norm(center - C)) + grown / FOCAL
        cones.append((nearest - C, axis, np.cos(angle)))
    candidates = [-1.8, 1.8]
    for q, axis, cosine in cones:
        # (x . axis)^2 = cos^2 |x|^2 at x = q + s d
        along, start = direction @ axis, q @ axis
        square = along**2 - cosine**2, 2 * (along * start - cosine**2 * (q @ direction)), start**2 - cosine**2 * (q @ q)
        candidates += [root.real for root in np.roots(square) if abs(root.imag) < 1e-12]

    def is_inside(s):
        points = [(q + s * direction, axis, cosine) for q, axis, cosine in cones]
        return all(x @ axis >= cosine * np.linalg.norm(x) - 1e-6 for x, axis, cosine in points)

    return extent(candidates, is_inside)


def assert_between(found, valid, narrow, wide):
    """Where the closed form has an interval, the one found holds the narrow one and is held by the wide one."""
    seen = 0
    for row, col in np.argwhere(valid.numpy()):
        front, back = (float(ends[row, col]) for ends in found)
        inner, outer = narrow(row, col), wide(row, col)
        if inner:
            seen += 1
            assert front <= inner[0] + STEP and back >= inner[1] - STEP
            assert front >= outer[0] - STEP and back <= outer[1] + STEP
    assert seen > 50


@IMPLEMENTATIONS
def test_a_balls_intervals_are_those_of_the_cones_around_it(implementation):
    center, radius = np.array([0.05, -0.04, 0.02]), 0.4
    alpha, c2w, w2c, fxfycxcy = scene([(center, radius)])
    front, back, valid = (result[0] for result in implementation(alpha, c2w, w2c, fxfycxcy))
    nearest, directions, _ = lines(c2w, w2c, fxfycxcy, 1)
    centers = np.delete(c2w[0, :, :3, 3].double().numpy(), 1, axis=0)

    def closed(grown):
        return lambda row, col: cone_extent(nearest[row, col], directions[row, col], centers, center, radius, grown)

    assert_between((front[1], back[1]), valid[1], closed(-1), closed(1))


BOXES = [((-0.45, -0.15, -0.2), (-0.15, 0.15, 0.1)), ((0.1, -0.1, -0.2), (0.45, 0.2, 0.25))]


def outlines(P):
    """The boxes' outlines in a view: per box, edges [E, 3] with edge . (col, row, 1) = px inside the edge."""
    found = []
    for low, high in BOXES:
        corners = np.array([[x, y, z, 1] for x, y, z in product(*zip(low, high, strict=True))]) @ P.T
        equations = ConvexHull(corners[:, :2] / corners[:, 2:]).equations  # outward unit normals
        found.append(-equations)
    return found


@IMPLEMENTATIONS
def test_the_intervals_of_two_boxes_are_those_of_their_outlines(implementation):
    """A ray's image is a line, and an outline's edge bounds it where a linear function of s is zero."""
    c2w, w2c, fxfycxcy = cameras(5)
    nearest, directions, P = lines(c2w, w2c, fxfycxcy, 0)
    col, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    pixels = np.stack([col, row, np.ones_like(col)], -1)
    alpha = np.stack([np.any([(pixels @ edges.T >= 0).all(-1) for edges in outlines(p)], axis=0) for p in P])
    front, back, valid = (result[0] for result in implementation(torch.tensor(alpha).float()[None], c2w, w2c, fxfycxcy))
    others = [(p, outlines(p)) for p in P[1:]]

    def closed(grown):
        def ends(row, col):
            candidates, views = [-1.8, 1.8], []
            for p, boxes in others:
                a, b = p[:, :3] @ nearest[row, col] + p[:, 3], p[:, :3] @ directions[row, col]
                # px inside the edge, times the depth, wherever the edge lies `grown` px farther out
                linear = [(edges @ a + grown * a[2], edges @ b + grown * b[2]) for edges in boxes]
                views.append(linear)
                candidates += [s for start, slope in linear for s in -start / slope]
            return extent(
                candidates,
                lambda s: all(any((start + s * slope >= -1e-9).all() for start, slope in boxes) for boxes in views),
            )

        return ends

    # A point's pixel may have its centre 0.71 px away.
    assert_between((front[0], back[0]), valid[0], closed(-0.75), closed(0.75))


@IMPLEMENTATIONS
def test_a_world_turned_about_z_has_the_same_intervals(implementation):
    alpha, c2w, w2c, fxfycxcy = scene(BODY)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    front, back, valid = implementation(alpha, c2w, w2c, fxfycxcy)
    turned = implementation(alpha, turn @ c2w, w2c @ turn.T, fxfycxcy)
    assert torch.equal(turned[2], valid)
    # Rounding may carry a point over the edge of a pixel.
    for one, other in zip(turned, (front, back), strict=False):
        assert ((one - other).abs()[valid] < STEP).float().mean() > 0.998


@IMPLEMENTATIONS
def test_a_view_says_nothing_of_its_own_intervals(implementation):
    alpha, *others = scene(BODY)
    changed = alpha.clone()
    changed[0, 2] = 1 - alpha[0, 2]
    kept = (alpha[0, 2] >= 0.1) & (changed[0, 2] >= 0.1)
    assert kept.sum() > 20
    for one, other in zip(implementation(alpha, *others), implementation(changed, *others), strict=True):
        assert torch.equal(one[0, 2][kept], other[0, 2][kept])


@IMPLEMENTATIONS
def test_a_tail_that_one_view_misses_keeps_its_interval_and_one_that_two_miss_does_not(implementation):
    tail = (np.array([0.05, 0.0, 0.5]), 0.08)  # every view sees it above the body
    given, without = scene([*BODY[:2], tail]), scene(BODY[:2])[0]
    seen = ((given[0] > 0.99) & (without < 0.1))[0, 0]
    whole, _, _ = implementation(*given)
    for missing, expected in (([3], True), ([3, 4], False)):
        alpha = given[0].clone()
        alpha[0, missing] = without[0, missing]
        front, _, valid = implementation(alpha, *given[1:])
        assert seen.sum() > 3 and (valid[0, 0][seen] == expected).all()
        if expected:
            assert ((front - whole).abs()[0, 0][seen] < 0.06).all()  # the three others know its depth as well


@IMPLEMENTATIONS
@pytest.mark.parametrize("touching", [True, False])
def test_beyond_an_images_edge_a_silhouette_goes_on_only_if_it_touches_the_edge(implementation, touching):
    """Two cameras at right angles; the other one, turned aside, sees at its edge where the mouse leaves the image."""
    c2w = torch.tensor(np.array([look_at_origin(0, 0, 2.7), look_at_origin(np.pi / 2, 0, 2.7)])).float()
    fxfycxcy = torch.tensor([[FOCAL, FOCAL, SIZE / 2, SIZE / 2], [FOCAL, FOCAL, -3.0, SIZE / 2]])
    alpha = torch.zeros(1, 2, SIZE, SIZE)
    alpha[0, 0, SIZE // 2, SIZE // 2] = 1
    alpha[0, 1, SIZE // 2 - 2 : SIZE // 2 + 3, 0 if touching else 1] = 1
    _, _, valid = implementation(alpha, c2w[None], torch.linalg.inv(c2w)[None], fxfycxcy[None])
    assert valid[0, 0, SIZE // 2, SIZE // 2]  # it passes the columns 0 and 1, too
    front, back, _ = implementation(alpha, c2w[None], torch.linalg.inv(c2w)[None], fxfycxcy[None])
    ends = front[0, 0, SIZE // 2, SIZE // 2], back[0, 0, SIZE // 2, SIZE // 2]
    assert (1.8 - max(map(abs, ends)) < STEP) == touching


@IMPLEMENTATIONS
def test_a_ray_that_passes_close_to_a_camera_finds_a_narrow_silhouette(implementation):
    """It crosses that image in a few dozen points, so that neighbours are several pixels apart."""
    c2w = torch.tensor(np.array([look_at_origin(0, 0, 2.7), look_at_origin(np.pi / 2, 0, 0.8)])).float()
    fxfycxcy = torch.tensor([FOCAL, FOCAL, SIZE / 2, SIZE / 2]).expand(1, 2, 4)
    row, col = SIZE // 2, SIZE // 2 + 20  # of a ray that passes 0.08 before the second camera
    for start in range(0, SIZE - 5, 4):
        alpha = torch.zeros(1, 2, SIZE, SIZE)
        alpha[0, 0, row, col], alpha[0, 1, :, start : start + 5] = 1, 1
        given = alpha, c2w[None], torch.linalg.inv(c2w)[None], fxfycxcy
        front, back, valid = implementation(*given)
        expected_front, expected_back, expected_valid = plain(*given)
        assert valid[0, 0, row, col] and expected_valid[0, row, col]
        assert front[0, 0, row, col] == pytest.approx(expected_front[0, row, col], abs=1e-5)
        assert back[0, 0, row, col] == pytest.approx(expected_back[0, row, col], abs=1e-5)


@IMPLEMENTATIONS
def test_what_lies_behind_a_camera_is_outside_its_silhouette(implementation):
    """The second camera stands on the first one's axis and looks the same way: it sees only what is before it."""
    c2w = torch.tensor(np.array([look_at_origin(0, 0, 2.7), look_at_origin(0, 0, 0.5)])).float()
    fxfycxcy = torch.tensor([FOCAL, FOCAL, SIZE / 2, SIZE / 2]).expand(1, 2, 4)
    front, back, valid = implementation(torch.ones(1, 2, SIZE, SIZE), c2w[None], torch.linalg.inv(c2w)[None], fxfycxcy)
    middle = 0, 0, SIZE // 2, SIZE // 2
    assert (
        valid[middle]
        and front[middle] == pytest.approx(-0.5, abs=STEP)
        and back[middle] == pytest.approx(1.8, abs=STEP)
    )


@IMPLEMENTATIONS
def test_without_a_foreground_there_are_no_intervals(implementation):
    _, *rest = scene(BODY)
    front, back, valid = implementation(torch.zeros(1, 5, SIZE, SIZE), *rest)
    assert not valid.any() and not front.any() and not back.any()


def test_the_hulls_gaussians_stand_for_their_pixels():
    """They lie on the rays inside the intervals, and have the colours that white was mixed into."""
    alpha, c2w, w2c, fxfycxcy = scene(BODY)
    colors = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image = alpha[0, :, None] * colors + 1 - alpha[0, :, None]
    gaussians = hull_gaussians(image, alpha[0], c2w[0], w2c[0], fxfycxcy[0])
    front, back, valid = intervals(alpha, c2w, w2c, fxfycxcy)
    drawn = (valid & (alpha > 0.5))[0]
    xyz, _, scales, opacities, rgb = gaussians.activated(0)
    assert len(xyz) == drawn.sum() > 500
    view, row, col = drawn.nonzero().unbind(-1)
    points = (w2c[0, view] @ torch.cat([xyz, torch.ones(len(xyz), 1)], -1)[..., None])[..., 0]
    pixels = FOCAL * points[:, :2] / points[:, 2:3] + SIZE / 2
    torch.testing.assert_close(pixels, torch.stack([col, row], -1) + 0.5, atol=1e-3, rtol=0)
    _, directions = pixel_rays(c2w, fxfycxcy, SIZE, SIZE)
    depth = (xyz * directions[0][drawn]).sum(-1)
    assert ((depth >= front[0][drawn] - 1e-5) & (depth <= back[0][drawn] + 1e-5)).all()
    torch.testing.assert_close(rgb, colors.movedim(1, -1)[drawn], atol=1e-5, rtol=0)
    torch.testing.assert_close(scales, (0.4 * points[:, 2:3] / FOCAL).expand(-1, 3))
    torch.testing.assert_close(opacities, 0.95 * alpha[0][drawn])


@IMPLEMENTATIONS
@pytest.mark.parametrize("seed", range(3))
def test_with_unknown_pixels_the_interval_is_that_of_a_plain_march(implementation, seed):
    given = scene(BODY)
    unknown = torch.rand(given[0].shape, generator=torch.Generator().manual_seed(seed)) < 0.02
    unknown[0, 1] = False
    front, back, valid = (result[0].numpy() for result in implementation(*given, unknown))
    expected_front, expected_back, expected_valid = plain(*given, unknown)
    assert np.array_equal(valid, expected_valid)
    for found, expected in ((front, expected_front), (back, expected_back)):
        assert np.mean(np.abs(found - expected)[valid] > STEP + 1e-5) < 0.002


@IMPLEMENTATIONS
def test_a_part_that_leaves_two_pictures_is_carved_unless_they_say_so(implementation):
    """Two views of five do not hold a tail: with its pixels unknown, the others know of it as with these two."""
    tail = (np.array([0.05, 0.0, 0.5]), 0.08)  # every view sees it above the body
    given, without = scene([*BODY[:2], tail]), scene(BODY[:2])[0]
    only_tail = (given[0] > 0.5) & (without < 0.1)
    seen = ((given[0] > 0.99) & (without < 0.1))[0, 0]
    alpha, unknown = given[0].clone(), torch.zeros_like(only_tail)
    alpha[0, [3, 4]], unknown[0, [3, 4]] = without[0, [3, 4]], only_tail[0, [3, 4]]
    _, _, carved = implementation(alpha, *given[1:])
    front, back, kept = implementation(alpha, *given[1:], unknown)
    assert seen.sum() > 3 and not carved[0, 0][seen].any() and kept[0, 0][seen].all()
    for found, whole in zip((front, back), implementation(*given)[:2], strict=True):
        assert torch.equal(found[0, 0][seen], whole[0, 0][seen])
