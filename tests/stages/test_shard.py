import json

import cv2
import h5py
import numpy as np
import pytest
import webdataset
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.config.config import Config
from mousefacelift.config.sample import SPLITS
from mousefacelift.config.shard import Shard
from mousefacelift.geometry.camera import Camera, pad_distortion
from mousefacelift.geometry.views import look_at, view_map
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.shards.images import decode_crop
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.stages.shard import SPLAT_BLUR, View, render_view, shard
from support.rodent import ground_truth, project_raw, project_view, record, run_from_normalize, run_stages

FRAMES = range(100, 106)
DOT_SIGMA = 2.0


def dots(frame, view, mask):
    """Three known vertices, well inside the silhouette of this view and apart from each other."""
    points = ground_truth()["vertices"][frame].astype(np.float64)
    pixels = project_raw(points, view)
    depth = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, 5)
    inside = [i for i, (x, y) in enumerate(pixels) if depth[round(y), round(x)] > 12]
    chosen = []
    for i in sorted(inside, key=lambda i: -depth[round(pixels[i][1]), round(pixels[i][0])]):
        if all(np.linalg.norm(pixels[i] - pixels[j]) > 45 for j in chosen):
            chosen.append(i)
    return points[chosen[:3]]


@pytest.fixture(scope="module")
def dotted(tmp_path_factory):
    """The same recording without and with Gaussian dots painted at known 3D points, through stages 1 to 5."""
    from mousefacelift.recordings.video import read_frames
    from support.rodent import demo_capture

    masks = [{k: frame.gray() for k, frame in read_frames(path, FRAMES, "")} for path in demo_capture().masks]
    points = {(f, v): dots(f, v, masks[v][f]) for f in FRAMES for v in range(6)}

    def draw(image, frame, view):
        painted = image.astype(np.float64)
        rows, cols = np.indices(image.shape[:2])
        for x, y in project_raw(points[frame, view], view):
            weight = np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * DOT_SIGMA**2))[..., None]
            painted = painted * (1 - weight) + np.array([255, 255, 0]) * weight
        return painted.round().astype(np.uint8)

    config = Config.model_validate({"normalize": {"zoom": "fit"}, "sample": {"gap_s": 0}})
    runs = []
    for name, painter in (("plain", None), ("dots", draw)):
        folder = tmp_path_factory.mktemp(name)
        runs.append(run_stages(record(folder / "videos", FRAMES, painter), folder, config))
    return (*runs, points)


def read_all(run):
    """All samples of a run: lists over samples of image, c2w, fxfycxcy, world_from_mm, frame, and the view names."""
    samples = []
    for path in run.shards:
        with h5py.File(path) as file:
            names = list(file.attrs["views"])
            fields = ("image", "c2w", "fxfycxcy", "world_from_mm", "frame")
            samples += zip(*(file[name][()] for name in fields), strict=True)
    return samples, names


def found_dots(plain, painted, points):
    """Of every dot: its world point in mm, where it is found in the shard's image, and where the shard's camera projects it.

    Also the frame and the camera's index. The dots are what differs between two runs.
    """
    (samples, names), (with_dots, _) = read_all(plain), read_all(painted)
    assert len(samples) == len(FRAMES)
    for (clean, *_), (image, c2w, fxfycxcy, world_from_mm, frame) in zip(samples, with_dots, strict=True):
        for i, name in enumerate(names):
            truth = points[FRAMES[frame], int(name) - 1]
            assert len(truth)
            difference = np.abs(image[i, ..., :2].astype(float) - clean[i, ..., :2]).sum(axis=-1)
            for point, near in zip(truth, project_view(truth, world_from_mm, c2w[i], fxfycxcy[i]), strict=True):
                x0, y0 = (near - 9).astype(int)
                patch = difference[y0 : y0 + 19, x0 : x0 + 19]
                rows, cols = np.indices(patch.shape) + 0.5
                assert patch.sum() > 255, "the dot is not there"
                found = np.array([x0 + (patch * cols).sum() / patch.sum(), y0 + (patch * rows).sum() / patch.sum()])
                yield point, found, near, frame, int(name) - 1


@pytest.mark.parametrize("policy", ["exact", "focal"])
def test_a_dot_at_a_known_point_is_found_where_the_shards_camera_projects_it(dotted, tmp_path, policy):
    plain, painted, points = dotted
    if policy != "exact":
        config = Config.model_validate({"normalize": {"zoom": "fit", "distance": policy}, "sample": {"gap_s": 0}})
        plain, painted = (
            run_from_normalize(run, tmp_path / name, config) for name, run in (("a", plain), ("b", painted))
        )
    errors = [np.linalg.norm(found - near) for _, found, near, *_ in found_dots(plain, painted, points)]
    print(f"{policy}: {len(errors)} dots: median {np.median(errors):.3f} px, max {np.max(errors):.3f} px")
    assert np.median(errors) < 0.05
    assert np.max(errors) < 0.5


