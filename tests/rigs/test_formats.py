"""Every calibration format: its transposes, its pixel origin, and what is particular to it."""

import json
import pickle
import re
import shutil
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
import scipy.io

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import write_json
from mousefacelift.geometry.camera import pad_distortion, project
from mousefacelift.rigs.formats.opencv_json import rig_from_json, rig_to_json
from mousefacelift.rigs.registry import read_rig
from support import rigfiles
from support.rigfiles import FIXTURES
from support.rigs import CORNER, assert_same_rig, expected, rig

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")


# --- Every format, its transposes and its pixel origin ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["auto", "named"])
@pytest.mark.parametrize("name", FIXTURES)
def test_every_format_gives_the_rig_it_was_made_from(tmp_path, name, how):
    fixture = FIXTURES[name]
    truths = fixture.truths()
    source = fixture.write(tmp_path, truths)
    found = read_rig(source, "auto" if how == "auto" else fixture.format)
    assert_same_rig(found, [expected(truth, fixture.size) for truth in truths])


def test_the_expected_camera_is_opencvs_with_half_a_pixel_added():
    (truth, *_) = rig(skew=False)
    world = np.random.default_rng(0).uniform(-40, 40, (50, 3))
    zero_based, _ = cv2.projectPoints(world, cv2.Rodrigues(truth.R)[0], truth.t, truth.K, truth.dist)
    np.testing.assert_allclose(project(world, expected(truth))[0], zero_based[:, 0] + 0.5, atol=1e-8)


def test_the_fixtures_would_show_any_flipped_convention():
    # Transposes and half pixels must each move some number by far more than the tolerance.
    for truth in rig():
        assert np.abs(truth.R - truth.R.T).max() > 0.1
        assert abs(truth.K[0, 1]) > 1
        assert len({*np.abs(truth.dist)}) == 5


@pytest.mark.parametrize(
    "name", [name for name, fixture in FIXTURES.items() if fixture.format not in ("colmap", "easymocap")]
)
def test_content_decides_not_the_extension(tmp_path, name):
    fixture = FIXTURES[name]
    truths = fixture.truths()
    source = fixture.write(tmp_path, truths)
    paths = source if isinstance(source, dict) else {"": source}
    moved = {camera: shutil.move(path, tmp_path / f"{i}.bin") for i, (camera, path) in enumerate(paths.items())}
    found = read_rig(moved if isinstance(source, dict) else moved[""])
    assert_same_rig(found, [expected(truth, fixture.size) for truth in truths])


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("cm", 10), ("m", 1000)])
def test_lengths_become_millimetres_and_nothing_else_changes(tmp_path, unit, mm):
    truths = rig()
    in_unit = [replace(truth, t=truth.t / mm) for truth in truths]
    assert_same_rig(read_rig(rigfiles.anipose(tmp_path, in_unit), unit=unit), [expected(truth) for truth in truths])


def test_a_folder_of_one_file_per_camera_is_read_in_natural_order(tmp_path):
    truths = rig()
    rigfiles.dannce(tmp_path, truths)
    (tmp_path / "notes.txt").write_text("calibrated on Tuesday")
    assert [c.name for c in read_rig(tmp_path)] == ["cam_1", "cam_2", "cam_3", "cam_10"]
    (tmp_path / "cam_2_params.mat").write_bytes(b"")
    with pytest.raises(UserError, match=r"cam_2_params\.mat: the file is empty"):
        read_rig(tmp_path)


def test_a_folder_with_several_formats_or_none_is_not_guessed(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no calibration in this folder.*anipose: TOML"):
        read_rig(tmp_path / "empty")
    rigfiles.anipose(tmp_path, rig())
    rigfiles.jarvis(tmp_path, rig())
    with pytest.raises(UserError, match=r"several formats .*anipose: calibration\.toml; jarvis: cam_1\.yaml"):
        read_rig(tmp_path)
    assert len(read_rig(tmp_path, "jarvis")) == 4


def test_unknown_content_lists_what_was_looked_for(tmp_path):
    (tmp_path / "a.json").write_text('{"hello": 1}')
    with pytest.raises(
        UserError, match=r"a\.json: this JSON is no known calibration format.*transforms: JSON with frames"
    ):
        read_rig(tmp_path / "a.json")
    frame = {"w2c": np.eye(4).tolist(), "transform_matrix": np.eye(4).tolist()}
    (tmp_path / "b.json").write_text(json.dumps({"frames": [frame]}))
    with pytest.raises(UserError, match=r"b\.json: this JSON could be transforms or facelift: state the format"):
        read_rig(tmp_path / "b.json")


def test_a_format_is_not_forced_upon_another_container(tmp_path):
    source = rigfiles.anipose(tmp_path, rig())
    with pytest.raises(UserError, match=r"calibration\.toml: the file looks like TOML; expected MATLAB"):
        read_rig(source, "dannce")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "vicon"}, "format 'vicon' is not one of auto, opencv-json, dannce"),
        ({"unit": "inch"}, "unit 'inch' is not one of mm, cm, m"),
        ({"pixel_origin": "corner"}, "format anipose has no option 'pixel_origin'"),
    ],
)
def test_unknown_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(UserError, match=f"capture x: .*calibration.toml: {message}"):
        read_rig(rigfiles.anipose(tmp_path, rig()), where="capture x", **arguments)


