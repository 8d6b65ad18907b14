import json
import shutil
import tarfile
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from mousefacelift.base.errors import UserError
from mousefacelift.cli import app
from mousefacelift.comparison.sets import read_cameras
from mousefacelift.config.sample import SplitFractions
from mousefacelift.config.shard import Shard
from mousefacelift.rigs.containers.documents import open_document
from mousefacelift.rigs.formats import transforms
from mousefacelift.shards.exports.facelift import export_facelift, export_transforms, import_facelift
from support.small import SIZE, VIEWS, write_small


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two captures with cameras of other names; read only."""
    samples = {"a": {"train": 3, "val": 1, "test": 1}, "b": {"train": 2, "val": 0, "test": 0}}
    return write_small(tmp_path_factory.mktemp("small"), samples)


@pytest.fixture(scope="module")
def exported(demo_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "facelift"
    export_facelift(demo_run.folder / "shard" / "manifest.json", folder, threads=2)
    return folder


@pytest.fixture
def facelift(small, tmp_path):
    """FaceLift's folders of the small shards, to be changed by a test."""
    export_facelift(small, tmp_path / "facelift")
    return tmp_path / "facelift"


def stored(manifest_path):
    """All samples of shards: (split, key) -> image, c2w, fxfycxcy, world_from_mm, frame, names of the views, JSON."""
    samples = {}
    for entry in json.loads(manifest_path.read_text())["shards"]:
        with (
            h5py.File(manifest_path.parent / entry["h5"]) as file,
            tarfile.open(manifest_path.parent / entry["tar"]) as tar,
        ):
            for n, key in enumerate(file["key"].asstr()[()]):
                arrays = (file[name][n] for name in ("image", "c2w", "fxfycxcy", "world_from_mm", "frame"))
                meta = json.loads(tar.extractfile(f"{key}.json").read())
                samples[entry["split"], key] = (*arrays, list(file.attrs["views"]), meta)
    return samples


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
            assert frame | {"file_path": ""} == original | {"file_path": ""}
        assert content == meta


