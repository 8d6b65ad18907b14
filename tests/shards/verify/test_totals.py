"""What concerns all shards: totals, keys in two of them, files that are not listed."""

import json
import shutil

import pytest

from support.balls import list_shards
from support.damage import (
    H5,
    KEYS,
    OTHER,
    TAR,
)


@pytest.mark.parametrize(
    "name",
    ["train/ball-0009.tar", "train/ball-0009.h5", "train/notes.txt", "old/ball-0000.h5", "train/.b.7.partial.h5"],
)
def test_a_file_that_the_manifest_does_not_list_is_named(shards, problems, name):
    (shards.parent / name).parent.mkdir(exist_ok=True)
    (shards.parent / name).touch()
    (problem,) = problems(shards)
    assert str(problem) == f"{name}: the manifest does not list this file, which another run left behind; delete it"


def test_a_sample_in_two_splits_is_named(shards, problems):
    for kind in ("tar", "h5"):
        shutil.copy(shards.parent / f"train/ball-0001.{kind}", shards.parent / f"val/ball-0001.{kind}")
    list_shards(shards)
    found = [str(p) for p in problems(shards)]
    assert f"val/ball-0001.h5, sample {OTHER}: is also in train/ball-0001.h5, of split train" in found
    assert f"val/ball-0001.tar, sample {OTHER}: JSON says split 'train', expected 'val'" in found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m["samples"].update(train=6), "samples is {'train': 6, 'val': 1, 'test': 0}, the shards' sum is"),
        (lambda m: m["bytes"].update(tar=6), "bytes is {'tar': 6"),
        (lambda m: m["captures"][0].update(samples=7), "captures are {'ball': 7}, the shards have {'ball': 6}"),
        (lambda m: m.pop("captures"), "captures are"),
        (lambda m: m.update(config={"center": {}}), "config_sha256 is not the hash of config"),
    ],
)
def test_totals_that_are_not_the_shards_are_named(shards, problems, change, text):
    values = json.loads(shards.read_text())
    change(values)
    shards.write_text(json.dumps(values))
    (problem,) = problems(shards)
    assert str(problem).startswith(f"manifest.json: {text}")


def test_a_manifest_that_lists_another_end_or_number_is_named(shards, problems):
    values = json.loads(shards.read_text())
    values["shards"][0].update(last="ball-train-000007", samples=4)
    values["samples"]["train"] += 1
    values["captures"][0]["samples"] += 1
    shards.write_text(json.dumps(values))
    found = [(p.shard, p.sample, p.text) for p in problems(shards)]
    assert (TAR, KEYS[2], "is the last sample, the manifest says ball-train-000007") in found
    assert (TAR, None, "has 3 samples, the manifest says 4") in found
    assert (H5, None, "image has shape (3, 6, 64, 64, 4), the manifest says (4, 6, 64, 64, 4)") in found
