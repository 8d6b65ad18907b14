"""Time shifts found from tracks alone: random walks in synthetic cameras, and the demo capture's silhouettes."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from mousefacelift.artifacts.center import Flag
from mousefacelift.config.center import Center
from mousefacelift.geometry.camera import Camera, pad_distortion, project
from mousefacelift.geometry.synchrony import estimate_shifts, residual_over_time
from mousefacelift.geometry.views import look_at
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.stages.center import center

VIEWS = 6


def camera(k):
    azimuth = np.deg2rad(15 + 60 * k)
    center = 350 * np.array([np.cos(azimuth), np.sin(azimuth), 0.5])
    R = look_at(center, np.zeros(3))
    K = np.array([[900.0, 0, 576], [0, 900, 512], [0, 0, 1]])
    return Camera(str(k), 1152, 1024, K, pad_distortion([-0.1, 0.05, 1e-3, -1e-3, 0]), R, -R @ center)


RIG = tuple(camera(k) for k in range(VIEWS))


def walk(seed, frames, speed=2.0):
    """A mouse's path: function of time (frames) to mm [..., 3]; speed is the median in mm per frame."""
    random = np.random.default_rng(seed)
    times = np.arange(-40, frames + 40)
    path = np.cumsum(gaussian_filter1d(random.normal(size=(len(times), 3)), 6, axis=0), axis=0) * [1, 1, 0.2]
    path -= gaussian_filter1d(path, 60, axis=0)  # it stays in the arena
    path *= speed / max(np.median(np.linalg.norm(np.diff(path, axis=0), axis=1)), 1e-9)
    return CubicSpline(times, path)


def tracks(path, frame, shift=(0,) * VIEWS, rig=RIG, seed=0, noise=1.0, bias=5.0, missing=0.1):
    """Silhouettes' centres of a mouse on a path, as cameras see it that are late by `shift` frames (each number or [N])."""
    random = np.random.default_rng(1000 + seed)
    center = np.stack(
        [project(path(frame - s), c)[0] for s, c in zip(shift, rig, strict=True)], axis=1
    )  # fmt: skip
    center += random.normal(size=(VIEWS, 2)) * bias
    # A pose's own bias changes with the pose.
    center += gaussian_filter1d(random.normal(size=center.shape), 8, axis=0) * np.sqrt(16 * np.sqrt(np.pi)) * bias / 2
    center += random.normal(size=center.shape) * noise
    use = random.random(center.shape[:2]) > missing
    center[~use & (random.random(use.shape) < 0.5)] = np.nan  # not even measured
    return center, frame, rig, use


def late(view, frames):
    return [frames if k == view else 0 for k in range(VIEWS)]


def names(shifts):
    return [s.camera for s in shifts if s.significant]


@pytest.mark.parametrize("frames", [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 5])
def test_a_late_cameras_shift_is_found_and_it_alone_is_named(frames, stride):
    view = abs(frames) % VIEWS
    shifts = estimate_shifts(
        *tracks(walk(frames + 5, 2000), np.arange(0, 2000, stride), late(view, frames), seed=frames + 5)
    )
    assert shifts[view].shift_frames == pytest.approx(frames, abs=0.3 if stride == 1 else 1)
    assert names(shifts) == [str(view)]
    assert shifts[view].uncertainty_frames < 0.5
    assert shifts[view].residual_px_shifted < shifts[view].residual_px


def test_positive_means_that_the_camera_shows_in_a_later_frame_what_the_others_show_now():
    path, frame = walk(1, 600), np.arange(600)
    center, *others = tracks(path, frame, noise=0, bias=0, missing=0)
    center[:, 2] = np.roll(center[:, 2], 4, axis=0)  # frame k + 4 of camera 2 shows frame k of the others
    center[:4, 2] = np.nan
    shifts = estimate_shifts(center, *others)
    assert shifts[2].shift_frames == pytest.approx(4, abs=0.05)
    assert shifts[2].residual_px_shifted < 0.5 < 5 < shifts[2].residual_px


def test_fractions_of_a_frame_are_found():
    shifts = estimate_shifts(*tracks(walk(3, 2000), np.arange(2000), late(4, 1.4)))
    assert shifts[4].shift_frames == pytest.approx(1.4, abs=0.2)
    assert names(shifts) == ["4"]


def test_several_late_cameras_are_found():
    shifts = estimate_shifts(*tracks(walk(5, 2000), np.arange(2000), [0, 3, 0, 0, -6, 0]))
    assert names(shifts) == ["1", "4"]
    np.testing.assert_allclose([s.shift_frames for s in shifts], [0, 3, 0, 0, -6, 0], atol=0.3)


def test_three_cameras_are_enough_to_name_one_and_two_are_not():
    center, frame, rig, use = tracks(walk(6, 2000), np.arange(2000), late(1, 3))
    shifts = estimate_shifts(center[:, :3], frame, rig[:3], use[:, :3])
    assert names(shifts) == ["1"]
    assert shifts[1].shift_frames == pytest.approx(3, abs=0.3)
    assert np.isnan([s.shift_frames for s in estimate_shifts(center[:, :2], frame, rig[:2], use[:, :2])]).all()


