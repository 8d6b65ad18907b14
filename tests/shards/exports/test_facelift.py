"""FaceLift's folders hold the shards' pixels and cameras, as FaceLift reads them."""

import json

import numpy as np
import PIL.Image
import pytest

from mousefacelift.comparison.sets import read_cameras
from mousefacelift.config.shard import Shard
from mousefacelift.shards.exports.facelift import export_facelift
from mousefacelift.shards.exports.transforms import export_transforms
from support.facelift import stored
from support.small import VIEWS, unknown_corner, write_small


def read_as_facelift_does(folder, split):
    """FaceLift's layout as docs describe it and its loader opens it, with json and PIL alone: [(content, c2w, views)]."""
    samples = []
    for line in (folder / f"data_{split}.txt").read_text().strip().split("\n"):
        with open(f"{line.strip()}/opencv_cameras.json") as file:  # noqa: PTH123
            content = json.load(file)
        views = []
        for frame in content["frames"]:
            assert {"w", "h", "fx", "fy", "cx", "cy", "w2c", "file_path"} <= set(frame)
            image = PIL.Image.open(f"{line.strip()}/{frame['file_path']}")
            assert image.mode == "RGBA"
            assert image.size == (frame["w"], frame["h"])
            views.append(np.asarray(image))
        samples.append((content, np.array([frame["w2c"] for frame in content["frames"]]), views))
    return samples


def test_a_reader_written_from_facelifts_format_alone_sees_the_mouse_where_the_cameras_say(exported, demo_run):
    split = max(("train", "val", "test"), key=lambda name: len(list(exported.glob(f"{name}/*"))))
    samples = read_as_facelift_does(exported, split)
    assert len(samples) == len(list((exported / split).iterdir())) > 5
    for content, w2c, views in samples:
        R = w2c[:, :3, :3]
        np.testing.assert_allclose(np.swapaxes(R, 1, 2) @ R, np.tile(np.eye(3), (6, 1, 1)), atol=1e-9)
        assert (np.linalg.det(R) > 0).all()
        np.testing.assert_array_equal(w2c[:, 3], np.tile([0, 0, 0, 1], (6, 1)))
        # The mouse's centre, in the lab's millimetres, is the world's origin.
        center_mm = np.linalg.inv(content["world_from_mm"])[:, 3]
        origin = np.array(content["world_from_mm"]) @ center_mm
        np.testing.assert_allclose(origin, [0, 0, 0, 1], atol=1e-12)
        for frame, pose, view in zip(content["frames"], w2c, views, strict=True):
            x, y, z = (pose @ origin)[:3]
            column, row = frame["fx"] * x / z + frame["cx"] - 0.5, frame["fy"] * y / z + frame["cy"] - 0.5
            rows, columns = np.nonzero(view[..., 3])
            assert rows.min() <= row <= rows.max()
            assert columns.min() <= column <= columns.max()
            # The ray through that pixel, as FaceLift casts it, leads to the origin.
            ray = np.array([(column + 0.5 - frame["cx"]) / frame["fx"], (row + 0.5 - frame["cy"]) / frame["fy"], 1])
            ray, center = pose[:3, :3].T @ ray, -pose[:3, :3].T @ pose[:3, 3]
            np.testing.assert_allclose(np.cross(ray, -center), 0, atol=1e-9)


def test_a_sample_of_an_export_has_all_that_the_shard_tells_of_it(exported, demo_run):
    shards = stored(demo_run.folder / "shard" / "manifest.json")
    for (split, key), (*_, meta) in shards.items():
        content = json.loads((exported / split / key / "opencv_cameras.json").read_text())
        for frame, original in zip(content.pop("frames"), meta.pop("frames"), strict=True):
            frame.pop("mask_path", None)  # where pixels are unknown, which the shard's JSON does not say
            assert frame | {"file_path": ""} == original | {"file_path": ""}
        assert content == meta


@pytest.mark.parametrize("codec", ["png", "webp", "qoi"])
def test_an_export_is_the_same_whatever_the_shards_codec_and_the_number_of_threads(tmp_path, codec):
    plain = write_small(tmp_path / "png", {"a": {"train": 3}})
    other = write_small(tmp_path / "other", {"a": {"train": 3}}, Shard(tar_codec=codec))
    for path, name, threads in ((plain, "x", 1), (other, "y", 3)):
        export_facelift(path, tmp_path / name, threads=threads)
    files = sorted(path.relative_to(tmp_path / "x") for path in (tmp_path / "x").rglob("*") if path.is_file())
    assert len(files) == 1 + 3 * (VIEWS + 1)
    for file in files:
        a, b = ((tmp_path / name / file).read_bytes() for name in ("x", "y"))
        assert a.replace(str(tmp_path / "x").encode(), str(tmp_path / "y").encode()) == b


def test_compare_cameras_reads_an_exported_split(small, facelift):
    found = read_cameras(str(facelift / "train"))
    expected = [sample[1] for (split, _), sample in stored(small).items() if split == "train"]
    np.testing.assert_allclose(found.c2w, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("export", [export_facelift, export_transforms])
def test_the_unknown_pixels_of_a_sample_are_0_in_the_masks_that_its_frames_name(tmp_path, export):
    manifest = write_small(tmp_path / "small", {"a": {"train": 3}}, unknown=unknown_corner)
    export(manifest, tmp_path / "export")
    for n in range(3):
        folder = tmp_path / f"export/train/a-train-{n:06d}"
        frames = json.loads(next(folder.glob("*.json")).read_text())["frames"]
        if unknown_corner(n) is None:
            assert not any("mask_path" in frame for frame in frames) and not (folder / "masks").exists()
            continue
        for frame, unknown in zip(frames, unknown_corner(n), strict=True):
            mask = np.asarray(PIL.Image.open(folder / frame["mask_path"]))
            np.testing.assert_array_equal(mask, np.where(unknown, 0, 255))
