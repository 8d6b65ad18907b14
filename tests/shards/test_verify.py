"""Verification: whatever happens to a shard is found, named with its sample, and never trained on."""

import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile

import cv2
import h5py
import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Train
from mousefacelift.shards.images import encode_image
from mousefacelift.shards.manifest import checksum, read_manifest
from mousefacelift.shards.verify import check_cameras, check_shard, refuse_damaged, verify
from mousefacelift.stages.evaluate import evaluate
from mousefacelift.stages.train import train
from support.balls import list_shards, write_shards
from support.mutations import mutate, mutations

TAR, H5 = "train/ball-0000.tar", "train/ball-0000.h5"
KEYS = [f"ball-train-{i:06d}" for i in range(3)]
OTHER = "ball-train-000003"  # the first sample of train/ball-0001


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two shards of train with 3 and 2 samples, one of val with 1, and an empty one. Read only."""
    return write_shards(tmp_path_factory.mktemp("whole"), [("train", 3), ("train", 2), ("val", 1)])


@pytest.fixture
def shards(whole, tmp_path):
    """A private copy to damage."""
    return shutil.copytree(whole.parent, tmp_path / "shards") / "manifest.json"


@pytest.fixture
def problems(call):
    """What verify finds, after looking that the command line says the same, ends with status 1 and writes no receipt."""

    def find(manifest):
        found = verify(manifest, 2)
        status, out, err = call("verify", manifest, "--output", manifest.parent.parent / "receipt.json")
        assert (status, out.splitlines()) == (1, [str(problem) for problem in found])
        assert (
            f"{len(found)} problem{'s' * (len(found) > 1)}; delete the files named above and rerun the workflow" in err
        )
        assert not (manifest.parent.parent / "receipt.json").exists()
        return found

    return find


def refused(manifest, kind):
    """What refuses the manifest's shards: training, which reads HDF5 files, before its first step; or a reader of tars."""
    folder = manifest.parent.parent / "run"
    settings = Train(preset="tiny", image_size=32, steps=2, warmup_steps=0, accelerator="cpu")
    with pytest.raises(UserError) as caught:
        if kind == "h5":
            train(manifest, folder / "train", folder / "checkpoints", settings, threads=1)
        else:
            refuse_damaged(read_manifest(manifest), "tar", ("train", "val"), 2)
    assert not folder.exists()
    return str(caught.value).splitlines()


def flip(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def members(path):
    with tarfile.open(path) as tar:
        return {info.name: info for info in tar}


def chunk(path, row):
    with h5py.File(path) as file:
        return file["image"].id.get_chunk_info(row)


def offset(path, name, row, byte):
    """Where a byte of a row of a contiguous dataset lies in the file."""
    with h5py.File(path) as file:
        values = file[name]
        return values.id.get_offset() + row * values.dtype.itemsize * int(np.prod(values.shape[1:])) + byte


def rewrite(path, change):
    """Write a tar again; change(name, content) gives a member's new name and content, or None to leave it out."""
    with tarfile.open(path) as tar:
        old = [(info.name, tar.extractfile(info).read()) for info in tar]
    write_tar(path, [new for name, content in old if (new := change(name, content))])


def write_tar(path, files):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def with_image(key, view, edit):
    """For `rewrite`: one view of one sample is edited and encoded again."""

    def change(name, content):
        if name == f"{key}.cam{view}.png":
            image = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), -1), cv2.COLOR_BGRA2RGBA)
            edited = edit(image)
            content = edited if isinstance(edited, bytes) else encode_image(edited, "png", 1)
        return name, content

    return change


def with_meta(key, edit):
    """For `rewrite`: the JSON of one sample is edited."""

    def change(name, content):
        if name == f"{key}.json":
            meta = json.loads(content)
            edit(meta)
            content = json.dumps(meta, separators=(",", ":")).encode()
        return name, content

    return change