def test_pixels_and_cameras_come_back_from_an_export_to_the_last_bit(exported, demo_run, tmp_path):
    import_facelift(exported, tmp_path / "back", demo_run.config.shard, name=demo_run.capture.name, threads=2)
    before, after = stored(demo_run.folder / "shard" / "manifest.json"), stored(tmp_path / "back" / "manifest.json")
    assert set(before) == set(after)
    for sample, (image, c2w, fxfycxcy, world_from_mm, frame, views, meta) in before.items():
        np.testing.assert_array_equal(after[sample][0], image)
        np.testing.assert_allclose(after[sample][1], c2w, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(after[sample][2], fxfycxcy)
        np.testing.assert_array_equal(after[sample][3], world_from_mm)
        assert after[sample][4:] == (frame, views, meta)


def test_an_imported_data_set_is_one_to_train_on(small, facelift, tmp_path):
    from mousefacelift.shards.manifest import read_manifest
    from mousefacelift.training.data import Samples

    import_facelift(facelift, tmp_path / "back", Shard(tar_codec="qoi", h5_codec="gzip"))
    for split in ("train", "val", "test"):
        before, after = (
            Samples(read_manifest(path), split, SIZE, cache_gb=1)
            for path in (small, tmp_path / "back" / "manifest.json")
        )
        assert before.keys == after.keys
        for index in range(len(before)):
            for name in ("image", "alpha", "c2w", "fxfycxcy"):
                assert (before[index][name] == after[index][name]).all()


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


def test_cameras_read_back_from_transforms_json_are_the_shards(small, tmp_path):
    export_transforms(small, tmp_path / "scenes", ["train"])
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == ["train"]
    for (split, key), (image, c2w, fxfycxcy, *_, meta) in stored(small).items():
        if split != "train":
            continue
        path = tmp_path / "scenes" / split / key / "transforms.json"
        content = json.loads(path.read_text())
        assert content["camera_model"] == "OPENCV"
        assert content["world_from_mm"] == meta["world_from_mm"]
        cameras = transforms.read(open_document(path, ""), "", "", pixel_origin="corner")
        for v, (camera, frame) in enumerate(zip(cameras, content["frames"], strict=True)):
            np.testing.assert_allclose(camera.R, c2w[v, :3, :3].T, rtol=0, atol=1e-12)
            np.testing.assert_allclose(camera.center, c2w[v, :3, 3], rtol=0, atol=1e-12)
            np.testing.assert_array_equal(camera.K[[0, 1, 0, 1], [0, 1, 2, 2]], fxfycxcy[v])
            assert (camera.width, camera.height) == (SIZE, SIZE)
            np.testing.assert_array_equal(np.asarray(PIL.Image.open(path.parent / frame["file_path"])), image[v])
            # OpenGL: the camera looks along -z, with +y up.
            looks, up = -np.array(frame["transform_matrix"])[:3, 2], np.array(frame["transform_matrix"])[:3, 1]
            assert looks @ camera.center < 0 < up[2]


def test_compare_cameras_reads_an_exported_split(small, facelift):
    found = read_cameras(str(facelift / "train"))
    expected = [sample[1] for (split, _), sample in stored(small).items() if split == "train"]
    np.testing.assert_allclose(found.c2w, expected, rtol=0, atol=1e-12)


def test_a_folder_with_something_in_it_is_not_written_to(small, facelift, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for write in (
        lambda folder: export_facelift(small, folder),
        lambda folder: export_transforms(small, folder),
        lambda folder: import_facelift(facelift, folder, Shard()),
    ):
        for folder in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex", facelift):
            with pytest.raises(UserError, match=f"{folder}: already there, and not an empty folder"):
                write(folder)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    export_facelift(small, tmp_path / "empty")
    assert (tmp_path / "empty" / "data_train.txt").exists()


def test_an_export_that_fails_leaves_nothing_and_one_that_was_killed_is_cleared_away(small, tmp_path):
    shutil.copytree(small.parent, tmp_path / "shards")
    tar = tmp_path / "shards" / "test" / "a-0000.tar"
    tar.write_bytes(tar.read_bytes()[:-12000])
    killed = tmp_path / ".out.99999.partial" / "train"
    killed.mkdir(parents=True)
    (tmp_path / ".out.x.99999.partial").mkdir()
    with pytest.raises(UserError, match=r"test/a-0000\.tar"):
        export_facelift(tmp_path / "shards" / "manifest.json", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.x.99999.partial", "shards"]


def test_damaged_shards_are_named(small, tmp_path):
    def copied(name):
        shutil.copytree(small.parent, tmp_path / name)
        return tmp_path / name

    folder = copied("missing")
    (folder / "train" / "b-0000.tar").unlink()
    with pytest.raises(UserError, match=r"b-0000\.tar: no such file, but the manifest lists it"):
        export_facelift(folder / "manifest.json", tmp_path / "out")
    folder = copied("counted")
    shutil.copy(folder / "val" / "a-0000.tar", folder / "train" / "a-0000.tar")
    with pytest.raises(UserError, match=r"train/a-0000\.tar, sample a-val-000000: the file is val/a-0000\.tar"):
        export_facelift(folder / "manifest.json", tmp_path / "out")
    with pytest.raises(UserError, match=r"a-0000\.tar: sample a-val-000000 is also in .*train/a-0000\.tar"):
        values = json.loads((folder / "manifest.json").read_text())
        foreign = next(shard for shard in values["shards"] if shard["tar"] == "val/a-0000.tar")
        values["shards"][0] |= {name: foreign[name] for name in ("samples", "bytes", "sha256", "first", "last")}
        (folder / "manifest.json").write_text(json.dumps(values))
        export_facelift(folder / "manifest.json", tmp_path / "out")
    with pytest.raises(UserError, match="no sample is for val"):
        export_facelift(write_small(tmp_path / "train only", {"a": {"train": 1}}), tmp_path / "out", ["val"])
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not a shard manifest"):
        export_transforms(folder / "manifest.json", tmp_path / "out")


def sample_folder(facelift):
    return facelift / "train" / "a-train-000001"


def edited(facelift, change):
    """Changes one sample's JSON; returns its path."""
    path = sample_folder(facelift) / "opencv_cameras.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def repainted(facelift, change):
    """Changes the pixels [32, 32, 4] of a view of one sample; returns its path."""
    path = sample_folder(facelift) / "images" / "cam_001.png"
    PIL.Image.fromarray(change(np.array(PIL.Image.open(path)))).save(path)
    return path


def lines_of(facelift, change):
    path = facelift / "data_train.txt"
    path.write_text("\n".join(change(path.read_text().split())))
    return path


def turned(content):
    """The same sample in a Y-up world."""
    for frame in content["frames"]:
        frame["w2c"] = (np.array(frame["w2c"]) @ [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).tolist()


def mirrored(content):
    content["frames"][2]["w2c"] = (np.diag([-1, 1, 1, 1]) @ content["frames"][2]["w2c"]).tolist()


def set_in(index, **values):
    return lambda content: content["frames"][index].update(values)


def delete(path):
    path.unlink()
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])
    return path


MISTAKES = {
    "a missing image": (lambda f: delete(sample_folder(f) / "images" / "cam_002.png"), "no such image, but .*000001/opencv_cameras.json"),
    "a damaged image": (lambda f: truncated(sample_folder(f) / "images" / "cam_002.png"), "not a readable image"),
    "an image without alpha": (lambda f: repainted(f, lambda rgba: rgba[..., :3]), "silhouette is read from alpha, and is not guessed"),
    "alpha that says nothing": (lambda f: repainted(f, lambda rgba: rgba | np.uint8([0, 0, 0, 255])), "alpha is 255 everywhere"),
    "an image of another size": (lambda f: repainted(f, lambda rgba: rgba[:24, :24]), "24x24 px, but .* says 32x32"),
    "an image that is not square": (lambda f: edited(f, set_in(1, w=40)), "32x32, 40x32 px; they must be square"),
    "a size that is no multiple of 8": (
        lambda f: edited(f, lambda c: [frame.update(w=30, h=30) for frame in c["frames"]]), "30x30 px; .* a multiple of 8"),
    "another number of views": (lambda f: edited(f, lambda c: c["frames"].pop()), "2 views of 32 px, but .*000000/.* has 3 of 32"),
    "no views": (lambda f: edited(f, lambda c: c["frames"].clear()), "frames is empty"),
    "no path of an image": (lambda f: edited(f, lambda c: c["frames"][1].pop("file_path")), r"frames\[1\]: no field 'file_path'"),
    "the same id twice": (lambda f: edited(f, lambda c: c.update(id="a-train-000000")), "its id 'a-train-000000' is also that of"),
    "a camera in another up axis": (lambda f: edited(f, turned), "is not level with \\+Z up"),
    "a mirrored camera": (lambda f: edited(f, mirrored), "the camera of view 2 is not a rigid pose"),
    "a transposed camera": (
        lambda f: edited(f, lambda c: c["frames"][0].update(w2c=np.transpose(c["frames"][0]["w2c"]).tolist())), "it is transposed"),
    "a focal length of 0": (lambda f: edited(f, set_in(0, fx=0)), "focal length that is not positive"),
    "a camera that is not finite": (lambda f: edited(f, set_in(0, cx=float("nan"))), "NaN"),
    "a wrong similarity": (lambda f: edited(f, lambda c: c.update(world_from_mm=[1, 2])), "'world_from_mm' has shape"),
    "no JSON": (lambda f: truncated(sample_folder(f) / "opencv_cameras.json"), "JSON"),
    "a list with a missing sample": (lambda f: lines_of(f, lambda lines: [*lines, "/gone/x"]), "line 6: /gone/x/opencv_cameras.json: no such file"),
    "a list with a sample twice": (lambda f: lines_of(f, lambda lines: [*lines, lines[0]]), "line 6: .* stands in line 1 already"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_wrong_with_a_folder_is_said_with_the_files_name(facelift, tmp_path, mistake):
    change, message = MISTAKES[mistake]
    path = change(facelift)
    with pytest.raises(UserError, match=message) as error:
        import_facelift(facelift, tmp_path / "back", Shard())
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facelift"], "something was left behind"


def test_a_sample_in_two_lists_is_refused(facelift, tmp_path):
    first = (facelift / "data_train.txt").read_text().split()[0]
    with (facelift / "data_val.txt").open("a") as file:
        file.write(f"{first}\n")
    with pytest.raises(UserError, match=r"a-train-000000.*listed for train and for val"):
        import_facelift(facelift, tmp_path / "back", Shard())


def splits_of(folder):
    """The keys of each split's samples."""
    keys = {"train": [], "val": [], "test": []}
    for entry in json.loads((folder / "manifest.json").read_text())["shards"]:
        with h5py.File(folder / entry["h5"]) as file:
            keys[entry["split"]] += file["key"].asstr()[()].tolist()
    return keys


def test_lists_may_be_relative_name_the_json_and_be_called_otherwise(facelift, tmp_path):
    expected = ["a-train-000000", "a-train-000001", "a-train-000002"]
    for path in facelift.glob("data_*.txt"):
        path.unlink()
    (facelift / "data_mouse_train.txt").write_text(
        f"train/{expected[0]}\r\n\ntrain/{expected[1]}/opencv_cameras.json\n"
    )
    (facelift / "Validation.txt").write_text(f"./train/{expected[2]}\n")
    (facelift / "latest.txt").write_text("notes\n")
    import_facelift(facelift, tmp_path / "back", Shard())
    assert splits_of(tmp_path / "back") == {"train": expected[:2], "val": expected[2:], "test": []}
    with pytest.raises(UserError, match=r"data_mouse_train\.txt, Validation\.txt say which split"):
        import_facelift(facelift, tmp_path / "again", Shard(), SplitFractions())
    (facelift / "train.txt").write_text("")
    with pytest.raises(UserError, match=r"train\.txt: data_mouse_train\.txt is a list of train too"):
        import_facelift(facelift, tmp_path / "again", Shard())
    (facelift / "train.txt").rename(facelift / "train_val.txt")
    with pytest.raises(UserError, match=r"train_val\.txt: is this the list of train or of val"):
        import_facelift(facelift, tmp_path / "again", Shard())


def test_the_lists_of_a_data_set_that_was_moved_still_hold(small, facelift, tmp_path):
    facelift.rename(tmp_path / "moved")
    import_facelift(tmp_path / "moved", tmp_path / "back", Shard())
    assert set(stored(small)) == set(stored(tmp_path / "back" / "manifest.json"))


def test_without_lists_the_samples_are_divided_into_blocks_in_natural_order(facelift, tmp_path):
    for path in facelift.glob("data_*.txt"):
        path.unlink()
    source = sample_folder(facelift)
    for n in range(12):
        target = tmp_path / "theirs" / "session 1" / f"frame.{n}"
        shutil.copytree(source, target)
        content = json.loads((target / "opencv_cameras.json").read_text())
        theirs = {"frames": content["frames"]} | ({"id": "../up"} if n % 2 else {})
        (target / "opencv_cameras.json").write_text(json.dumps(theirs))
    shutil.copytree(source, tmp_path / "theirs" / ".half.1.partial" / "x")
    import_facelift(tmp_path / "theirs", tmp_path / "back", Shard(), SplitFractions(train=0.5, val=0.25, test=0.25))
    keys = [f"frame_{n}-{n:06d}" for n in range(12)]
    assert splits_of(tmp_path / "back") == {"train": keys[:6], "val": keys[6:9], "test": keys[9:]}
    with h5py.File(tmp_path / "back" / "train" / "theirs-0000.h5") as file:
        assert "world_from_mm" not in file
        assert list(file.attrs["views"]) == ["cam_000", "cam_001", "cam_002"]
        assert file["frame"][()].tolist() == list(range(6))


def test_what_is_under_transparent_pixels_becomes_white(facelift, tmp_path):
    def black(rgba):
        rgba[rgba[..., 3] == 0] = 0
        return rgba

    before = np.array(PIL.Image.open(sample_folder(facelift) / "images" / "cam_001.png"))
    repainted(facelift, black)
    import_facelift(facelift, tmp_path / "back", Shard())
    image = stored(tmp_path / "back" / "manifest.json")["train", "a-train-000001"][0][1]
    np.testing.assert_array_equal(image, before)


def test_shards_are_bounded_and_have_one_naming_of_the_views_each(facelift, tmp_path, monkeypatch):
    monkeypatch.setattr("mousefacelift.shards.exports.facelift.SAMPLES_PER_SHARD", 2)
    import_facelift(facelift, tmp_path / "back", Shard(), name="mice")
    shards = json.loads((tmp_path / "back" / "manifest.json").read_text())["shards"]
    names = [(shard["h5"], shard["samples"]) for shard in shards]
    assert names == [
        ("train/mice-0000.h5", 2), ("train/mice-0001.h5", 1), ("train/mice-0002.h5", 2), ("val/mice-0000.h5", 1), ("test/mice-0000.h5", 1),
    ]  # fmt: skip
    with h5py.File(tmp_path / "back" / "train" / "mice-0002.h5") as file:
        assert list(file.attrs["views"]) == ["b-0", "b-1", "b-2"]


def test_a_folder_without_samples_and_a_name_that_cannot_be_a_shards_are_refused(facelift, tmp_path):
    (tmp_path / "nothing").mkdir()
    for folder, message in ((tmp_path / "nothing", "no samples"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(UserError, match=f"{folder}: {message}"):
            import_facelift(folder, tmp_path / "back", Shard())
    with pytest.raises(UserError, match="'a/b' cannot be the name of shards"):
        import_facelift(facelift, tmp_path / "back", Shard(), name="a/b")


def test_the_command_line_writes_reads_and_shows_them(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, printed in (
        (
            ["export", str(small), "out", "--to", "facelift", "--split", "train", "--split", "val", "--threads", "2"],
            "out",
        ),
        (["export", str(small), "scenes", "--to", "transforms"], "scenes"),
        (["import", "out", "back", "--name", "mice"], "back/manifest.json"),
        (["show", "back/train/mice-0000.tar", "--samples", "2"], "contact sheet: contact-sheet.png"),
    ):
        result = CliRunner().invoke(app, words)
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, printed)
    assert {path.name for path in Path("out").iterdir()} == {"train", "val", "data_train.txt", "data_val.txt"}
    assert len(list(Path("scenes").glob("*/*/transforms.json"))) == 7
    assert Path("contact-sheet.png").exists()


def test_codecs_are_those_of_the_configuration_if_there_is_one(facelift, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text("shard: {tar_codec: webp, h5_codec: gzip}")
    Path("other.yaml").write_text("shard: {h5_codec: lzf}")
    for options, member, codec in (([], "webp", "gzip"), (["--config", "other.yaml"], "png", "lzf")):
        assert CliRunner().invoke(app, ["import", "facelift", codec, *options]).exit_code == 0
        with tarfile.open(f"{codec}/val/facelift-0000.tar") as tar:
            assert tar.getnames()[0] == f"a-val-000000.cam0.{member}"
        with h5py.File(f"{codec}/val/facelift-0000.h5") as file:
            assert file["image"].compression == codec
    for options, message in (
        (["--config", "gone.yaml"], "gone.yaml: no such configuration file"),
        (["--fractions", "0.5", "0.1", "0.1"], "--fractions: .*must be 1"),
        (["--fractions", "0.8", "0.1", "0.1"], "say which split a sample is of"),
    ):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(app, ["import", "facelift", "new", *options], catch_exceptions=False)
    assert not Path("new").exists()
