import json
import shutil
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
from mousefacelift.config.normalize import UP_AXES as AXES
from mousefacelift.config.normalize import Normalize
from mousefacelift.geometry.agreement import surrounding_polygon
from mousefacelift.geometry.camera import Camera
from mousefacelift.geometry.up import axis_vector
from mousefacelift.geometry.views import look_at
from mousefacelift.rigs.formats.opencv_json import rig_from_json, rig_to_json
from mousefacelift.stages.normalize import normalize
from support.rodent import ground_truth, project_raw

FOCAL = 548.9937744


def read(path):
    with h5py.File(path) as file:
        return {**dict(file.attrs), **{name: file[name][()] for name in file}}


def redo(run, folder, rig=None, subject=None, **settings):
    """normalize with other settings, or with other inputs; gives cameras.h5 and world.json."""
    normalize(
        rig or run.folder / "rig.json",
        subject or run.folder / "subject.h5",
        folder / "cameras.h5",
        folder / "world.json",
        Normalize(**settings),
    )
    return read(folder / "cameras.h5"), json.loads((folder / "world.json").read_text())


@pytest.fixture(scope="module")
def demo(demo_run):
    return read(demo_run.folder / "cameras.h5")


@pytest.fixture(scope="module")
def world(demo_run):
    return json.loads((demo_run.folder / "world.json").read_text())


def camera_centers(data):
    return np.linalg.inv(data["w2c"])[..., :3, 3]


def test_the_mean_camera_distance_is_2_7(demo, world):
    distance = np.linalg.norm(camera_centers(demo), axis=-1)
    assert distance.mean() == pytest.approx(2.7, abs=1e-9)
    np.testing.assert_allclose(demo["distance"], distance, atol=1e-9)
    assert world["camera_distance"]["mean"] == pytest.approx(2.7, abs=1e-9)
    assert world["camera_distance"]["std"] == pytest.approx(distance.std())
    np.testing.assert_allclose(world["camera_distance"]["per_camera"], distance.mean(axis=0))


def test_one_scale_is_kept_for_the_whole_capture(demo, world):
    scales = np.cbrt(np.linalg.det(demo["world_from_mm"][:, :3, :3]))
    np.testing.assert_allclose(scales, scales[0], rtol=1e-12)
    np.testing.assert_allclose(demo["world_units_per_mm"], scales, rtol=1e-12)
    assert world["world_units_per_mm"]["median"] == pytest.approx(scales[0])


def test_up_is_exactly_z_and_no_view_rolls(demo, world):
    assert world["up_after_rotation"] == [0, 0, 1]
    # A level camera's right vector is horizontal, and the world's up points up in its image.
    right, down = demo["w2c"][..., 0, :3], demo["w2c"][..., 1, :3]
    roll = np.degrees(np.arctan2(right[..., 2], -down[..., 2]))
    assert np.abs(roll).max() < 0.01
    assert world["max_abs_roll_deg"] < 0.01
    assert (down[..., 2] < 0).all()


def test_every_view_looks_at_the_mouse_at_the_origin(demo, demo_run):
    for n, v in np.ndindex(demo["w2c"].shape[:2]):
        np.testing.assert_allclose(demo["w2c"][n, v] @ [0, 0, 0, 1], [0, 0, demo["distance"][n, v], 1], atol=1e-12)
    with h5py.File(demo_run.folder / "subject.h5") as file:
        center = file["center_mm"][()]
    origin = np.einsum("nij,nj->ni", demo["world_from_mm"], np.c_[center, np.ones(len(center))])
    np.testing.assert_allclose(origin, np.broadcast_to([0, 0, 0, 1], origin.shape), atol=1e-12)


def test_the_intrinsics_are_facelifts_times_the_zoom_with_the_centre_in_the_middle(demo, world):
    focal = FOCAL * world["zoom"]
    np.testing.assert_allclose(demo["fxfycxcy"] - [focal, focal, 256, 256], 0, atol=1e-5)
    assert world["focal_px"]["min"] == world["focal_px"]["max"] == pytest.approx(focal)


def test_a_zoom_of_one_is_facelifts_intrinsics_exactly(demo_run, tmp_path):
    data, world = redo(demo_run, tmp_path, zoom=1.0)
    focal = 256 / np.tan(np.radians(25))
    assert (data["fxfycxcy"] == [focal, focal, 256, 256]).all()
    assert focal == pytest.approx(FOCAL)
    assert world["zoom"] == 1
    half, _ = redo(demo_run, tmp_path, zoom=1.0, image_size=256)
    np.testing.assert_allclose(half["fxfycxcy"], data["fxfycxcy"] / 2)
    assert half["image_size"] == 256


