from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from mousefacelift.geometry.camera import (
    Camera,
    distort,
    field_radius,
    pad_distortion,
    pixel_rays,
    project,
    triangulate,
    undistort,
)
from mousefacelift.geometry.views import (
    azimuth_elevation,
    inverse_rigid,
    look_at,
    moved_to_mean_distance,
    rigid,
    rotation_between,
    view_map,
)

WIDTH, HEIGHT = 1152, 1024


def numbers(low, high):
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


def vectors(low, high, length=3):
    return st.tuples(*[numbers(low, high)] * length).map(np.array)


directions = vectors(-1, 1).filter(lambda v: np.linalg.norm(v) > 0.1).map(lambda v: v / np.linalg.norm(v))
rotations = vectors(-np.pi, np.pi).map(lambda v: Rotation.from_rotvec(v).as_matrix())
radial = st.tuples(numbers(-0.4, 0.4), numbers(-1, 1), numbers(-3, 3))
tangential = st.tuples(numbers(-2e-3, 2e-3), numbers(-2e-3, 2e-3))
rational = st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[numbers(-0.2, 0.2)] * 3))
prism = st.one_of(st.just((0.0,) * 4), st.tuples(*[numbers(-5e-3, 5e-3)] * 4))
tilt = st.one_of(st.just((0.0, 0.0)), st.tuples(*[numbers(-0.03, 0.03)] * 2))


@st.composite
def distortions(draw, with_tangential=True):
    k1, k2, k3 = draw(radial)
    if not with_tangential:
        return pad_distortion([k1, k2, 0, 0, k3, *draw(rational)])
    return np.array([k1, k2, *draw(tangential), k3, *draw(rational), *draw(prism), *draw(tilt)])


@st.composite
def fisheyes(draw):
    """Coefficients of a lens that maps a growing angle to a growing radius up to 75 degrees at least."""
    dist = pad_distortion(draw(st.tuples(*[numbers(-0.05, 0.05)] * 4)), fisheye=True)
    assume(field_radius(dist, fisheye=True) > np.tan(np.deg2rad(75)))
    return dist


@st.composite
def cameras(draw, skew=True):
    K = np.array(
        [
            [draw(numbers(400, 3000)), draw(numbers(-8, 8)) if skew else 0, draw(numbers(400, 700))],
            [0, draw(numbers(400, 3000)), draw(numbers(350, 650))],
            [0, 0, 1],
        ]
    )
    return Camera("c", WIDTH, HEIGHT, K, draw(distortions()), draw(rotations), draw(vectors(-500, 500)))


@st.composite
def points_before(draw, camera, count=5):
    """World points in front of a camera, inside its calibrated field and within 35 degrees of its axis."""
    limit = min(0.9 * field_radius(camera.dist), 0.7)
    polar = [(draw(numbers(0, limit)), draw(numbers(0, 6.3)), draw(numbers(50, 2000))) for _ in range(count)]
    in_camera = np.array([[z * r * np.cos(a), z * r * np.sin(a), z] for r, a, z in polar])
    return (in_camera - camera.t) @ camera.R


def by_opencv(points, camera):
    """OpenCV's projection, moved to this package's pixel coordinates; K's skew is something OpenCV has not."""
    K = camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    rvec = Rotation.from_matrix(camera.R).as_rotvec()  # cv2.Rodrigues makes a turn of 1e-5 none at all
    pixels, _ = cv2.projectPoints(np.asarray(points, np.float64).reshape(-1, 1, 3), rvec, camera.t, K, camera.dist)
    return pixels[:, 0] + 0.5


@given(st.data())
def test_projection_agrees_with_opencv(data):
    camera = data.draw(cameras(skew=False))
    points = data.draw(points_before(camera))
    pixels, depth = project(points, camera)
    np.testing.assert_allclose(pixels, by_opencv(points, camera), atol=1e-6)
    np.testing.assert_allclose(depth, (points @ camera.R.T + camera.t)[:, 2])


@given(fisheyes(), rotations, vectors(-500, 500), st.data())
def test_a_fisheye_projects_as_opencvs_does(dist, R, t, data):
    K = np.array([[420.0, 0, 600], [0, 430, 500], [0, 0, 1]])
    camera = Camera("c", WIDTH, HEIGHT, K, dist, R, t, fisheye=True)
    polar = data.draw(st.lists(st.tuples(numbers(0, 74), numbers(0, 6.3), numbers(50, 2000)), min_size=1, max_size=5))
    in_camera = np.array(
        [[z * np.tan(np.deg2rad(a)) * np.cos(b), z * np.tan(np.deg2rad(a)) * np.sin(b), z] for a, b, z in polar]
    )
    pixels = project((in_camera - t) @ R, camera)[0]
    still = np.zeros(3)
    expected = cv2.fisheye.projectPoints(
        in_camera[:, None], still, still, K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dist[:4]
    )
    np.testing.assert_allclose(pixels, expected[0][:, 0] + 0.5, atol=1e-6)
    rays = in_camera / np.linalg.norm(in_camera, axis=-1, keepdims=True)
    np.testing.assert_allclose(pixel_rays(pixels, camera), rays, atol=1e-9)


