"""Whatever happens to a shard is found, and damage does not hide other damage."""

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mousefacelift.shards.manifest import read_manifest
from mousefacelift.shards.verify.shard import check_shard
from support.damage import H5, KEYS, TAR, chunk, flip, members
from support.mutations import mutate, mutations


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


@hypothesis.settings(max_examples=25)
@given(kind=st.sampled_from(["tar", "h5"]), changes=mutations)
def test_whatever_happens_to_a_file_is_found_and_the_file_named(whole, tmp_path_factory, kind, changes):
    data = read_manifest(whole)
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "train").mkdir()
    for name in (TAR, H5):
        (folder / name).symlink_to(data.folder / name)
    content = (data.folder / data.shards[0].path(kind)).read_bytes()
    changed = content
    for change in changes:
        changed = mutate(changed, *change)
    (folder / data.shards[0].path(kind)).unlink()
    (folder / data.shards[0].path(kind)).write_bytes(changed)
    found = check_shard(folder, data.shards[0], 64, 6, data.shards)
    assert {p.shard for p in found} == (set() if changed == content else {data.shards[0].path(kind)})
