"""Two data sets' cameras side by side: measured right, judged by stated tolerances, read from whatever holds them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from mousefacelift.base.errors import UserError
from mousefacelift.cli import app
from mousefacelift.comparison.measure import compare, measure, per_camera
from mousefacelift.comparison.page import as_json, check_folder, markdown, mean_rig, page, rig_figure, write_comparison
from mousefacelift.comparison.sets import CameraSet, facelift_reference, read_cameras
from mousefacelift.geometry.camera import Camera
from mousefacelift.rigs.registry import read_rig, write_rig
from support.balls import AZIMUTHS, ELEVATIONS, look_at_origin
from support.paths import SHARED

EXAMPLES = SHARED / "calibrations"
REFERENCE = facelift_reference()
SHOWN = ("samples", "azimuth: range")  # not judged


def example(name):
    if not (EXAMPLES / name).exists():
        pytest.skip(f"the example calibrations beside the repository (../shared/calibrations/{name}) are missing")
    return str(EXAMPLES / name)


def cameras(c2w, focal=549.0, size=512, names=None):
    """A data set of level square views from poses [N, V, 4, 4]."""
    c2w = np.asarray(c2w, float)
    n, v = c2w.shape[:2]
    fxfycxcy = np.tile([focal, focal, size / 2, size / 2], (n, v, 1))
    names = names or tuple(f"cam{i}" for i in range(v))
    return CameraSet("made", "test", "", names, c2w, fxfycxcy, np.full((n, v, 2), float(size)))


def ring(azimuths=AZIMUTHS, elevations=ELEVATIONS, distance=2.7):
    return [[look_at_origin(a, e, distance) for a, e in zip(azimuths, elevations, strict=True)]]


def turned(data, rotation):
    """The data set in a world turned by a scipy rotation."""
    M = np.eye(4)
    M[:3, :3] = rotation.as_matrix()
    return replace(data, c2w=M @ data.c2w)


def rolled(data, degrees, view=None):
    """The data set with one view, or all, rolled clockwise about the optical axis, as seen from behind the camera."""
    c2w = data.c2w.copy()
    roll = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    chosen = slice(None) if view is None else view
    c2w[:, chosen, :3, :3] = c2w[:, chosen, :3, :3] @ roll
    return replace(data, c2w=c2w)


def verdicts(a, b):
    return {row.quantity: row.verdict for row in compare(a, b).rows}


def differing(a, b):
    return {quantity.split(",")[0].split(":")[0] for quantity, verdict in verdicts(a, b).items() if verdict == "differ"}


def written_rig(folder, name="rig.json", centers=None, scale=1000.0):
    """A calibration in mm, an animal-sized rig that looks at its world's origin."""
    poses = np.array(ring())[0] if centers is None else np.array(centers)
    rig = tuple(
        Camera(f"cam{i}", 640, 480, np.array([[900.0, 0, 320], [0, 900, 240], [0, 0, 1]]), np.zeros(14),
               c2w[:3, :3].T, -c2w[:3, :3].T @ c2w[:3, 3] * scale / 2.7)
        for i, c2w in enumerate(poses)
    )  # fmt: skip
    write_rig(rig, folder / name, "opencv-json")
    return folder / name


# The research log's own numbers, from its own rig.
def test_the_research_logs_numbers_come_out():
    rig = read_cameras(example("dannce_markerless_mouse_1.opencv.json"))
    found = measure(rig)
    assert found.distance[0].round(3).tolist() == [2.005, 3.377, 2.963, 2.770, 2.594, 2.491]
    assert found.elevation[0].round(1).tolist() == [14.9, 20.6, 11.3, 10.7, 26.5, 30.8]
    about_y = np.degrees(np.arcsin(rig.c2w[0, :, 1, 3] / found.distance[0]))
    assert about_y.round(1).tolist() == [-31.7, 31.5, 78.1, -11.1, 31.7, -50.6], (
        "the log's elevations, about a wrong axis"
    )
    rows = {row.quantity: row for row in compare(rig, REFERENCE).rows}
    assert rows["camera distance: std"].texts == ("0.4224", "0.0000")
    assert rows["camera distance: mean"].texts == ("2.7000", "2.7000")
    assert rows["elevation: mean (range)"].texts[1] == "20.0° (20.0° to 20.0°)"
    assert rows["elevation: mean (range)"].verdict == "match"
    assert found.up[0, :, 2].min().round(2) == 0.93
    assert found.up[0, :, 2].max().round(2) == 1.0