def test_one_file_per_camera_must_hold_one_camera(tmp_path):
    shared = rigfiles.anipose(tmp_path, rig())
    (tmp_path / "other").mkdir()
    other = rigfiles.anipose(tmp_path / "other", rig())
    assert len(read_rig({"1": shared, "2": shared})) == 4, "the same file for every camera is one file"
    with pytest.raises(UserError, match=r"camera 1: .*holds 4 cameras \(cam_1, cam_2, cam_10, cam_3\)"):
        read_rig({"1": shared, "2": other})
    with pytest.raises(UserError, match="no calibration file"):
        read_rig({})


def test_a_camera_that_looks_away_from_the_others_is_named(tmp_path, capsys):
    truths = rig()
    read_rig(rigfiles.multicam_json(tmp_path, truths))
    assert capsys.readouterr().err == ""
    turn = np.diag([-1.0, 1, -1])
    truths[1] = replace(truths[1], R=turn @ truths[1].R, t=turn @ truths[1].t)
    read_rig(rigfiles.multicam_json(tmp_path, truths))
    assert "the optical axes do not meet in front of camera cam_2: is a rotation transposed" in capsys.readouterr().err


# --- DANNCE, Label3D, Rat7M ------------------------------------------------------------------------------------------


def test_dannces_pinhole_part_is_a_row_vector_model_in_one_based_pixels(tmp_path):
    (truth, *_) = rig(dist=False)
    content = rigfiles.dannce_table(truth)
    (camera,) = read_rig(rigfiles.dannce(tmp_path, [truth]))
    world = np.random.default_rng(1).uniform(-40, 40, (20, 3))
    homogeneous = np.c_[world, np.ones(20)] @ np.vstack([content["r"], content["t"]]) @ content["K"]
    np.testing.assert_allclose(project(world, camera)[0], homogeneous[:, :2] / homogeneous[:, 2:] - 0.5, atol=1e-9)


def test_two_radial_coefficients_mean_no_k3_and_vectors_may_stand(tmp_path):
    (truth, *_) = rig()
    table = rigfiles.dannce_table(truth)
    table |= {"RDistort": table["RDistort"][:, :2].T, "TDistort": np.zeros((2, 1), np.uint8), "t": table["t"].T}
    scipy.io.savemat(tmp_path / "a.mat", table)
    (camera,) = read_rig(tmp_path / "a.mat")
    np.testing.assert_array_equal(camera.dist, pad_distortion([*truth.dist[:2], 0, 0, 0]))
    np.testing.assert_array_equal(camera.t, truth.t)


def test_a_set_of_mat_files_goes_by_the_given_names(tmp_path):
    truths = rig()
    files = list(rigfiles.dannce(tmp_path, truths).values())
    assert [c.name for c in read_rig(dict(zip("EARS", files, strict=True)))] == ["E", "A", "R", "S"]


def test_label3d_without_names_counts_cameras_from_one(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"params": rigfiles.cell([rigfiles.dannce_table(t) for t in rig()])})
    assert [c.name for c in read_rig(tmp_path / "a.mat")] == ["Camera1", "Camera2", "Camera3", "Camera4"]
    scipy.io.savemat(
        tmp_path / "b.mat",
        {"params": rigfiles.cell([rigfiles.dannce_table(t) for t in rig()]), "camnames": rigfiles.cell(["a", "b"])},
    )
    with pytest.raises(UserError, match=r"b\.mat: field 'camnames' has 2 names for 4 cameras"):
        read_rig(tmp_path / "b.mat")