def test_raw_and_virtual_cameras_share_their_optical_centres(demo):
    truth = ground_truth()
    raw = np.stack([-R.T @ t for R, t in zip(truth["R"], truth["t"], strict=True)])
    moved = np.einsum("nij,vj->nvi", demo["world_from_mm"], np.c_[raw, np.ones(6)])[..., :3]
    np.testing.assert_allclose(moved, camera_centers(demo), atol=1e-9)


def test_the_views_rotation_from_the_calibrations_world_is_that_of_its_matrices(demo):
    turn = demo["world_from_mm"][:, None, :3, :3] / demo["world_units_per_mm"][0]
    np.testing.assert_allclose(demo["R_view"], demo["w2c"][..., :3, :3] @ turn, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(demo["R_view"]), 1)


def test_the_silhouettes_centre_is_near_the_middle_of_every_view(demo_run):
    ticks = np.arange(512) + 0.5
    worst = 0.0
    for path in demo_run.shards:
        with h5py.File(path) as file:
            alpha = file["image"][()][..., 3].astype(float)
        total = alpha.sum(axis=(2, 3))
        x, y = (alpha.sum(axis=axis) @ ticks / total for axis in (2, 3))
        worst = max(worst, np.hypot(x - 256, y - 256).max())
    print(f"alpha centroids: at most {worst:.1f} px from the middle")
    assert worst < 25


def outlines(run, data):
    """Polygons around all silhouettes in their views, px: raw pixels -> OpenCV's undistortion -> truth's rotation."""
    truth, found = ground_truth(), []
    for path in sorted((run.folder / "center" / run.capture.name).glob("*.h5")):
        with h5py.File(path) as file:
            found.append(file["support_px"][()])
    support = surrounding_polygon(np.concatenate(found))
    pixels = np.empty_like(support)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    for n, v in np.ndindex(support.shape[:2]):
        zero_based = support[n, v][:, None] - 0.5
        xy = cv2.undistortPoints(zero_based, truth["K"][v], truth["dist"][v], None, None, None, criteria)[:, 0]
        rays = np.c_[xy, np.ones(len(xy))] @ truth["R"][v] @ data["w2c"][n, v, :3, :3].T
        pixels[n, v] = rays[:, :2] / rays[:, 2:] * data["fxfycxcy"][n, v, :2] + data["fxfycxcy"][n, v, 2:]
    return pixels


def test_zoom_fit_holds_99_percent_of_the_whole_views_with_the_margin_and_is_the_largest_that_does(demo, demo_run):
    pixels = outlines(demo_run, demo)
    whole = (demo["flags"] & (Flag.EMPTY | Flag.CLIPPED)) == 0
    farthest = np.abs(pixels - 256).max(axis=(2, 3))[whole]
    limit = 0.45 * 512
    assert (farthest <= limit + 1e-3).mean() >= 0.99
    assert (farthest * 1.001 <= limit).mean() < 0.99


def test_a_view_fits_when_its_whole_silhouette_is_inside_the_image(demo_run, tmp_path):
    data, world = redo(demo_run, tmp_path, zoom=2.0)
    inside = (np.abs(outlines(demo_run, data) - 256) <= 256).all(axis=(2, 3))
    assert 0 < inside.sum() < inside.size, "the case does not tell"
    np.testing.assert_array_equal(data["fits"], inside)
    assert world["views_that_fit"] == pytest.approx(inside.mean())


def bodies(run, data):
    """The bodies' outermost points in their views, px: OpenCV's projection with the written cameras."""
    with h5py.File(run.folder / "subject.h5") as file:
        known = np.isin(file["frame"][()], data["frame"])
        points = file["body_mm"][known].astype(np.float64)
    world = np.einsum("nij,nkj->nki", data["world_from_mm"][:, :3, :3], points) + data["world_from_mm"][:, None, :3, 3]
    seen = np.einsum("nvij,nkj->nvki", data["w2c"][..., :3, :3], world) + data["w2c"][:, :, None, :3, 3]
    k = data["fxfycxcy"][:, :, None]
    return seen[..., :2] / seen[..., 2:] * k[..., :2] + k[..., 2:], world


def test_fit_body_holds_99_percent_of_the_bodies_with_the_margin_and_is_the_largest_that_does(demo_run, demo, tmp_path):
    data, world = redo(demo_run, tmp_path, zoom="fit", fit="body")
    pixels, _ = bodies(demo_run, data)
    farthest = np.abs(pixels - 256).max(axis=(2, 3))[data["flags"] == 0]
    limit = 0.45 * 512
    assert (farthest <= limit + 1e-3).mean() >= 0.99
    assert (farthest * 1.001 <= limit).mean() < 0.99
    # The tail leaves pictures, and the body does not.
    np.testing.assert_array_equal(data["fits"], (np.abs(pixels - 256) <= 256).all(axis=(2, 3)))
    assert data["fits"].mean() > 0.99 and (data["clipped_px"] > 0).mean() > 0.1
    assert np.median(data["body_width"]) > 1.5 * np.median(demo["body_width"])
    assert world["fit"] == "body"