def in_h5(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)


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


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_an_image_of_a_tar_names_its_sample_and_view(shards, problems, seed):
    place = random.Random(seed)
    key, view = KEYS[place.randrange(3)], place.randrange(6)
    info = members(shards.parent / TAR)[f"{key}.cam{view}.png"]
    flip(shards.parent / TAR, info.offset_data + place.randrange(info.size), place.randrange(8))
    (problem,) = problems(shards)
    assert (problem.shard, problem.sample) == (TAR, key)
    assert problem.text.startswith(f"cam{view}: ")
    assert str(problem) in refused(shards, "tar")


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
    ("member", "text"),
    [
        (0, r"damaged tar \(.*\) \(at its beginning\)"),
        (3, r"cam3, cam4, cam5, json missing \(at its beginning\)"),
        (7, rf"damaged tar \(the next header cannot be read\) \(after sample {KEYS[0]}\)"),
        (13, rf"json missing \(after sample {KEYS[0]}\)"),
    ],
)
@pytest.mark.parametrize("byte", [3, 124, 150])  # in the name, the size, the checksum
def test_a_flipped_bit_in_a_header_of_a_tar_names_the_sample_and_the_last_whole_one(
    shards, problems, member, byte, text
):
    info = list(members(shards.parent / TAR).values())[member]
    flip(shards.parent / TAR, info.offset + byte)
    (problem,) = problems(shards)
    assert (problem.shard, problem.sample) == (TAR, KEYS[member // 7])
    assert re.fullmatch(text + "; what follows there cannot be read", problem.text), problem
    assert str(problem) in refused(shards, "tar")


@pytest.mark.parametrize(
    ("within", "text"),
    [
        (b'{"id"', "JSON lacks id"),
        (b'"frames"', "damaged JSON"),
        (b'"capture"', "JSON lacks capture"),
        (b"ball-train", "JSON says id"),
        (b'"frame":1', "JSON lacks frame"),
        (b'"w2c":[[', "damaged JSON"),
        (b'"time_s"', "JSON lacks time_s"),
    ],
)
def test_a_flipped_bit_in_the_json_of_a_tar_names_its_sample(shards, problems, within, text):
    info = members(shards.parent / TAR)[f"{KEYS[1]}.json"]
    content = (shards.parent / TAR).read_bytes()
    flip(shards.parent / TAR, content.index(within, info.offset_data) + 2)
    found = problems(shards)
    assert {(p.shard, p.sample) for p in found} == {(TAR, KEYS[1])}
    assert any(p.text.startswith(text) for p in found), found
    assert {str(p) for p in found} <= set(refused(shards, "tar"))


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_in_a_pose_of_the_json_names_its_sample(shards, problems, seed):
    place = random.Random(seed)
    info = members(shards.parent / TAR)[f"{KEYS[2]}.json"]
    content = (shards.parent / TAR).read_bytes()
    begin = content.index(b'"w2c":[[', info.offset_data) + 8
    digits = [at for at in range(begin, begin + 14) if content[at : at + 1].isdigit()]  # of some 17 in a number
    flip(shards.parent / TAR, place.choice(digits), place.randrange(3))
    found = problems(shards)
    assert {(p.shard, p.sample) for p in found} == {(TAR, KEYS[2])}


@pytest.mark.parametrize(
    ("name", "byte", "text"),
    [
        ("c2w", 6, f"c2w is not that of {TAR}"),
        ("c2w", 128 + 3, f"c2w is not that of {TAR}"),
        ("fxfycxcy", 5, f"fxfycxcy is not that of {TAR}"),
        ("world_from_mm", 6, f"world_from_mm is not that of {TAR}"),
        ("frame", 0, f"frame is not that of {TAR}"),
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
    assert (KEYS[1], "is called 'ball-train-000009' there") in [(p.sample, p.text) for p in found]
    assert {str(p) for p in found} <= set(refused(shards, "h5"))


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_a_damaged_sample_does_not_hide_the_damage_of_others(shards, problems, kind):
    for row in (0, 2):
        if kind == "tar":
            info = members(shards.parent / TAR)[f"{KEYS[row]}.cam1.png"]
            flip(shards.parent / TAR, info.offset_data + 70)
        else:
            flip(shards.parent / H5, chunk(shards.parent / H5, row).byte_offset + 9)
    assert [p.sample for p in problems(shards)] == [KEYS[0], KEYS[2]]


def test_damage_in_a_tar_whose_structure_is_lost_does_not_hide_that_of_the_hdf5_file(shards, problems):
    flip(shards.parent / TAR, 0)
    flip(shards.parent / H5, chunk(shards.parent / H5, 2).byte_offset + 9)
    assert {(p.shard, p.sample) for p in problems(shards)} == {(TAR, KEYS[0]), (H5, KEYS[2])}


@pytest.mark.parametrize("kind", ["tar", "h5"])
@pytest.mark.parametrize("part", [0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(shards, problems, kind, part):
    path = shards.parent / (TAR if kind == "tar" else H5)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    found = problems(shards)
    assert {p.shard for p in found} == {TAR if kind == "tar" else H5}
    assert f"has {int(part * len(content))} bytes, the manifest says {len(content)}" in [p.text for p in found]
    if kind == "tar" and 0 < part < 0.99:
        after = int(part * 3)
        assert found[1].sample == KEYS[after]
        assert (f"after sample {KEYS[after - 1]}" if after else "at its beginning") in found[1].text
    assert {str(p) for p in found} <= set(refused(shards, kind))


@pytest.mark.parametrize("relisted", [False, True])
def test_a_member_missing_from_a_tar_is_named_with_its_sample(shards, problems, relisted):
    rewrite(shards.parent / TAR, lambda name, content: None if name == f"{KEYS[1]}.cam4.png" else (name, content))
    if relisted:
        list_shards(shards)
    found = problems(shards)
    assert {p.shard for p in found} == {TAR}
    (problem,) = [p for p in found if p.sample]
    assert (problem.sample, problem.text.partition(" (")[0]) == (KEYS[1], "cam4 missing")
    if not relisted:
        assert {str(p) for p in found} <= set(refused(shards, "tar"))


@pytest.mark.parametrize("relisted", [False, True])
def test_a_sample_missing_from_a_tar_is_named(shards, problems, relisted):
    rewrite(shards.parent / TAR, lambda name, content: None if name.startswith(KEYS[1]) else (name, content))
    if relisted:
        list_shards(shards)
    found = [(p.shard, p.sample, p.text) for p in problems(shards)]
    assert (TAR, KEYS[1], f"is not there, but in {H5}") in found
    assert (TAR, None, "has 2 samples, the manifest says 3") in found
    assert {shard for shard, *_ in found} == {TAR}


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_shards_that_were_swapped_are_named_with_the_first_sample_that_is_foreign(shards, problems, kind):
    one, two = (shards.parent / "train" / f"ball-000{i}.{kind}" for i in range(2))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert [str(p) for p in problems(shards)] == [
        f"train/ball-0000.{kind}, sample {OTHER}: the file is train/ball-0001.{kind}, whose first sample this is",
        f"train/ball-0001.{kind}, sample {KEYS[0]}: the file is train/ball-0000.{kind}, whose first sample this is",
    ]
    assert str(verify(shards, 1)[0]) in refused(shards, kind)


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_a_file_with_the_samples_of_another_shard_is_named_even_if_its_bytes_are_new(shards, problems, kind, tmp_path):
    other = write_shards(tmp_path / "other", [("train", 3), ("train", 2)], seed=5).parent
    shutil.copy(other / "train" / f"ball-0001.{kind}", shards.parent / "train" / f"ball-0000.{kind}")
    assert str(problems(shards)[-1]) == (
        f"train/ball-0000.{kind}, sample {OTHER}: the file holds the samples of train/ball-0001.{kind}, whose first "
        "sample this is"
    )


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_a_missing_file_is_named(shards, problems, kind):
    (shards.parent / "train" / f"ball-0000.{kind}").unlink()
    (problem,) = problems(shards)
    assert str(problem) == f"train/ball-0000.{kind}: no such file, but the manifest lists it"
    assert str(problem) in refused(shards, kind)


@pytest.mark.parametrize(
    "name",
    ["train/ball-0009.tar", "train/ball-0009.h5", "train/notes.txt", "old/ball-0000.h5", "train/.b.7.partial.h5"],
)
def test_a_file_that_the_manifest_does_not_list_is_named(shards, problems, name):
    (shards.parent / name).parent.mkdir(exist_ok=True)
    (shards.parent / name).touch()
    (problem,) = problems(shards)
    assert str(problem) == f"{name}: the manifest does not list this file, left by another run; delete it"


@pytest.mark.parametrize("changed", ["tar", "h5"])
def test_a_tar_and_an_hdf5_file_that_disagree_in_one_pixel_are_named_with_the_sample(shards, problems, changed):
    def edit(image):
        image[17, 40] = [1, 2, 3, 255]
        return image

    if changed == "tar":
        rewrite(shards.parent / TAR, with_image(KEYS[2], 5, edit))
    else:
        in_h5(shards.parent / H5, lambda file: file["image"].__setitem__((2, 5, 17, 40), [1, 2, 3, 255]))
    list_shards(shards)
    (problem,) = problems(shards)
    assert (
        str(problem)
        == f"{TAR}, sample {KEYS[2]}: cam5: 1 of 4096 pixels are not those of {H5}, the first at x 40, y 17"
    )


def paint(*value):
    def edit(image):
        image[0, 0] = value
        return image

    return edit


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (with_image(KEYS[1], 2, paint(0, 0, 0, 0)), "cam2: 1 of 4096 pixels are not white although alpha is 0"),
        (with_image(KEYS[1], 2, lambda image: image[:32]), "cam2: has 64x32 px, the manifest says 64x64"),
        (with_image(KEYS[1], 2, lambda image: cv2.imencode(".png", image[..., :3])[1].tobytes()), "cam2: not an RGBA image of 8 bits per channel"),
        (with_meta(KEYS[1], lambda m: m.pop("qc")), "JSON lacks qc"),
        (with_meta(KEYS[1], lambda m: m["frames"][3].pop("w")), "JSON lacks w of view 3"),
        (with_meta(KEYS[1], lambda m: m["frames"][3].update(h=63)), "JSON says 64x63 px of view 3, the manifest says 64x64"),
        (with_meta(KEYS[1], lambda m: m["frames"][3].update(file_path="a.png")), "JSON says file_path 'a.png' of view 3, expected"),
        (with_meta(KEYS[1], lambda m: m["frames"].pop()), "damaged JSON"),
        (with_meta(KEYS[1], lambda m: m.update(frames=[{"w2c": [1] * 6}] * 6)), "damaged JSON"),
        (with_meta(KEYS[1], lambda m: m.update(id="other")), f"JSON says id 'other', expected '{KEYS[1]}'"),
        (with_meta(KEYS[1], lambda m: m.update(split="val")), "JSON says split 'val', expected 'train'"),
        (with_meta(KEYS[1], lambda m: m.update(frame=7)), f"frame is not that of {H5}"),
        (with_meta(KEYS[1], lambda m: m.update(frame="x")), "JSON says frame 'x', expected a number"),
        (with_meta(KEYS[1], lambda m: m.pop("world_from_mm")), f"world_from_mm is in one of this file and {H5} alone"),
        (with_meta(KEYS[1], lambda m: m.update(world_from_mm=[[float("nan")] * 4] * 4)), "JSON: world_from_mm is not 4 x 4"),
        (with_meta(KEYS[1], lambda m: m["frames"][0].update(fx=-1)), "the camera of view 0 has a focal length that is not positive"),
        (with_meta(KEYS[1], lambda m: m["frames"][0]["w2c"][0].reverse()), "the camera of view 0 is not a rigid pose"),
        (lambda name, content: (name.replace("000001.cam2", "000001.cam9"), content), "cam2 missing and cam9 not expected"),
        (lambda name, content: (name.replace("cam3.png", "cam2.jpg") if KEYS[1] in name else name, content), "member .* is there twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_tar_with_right_checksums_is_named_with_its_sample(shards, problems, change, text):
    rewrite(shards.parent / TAR, change)
    list_shards(shards)
    found = problems(shards)
    assert {(p.shard, p.sample) for p in found} == {(TAR, KEYS[1])}
    assert any(re.match(text, p.text) for p in found), found


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
        (lambda f: f.__delitem__("world_from_mm"), KEYS[0], f"world_from_mm is in one of this file and {H5} alone"),
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


def test_what_is_no_file_in_a_tar_is_named_with_the_sample_before(shards, problems):
    with tarfile.open(shards.parent / TAR, "a", format=tarfile.USTAR_FORMAT) as tar:
        link = tarfile.TarInfo("ball-train-000009.cam0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    list_shards(shards)
    (problem,) = problems(shards)
    assert problem.shard == TAR
    assert f"(after sample {KEYS[2]})" in problem.text


def test_data_after_the_end_of_a_tar_are_noticed(shards, problems):
    content = (shards.parent / TAR).read_bytes()
    (shards.parent / TAR).write_bytes(content + content)
    list_shards(shards)
    (problem,) = problems(shards)
    assert problem.text == (
        f"damaged tar (something follows its end) (after sample {KEYS[2]}); what follows there cannot be read"
    )


def test_samples_out_of_order_or_twice_there_are_named(shards, problems):
    with tarfile.open(shards.parent / TAR) as tar:
        files = [(info.name, tar.extractfile(info).read()) for info in tar]
    write_tar(shards.parent / TAR, files[7:14] + files[:7] + files[14:] + files[14:])
    list_shards(shards)
    found = [(p.sample, p.text) for p in problems(shards)]
    assert (KEYS[0], f"is there after {KEYS[1]}, out of order") in found
    assert (KEYS[2], "is there twice") in found
    assert (KEYS[1], f"is the first sample, the manifest says {KEYS[0]}") in found
    assert (None, "has 4 samples, the manifest says 3") in found


def test_a_sample_in_two_splits_is_named(shards, problems):
    for kind in ("tar", "h5"):
        shutil.copy(shards.parent / f"train/ball-0001.{kind}", shards.parent / f"val/ball-0001.{kind}")
    list_shards(shards)
    found = [str(p) for p in problems(shards)]
    assert f"val/ball-0001.h5, sample {OTHER}: is in train/ball-0001.h5 too, of split train" in found
    assert f"val/ball-0001.tar, sample {OTHER}: JSON says split 'train', expected 'val'" in found


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_a_difference_that_no_sample_shows_is_said_to_be_outside_of_them(shards, problems, kind):
    if kind == "tar":
        info = members(shards.parent / TAR)[f"{KEYS[0]}.cam0.png"]
        flip(shards.parent / TAR, info.offset_data + info.size)  # fills the block up
    else:
        flip(shards.parent / H5, offset(shards.parent / H5, "c2w", 0, 0))
    (problem,) = problems(shards)
    assert (problem.shard, problem.sample) == (TAR if kind == "tar" else H5, None)
    assert "no sample shows it" in problem.text and "the file must be replaced" in problem.text
    assert str(problem) in refused(shards, kind)


def test_without_the_other_file_a_difference_in_numbers_is_said_to_have_no_place(shards, problems):
    (shards.parent / TAR).unlink()
    flip(shards.parent / H5, offset(shards.parent / H5, "c2w", 1, 4))
    _, problem = problems(shards)
    assert (problem.shard, problem.sample) == (H5, None)
    assert f"without {TAR} to compare with, what differs cannot be told" in problem.text
    assert str(problem) in refused(shards, "h5")


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


def test_only_the_first_problems_are_printed_and_the_rest_counted(shards, call, monkeypatch):
    monkeypatch.setattr("mousefacelift.cli.shards.MAX_PROBLEMS", 3)
    for n in range(7):
        (shards.parent / "val" / f"{n}.tar").touch()
    status, out, err = call("verify", shards)
    assert (status, len(out.splitlines()), out.splitlines()[-1]) == (1, 4, "and 4 more")
    assert "7 problems" in err


@pytest.mark.parametrize("split", ["val", "train"])
def test_an_evaluation_refuses_damaged_shards_before_it_draws(trained, tmp_path, split):
    manifest = write_shards(tmp_path / "shards", {"train": 1, "val": 1})
    path = next((manifest.parent / split).glob("*.h5"))
    flip(path, chunk(path, 0).byte_offset + 9)
    with pytest.raises(UserError, match=rf"{split}/{path.name}, sample ball-{split}-000000: image cannot be read"):
        evaluate(manifest, trained, tmp_path / "out", Evaluate(split="val"), threads=1)
    assert not (tmp_path / "out").exists()


def test_a_missing_or_damaged_manifest_is_one_line(call, tmp_path):
    status, out, err = call("verify", tmp_path / "manifest.json")
    assert (status, out) == (1, "")
    assert "manifest.json: no such file" in err and len(err.splitlines()) == 1


@hypothesis.settings(max_examples=25)
@given(kind=st.sampled_from(["tar", "h5"]), changes=mutations)
def test_whatever_happens_to_a_file_is_found_and_the_file_named(whole, tmp_path_factory, kind, changes):
    data = read_manifest(whole)
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "train").mkdir()
    for name in (TAR, H5):
        (folder / name).symlink_to(data.folder / name)
    content = (data.folder / data.shards[0][kind]).read_bytes()
    changed = content
    for change in changes:
        changed = mutate(changed, *change)
    (folder / data.shards[0][kind]).unlink()
    (folder / data.shards[0][kind]).write_bytes(changed)
    found = check_shard(folder, data.shards[0], 64, 6, data.shards)
    assert {p.shard for p in found} == (set() if changed == content else {data.shards[0][kind]})


def test_verification_needs_no_torch():
    code = "import sys, mousefacelift.shards.verify, mousefacelift.shards.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_view_from_straight_above_is_level_whatever_its_heading():
    c2w = np.array([[[[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]]], float)
    check_cameras(c2w, np.ones((1, 1, 4)), ["above"])


def test_a_focal_length_of_zero_is_refused():
    c2w = np.array([[[[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]]], float)
    with pytest.raises(UserError, match="focal length"):
        check_cameras(c2w, np.array([[[0.0, 1, 1, 1]]]), ["flat"])