@pytest.mark.parametrize("stride", [1, 5])
def test_synchronous_cameras_raise_no_alarm(stride):
    for seed in range(50):
        shifts = estimate_shifts(*tracks(walk(seed, 600), np.arange(0, 600, stride), seed=seed))
        assert names(shifts) == [], seed


@pytest.mark.parametrize("speed", [0, 0.01])
def test_a_still_mouse_tells_nothing(speed):
    for seed in range(10):
        shifts = estimate_shifts(*tracks(walk(seed, 600, speed), np.arange(600), late(2, 3), seed=seed))
        assert names(shifts) == []
        assert np.isnan([s.shift_frames for s in shifts]).all()
        assert np.isinf([s.uncertainty_frames for s in shifts]).all()


def test_too_few_and_too_sparse_frames_tell_nothing():
    for frame in (np.arange(15), np.arange(0, 2000, 60)):
        shifts = estimate_shifts(*tracks(walk(7, 2000), frame, late(2, 3)))
        assert names(shifts) == []
        assert np.isnan([s.shift_frames for s in shifts]).all()


def test_a_shift_beyond_the_range_is_unknown():
    shifts = estimate_shifts(*tracks(walk(8, 2000), np.arange(2000), late(3, 30)), max_shift_frames=10)
    assert names(shifts) == []
    assert np.isnan(shifts[3].shift_frames)


def test_a_camera_with_anothers_pose_is_not_taken_for_a_late_one():
    for view in range(VIEWS):
        other = RIG[(view + 2) % VIEWS]
        rig = tuple(replace(c, R=other.R, t=other.t) if k == view else c for k, c in enumerate(RIG))
        center, frame, _, use = tracks(walk(view, 1000), np.arange(1000), seed=view)
        shifts = estimate_shifts(center, frame, rig, use)
        assert names(shifts) == []
        assert shifts[view].residual_px_shifted > 50


def test_a_camera_that_sees_nothing_is_unknown_and_the_others_are_measured():
    center, frame, rig, use = tracks(walk(9, 2000), np.arange(2000), late(1, 2))
    use[:, 5] = False
    shifts = estimate_shifts(center, frame, rig, use)
    assert names(shifts) == ["1"]
    assert np.isnan(shifts[5].shift_frames) and np.isnan(shifts[5].residual_px)


@pytest.mark.parametrize("view", range(VIEWS))
def test_a_frame_lost_in_the_middle_is_a_drift_of_minus_one(view):
    frame = np.arange(3000)
    over_time = residual_over_time(
        *tracks(walk(view, 3000), frame, late(view, np.where(frame < 1400, 0, -1)), seed=view)
    )
    assert np.flatnonzero(over_time.drifts).tolist() == [view]
    np.testing.assert_allclose(over_time.drift_frames, late(view, -1), atol=0.35)


@pytest.mark.slow
def test_without_a_drift_none_is_named():
    for seed in range(20):
        assert not residual_over_time(*tracks(walk(seed, 1500), np.arange(1500), late(2, 3), seed=seed)).drifts.any()


def test_residuals_show_when_a_camera_was_bumped():
    center, frame, rig, use = tracks(walk(4, 1000), np.arange(1000))
    center[600:, 3] += [40, 0]
    over_time = residual_over_time(center, frame, rig, use, bins=5)
    assert over_time.residual_px.shape == (5, VIEWS)
    np.testing.assert_allclose(over_time.edge, [0, 200, 400, 600, 800, 1000])
    assert over_time.residual_px[:3, 3].max() < 20 < 30 < over_time.residual_px[3:, 3].min()
    assert not over_time.drifts.any()


@pytest.fixture(scope="module")
def demo(demo_run, tmp_path_factory):
    """Tracks of the whole demo capture's silhouettes, every frame: center_px, frame, rig, use."""
    path = tmp_path_factory.mktemp("synchrony") / "0000.h5"
    center(demo_run.capture, 0, path, Center(stride=1, chunk_frames=200), threads=2)
    with h5py.File(path) as file:
        use = (file["flags"][()] & (Flag.EMPTY | Flag.CLIPPED)) == 0
        return file["center_px"][()], file["frame"][()], rig_from_json(demo_run.folder / "rig.json"), use


@pytest.mark.slow
def test_the_demos_cameras_are_synchronous(demo):
    assert names(estimate_shifts(*demo)) == []
    assert not residual_over_time(*demo).drifts.any()


@pytest.mark.slow
@pytest.mark.parametrize("view", range(VIEWS))
def test_the_demos_delayed_camera_is_named(demo, view):
    centers, frame, rig, use = demo
    centers, use = centers.copy(), use.copy()
    centers[3:, view], use[3:, view] = demo[0][:-3, view], demo[3][:-3, view]
    use[:3, view] = False
    shifts = estimate_shifts(centers, frame, rig, use)
    assert names(shifts) == [rig[view].name]
    assert shifts[view].shift_frames == pytest.approx(3, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("view", range(VIEWS))
def test_the_demos_camera_with_anothers_pose_is_not_taken_for_a_late_one(demo, view):
    center, frame, rig, use = demo
    other = rig[(view + 2) % VIEWS]
    wrong = tuple(replace(c, R=other.R, t=other.t) if k == view else c for k, c in enumerate(rig))
    shifts = estimate_shifts(center, frame, wrong, use)
    assert names(shifts) == []
    assert shifts[view].residual_px_shifted > 50