@pytest.mark.parametrize("fit", ["whole", "body"])
@pytest.mark.parametrize("distance", ["exact", "focal"])
def test_with_a_scale_per_sample_every_mouse_is_as_large_as_its_views_can_hold(demo_run, tmp_path, fit, distance):
    data, world = redo(demo_run, tmp_path, zoom="fit", fit=fit, scale="sample", distance=distance)
    pixels = outlines(demo_run, data) if fit == "whole" else bodies(demo_run, data)[0]
    farthest = np.where(data["flags"] == 0, np.abs(pixels - 256).max(axis=(2, 3)), -np.inf).max(axis=1)
    assert (np.abs(farthest - 0.45 * 512) < 0.1).mean() > 0.9, "the rest has a view that contradicts the others"
    assert (farthest < 0.45 * 512 + 0.1).mean() > 0.9
    zooms = np.median(data["fxfycxcy"][..., 0], axis=1) / FOCAL
    assert zooms.max() > 1.3 * zooms.min()
    assert world["zoom"]["min"] < world["zoom"]["median"] < world["zoom"]["max"]


def test_the_report_says_how_large_the_mouse_is_in_the_world_and_in_its_views(demo_run, demo, world):
    pixels = outlines(demo_run, demo).clip(0, 512)
    body, points = bodies(demo_run, demo)
    for name, shown in (("width", pixels), ("body_width", body)):
        expected = (shown.max(axis=2) - shown.min(axis=2)).max(axis=-1) / 512
        np.testing.assert_allclose(demo[name], expected, atol=1e-4)
        assert world["subject"][name]["median"] == pytest.approx(np.median(expected), abs=1e-4)
    apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1).max(axis=(1, 2))
    np.testing.assert_allclose(demo["body_length"], apart, rtol=1e-9)
    assert world["subject"]["area"]["median"] == pytest.approx(np.median(demo["fill"]))
    # Without its tail the mouse is shorter than with it.
    vertices = ground_truth()["vertices"][demo["frame"]].astype(float)
    whole = np.array([np.linalg.norm(each[:, None] - each, axis=-1).max() for each in vertices])
    lengths = demo["body_length"] / demo["world_units_per_mm"]
    print(f"body {np.median(lengths):.0f} mm, with the tail {np.median(whole):.0f} mm")
    assert (lengths < whole + 5).all() and np.median(lengths) < 0.8 * np.median(whole)


def changed(run, folder, change):
    shutil.copy(run.folder / "subject.h5", folder / "changed.h5")
    with h5py.File(folder / "changed.h5", "r+") as file:
        change(file)
    return folder / "changed.h5"


def test_a_view_whose_outline_leaves_the_calibrated_field_does_not_decide_the_zoom(demo_run, world, tmp_path):
    def lose(file):
        rays = file["outline_rays"][()]
        rays[5, 2, 7] = np.nan
        file["outline_rays"][...] = rays

    data, found = redo(demo_run, tmp_path, subject=changed(demo_run, tmp_path, lose), zoom="fit")
    assert found["zoom"] == pytest.approx(world["zoom"], rel=0.05)
    assert not data["fits"][5, 2]


def test_zoom_fit_without_one_whole_silhouette_is_an_error(demo_run, tmp_path):
    subject = changed(demo_run, tmp_path, lambda file: file["flags"].write_direct(np.full((25, 6), 2, np.uint8)))
    with pytest.raises(UserError, match="capture rodent-a: no view holds a whole silhouette"):
        redo(demo_run, tmp_path, subject=subject, zoom="fit")


