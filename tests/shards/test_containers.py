"""What a tar and an HDF5 file hold of unknown pixels, and that files without any are as they were."""

import io
import shutil
import tarfile

import cv2
import h5py
import hdf5plugin  # noqa: F401 - importing it is what lets HDF5 read its codecs
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.shards.containers import tar_samples
from mousefacelift.shards.images import encode_masks
from mousefacelift.shards.manifest import read_manifest, write_manifest
from mousefacelift.shards.verify.shard import check_shard
from support.small import SIZE, VIEWS, unknown_corner, write_small

SAMPLES = {"a": {"train": 4}}


@pytest.fixture
def shards(tmp_path):
    return write_small(tmp_path, SAMPLES, unknown=unknown_corner)


def problems(manifest):
    """What verification finds, but for what the JSON of these small shards lacks."""
    data = read_manifest(manifest)
    found = [check_shard(data.folder, entry, SIZE, VIEWS) for entry in data.shards]
    return [str(problem) for each in found for problem in each if "JSON lacks" not in problem.text]


def rewrite(tar, change):
    """Write a tar anew with changed members: change(name, content) -> content, or None to leave it out."""
    with tarfile.open(tar) as file:
        members = [(info.name, file.extractfile(info).read()) for info in file]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for name, content in members:
            content = change(name, content)
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    write_manifest([tar.with_suffix(".h5")], tar.parent.parent / "manifest.json", needed=())


def test_both_containers_hold_the_unknown_pixels_and_pass_verification(shards):
    with (shards.parent / "train/a-0000.tar").open("rb") as stream:
        samples = list(tar_samples(stream, "", VIEWS))
    with h5py.File(shards.parent / "train/a-0000.h5") as file:
        stored = file["unknown"][()]
    assert set(np.unique(stored)) == {0, 255}
    for n, sample in enumerate(samples):
        expected, found = unknown_corner(n), sample.unknown_pixels("")
        np.testing.assert_array_equal(stored[n] > 0, np.zeros_like(stored[n], bool) if expected is None else expected)
        assert (found is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(found, expected)
    assert problems(shards) == []


def test_shards_whose_pixels_are_all_known_are_as_before_byte_for_byte(tmp_path):
    plain = write_small(tmp_path / "plain", SAMPLES).parent
    known = write_small(tmp_path / "known", SAMPLES, unknown=lambda n: np.zeros((VIEWS, SIZE, SIZE), bool)).parent
    for name in ("train/a-0000.tar", "train/a-0000.h5", "manifest.json"):
        assert (plain / name).read_bytes() == (known / name).read_bytes()
    with h5py.File(plain / "train/a-0000.h5") as file:
        assert "unknown" not in file


def test_containers_that_disagree_on_what_is_known_are_named(shards):
    tar = shards.parent / "train/a-0000.tar"
    other = unknown_corner(1) | unknown_corner(1).transpose(0, 2, 1)
    rewrite(tar, lambda name, content: encode_masks(other) if name == "a-train-000001.unknown.png" else content)
    (problem,) = problems(shards)
    assert "a-train-000001" in problem and "unknown pixels differ" in problem
    rewrite(tar, lambda name, content: None if name == "a-train-000001.unknown.png" else content)
    (problem,) = problems(shards)
    assert "a-train-000001" in problem and "unknown pixels differ" in problem


def test_masks_that_are_no_masks_are_named(shards):
    grey = cv2.imencode(".png", np.full((VIEWS * SIZE, SIZE), 7, np.uint8))[1].tobytes()
    small = encode_masks(np.ones((VIEWS, 16, 16), bool))
    for content, text in ((grey, "values other than 0 and 255"), (small, "16x16"), (b"none", "damaged PNG")):
        rewrite(
            shards.parent / "train/a-0000.tar",
            lambda name, old, new=content: new if name == "a-train-000003.unknown.png" else old,
        )
        (problem,) = problems(shards)
        assert "a-train-000003" in problem and text in problem


def test_a_value_that_is_neither_known_nor_unknown_is_named(shards):
    h5 = shards.parent / "train/a-0000.h5"
    with h5py.File(h5, "r+") as file:
        mask = file["unknown"][1]
        mask[0, 0, 0] = 9
        file["unknown"][1] = mask
    write_manifest([h5], shards, needed=())
    assert any("unknown has values other than 0 and 255" in problem for problem in problems(shards))


def test_a_mask_after_its_samples_json_belongs_to_no_sample(shards):
    tar = shards.parent / "train/a-0000.tar"
    with tarfile.open(tar) as file:
        members = [(info, file.extractfile(info).read()) for info in file]
    members.sort(key=lambda member: (member[0].name.partition(".")[0], "unknown" in member[0].name))
    moved = shutil.copy(tar, tar.with_name("moved.tar"))
    with tarfile.open(moved, "w", format=tarfile.USTAR_FORMAT) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    with moved.open("rb") as stream, pytest.raises(UserError, match="a-train-000001"):
        list(tar_samples(stream, "", VIEWS))