def test_the_canonical_cameras_are_off_by_what_perspective_says_and_no_more(dotted, tmp_path):
    plain, painted, points = dotted
    config = Config.model_validate({"normalize": {"distance": "canonical"}, "sample": {"gap_s": 0}})
    plain, painted = (run_from_normalize(run, tmp_path / name, config) for name, run in (("a", plain), ("b", painted)))
    with h5py.File(tmp_path / "a" / "cameras.h5") as file:
        distance, scale = file["distance"][()], file["world_units_per_mm"][0]
        origin, R_view = np.linalg.inv(file["world_from_mm"][()])[:, :3, 3], file["R_view"][()]
    np.testing.assert_allclose(distance, 2.7, atol=1e-12)
    truth, focal = ground_truth(), 256 / np.tan(np.radians(25))
    errors, off = [], []
    for point, found, near, n, v in found_dots(plain, painted, points):
        # Sideways and forward from the mouse's centre, and its distance from the camera, in the capture's world units.
        x, y, forward = R_view[n, v] @ (point - origin[n]) * scale
        away = np.linalg.norm(origin[n] + truth["R"][v].T @ truth["t"][v]) * scale
        imaged = np.array([x, y]) * focal * (away / 2.7) / (away + forward) + 256
        errors.append(np.linalg.norm(found - imaged))
        off.append(np.linalg.norm(imaged - near))
    print(
        f"canonical: the image {np.median(errors):.3f} px from its formula; the cameras off by {np.median(off):.2f} px"
    )
    assert np.median(errors) < 0.05
    assert np.median(off) > 0.1, "the case does not tell"


