"""What is written in a format is read back, and what the format cannot hold is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.geometry.camera import Camera, pad_distortion
from mousefacelift.rigs.registry import FORMATS, read_rig, write_rig
from support.rigfiles import FIXTURES
from support.rigs import PLAIN, assert_same_rig

lengths = st.floats(-2000, 2000, allow_subnormal=False)
coefficients = st.floats(-3, 3, allow_subnormal=False)
names = st.text(st.characters(codec="utf-8", categories=["L", "N"], include_characters="-_."), min_size=1, max_size=12)


@st.composite
def cameras(draw, skew, count, fisheye, unknown_size=False):
    """Rigs of 2 to 4 cameras that a format with these abilities can hold."""
    rig_names = draw(st.lists(names.filter(lambda n: set(n) != {"."}), min_size=2, max_size=4, unique=True))
    made = []
    for i, name in enumerate(rig_names):
        is_fisheye = fisheye and draw(st.booleans()) if fisheye != "all or none" else False
        fx, cx, cy = draw(st.floats(200, 4000)), draw(st.floats(300, 900)), draw(st.floats(300, 700))
        K = np.array([[fx, draw(coefficients) if skew else 0, cx], [0, fx * draw(st.floats(0.8, 1.2)), cy], [0, 0, 1]])
        dist = pad_distortion(draw(arrays(float, 4, elements=coefficients)), True) if is_fisheye else np.zeros(14)
        if not is_fisheye and count:
            dist[:count] = draw(arrays(float, count, elements=coefficients))
        R = Rotation.from_rotvec(draw(arrays(float, 3, elements=st.floats(-3, 3, allow_subnormal=False)))).as_matrix()
        center = draw(arrays(float, 3, elements=lengths)) + [5000 * i, 0, 0]
        size = (0, 0) if unknown_size and draw(st.booleans()) else (1152 + i, 1024)
        made.append(Camera(name, *size, K, dist, R, -R @ center, is_fisheye))
    return tuple(made)


ABILITIES = {fixture.format: fixture.writes for fixture in FIXTURES.values() if fixture.writes is not None}


@pytest.mark.parametrize("format", ABILITIES)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path, format, data):
    written = data.draw(cameras(**ABILITIES[format]))
    path = tmp_path / "rig"
    write_rig(written, path, format)
    for how in (format, "auto"):
        assert_same_rig(read_rig(path, how), written)
    assert not list(tmp_path.glob(".*"))


def test_every_writer_is_tried():
    assert set(ABILITIES) == {name for name, each in FORMATS.items() if each.write}


def changed(**changes):
    return (replace(PLAIN[0], **changes), *PLAIN[1:])


SKEWED = changed(K=PLAIN[0].K + [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
FISHEYE = changed(fisheye=True, dist=pad_distortion([0.1, 0, 0, 0], True))
UNKNOWN_SIZE = changed(width=0, height=0)


@pytest.mark.parametrize(
    ("format", "cameras", "message"),
    [
        *((format, SKEWED, "has skew") for format in ("anipose", "colmap", "transforms", "facelift")),
        *(
            (format, UNKNOWN_SIZE, "image size is unknown")
            for format in ("anipose", "colmap", "transforms", "facelift")
        ),
        ("anipose", changed(dist=np.eye(14)[5]), "more than Anipose's 5"),
        ("colmap", changed(dist=np.eye(14)[8]), "thin-prism or tilt"),
        ("transforms", changed(dist=np.eye(14)[7]), "coefficients after k3"),
        ("facelift", changed(dist=np.eye(14)[0]), "has lens distortion"),
        ("facelift", FISHEYE, "has lens distortion"),
        ("transforms", FISHEYE, "mixes fisheye and others"),
        ("colmap", changed(name="a/b"), "cannot be the name of an image file"),
        ("dannce", PLAIN, "format 'dannce' cannot be written; these can: opencv-json"),
        ("vicon", PLAIN, "format 'vicon' cannot be written"),
        ("opencv-json", PLAIN[:1] * 2, "several cameras are named cam_1"),
        ("opencv-json", (), "no cameras in it"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_not_dropped(tmp_path, format, cameras, message):
    with pytest.raises(UserError, match=f"{tmp_path / 'out'}: .*{message}"):
        write_rig(cameras, tmp_path / "out", format)
    assert not list(tmp_path.iterdir())
