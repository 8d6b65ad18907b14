import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mousefacelift.geometry.agreement import (
    agreeing_cameras,
    camera_medians,
    locate,
    oversized,
    surrounding_polygon,
    usable_silhouettes,
)
from mousefacelift.geometry.camera import Camera, project
from mousefacelift.geometry.views import look_at


@given(st.integers(0, 10_000), st.integers(3, 40))
def test_the_polygon_around_a_silhouette_holds_all_of_it_and_touches_its_outermost_points(seed, count):
    points = np.random.default_rng(seed).uniform(100, 900, (count, 2))
    angle = np.arange(32) * 2 * np.pi / 32
    direction = np.stack([np.cos(angle), np.sin(angle)])
    support = points[np.argmax(points @ direction, axis=0)]
    polygon = surrounding_polygon(support)
    edge = np.roll(polygon, -1, axis=0) - polygon
    beside = points[:, None] - polygon
    assert (edge[:, 0] * beside[..., 1] - edge[:, 1] * beside[..., 0] >= -1e-6 * 900**2).all()
    np.testing.assert_allclose((polygon @ direction).max(axis=0), (points @ direction).max(axis=0), atol=1e-9)


def ring(count=5):
    """Cameras on a ring around the origin, 300 mm away, that look at it."""
    K = np.array([[800.0, 0, 320], [0, 800, 240], [0, 0, 1]])
    cameras = []
    for angle in np.arange(count) * 2 * np.pi / count:
        center = 300 * np.array([np.cos(angle), np.sin(angle), 0.4])
        R = look_at(center, np.zeros(3))
        cameras.append(Camera(str(len(cameras)), 640, 480, K, np.zeros(14), R, -R @ center))
    return tuple(cameras)


def seen(rig, points, off=None, by=60.0):
    """Where the cameras see points [N, 3], and the world rays through there; camera `off` sees them `by` px beside."""
    pixels = np.stack([project(points, camera)[0] for camera in rig], axis=1)
    if off is not None:
        pixels[:, off, 0] += by
    rays = []
    for v, camera in enumerate(rig):
        ahead = np.c_[pixels[:, v], np.ones(len(points))] @ np.linalg.inv(camera.K).T
        rays.append(ahead / np.linalg.norm(ahead, axis=1, keepdims=True) @ camera.R)
    return pixels, np.stack(rays, axis=1)


def test_points_are_located_where_they_are_without_a_residual():
    rig, points = ring(), np.random.default_rng(0).uniform(-40, 40, (20, 3))
    pixels, rays = seen(rig, points)
    use = np.ones((20, 5), bool)
    use[3, 2:] = False
    found, residual = locate(rig, pixels, rays, use, min_views=3)
    assert np.isnan(found[3]).all() and np.isnan(residual[3]).all(), "two views are too few"
    np.testing.assert_allclose(np.delete(found, 3, axis=0), np.delete(points, 3, axis=0), atol=1e-9)
    assert np.nanmax(residual) < 1e-9


def test_the_one_camera_that_sees_the_mouse_elsewhere_is_found():
    rig, points = ring(), np.random.default_rng(1).uniform(-40, 40, (20, 3))
    use = np.ones((20, 5), bool)
    for off in range(5):
        pixels, rays = seen(rig, points, off)
        together = camera_medians(locate(rig, pixels, rays, use, 3)[1])
        assert (together > 5).sum() > 1, "it drags the centre of all"
        agrees = agreeing_cameras(rig, pixels, rays, use, 5)
        assert np.flatnonzero(~agrees).tolist() == [off]


def test_a_camera_that_never_sees_the_mouse_has_a_median_of_nothing():
    residual = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan]])
    assert camera_medians(residual).tolist() == [2, 0]


def test_a_clipped_silhouette_counts_where_too_few_are_whole():
    found, clipped = np.ones((2, 4), bool), np.array([[True, False, False, False], [True, True, False, False]])
    rays = np.ones((2, 4, 3))
    use = usable_silhouettes(found, clipped, rays, 3)
    assert use.tolist() == [[False, True, True, True], [True] * 4]
    rays[0, 1] = np.nan  # beyond the calibrated field
    found[1, 0] = False
    use = usable_silhouettes(found, clipped, rays, 3)
    assert use.tolist() == [[True, False, True, True], [False, True, True, True]]


def test_a_silhouettes_size_is_judged_at_its_distance():
    rig = ring(2)
    centers = np.array([[0.0, 0, 0]] * 4 + [[200, 0, 120]])  # the last one near the first camera
    area = np.array([[1000, 1000]] * 3 + [[1000, 4000]] + [[9000, 400]])
    assert np.argwhere(oversized(rig, centers, area, 2.5)).tolist() == [[3, 1]]