def test_the_mesh_lies_within_the_alpha_mask_in_every_view(demo_run):
    truth, worst = ground_truth(), []
    samples, names = read_all(demo_run)
    for image, c2w, fxfycxcy, world_from_mm, frame in samples:
        vertices = truth["vertices"][frame].astype(np.float64)
        for i, name in enumerate(names):
            raw = project_raw(vertices, int(name) - 1)
            shown = ((raw >= -0.5) & (raw <= truth["size"] - 0.5)).all(axis=1)
            pixels = project_view(vertices[shown], world_from_mm, c2w[i], fxfycxcy[i])
            away = cv2.distanceTransform((image[i, ..., 3] == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            cols, rows = np.clip(pixels.astype(int), 0, 511).T
            worst.append((away[rows, cols] <= 1).mean())
    assert min(worst) >= 0.99, f"{min(worst):.4f}"


def test_no_sample_is_clipped_and_hardly_a_frame_is_lost(demo_run):
    samples, _ = read_all(demo_run)
    for image, *_ in samples:
        alpha = image[..., 3]
        assert not np.concatenate([alpha[:, [0, -1]].ravel(), alpha[:, :, [0, -1]].ravel()]).any()
    summary = json.loads((demo_run.folder / "summary.json").read_text())
    gaps = sum(count for reason, count in summary["rejected"]["by_reason"].items() if "gap" in reason)
    assert (summary["accepted"] + gaps) / summary["candidates"] >= 0.95


def test_colours_outside_the_silhouette_are_white_and_none_bleed_into_its_edge(demo_run):
    samples, _ = read_all(demo_run)
    image, *_, frame = samples[0]
    assert (image[image[..., 3] == 0][:, :3] == 255).all()
    # The demo's floor is white: an edge blended with it would be brighter than the outermost pixels of the raw mouse.
    for path in demo_run.folder.glob("center/*/*.h5"):
        with h5py.File(path) as file:
            for row in np.flatnonzero(file["frame"][()] == frame):
                stored = zip(file["crop_zstd"][row], file["window"][row, :, 2:], strict=True)
                crops = [decode_crop(data, size, "") for data, size in stored]
    masks = [(crop[..., 3] > 0).astype(np.uint8) for crop in crops]
    rims = [m - cv2.erode(m, np.ones((3, 3), np.uint8)) for m in masks]
    rim = np.concatenate([crop[r > 0][:, :3] for crop, r in zip(crops, rims, strict=True)]).mean()
    edge = image[(image[..., 3] > 20) & (image[..., 3] < 200)][:, :3].mean()
    assert edge < rim + 30


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


def test_tar_and_hdf5_hold_the_same_samples_and_webdataset_reads_them(demo_run):
    path = next(p for p in demo_run.shards if "train" in p.parts)
    with h5py.File(path) as file:
        images, keys, c2w = file["image"][()], [k.decode() for k in file["key"][()]], file["c2w"][()]
    dataset = webdataset.WebDataset(str(path.with_suffix(".tar")), shardshuffle=False, empty_check=False)
    entries = list(dataset)
    assert [e["__key__"] for e in entries] == keys
    for entry, image, pose in zip(entries, images, c2w, strict=True):
        meta = json.loads(entry["json"])
        for v in range(6):
            png = cv2.imdecode(np.frombuffer(entry[f"cam{v}.png"], np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(png[..., [2, 1, 0, 3]], image[v])
            frame = meta["frames"][v]
            np.testing.assert_allclose(np.linalg.inv(frame["w2c"]), pose[v], atol=1e-12)
            assert frame["w"] == frame["h"] == 512
            assert frame["file_path"] == f"{entry['__key__']}.cam{v}.png"


@pytest.mark.parametrize(
    "codecs", [{}, {"tar_codec": "webp", "tar_level": 0, "h5_codec": "blosc-lz4"}, {"tar_codec": "qoi"}]
)
def test_the_same_input_gives_the_same_bytes_on_any_number_of_threads_and_in_any_order_of_jobs(
    demo_run, tmp_path, codecs
):
    chunks = sorted((demo_run.folder / "center" / demo_run.capture.name).glob("*.h5"))
    assert len(chunks) > 1
    manifests = []
    for threads, jobs in ((1, chunks), (4, chunks[::-1])):
        folder = tmp_path / str(threads)
        for path in jobs:
            stem = f"{demo_run.capture.name}-{path.stem}"
            outputs = {s: (folder / s / f"{stem}.tar", folder / s / f"{stem}.h5") for s in SPLITS}
            inputs = [demo_run.folder / name for name in ("samples.tsv", "cameras.h5", "rig.json")]
            settings = Shard.model_validate(codecs)
            shard(inputs[0], path, *inputs[1:], int(path.stem), outputs, settings, threads)
        files = list(folder.glob("*/*.h5"))
        write_manifest(files if threads > 1 else files[::-1], folder / "manifest.json", threads=threads)
        manifests.append((folder / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    if not codecs:
        assert (
            json.loads(manifests[0])["shards"]
            == json.loads((demo_run.folder / "shard" / "manifest.json").read_bytes())["shards"]
        )


def synthetic_camera(dist=(), width=640, height=480):
    K = np.array([[800.0, 0, 330], [0, 810, 250], [0, 0, 1]])
    R = look_at(np.array([300.0, 0, 100]), np.zeros(3))
    return Camera("c", width, height, K, pad_distortion(dist), R, -R @ [300.0, 0, 100])


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


LENSES = {
    "none": (),
    "barrel": (-0.2, 0.05, 0.001, -0.001),
    "folding": (-0.35, 0.1, 0, 0, 0),
    "folding sooner": (-0.35, 0.1, 0, 0, -2.7),
    "rational": (0.3, -0.05, 0, 0, 0.01, 0.5, 0.02, 0.001),
    "fisheye": (0.02, -0.01, 0.003, 0.0),
}


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


def test_a_frame_missing_from_the_centred_chunk_is_named(dotted, tmp_path):
    run = dotted[0]
    table = tmp_path / "samples.tsv"
    lines = (run.folder / "samples.tsv").read_text().splitlines()
    cells = lines[1].split("\t")
    cells[2] = "999"
    table.write_text("\n".join([lines[0], "\t".join(cells)]) + "\n")
    out = {s: (tmp_path / f"{s}.tar", tmp_path / f"{s}.h5") for s in ("train", "val", "test")}
    chunk = run.folder / "center" / run.capture.name / "0000.h5"
    with pytest.raises(UserError, match="frame 999"):
        shard(table, chunk, run.folder / "cameras.h5", run.folder / "rig.json", 0, out, Shard())
    assert not list(tmp_path.glob("*.tar"))
    assert not list(tmp_path.glob(".*partial*"))


def test_a_damaged_crop_is_named(dotted, tmp_path):
    run = dotted[0]
    chunk = tmp_path / "0000.h5"
    chunk.write_bytes((run.folder / "center" / run.capture.name / "0000.h5").read_bytes())
    with h5py.File(chunk, "r+") as file:
        file["crop_zstd"][1, 2] = np.arange(50, dtype=np.uint8)
    out = {s: (tmp_path / f"{s}.tar", tmp_path / f"{s}.h5") for s in ("train", "val", "test")}
    with pytest.raises(UserError, match=r"0000\.h5, frame 1, camera 3: damaged crop"):
        shard(run.folder / "samples.tsv", chunk, run.folder / "cameras.h5", run.folder / "rig.json", 0, out, Shard())
    assert not list(tmp_path.glob("*.tar"))
