"""What a rig can reach, on balls seen by cameras around them."""

import cv2
import numpy as np
import pytest

from mousefacelift.geometry.camera import project
from mousefacelift.geometry.reach import allowed_by_others, drawn, reachable_iou
from mousefacelift.recordings.recording import read_capture_rig
from support.rodent import demo_capture

CENTER, RADIUS = np.array([0.0, 0.0, 25.0]), 30.0


@pytest.fixture(scope="module")
def rig():
    return read_capture_rig(demo_capture())


def ball(camera, radius=20.0, center=CENTER):
    """The silhouette of a ball: its outline's points are those of a sphere's convex hull."""
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    points = center + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    mask = np.zeros((camera.height, camera.width), np.uint8)
    cv2.fillConvexPoly(
        mask, np.rint(cv2.convexHull(project(points, camera)[0].astype(np.float32))).astype(np.int32), 255
    )
    x, y, w, h = cv2.boundingRect(mask)
    return mask[y : y + h, x : x + w], np.array([x, y, w, h])


def test_a_rig_reaches_nearly_one_and_a_view_without_a_silhouette_nothing(rig):
    silhouettes = [ball(camera) for camera in rig]
    found = reachable_iou(silhouettes, rig, CENTER, RADIUS, 2.0)
    assert (found > 0.93).all() and (found < 1).all()
    found = reachable_iou([None, *silhouettes[1:]], rig, CENTER, RADIUS, 2.0)
    assert np.isnan(found[0]) and (found[1:] > 0.93).all()
    assert np.isnan(reachable_iou([silhouettes[0], *[None] * 5], rig, CENTER, RADIUS, 2.0)).all()


def test_what_the_others_allow_holds_the_mouse_and_not_a_shadow_beside_it(rig):
    silhouettes = [ball(camera) for camera in rig]
    alpha, (x, y, w, h) = silhouettes[2]
    allowed, (x0, y0, w0, h0) = allowed_by_others(silhouettes, 2, rig, CENTER, RADIUS, 2.0)
    there = np.zeros((rig[2].height, rig[2].width), bool)
    there[y0 : y0 + h0, x0 : x0 + w0] = allowed > 0
    assert there[y : y + h, x : x + w][alpha > 0].mean() > 0.999
    assert np.count_nonzero(there) < 1.6 * np.count_nonzero(alpha)


def test_voxels_that_no_camera_sees_are_not_drawn(rig):
    behind = rig[0].center - 100 * rig[0].R[2] + np.zeros((4, 3))
    assert drawn(behind.astype(np.float32), rig[0], 2.0) is None
