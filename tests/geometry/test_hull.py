"""The visual hull of analytic bodies in synthetic cameras, and of the demo capture against its ground truth."""

from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from mousefacelift.geometry.camera import Camera, pad_distortion, pixel_rays, project
from mousefacelift.geometry.hull import hull_voxels, outline_radius, visual_hull
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.shards.images import decode_crop
from support.balls import AZIMUTHS, ELEVATIONS
from support.rodent import ground_truth

CENTER = np.array([5.0, -8.0, 12.0])


def camera(k, width=640, height=512):
    direction = np.array(
        [
            np.cos(ELEVATIONS[k]) * np.cos(AZIMUTHS[k]),
            np.cos(ELEVATIONS[k]) * np.sin(AZIMUTHS[k]),
            np.sin(ELEVATIONS[k]),
        ]
    )
    right = np.cross(-direction, [0, 0, 1])
    right /= np.linalg.norm(right)
    R = Rotation.from_rotvec([0, 0, 0.1 * k]).as_matrix() @ np.stack([right, np.cross(-direction, right), -direction])
    K = np.array([[900.0, 1.5, 320], [0, 880, 250], [0, 0, 1]])
    dist = pad_distortion([-0.16 + 0.02 * k, 0.3, -1e-3, 2e-3, -0.5])
    return Camera(str(k), width, height, K, dist, R, -R @ direction * (300 + 20 * k))


RIG = tuple(camera(k) for k in range(6))


def silhouette(camera, radii, center=CENTER, R=np.eye(3)):
    """Cutout of an ellipsoid: every pixel whose ray hits it. Its principal directions are the rows of R."""
    where = project(center, camera)[0]
    x, y = np.meshgrid(
        *(
            np.arange(max(int(w) - 130, 0), min(int(w) + 130, n))
            for w, n in zip(where, (camera.width, camera.height), strict=True)
        )
    )
    mask = np.zeros((camera.height, camera.width), np.uint8)
    rays = pixel_rays(np.stack([x, y], axis=-1) + 0.5, camera) @ camera.R
    to_ball = R.T / radii  # the world in which the ellipsoid is a unit ball
    d, o = rays @ to_ball, (camera.center - center) @ to_ball
    mask[y, x] = 255 * ((d @ o) ** 2 > (d * d).sum(axis=-1) * (o @ o - 1))
    return cutout(mask)


def cutout(mask, margin=3):
    x, y, w, h = cv2.boundingRect(mask)
    x0, y0, x1, y1 = (
        max(x - margin, 0),
        max(y - margin, 0),
        min(x + w + margin, mask.shape[1]),
        min(y + h + margin, mask.shape[0]),
    )
    return mask[y0:y1, x0:x1], (x0, y0, x1 - x0, y1 - y0)


def views(radii, rig=RIG, **kwargs):
    return [silhouette(c, np.broadcast_to(radii, 3).astype(float), **kwargs) for c in rig]


def hull(silhouettes, rig=RIG, start=CENTER + [4.0, 3, -5], radius=45.0, **kwargs):
    return visual_hull(silhouettes, rig, start, radius, **kwargs)


def ball_volume(*radii):
    return 4 / 3 * np.pi * np.prod(radii)


def carved(silhouettes, rig, voxel_mm, center, radius):
    """Plain reference: every voxel of the cube around a ball, kept where every view sees its centre in the silhouette."""
    ticks = (np.arange(int(2 * radius / voxel_mm)) + 0.5) * voxel_mm - radius
    points = np.stack(np.meshgrid(*[ticks] * 3), axis=-1).reshape(-1, 3) + center
    keep = np.ones(len(points), bool)
    for (alpha, (x, y, w, h)), c in zip(silhouettes, rig, strict=True):
        mask = np.zeros((c.height, c.width), bool)
        mask[y : y + h, x : x + w] = alpha > 127
        u, v = np.floor(project(points, c)[0]).astype(int).T
        keep &= mask[v, u]
    return points[keep]


@pytest.mark.parametrize("radius", [8, 25])
def test_a_balls_hull_is_a_little_larger_than_the_ball_and_has_its_centre(radius):
    result = hull(views(radius))
    np.testing.assert_allclose(result.centroid_mm, CENTER, atol=0.3)
    assert 1 <= result.volume_mm3 / ball_volume(radius, radius, radius) <= 1.25
    assert result.iou.min() > (0.93 if radius > 10 else 0.85)  # a ball of 16 mm is eight voxels wide