def test_the_logs_up_is_the_unit_mean_of_the_cameras_up_vectors():
    # The log wrote [0, 0.015, 1]; its 0.86 degrees are asin(0.015).
    rig = read_cameras(example("dannce_markerless_mouse_1.opencv.json"))
    (row,) = (row for row in compare(rig, REFERENCE).rows if row.quantity == "up: mean of the cameras' up vectors")
    assert row.texts[0] == "[-0.006, 0.015, 1.000]"
    mean = np.mean([-R[:, 1] for R in rig.c2w[0, :, :3, :3]], axis=0)
    np.testing.assert_allclose(row.values[0], mean / np.linalg.norm(mean), atol=1e-12)
    assert mean[2].round(2) == 0.98, "the mean itself, not made unit length, does not give the log's 1"


def test_the_calibration_is_scaled_about_its_origin_or_where_its_cameras_look():
    source = example("dannce_markerless_mouse_1.opencv.json")
    world, target = read_cameras(source), read_cameras(source, origin="target")
    for each in (world, target):
        assert measure(each).distance.mean() == pytest.approx(2.7)
    assert measure(target).distance.std() < 0.1 < measure(world).distance.std()
    assert "scaled by 0.008148 per mm" in world.frame
    assert "where the optical axes meet, (46.9, 49.2, 59.6) mm" in target.frame


# The built-in reference.
def test_the_reference_is_what_was_measured_on_facelifts_training_data():
    found = measure(REFERENCE)
    assert REFERENCE.c2w.shape == (1, 32, 4, 4)
    np.testing.assert_allclose(found.distance, 2.7)
    np.testing.assert_allclose(found.elevation, 20.0)
    np.testing.assert_allclose(found.roll, 0, atol=1e-9)
    np.testing.assert_allclose(found.focal, 548.9937744, atol=1e-7)
    about_y = np.degrees(np.arcsin(REFERENCE.c2w[0, :, 1, 3] / 2.7))
    np.testing.assert_allclose([about_y.min(), about_y.max()], [-70, 70], atol=1e-9)


def test_facelifts_own_file_is_its_inference_orbit():
    orbit = read_cameras(example("facelift_opencv_cameras.json"))
    assert measure(orbit).azimuth[0].round(4).tolist() == [180, 225, 270, 315, 0, 90]
    np.testing.assert_allclose(measure(orbit).elevation, 0, atol=1e-4)
    assert "as stored" in orbit.frame, "FaceLift's world is not scaled again"
    found = verdicts(orbit, REFERENCE)
    assert {name for name, verdict in found.items() if verdict == "match"} >= {
        "image size, px", "focal length / image width", "camera distance: std", "roll: range",
        "tilt of the cameras' common horizon", "azimuth: widest gap between neighbours",
    }  # fmt: skip


def test_a_data_set_matches_itself_in_everything():
    comparison = compare(REFERENCE, REFERENCE)
    assert {row.verdict for row in comparison.rows if row.quantity not in SHOWN} == {"match"}
    assert comparison.summary == ("A and B match in all 15 quantities.",)


# What is measured.
def test_distance_azimuth_and_elevation_are_those_the_cameras_were_put_at():
    found = measure(cameras(ring(distance=3.1)))
    np.testing.assert_allclose(found.azimuth[0], np.rad2deg(AZIMUTHS))
    np.testing.assert_allclose(found.elevation[0], np.rad2deg(ELEVATIONS))
    np.testing.assert_allclose(found.distance, 3.1)