def test_big_endian_and_uncompressed_matlab_files_are_read(tmp_path):
    (truth, *_) = rig()
    path = tmp_path / "big.mat"
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    parts = [header]
    for name, value in rigfiles.dannce_table(truth).items():

        def element(kind, data):
            return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

        body = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", *value.shape))
        body += element(1, name.encode()) + element(9, value.astype(">f8").tobytes("F"))
        parts.append(element(14, body))
    path.write_bytes(b"".join(parts))
    assert_same_rig(read_rig(path), [expected(replace(truth, name="big"), size=False)])


# --- MAMMAL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0, 0, 0), (60, -45, 30)])
@pytest.mark.parametrize(
    "options", [{}, {"as_dict": True, "column": True}, {"protocol": 2}, {"protocol": 5}, {"protocol": 0}]
)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_mammals_file_itself_tells_what_is_transposed(tmp_path, transposed, options, shift):
    truths = [replace(t, t=t.t - t.R @ np.array(shift)) for t in FIXTURES["mammal"].truths()]
    source = rigfiles.mammal(tmp_path, truths, *transposed, **options)
    assert_same_rig(read_rig(source), [expected(truth, size=False) for truth in truths])


def test_mammals_rotations_that_fit_either_way_are_not_guessed(tmp_path):
    truths = FIXTURES["mammal"].truths()[:1]
    with pytest.raises(UserError, match=r"new_cam\.pkl: R: neither .* clearly make the optical axes meet"):
        read_rig(rigfiles.mammal(tmp_path, truths))


def test_mammals_undistortion_maps_tell_the_image_size(tmp_path):
    truths = FIXTURES["mammal"].truths()
    maps = np.zeros((1024, 1152), np.float32)
    tables = [{"K": t.K, "R": t.R, "T": t.t, "mapx": maps, "mapy": maps} for t in truths]
    (tmp_path / "new_cam.pkl").write_bytes(pickle.dumps(tables))
    assert {(c.width, c.height) for c in read_rig(tmp_path / "new_cam.pkl")} == {(1152, 1024)}


def test_pickles_of_old_numpy_are_read(tmp_path):
    tables = [{"K": t.K, "R": t.R, "T": t.t, "id": np.int64(3)} for t in FIXTURES["mammal"].truths()]
    data = pickle.dumps(tables, 2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "new_cam.pkl").write_bytes(data)
    assert len(read_rig(tmp_path / "new_cam.pkl")) == 4


# --- multicam, Anipose, EasyMocap ------------------------------------------------------------------------------------


def test_pose_splatters_file_without_names_or_lenses_counts_from_zero(tmp_path):
    import h5py

    path = rigfiles.multicam_h5(tmp_path, rig())
    with h5py.File(path, "r+") as file:
        del file["camera_parameters/camera_names"], file["camera_parameters/dist_coefs"]
        t = file["camera_parameters/translation"][()]
        del file["camera_parameters/translation"]
        file["camera_parameters/translation"] = t[..., None]
        file["video"] = np.zeros(200_000, np.uint8)
    found = read_rig(path)
    assert [c.name for c in found] == ["0", "1", "2", "3"]
    assert not any(c.dist.any() for c in found)
    np.testing.assert_array_equal(found[2].t, rig()[2].t)


def test_aniposes_sections_are_cameras_by_name_in_natural_order(tmp_path):
    truths = rig([f"view{i}" for i in range(12)])
    source = rigfiles.anipose(tmp_path, truths)
    sections = source.read_text().split("\n\n")
    source.write_text("\n\n".join(sorted(sections)))  # as text cam_10 comes before cam_2
    assert_same_rig(read_rig(source), [expected(truth) for truth in truths])


def test_aniposes_fisheye_flag_counts_only_with_fisheye_coefficients(tmp_path, capsys):
    truths = rig(skew=False)
    source = rigfiles.anipose(tmp_path, truths)
    text = source.read_text()
    source.write_text(text.replace("size =", "fisheye = true\nsize ="))
    assert not any(c.fisheye for c in read_rig(source))
    assert "section [cam_0]: fisheye = true, but distortions holds the 5 coefficients" in capsys.readouterr().err
    four = re.sub(r"distortions = .*", "distortions = [0.1, 0.2, 0.3, 0.4]", text)
    source.write_text(four.replace("size =", "fisheye = true\nsize ="))
    found = read_rig(source)
    assert all(c.fisheye for c in found)
    np.testing.assert_array_equal(found[0].dist[:5], [0.1, 0.2, 0.3, 0.4, 0])
    source.write_text(four)
    assert not any(c.fisheye for c in read_rig(source))
    source.write_text(re.sub(r"distortions = .*", "distortions = [0.1, 0.2]\nfisheye = true", text))
    with pytest.raises(UserError, match=r"section \[cam_0\]: distortions: expected 0 or 4 fisheye"):
        read_rig(source)


