"""Calibrations that real laboratories published."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.io

from mousefacelift.geometry.camera import project
from mousefacelift.rigs.registry import read_rig
from support.paths import SHARED
from support.rigs import CORNER, assert_same_rig

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")

EXAMPLES = SHARED / "calibrations"


def example(name):
    if not (EXAMPLES / name).exists():
        pytest.skip(f"the example calibrations beside the repository (../shared/calibrations/{name}) are missing")
    return EXAMPLES / name


def test_every_real_example_loads():
    files = sorted(path for path in EXAMPLES.glob("*") if path.suffix in (".json", ".mat"))
    if not files:
        pytest.skip("the example calibrations beside the repository (../shared/calibrations) are missing")
    for path in files:
        assert read_rig(path), path


def test_real_matlab_files_agree_with_their_published_opencv_form():
    published = read_rig(example("dannce_markerless_mouse_1.opencv.json"))
    content = json.loads(example("dannce_markerless_mouse_1.opencv.json").read_text())["cameras"]
    files = {f"Camera{v}": example(f"markerless_mouse_1_hires_cam{v}_params.mat") for v in range(1, 7)}
    found = read_rig(files)
    assert_same_rig(found, [replace(camera, width=0, height=0) for camera in published])
    assert abs(found[0].K[0, 1]) > 5, "this camera's skew is what makes it worth reading"
    for camera in found:
        truth = content[camera.name]
        np.testing.assert_allclose(camera.K - CORNER, truth["K"], atol=1e-9)
        np.testing.assert_allclose(camera.dist[:5], truth["dist_k1k2p1p2k3"], atol=1e-12)
        np.testing.assert_allclose(camera.center, truth["C"], atol=1e-6)


def test_real_labels_reproject_through_lens_and_skew():
    path = example("label3d_demo.mat")
    labels = scipy.io.loadmat(path)["labelData"].ravel()
    compared = 0
    for camera, entry in zip(read_rig(path), labels, strict=True):
        world = entry[0, 0]["data_3d"].reshape(-1, 3)
        one_based = entry[0, 0]["data_2d"].reshape(-1, 2)
        found = project(world, camera)[0] + 0.5
        labelled = np.isfinite(one_based).all(axis=1)
        np.testing.assert_allclose(found[labelled], one_based[labelled], rtol=0, atol=1e-6)
        compared += labelled.sum()
    assert compared > 1000


def test_a_real_rig_is_decided_as_mammals_whatever_is_transposed(tmp_path):
    published = read_rig(example("dannce_markerless_mouse_1.opencv.json"))
    for flip_K, flip_R in ((0, 0), (0, 1), (1, 0), (1, 1)):
        tables = [
            {"K": (c.K - CORNER).T if flip_K else c.K - CORNER, "R": c.R.T if flip_R else c.R, "T": c.t}
            for c in published
        ]
        (tmp_path / "new_cam.pkl").write_bytes(pickle.dumps(tables))
        for camera, truth in zip(read_rig(tmp_path / "new_cam.pkl"), published, strict=True):
            np.testing.assert_allclose(camera.K, truth.K, atol=1e-9)
            np.testing.assert_allclose(camera.R, truth.R, atol=1e-12)
