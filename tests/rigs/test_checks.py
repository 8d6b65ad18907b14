"""Implausible cameras and rigs are named."""

from dataclasses import replace

import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.rigs.checks import check_lengths, check_rig, checked_camera, optical_axes_meet
from support.rigs import CORNER, PLAIN, SIZE

GOOD = {"K": PLAIN[0].K, "R": PLAIN[0].R, "t": PLAIN[0].t, "first_pixel": 0.5, "size": SIZE}
MIRROR = np.diag([1.0, 1, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": GOOD["K"].T}, r"K is not an intrinsic matrix .*other way round \(transposed\)"),
        ({"K": GOOD["R"]}, "K is not an intrinsic matrix"),
        ({"K": 2 * GOOD["K"]}, "K is not an intrinsic matrix"),
        ({"K": GOOD["K"] * [[-1], [1], [1]]}, "focal lengths -.* must be positive"),
        ({"K": GOOD["K"] * [[1], [0.3], [1]]}, "no camera's pixels are so oblong"),
        ({"K": GOOD["K"] + 4000 * CORNER}, r"principal point at \(.*far outside the 1152x1024 px image"),
        ({"R": GOOD["R"] * 1.01}, r"R is not a rotation matrix \(\|R R' - 1\| = 0\.02"),
        ({"R": np.zeros((3, 3))}, "R is not a rotation matrix"),
        ({"R": GOOD["R"] @ MIRROR}, r"R is mirrored \(det -1\)"),
        ({"R": GOOD["R"] * np.nan}, "NaN or infinity"),
        ({"t": np.zeros(2)}, "wrong shape"),
        ({"dist": [1, 2, 3]}, "distortion: expected .* found 3"),
        ({"dist": [np.inf]}, "distortion holds NaN or infinity"),
        ({"dist": [1, 2, 3, 4, 5], "fisheye": True}, "distortion: expected 0 or 4 fisheye"),
    ],
)
def test_each_implausible_camera_has_its_own_message(changes, message):
    checked_camera("x", "a", **GOOD)
    with pytest.raises(UserError, match=f"(?s)^file, camera 'a': .*{message}"):
        checked_camera("file, camera 'a'", "a", **{**GOOD, **changes})


@pytest.mark.parametrize("name", ["", "  ", "a\nb", None, 3])
def test_cameras_have_readable_names(name):
    with pytest.raises(UserError, match="name must be readable text"):
        checked_camera("x", name, **GOOD)


def test_a_rig_must_fit_into_a_room():
    check_lengths(PLAIN, "x")
    for factor, hint in ((1e-3, r"larger \(m, not mm\) fits"), (1e3, r"smaller \(mm, not m\) fits")):
        with pytest.raises(UserError, match=f"^x: translation: .*unit off by 1000.*{hint}"):
            check_lengths(tuple(replace(c, t=c.t * factor) for c in PLAIN), "x")


def test_the_frames_of_a_moving_camera_are_no_rig():
    with pytest.raises(UserError, match="501 cameras, at most 500: are these the frames of a moving camera"):
        check_rig(tuple(replace(PLAIN[0], name=str(i), t=PLAIN[0].t + i) for i in range(501)), "x")


def test_cameras_at_one_pose_are_named_and_the_silhouettes_will_tell_which_is_wrong(capsys):
    check_rig((*PLAIN, replace(PLAIN[0], name="copy")), "x")
    assert "warning: x: cameras 'cam_1' and 'copy' have the same pose" in capsys.readouterr().err


def test_optical_axes_of_a_ring_meet_in_front_of_all_and_parallel_ones_nowhere():
    depths = optical_axes_meet(PLAIN)
    np.testing.assert_allclose(depths, [np.linalg.norm(c.center) for c in PLAIN], rtol=0.1)
    half_turn = replace(PLAIN[0], R=np.diag([-1, 1, -1]) @ PLAIN[0].R, t=np.diag([-1, 1, -1]) @ PLAIN[0].t)
    assert (optical_axes_meet((half_turn, *PLAIN[1:])) > 0).tolist() == [False, True, True, True]
    assert np.isnan(optical_axes_meet((PLAIN[0], replace(PLAIN[0], t=PLAIN[0].t + 50)))).all()