def test_beyond_the_largest_angle_of_a_fisheye_there_is_nothing():
    dist = pad_distortion([-0.2, 0, 0, 0], fisheye=True)
    widest = np.sqrt(1 / 0.6)  # the maximum of theta (1 - 0.2 theta^2)
    assert field_radius(dist, fisheye=True) == pytest.approx(np.tan(widest))
    edge = widest * (1 - 0.2 * widest**2)
    assert np.isfinite(undistort([0.999 * edge, 0], dist, fisheye=True)).all()
    assert np.isnan(undistort([1.001 * edge, 0], dist, fisheye=True)).all()
    assert field_radius(pad_distortion([], fisheye=True), fisheye=True) == np.inf


def test_the_fisheye_flag_is_not_to_be_mistaken():
    xy, coefficients = np.array([0.5, 0.3]), [0.05, 0.01, 0.002, 0.001]
    difference = distort(xy, pad_distortion(coefficients)) - distort(
        xy, pad_distortion(coefficients, True), fisheye=True
    )
    assert np.linalg.norm(difference) > 0.01


@given(st.data())
def test_skew_moves_a_pixel_sideways_by_its_height_over_the_focal_length(data):
    camera = data.draw(cameras())
    points = data.draw(points_before(camera))
    pixels, _ = project(points, camera)
    expected = by_opencv(points, replace(camera, K=camera.K * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]))
    expected[:, 0] += camera.K[0, 1] * (expected[:, 1] - camera.K[1, 2]) / camera.K[1, 1]
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_nothing_is_projected_from_behind_a_camera_or_beyond_its_field():
    camera = Camera(
        "c", WIDTH, HEIGHT, np.diag([900.0, 900, 1]), pad_distortion([0, 0, 0, 0, -5]), np.eye(3), np.zeros(3)
    )
    edge = (1 / 35) ** (1 / 6)  # the maximum of r (1 - 5 r^6)
    points = np.array([[0, 0, -10.0], [0.99 * edge, 0, 1], [1.01 * edge, 0, 1]])
    pixels, depth = project(points, camera)
    assert np.isfinite(pixels).all(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(depth, [-10, 1, 1])


@given(distortions(), st.lists(st.tuples(numbers(0, 0.9), numbers(0, 6.3)), min_size=1, max_size=8))
def test_undistortion_inverts_distortion_inside_the_field(dist, polar):
    limit = min(field_radius(dist), 0.7)
    xy = np.array([[r * limit * np.cos(a), r * limit * np.sin(a)] for r, a in polar])
    np.testing.assert_allclose(undistort(distort(xy, dist), dist), xy, atol=1e-8)


@given(distortions(), vectors(-1.5, 1.5, 2))
def test_undistortion_finds_a_point_of_the_field_or_says_that_there_is_none(dist, target):
    xy = undistort(target, dist)
    if np.isfinite(xy).all():
        np.testing.assert_allclose(distort(xy, dist), target, atol=1e-8)
        assert np.linalg.norm(xy) <= field_radius(dist)
    else:
        assert np.isnan(xy).all()


def test_a_pixel_past_the_fold_of_the_distortion_is_nan():
    dist = pad_distortion([0, 0, 0, 0, -5])
    edge = (1 / 35) ** (1 / 6)
    highest = edge * (1 - 5 * edge**6)
    assert np.isfinite(undistort([0.999 * highest, 0], dist)).all()
    assert np.isnan(undistort([1.001 * highest, 0], dist)).all()


@given(st.data())
def test_pixel_rays_invert_projection(data):
    camera = data.draw(cameras())
    points = data.draw(points_before(camera))
    rays = pixel_rays(project(points, camera)[0], camera)
    expected = points @ camera.R.T + camera.t
    np.testing.assert_allclose(rays, expected / np.linalg.norm(expected, axis=-1, keepdims=True), atol=1e-8)


@given(st.data())
def test_a_world_turned_together_with_its_camera_looks_the_same(data):
    camera, turn = data.draw(cameras()), data.draw(rotations)
    points = data.draw(points_before(camera))
    np.testing.assert_allclose(project(points @ turn.T, camera.moved(turn))[0], project(points, camera)[0], atol=1e-5)
    np.testing.assert_allclose(camera.moved(turn).center, turn @ camera.center, atol=1e-9)


@given(cameras(skew=False), vectors(-0.2, 0.2), numbers(300, 1500))
def test_the_view_map_is_opencvs_projection_of_each_virtual_pixels_ray(camera, tilt, focal):
    R_view = Rotation.from_rotvec(tilt).as_matrix() @ camera.R
    fxfycxcy = np.array([focal, 1.1 * focal, 250.0, 260.0])
    x, y = np.array([0.5, 100.5, 511.5]), np.array([0.5, 300.5])
    raw, radius = view_map(camera, R_view, fxfycxcy, x, y)
    assert raw.shape == (2, 3, 2)
    for row, col in np.ndindex(2, 3):
        ray = np.array([(x[col] - 250) / focal, (y[row] - 260) / (1.1 * focal), 1])
        in_camera = camera.R @ R_view.T @ ray
        assume(in_camera[2] > 0.2)
        world = (in_camera - camera.t) @ camera.R
        np.testing.assert_allclose(raw[row, col], by_opencv(world, camera)[0], rtol=1e-6, atol=1e-5)
        assert radius[row, col] == pytest.approx(np.tan(np.arccos(in_camera[2] / np.linalg.norm(in_camera))), rel=1e-6)


def test_a_virtual_pixel_behind_the_raw_camera_has_infinite_radius():
    camera = Camera("c", WIDTH, HEIGHT, np.diag([900.0, 900, 1]), np.zeros(14), np.eye(3), np.zeros(3))
    backwards = np.diag([-1.0, 1, -1])
    _, radius = view_map(camera, backwards, np.array([500.0, 500, 256, 256]), np.array([256.0]), np.array([256.0]))
    assert np.isinf(radius).all()


@given(st.data(), vectors(-100, 100), st.lists(numbers(0.05, 20), min_size=1, max_size=4))
def test_centering_is_a_camera_rotation(data, target, depths):
    # A look-at camera at the same optical centre sees a point, near or far, where the map says the raw camera saw it.
    camera = data.draw(cameras())
    point = data.draw(points_before(camera, 1))[0]
    offset = target - camera.center
    assume(np.hypot(*offset[:2]) > 1)
    R_view = look_at(camera.center, target)
    fxfycxcy = np.array([548.99, 548.99, 256, 256])
    for depth in depths:
        moved = camera.center + depth * (point - camera.center)
        in_view = R_view @ (moved - camera.center)
        assume(in_view[2] > 0.1 * np.linalg.norm(in_view))
        u, v = in_view[:2] / in_view[2] * 548.99 + 256
        raw, _ = view_map(camera, R_view, fxfycxcy, np.array([u]), np.array([v]))
        np.testing.assert_allclose(raw[0, 0], project(moved, camera)[0], atol=1e-4)


@given(vectors(-500, 500), vectors(-500, 500))
def test_a_look_at_camera_is_level_upright_and_aimed(center, target):
    offset = target - center
    assume(np.hypot(*offset[:2]) > 1e-3 * np.linalg.norm(offset) and np.linalg.norm(offset) > 1)
    R = look_at(center, target)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) > 0
    np.testing.assert_allclose(R @ offset, [0, 0, np.linalg.norm(offset)], atol=1e-9)
    assert R[0, 2] == 0, "the image's right is not horizontal: there is roll"
    assert (R @ [0, 0, 1])[1] < 0, "+Z does not point up in the image"


