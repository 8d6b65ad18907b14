"""What is measured of two data sets' cameras is right, and judged by the stated tolerances."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mousefacelift.comparison.measure import compare, measure
from mousefacelift.comparison.page import as_json, markdown
from mousefacelift.comparison.sets import read_cameras
from mousefacelift.geometry.subject_size import silhouette_size
from support.balls import AZIMUTHS, ELEVATIONS, ball
from support.camerasets import (
    BASE,
    REFERENCE,
    SHOWN,
    cameras,
    differing,
    example,
    ring,
    rolled,
    turned,
    verdicts,
)


# The research log's own numbers, from its own rig.
def test_the_research_logs_numbers_come_out():
    rig = read_cameras(example("dannce_markerless_mouse_1.opencv.json"))
    found = measure(rig)
    assert found.distance[0].round(3).tolist() == [2.005, 3.377, 2.963, 2.770, 2.594, 2.491]
    assert found.elevation[0].round(1).tolist() == [14.9, 20.6, 11.3, 10.7, 26.5, 30.8]
    about_y = np.degrees(np.arcsin(rig.c2w[0, :, 1, 3] / found.distance[0]))
    assert about_y.round(1).tolist() == [-31.7, 31.5, 78.1, -11.1, 31.7, -50.6], (
        "the log's elevations, about a wrong axis"
    )
    rows = {row.quantity: row for row in compare(rig, REFERENCE).rows}
    assert rows["camera distance: std"].texts == ("0.4224", "0.0000")
    assert rows["camera distance: mean"].texts == ("2.7000", "2.7000")
    assert rows["elevation: mean (range)"].texts[1] == "20.0° (20.0° to 20.0°)"
    assert rows["elevation: mean (range)"].verdict == "match"
    assert found.up[0, :, 2].min().round(2) == 0.93
    assert found.up[0, :, 2].max().round(2) == 1.0


def test_the_logs_up_is_the_unit_mean_of_the_cameras_up_vectors():
    # The log wrote [0, 0.015, 1]; its 0.86 degrees are asin(0.015).
    rig = read_cameras(example("dannce_markerless_mouse_1.opencv.json"))
    (row,) = (row for row in compare(rig, REFERENCE).rows if row.quantity == "up: mean of the cameras' up vectors")
    assert row.texts[0] == "[-0.006, 0.015, 1.000]"
    mean = np.mean([-R[:, 1] for R in rig.c2w[0, :, :3, :3]], axis=0)
    np.testing.assert_allclose(row.values[0], mean / np.linalg.norm(mean), atol=1e-12)
    assert mean[2].round(2) == 0.98, "the mean itself, not made unit length, does not give the log's 1"


def test_the_reference_is_what_was_measured_on_facelifts_training_data():
    found = measure(REFERENCE)
    assert REFERENCE.c2w.shape == (1, 32, 4, 4)
    np.testing.assert_allclose(found.distance, 2.7)
    np.testing.assert_allclose(found.elevation, 20.0)
    np.testing.assert_allclose(found.roll, 0, atol=1e-9)
    np.testing.assert_allclose(found.focal, 548.9937744, atol=1e-7)
    about_y = np.degrees(np.arcsin(REFERENCE.c2w[0, :, 1, 3] / 2.7))
    np.testing.assert_allclose([about_y.min(), about_y.max()], [-70, 70], atol=1e-9)


def test_a_data_set_matches_itself_in_everything():
    comparison = compare(REFERENCE, REFERENCE)
    assert {row.verdict for row in comparison.rows if row.quantity not in SHOWN} == {"match"}
    assert comparison.summary == ("A and B match in all 17 quantities.",)


def test_distance_azimuth_and_elevation_are_those_the_cameras_were_put_at():
    found = measure(cameras(ring(distance=3.1)))
    np.testing.assert_allclose(found.azimuth[0], np.rad2deg(AZIMUTHS))
    np.testing.assert_allclose(found.elevation[0], np.rad2deg(ELEVATIONS))
    np.testing.assert_allclose(found.distance, 3.1)


@pytest.mark.parametrize("angle", [-75, -8, 3, 90, 170])
def test_a_rolled_camera_is_found_with_its_roll(angle):
    level = cameras(ring())
    found = measure(rolled(level, -angle, view=2))
    np.testing.assert_allclose(found.roll[0], [0, 0, angle, 0, 0, 0], atol=1e-9)
    summary = " ".join(compare(level, rolled(level, -angle, view=2)).summary)
    assert "B's cameras are not level" in summary and "`normalize` does" in summary


def test_roll_is_how_far_the_images_right_side_is_raised():
    data = rolled(cameras(ring()), -10)
    right = data.c2w[0, :, :3, 0]
    lifted = np.degrees(np.arcsin(right[:, 2] / np.cos(ELEVATIONS)))
    np.testing.assert_allclose(measure(data).roll[0], lifted)
    assert (right[:, 2] > 0).all()


def test_level_cameras_have_a_level_horizon_however_they_are_spread_and_pitched():
    data = cameras(ring(np.deg2rad([0, 20, 50, 170]), np.deg2rad([10, 60, 30, 5])))
    np.testing.assert_allclose(measure(data).horizon, [0, 0, 1], atol=1e-12)
    mean = measure(data).up.mean(axis=(0, 1))
    assert np.degrees(np.arctan2(np.hypot(*mean[:2]), mean[2])) > 5, "the mean of the up vectors is not up"


@pytest.mark.parametrize("angle", [0.6, 4, 40])
def test_a_leaning_world_is_found_with_its_angle(angle):
    lean = Rotation.from_rotvec(np.deg2rad(angle) * np.array([0.6, 0.8, 0]))
    upright = cameras(ring(elevations=np.full(6, 0.3)))
    row = {r.quantity: r for r in compare(upright, turned(upright, lean)).rows}
    tilt, plane = row["tilt of the cameras' common horizon"], row["that plane's normal: angle to up"]
    assert tilt.values[1][0] == pytest.approx(angle)
    assert plane.values[1][0] == pytest.approx(angle)
    assert tilt.verdict == "differ"


def test_a_world_that_is_y_up_is_named():
    upright = cameras(ring())
    comparison = compare(turned(upright, Rotation.from_euler("x", -90, degrees=True)), upright)
    assert "A's world does not seem to have the up axis that is named" in " ".join(comparison.summary)


def test_cameras_off_a_plane_are_measured_by_their_rms_distance_from_it():
    up_and_down = np.deg2rad([20.0, -20, 20, -20, 20, -20])
    data = cameras(ring(np.deg2rad(np.arange(6) * 60.0), up_and_down))
    height = 2.7 * np.sin(np.deg2rad(20))
    assert measure(data).flatness[0] == pytest.approx(height / 2.7, abs=0.02)
    centers = data.c2w[0, :, :3, 3] - data.c2w[0, :, :3, 3].mean(axis=0)
    assert measure(data).flatness[0] == pytest.approx(np.linalg.svd(centers)[1][-1] / np.sqrt(6) / 2.7)
    assert measure(cameras(ring(elevations=np.full(6, 0.4)))).flatness[0] < 1e-6


def test_a_camera_straight_above_has_no_azimuth_and_no_roll():
    above = np.diag([1.0, -1, -1, 1])
    above[2, 3] = 2.7
    data = cameras([[*ring()[0], above]])
    found = measure(data)
    assert np.isnan([found.azimuth[0, 6], found.roll[0, 6]]).all()
    assert found.elevation[0, 6] == pytest.approx(90)
    comparison = compare(data, data)
    assert {row.verdict for row in comparison.rows if row.quantity not in SHOWN} == {"match"}, "the others are judged"
    assert json.loads(json.dumps(as_json(comparison), allow_nan=False))["a"]["cameras"][6]["roll"] is None
    assert "| – |" in markdown(comparison)


def test_a_turn_about_up_changes_azimuths_which_are_shown_and_not_judged():
    data = cameras(ring())
    for angle in (5, 30, 170):
        rows = compare(data, turned(data, Rotation.from_euler("z", angle, degrees=True))).rows
        (azimuth,) = (row for row in rows if row.quantity == "azimuth: range")
        assert azimuth.texts[0] != azimuth.texts[1]
        assert (azimuth.verdict, azimuth.tolerance) == ("", "not compared")
        assert {row.verdict for row in rows if row.quantity not in SHOWN} == {"match"}


def changed(data, **changes):
    return replace(data, **{name: change(getattr(data, name).copy()) for name, change in changes.items()})


def scaled_pose(factor):
    def change(c2w):
        c2w[..., :3, 3] *= factor
        return c2w

    return change


def other_ring(azimuths=AZIMUTHS, elevations=ELEVATIONS):
    return cameras(ring(azimuths, elevations))


UNEVEN = np.array([1, -1] * 3)[:, None]

BASES = {  # where BASE's own value is in the way
    "angle of that": cameras(ring(elevations=np.zeros(6))),
    "cameras off": cameras(ring(elevations=np.zeros(6))),
    "that plane": cameras(ring(elevations=np.full(6, 0.3))),
}

NUDGES = {
    # quantity, as its row begins: the base changed by x times the tolerance
    "focal length": lambda x: changed(BASE, fxfycxcy=lambda f: f * [1 + 0.01 * x, 1 + 0.01 * x, 1, 1]),
    "focal length / image width": lambda x: changed(BASE, size=lambda s: s * (1 - 0.01 * x)),
    "principal point from centre": lambda x: changed(BASE, fxfycxcy=lambda f: f + [0, 0, 1.0 * x, 0]),
    "subject: share": lambda x: changed(BASE, silhouettes=lambda s: s * [1 - 0.75 * x, 1]),
    "subject: size": lambda x: changed(BASE, silhouettes=lambda s: s * [(1 - 0.5 * x) ** 2, 1]),
    "camera distance: mean": lambda x: changed(BASE, c2w=scaled_pose(1 + 0.01 * x)),
    "camera distance: std": lambda x: changed(BASE, c2w=scaled_pose(1 + 0.1 / 2.7 * x * UNEVEN)),
    "up: mean": lambda x: turned(BASE, Rotation.from_euler("x", np.rad2deg(0.1) * x, degrees=True)),
    "angle of that": lambda x: turned(BASES["angle of that"], Rotation.from_euler("x", 6 * x, degrees=True)),
    "tilt of": lambda x: turned(BASE, Rotation.from_euler("x", 0.5 * x, degrees=True)),
    "roll": lambda x: rolled(BASE, 1.0 * x, view=3),
    "elevation": lambda x: other_ring(elevations=ELEVATIONS + np.deg2rad(15 * x)),
    "azimuth: widest": lambda x: other_ring(AZIMUTHS[0] + np.linspace(0, np.deg2rad(300 - 80 * x), 6)),
    "cameras off": lambda x: other_ring(elevations=np.arcsin(np.array([1, -1, 0, 1, -1, 0]) * 0.05 * x * np.sqrt(1.5))),
    "that plane": lambda x: turned(BASES["that plane"], Rotation.from_euler("x", 5 * x, degrees=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUDGES)
def test_each_verdict_flips_at_its_stated_tolerance(name):
    base = BASES.get(name, BASE)
    for factor, expected in ((0.9, "match"), (1.1, "differ")):
        found = {n: v for n, v in verdicts(base, NUDGES[name](factor)).items() if n.startswith(name)}
        assert set(found.values()) == {expected}, (factor, found)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("views", cameras([ring()[0][:5]])),
        ("image size", replace(BASE, size=np.full((1, 6, 2), 511.0))),
        ("image size", replace(BASE, size=np.concatenate([BASE.size[:, :3], BASE.size[:, 3:] + 1], axis=1))),
    ],
)
def test_counts_and_sizes_must_be_equal(name, other):
    assert name in differing(BASE, other)
    assert name not in differing(other, other)


def test_a_mouse_a_metre_away_is_named_as_too_small_with_what_helps():
    """33 px of 512 wide, as FaceLift's focal length shows a mouse from a metre: the world's scale and the picture differ."""
    far = cameras(ring(), share=0.002, width=33 / 512)
    comparison = compare(far, REFERENCE)
    of = {row.quantity: row for row in comparison.rows}
    share, width = (
        of["subject: share of the image's area, mean"],
        of["subject: width of its silhouette / image width, mean (range)"],
    )
    assert share.texts == ("0.2 %", "32.6 %") and share.verdict == "differ"
    assert width.texts == ("6.4 % (6.4 to 6.4)", "–") and width.verdict == ""
    assert of["subject: size in the world (disc of its area), mean"].texts == ("0.13", "1.62")
    summary = " ".join(comparison.summary)
    for part in ("normalize.distance: canonical", "normalize.zoom: fit", "`snakemake poc`", "B's subjects are larger"):
        assert part in summary


def test_a_ball_has_the_size_in_the_world_that_it_was_given():
    alpha = ball(ring()[0][0], (549.0, 549.0, 256.0, 256.0), 512, np.zeros(3), 0.4)[None, ..., 3]
    share, width = silhouette_size(alpha)[0]
    data = cameras([ring()[0][:2]], share=share)
    # A ball's outline is a little wider than its equator: the rays that touch it do so in front of its centre.
    outline = 0.8 / np.sqrt(1 - (0.4 / 2.7) ** 2)
    np.testing.assert_allclose(measure(data).diameter, outline, rtol=2e-3)
    assert width == pytest.approx(outline / 2.7 * 549 / 512, rel=5e-3)
    assert silhouette_size(np.zeros((1, 8, 8), np.uint8)).tolist() == [[0, 0]]


def test_a_number_that_is_not_known_is_neither_a_match_nor_a_difference():
    unknown = replace(BASE, size=np.zeros((1, 6, 2)))
    comparison = compare(BASE, unknown)
    of = {row.quantity: row for row in comparison.rows}
    assert of["image size, px"].verdict == "unknown"
    assert of["image size, px"].texts == ("512x512", "?")
    assert comparison.summary[:2] == (
        "A and B match in the other 13 quantities.",
        "Not known of both: image size, px; focal length / image width; "
        "principal point from centre, px: mean x, mean y (largest); subject: size in the world (disc of its area), mean.",
    )
