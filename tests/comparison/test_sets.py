"""Cameras are read from whatever holds them, and what cannot be compared is named."""

import json
import os
import shutil
import tarfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.comparison.measure import compare, measure
from mousefacelift.comparison.sets import read_cameras
from mousefacelift.rigs.registry import read_rig, write_rig
from mousefacelift.shards.exports.facelift import export_facelift
from support.balls import AZIMUTHS
from support.camerasets import (
    REFERENCE,
    cameras,
    differing,
    example,
    ring,
    text,
    turned,
    verdicts,
    written_rig,
)


def test_the_calibration_is_scaled_about_its_origin_or_where_its_cameras_look():
    source = example("dannce_markerless_mouse_1.opencv.json")
    world, target = read_cameras(source), read_cameras(source, origin="target")
    for each in (world, target):
        assert measure(each).distance.mean() == pytest.approx(2.7)
    assert measure(target).distance.std() < 0.1 < measure(world).distance.std()
    assert "scaled by 0.008148 per mm" in world.frame
    assert "where the optical axes meet, (46.9, 49.2, 59.6) mm" in target.frame


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


def test_shards_are_read_from_their_manifest_a_file_and_a_folder(synthetic_shards):
    whole = read_cameras(str(synthetic_shards))
    assert whole.c2w.shape == (9, 6, 4, 4)
    assert read_cameras(str(synthetic_shards.parent)).c2w.shape == (9, 6, 4, 4)
    train = read_cameras(str(synthetic_shards.parent / "train" / "ball-0000.h5"))
    assert train.c2w.shape == (5, 6, 4, 4)
    assert read_cameras(str(synthetic_shards.parent / "train")).c2w.shape == (5, 6, 4, 4)
    np.testing.assert_allclose(measure(train).azimuth[0], np.rad2deg(AZIMUTHS))
    assert (train.size == 64).all()
    assert verdicts(whole, train)["camera distance: std"] == "match"


def test_of_many_samples_few_images_are_read(synthetic_shards, tmp_path):
    shard = tmp_path / "shard.h5"
    shutil.copy(synthetic_shards.parent / "train" / "ball-0000.h5", shard)
    with h5py.File(shard, "a") as file:
        shape = file["image"].shape
        del file["image"]
        file.create_dataset("image", (1000 * shape[0], 6, 512, 512, 4), np.uint8, chunks=(1, 1, 64, 64, 4))
        for name in ("c2w", "fxfycxcy"):
            values = file[name][()].repeat(1000, axis=0)
            del file[name]
            file[name] = values
    found = read_cameras(str(shard))
    assert found.c2w.shape == (5000, 6, 4, 4), "30 GB of pixels"
    looked = np.flatnonzero(np.isfinite(found.silhouettes).all(axis=(1, 2)))
    assert len(looked) == 16 and looked[0] == 0 and looked[-1] == 4999
    assert np.isnan(np.delete(found.silhouettes, looked, axis=0)).all()


def sizes_by_hand(shard):
    """Share and width of the silhouettes in a shard, [N, V, 2]."""
    with h5py.File(shard) as file:
        inside = file["image"][..., 3] > 127
    columns = inside.any(axis=2)
    wide = [[row.nonzero()[0].max() - row.nonzero()[0].min() + 1 for row in sample] for sample in columns]
    return np.stack([inside.mean(axis=(2, 3)), np.array(wide) / 64], axis=-1)


@pytest.mark.parametrize("form", ["h5", "tar", "folders"])
def test_the_subjects_size_is_that_of_the_silhouettes_in_every_form_of_a_data_set(synthetic_shards, tmp_path, form):
    h5 = synthetic_shards.parent / "train" / "ball-0000.h5"
    expected = sizes_by_hand(h5)
    source = h5.with_suffix(f".{form}")
    if form == "folders":
        export_facelift(synthetic_shards, tmp_path / "facelift", ("train",))
        source = tmp_path / "facelift" / "train"
    np.testing.assert_allclose(read_cameras(str(source)).silhouettes, expected, atol=1e-12)
    assert 0.05 < expected[..., 0].mean() < 0.6


def test_a_calibration_and_lost_images_have_no_size(synthetic_shards, tmp_path):
    assert np.isnan(read_cameras(str(written_rig(tmp_path))).silhouettes).all()
    assert np.isnan(read_cameras(str(facelift_folder(tmp_path / "data"))).silhouettes).all(), "JSON alone"
    export_facelift(synthetic_shards, tmp_path / "facelift", ("test",))
    next((tmp_path / "facelift").rglob("*.png")).unlink()
    silhouettes = read_cameras(str(tmp_path / "facelift" / "test")).silhouettes
    assert np.isnan(silhouettes[..., 0]).sum() == 1


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


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_is_not_the_current_folder(source):
    with pytest.raises(UserError, match="the name of a data set is empty"):
        read_cameras(source)


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