def seen_by(c2w, fxfycxcy, point):
    """The pixel of a world point."""
    x, y, z, _ = inverse_rigid(c2w) @ [*point, 1]
    return np.array([fxfycxcy[0] * x / z + fxfycxcy[2], fxfycxcy[1] * y / z + fxfycxcy[3]])


def looking_at_the_origin(center):
    return rigid(look_at(center, np.zeros(3)).T, np.asarray(center, np.float64))


centers = st.tuples(numbers(-6, 6), numbers(-6, 6), numbers(-3, 3)).filter(lambda c: np.hypot(*c[:2]) > 1.2)
intrinsics = st.tuples(numbers(200, 900), numbers(200, 900), numbers(200, 300), numbers(200, 300)).map(np.array)


@given(centers, intrinsics, numbers(-0.04, 0.04), numbers(-0.04, 0.04))
def test_a_camera_moved_to_2_7_sees_the_origin_at_the_same_pixel(center, fxfycxcy, x, y):
    """Also one whose axis passes a little beside the origin."""
    c2w = looking_at_the_origin(center)
    c2w = c2w @ rigid(Rotation.from_rotvec([x, y, 0]).as_matrix(), np.zeros(3))
    moved, focal = moved_to_mean_distance(c2w, fxfycxcy)
    np.testing.assert_allclose(seen_by(moved, focal, [0, 0, 0]), seen_by(c2w, fxfycxcy, [0, 0, 0]), atol=1e-9)
    np.testing.assert_allclose(inverse_rigid(moved)[2, 3], 2.7, atol=1e-12)
    np.testing.assert_array_equal(moved[:3, :3], c2w[:3, :3])
    np.testing.assert_array_equal(focal[2:], fxfycxcy[2:])