@pytest.mark.parametrize("angle", [-75, -8, 3, 90, 170])
def test_a_rolled_camera_is_found_with_its_roll(angle):
    level = cameras(ring())
    found = measure(rolled(level, -angle, view=2))
    np.testing.assert_allclose(found.roll[0], [0, 0, angle, 0, 0, 0], atol=1e-9)
    summary = " ".join(compare(level, rolled(level, -angle, view=2)).summary)
    assert "B's cameras are not level" in summary and "`normalize` does" in summary


def test_roll_is_how_far_the_images_right_side_is_raised():
    data = rolled(cameras(ring()), -10)
    right = data.c2w[0, :, :3, 0]
    lifted = np.degrees(np.arcsin(right[:, 2] / np.cos(ELEVATIONS)))
    np.testing.assert_allclose(measure(data).roll[0], lifted)
    assert (right[:, 2] > 0).all()


def test_level_cameras_have_a_level_horizon_however_they_are_spread_and_pitched():
    data = cameras(ring(np.deg2rad([0, 20, 50, 170]), np.deg2rad([10, 60, 30, 5])))
    np.testing.assert_allclose(measure(data).horizon, [0, 0, 1], atol=1e-12)
    mean = measure(data).up.mean(axis=(0, 1))
    assert np.degrees(np.arctan2(np.hypot(*mean[:2]), mean[2])) > 5, "the mean of the up vectors is not up"


@pytest.mark.parametrize("angle", [0.6, 4, 40])
def test_a_leaning_world_is_found_with_its_angle(angle):
    lean = Rotation.from_rotvec(np.deg2rad(angle) * np.array([0.6, 0.8, 0]))
    upright = cameras(ring(elevations=np.full(6, 0.3)))
    row = {r.quantity: r for r in compare(upright, turned(upright, lean)).rows}
    tilt, plane = row["tilt of the cameras' common horizon"], row["that plane's normal: angle to up"]
    assert tilt.values[1][0] == pytest.approx(angle)
    assert plane.values[1][0] == pytest.approx(angle)
    assert tilt.verdict == "differ"


def test_a_world_that_is_y_up_is_named():
    upright = cameras(ring())
    comparison = compare(turned(upright, Rotation.from_euler("x", -90, degrees=True)), upright)
    assert "A's world does not seem to have the up axis that is named" in " ".join(comparison.summary)


def test_cameras_off_a_plane_are_measured_by_their_rms_distance_from_it():
    up_and_down = np.deg2rad([20.0, -20, 20, -20, 20, -20])
    data = cameras(ring(np.deg2rad(np.arange(6) * 60.0), up_and_down))
    height = 2.7 * np.sin(np.deg2rad(20))
    assert measure(data).flatness[0] == pytest.approx(height / 2.7, abs=0.02)
    centers = data.c2w[0, :, :3, 3] - data.c2w[0, :, :3, 3].mean(axis=0)
    assert measure(data).flatness[0] == pytest.approx(np.linalg.svd(centers)[1][-1] / np.sqrt(6) / 2.7)
    assert measure(cameras(ring(elevations=np.full(6, 0.4)))).flatness[0] < 1e-6


def test_a_camera_straight_above_has_no_azimuth_and_no_roll():
    above = np.diag([1.0, -1, -1, 1])
    above[2, 3] = 2.7
    data = cameras([[*ring()[0], above]])
    found = measure(data)
    assert np.isnan([found.azimuth[0, 6], found.roll[0, 6]]).all()
    assert found.elevation[0, 6] == pytest.approx(90)
    comparison = compare(data, data)
    assert {row.verdict for row in comparison.rows if row.quantity not in SHOWN} == {"match"}, "the others are judged"
    assert json.loads(json.dumps(as_json(comparison), allow_nan=False))["a"]["cameras"][6]["roll"] is None
    assert "| – |" in markdown(comparison)


