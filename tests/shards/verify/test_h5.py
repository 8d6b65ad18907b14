"""What is wrong in an HDF5 file is found and named with its sample."""

import json
import random

import numpy as np
import pytest

from mousefacelift.shards.checksums import checksum
from support.damage import H5, KEYS, TAR, chunk, flip, in_h5, offset, refused


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_an_image_of_an_hdf5_file_names_its_sample(shards, problems, seed):
    place = random.Random(seed)
    row = place.randrange(3)
    stored = chunk(shards.parent / H5, row)
    flip(shards.parent / H5, stored.byte_offset + place.randrange(stored.size), place.randrange(8))
    (problem,) = problems(shards)
    assert (problem.shard, problem.sample) == (H5, KEYS[row])
    assert problem.text.startswith("image cannot be read")
    assert str(problem) in refused(shards, "h5")


@pytest.mark.parametrize(
    ("name", "byte", "text"),
    [
        ("c2w", 6, f"c2w differs from {TAR}"),
        ("c2w", 128 + 3, f"c2w differs from {TAR}"),
        ("fxfycxcy", 5, f"fxfycxcy differs from {TAR}"),
        ("world_from_mm", 6, f"world_from_mm differs from {TAR}"),
        ("frame", 0, f"frame differs from {TAR}"),
    ],
)
def test_a_flipped_bit_in_the_numbers_of_an_hdf5_file_names_its_sample(shards, problems, name, byte, text):
    flip(shards.parent / H5, offset(shards.parent / H5, name, 1, byte), 1)
    found = problems(shards)
    assert {(p.shard, p.sample) for p in found} == {(H5, KEYS[1])}
    assert text in [p.text for p in found]
    assert {str(p) for p in found} <= set(refused(shards, "h5"))


def test_a_flipped_bit_in_a_key_of_an_hdf5_file_names_its_sample(shards, problems):
    content = (shards.parent / H5).read_bytes()
    flip(shards.parent / H5, content.index(KEYS[1].encode()) + len(KEYS[1]) - 1, 3)
    found = problems(shards)
    assert {p.shard for p in found} == {H5}
    assert (KEYS[1], "is called 'ball-train-000009' here") in [(p.sample, p.text) for p in found]
    assert {str(p) for p in found} <= set(refused(shards, "h5"))


def replaced(name, change):
    def edit(file):
        values = change(file[name][()])
        del file[name]
        file[name] = values

    return edit


def black(file):
    file["image"][1, 2, 0, 0] = 0


def mirrored(file):
    file["c2w"][1] = file["c2w"][1] * [1, -1, 1, 1]


@pytest.mark.parametrize(
    ("edit", "sample", "text"),
    [
        (black, KEYS[1], "cam2: 1 of 4096 pixels are not white although alpha is 0"),
        (mirrored, KEYS[1], "the camera of view 0 is not a rigid pose"),
        (lambda f: f["world_from_mm"].__setitem__((1, 0, 0), np.nan), KEYS[1], "world_from_mm is not finite"),
        (lambda f: f.__delitem__("c2w"), None, "c2w cannot be read"),
        (lambda f: f.__delitem__("world_from_mm"), KEYS[0], f"world_from_mm is in only one of this file and {H5}"),
        (replaced("fxfycxcy", lambda x: x[:, :3]), None, r"fxfycxcy has shape (3, 3, 4), the manifest says (3, 6, 4)"),
        (replaced("c2w", lambda x: x.astype(np.float32)), None, "c2w is of type float32, expected float64"),
        (replaced("frame", lambda x: x.astype(np.int32)), None, "frame is of type int32, expected int64"),
        (replaced("key", lambda x: np.arange(3)), None, "key is of type int64, expected text"),
    ],
)
def test_what_is_wrong_in_an_hdf5_file_with_right_checksums_is_named(shards, problems, edit, sample, text):
    in_h5(shards.parent / H5, edit)
    # Not list_shards, which needs the datasets to be there.
    values = json.loads(shards.read_text())
    entry = values["shards"][0]
    old = entry["bytes"]["h5"]
    entry["bytes"]["h5"], entry["sha256"]["h5"] = (shards.parent / H5).stat().st_size, checksum(shards.parent / H5)
    values["bytes"]["h5"] += entry["bytes"]["h5"] - old
    shards.write_text(json.dumps(values))
    found = problems(shards)
    assert {p.shard for p in found} <= {TAR, H5}
    assert any(p.sample == sample and p.text.startswith(text) for p in found), found
