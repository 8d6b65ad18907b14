import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from mousefacelift.geometry.camera import Camera, pad_distortion
from mousefacelift.geometry.resampling import SPLAT_BLUR, View, render_view
from mousefacelift.geometry.views import look_at, view_map
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from support.rodent import ground_truth

LENSES = {
    "none": (),
    "barrel": (-0.2, 0.05, 0.001, -0.001),
    "folding": (-0.35, 0.1, 0, 0, 0),
    "folding sooner": (-0.35, 0.1, 0, 0, -2.7),
    "rational": (0.3, -0.05, 0, 0, 0.01, 0.5, 0.02, 0.001),
    "fisheye": (0.02, -0.01, 0.003, 0.0),
}


def synthetic_camera(dist=(), width=640, height=480):
    K = np.array([[800.0, 0, 330], [0, 810, 250], [0, 0, 1]])
    R = look_at(np.array([300.0, 0, 100]), np.zeros(3))
    return Camera("c", width, height, K, pad_distortion(dist), R, -R @ [300.0, 0, 100])


@pytest.mark.parametrize("shrink", [0.6, 1.0, 1.3, 2.0, 3.0, 5.0])
def test_a_silhouette_keeps_its_colour_up_to_its_edge_and_gets_no_ring(shrink):
    """A disc of one colour: every pixel of the view has that colour, and alpha falls to 0 once and for all."""
    crop = np.zeros((480, 640, 4), np.uint8)
    cv2.circle(crop, (330, 250), 150, (200, 30, 90, 255), -1, cv2.LINE_8)
    camera = synthetic_camera()
    focal = np.array([800.0, 810.0]) / shrink
    image = render_view(crop, np.array([0, 0, 640, 480]), camera, View(camera.R, np.array([*focal, 256, 256]), 512))
    alpha = image[..., 3].astype(float)
    # Premultiplied colours and alpha are rounded to 1/255 twice, so that the colour is known to 2 / alpha.
    error = np.abs(image[..., :3].astype(float) - [200, 30, 90]).max(axis=-1)
    assert (error <= 1 + 2 * 255 / np.maximum(alpha, 1))[alpha > 0].all()
    rows, cols = np.indices(alpha.shape) + 0.5
    away = np.hypot((cols - 256) - (0.5 / shrink), (rows - 256) - (0.5 / shrink)) - 150 / shrink
    assert (alpha[away < -3] == 255).all()
    assert not alpha[away > 3].any()


