"""The floor found from shadows that are painted on it, in cameras whose truth is known."""

import cv2
import numpy as np
import pytest

from mousefacelift.geometry.camera import project
from mousefacelift.geometry.floor import FloorMap, Plane, Shading, find_floor, sample, shrunk
from support.maskdamage import demo_rig

FACTOR = 2
RIG = tuple(shrunk(camera, FACTOR) for camera in demo_rig())
FLOOR = Plane(np.array([0.0, 0.0, 1.0]), 0.0)
CENTER, RADIUS = np.array([0.0, 0.0, 20.0]), 60.0


def shading(camera, plane, place):
    """How a camera sees a soft shadow of 40 x 24 mm on a plane around a place [2] in it."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([u, v], axis=-1).reshape(-1, 2)
    rays = np.linalg.inv(camera.K) @ np.column_stack([pixels, np.ones(len(pixels))]).T
    directions = rays.T @ camera.R
    along = (plane.offset - camera.center @ plane.normal) / (directions @ plane.normal)
    points = camera.center + directions * along[:, None]
    depth = np.exp(-(((points[:, 0] - place[0]) / 20) ** 2 + ((points[:, 1] - place[1]) / 12) ** 2))
    share = (1 - 0.6 * depth).reshape(camera.height, camera.width).astype(np.float32)
    rows, columns = np.nonzero(share < 0.98)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return Shading(int(columns.min()), int(rows.min()), share[box], share[box] < 0.98)


@pytest.fixture(scope="module")
def lensless():
    return tuple(type(camera)(**{**camera.__dict__, "dist": np.zeros(14)}) for camera in RIG)


@pytest.mark.parametrize(("tilt_deg", "offset"), [(0.0, 0.0), (4.0, -6.0)])
def test_the_floor_is_found_where_all_cameras_see_the_same_shadow(lensless, tilt_deg, offset):
    tilt = np.radians(tilt_deg)
    plane = Plane(np.array([np.sin(tilt), 0.0, np.cos(tilt)]), offset)
    places = [(-30, 10), (25, -20), (5, 30), (40, 25)]
    found = find_floor(lensless, [[shading(c, plane, p) for c in lensless] for p in places], CENTER, RADIUS)
    assert np.degrees(np.arccos(found.normal @ plane.normal)) < 0.3
    assert abs(found.height(np.zeros((1, 3)))[0] - plane.height(np.zeros((1, 3)))[0]) < 0.5


def test_shadows_that_no_plane_explains_are_no_floor(lensless):
    random = np.random.default_rng(0)
    moments = [[shading(c, FLOOR, random.uniform(-35, 35, 2)) for c in lensless] for _ in range(4)]
    assert find_floor(lensless, moments, CENTER, RADIUS) is None


def test_views_without_the_animal_and_moments_without_views_are_left_out(lensless):
    moments = [[shading(c, FLOOR, (10, 5)) if v % 2 else None for v, c in enumerate(lensless)], [None] * len(lensless)]
    moments += [[shading(c, FLOOR, p) for c in lensless] for p in ((-30, 10), (25, -20))]
    found = find_floor(lensless, moments, CENTER, RADIUS)
    assert np.degrees(np.arccos(found.normal @ FLOOR.normal)) < 0.5


def test_the_map_between_two_views_goes_through_the_floor_lenses_included():
    points = np.column_stack([np.random.default_rng(1).uniform(-60, 60, (50, 2)), np.zeros(50)])
    here, there = (project(points, RIG[v])[0] for v in (0, 3))
    width, height = RIG[0].width, RIG[0].height
    whole = FloorMap(FLOOR, RIG[0], RIG[3]).at(0, 0, width, height)
    inside = ((here > 1) & (here < [width - 1, height - 1])).all(axis=1)
    assert inside.sum() > 20
    mapped = np.stack([sample(whole[..., k].copy(), here[inside].astype(np.float32), -1.0) for k in (0, 1)], axis=-1)
    assert np.abs(mapped - there[inside]).max() < 0.15


def test_what_another_view_cannot_see_is_nowhere():
    behind = FLOOR.map_to(np.array([[RIG[0].width / 2, -1e5]]), RIG[0], RIG[1])
    assert not ((behind >= 0) & (behind <= [RIG[1].width, RIG[1].height])).all()


def test_a_shrunk_camera_sees_the_same_points_at_pixels_divided_by_the_factor():
    camera = demo_rig()[0]
    points = np.random.default_rng(2).uniform(-50, 50, (20, 3))
    whole, small = project(points, camera)[0], project(points, shrunk(camera, 3))[0]
    np.testing.assert_allclose(small, whole / 3, atol=1e-9)


def test_values_are_interpolated_with_pixel_centres_at_halves():
    image = cv2.resize(np.arange(6, dtype=np.float32).reshape(2, 3), (3, 2))
    np.testing.assert_allclose(
        sample(image, np.array([[0.5, 0.5], [2.0, 0.5], [9.0, 9.0]], np.float32), 7.0), [0, 1.5, 7]
    )