@given(centers, intrinsics, numbers(-0.5, 0.5), numbers(-0.5, 0.5), numbers(-0.6, 0.6))
def test_a_moved_camera_errs_by_perspective_as_its_formula_says(center, fxfycxcy, x, y, behind):
    c2w = looking_at_the_origin(center)
    distance = np.linalg.norm(center)
    moved, focal = moved_to_mean_distance(c2w, fxfycxcy)
    point = c2w[:3, :3] @ [x, y, behind]
    error = seen_by(moved, focal, point) - seen_by(c2w, fxfycxcy, point)
    factor = behind * (2.7 - distance) / (distance * (2.7 + behind) * (distance + behind))
    np.testing.assert_allclose(error, fxfycxcy[:2] * [x, y] * factor, atol=1e-8)


def test_cameras_at_2_7_stay_and_what_was_given_is_not_changed():
    random = np.random.default_rng(0)
    center = random.normal(size=(3, 6, 3))
    center *= 2.7 / np.linalg.norm(center, axis=-1, keepdims=True)
    c2w = rigid(np.swapaxes(look_at(center, np.zeros(3)), -1, -2), center)
    fxfycxcy = random.uniform(200, 600, (3, 6, 4))
    for name, before, after in zip(
        ("c2w", "fxfycxcy"), (c2w, fxfycxcy), moved_to_mean_distance(c2w, fxfycxcy), strict=True
    ):
        np.testing.assert_allclose(after, before, rtol=1e-14, atol=1e-14, err_msg=name)
    given_c2w, given_focal = np.float32(c2w) * np.float32([1.1, 1.1, 1.1, 1])[:, None], np.float32(fxfycxcy)
    copies = given_c2w.copy(), given_focal.copy()
    moved, focal = moved_to_mean_distance(given_c2w, given_focal)
    assert moved.dtype == focal.dtype == np.float64
    assert (given_c2w == copies[0]).all() and (given_focal == copies[1]).all()


def test_look_at_takes_many_cameras_at_once():
    centers = np.random.default_rng(0).normal(size=(4, 6, 3)) * 100
    together = look_at(centers, np.zeros(3))
    for n, v in np.ndindex(4, 6):
        np.testing.assert_array_equal(together[n, v], look_at(centers[n, v], np.zeros(3)))


@pytest.mark.parametrize("height", [300, -300])
def test_the_roll_of_a_camera_straight_above_or_below_is_undefined(height):
    with pytest.raises(ValueError, match="straight up or down"):
        look_at([0, 0, height], [0, 0, 0])


@given(directions, directions, numbers(0, 1), st.sampled_from([-1, 1]), st.integers(0, 17))
@example(np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), 0.0, -1, 3)
@example(np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), 1.0, -1, 6)
@example(np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), 1.0, -1, 9)
def test_rotation_between_is_the_smallest_rotation_that_maps_one_direction_on_the_other(a, other, amount, sign, digits):
    # From any pair of directions (digits 0) to pairs that are nearly or exactly the same or opposite.
    b = sign * a + amount * 10.0**-digits * other
    assume(np.linalg.norm(b) > 1e-3)
    b = b / np.linalg.norm(b)
    R = rotation_between(2 * a, 3 * b)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) > 0
    np.testing.assert_allclose(R @ a, b, atol=1e-12)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    assert Rotation.from_matrix(R).magnitude() == pytest.approx(angle, abs=1e-6)


def rays_to(point, origins):
    offsets = point - origins
    return offsets / np.linalg.norm(offsets, axis=-1, keepdims=True)


@given(vectors(-100, 100), st.integers(0, 10_000), st.integers(0, 4))
def test_triangulation_recovers_a_point_and_is_unmoved_by_an_unused_ray(point, seed, bad):
    origins = np.random.default_rng(seed).normal(size=(5, 3)) * 150 + [0, 0, 400]
    directions = np.stack([rays_to(point, origins), rays_to(point, origins)])
    directions[0, bad] = np.nan
    directions[1, bad] = [0, 0, 1]
    use = np.ones((2, 5), bool)
    use[:, bad] = False
    np.testing.assert_allclose(triangulate(origins, directions, use), [point, point], atol=1e-6)