def test_easymocaps_two_files_are_intersected(tmp_path, capsys):
    truths = rig()
    source = rigfiles.easymocap(tmp_path, truths[:3], truths[1:])
    assert_same_rig(read_rig(source), [expected(truth) for truth in truths[1:3]])
    assert "only one of intri.yml and extri.yml lists them: cam_1, cam_3" in capsys.readouterr().err
    assert len(read_rig(source / "extri.yml")) == 2, "either file stands for both"
    rigfiles.easymocap(tmp_path, truths[:2], truths[2:])
    with pytest.raises(UserError, match="no camera in both"):
        read_rig(source)
    (source / "extri.yml").unlink()
    with pytest.raises(UserError, match=r"no extri\.yml in this folder"):
        read_rig(source, "easymocap")


def test_easymocaps_vector_and_matrix_must_agree(tmp_path):
    truths = rig()
    source = rigfiles.easymocap(tmp_path, truths)
    text = (source / "extri.yml").read_text()
    (source / "extri.yml").write_text(
        text.replace("R_cam_1:", "R_x:", 1).replace("R_cam_2:", "R_cam_1:", 1).replace("R_x:", "R_cam_2:", 1)
    )
    with pytest.raises(UserError, match=r"extri\.yml, camera 'cam_1': R_cam_1 and Rot_cam_1 are different rotations"):
        read_rig(source)


def test_easymocaps_zeros_before_a_name_are_part_of_it(tmp_path):
    names = ["01", "02", "1e3"]
    source = rigfiles.easymocap(tmp_path, rig(names))
    text = (source / "intri.yml").read_text()
    (source / "intri.yml").write_text(text.replace('"01"', "01").replace('"1e3"', "1e3"))
    assert [c.name for c in read_rig(source)] == names


def test_storage_files_may_list_their_cameras_or_nest_them(tmp_path):
    truths = rig(dist=False)
    texts = [f"K: {t.K.tolist()}, R: {t.R.tolist()}, T: {t.t.tolist()}" for t in truths]
    wanted = [expected(truth, size=False) for truth in truths]
    for text in (
        "cameras:\n" + "".join(f"- {{name: {t.name}, {text}}}\n" for t, text in zip(truths, texts, strict=True)),
        "cameras:\n" + "".join(f"  {t.name}: {{{text}}}\n" for t, text in zip(truths, texts, strict=True)),
        "".join(f"{t.name}: {{{text}}}\n" for t, text in zip(truths, texts, strict=True)),
    ):
        (tmp_path / "rig.yaml").write_text(text)
        assert_same_rig(read_rig(tmp_path / "rig.yaml"), wanted)


@pytest.mark.parametrize("extension", ["yml", "xml"])
def test_storage_fields_that_hold_the_same_thing_must_agree(tmp_path, extension):
    (truth, *_) = rig()
    # OpenCV 5 writes these vectors as opencv-nd-matrix.
    table = rigfiles.storage_table(truth) | {"rvec": rigfiles.rotation_vector(truth.R), "tc_ext": truth.t}
    path = rigfiles.storage(tmp_path / f"cam_1.{extension}", table)
    assert_same_rig(read_rig(path), [expected(truth)])
    rigfiles.storage(path, table | {"rvec": np.array([0.1, 0.2, 0.3])})
    with pytest.raises(UserError, match=r"cam_1\.\w+, camera 'cam_1': fields 'R' and 'rvec' differ"):
        read_rig(path)


