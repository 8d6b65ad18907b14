"""The manifest: what it lists is there, says where it comes from, and is refused if it cannot be right."""

import hashlib
import io
import json
import shutil
import sys
import tarfile

import h5py
import pytest

from mousefacelift import STAGE_VERSIONS, __version__
from mousefacelift.base.errors import UserError
from mousefacelift.cli import main
from mousefacelift.config.config import Config
from mousefacelift.shards.manifest import STAGES, read_manifest, write_manifest
from support.balls import list_shards, write_shards

SETTINGS = Config().model_dump(mode="json", include=set(STAGES))


@pytest.fixture
def shards(synthetic_shards, tmp_path):
    """A private copy to change."""
    return shutil.copytree(synthetic_shards.parent, tmp_path / "shards") / "manifest.json"


def test_the_manifest_lists_every_shard_with_count_bytes_and_checksum(synthetic_shards):
    folder, listed = synthetic_shards.parent, json.loads(synthetic_shards.read_text())
    assert (listed["stage"], listed["image_size"], listed["views"]) == ("shard", 64, 6)
    assert listed["samples"] == {"train": 5, "val": 2, "test": 2}
    assert [(e["split"], e["capture"], e["chunk"], e["samples"], e["first"], e["last"]) for e in listed["shards"]] == [
        ("train", "ball", 0, 5, "ball-train-000000", "ball-train-000004"),
        ("train", "ball", 3, 0, None, None),
        ("val", "ball", 1, 2, "ball-val-000000", "ball-val-000001"),
        ("test", "ball", 2, 2, "ball-test-000000", "ball-test-000001"),
    ]
    for entry in listed["shards"]:
        for kind in ("tar", "h5"):
            content = (folder / entry[kind]).read_bytes()
            assert len(content) == entry["bytes"][kind]
            assert hashlib.sha256(content).hexdigest() == entry["sha256"][kind]
        with tarfile.open(fileobj=io.BytesIO((folder / entry["tar"]).read_bytes())) as tar:
            assert len(tar.getnames()) == 7 * entry["samples"]
    for kind in ("tar", "h5"):
        assert listed["bytes"][kind] == sum(path.stat().st_size for path in folder.rglob(f"*.{kind}"))


def test_the_manifest_says_which_code_settings_and_captures_the_shards_come_from(shards):
    write_manifest(list(shards.parent.glob("*/*.h5")), shards, settings=SETTINGS)
    listed = json.loads(shards.read_text())
    assert listed["code"] == {"mousefacelift": __version__, "stages": {s: STAGE_VERSIONS[s] for s in STAGES}}
    assert listed["version"] == STAGE_VERSIONS["shard"]
    assert listed["config"] == SETTINGS
    canonical = json.dumps(SETTINGS, sort_keys=True, separators=(",", ":")).encode()
    assert listed["config_sha256"] == hashlib.sha256(canonical).hexdigest()
    assert listed["captures"] == [{"name": "ball", "samples": 9, "view_names": list("123456")}]


def test_the_same_shards_give_the_same_manifest_wherever_they_lie_and_however_they_are_named(
    synthetic_shards, tmp_path
):
    other = write_shards(tmp_path / "elsewhere")
    assert other.read_bytes() == synthetic_shards.read_bytes()
    files = sorted(other.parent.glob("*/*.h5"))
    for order, threads in ((files, 1), (files[::-1], 3)):
        write_manifest(order, other, threads=threads)
        assert other.read_bytes() == synthetic_shards.read_bytes()
    assert str(tmp_path) not in other.read_text()


def test_what_was_written_is_what_is_read(synthetic_shards):
    listed, data = json.loads(synthetic_shards.read_text()), read_manifest(synthetic_shards)
    assert (data.folder, data.image_size, data.views) == (synthetic_shards.parent, 64, 6)
    assert [shard.model_dump() for shard in data.shards] == listed["shards"]
    assert data.sha256 == hashlib.sha256(synthetic_shards.read_bytes()).hexdigest()


def test_no_sample_in_a_needed_split_is_an_error(tmp_path):
    folder = write_shards(tmp_path, {"train": 0, "val": 1}).parent
    (folder / "manifest.json").unlink()
    files = list(folder.glob("*/*.h5"))
    with pytest.raises(UserError, match="no sample is for train"):
        write_manifest(files, folder / "manifest.json")
    with pytest.raises(UserError, match="no sample is for test"):
        write_manifest(files, folder / "manifest.json", needed=("val", "test"))
    assert not (folder / "manifest.json").exists()
    write_manifest(files, folder / "manifest.json", needed=("val",))


def test_shards_that_do_not_go_together_are_refused(shards, tmp_path):
    small = write_shards(tmp_path / "small", {"train": 1}, size=32).parent
    for suffix in ("tar", "h5"):
        shutil.copy(small / "train" / f"ball-0000.{suffix}", shards.parent / "train" / f"ball-0007.{suffix}")
    with pytest.raises(UserError, match=r"different image sizes \(\[32, 64\]\)"):
        list_shards(shards)


def test_views_that_are_called_otherwise_in_other_shards_of_a_capture_have_no_common_names(shards):
    with h5py.File(shards.parent / "val" / "ball-0001.h5", "r+") as file:
        file.attrs["views"] = list("123465")
    list_shards(shards)
    assert json.loads(shards.read_text())["captures"][0]["view_names"] is None


def test_a_shard_without_its_tar_or_with_a_name_of_its_own_is_named(shards):
    (shards.parent / "val" / "ball-0001.tar").rename(shards.parent / "val" / "ball-x.tar")
    with pytest.raises(UserError, match=r"ball-0001\.tar: no such file; it is written by `mousefacelift shard`"):
        list_shards(shards)
    (shards.parent / "val" / "ball-0001.h5").rename(shards.parent / "val" / "ball-x.h5")
    with pytest.raises(UserError, match=r"ball-x\.h5: not a shard's name; expected .*CAPTURE-CHUNK\.h5"):
        list_shards(shards)


@pytest.mark.parametrize("text", ["{", "[]", '{"image_size": 64}', '{"image_size": 64, "views": 6, "shards": [{}]}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(image_size="64"),
        lambda m: m.update(views=0),
        lambda m: m.update(views=True),
        lambda m: m.update(shards=5),
        lambda m: m["shards"][0].update(samples=-1),
        lambda m: m["shards"][0].update(samples=5.0),
        lambda m: m["shards"][0].update(split="training"),
        lambda m: m["shards"][0].update(h5="/etc/passwd"),
        lambda m: m["shards"][0].update(tar="../train/ball-0000.tar"),
        lambda m: m["shards"][0].update(tar=""),
        lambda m: m["shards"][0].update(first=None),
        lambda m: m["shards"][0]["bytes"].update(h5=None),
        lambda m: m["shards"][0]["sha256"].pop("tar"),
        lambda m: m["shards"].append(m["shards"][0]),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(shards, change):
    values = json.loads(shards.read_text())
    change(values)
    shards.write_text(json.dumps(values))
    with pytest.raises(
        UserError, match=r"manifest\.json: not a shard manifest \(.*\); delete it and rerun the workflow"
    ):
        read_manifest(shards)


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("settings", "message"), [("{", "not valid JSON"), ("[]", "expected the sections center,"), ("{}", "expected")]
)
def test_settings_that_are_not_those_of_the_stages_are_refused(shards, monkeypatch, capsys, settings, message):
    words = ["manifest", *shards.parent.glob("*/*.h5"), "--output", shards, "--settings", settings]
    monkeypatch.setattr(sys, "argv", ["mousefacelift", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert f"--settings: {message}" in capsys.readouterr().err
