import json
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from scipy.spatial.transform import Rotation

from mousefacelift.calibration import read_dannce, read_rig, rig_from_json, rig_to_json
from mousefacelift.errors import UserError
from mousefacelift.files import write_json
from mousefacelift.geometry import Camera, project
from rodent import demo_capture, ground_truth

EXAMPLES = Path(__file__).parents[2] / "shared" / "calibrations"
SIZES = np.array([[1152, 1024]] * 6)

# A camera in which no two numbers are equal, and what DANNCE's file of it holds: MATLAB's row-vector model.
K = np.array([[1500.0, -5.8, 600.0], [0, 1510.0, 490.0], [0, 0, 1]])  # first pixel's centre at (0, 0)
R = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
T = np.array([10.0, -20.0, 300.0])
K1, K2, K3, P1, P2 = -0.16, 0.94, -2.7, 0.001, -0.004


def dannce(**changes):
    one_based = K + [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    content = {"K": one_based.T, "r": R.T, "t": T[None], "RDistort": [[K1, K2, K3]], "TDistort": [[P1, P2]]}
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def save(path, **changes):
    scipy.io.savemat(path, dannce(**changes))
    return path


def points():
    """World points before the camera above, up to 15 degrees off its axis."""
    in_camera = np.random.default_rng(1).uniform([-50, -50, 250], [50, 50, 400], (20, 3))
    return (in_camera - T) @ R


def one_camera(path, unit="mm"):
    return replace(demo_capture(), cameras=("1",), calibration=(path,), unit=unit)


def test_the_demos_files_give_the_ground_truths_cameras():
    truth = ground_truth()
    rig = read_rig(demo_capture(), SIZES)
    for v, camera in enumerate(rig):
        assert (camera.name, camera.width, camera.height) == (str(v + 1), 1152, 1024)
        np.testing.assert_allclose(camera.K, truth["K"][v] + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], atol=1e-9)
        np.testing.assert_allclose(camera.R, truth["R"][v], atol=1e-9)
        np.testing.assert_allclose(camera.t, truth["t"][v], atol=1e-9)
        np.testing.assert_allclose(camera.dist, [*truth["dist"][v], *[0] * 9], atol=1e-9)


def test_the_pinhole_part_is_dannces_row_vector_model(tmp_path):
    # [x y z 1] [r; t] K in 1-based pixels: transposes, skew and origin must all be right for this to hold.
    content = dannce(RDistort=[[0.0, 0, 0]], TDistort=[[0.0, 0]])
    scipy.io.savemat(tmp_path / "a.mat", content)
    (camera,) = read_rig(one_camera(tmp_path / "a.mat"), SIZES[:1])
    homogeneous = np.c_[points(), np.ones(20)] @ np.vstack([content["r"], content["t"]]) @ content["K"]
    one_based = homogeneous[:, :2] / homogeneous[:, 2:]
    np.testing.assert_allclose(project(points(), camera)[0], one_based - 0.5, atol=1e-9)


def test_the_lens_is_opencvs_with_radial_before_tangential_and_k3_last(tmp_path):
    no_skew = K * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
    path = save(tmp_path / "a.mat", K=(no_skew + [[0, 0, 1], [0, 0, 1], [0, 0, 0]]).T)
    (camera,) = read_rig(one_camera(path), SIZES[:1])
    zero_based, _ = cv2.projectPoints(points(), cv2.Rodrigues(R)[0], T, no_skew, np.array([K1, K2, P1, P2, K3]))
    np.testing.assert_allclose(project(points(), camera)[0], zero_based[:, 0] + 0.5, atol=1e-8)


def test_each_part_of_the_file_is_converted_once(tmp_path):
    intrinsics, dist, rotation, translation = read_dannce(save(tmp_path / "a.mat"), "x")
    np.testing.assert_allclose(intrinsics, [[1500, -5.8, 600.5], [0, 1510, 490.5], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(dist, [K1, K2, P1, P2, K3, *[0] * 9])
    np.testing.assert_allclose(rotation, R)
    np.testing.assert_allclose(translation, T)


def test_two_radial_coefficients_mean_no_k3_and_vectors_may_lie_or_stand(tmp_path):
    path = save(tmp_path / "a.mat", RDistort=[[K1], [K2]], TDistort=[[P1], [P2]], t=T[:, None])
    _, dist, _, translation = read_dannce(path, "x")
    np.testing.assert_allclose(dist, [K1, K2, P1, P2, *[0] * 10])
    np.testing.assert_allclose(translation, T)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("cm", 10), ("m", 1000)])
def test_lengths_become_millimetres_and_nothing_else_changes(tmp_path, unit, mm):
    path = save(tmp_path / "a.mat")
    (camera,) = read_rig(one_camera(path, unit), SIZES[:1])
    np.testing.assert_allclose(camera.t, T * mm)
    np.testing.assert_allclose(camera.center, -R.T @ T * mm)
    np.testing.assert_allclose(camera.R, R)
    assert camera.K[0, 0] == 1500


def test_files_go_to_cameras_by_name(tmp_path):
    # cam10 sorts before cam2 as text; each must keep its own calibration.
    from mousefacelift.captures import read_captures

    for name, x in (("2", 2.0), ("10", 10.0)):
        save(tmp_path / f"cam{name}.mat", t=np.array([[x, 0, 300]]))
    (tmp_path / "captures.tsv").write_text(
        "capture\tvideos\tmasks\tcalibration\nd\tcam{camera}.mat\tcam{camera}.mat\tcam{camera}.mat\n"
    )
    rig = read_rig(read_captures(tmp_path / "captures.tsv")["d"], SIZES[:2])
    assert [(c.name, c.t[0]) for c in rig] == [("2", 2.0), ("10", 10.0)]