def test_frames_without_a_centre_are_left_out(demo_run, demo, tmp_path):
    def lose(file):
        file["center_mm"][3] = np.nan

    data, world = redo(demo_run, tmp_path, subject=changed(demo_run, tmp_path, lose))
    assert data["frame"].tolist() == [f for f in demo["frame"] if f != demo["frame"][3]]
    assert world["frames"] == len(data["w2c"]) == 24


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_turned_calibration_gives_the_same_cameras_up_to_a_turn_about_z(demo_run, demo, tmp_path, axis, seed):
    # The world is turned so that its old +Z lies along `axis`; named as up, the result may only differ in azimuth.
    spin = Rotation.from_rotvec(np.random.default_rng(seed).uniform(0, 6) * axis_vector(axis))
    turn = spin.as_matrix() @ Rotation.align_vectors([axis_vector(axis)], [[0, 0, 1]])[0].as_matrix()
    np.testing.assert_allclose(turn @ [0, 0, 1], axis_vector(axis), atol=1e-12)
    truth = ground_truth()
    rig = tuple(
        Camera(str(v + 1), 1152, 1024, truth["K"][v], np.zeros(8), truth["R"][v] @ turn.T, truth["t"][v])
        for v in range(6)
    )
    write_json(tmp_path / "rig.json", rig_to_json(rig))
    subject = changed(demo_run, tmp_path, lambda f: f["center_mm"].write_direct(f["center_mm"][()] @ turn.T))
    data, world = redo(demo_run, tmp_path, tmp_path / "rig.json", subject, up="calibration", up_axis=axis, zoom="fit")
    about_z = np.linalg.inv(data["w2c"]) @ demo["w2c"]
    np.testing.assert_allclose(about_z - about_z[0, 0], 0, atol=1e-9)
    np.testing.assert_allclose(about_z[0, 0, 2], [0, 0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(about_z[0, 0, :3, 3], 0, atol=1e-9)
    np.testing.assert_allclose(data["fxfycxcy"], demo["fxfycxcy"], rtol=1e-9)
    np.testing.assert_allclose(world["up_in_calibration"], axis_vector(axis))
    centers = np.c_[read(subject)["center_mm"], np.ones(25)]
    np.testing.assert_allclose(np.einsum("nij,nj->ni", data["world_from_mm"], centers)[:, :3], 0, atol=1e-9)
    turned = np.linalg.inv(data["w2c"])[..., :3, 3]
    raw = np.stack([camera.center for camera in rig])
    moved = np.einsum("nij,vj->nvi", data["world_from_mm"], np.c_[raw, np.ones(6)])[..., :3]
    np.testing.assert_allclose(moved, turned, atol=1e-9)


def test_a_camera_straight_above_the_mouse_asks_whether_up_is_right(demo_run, tmp_path):
    subject = read(demo_run.folder / "subject.h5")["center_mm"][0]
    above, beside = subject + [0, 0, 300], subject + [300, 0, 100]
    R_above, R_beside = np.diag([1.0, -1, -1]), look_at(beside, subject)
    K = ground_truth()["K"][0]
    rig = [Camera("1", 1152, 1024, K, np.zeros(8), R_above, -R_above @ above)]
    rig += [Camera(str(v), 1152, 1024, K, np.zeros(8), R_beside, -R_beside @ beside) for v in range(2, 7)]
    write_json(tmp_path / "rig.json", rig_to_json(tuple(rig)))
    with pytest.raises(UserError, match=r"capture rodent-a: .* is up \(normalize\.up: calibration, .* right\?"):
        redo(demo_run, tmp_path, tmp_path / "rig.json", up="calibration")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rig.json"]


def test_elevations_are_those_of_the_cameras_above_the_mouse(demo, world):
    centers = camera_centers(demo)
    elevation = np.degrees(np.arcsin(centers[..., 2] / np.linalg.norm(centers, axis=-1))).mean(axis=0)
    np.testing.assert_allclose(list(world["elevation_deg"].values()), elevation)
    assert list(world["elevation_deg"]) == list(demo["cameras"])


def test_an_up_axis_that_puts_all_cameras_below_the_mouse_is_refused(demo_run, tmp_path):
    with pytest.raises(UserError, match=r"all cameras stand below the mouse.*up_axis.*cameras_below"):
        redo(demo_run, tmp_path, up="calibration", up_axis="-z")
    assert list(tmp_path.iterdir()) == []
    _, world = redo(demo_run, tmp_path, up="calibration", up_axis="-z", cameras_below=True)
    assert max(world["elevation_deg"].values()) < 0


def test_a_smoothed_centre_is_the_views_centre_too_and_stays_exact(demo_run, demo, tmp_path):
    data, _ = redo(demo_run, tmp_path, zoom="fit", smooth_s=1.0)
    moved = np.linalg.norm(data["world_from_mm"][..., 3] - demo["world_from_mm"][..., 3], axis=1)
    assert moved.max() > 0.02
    for n, v in np.ndindex(data["w2c"].shape[:2]):
        np.testing.assert_allclose(data["w2c"][n, v, :2, 3], 0, atol=1e-12)
    assert data["reprojection_px"].max() < 1e-9


def seen(data, points_mm, n, v, intrinsics="fxfycxcy"):
    """Points in mm as the written camera projects them; with image_fxfycxcy and R_view, as the image shows them."""
    world = np.c_[points_mm, np.ones(len(points_mm))] @ data["world_from_mm"][n].T
    cam = world @ data["w2c"][n, v].T
    if intrinsics != "fxfycxcy":
        truth = ground_truth()
        cam = (points_mm + truth["R"][v].T @ truth["t"][v]) @ data["R_view"][n, v].T
    return cam[:, :2] / cam[:, 2:3] * data[intrinsics][n, v, :2] + data[intrinsics][n, v, 2:]


@pytest.mark.parametrize("fit", ["whole", "body"])
@pytest.mark.parametrize("scale", ["capture", "sample"])
@pytest.mark.parametrize("distance", ["exact", "focal"])
def test_written_cameras_project_where_the_images_show_under_exact_policies(demo_run, tmp_path, distance, scale, fit):
    data, world = redo(demo_run, tmp_path, distance=distance, scale=scale, zoom="fit", fit=fit)
    vertices = ground_truth()["vertices"][data["frame"]].astype(float)
    for n, v in np.ndindex(data["w2c"].shape[:2]):
        one, other = (seen(data, vertices[n], n, v, name) for name in ("fxfycxcy", "image_fxfycxcy"))
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert world["reprojection_px"]["max"]["max"] < 1e-9
    if scale == "sample":
        np.testing.assert_allclose(data["distance"].mean(axis=1), 2.7)
    assert data["distance"].mean() == pytest.approx(2.7)


def test_focal_makes_the_mouse_equally_large_in_all_views(demo_run, demo, tmp_path):
    data, _ = redo(demo_run, tmp_path, distance="focal", zoom="fit")
    np.testing.assert_allclose(
        data["fxfycxcy"][..., 0] / data["distance"], data["fxfycxcy"][0, 0, 0] / data["distance"][0, 0]
    )
    # A horizontal stick through the mouse's centre, at right angles to each view, has one length in all of them.
    origin = np.linalg.inv(data["world_from_mm"])[:, :3, 3]
    lengths = [
        np.linalg.norm(np.diff(seen(data, origin[n] + [[0], [10]] * data["R_view"][n, v, 0], n, v), axis=0))
        for n, v in np.ndindex(data["distance"].shape)
    ]
    np.testing.assert_allclose(lengths, lengths[0])
    assert np.ptp(demo["fxfycxcy"][..., 0]) == 0


@pytest.mark.parametrize("scale", ["capture", "sample"])
def test_canonical_is_facelifts_camera_and_its_error_is_that_of_the_true_vertices(demo_run, tmp_path, scale):
    data, world = redo(demo_run, tmp_path, distance="canonical", scale=scale)
    np.testing.assert_allclose(camera_centers(data) @ [0, 0, 0] + data["distance"], 2.7, atol=1e-12)
    focal = 256 / np.tan(np.radians(25))
    np.testing.assert_allclose(data["fxfycxcy"], np.broadcast_to([focal, focal, 256, 256], data["fxfycxcy"].shape))
    with h5py.File(demo_run.folder / "subject.h5") as file:
        length = file["lengths_mm"][:, 0]
    np.testing.assert_allclose(data["world_units_per_mm"], 0.8 / (length if scale == "sample" else np.median(length)))
    vertices = ground_truth()["vertices"][data["frame"]].astype(float)
    found = []
    for n in range(len(vertices)):
        raw = np.stack([project_raw(vertices[n], v) for v in range(6)])
        shown = vertices[n][((raw >= -0.5) & (raw <= ground_truth()["size"] - 0.5)).all(axis=(0, 2))]
        off = [seen(data, shown, n, v) - seen(data, shown, n, v, "image_fxfycxcy") for v in range(6)]
        error = np.linalg.norm(off, axis=-1)
        found.append([np.median(error), error.max()])
    reported = np.median(data["reprojection_px"][:, [0, 2]], axis=0)
    print(
        f"canonical, {scale}: reported median and max {reported.round(2)}, of the vertices {np.median(found, axis=0).round(2)}"
    )
    np.testing.assert_allclose(reported, np.median(found, axis=0), rtol=0.1)
    assert world["reprojection_px"]["median"]["median"] == pytest.approx(reported[0])


@pytest.mark.parametrize(("distance_mm", "error"), [(320, 0.44), (1000, 1.6), (2000, 1.9)])
def test_canonicals_error_is_larger_the_farther_the_cameras_stand(demo_run, tmp_path, distance_mm, error):
    """The demo's mouse before cameras that were moved away from it. Only the matrices are looked at: there are no such images."""
    rig, subject = rig_from_json(demo_run.folder / "rig.json"), read(demo_run.folder / "subject.h5")
    middle = np.nanmean(subject["center_mm"], axis=0)
    far = np.mean([np.linalg.norm(camera.center - middle) for camera in rig])
    centers = [middle + distance_mm / far * (camera.center - middle) for camera in rig]
    moved = tuple(replace(camera, t=-camera.R @ center) for camera, center in zip(rig, centers, strict=True))
    write_json(tmp_path / "rig.json", rig_to_json(moved))
    _, world = redo(demo_run, tmp_path, tmp_path / "rig.json", distance="canonical", up="calibration")
    assert world["reprojection_px"]["median"]["median"] == pytest.approx(error, rel=0.1)


def test_canonical_with_a_zoom_is_refused():
    with pytest.raises(ValidationError, match=r"set zoom: 1\.0 \(found fit\)"):
        Normalize(distance="canonical", zoom="fit")


def test_points_go_to_the_sample_and_back(demo):
    random = np.random.default_rng(0)
    for matrix in demo["world_from_mm"]:
        points = np.c_[random.uniform(-200, 200, (20, 3)), np.ones(20)]
        np.testing.assert_allclose(points @ matrix.T @ np.linalg.inv(matrix).T, points, atol=1e-9)


def test_the_filling_extent_makes_canonical_show_the_mouse_as_large_as_fit_does(demo_run, world, tmp_path):
    extent = world["subject"]["filling_canonical_extent"]
    data, found = redo(demo_run, tmp_path, distance="canonical", canonical_extent=extent)
    assert found["subject"]["filling_canonical_extent"] == pytest.approx(extent), "whatever the framing"
    subject = read(demo_run.folder / "subject.h5")
    lengths_mm = subject["lengths_mm"][np.isin(subject["frame"], data["frame"]), 0]
    assert np.nanmedian(lengths_mm * data["world_units_per_mm"]) == pytest.approx(extent)
    # The margin of 5 % stays free, and no more.
    assert data["fits"].all()
    beyond, _ = redo(demo_run, tmp_path, distance="canonical", canonical_extent=extent / 0.9 * 1.03)
    assert not beyond["fits"].all()


@pytest.mark.parametrize("scale", ["capture", "sample"])
def test_with_fit_body_the_filling_extent_makes_canonical_fill_the_picture_with_the_body(
    demo_run, world, tmp_path, scale
):
    _, fitted = redo(demo_run, tmp_path, zoom="fit", fit="body", scale=scale)
    extent = fitted["subject"]["filling_canonical_extent"]
    assert extent > world["subject"]["filling_canonical_extent"]
    held = {}
    for factor in (1, 1.03 / 0.9):
        data, _ = redo(
            demo_run, tmp_path, distance="canonical", canonical_extent=factor * extent, fit="body", scale=scale
        )
        held[factor] = data["fits"].mean()
        np.testing.assert_array_equal(
            data["fits"], (np.abs(bodies_imaged(demo_run, data) - 256) <= 256).all(axis=(2, 3))
        )
    assert held[1] > 0.99 > held[1.03 / 0.9]


def bodies_imaged(run, data):
    """The bodies' outermost points where the images show them, px: seen from the raw cameras' centres."""
    subject, rig = read(run.folder / "subject.h5"), rig_from_json(run.folder / "rig.json")
    points = subject["body_mm"][np.isin(subject["frame"], data["frame"]), None].astype(np.float64)
    offsets = points - np.stack([camera.center for camera in rig])[:, None]
    rays = np.einsum("nvij,nvkj->nvki", data["R_view"], offsets)
    k = data["image_fxfycxcy"][:, :, None]
    return rays[..., :2] / rays[..., 2:] * k[..., :2] + k[..., 2:]


def test_the_width_of_the_mouse_is_that_of_the_alpha_channel(demo_run, world):
    widths = []
    for shard in demo_run.shards:
        with h5py.File(shard) as file:
            inside = file["image"][..., 3].reshape(-1, 512, 512) > 127
        widths += [max(np.ptp(where) + 1 for where in np.nonzero(each)) / 512 for each in inside]
    assert world["subject"]["width"]["median"] == pytest.approx(np.median(widths), rel=0.06)


@pytest.mark.parametrize(("fit", "filled"), [("whole", "the mouse"), ("body", "the mouse's body")])
def test_the_log_says_how_large_the_mouse_is_beside_facelifts_subjects(demo_run, tmp_path, capsys, fit, filled):
    _, world = redo(demo_run, tmp_path, zoom=1.0, fit=fit)
    err, size = capsys.readouterr().err, world["subject"]
    assert f"the mouse covers {100 * size['area']['median']:.1f} % of a view" in err
    assert (
        f"and {100 * size['width']['median']:.0f} % of its width; its body covers {100 * size['body_width']['median']:.0f} %"
        in err
    )
    assert f"is {size['body_length']['median']:.2f} world units long" in err
    assert "FaceLift's subjects cover 32.6 %" in err
    assert f"canonical_extent {size['filling_canonical_extent']:.2f} fills the picture with {filled}\n" in err


def test_fill_and_offset_are_those_of_the_alpha_channel(demo_run, demo):
    ticks = np.arange(512) + 0.5
    row = {int(frame): n for n, frame in enumerate(demo["frame"])}
    names = list(demo["cameras"])
    fills, offsets = [], []
    for path in demo_run.shards:
        with h5py.File(path) as file:
            order = [names.index(name) for name in file.attrs["views"]]
            for image, frame in zip(file["image"][()], file["frame"][()], strict=True):
                alpha = image[..., 3] / 255
                x, y = (alpha.sum(axis=axis) @ ticks / alpha.sum(axis=(1, 2)) for axis in (1, 2))
                fills.append(demo["fill"][row[int(frame)], order] / alpha.mean(axis=(1, 2)))
                offsets.append(demo["offset_px"][row[int(frame)], order])
                # The weighted centre, without the tail, is nearer to the middle than the plain one.
                assert (offsets[-1] < np.hypot(x - 256, y - 256) + 12).all()
    np.testing.assert_allclose(fills, 1, atol=0.04)
    assert np.mean(fills) == pytest.approx(1, abs=0.01)
    assert np.max(offsets) < 25


@pytest.mark.parametrize(
    "turn", [[np.pi / 2, 0, 0], [-np.pi / 2, 0, 0], [0, np.pi / 2, 0], [np.pi, 0, 0], [0.4, 0.9, -2]]
)
def test_a_world_with_another_up_comes_out_z_up_by_itself(demo_run, demo, tmp_path, turn):
    """Y-up, Y-down, X-up, Z-down and askew: the cameras are those of the unturned run after a turn about Z."""
    R = Rotation.from_rotvec(turn).as_matrix()
    rig = tuple(camera.moved(R) for camera in rig_from_json(demo_run.folder / "rig.json"))
    write_json(tmp_path / "rig.json", rig_to_json(rig))

    def move(file):
        for name in ("center_mm", "surface_mm"):
            file[name][...] = file[name][()] @ R.T
        file["thin_mm"][..., :3] = file["thin_mm"][..., :3] @ R.T

    subject = changed(demo_run, tmp_path, move)
    data, world = redo(demo_run, tmp_path, tmp_path / "rig.json", subject, up="auto", zoom="fit")
    exact = world["up_method"] == "calibration"
    assert exact == (turn != [0.4, 0.9, -2])
    about_z = np.linalg.inv(data["w2c"]) @ demo["w2c"]
    np.testing.assert_allclose(about_z[..., 2, :3] - [0, 0, 1], 0, atol=1e-9 if exact else np.radians(0.5) * 1.5)
    assert {c["method"] for c in world["up_candidates"]} == {"floor", "cameras", "calibration" if exact else "axis"}
    for candidate in world["up_candidates"]:
        said = np.degrees(np.arccos(np.clip(np.dot(candidate["up_in_calibration"], world["up_in_calibration"]), -1, 1)))
        assert candidate["angle_to_chosen_deg"] == pytest.approx(said, abs=1e-4)
        assert 0 <= candidate["confidence"] <= 1


def test_a_candidate_far_from_the_chosen_up_is_warned_about(demo_run, tmp_path, capsys):
    R = Rotation.from_rotvec([np.radians(8), 0, 0]).as_matrix()
    rig = tuple(camera.moved(R) for camera in rig_from_json(demo_run.folder / "rig.json"))
    write_json(tmp_path / "rig.json", rig_to_json(rig))
    subject = changed(demo_run, tmp_path, lambda f: f["center_mm"].write_direct(f["center_mm"][()] @ R.T))
    _, world = redo(demo_run, tmp_path, tmp_path / "rig.json", subject, up="calibration")
    assert any("up by cameras is" in warning for warning in world["warnings"])
    assert "warning: capture rodent-a: up by cameras is" in capsys.readouterr().err


@pytest.mark.parametrize("nearer", [0.4, 3.0])
def test_a_close_rig_and_one_a_metre_away_both_come_out_well_framed(demo_run, demo, tmp_path, nearer):
    """Rays stay as they are while rig and mouse are so many times as far: the same images of another mouse elsewhere."""
    rig = tuple(replace(camera, t=camera.t * nearer) for camera in rig_from_json(demo_run.folder / "rig.json"))
    write_json(tmp_path / "rig.json", rig_to_json(rig))
    centers = read(demo_run.folder / "subject.h5")["center_mm"] * nearer
    subject = changed(demo_run, tmp_path, lambda file: file["center_mm"].write_direct(centers))
    data, world = redo(demo_run, tmp_path, tmp_path / "rig.json", subject, up="calibration", zoom="fit")
    np.testing.assert_allclose(data["fxfycxcy"], demo["fxfycxcy"], rtol=1e-6)
    np.testing.assert_allclose(data["fill"], demo["fill"], rtol=1e-6)
    assert world["camera_distance"]["mean"] == pytest.approx(2.7)


@pytest.mark.parametrize("zoomed_in", [0.35, 2.0])
def test_a_lens_that_shows_the_mouse_small_or_large_comes_out_well_framed_with_its_cameras_following(
    demo_run, tmp_path, zoomed_in
):
    """The same rays through another lens: the mouse covers 50 px of the raw frame, or nearly all of it."""
    rig = tuple(
        replace(camera, K=camera.K @ np.diag([zoomed_in, zoomed_in, 1.0]))
        for camera in rig_from_json(demo_run.folder / "rig.json")
    )
    write_json(tmp_path / "rig.json", rig_to_json(rig))

    def rescale(file):
        file["area_px"][...] = np.rint(file["area_px"][()] * zoomed_in**2)
        middle = np.array([[c.K[0, 2], c.K[1, 2]] for c in rig])[None, :, None]
        file["outline_px"][...] = (file["outline_px"][()] - middle) * zoomed_in + middle

    data, world = redo(demo_run, tmp_path, tmp_path / "rig.json", changed(demo_run, tmp_path, rescale), zoom="fit")
    same, _ = redo(demo_run, tmp_path, zoom="fit")
    np.testing.assert_allclose(data["fxfycxcy"], same["fxfycxcy"])
    np.testing.assert_allclose(data["w2c"], same["w2c"])
    np.testing.assert_allclose(data["fill"], same["fill"], rtol=1e-3)
    assert world["views_that_fit"] >= 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"up_axis": "-z"}, r"up_axis is for up: calibration; up is auto"),
        ({"up": "calibration", "up_axis": [0, 0, 0]}, "neither an axis"),
        ({"up": "calibration", "up_axis": [0, 1]}, "neither an axis"),
        ({"up": "calibration", "up_axis": "z"}, "neither an axis"),
        ({"canonical_extent": 1e300}, "less than or equal to 5"),
        ({"zoom": 1e308}, "less than or equal to 100"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Normalize(**settings)


@pytest.mark.parametrize("up_axis", [[0, 0, 1e200], [0, 0, 1e-300], [0, 0, 3]])
def test_an_up_direction_of_any_length_is_a_direction(demo_run, demo, tmp_path, up_axis):
    data, _ = redo(demo_run, tmp_path, up="calibration", up_axis=up_axis, zoom="fit")
    np.testing.assert_allclose(data["w2c"], demo["w2c"], atol=1e-12)


def test_a_mouse_that_would_hardly_be_seen_is_an_error(demo_run, tmp_path):
    with pytest.raises(
        UserError, match=r"cover .* of the image, some [0-9]+ px across: raise normalize\.zoom \(0\.05\)"
    ):
        redo(demo_run, tmp_path, zoom=0.05)
    assert list(tmp_path.iterdir()) == []


def test_canonical_without_any_hull_and_any_policy_without_a_centre_are_errors(demo_run, tmp_path):
    hullless = changed(demo_run, tmp_path, lambda f: f["lengths_mm"].write_direct(np.full((25, 3), np.nan)))
    with pytest.raises(UserError, match="no frame has a visual hull"):
        redo(demo_run, tmp_path, subject=hullless, distance="canonical")
    lost = changed(demo_run, tmp_path, lambda f: f["center_mm"].write_direct(np.full((25, 3), np.nan)))
    with pytest.raises(UserError, match="the mouse's centre is known in no frame"):
        redo(demo_run, tmp_path, subject=lost)
    assert [path.name for path in tmp_path.iterdir()] == ["changed.h5"]


def test_a_silhouette_that_contradicts_the_others_does_not_decide_the_zoom(demo_run, demo, tmp_path):
    def hand(file):
        for n in range(5):
            file["hull_iou"][n, 2] = 0.3
            file["outline_rays"][n, 2] = file["outline_rays"][n, 2] * [4, 4, 1]

    data, _ = redo(demo_run, tmp_path, subject=changed(demo_run, tmp_path, hand), zoom="fit")
    np.testing.assert_allclose(data["fxfycxcy"], demo["fxfycxcy"], rtol=0.05)
    assert not data["fits"][:5, 2].any()