def test_rows_of_cameras_are_means_over_samples_and_azimuths_go_round():
    data = cameras(np.concatenate([ring(AZIMUTHS - np.deg2rad(16)), ring(AZIMUTHS - np.deg2rad(12))]))
    np.testing.assert_allclose(per_camera(measure(data))["azimuth"], np.rad2deg(AZIMUTHS) - 14)
    assert per_camera(measure(data))["azimuth"][0] == pytest.approx(1.0), "the mean of 359 and 3"
    for camera, azimuth, elevation in zip(mean_rig(data), AZIMUTHS - np.deg2rad(14), ELEVATIONS, strict=True):
        np.testing.assert_allclose(camera.R.T, look_at_origin(azimuth, elevation, 1)[:3, :3], atol=1e-12)
        assert np.degrees(np.arctan2(*camera.center[1::-1])) % 360 == pytest.approx(np.rad2deg(azimuth) % 360)


# Verdicts.
def test_a_turn_about_up_changes_azimuths_which_are_shown_and_not_judged():
    data = cameras(ring())
    for angle in (5, 30, 170):
        rows = compare(data, turned(data, Rotation.from_euler("z", angle, degrees=True))).rows
        (azimuth,) = (row for row in rows if row.quantity == "azimuth: range")
        assert azimuth.texts[0] != azimuth.texts[1]
        assert (azimuth.verdict, azimuth.tolerance) == ("", "not compared")
        assert {row.verdict for row in rows if row.quantity not in SHOWN} == {"match"}


def changed(data, **changes):
    return replace(data, **{name: change(getattr(data, name).copy()) for name, change in changes.items()})


def scaled_pose(factor):
    def change(c2w):
        c2w[..., :3, 3] *= factor
        return c2w

    return change


def other_ring(azimuths=AZIMUTHS, elevations=ELEVATIONS):
    return cameras(ring(azimuths, elevations))


BASE = cameras(ring())
UNEVEN = np.array([1, -1] * 3)[:, None]
BASES = {  # where BASE's own value is in the way
    "angle of that": cameras(ring(elevations=np.zeros(6))),
    "cameras off": cameras(ring(elevations=np.zeros(6))),
    "that plane": cameras(ring(elevations=np.full(6, 0.3))),
}
NUDGES = {
    # quantity, as its row begins: the base changed by x times the tolerance
    "focal length": lambda x: changed(BASE, fxfycxcy=lambda f: f * [1 + 0.01 * x, 1 + 0.01 * x, 1, 1]),
    "focal length / image width": lambda x: changed(BASE, size=lambda s: s * (1 - 0.01 * x)),
    "principal point from centre": lambda x: changed(BASE, fxfycxcy=lambda f: f + [0, 0, 1.0 * x, 0]),
    "camera distance: mean": lambda x: changed(BASE, c2w=scaled_pose(1 + 0.01 * x)),
    "camera distance: std": lambda x: changed(BASE, c2w=scaled_pose(1 + 0.1 / 2.7 * x * UNEVEN)),
    "up: mean": lambda x: turned(BASE, Rotation.from_euler("x", np.rad2deg(0.1) * x, degrees=True)),
    "angle of that": lambda x: turned(BASES["angle of that"], Rotation.from_euler("x", 6 * x, degrees=True)),
    "tilt of": lambda x: turned(BASE, Rotation.from_euler("x", 0.5 * x, degrees=True)),
    "roll": lambda x: rolled(BASE, 1.0 * x, view=3),
    "elevation": lambda x: other_ring(elevations=ELEVATIONS + np.deg2rad(15 * x)),
    "azimuth: widest": lambda x: other_ring(AZIMUTHS[0] + np.linspace(0, np.deg2rad(300 - 80 * x), 6)),
    "cameras off": lambda x: other_ring(elevations=np.arcsin(np.array([1, -1, 0, 1, -1, 0]) * 0.05 * x * np.sqrt(1.5))),
    "that plane": lambda x: turned(BASES["that plane"], Rotation.from_euler("x", 5 * x, degrees=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUDGES)
def test_each_verdict_flips_at_its_stated_tolerance(name):
    base = BASES.get(name, BASE)
    for factor, expected in ((0.9, "match"), (1.1, "differ")):
        found = {n: v for n, v in verdicts(base, NUDGES[name](factor)).items() if n.startswith(name)}
        assert set(found.values()) == {expected}, (factor, found)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("views", cameras([ring()[0][:5]])),
        ("image size", replace(BASE, size=np.full((1, 6, 2), 511.0))),
        ("image size", replace(BASE, size=np.concatenate([BASE.size[:, :3], BASE.size[:, 3:] + 1], axis=1))),
    ],
)
def test_counts_and_sizes_must_be_equal(name, other):
    assert name in differing(BASE, other)
    assert name not in differing(other, other)