# --- COLMAP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "parameters", "dist", "fisheye"),
    [
        ("SIMPLE_PINHOLE", "1500 580 510", [], False),
        ("PINHOLE", "1500 1500 580 510", [], False),
        ("SIMPLE_RADIAL", "1500 580 510 .1", [0.1], False),
        ("RADIAL", "1500 580 510 .1 .2", [0.1, 0.2], False),
        ("OPENCV", "1500 1500 580 510 .1 .2 .3 .4", [0.1, 0.2, 0.3, 0.4], False),
        ("FULL_OPENCV", "1500 1500 580 510 .1 .2 .3 .4 .5 .6 .7 .8", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], False),
        ("OPENCV_FISHEYE", "1500 1500 580 510 .1 .2 .3 .4", [0.1, 0.2, 0.3, 0.4], True),
    ],
)
def test_colmaps_models(tmp_path, model, parameters, dist, fisheye):
    source = rigfiles.colmap_text(tmp_path, rig(skew=False))
    (source / "cameras.txt").write_text("\n".join(f"{i} {model} 1152 1024 {parameters}" for i in range(1, 5)))
    for camera in read_rig(source):
        np.testing.assert_array_equal(camera.K, [[1500, 0, 580], [0, 1500, 510], [0, 0, 1]])
        np.testing.assert_array_equal(camera.dist, pad_distortion(dist, fisheye))
        assert camera.fisheye is fisheye
    (source / "cameras.txt").write_text("\n".join(f"{i} {model} 1152 1024 {parameters} 7" for i in range(1, 5)))
    with pytest.raises(UserError, match=rf"cameras\.txt, line 1: {model} has .* parameters"):
        read_rig(source)


def test_colmaps_frames_of_a_fixed_camera_are_one_camera(tmp_path):
    truths = rig(skew=False)
    source = rigfiles.colmap_text(tmp_path, truths, points=False)
    lines = [line for line in (source / "images.txt").read_text().splitlines() if "png" in line]
    for layout, names in (
        ("{name}/{frame:04d}.png", ["cam_1", "cam_2", "cam_10", "cam_3"]),
        ("{frame:04d}_{name}.png", list("1234")),
    ):
        frames = []
        for line in lines:
            fields = line.split()
            name = fields[9].removesuffix(".png")
            frames += [" ".join([*fields[:9], layout.format(name=name, frame=frame)]) + "\n1 2 3" for frame in range(3)]
        (source / "images.txt").write_text("\n".join(frames))
        assert [c.name for c in read_rig(source)] == names


def test_colmaps_images_of_one_moving_camera_are_cameras_of_their_own(tmp_path):
    truths = rig(skew=False)
    source = rigfiles.colmap_text(tmp_path, truths)
    images = (source / "images.txt").read_text()
    (source / "images.txt").write_text(re.sub(r"\d (\S+\.png)", r"1 \1", images))
    found = read_rig(source)
    assert [c.name for c in found] == [t.name for t in truths]
    np.testing.assert_array_equal(found[3].K, expected(truths[0]).K)


def test_colmaps_missing_point_lines_do_not_swallow_cameras(tmp_path):
    source = rigfiles.colmap_text(tmp_path, rig(skew=False))
    lines = [line for line in (source / "images.txt").read_text().splitlines() if "png" in line]
    (source / "images.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"images\.txt, line 2: expected the image's POINTS2D"):
        read_rig(source)


# --- transforms.json, FaceLift ---------------------------------------------------------------------------------------


def test_the_pixel_origin_of_transforms_is_an_option(tmp_path):
    truths = rig(skew=False)
    source = rigfiles.transforms(tmp_path, truths)
    corner, center = read_rig(source), read_rig(source, pixel_origin="center")
    assert_same_rig(corner, read_rig(source, pixel_origin="corner"))
    for a, b in zip(corner, center, strict=True):
        np.testing.assert_allclose(b.K - a.K, CORNER, atol=1e-12)
    with pytest.raises(UserError, match="option pixel_origin is 'middle', not one of corner, center"):
        read_rig(source, pixel_origin="middle")


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_transforms_may_keep_intrinsics_once_and_focal_length_as_an_angle(tmp_path):
    truths = rig(skew=False)

    def change(content):
        for frame in content["frames"]:
            for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "p1", "p2"):
                frame.pop(key)
        content.update(w=1152, h=1024, camera_angle_x=0.7)

    source = edited(rigfiles.transforms(tmp_path, truths), change)
    focal = 576 / np.tan(0.35)
    for option in ("corner", "center"):  # the middle of the image is no matter of the pixels' origin
        for camera in read_rig(source, pixel_origin=option):
            np.testing.assert_allclose(camera.K, [[focal, 0, 576], [0, focal, 512], [0, 0, 1]])
            assert not camera.dist.any()


