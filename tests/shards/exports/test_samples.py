"""Exports are complete or absent, and made of whole shards."""

import json
import shutil

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.shards.exports.facelift import export_facelift
from mousefacelift.shards.exports.transforms import export_transforms
from support.small import write_small


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