@pytest.mark.parametrize("turn_deg", [0, 17])
@pytest.mark.parametrize("nyquist", [1 / 3, 1.0], ids=["up to the view's Nyquist frequency", "up to the raw frame's"])
def test_a_zone_plate_shrunk_threefold_shows_no_aliasing(turn_deg, nyquist):
    """Against the same plate, drawn at 9 x 9 samples per pixel of the view and weighted by its Gaussian pixel."""
    size, shrink, half = 160, 3.0, 240
    top = nyquist * 0.5 * np.pi / half  # the phase's second derivative: cycles per raw px grow from 0 to 0.5 * nyquist

    def plate(x, y):
        return 0.5 + 0.5 * np.cos(top * ((x - half) ** 2 + (y - half) ** 2))

    ticks = np.arange(2 * half) + 0.5
    crop = np.full((2 * half, 2 * half, 4), 255, np.uint8)
    crop[..., :3] = np.rint(255 * plate(ticks[None], ticks[:, None]))[..., None]
    focal, turn = 900.0, np.deg2rad(turn_deg)
    K = np.array([[focal, 0, half], [0, focal, half], [0, 0, 1]])
    camera = Camera("c", 2 * half, 2 * half, K, pad_distortion(()), np.eye(3), np.zeros(3))
    cos, sin = np.cos(turn), np.sin(turn)
    roll = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    view = View(roll, np.array([focal / shrink, focal / shrink, size / 2, size / 2]), size)
    found = render_view(crop, np.array([0, 0, 2 * half, 2 * half]), camera, view)[..., 0]

    samples = 9
    fine = (np.arange(size * samples) + 0.5) / samples - size / 2
    x, y = shrink * (cos * fine[None] - sin * fine[:, None]), shrink * (sin * fine[None] + cos * fine[:, None])
    sigma = samples * np.sqrt(SPLAT_BLUR * (1 - 1 / shrink**2))
    reference = (
        255 * gaussian_filter(plate(x + half, y + half), sigma)[samples // 2 :: samples, samples // 2 :: samples]
    )
    rows, cols = np.indices((size, size)) + 0.5 - size / 2
    disc = np.hypot(rows, cols) < 0.9 * size / 2
    error = np.sqrt(((found - reference)[disc] ** 2).mean())
    stop = disc & (np.hypot(rows, cols) * nyquist > 1.3 * size / 6)  # what the view has no pixels for, with some room
    left = np.sqrt(((found - 127.5)[stop] ** 2).mean()) if stop.any() else 0.0
    print(
        f"turned {turn_deg}, plate to {nyquist:.2f} of Nyquist: {error:.2f}/255 rms; beyond the view's: {left:.2f}/255"
    )
    assert error < 1


def test_nothing_is_painted_from_beyond_the_calibrated_field():
    # k3 folds the polynomial back at a radius of 0.55: without a limit each raw pixel is painted twice, once as a ghost.
    dist = (0.0, 0.0, 0.0, 0.0, -5.0)
    camera = synthetic_camera(dist)
    crop = np.full((480, 640, 4), 255, np.uint8)
    focal = 150.0
    view = View(camera.R, np.array([focal, focal, 256, 256]), 512)
    alpha = render_view(crop, np.array([0, 0, 640, 480]), camera, view)[..., 3]
    # Independent: OpenCV's projection of every pixel's ray, and the first maximum of the radial function by search.
    xy = (np.stack(np.meshgrid(np.arange(512), np.arange(512)), axis=-1) + 0.5 - 256) / focal
    rays = np.concatenate([xy, np.ones((512, 512, 1))], axis=-1).reshape(-1, 3)
    zero_centred = camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    raw = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), zero_centred, np.array(dist))[0].reshape(512, 512, 2)
    in_frame = ((raw > -0.5) & (raw < np.array([640, 480]) - 0.5)).all(axis=-1)
    r = np.linspace(0, 2, 20001)
    in_field = np.linalg.norm(xy, axis=-1) < r[np.argmax(np.diff(r * (1 - 5 * r**6)) < 0)]
    assert (in_frame & ~in_field).sum() > 1000, "the case has no ghosts to suppress"
    expected = (in_frame & in_field).astype(np.uint8)
    assert not alpha[cv2.dilate(expected, np.ones((3, 3))) == 0].any()
    assert (alpha[cv2.erode(expected, np.ones((5, 5))) > 0] == 255).all()  # the filter reaches 1.7 px