def test_transforms_lenses_that_opencv_lacks_are_refused(tmp_path):
    source = rigfiles.transforms(tmp_path, rig(skew=False))
    edited(source, lambda content: content["frames"][0].update(k4=0.1))
    with pytest.raises(UserError, match=r"frames\[0\] \('cam_1'\): field 'k4'"):
        read_rig(source)
    edited(source, lambda content: content.update(camera_model="EQUIRECTANGULAR"))
    with pytest.raises(UserError, match="camera_model 'EQUIRECTANGULAR' is not one of OPENCV"):
        read_rig(source)

    def fisheye(content):
        content.update(camera_model="OPENCV_FISHEYE")
        for frame in content["frames"]:
            frame.update(p1=0, p2=0, k1=1, k2=2, k3=3, k4=4)

    found = read_rig(edited(source, fisheye))
    assert all(c.fisheye for c in found)
    np.testing.assert_array_equal(found[0].dist[:5], [1, 2, 3, 4, 0])


def test_facelifts_cameras_are_named_after_images_or_blenders_cameras(tmp_path):
    def change(content):
        for i, frame in enumerate(content["frames"]):
            del frame["file_path"]
            frame["blender_camera_name"] = f"lrm_cam.{i:03d}"

    source = rigfiles.facelift(tmp_path, rig(skew=False))
    assert [c.name for c in read_rig(edited(source, change))] == [
        "lrm_cam.000",
        "lrm_cam.001",
        "lrm_cam.002",
        "lrm_cam.003",
    ]
    edited(
        source, lambda content: [frame.update(file_path=f"cam{i}/000.png") for i, frame in enumerate(content["frames"])]
    )
    assert [c.name for c in read_rig(source)] == ["cam0", "cam1", "cam2", "cam3"]
    edited(source, lambda content: content["frames"][1].update(w2c=np.transpose(content["frames"][1]["w2c"]).tolist()))
    with pytest.raises(UserError, match=r"frames\[1\] \('cam1'\): field 'w2c' has the last row .*it is transposed"):
        read_rig(source)


# --- opencv-json -----------------------------------------------------------------------------------------------------


def test_a_rig_survives_its_json_bit_for_bit(tmp_path):
    cameras = tuple(expected(truth) for truth in rig())
    cameras += (
        replace(cameras[0], name="fish", fisheye=True, dist=pad_distortion([1, 2, 3, 4], True), t=cameras[0].t + 50),
    )
    cameras += (replace(cameras[1], name="wide", dist=np.arange(14) / 100, width=0, height=0, t=cameras[0].t + 90),)
    write_json(tmp_path / "rig.json", rig_to_json(cameras))
    assert_same_rig(rig_from_json(tmp_path / "rig.json"), cameras, atol=0)
    assert_same_rig(read_rig(tmp_path / "rig.json"), cameras, atol=0)


@pytest.mark.parametrize(
    ("convention", "extra", "shift"),
    [
        ("first pixel's centre at (0.5, 0.5)", {}, 0),
        ("OpenCV; pixel centre of first pixel=(0,0)", {}, 0.5),
        ("anything", {"first_pixel_center": [0, 0]}, 0.5),
        ("first pixel's centre at (0.5, 0.5)", {"first_pixel_center": [1, 1]}, -0.5),
        ("OpenCV", {}, None),
        ("first pixel's centre at (0, 0.5)", {}, None),
        ("OpenGL axes; first pixel's centre at (0, 0)", {}, None),
        ("", {"first_pixel_center": [0.25, 0.25]}, None),
    ],
)
def test_the_pixel_origin_of_json_rigs_is_read_and_never_guessed(tmp_path, convention, extra, shift):
    truths = rig()
    source = rigfiles.opencv_json(tmp_path, truths)
    edited(source, lambda content: content.update(convention=convention, **extra))
    if shift is None:
        with pytest.raises(
            UserError, match=r"rig\.opencv\.json: (does not say where the first pixel's centre|field 'convention')"
        ):
            read_rig(source)
    else:
        np.testing.assert_allclose(read_rig(source)[0].K[:2, 2], truths[0].K[:2, 2] + shift, atol=1e-12)


def without(key):
    content = rig_to_json((expected(rig()[0]),))
    del content["cameras"][0][key]
    return content


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"cameras": 3},
        {"cameras": [1]},
        without("K"),
        without("name"),
        {**without("t"), "cameras": [{"t": "x"}]},
    ],
)
def test_a_file_that_is_no_rig_is_named(tmp_path, content):
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{path}: not a rig .*run `mousefacelift cameras` again"):
        rig_from_json(path)
