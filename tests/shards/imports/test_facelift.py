"""FaceLift's folders become shards to the last bit, and mistakes in them are named."""

import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from mousefacelift.base.errors import UserError
from mousefacelift.cli import app
from mousefacelift.config.shard import Shard
from mousefacelift.shards.exports.facelift import export_facelift
from mousefacelift.shards.imports.facelift import import_facelift
from support.facelift import sample_folder, stored
from support.small import SIZE, unknown_corner, write_small


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
    "a list with a sample twice": (lambda f: lines_of(f, lambda lines: [*lines, lines[0]]), "line 6: .* is already in line 1"),
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
    monkeypatch.setattr("mousefacelift.shards.imports.facelift.SAMPLES_PER_SHARD", 2)
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


def test_unknown_pixels_come_back_from_an_export(tmp_path):
    manifest = write_small(tmp_path / "small", {"a": {"train": 3}}, unknown=unknown_corner)
    export_facelift(manifest, tmp_path / "facelift")
    import_facelift(tmp_path / "facelift", tmp_path / "again", Shard(), name="a")
    before, after = (next(folder.glob("train/*.h5")) for folder in (tmp_path / "small", tmp_path / "again"))
    with h5py.File(before) as one, h5py.File(after) as other:
        assert one["unknown"][()].any()
        np.testing.assert_array_equal(one["unknown"][()], other["unknown"][()])
    assert before.with_suffix(".tar").read_bytes() == after.with_suffix(".tar").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "size", "no mask"])
def test_a_mask_of_unknown_pixels_that_cannot_be_used_is_named(tmp_path, damage):
    manifest = write_small(tmp_path / "small", {"a": {"train": 2}}, unknown=unknown_corner)
    export_facelift(manifest, tmp_path / "facelift")
    mask = tmp_path / "facelift/train/a-train-000001/masks/cam_001.png"
    if damage == "missing":
        mask.unlink()
    else:
        image = np.full((16, 16), 255, np.uint8) if damage == "size" else np.full((32, 32), 7, np.uint8)
        PIL.Image.fromarray(image).save(mask)
    with pytest.raises(UserError, match=r"cam_001\.png"):
        import_facelift(tmp_path / "facelift", tmp_path / "again", Shard(), name="a")
    assert not (tmp_path / "again").exists()