def test_a_number_that_is_not_known_is_neither_a_match_nor_a_difference():
    unknown = replace(BASE, size=np.zeros((1, 6, 2)))
    comparison = compare(BASE, unknown)
    of = {row.quantity: row for row in comparison.rows}
    assert of["image size, px"].verdict == "unknown"
    assert of["image size, px"].texts == ("512x512", "?")
    assert comparison.summary[:2] == (
        "A and B match in the other 12 quantities.",
        "Not known of both: image size, px; focal length / image width; "
        "principal point from centre, px: mean x, mean y (largest).",
    )


# What is read.
def facelift_folder(folder, samples=3):
    for k in range(samples):
        frames = [
            {"w": 512, "h": 512, "fx": 549.0, "fy": 549.0, "cx": 256.0, "cy": 256.0,
             "w2c": np.linalg.inv(c2w).tolist(), "file_path": f"images/cam_{i:03d}.png"}
            for i, c2w in enumerate(ring(AZIMUTHS + 0.1 * k)[0])
        ]  # fmt: skip
        path = folder / f"sample_{k:03d}" / "opencv_cameras.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"id": f"sample_{k:03d}", "frames": frames}))
    return folder


def test_a_facelift_folder_is_read_sample_by_sample(tmp_path):
    found = read_cameras(str(facelift_folder(tmp_path / "data")))
    assert found.c2w.shape == (3, 6, 4, 4)
    assert found.names[:2] == ("cam_000", "cam_001")
    np.testing.assert_allclose(found.c2w[1], ring(AZIMUTHS + 0.1)[0], atol=1e-12)
    one = read_cameras(str(tmp_path / "data" / "sample_002"))
    np.testing.assert_allclose(one.c2w[0], found.c2w[2])
    assert read_cameras(str(tmp_path / "data" / "sample_002" / "opencv_cameras.json")).c2w.shape == (1, 6, 4, 4)


def test_shards_are_read_from_their_manifest_a_file_and_a_folder_without_their_images(synthetic_shards):
    whole = read_cameras(str(synthetic_shards))
    assert whole.c2w.shape == (9, 6, 4, 4)
    assert read_cameras(str(synthetic_shards.parent)).c2w.shape == (9, 6, 4, 4)
    train = read_cameras(str(synthetic_shards.parent / "train" / "ball-0000.h5"))
    assert train.c2w.shape == (5, 6, 4, 4)
    assert read_cameras(str(synthetic_shards.parent / "train")).c2w.shape == (5, 6, 4, 4)
    np.testing.assert_allclose(measure(train).azimuth[0], np.rad2deg(AZIMUTHS))
    assert (train.size == 64).all()
    assert verdicts(whole, train)["camera distance: std"] == "match"