def test_one_ray_or_none_gives_no_point():
    origins = np.array([[100.0, 0, 0], [0, 100, 0], [0, 0, 100]])
    directions = np.broadcast_to(rays_to(np.zeros(3), origins), (3, 3, 3))
    use = np.array([[True, True, False], [True, False, False], [False, False, False]])
    points = triangulate(origins, directions, use)
    np.testing.assert_allclose(points[0], 0, atol=1e-9)
    assert np.isnan(points[1:]).all()


def test_triangulation_minimises_angles_so_that_a_far_camera_counts_less():
    # One camera is ten times as far: the same error in pixels is ten times as many millimetres there.
    random = np.random.default_rng(3)
    origins = np.array([[200.0, 0, 50], [0, 250, 80], [-2500, -300, 400], [-2000, 500, 300]])
    for _ in range(5):
        directions = rays_to(np.zeros(3), origins) + random.normal(scale=5e-3, size=(4, 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)

        def cost(point, directions=directions):
            return (np.linalg.norm(np.cross(directions, rays_to(point, origins)), axis=-1) ** 2).sum()

        found = triangulate(origins, directions[None], np.ones((1, 4), bool))[0]
        best = minimize(cost, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-16})
        assert cost(found) <= best.fun * 1.01
        projectors = np.eye(3) - directions[:, :, None] * directions[:, None, :]
        plain = np.linalg.solve(projectors.sum(0), np.einsum("vij,vj->i", projectors, origins))
        assert cost(plain) > best.fun * 1.05, "the case does not tell angles from distances"


@given(numbers(0, 359.99), numbers(-89, 89), numbers(0.1, 10))
def test_azimuth_turns_from_x_towards_y_and_elevation_rises_to_z(azimuth, elevation, length):
    a, e = np.deg2rad([azimuth, elevation])
    found = azimuth_elevation(length * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]))
    assert (found[0] - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)
    assert 0 <= found[0] < 360
    assert found[1] == pytest.approx(elevation, abs=1e-9)


@given(rotations, vectors(-500, 500))
def test_the_inverse_of_a_rigid_matrix_is_its_matrix_inverse(R, t):
    matrix = rigid(R, t)
    np.testing.assert_allclose(matrix @ [1, 2, 3, 1], [*(R @ [1, 2, 3] + t), 1], atol=1e-9)
    np.testing.assert_allclose(inverse_rigid(matrix), np.linalg.inv(matrix), atol=1e-9)
    many = rigid(np.stack([R, R.T]), np.stack([t, -t]))
    np.testing.assert_allclose(inverse_rigid(many), np.linalg.inv(many), atol=1e-9)


@given(distortions(with_tangential=False))
@example(pad_distortion([-0.16, 0.94, 0, 0, -2.7]))
@example(pad_distortion([0, 0, 0, 0, 0, -1, 0, 0]))
@example(pad_distortion([-0.4, 0, 0, 0, 1e-18]))
@example(np.zeros(14))
def test_the_field_ends_where_the_radial_function_first_falls(dist):
    k1, k2, _, _, k3, k4, k5, k6 = dist[:8]
    r = np.linspace(0, 4, 400_001)
    with np.errstate(divide="ignore"):
        value = r * (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    # Where numerator and denominator vanish together, the quotient is smooth and the search sees nothing.
    inverse = np.roots([1, k4, k5, k6])
    poles = np.sqrt([1 / p.real for p in inverse if abs(p.imag) < 1e-9 and p.real > 0.01])
    assume(all(abs(1 + k1 * p**2 + k2 * p**4 + k3 * p**6) > 1e-3 for p in poles))
    falls = np.diff(value) < 0
    if falls.any():
        assert field_radius(dist) == pytest.approx(r[falls.argmax()], abs=1e-4)
    else:
        assert field_radius(dist) > 3.9999


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 8, 12, 14])
def test_short_lists_of_coefficients_mean_zeros_at_the_end(count):
    given_ = np.arange(1.0, count + 1)
    np.testing.assert_array_equal(pad_distortion(given_), [*given_, *[0] * (14 - count)])


@pytest.mark.parametrize(("count", "fisheye"), [(3, False), (6, False), (15, False), (5, True), (2, True)])
def test_other_counts_of_coefficients_are_refused(count, fisheye):
    with pytest.raises(ValueError, match=f"found {count}"):
        pad_distortion(np.zeros(count), fisheye)
