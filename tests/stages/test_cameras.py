import json
import re
import shutil
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.config.cameras import Cameras
from mousefacelift.config.center import Center
from mousefacelift.geometry.agreement import surrounding_polygon
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.rigs.registry import write_rig
from mousefacelift.shards.images import decode_crop
from mousefacelift.stages.cameras import cameras
from mousefacelift.stages.center import center
from support.rodent import demo_capture, ground_truth, project_raw

FIELDS = ("frame", "time_s", "chunk", "flags", "area_px", "sharpness", "center_mm", "triangulated_mm", "residual_px",
          "center_rays", "outline_px", "outline_rays", "cut", "surface_mm", "thin_mm")  # fmt: skip


def chunks(run):
    return sorted((run.folder / "center" / run.capture.name).glob("*.h5"))


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][()] for name in FIELDS}


def edited(run, folder, change):
    """The subject of a run whose first centred chunk was changed: change(file)."""
    folder.mkdir(exist_ok=True)
    first, *others = chunks(run)
    shutil.copy(first, folder / "changed.h5")
    with h5py.File(folder / "changed.h5", "r+") as file:
        change(file)
    cameras(run.capture, [folder / "changed.h5", *others], folder, Cameras())
    return read(folder / "subject.h5")


def mark(file, frame, views, flag):
    flags = file["flags"][()]
    flags[frame, views] |= np.uint8(flag)
    file["flags"][...] = flags
    if flag == Flag.EMPTY:
        for name in ("center_px", "support_px"):
            values = file[name][()]
            values[frame, views] = np.nan
            file[name][...] = values


def shift(file, frame, view, pixels):
    file["center_px"][frame, view] = file["center_px"][frame, view] + pixels


def test_the_mouses_centre_is_found_within_the_limits_of_six_silhouettes(demo_run):
    data, truth = read(demo_run.folder / "subject.h5"), ground_truth()["center"]
    error = np.linalg.norm(data["center_mm"] - truth[data["frame"]], axis=1)
    print(f"centre: median {np.median(error):.2f} mm, 95 % below {np.quantile(error, 0.95):.2f} mm")
    assert np.median(error) <= 1.6
    assert np.quantile(error, 0.95) <= 3


@pytest.mark.parametrize("view", range(6))
def test_the_centre_is_found_without_any_one_cameras_masks(demo_run, tmp_path, view):
    paths = []
    for path in chunks(demo_run):
        paths.append(shutil.copy(path, tmp_path / path.name))
        with h5py.File(paths[-1], "r+") as file:
            mark(file, slice(None), view, Flag.EMPTY)
    cameras(demo_run.capture, paths, tmp_path, Cameras())
    data, truth = read(tmp_path / "subject.h5"), ground_truth()["center"]
    error = np.linalg.norm(data["center_mm"] - truth[data["frame"]], axis=1)
    print(f"without camera {view + 1}: median {np.median(error):.2f} mm, 95 % below {np.quantile(error, 0.95):.2f} mm")
    assert np.median(error) <= 2.5
    assert np.isnan(data["cut"][:, view]).all()


def test_a_tail_that_leaves_the_frame_is_a_small_share_of_the_mouse(demo_run):
    data, truth = read(demo_run.folder / "subject.h5"), ground_truth()
    outside = np.zeros(data["cut"].shape)
    for n, v in np.ndindex(outside.shape):
        x, y = project_raw(truth["vertices"][data["frame"][n]], v).T + 0.5
        outside[n, v] = ((x < 0) | (y < 0) | (x > 1152) | (y > 1024)).mean()
    assert (outside > 0.02).any(), "no tail leaves the frame"
    assert data["cut"][outside == 0].max() < 0.006  # a hull is a little larger than its mouse
    assert data["cut"].max() < 0.02


def test_not_a_pixel_of_a_silhouette_lies_outside_its_polygon(demo_run):
    with h5py.File(chunks(demo_run)[0]) as file:
        polygon = surrounding_polygon(file["support_px"][()])
        for n, v in np.ndindex(polygon.shape[:2]):
            x, y, w, h = file["window"][n, v]
            alpha = decode_crop(file["crop_zstd"][n, v], (w, h), "crop")[..., 3]
            corners = cv2.findNonZero(alpha).reshape(-1, 2).astype(float) + [x, y]
            corners = np.concatenate([corners + [i, j] for i in (0, 1) for j in (0, 1)])
            edge = np.roll(polygon[n, v], -1, axis=0) - polygon[n, v]
            inward = np.stack([-edge[:, 1], edge[:, 0]])
            assert (corners @ inward >= (polygon[n, v] * inward.T).sum(axis=1) - 1e-6).all()


