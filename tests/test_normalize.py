import json
import shutil

import cv2
import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mousefacelift.cameras import surrounding_polygon
from mousefacelift.center import Flag
from mousefacelift.config import Normalize
from mousefacelift.errors import UserError
from mousefacelift.files import write_json
from mousefacelift.geometry import Camera, look_at
from mousefacelift.normalize import fit_zoom, measure_fit, normalize, place_cameras, smoothed
from mousefacelift.rigs import rig_from_json, rig_to_json
from mousefacelift.up import AXES, axis_vector
from rodent import ground_truth

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


@pytest.mark.parametrize(("margin", "quantile"), [(0.05, 0.9), (0.2, 0.9), (0.05, 1.0), (0.0, 0.5)])
def test_the_fitted_zoom_is_the_largest_that_holds_the_wanted_fraction(margin, quantile):
    outline = np.random.default_rng(0).uniform(-0.2, 0.2, (40, 32, 2)) * np.linspace(0.3, 1, 40)[:, None, None]
    zoom = fit_zoom(outline, 512, FOCAL, margin, quantile)

    def held(factor):
        return (np.abs(outline).max(axis=(1, 2)) * FOCAL * factor <= (0.5 - margin) * 512 + 1e-9).mean()

    assert held(zoom) >= quantile
    assert held(zoom * 1.0001) < max(quantile, held(zoom))


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
