"""What is wrong in a tar is found and named with its sample."""

import random
import re
import tarfile

import cv2
import pytest

from support.balls import list_shards
from support.damage import H5, KEYS, TAR, flip, members, refused, rewrite, with_image, with_meta


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
    assert re.fullmatch(text + "; what follows cannot be read", problem.text), problem
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
    assert (TAR, KEYS[1], f"is missing, but {H5} has it") in found
    assert (TAR, None, "has 2 samples, the manifest says 3") in found
    assert {shard for shard, *_ in found} == {TAR}


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
        (with_meta(KEYS[1], lambda m: m.update(frame=7)), f"frame differs from {H5}"),
        (with_meta(KEYS[1], lambda m: m.update(frame="x")), r"damaged JSON \(frame: Input should be a valid integer \(found 'x'\)\)"),
        (with_meta(KEYS[1], lambda m: m.pop("world_from_mm")), f"world_from_mm is in only one of this file and {H5}"),
        (with_meta(KEYS[1], lambda m: m.update(world_from_mm=[[float("nan")] * 4] * 4)), "JSON: world_from_mm is not 4 x 4"),
        (with_meta(KEYS[1], lambda m: m["frames"][0].update(fx=-1)), "the camera of view 0 has a focal length that is not positive"),
        (with_meta(KEYS[1], lambda m: m["frames"][0]["w2c"][0].reverse()), "the camera of view 0 is not a rigid pose"),
        (lambda name, content: (name.replace("000001.cam2", "000001.cam9"), content), "cam2 missing and cam9 not expected"),
        (lambda name, content: (name.replace("cam3.png", "cam2.jpg") if KEYS[1] in name else name, content), "member .* appears twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_tar_with_right_checksums_is_named_with_its_sample(shards, problems, change, text):
    rewrite(shards.parent / TAR, change)
    list_shards(shards)
    found = problems(shards)
    assert {(p.shard, p.sample) for p in found} == {(TAR, KEYS[1])}
    assert any(re.match(text, p.text) for p in found), found


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
        f"damaged tar (something follows its end) (after sample {KEYS[2]}); what follows cannot be read"
    )