MIRROR = np.diag([1.0, 1, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: None}, f"no field '{name}' \\(found ") for name in ("K", "r", "t", "RDistort", "TDistort")),
        ({"K": K[:2]}, r"field 'K' has shape \(2, 3\), expected \(3, 3\)"),
        ({"r": Rotation.from_matrix(R).as_rotvec()}, r"field 'r' has shape \(1, 3\), expected \(3, 3\)"),
        ({"t": [[1.0, 2]]}, r"field 't' has shape \(1, 2\), expected \(3,\)"),
        ({"TDistort": [[1.0, 2, 3]]}, r"field 'TDistort' has shape \(1, 3\), expected \(2,\)"),
        ({"RDistort": [[1.0]]}, "RDistort holds 1 coefficients; 2 or 3 expected"),
        ({"RDistort": [[1.0, 2, 3, 4]]}, "RDistort holds 4 coefficients"),
        ({"t": [[1.0, np.nan, 3]]}, "field 't' holds NaN or infinity"),
        ({"K": dannce()["K"] * [[np.inf, 1, 1]] * 3}, "field 'K' holds NaN or infinity"),
        ({"t": "far"}, "field 't' "),
        ({"r": np.array([[{"a": 1}]], object)}, "field 'r' is not a numeric array"),
        ({"K": dannce()["K"].T}, "K is not a transposed intrinsic matrix"),
        ({"K": dannce()["K"] * 2}, "K is not a transposed intrinsic matrix"),
        ({"K": dannce()["K"] * np.array([[-1.0], [1], [1]])}, "K is not a transposed intrinsic matrix"),
        ({"r": R.T * 1.01}, "r is not a rotation matrix"),
        ({"r": R.T @ MIRROR}, "r is not a rotation matrix .*det -1"),
        ({"K": dannce()["K"] * [[1.0], [1], [2]] / [1, 1, 2]}, r"principal point \(1201\.5, 981\.5\) lies outside the 1152x1024"),
    ],
)  # fmt: skip
def test_damage_is_named_with_capture_camera_file_and_field(tmp_path, changes, message):
    path = save(tmp_path / "cam1.mat", **changes)
    with pytest.raises(UserError, match=f"^capture rodent-a, camera 1: {path}: {message}"):
        read_rig(one_camera(path), SIZES[:1])


def test_what_is_no_matlab_file_is_named(tmp_path):
    whole = save(tmp_path / "whole.mat").read_bytes()
    newer = tmp_path / "v73.mat"
    with h5py.File(newer, "w") as file:
        file["K"] = K
    contents = {"empty": b"", "text": b"K = 1\n" * 50, "cut": whole[: len(whole) // 2], "zeros": bytes(500)}
    for name, content in contents.items():
        (tmp_path / f"{name}.mat").write_bytes(content)
    for name in (*contents, "v73"):
        with pytest.raises(UserError, match=rf"camera 1: .*{name}\.mat: (not a readable MATLAB file|no field)"):
            read_rig(one_camera(tmp_path / f"{name}.mat"), SIZES[:1])
    with pytest.raises(UserError, match=r"camera 1: .*absent\.mat: no such file"):
        read_rig(one_camera(tmp_path / "absent.mat"), SIZES[:1])


def test_a_rig_survives_its_json_bit_for_bit(tmp_path):
    rig = read_rig(demo_capture(), SIZES)
    write_json(tmp_path / "rig.json", rig_to_json(rig))
    for camera, again in zip(rig, rig_from_json(tmp_path / "rig.json"), strict=True):
        assert (camera.name, camera.width, camera.height) == (again.name, again.width, again.height)
        for field in ("K", "dist", "R", "t"):
            np.testing.assert_array_equal(getattr(camera, field), getattr(again, field))


def without(key):
    content = rig_to_json((Camera("a", 4, 4, K, np.zeros(8), R, T),))
    del content["cameras"][0][key]
    return content


@pytest.mark.parametrize(
    "content",
    [[], {}, {"cameras": 3}, {"cameras": [1]}, without("K"), without("name"), {"cameras": [{**without("t")["cameras"][0], "t": "x"}]}],
)  # fmt: skip
def test_a_file_that_is_no_rig_is_named(tmp_path, content):
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{path}: not a rig"):
        rig_from_json(path)


def test_a_real_six_camera_rig_agrees_with_its_published_opencv_form():
    source = EXAMPLES / "dannce_markerless_mouse_1.opencv.json"
    if not source.exists():
        pytest.skip("the example calibrations beside the repository (../shared/calibrations) are missing")
    expected = json.loads(source.read_text())["cameras"]
    paths = [EXAMPLES / f"markerless_mouse_1_hires_cam{v}_params.mat" for v in range(1, 7)]
    rig = read_rig(replace(demo_capture(), calibration=tuple(paths)), SIZES)
    assert abs(rig[0].K[0, 1]) > 5, "this camera's skew is what makes it worth reading"
    for camera in rig:
        truth = expected[f"Camera{camera.name}"]
        np.testing.assert_allclose(camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], truth["K"], atol=1e-9)
        np.testing.assert_allclose(camera.dist, [*truth["dist_k1k2p1p2k3"], *[0] * 9], atol=1e-12)
        np.testing.assert_allclose(camera.R, truth["R"], atol=1e-9)
        np.testing.assert_allclose(camera.t, truth["t"], atol=1e-9)
        np.testing.assert_allclose(camera.center, truth["C"], atol=1e-6)