def test_a_shards_images_are_not_read(synthetic_shards, tmp_path):
    shard = tmp_path / "shard.h5"
    shutil.copy(synthetic_shards.parent / "train" / "ball-0000.h5", shard)
    with h5py.File(shard, "a") as file:
        shape = file["image"].shape
        del file["image"]
        file.create_dataset("image", (10 * shape[0], 6, 4096, 4096, 4), np.uint8, chunks=(1, 1, 64, 64, 4))
        for name in ("c2w", "fxfycxcy"):
            values = file[name][()].repeat(10, axis=0)
            del file[name]
            file[name] = values
    assert read_cameras(str(shard)).c2w.shape == (50, 6, 4, 4), "20 GB of pixels"


@pytest.mark.slow
def test_the_two_containers_of_a_shard_give_the_same_table(demo_run):
    for h5 in demo_run.shards:
        from_h5, from_tar = (read_cameras(str(h5.with_suffix(suffix))) for suffix in (".h5", ".tar"))
        assert from_h5.names == from_tar.names
        np.testing.assert_allclose(from_h5.c2w, from_tar.c2w, atol=1e-12)
        ours, theirs = (compare(each, REFERENCE) for each in (from_h5, from_tar))
        assert [row.texts for row in ours.rows] == [row.texts for row in theirs.rows]
    normalized = {row.quantity: row for row in compare(read_cameras(str(demo_run.folder / "shard")), REFERENCE).rows}
    for name in ("image size, px", "camera distance: mean", "roll: range", "tilt of the cameras' common horizon"):
        assert normalized[name].verdict == "match", "what `normalize` promises"


def test_a_calibration_with_another_up_axis_is_turned_upright(tmp_path):
    upright = read_cameras(str(written_rig(tmp_path)))
    poses = np.array(ring())[0]
    fallen = turned(cameras([poses]), Rotation.from_euler("x", 90, degrees=True)).c2w[0]  # +z becomes -y
    y_down = str(written_rig(tmp_path, "fallen.json", fallen))
    assert differing(upright, read_cameras(y_down, up_axis="-y")) == set()
    assert "tilt of the cameras' common horizon" in verdicts(upright, read_cameras(y_down))
    assert "up: -y of the calibration's world" in read_cameras(y_down, up_axis="-y").frame
    assert measure(read_cameras(y_down)).elevation.max() > 45


def test_lenses_are_compared_without_their_distortion_and_the_frame_says_so(tmp_path):
    plain = read_cameras(str(written_rig(tmp_path)))
    assert "distortion" not in plain.frame
    for name, lens in (("bent", {"dist": np.array([0.1, *[0.0] * 13])}), ("fisheye", {"fisheye": True})):
        rig = tuple(replace(camera, **lens) for camera in read_rig(tmp_path / "rig.json"))
        write_rig(rig, tmp_path / f"{name}.json", "opencv-json")
        found = read_cameras(str(tmp_path / f"{name}.json"))
        assert found.frame == plain.frame + "; lenses are compared without their distortion"
        np.testing.assert_array_equal(found.fxfycxcy, plain.fxfycxcy)


# What is wrong is said.
@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_is_not_the_current_folder(source):
    with pytest.raises(UserError, match="the name of a data set is empty"):
        read_cameras(source)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: text(f / "out", ""), "--output .*out: .*out is not a folder"),
        (lambda f: text(f / "out", "") / "deep" / "er", "er: .*out is not a folder"),
        (lambda f: (f / "out").symlink_to("nowhere") or f / "out", "out is not a folder"),
        (lambda f: (f / "out" / "comparison.md").mkdir(parents=True) or f / "out", "comparison.md is a folder, in the way"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_found_before_anything_is_read_or_printed(tmp_path, make, message):
    output = make(tmp_path)
    run = CliRunner().invoke(app, ["compare-cameras", "no such source", "facelift", "--output", str(output)])
    assert (run.exit_code, run.stdout) == (1, "")
    assert isinstance(run.exception, UserError) and re.search(message, str(run.exception))


def test_a_folder_that_must_not_be_written_to_is_no_output(tmp_path, monkeypatch):
    check_folder(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir()), "nothing is created"
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"--output {tmp_path}/new/folder: {tmp_path} cannot be written to"):
        check_folder(tmp_path / "new" / "folder")


