"""Files that are missing, cut off or another shard's, samples out of order, and checksums that no sample explains."""

import shutil
import tarfile

import pytest

from mousefacelift.shards.verify.manifest import verify
from support.balls import list_shards, write_shards
from support.damage import H5, KEYS, OTHER, TAR, flip, members, offset, refused, write_tar


@pytest.mark.parametrize("kind", ["tar", "h5"])
def test_a_missing_file_is_named(shards, problems, kind):
    (shards.parent / "train" / f"ball-0000.{kind}").unlink()
    (problem,) = problems(shards)
    assert str(problem) == f"train/ball-0000.{kind}: no such file, but the manifest lists it"
    assert str(problem) in refused(shards, kind)


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


def test_samples_out_of_order_or_twice_there_are_named(shards, problems):
    with tarfile.open(shards.parent / TAR) as tar:
        files = [(info.name, tar.extractfile(info).read()) for info in tar]
    write_tar(shards.parent / TAR, files[7:14] + files[:7] + files[14:] + files[14:])
    list_shards(shards)
    found = [(p.sample, p.text) for p in problems(shards)]
    assert (KEYS[0], f"comes after {KEYS[1]}, out of order") in found
    assert (KEYS[2], "appears twice") in found
    assert (KEYS[1], f"is the first sample, the manifest says {KEYS[0]}") in found
    assert (None, "has 4 samples, the manifest says 3") in found


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
    assert f"without {TAR} there is nothing to compare it with" in problem.text
    assert str(problem) in refused(shards, "h5")
