import json

import cv2
import h5py
import numpy as np
import pytest
import webdataset

from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.config.config import Config
from mousefacelift.config.sample import SPLITS
from mousefacelift.config.shard import Shard
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.rigs.registry import write_rig
from mousefacelift.shards.images import decode_crop
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.stages.shard import shard
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
                # As many raw pixels around it, whatever the zoom.
                reach = max(9, round(9 * fxfycxcy[i, 0] / 600))
                x0, y0 = (near - reach).astype(int)
                patch = difference[y0 : y0 + 2 * reach + 1, x0 : x0 + 2 * reach + 1]
                rows, cols = np.indices(patch.shape) + 0.5
                assert patch.sum() > 255, "the dot is not there"
                found = np.array([x0 + (patch * cols).sum() / patch.sum(), y0 + (patch * rows).sum() / patch.sum()])
                yield point, found, near, frame, int(name) - 1


FRAMINGS = {
    "exact": {},
    "focal": {"distance": "focal"},
    "body": {"fit": "body"},
    "zoom per sample": {"scale": "sample"},
    "body, zoom per sample": {"fit": "body", "scale": "sample", "distance": "focal"},
}


@pytest.mark.parametrize("policy", FRAMINGS)
def test_a_dot_at_a_known_point_is_found_where_the_shards_camera_projects_it(dotted, tmp_path, policy):
    plain, painted, points = dotted
    if FRAMINGS[policy]:
        config = Config.model_validate({"normalize": {"zoom": "fit"} | FRAMINGS[policy], "sample": {"gap_s": 0}})
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


def test_files_that_do_not_belong_together_are_named_and_nothing_is_written(dotted, demo_run, tmp_path):
    run, other = dotted[0].folder, demo_run.folder
    out = {s: (tmp_path / f"{s}.tar", tmp_path / f"{s}.h5") for s in ("train", "val", "test")}
    table, poses, rig = run / "samples.tsv", run / "cameras.h5", run / "rig.json"
    chunk, other_chunk = run / "center" / "short" / "0000.h5", other / "center" / "rodent-a" / "0000.h5"
    write_rig(rig_from_json(rig)[::-1], tmp_path / "rig.json", "opencv-json")
    for files, number, message in (
        ((table, chunk, poses, rig), 1, r"0000\.h5: is chunk 0 of capture short, not chunk 1"),
        ((table, other_chunk, poses, rig), 0, r"0000\.h5: is of capture rodent-a, not of short"),
        (
            (other / "samples.tsv", chunk, poses, rig),
            0,
            r"samples\.tsv: is of capture rodent-a, but .*cameras\.h5 of sh",
        ),
        (
            (table, chunk, poses, tmp_path / "rig.json"),
            0,
            r"cameras\.h5: has cameras 1, 2, .*, but .*rig\.json has 6, 5",
        ),
    ):
        with pytest.raises(UserError, match=message):
            shard(*files, number, out, Shard())
    assert [path.name for path in tmp_path.iterdir()] == ["rig.json"]


@pytest.fixture(scope="module")
def body_run(demo_run, tmp_path_factory):
    """The demo with bodies that fill the views, so that tails leave them."""
    config = Config.model_validate(
        {"normalize": {"zoom": "fit", "fit": "body", "scale": "sample"}, "sample": {"gap_s": 0.4}}
    )
    return run_from_normalize(demo_run, tmp_path_factory.mktemp("body"), config)


def with_unknown(run):
    """Of every sample: the true vertices in each view, px [V, K, 2], alpha [V, S, S] and unknown [V, S, S]."""
    vertices = ground_truth()["vertices"].astype(np.float64)
    for path in run.shards:
        with h5py.File(path) as file:
            for i, frame in enumerate(file["frame"]):
                seen = [
                    project_view(vertices[frame], file["world_from_mm"][i], c2w, k)
                    for c2w, k in zip(file["c2w"][i], file["fxfycxcy"][i], strict=True)
                ]
                unknown = file["unknown"][i] > 0 if "unknown" in file else np.zeros(file["image"].shape[1:4], bool)
                yield np.array(seen), file["image"][i, ..., 3], unknown


def test_what_leaves_one_picture_is_unknown_in_all_and_hardly_more(body_run):
    """By the true mesh: its vertices beyond some view's picture are at unknown pixels of the others, or hidden by none."""
    lost_pixels, known_pixels, too_many, silhouettes = [], [], 0, 0
    for seen, alpha, unknown in with_unknown(body_run):
        size = alpha.shape[-1]
        inside = ((seen >= 0) & (seen <= size)).all(axis=-1)
        lost = ~inside.all(axis=0)
        for v in range(len(seen)):
            column, row = np.clip(np.floor(seen[v]).astype(int), 0, size - 1).T
            shown = inside[v] & (alpha[v, row, column] > 127)
            lost_pixels.append(unknown[v, row, column][shown & lost])
            known_pixels.append(unknown[v, row, column][shown & ~lost])
            # Unknown inside the silhouette is what is near a lost vertex: vertices on the tail are some mm apart.
            near = np.ones((size, size), np.uint8)
            near[row[lost], column[lost]] = 0
            distance = cv2.distanceTransform(near, cv2.DIST_L2, 5)
            too_many += (unknown[v] & (alpha[v] > 127) & (distance > size / 12)).sum() if lost.any() else 0
            silhouettes += (alpha[v] > 127).sum()
    lost_pixels, known_pixels = np.concatenate(lost_pixels), np.concatenate(known_pixels)
    print(
        f"{len(lost_pixels)} lost vertices, {100 * lost_pixels.mean():.1f} % at unknown pixels; of the {len(known_pixels)} others "
        f"{100 * known_pixels.mean():.1f} %; {100 * too_many / silhouettes:.2f} % of the silhouettes unknown far from lost vertices"
    )
    assert len(lost_pixels) > 500
    assert lost_pixels.mean() > 0.995
    assert known_pixels.mean() < 0.03
    assert too_many < 0.005 * silhouettes


def test_background_that_was_filmed_is_known(body_run):
    """Unknown pixels lie on silhouettes, or beyond a raw frame whose edge cuts the mouse."""
    for _, alpha, unknown in with_unknown(body_run):
        for silhouette, mask in zip(alpha, unknown, strict=True):
            beyond = mask & (cv2.dilate((silhouette > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
            # A frame's edge is nearly straight: what is beyond it reaches the picture's edge.
            _, labels = cv2.connectedComponents(beyond.astype(np.uint8))
            edge = np.zeros_like(beyond)
            edge[[0, -1]] = edge[:, [0, -1]] = True
            assert set(np.unique(labels[beyond])) <= set(np.unique(labels[edge & beyond]))


def test_a_sample_whose_views_hold_the_whole_mouse_has_no_unknown_pixels(demo_run):
    clipped = {}
    for path in sorted((demo_run.folder / "center" / demo_run.capture.name).glob("*.h5")):
        with h5py.File(path) as file:
            clipped |= dict(
                zip(file["frame"][()].tolist(), ((file["flags"][()] & Flag.CLIPPED) > 0).any(axis=1), strict=True)
            )
    checked = 0
    for path in demo_run.shards:
        with h5py.File(path) as file:
            for i, frame in enumerate(file["frame"][()].tolist()):
                if not clipped[frame]:
                    assert "unknown" not in file or not file["unknown"][i].any()
                    checked += 1
    assert checked > 10