def test_axes_and_lengths_are_the_bodys():
    R = Rotation.from_euler("zy", [35, 20], degrees=True).as_matrix()
    result = hull(views([36, 15, 12], R=R))
    np.testing.assert_allclose(result.lengths_mm, [72, 30, 24], rtol=0.12)
    np.testing.assert_allclose(result.axes @ result.axes.T, np.eye(3), atol=1e-9)
    assert abs(result.axes[0] @ R[0]) > np.cos(np.deg2rad(3))
    assert result.volume_mm3 > ball_volume(36, 15, 12)


@pytest.mark.parametrize("voxel_mm", [1.5, 2.0, 3.0])
def test_the_hull_is_that_of_a_plain_carver_with_much_smaller_voxels(voxel_mm):
    silhouettes = views([30, 14, 18])
    points = carved(silhouettes, RIG, 0.75, CENTER, 36)
    result = hull(silhouettes, voxel_mm=voxel_mm)
    assert result.volume_mm3 == pytest.approx(len(points) * 0.75**3, rel=0.03)
    moments = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    np.testing.assert_allclose(result.lengths_mm, 2 * np.sqrt(5 * moments), rtol=0.04)


def test_where_the_search_starts_does_not_matter():
    silhouettes = views([30, 14, 18])
    one, other = hull(silhouettes), hull(silhouettes, start=CENTER + [-11.3, 6.1, 2.2], radius=58.0)
    np.testing.assert_allclose(other.centroid_mm, one.centroid_mm, atol=0.1)
    assert other.volume_mm3 == pytest.approx(one.volume_mm3, rel=0.01)


