"""World up from synthetic floors and rigs, and from the demo capture in worlds turned at random."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.config.normalize import UP_AXES as AXES
from mousefacelift.geometry.camera import Camera
from mousefacelift.geometry.up import angle_deg, axis_vector, choose_up, up_from_cameras, up_from_floor
from mousefacelift.geometry.views import look_at
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from support.budget import ALL, some

Z = np.array([0.0, 0, 1])


def rig(turn=np.eye(3), roll_deg=0.0, count=6, seed=0, elevation_deg=(5, 45)):
    """Cameras around the origin that look at it, each rolled by a normally distributed angle, in a world turned by `turn`."""
    random = np.random.default_rng(seed)
    cameras = []
    for k in range(count):
        azimuth, elevation = 2 * np.pi * k / count, np.radians(random.uniform(*elevation_deg))
        center = 300 * np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])  # fmt: skip
        roll = Rotation.from_rotvec([0, 0, np.radians(roll_deg) * random.normal()]).as_matrix()
        R = roll @ look_at(center, np.zeros(3)) @ turn.T
        cameras.append(Camera(str(k), 640, 480, np.eye(3), np.zeros(14), R, -R @ turn @ center))
    return tuple(cameras)


def walk(turn=np.eye(3), frames=80, noise=0.2, below=0.02, extent=120.0, lifted=0.5, seed=0):
    """thin_mm of an animal that walks on the plane z = 0 of a world turned by `turn`: points of its tail, 1 mm thick.

    A share `lifted` of the points is up to 20 mm above the floor, a share `below` up to 10 mm under it: phantoms.
    """
    random = np.random.default_rng(seed)
    places = np.cumsum(random.normal(0, extent / 8, (frames, 2)), axis=0) % extent
    points = np.concatenate([places[:, None] + random.uniform(-40, 40, (frames, 64, 2)), np.full((frames, 64, 1), 1.0)], axis=2)  # fmt: skip
    kind = random.uniform(size=(frames, 64))
    points[..., 2] += np.where(kind < lifted, random.uniform(0, 20, kind.shape), random.normal(0, noise, kind.shape))
    points[..., 2] -= np.where(kind > 1 - below, random.uniform(0, 10, kind.shape), 0)
    # A voxel's centre lies by its depth above the hull's lower side; on one side of the arena they happen to lie deeper.
    depth = np.tanh(points[..., :1] / 60)
    points[..., 2:] += depth - 1
    thin = np.concatenate([points @ turn.T, depth], axis=2)
    thin[::7, 40:] = np.nan
    return thin.astype(np.float32)


@given(st.integers(0, 10_000))
def test_level_cameras_tell_up_exactly_whatever_their_pitch(seed):
    turn = Rotation.random(random_state=seed).as_matrix()
    found = up_from_cameras(rig(turn, seed=seed))
    assert angle_deg(found.up, turn @ Z) < 1e-5
    assert found.uncertainty_deg == pytest.approx(2), "a rig may lean as a whole"


def test_the_uncertainty_of_level_cameras_is_the_spread_of_what_they_say(monkeypatch):
    monkeypatch.setattr("mousefacelift.geometry.up.LEAN_DEG", 0.0)
    found = [up_from_cameras(rig(roll_deg=3, seed=seed, count=8)) for seed in range(200)]
    spread = np.sqrt(np.mean([angle_deg(c.up, Z) ** 2 for c in found]) / 2)
    assert np.sqrt(np.mean([c.uncertainty_deg**2 for c in found])) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize(("count", "reason"), [(2, "two cameras"), (1, "two cameras")])
def test_too_few_cameras_tell_nothing(count, reason):
    with pytest.raises(ValueError, match=reason):
        up_from_cameras(rig(count=count))


def test_cameras_side_by_side_tell_nothing():
    one = rig()[0]
    with pytest.raises(ValueError, match="nearly parallel"):
        up_from_cameras((one, replace(one, t=one.t + [30, 0, 0]), replace(one, t=one.t + [60, 0, 0])))


@pytest.mark.parametrize("seed", range(8))
def test_the_floor_is_found_below_a_lifted_tail_and_above_phantoms(seed):
    turn = Rotation.random(random_state=seed).as_matrix()
    off = Rotation.from_rotvec(np.radians(20) * turn[:, seed % 2]).as_matrix() @ turn @ Z
    found = up_from_floor(walk(turn, seed=seed), off)
    assert angle_deg(found.up, turn @ Z) < 0.25
    assert 0.25 < found.uncertainty_deg < 1, "posture may differ with the place"


def test_the_uncertainty_of_the_floor_is_the_spread_of_what_walks_say(monkeypatch):
    monkeypatch.setattr("mousefacelift.geometry.up.BIAS_MM", 0.0)
    found = [up_from_floor(walk(seed=seed, frames=40, noise=1.0), Z) for seed in range(60)]
    spread = np.sqrt(np.mean([angle_deg(c.up, Z) ** 2 for c in found]) / 2)
    assert np.sqrt(np.mean([c.uncertainty_deg**2 for c in found])) == pytest.approx(spread, rel=0.5)


def test_a_tail_that_is_hardly_seen_shows_no_floor():
    with pytest.raises(ValueError, match="seen too seldom"):
        up_from_floor(walk()[:1], Z)
    with pytest.raises(ValueError, match="seen too seldom"):
        up_from_floor(np.full((50, 64, 4), np.nan, np.float32), Z)


def test_a_mouse_on_a_line_shows_no_floor():
    thin = walk()
    thin[..., 1] *= 0.05
    with pytest.raises(ValueError, match="do not span a plane"):
        up_from_floor(thin, Z)


def test_an_animal_that_climbs_all_over_shows_no_floor():
    random = np.random.default_rng(0)
    thin = random.uniform(-80, 80, (60, 64, 4)).astype(np.float32)
    for frame in thin:  # in every frame another plane and place
        frame[:, :3] = frame[:, :3] * [1, 1, 0.02] @ Rotation.random(random_state=random.integers(1000)).as_matrix().T
        frame[:, :3] += random.uniform(-80, 80, 3)
    with pytest.raises(ValueError, match="does not show one floor"):
        up_from_floor(thin, Z)


@pytest.mark.parametrize("axis", AXES)
def test_auto_takes_the_axis_of_the_calibration_that_agrees_with_the_floor_exactly(axis):
    spin = Rotation.from_rotvec(0.7 * axis_vector(axis)).as_matrix()
    turn = spin @ Rotation.align_vectors([axis_vector(axis)], [Z])[0].as_matrix()
    choice = choose_up("auto", "+z", rig(turn, roll_deg=4), walk(turn))
    assert choice.method == "calibration"
    assert choice.up.tolist() == axis_vector(axis).tolist()


def test_auto_takes_the_floor_where_no_axis_agrees_and_says_how_far_the_others_are():
    turn = Rotation.from_rotvec([0.3, 0.4, 0]).as_matrix()  # by 28.6 degrees
    choice = choose_up("auto", "+z", rig(turn, roll_deg=5), walk(turn))
    assert choice.method == "floor"
    assert angle_deg(choice.up, turn @ Z) < 0.3
    angles = {c.method: angle_deg(c.up, choice.up) for c in choice.candidates}
    assert angles["axis"] == pytest.approx(28.6, abs=0.5)
    assert not any("axis" in text for text in choice.warnings()), "nobody said that an axis is up"
    axis = next(c for c in choice.candidates if c.method == "axis")
    floor = next(c for c in choice.candidates if c.method == "floor")
    assert choice.confidence(axis) < 1e-6 < 0.99 < choice.confidence(floor)


def test_auto_without_a_floor_takes_the_axis_near_the_cameras_else_the_cameras():
    none = np.full((5, 64, 4), np.nan)
    near = Rotation.from_rotvec([0.1, 0, 0]).as_matrix()  # by 5.7 degrees, within three uncertainties of 2
    assert choose_up("auto", "+z", rig(near), none).up.tolist() == [0, 0, 1]
    far = Rotation.from_rotvec([0.12, 0, 0]).as_matrix()  # by 6.9
    choice = choose_up("auto", "+z", rig(far), none)
    assert choice.method == "cameras"
    assert angle_deg(choice.up, far @ Z) < 1e-5
    assert "floor" in choice.missing


def test_three_cameras_do_not_show_a_floor():
    choice = choose_up("auto", None, rig(count=3), walk())
    assert "fewer than 4 cameras" in choice.missing["floor"]
    assert choice.up.tolist() == [0, 0, 1]


def test_a_mouse_that_stays_where_it_is_shows_no_floor(demo_run):
    with h5py.File(demo_run.folder / "subject.h5") as file:
        thin = file["thin_mm"][()]
    with pytest.raises(ValueError, match=r"do not span a plane \(they spread by [5-9] mm"):
        up_from_floor(thin[:7], Z)  # it rears
    assert angle_deg(up_from_floor(thin, Z).up, Z) < 0.5


def test_auto_with_nothing_to_go_by_takes_the_axis_of_the_settings():
    choice = choose_up("auto", "-y", rig(count=2), np.full((5, 64, 4), np.nan))
    assert choice.up.tolist() == [0, -1, 0]
    assert set(choice.missing) == {"floor", "cameras"}
    assert choice.confidence(choice.candidates[0]) == 0
    assert "nothing measured tells which way is up" in choice.warnings()[0]


@pytest.mark.parametrize("method", ["floor", "cameras"])
def test_a_method_that_cannot_tell_is_an_error_with_the_reason(method):
    with pytest.raises(UserError, match=rf"normalize\.up: {method}: .*use up: calibration"):
        choose_up(method, "+z", rig(count=2), np.full((5, 64, 4), np.nan))


def test_the_calibration_is_taken_at_its_word_and_warned_about():
    choice = choose_up("calibration", "+y", rig(roll_deg=2), walk())
    assert choice.up.tolist() == [0, 1, 0]
    assert len(choice.warnings()) == 2, "floor and cameras both say otherwise"
    right = choose_up("calibration", "+z", rig(roll_deg=2), walk())
    assert right.warnings() == []
    assert right.confidence(right.candidates[-1]) > 0.9


@pytest.mark.slow
def test_turned_worlds_come_out_as_the_unturned_one(tmp_path):
    """20 worlds and all frames of the demo in the gate, else 8 and every 4th: floor and auto find up within half a degree; with up given, the cameras are the same.

    `center` once; calibration, hulls and cameras anew in each world, up to a turn about Z.
    """
    from mousefacelift.config.cameras import Cameras
    from mousefacelift.config.center import Center
    from mousefacelift.config.normalize import Normalize
    from mousefacelift.stages.cameras import cameras
    from mousefacelift.stages.center import center
    from mousefacelift.stages.normalize import normalize
    from support.rodent import demo_capture, turned_capture

    chunk = tmp_path / "0000.h5"
    center(demo_capture(), 0, chunk, Center(stride=1 if ALL else 4), 2)

    def poses(folder, turn):
        # In this process: a few frames' hulls take less time than starting others.
        cameras(turned_capture(folder, turn), [chunk], folder, Cameras(), threads=1)
        paths = (folder / name for name in ("rig.json", "subject.h5", "cameras.h5", "world.json"))
        normalize(*paths, Normalize(up="calibration", up_axis=tuple(turn @ Z)))
        with h5py.File(folder / "cameras.h5") as file:
            return file["w2c"][()], file["world_from_mm"][()]

    (w2c, world_from_mm), mm = poses(tmp_path / "unturned", np.eye(3)), 0.0
    up, moved, angles = [], [], []
    for seed in some(range(20), 8):
        turn, folder = Rotation.random(random_state=seed).as_matrix(), tmp_path / str(seed)
        turned, from_mm = poses(folder, turn)
        with h5py.File(folder / "subject.h5") as file:
            thin = file["thin_mm"][()]
        rig = rig_from_json(folder / "rig.json")
        up.append([angle_deg(choose_up(method, "+z", rig, thin).up, turn @ Z) for method in ("floor", "auto")])
        about_z = from_mm[0, :3, :3] @ turn @ np.linalg.inv(world_from_mm[0, :3, :3])
        about_z /= np.cbrt(np.linalg.det(about_z))
        np.testing.assert_allclose(about_z @ Z, Z, atol=1e-9)
        mm = np.cbrt(np.linalg.det(world_from_mm[0, :3, :3]))
        one, other = (
            np.linalg.inv(m)[..., :3, 3]
            for m in (w2c @ np.block([[about_z.T, np.zeros((3, 1))], [0, 0, 0, 1]]), turned)
        )
        moved.append(np.linalg.norm(one - other, axis=-1) / mm)
        relative = turned[..., :3, :3] @ about_z @ np.swapaxes(w2c[..., :3, :3], -1, -2)
        angles.append(np.degrees(Rotation.from_matrix(relative.reshape(-1, 3, 3)).magnitude()))
    print(f"up, degrees at most: floor {np.max(up, axis=0)[0]:.2f}, auto {np.max(up, axis=0)[1]:.2f}")
    print(
        f"cameras: median {np.median(moved):.2f} mm, {np.median(angles):.3f} degrees; at most {np.max(moved):.2f} mm, {np.max(angles):.3f} degrees"
    )
    assert np.max(up) < 0.5
    assert np.max(moved) < 1
    assert np.max(angles) < 0.1
