"""Splat files hold what the model said, in the layout that viewers expect."""

import numpy as np
import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.models.gaussians import Gaussians
from mousefacelift.models.splats import PROPERTIES, read_ply, write_ply


@pytest.fixture
def gaussians():
    random = torch.Generator().manual_seed(0)
    shapes = {"xyz": (3,), "features": (1, 3), "scaling": (3,), "rotation": (4,), "opacity": (1,)}
    return Gaussians(**{name: torch.randn(2, 50, *shape, generator=random) for name, shape in shapes.items()})


def test_gaussians_survive_a_file(tmp_path, gaussians):
    path = tmp_path / "sample.ply"
    assert write_ply(path, gaussians, 1, min_opacity=None, crop=None) == 50
    columns = read_ply(path)

    def stacked(*names):
        return np.stack([columns[name] for name in names], -1)

    np.testing.assert_array_equal(stacked("x", "y", "z"), gaussians.xyz[1])
    np.testing.assert_array_equal(stacked("f_dc_0", "f_dc_1", "f_dc_2"), gaussians.features[1, :, 0])
    np.testing.assert_array_equal(columns["opacity"], gaussians.opacity[1, :, 0])
    np.testing.assert_array_equal(stacked("scale_0", "scale_1", "scale_2"), gaussians.scaling[1])
    np.testing.assert_array_equal(stacked("rot_0", "rot_1", "rot_2", "rot_3"), gaussians.rotation[1])
    assert not stacked("nx", "ny", "nz").any()


def test_faint_and_far_gaussians_are_dropped(tmp_path, gaussians):
    gaussians.opacity[0] = 2.0
    gaussians.opacity[0, :10] = -3.3  # an opacity of 0.036
    gaussians.xyz[0] = 0.9
    gaussians.xyz[0, 10:15, 2] = -0.92
    assert write_ply(tmp_path / "a.ply", gaussians, 0) == 35
    assert write_ply(tmp_path / "b.ply", gaussians, 0, crop=None) == 40
    assert (read_ply(tmp_path / "a.ply")["opacity"] == 2.0).all()


def test_the_header_is_what_viewers_parse(tmp_path, gaussians):
    write_ply(tmp_path / "a.ply", gaussians, 0, None, None)
    lines = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[0].decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 50"]
    assert lines[3:] == [f"property float {name}" for name in PROPERTIES] and len(PROPERTIES) == 17


def test_other_files_are_refused(tmp_path, gaussians):
    path = tmp_path / "a.ply"
    with pytest.raises(UserError, match="cannot be read"):
        read_ply(path)
    write_ply(path, gaussians, 0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="not a complete"):
        read_ply(path)
    path.write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(UserError, match="not a complete"):
        read_ply(path)