@pytest.mark.parametrize("lens", LENSES)
def test_whatever_the_camera_sees_of_a_crop_is_painted_and_nothing_else(lens):
    """Random windows, views, rolls and zooms, against OpenCV-like projection of every single pixel."""
    random, painted = np.random.default_rng(0), 0
    for _ in range(40):
        focal, size = random.uniform(500, 1500), int(random.choice([128, 200, 256]))
        K = np.array([[focal, 0, 576], [0, focal, 512], [0, 0, 1]])
        dist = pad_distortion(LENSES[lens], lens == "fisheye")
        camera = Camera("c", 1152, 1024, K, dist, np.eye(3), np.zeros(3), lens == "fisheye")
        corner, extent = random.integers(0, 700, 2), random.integers(20, 900, 2)
        window = np.array([*corner, *np.minimum(extent, [1152, 1024] - corner)])
        aim = (window[:2] + window[2:] / 2 - [576, 512]) / focal + random.uniform(-0.15, 0.15, 2)
        turn = Rotation.from_euler("xyz", [np.arctan(aim[1]), -np.arctan(aim[0]), random.uniform(-np.pi, np.pi)])
        view = View(turn.as_matrix(), np.array([random.uniform(0.9, 7) * size] * 2 + [size / 2] * 2), size)
        crop = np.full((window[3], window[2], 4), 255, np.uint8)
        alpha = render_view(crop, window.astype(np.int32), camera, view)[..., 3]
        ticks = np.arange(-4, size + 4) + 0.5
        raw, radius = view_map(camera, view.R, view.fxfycxcy, ticks, ticks)
        seen = ((raw >= window[:2]) & (raw <= window[:2] + window[2:])).all(-1) & (radius < camera.field_radius)
        # To within 4 px: the filter reaches 1.7 px, more where the lens stretches the view.
        seen, near = seen.astype(np.uint8), np.ones((9, 9), np.uint8)
        must, may = (change(seen, near)[4:-4, 4:-4] for change in (cv2.erode, cv2.dilate))
        assert (alpha[must > 0] > 250).all()
        assert not alpha[may == 0].any()
        painted += (must > 0).any()
    assert painted > 20


@pytest.mark.parametrize("view", range(6))
def test_a_mask_of_ones_maps_to_one_region_without_ghosts(demo_run, view):
    camera = rig_from_json(demo_run.folder / "rig.json")[view]
    focal, size = 150.0, 512  # so wide that all of the raw frame is in the view, and what lies beyond
    looking = View(look_at(camera.center, np.array([90.0, 60, 20])), np.array([focal, focal, size / 2, size / 2]), size)
    ones = np.full((camera.height, camera.width, 4), 255, np.uint8)
    alpha = render_view(ones, np.array([0, 0, camera.width, camera.height]), camera, looking)[..., 3]
    region = (alpha > 127).astype(np.uint8)
    assert cv2.connectedComponents(region)[0] == 2
    assert cv2.connectedComponents(1 - region)[0] == 2, "the region has a hole"
    (border,), _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # Edges bulge inwards by the barrel distortion that was taken out; a fold would tear the region far more.
    assert cv2.contourArea(border) > 0.96 * cv2.contourArea(cv2.convexHull(border))
    # Independent: OpenCV takes every painted pixel's ray into the frame, before the radial function's first maximum.
    rows, cols = np.nonzero(cv2.erode(region, np.ones((3, 3))))
    rays = np.stack([(cols + 0.5 - size / 2) / focal, (rows + 0.5 - size / 2) / focal, np.ones(len(rows))], axis=-1)
    rays = rays @ (camera.R @ looking.R.T).T
    truth = ground_truth()
    still = np.zeros(3)
    raw = cv2.projectPoints(rays, still, still, truth["K"][view], truth["dist"][view])[0][:, 0]
    assert (rays[:, 2] > 0).all()
    assert ((raw > -1) & (raw < truth["size"])).all()
    k1, k2, _, _, k3 = truth["dist"][view]
    r = np.linspace(0, 2, 20001)
    falls = np.diff(r * (1 + k1 * r**2 + k2 * r**4 + k3 * r**6)) < 0
    limit = r[np.argmax(falls)] if falls.any() else np.inf
    assert (np.hypot(rays[:, 0], rays[:, 1]) / rays[:, 2]).max() <= limit


def test_shrinking_averages_and_does_not_skip_pixels():
    camera = synthetic_camera()
    crop = np.full((480, 640, 4), 255, np.uint8)
    crop[:, ::2, :3] = 0  # stripes one pixel wide: any picture of them 4 times smaller is grey
    view = View(camera.R, np.array([200.0, 200, 256, 256]), 512)
    image = render_view(crop, np.array([0, 0, 640, 480]), camera, view)
    core = image[220:290, 220:290, :3].astype(float)
    assert abs(core.mean() - 127.5) < 3
    assert core.std() < 12