def test_the_same_silhouettes_give_the_same_bits():
    one, two = (hull(views([30, 14, 18]), leave_one_out=True) for _ in range(2))
    for name in ("centroid_mm", "axes", "lengths_mm", "iou", "iou_others", "iou_without"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.volume_mm3 == two.volume_mm3


@pytest.mark.parametrize("view", range(6))
def test_a_missing_view_costs_little(view):
    silhouettes = views([30, 14, 18])
    whole = hull(silhouettes)
    silhouettes[view] = None
    result = hull(silhouettes)
    assert np.isnan(result.iou).tolist() == [k == view for k in range(6)]
    assert whole.volume_mm3 < result.volume_mm3 < 1.25 * whole.volume_mm3
    np.testing.assert_allclose(result.centroid_mm, CENTER, atol=1)


def test_an_empty_mask_is_a_missing_view():
    silhouettes = views(20)
    empty, missing = list(silhouettes), list(silhouettes)
    empty[2], missing[2] = (np.zeros((5, 7), np.uint8), (10, 20, 7, 5)), None
    assert hull(empty).volume_mm3 == hull(missing).volume_mm3


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_silhouette_cut_by_the_frames_edge_carves_nothing_beyond_it(side):
    u, v = project(CENTER, RIG[1])[0].astype(int)
    shift = {"left": (u, 0), "top": (0, v)}.get(side, (0, 0))
    width, height = RIG[1].width, RIG[1].height
    size = {"left": (width - u, height), "right": (u, height), "top": (width, height - v), "bottom": (width, v)}[side]
    K = RIG[1].K.copy()
    K[:2, 2] -= shift
    rig = (RIG[0], replace(RIG[1], K=K, width=size[0], height=size[1]), *RIG[2:])
    silhouettes = views([30, 14, 18], rig)
    without = [s if k != 1 else None for k, s in enumerate(silhouettes)]
    whole, clipped, absent = hull(views([30, 14, 18])), hull(silhouettes, rig), hull(without)
    assert 0.99 * whole.volume_mm3 < clipped.volume_mm3 < 1.01 * absent.volume_mm3
    np.testing.assert_allclose(clipped.centroid_mm, CENTER, atol=1)
    assert clipped.iou.min() > 0.9
    # The edge goes through the ellipsoid's centre: half of it is beyond.
    np.testing.assert_allclose(clipped.cut, [0, 0.5, 0, 0, 0, 0], atol=0.03)
    assert (whole.cut == 0).all()
    assert np.isnan(absent.cut).tolist() == [k == 1 for k in range(6)]


TAIL = {"radii": np.array([30.0, 2, 2]), "center": CENTER + [55.0, 0, -8]}


def with_tail(camera):
    """A body and a thin rod in front of it, apart."""
    mask = np.zeros((camera.height, camera.width), np.uint8)
    for alpha, (x, y, w, h) in (silhouette(camera, np.array([25.0, 16, 14])), silhouette(camera, **TAIL)):
        mask[y : y + h, x : x + w] |= alpha
    return cutout(mask)


def test_points_of_thin_parts_lie_on_the_tail_and_no_farther_from_it_than_their_depth_says():
    result = hull([with_tail(c) for c in RIG], radius=100.0)
    assert len(result.thin_mm) > 30
    offset = result.thin_mm[:, :3] - TAIL["center"]
    assert (np.abs(offset[:, 0]) < 32).all()
    assert (np.hypot(offset[:, 1], offset[:, 2]) < 5).all()
    # The hull reaches as much farther down as a point is deep: the lowest is the rod's lowest, two mm below its axis.
    lowest = (result.thin_mm[:, 2] - result.thin_mm[:, 3]).min()
    assert lowest == pytest.approx(TAIL["center"][2] - 2, abs=0.5)


def test_points_of_the_surface_reach_the_extremes_and_are_spread():
    result = hull([with_tail(c) for c in RIG], radius=100.0)
    assert len(result.surface_mm) == 48
    x = result.surface_mm[:, 0] - CENTER[0]
    assert x.max() == pytest.approx(85, abs=3)
    assert x.min() == pytest.approx(-25, abs=3)
    apart = np.linalg.norm(result.surface_mm[:, None] - result.surface_mm, axis=-1) + 1e9 * np.eye(48)
    assert apart.min() > 5


def test_points_of_the_body_reach_its_extremes_and_hardly_onto_the_tail():
    result = hull([with_tail(c) for c in RIG], radius=100.0)
    assert len(result.body_mm) == 64
    offset = result.body_mm - CENTER
    assert offset[:, 0].min() == pytest.approx(-25, abs=2)
    for axis, radius in ((1, 16), (2, 14)):
        assert radius - 2 < offset[:, axis].max() < 1.3 * radius, "a hull is fatter than its ellipsoid"
    # The rod reaches 85 mm. What lies within the body's depth of the thick part still counts as body.
    assert offset[:, 0].max() < 40
    assert np.isnan(hull([None] * 6).body_mm).all()


def test_the_hulls_voxels_are_all_of_it():
    silhouettes = [with_tail(c) for c in RIG]
    voxels = hull_voxels(silhouettes, RIG, CENTER, 100.0, 2.0)
    result = hull(silhouettes, radius=100.0)
    assert 0.9 * result.volume_mm3 < 8 * len(voxels) < 1.6 * result.volume_mm3, "half a voxel outside counts"
    nearest, _ = cKDTree(voxels).query(np.vstack([result.surface_mm, result.body_mm]))
    assert nearest.max() < 2 * np.sqrt(3), "a voxel's diagonal"
    assert len(hull_voxels([silhouettes[0], *[None] * 5], RIG, CENTER, 100.0, 2.0)) == 0


def test_a_camera_that_looks_elsewhere_carves_nothing():
    turn = Rotation.from_rotvec([0, np.deg2rad(60), 0]).as_matrix()
    rig = (*RIG[:5], replace(RIG[5], R=turn @ RIG[5].R, t=turn @ RIG[5].t))
    silhouettes = views(20)
    something = silhouettes[5]
    five, six = hull([*silhouettes[:5], None]), hull([*silhouettes[:5], something], rig)
    assert six.volume_mm3 == five.volume_mm3
    np.testing.assert_array_equal(six.centroid_mm, five.centroid_mm)
    assert six.iou[5] == 0


@pytest.mark.parametrize("view", range(6))
@pytest.mark.parametrize("degrees", [1.5, 10])
def test_the_camera_that_contradicts_the_rest_is_seen_when_it_is_left_out(view, degrees):
    turn = Rotation.from_rotvec([0, np.deg2rad(degrees), 0]).as_matrix()
    rig = tuple(replace(c, R=turn @ c.R, t=turn @ c.t) if k == view else c for k, c in enumerate(RIG))
    silhouettes = views([30, 14, 18])
    result = hull(silhouettes, rig, leave_one_out=True)
    assert np.argmax(result.iou_without) == view
    assert result.iou_without[view] > 0.93
    assert np.delete(result.iou_without, view).max() < 0.92
    assert result.iou_others[view] <= result.iou_others.min() + 1e-9
    agreeing = hull(silhouettes, leave_one_out=True)
    assert agreeing.iou_without.min() > 0.93 and agreeing.iou_others.min() > 0.8


def test_nothing_in_common_is_no_hull():
    silhouettes = views(20)
    for k in (0, 3):
        alpha, (x, y, w, h) = silhouettes[k]
        silhouettes[k] = alpha, (x, y + 150, w, h)
    result = hull(silhouettes)
    assert result.volume_mm3 == 0
    assert np.isnan(result.centroid_mm).all()
    assert (result.iou == 0).all()
    for few in ([None] * 6, [silhouettes[0]] + [None] * 5):
        assert hull(few).volume_mm3 == 0
        assert np.isnan(hull(few).iou).all()
    assert hull(silhouettes, radius=np.nan).volume_mm3 == 0


def test_the_outlines_radius_holds_the_body():
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    rays = np.full((2, 6, 32, 3), np.nan)
    for v, c in enumerate(RIG):
        alpha, (x, y, _, _) = silhouette(c, np.full(3, 20.0))
        row, column = np.nonzero(alpha)
        pixels = np.stack([column + x, row + y], axis=-1) + 0.5
        outermost = np.argmax(pixels @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
        rays[0, v] = pixel_rays(pixels[outermost], c)
    offset = np.array([3.0, 0, 0])
    radius = outline_radius(RIG, np.array([CENTER, CENTER]), rays)
    assert radius[0] == pytest.approx(20, abs=0.6)
    assert np.isnan(radius[1])
    assert outline_radius(RIG, np.array([CENTER + offset] * 2), rays)[0] == pytest.approx(23, abs=0.7)


@pytest.fixture(scope="module")
def demo(demo_run):
    """Every 8th frame of the demo: rig, silhouettes [N][V], centres from the silhouettes, radii, truth."""
    rig, silhouettes = rig_from_json(demo_run.folder / "rig.json"), []
    for path in sorted((demo_run.folder / "center" / demo_run.capture.name).glob("*.h5")):
        with h5py.File(path) as file:
            for crops, windows in zip(file["crop_zstd"][()], file["window"][()], strict=True):
                silhouettes.append(
                    [(decode_crop(c, w[2:], "")[..., 3], w) for c, w in zip(crops, windows, strict=True)]
                )
    with h5py.File(demo_run.folder / "subject.h5") as file:
        center, frame, rays = (file[name][()] for name in ("center_mm", "frame", "outline_rays"))
    return rig, silhouettes, center, outline_radius(rig, center, rays), ground_truth()["center"][frame]


def demo_hulls(demo, missing=None):
    rig, silhouettes, center, radius, truth = demo
    frames = [[s if v != missing else None for v, s in enumerate(row)] for row in silhouettes]
    hulls = [visual_hull(row, rig, *where) for row, *where in zip(frames, center, radius, strict=True)]
    return hulls, np.linalg.norm([h.centroid_mm for h in hulls] - truth, axis=1)


def test_the_demos_centre_is_found_within_a_millimetre_or_so(demo):
    hulls, error = demo_hulls(demo)
    print(f"hull: median {np.median(error):.2f} mm, 95 % below {np.quantile(error, 0.95):.2f} mm")
    assert np.median(error) <= 0.8
    assert np.quantile(error, 0.95) <= 1.4
    assert np.min([h.iou for h in hulls]) > 0.85


@pytest.mark.parametrize("missing", range(6))
def test_the_demos_centre_is_found_by_five_cameras(demo, missing):
    hulls, error = demo_hulls(demo, missing)
    assert np.median(error) <= 1
    assert np.quantile(error, 0.95) <= 2
    assert np.isnan([h.iou[missing] for h in hulls]).all()


@pytest.mark.parametrize("few", [(0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 4)])
def test_three_or_four_cameras_find_the_centre_and_see_the_mouse_whole(demo, few):
    """What a view would have to see beyond its frame is carved too, unless its silhouette touches the edge."""
    rig, silhouettes, center, radius, truth = demo
    hulls = [
        visual_hull([row[v] for v in few], tuple(rig[v] for v in few), *where)
        for row, *where in zip(silhouettes, center, radius, strict=True)
    ]
    error = np.linalg.norm([h.centroid_mm for h in hulls] - truth, axis=1)
    cut = np.array([h.cut for h in hulls])
    print(
        f"{len(few)} cameras: median {np.median(error):.2f} mm, 95 % below {np.quantile(error, 0.95):.2f} mm; cut {cut.max():.3f}"
    )
    assert np.median(error) <= 1.6
    assert np.quantile(error, 0.95) <= 3
    assert (cut > 0.02).any(axis=1).mean() < 0.1