def test_every_candidate_is_there_in_order_with_the_chunk_it_came_from(demo_run):
    data = read(demo_run.folder / "subject.h5")
    assert data["frame"].tolist() == list(range(0, 200, 8))
    np.testing.assert_allclose(data["time_s"], data["frame"] / 20)
    np.testing.assert_array_equal(data["chunk"], data["frame"] // 100)


def test_a_residual_is_the_distance_between_the_silhouettes_centre_and_the_reprojected_one(demo_run):
    data = read(demo_run.folder / "subject.h5")
    centers = []
    for path in chunks(demo_run):
        with h5py.File(path) as file:
            centers.append(file["center_px"][()])
    centers = np.concatenate(centers)
    for v in range(6):
        pixels = project_raw(data["triangulated_mm"], v) + 0.5
        np.testing.assert_allclose(data["residual_px"][:, v], np.linalg.norm(pixels - centers[:, v], axis=1), atol=1e-6)


def test_rays_go_through_the_silhouettes_centres_and_the_polygons_around_them(demo_run):
    data, truth = read(demo_run.folder / "subject.h5"), ground_truth()
    with h5py.File(chunks(demo_run)[0]) as file:
        centers, polygon = file["center_px"][()], surrounding_polygon(file["support_px"][()])
    np.testing.assert_array_equal(data["outline_px"][: len(polygon)], polygon)
    for rays, expected in ((data["outline_rays"], polygon), (data["center_rays"], centers)):
        np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
        for v in range(6):
            still = np.zeros(3)
            ahead = np.ascontiguousarray(rays[: len(expected), v]).reshape(-1, 1, 3)
            pixels = cv2.projectPoints(ahead, still, still, truth["K"][v], truth["dist"][v])[0][:, 0] + 0.5
            np.testing.assert_allclose(pixels, expected[:, v].reshape(-1, 2), atol=1e-6)


@pytest.mark.parametrize("view", range(6))
def test_a_camera_with_anothers_calibration_is_named(demo_run, tmp_path, view):
    paths = list(demo_run.capture.calibration)
    paths[view] = paths[(view + 2) % 6]
    wrong = replace(demo_run.capture, calibration=tuple(paths))
    with pytest.raises(
        UserError, match=f"capture rodent-a: camera {view + 1} contradicts the others: .*Median residuals .*px: 1: "
    ):
        cameras(wrong, chunks(demo_run), tmp_path, Cameras())
    assert list(tmp_path.iterdir()) == []


def test_two_cameras_with_each_others_calibration_stop_the_run(demo_run, tmp_path):
    one, two, *others = demo_run.capture.calibration
    wrong = replace(demo_run.capture, calibration=(two, one, *others))
    with pytest.raises(UserError, match=r"cameras 1, 2 contradict the others: .*all cameras together, px: 1: .*6: "):
        cameras(wrong, chunks(demo_run), tmp_path, Cameras())


def test_a_camera_that_faces_away_from_the_mouse_is_named(demo_run, tmp_path):
    path = demo_run.capture.calibration[3]
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    away = np.diag([-1.0, 1, -1])  # half a turn about the camera's own vertical axis; DANNCE's rows are transposed
    content["r"], content["t"] = content["r"] @ away, content["t"] @ away
    scipy.io.savemat(tmp_path / "turned.mat", content)
    wrong = replace(
        demo_run.capture, calibration=(*demo_run.capture.calibration[:3], tmp_path / "turned.mat", *demo_run.capture.calibration[4:])
    )  # fmt: skip
    with pytest.raises(UserError, match=r"camera 4 contradicts the others: .*4: behind the camera"):
        cameras(wrong, chunks(demo_run), tmp_path, Cameras())


def test_the_limit_on_residuals_is_the_settings(demo_run, tmp_path):
    median = np.nanmedian(read(demo_run.folder / "subject.h5")["residual_px"], axis=0).max()
    outputs = tmp_path
    cameras(demo_run.capture, chunks(demo_run), outputs, Cameras(max_residual_px=1.01 * median))
    with pytest.raises(UserError, match="contradict"):
        cameras(demo_run.capture, chunks(demo_run), outputs, Cameras(max_residual_px=0.99 * median))


def test_a_frame_with_too_few_silhouettes_has_no_centre_and_the_others_keep_theirs(demo_run, tmp_path):
    before = read(demo_run.folder / "subject.h5")

    def remove(file):
        mark(file, 3, [0, 1, 2], Flag.EMPTY)  # three views are left: just enough
        mark(file, 4, [0, 1, 2, 5], Flag.EMPTY)

    after = edited(demo_run, tmp_path, remove)
    assert np.isnan(after["center_mm"][4]).all()
    assert np.isnan(after["residual_px"][4]).all()
    assert np.isfinite(after["center_mm"][3]).all()
    assert np.isnan(after["residual_px"][3]).tolist() == [True] * 3 + [False] * 3
    others = np.setdiff1d(np.arange(25), [3, 4])
    np.testing.assert_array_equal(after["center_mm"][others], before["center_mm"][others])


def test_a_clipped_view_is_left_out_when_enough_others_are_whole(demo_run, tmp_path):
    def clip(file):
        mark(file, 2, [1], Flag.CLIPPED)

    def clip_and_shift(file):
        clip(file)
        shift(file, 2, 1, [80.0, 0])

    def shift_alone(file):
        shift(file, 2, 1, [80.0, 0])

    def remove(file):
        mark(file, 2, [1], Flag.EMPTY)

    changes = (clip, clip_and_shift, shift_alone, remove)
    clipped, shifted, whole, absent = (edited(demo_run, tmp_path / c.__name__, c) for c in changes)
    np.testing.assert_array_equal(shifted["triangulated_mm"], clipped["triangulated_mm"])
    np.testing.assert_allclose(shifted["triangulated_mm"], absent["triangulated_mm"], atol=1e-9)
    assert np.linalg.norm(whole["triangulated_mm"][2] - clipped["triangulated_mm"][2]) > 1
    assert abs(shifted["residual_px"][2, 1] - clipped["residual_px"][2, 1]) > 50, "its residual is still measured"


def test_clipped_views_are_used_when_too_few_others_are_whole(demo_run, tmp_path):
    before = read(demo_run.folder / "subject.h5")
    assert not before["flags"][2].any()
    after = edited(demo_run, tmp_path, lambda file: mark(file, 2, [0, 1, 2, 3], Flag.CLIPPED))
    np.testing.assert_array_equal(after["center_mm"][2], before["center_mm"][2])


def test_a_camera_that_never_sees_the_mouse_is_not_blamed(demo_run, tmp_path):
    paths, folder = [], tmp_path / "chunks"
    folder.mkdir()
    for path in chunks(demo_run):
        paths.append(shutil.copy(path, folder / path.name))
        with h5py.File(paths[-1], "r+") as file:
            mark(file, slice(None), [5], Flag.EMPTY)
    cameras(demo_run.capture, paths, tmp_path, Cameras())
    assert np.isnan(read(tmp_path / "subject.h5")["residual_px"][:, 5]).all()


def test_a_capture_without_a_mouse_is_an_error(demo_run, tmp_path):
    path = shutil.copy(chunks(demo_run)[0], tmp_path / "0000.h5")
    with h5py.File(path, "r+") as file:
        mark(file, slice(None), [0, 1, 2, 3], Flag.EMPTY)
    with pytest.raises(UserError, match=r"capture rodent-a: no frame has a mouse in 3 views \(cameras\.min_views\)"):
        cameras(demo_run.capture, [path], tmp_path, Cameras())


def test_a_missing_chunk_is_named(demo_run, tmp_path):
    with pytest.raises(UserError, match=r"0007\.h5: no such file; it is written by `mousefacelift center`"):
        cameras(demo_run.capture, [tmp_path / "0007.h5"], tmp_path, Cameras())


def report(folder):
    return {row["camera"]: row for row in json.loads((folder / "qc.json").read_text())["cameras"]}


def test_the_report_tells_of_each_camera_how_well_it_agrees(demo_run):
    rows = report(demo_run.folder)
    subject = demo_run.folder / "subject.h5"
    with h5py.File(subject) as file:
        iou, residual, flags = (file[name][()] for name in ("hull_iou", "residual_px", "flags"))
        assert (file["volume_mm3"][()] > 20_000).all() and (file["volume_mm3"][()] < 120_000).all()
        assert (np.diff(file["lengths_mm"][()], axis=1) <= 0).all()
    for v, row in enumerate(rows.values()):
        assert row["hull_iou"] == pytest.approx(iou[:, v].mean(), abs=1e-3)
        assert row["hull_iou"] > 0.85
        assert row["residual_px"]["median"] == pytest.approx(np.median(residual[:, v]), abs=1e-3)
        assert row["frames_with"]["clipped"] == ((flags[:, v] & Flag.CLIPPED) > 0).sum()
        assert row["others_iou_without_it"] > row["hull_of_others_iou"] > 0.6
        assert not row["late"] and not row["drifts"]
    assert (demo_run.folder / "qc.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 200 frames of the demo, centred, in one chunk."""
    path = tmp_path_factory.mktemp("whole") / "0000.h5"
    center(demo_capture(), 0, path, Center(chunk_frames=200), threads=2)
    return path


def delayed(path, target, view, frames):
    """A copy of a centred chunk in which one camera shows what it saw `frames` earlier."""
    shutil.copy(path, target)
    with h5py.File(target, "r+") as file:
        for name in ("center_px", "area_px", "support_px", "sharpness", "flags", "window"):
            values = file[name][()]
            values[frames:, view] = values[:-frames, view].copy()
            file[name][...] = values
        crops = [file["crop_zstd"][n, view] for n in range(200 - frames)]
        for n, crop in enumerate(crops):
            file["crop_zstd"][n + frames, view] = crop
    return target


@pytest.mark.slow
@pytest.mark.parametrize("view", [0, 3])
def test_a_video_that_is_three_frames_late_is_named_with_its_delay(whole, tmp_path, view):
    path = delayed(whole, tmp_path / "0000.h5", view, 3)
    with pytest.raises(UserError, match="is late by") as caught:
        cameras(demo_capture(), [path], tmp_path / "out", Cameras(), threads=2)
    (found,) = re.findall(
        r"camera (\d) is late by ([\d.]+) ± [\d.]+ frames.*let the table's column 'sync' say \d=(\d):",
        str(caught.value),
    )
    assert found[0] == str(view + 1)
    assert abs(float(found[1]) - 3) < 1 and found[2] == "3"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["qc-failed.json", "qc-failed.png", "worst.png"]
    wrong_way = replace(demo_capture(), sync=tuple(-2 * (v == view) for v in range(6)))
    with pytest.raises(
        UserError, match=f"'sync' say {view + 1}=1 instead of {view + 1}=-2: frame k .* is then frame k\\+1 of"
    ):
        cameras(wrong_way, [path], tmp_path / "out", Cameras(), threads=2)
    cameras(demo_capture(), [path], tmp_path / "out", Cameras(max_shift_frames=5), threads=2)
    assert not list((tmp_path / "out").glob("qc-failed*"))
    late = {name: row["late_frames"] for name, row in report(tmp_path / "out").items() if row["late"]}
    assert list(late) == [str(view + 1)]


@pytest.mark.slow
def test_a_synchronous_capture_raises_no_alarm_and_its_shifts_are_near_zero(whole, tmp_path):
    cameras(demo_capture(), [whole], tmp_path, Cameras(), threads=2)
    assert all(abs(row["late_frames"]) < 0.5 and not row["late"] for row in report(tmp_path).values())


def test_hulls_that_do_not_fill_their_silhouettes_stop_the_run_and_name_the_suspect(demo_run, tmp_path):
    path = demo_run.capture.calibration[2]
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    content["t"] = content["t"] + [[12.0, -6, 0]]  # 13 mm beside its place: as much as the residuals' limit allows
    scipy.io.savemat(tmp_path / "moved.mat", content)
    calibration = (*demo_run.capture.calibration[:2], tmp_path / "moved.mat", *demo_run.capture.calibration[3:])
    wrong = replace(demo_run.capture, calibration=calibration)
    settings = Cameras(max_residual_px=100, min_hull_iou=0.85)
    with pytest.raises(
        UserError, match=r"the visual hull fills its silhouettes too little in camera .*\. Without camera 3 the others"
    ):
        cameras(wrong, chunks(demo_run), tmp_path, settings)
    assert not (tmp_path / "subject.h5").exists()


@pytest.mark.parametrize(("unit", "size"), [("cm", r"\d\d\d"), ("m", r"\d\d\d\d+|[\d.]+e\+0\d")])
def test_an_animal_of_impossible_size_means_a_wrong_unit(demo_run, tmp_path, unit, size):
    with pytest.raises(
        UserError, match=rf"(would reach ({size}) mm from its centre: is the calibration in {unit}|unit off by)"
    ):
        cameras(replace(demo_run.capture, unit=unit), chunks(demo_run), tmp_path, Cameras())


def test_a_silhouette_far_larger_than_the_mouse_is_flagged(demo_run, tmp_path):
    def hand(file):
        file["area_px"][5, 2] = 4 * file["area_px"][5, 2]

    flags = edited(demo_run, tmp_path, hand)["flags"]
    assert np.argwhere(flags & Flag.LARGE).tolist() == [[5, 2]]


def test_a_rig_in_one_file_is_matched_by_the_cameras_names(demo_run, tmp_path):
    truth = rig_from_json(demo_run.folder / "rig.json")
    renamed = tuple(replace(camera, name=f"cam_{camera.name}") for camera in truth[::-1])
    write_rig(renamed, tmp_path / "rig.json", "opencv-json")
    capture = replace(demo_run.capture, calibration=tmp_path / "rig.json", format="auto")
    cameras(capture, chunks(demo_run), tmp_path / "out", Cameras())
    for ours, theirs in zip(rig_from_json(tmp_path / "out" / "rig.json"), truth, strict=True):
        assert ours.name == theirs.name
        np.testing.assert_allclose(ours.K, theirs.K)
        np.testing.assert_allclose(ours.t, theirs.t)
    other = replace(capture, calibration_names={"3": "cam_9"})
    with pytest.raises(UserError, match="camera '3' is not in the calibration: the capture has 1, 2, 3, 4, 5, 6; the"):
        cameras(other, chunks(demo_run), tmp_path / "out", Cameras())


def test_a_damaged_crop_is_named_with_file_frame_and_camera(demo_run, tmp_path):
    def damage(file):
        file["crop_zstd"][4, 1] = np.arange(50, dtype=np.uint8)

    with pytest.raises(
        UserError, match=r"changed\.h5, frame 32, camera 2: damaged crop \(.*\); delete the file and run"
    ):
        edited(demo_run, tmp_path, damage)
    assert not (tmp_path / "subject.h5").exists()


def test_chunks_of_another_capture_other_cameras_or_in_another_order_are_named(demo_run, tmp_path):
    first, second = chunks(demo_run)
    with pytest.raises(UserError, match=r"0001\.h5: is chunk 1 of capture rodent-a, not chunk 0; name all chunks in"):
        cameras(demo_run.capture, [second, first], tmp_path, Cameras())
    with pytest.raises(UserError, match=r"0000\.h5: is of capture rodent-a, not of rodent-b"):
        cameras(replace(demo_run.capture, name="rodent-b"), [first, second], tmp_path, Cameras())
    turned = replace(demo_run.capture, cameras=demo_run.capture.cameras[::-1])
    with pytest.raises(UserError, match=r"0000\.h5: has cameras 1, 2, .*, but the captures table has 6, 5, .* again"):
        cameras(turned, [first, second], tmp_path, Cameras())


def test_true_masks_are_graded_good_and_there_is_no_picture_of_worst_frames(demo_run):
    rows = report(demo_run.folder)
    for row in rows.values():
        graded = row["silhouettes"]
        assert graded["grade"] == "good" and graded["reasons"] == []
        assert 0.9 < graded["hull_iou"] < graded["reachable_hull_iou"] < 1
        assert graded["edge_contrast"] > 10 and abs(graded["edge_offset_px"]) < 1.5
    assert not (demo_run.folder / "worst.png").exists()
