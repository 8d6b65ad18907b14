"""All shards of a manifest, by the function and by the command line."""

import json
import subprocess
import sys

import pytest

from mousefacelift.config.shard import Shard
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.shards.verify.manifest import verify
from support.balls import write_shards
from support.damage import (
    H5,
    KEYS,
    TAR,
    chunk,
    flip,
    members,
)


def test_nothing_is_wrong_with_whole_shards_and_the_receipt_is_always_the_same(whole, call, tmp_path):
    assert verify(whole, 2) == []
    receipts = []
    for threads in (1, 3):
        status, out, _ = call("verify", whole, "--threads", threads, "--output", tmp_path / "receipt.json")
        assert status == 0
        assert ": 4 shards, 6 samples, " in out and "no problem found" in out
        receipts.append((tmp_path / "receipt.json").read_bytes())
    assert receipts[0] == receipts[1]
    receipt = json.loads(receipts[0])
    assert receipt["manifest_sha256"] == read_manifest(whole).sha256
    assert (receipt["shards"], receipt["samples"]) == (4, {"train": 5, "val": 1, "test": 0})
    refuse_damaged(read_manifest(whole), "h5", ("train", "val", "test"), 2)
    refuse_damaged(read_manifest(whole), "tar", ("train", "val", "test"), 2)


def test_nothing_is_wrong_with_the_shards_of_the_demo(demo_run):
    assert verify(demo_run.folder / "shard" / "manifest.json", 2) == []


CODECS = [("png", "zstd"), ("webp", "lz4"), ("qoi", "blosc-lz4"), ("png", "gzip"), ("png", "lzf")]


@pytest.mark.parametrize(("tar_codec", "h5_codec"), CODECS)
def test_every_codec_is_verified(tmp_path, problems, tar_codec, h5_codec):
    manifest = write_shards(tmp_path / "shards", {"train": 3}, settings=Shard(tar_codec=tar_codec, h5_codec=h5_codec))
    assert verify(manifest, 2) == []
    info = members(manifest.parent / TAR)[f"{KEYS[1]}.cam2.{tar_codec}"]
    flip(manifest.parent / TAR, info.offset_data + info.size // 2)
    place = chunk(manifest.parent / H5, 2)
    flip(manifest.parent / H5, place.byte_offset + place.size // 2)
    found = problems(manifest)
    assert {(p.shard, p.sample) for p in found} >= {(TAR, KEYS[1]), (H5, KEYS[2])}
    assert {p.sample for p in found} == set(KEYS[1:])


def test_only_the_first_problems_are_printed_and_the_rest_counted(shards, call, monkeypatch):
    monkeypatch.setattr("mousefacelift.cli.shards.MAX_PROBLEMS", 3)
    for n in range(7):
        (shards.parent / "val" / f"{n}.tar").touch()
    status, out, err = call("verify", shards)
    assert (status, len(out.splitlines()), out.splitlines()[-1]) == (1, 4, "and 4 more")
    assert "7 problems" in err


def test_a_missing_or_damaged_manifest_is_one_line(call, tmp_path):
    status, out, err = call("verify", tmp_path / "manifest.json")
    assert (status, out) == (1, "")
    assert "manifest.json: no such file" in err and len(err.splitlines()) == 1


def test_verification_needs_no_torch():
    code = "import sys, mousefacelift.shards.verify.manifest, mousefacelift.shards.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