def broken_h5(folder, change):
    path = folder / "shard.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((2, 6, 8, 8, 4), np.uint8)
        file["c2w"] = np.array(ring()).repeat(2, axis=0)
        file["fxfycxcy"] = np.tile([9.0, 9, 4, 4], (2, 6, 1))
        change(file)
    return path


def put(name, place, value):
    def change(file):
        file[name][place] = value

    return change


def truncated(folder, size):
    path = folder / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(facelift_folder(folder / "data") / "sample_000" / "opencv_cameras.json", "a.json")
    path.write_bytes(path.read_bytes()[:size])
    return path


def emptied(path):
    values = json.loads(path.read_text())
    values["shards"] = [shard | {"samples": 0} for shard in values["shards"]]
    path.write_text(json.dumps(values))
    return path


def text(path, content):
    path.write_text(content)
    return path


def two_lengths(folder):
    short = facelift_folder(folder / "data") / "sample_001" / "opencv_cameras.json"
    short.write_text(json.dumps({"frames": json.loads(short.read_text())["frames"][:4]}))
    return folder / "data"


SHARD = {"split": "train", "capture": "a", "chunk": 0, "samples": 3, "first": "a-000000", "last": "a-000002"}
FILES = {"tar": "a.tar", "h5": "a.h5", "bytes": {"tar": 1, "h5": 1}, "sha256": {"tar": "", "h5": ""}}
MANIFEST = {"image_size": 64, "views": 6, "shards": [SHARD | FILES]}
MISTAKES = {
    "nothing there": (lambda f: f / "none", "no such file or folder; 'facelift' is the built-in reference"),
    "an empty folder": (lambda f: f, r"Nor are there shards \(manifest.json, .h5, .tar\) or FaceLift samples"),
    "a pipe": (lambda f: os.mkfifo(f / "pipe") or f / "pipe", "not a regular file"),
    "a text": (lambda f: text(f / "a.txt", "nothing"), "a.txt"),
    "an empty file": (lambda f: text(f / "a.json", ""), "the file is empty"),
    "broken JSON": (lambda f: text(f / "a.json", '{"shards": ['), "damaged JSON"),
    "a manifest without samples": (lambda f: emptied(text(f / "manifest.json", json.dumps(MANIFEST))), "no samples in it"),
    "a manifest of nothing": (lambda f: text(f / "m.json", '{"shards": [{}]}'), "not a shard manifest"),
    "a shard that is gone": (lambda f: text(f / "m.json", json.dumps(MANIFEST)), "a.h5: no such file"),
    "a damaged shard": (lambda f: text(f / "a.h5", "\x89HDF\r\n"), "a.h5"),
    "half a tar's header": (lambda f: truncated(f, 300), "a.tar: not a readable tar"),
    "half a tar's file": (lambda f: truncated(f, 2500), "a.tar: not a readable tar"),
    "an empty tar": (lambda f: truncated(f, 0), "a.tar: not a readable tar"),
    "arrays of other samples": (
        lambda f: broken_h5(f, lambda file: file.move("fxfycxcy", "x") or file.create_dataset("fxfycxcy", data=np.ones((2, 5, 4)))),
        "do not belong together",
    ),
    "not finite": (lambda f: broken_h5(f, put("c2w", (1, 2, 0, 3), np.nan)), "sample 1: camera 'view 2' is not finite"),
    "no rotation": (lambda f: broken_h5(f, put("c2w", (0, 1, 0, 0), 3)), "camera 'view 1' is not a rigid pose"),
    "no focal length": (lambda f: broken_h5(f, put("fxfycxcy", (0, 1, 0), 0)), "a focal length that is not positive"),
    "at the origin": (lambda f: broken_h5(f, put("c2w", (0, 4, slice(0, 3), 3), 0)), "'view 4' stands at the origin"),
    "a single camera": (lambda f: written_rig(f, centers=ring()[0][:1]), "a single camera has no orbit"),
    "samples of other lengths": (two_lengths, "samples of 4 and 6 views"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_data_set_that_cannot_be_compared_is_one_message_that_names_it(tmp_path, mistake):
    make, message = MISTAKES[mistake]
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read_cameras(str(path))
    assert str(path) in str(error.value) or "a.h5" in str(error.value)


def test_parallel_cameras_have_no_target(tmp_path):
    side_by_side = [np.array(ring())[0][0] for _ in range(2)]
    side_by_side[1] = side_by_side[1].copy()
    side_by_side[1][:3, 3] += [0.5, 0.5, 0]
    path = written_rig(tmp_path, centers=side_by_side)
    with pytest.raises(UserError, match="parallel and meet nowhere; use --origin world"):
        read_cameras(str(path), origin="target")
    assert "the optical axes are parallel" in read_cameras(str(path)).frame


# What is written.
def test_the_command_prints_the_table_and_writes_it_in_three_forms(tmp_path):
    output = tmp_path / "out"
    run = CliRunner().invoke(
        app, ["compare-cameras", str(written_rig(tmp_path)), "facelift", "--output", str(output)], terminal_width=40
    )
    assert run.exit_code == 0, run.output
    for part in ("camera distance: std", "548.99 (548.99 to 548.99)", "900.00 (900.00 to 900.00)", "differ", "view 31"):
        assert part in run.output, "cut, or missing"
    assert "…" not in run.output
    assert sorted(path.name for path in output.iterdir()) == ["comparison.html", "comparison.json", "comparison.md"]
    values = json.loads((output / "comparison.json").read_text())
    assert [len(values[side]["cameras"]) for side in "ab"] == [6, 32]
    assert {row["verdict"] for row in values["quantities"]} == {"match", "differ", None}
    written = (output / "comparison.md").read_text()
    assert "| views | 6 | 32 | equal | differ |" in written
    for line in values["summary"]:
        assert line in written and line in run.output


def test_the_page_needs_no_network_and_shows_both_rigs(tmp_path):
    html = page(compare(BASE, REFERENCE))
    assert "Plotly.newPlot" in html
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=\s*[\"']?https?:", html)
    for part in ("A: 6 views", "B: 32 views", "distance, world units", "azimuth, degrees", "% of views", "cam5"):
        assert part in html


def test_names_cannot_become_markup():
    bad = "</script><script>alert(1)</script>|[red]*x*"
    comparison = compare(replace(BASE, source=bad, names=(bad, *BASE.names[1:])), REFERENCE)
    assert "<script>alert" not in page(comparison)
    text = markdown(comparison)
    assert "<script>" not in text.replace("\\<", "")
    assert "\\|\\[red\\]\\*x\\*" in text


def test_a_name_is_written_in_a_3d_label_as_it_is():
    figure = rig_figure(compare(replace(BASE, names=("a<b>&c", *BASE.names[1:])), REFERENCE))
    (labels,) = (trace for trace in figure.data if trace.text and "cam5" in trace.text)
    assert labels.text[0] == "a<b>&c"
    assert labels.hovertext[0] == "A: a&lt;b&gt;&amp;c", "there Plotly reads HTML"


def test_files_are_complete_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr("mousefacelift.comparison.page.page", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_comparison(compare(BASE, BASE), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.md"]


def test_a_mistake_is_one_line_and_torch_is_not_loaded(tmp_path):
    program = (
        "import sys; from mousefacelift.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    words = ["compare-cameras", str(tmp_path / "none"), "facelift", "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr.startswith("mousefacelift: error: ") and done.stderr.count("\n") == 1
    words[1] = str(written_rig(tmp_path))
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")
