"""The camera conditions: which of them are exact, and what the imposed one is."""

import math

import numpy as np
import pytest
import torch

from mousefacelift.evaluation.conditions import camera_conditions, facelift_cameras
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.data import Samples

CONDITIONS = ("raw", "z_up", "y_up", "facelift")


@pytest.fixture(scope="module")
def sample(synthetic_shards):
    return Samples(read_manifest(synthetic_shards), "test", 64, 1.0)[1]


@pytest.fixture(scope="module")
def conditions(sample, world_from_mm):
    return camera_conditions(sample, world_from_mm)


def pixels(points, posed, pose):
    """Where world points [M, 3] appear in every view [V, M, 2], by the condition's c2w or by its w2c."""
    w2c = np.linalg.inv(posed["c2w"].double().numpy()) if pose == "c2w" else posed["w2c"].double().numpy()
    seen = np.einsum("vij,mj->vmi", w2c[:, :3], np.c_[points, np.ones(len(points))])
    fx, fy, cx, cy = (k[:, None] for k in posed["fxfycxcy"].double().numpy().T)
    return np.stack([fx * seen[..., 0] / seen[..., 2] + cx, fy * seen[..., 1] / seen[..., 2] + cy], -1)


def centers(posed):
    return posed["c2w"].double().numpy()[:, :3, 3]


@pytest.mark.parametrize("pose", ["c2w", "w2c"])
def test_the_exact_conditions_see_every_point_of_the_lab_at_the_same_pixel(sample, conditions, world_from_mm, pose):
    mm_from_world = np.linalg.inv(world_from_mm)
    around_the_mouse = np.random.default_rng(0).uniform(-0.4, 0.4, (50, 3))
    lab = around_the_mouse @ mm_from_world[:3, :3].T + mm_from_world[:3, 3]
    cameras_mm = centers(sample) @ mm_from_world[:3, :3].T + mm_from_world[:3, 3]
    assert np.linalg.norm(lab.mean(0)) > 50, "the lab's origin is not in the mouse"
    in_z_up = lab @ world_from_mm[:3, :3].T + world_from_mm[:3, 3]
    seen = {
        "z_up": pixels(in_z_up, conditions["z_up"], pose),
        "y_up": pixels(np.stack([in_z_up[:, 0], in_z_up[:, 2], -in_z_up[:, 1]], -1), conditions["y_up"], pose),
        "raw": pixels(lab * 2.7 / np.linalg.norm(cameras_mm, axis=-1).mean(), conditions["raw"], pose),
    }
    assert np.ptp(seen["z_up"], axis=1).min() > 15, "the points spread over the image"
    for name in ("raw", "y_up"):
        assert np.abs(seen[name] - seen["z_up"]).max() < 1e-4, name


def test_raw_cameras_keep_the_labs_proportions_at_a_mean_distance_of_2_7(sample, conditions, world_from_mm):
    mm_from_world = np.linalg.inv(world_from_mm)
    in_mm = np.linalg.norm(centers(sample) @ mm_from_world[:3, :3].T + mm_from_world[:3, 3], axis=-1)
    distance = np.linalg.norm(centers(conditions["raw"]), axis=-1)
    assert distance.mean() == pytest.approx(2.7, abs=1e-6)
    np.testing.assert_allclose(distance / distance.mean(), in_mm / in_mm.mean(), rtol=1e-6)


def test_in_y_up_the_world_is_upright_about_y(sample, conditions):
    R = conditions["y_up"]["c2w"].double().numpy()[:, :3, :3]
    np.testing.assert_allclose(R[:, 1, 0], 0, atol=1e-6, err_msg="level: the image's x axis is horizontal")
    assert (R[:, 1, 1] < -0.8).all(), "the image's down axis points to -Y"
    elevation = [np.arcsin(c[axis] / np.linalg.norm(c)) for name, axis in (("y_up", 1), ("z_up", 2)) for c in centers(conditions[name])]  # fmt: skip
    np.testing.assert_allclose(elevation[:6], elevation[6:], atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-5, err_msg="a turn, not a mirror")


@pytest.mark.parametrize("views", [3, 6, 11])
@pytest.mark.parametrize("size", [64, 512])
def test_facelift_cameras_are_its_circle_from_the_first_views_azimuth_on(views, size):
    first = np.eye(4)
    first[:3, 3] = [-1.0, 2.0, 0.7]
    c2w, fxfycxcy = facelift_cameras(np.stack([first] * views), size)
    R, center = c2w[:, :3, :3], c2w[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(center, axis=-1), 2.7)
    np.testing.assert_allclose(center[:, 2], 2.7 * math.sin(math.radians(20)))
    steps = np.degrees(np.unwrap(np.arctan2(center[:, 1], center[:, 0]))) - math.degrees(math.atan2(2.0, -1.0))
    np.testing.assert_allclose(steps, np.arange(views) * 360 / views, atol=1e-9)
    np.testing.assert_allclose(R[:, 2, 0], 0, atol=1e-12, err_msg="level")
    assert (R[:, 2, 1] < 0).all(), "+Z is up in the image"
    np.testing.assert_allclose(R[..., 2], -center / 2.7, atol=1e-12, err_msg="looks at the origin")
    np.testing.assert_allclose(np.linalg.det(R), 1)
    np.testing.assert_allclose(fxfycxcy * 512 / size, np.tile([548.9937744, 548.9937744, 256, 256], (views, 1)))


def test_only_cameras_change_and_only_facelift_changes_the_focal_length(sample, conditions):
    assert tuple(conditions) == CONDITIONS
    assert conditions["z_up"] is sample
    for name, posed in conditions.items():
        assert posed["image"] is sample["image"] and posed["alpha"] is sample["alpha"]
        assert torch.equal(posed["fxfycxcy"], sample["fxfycxcy"]) == (name != "facelift")
        torch.testing.assert_close(posed["w2c"] @ posed["c2w"], torch.eye(4).expand(6, 4, 4), atol=1e-5, rtol=0)
        assert all(posed[key].dtype == torch.float32 for key in ("c2w", "w2c", "fxfycxcy"))
