import ast
import inspect
import re
import time
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

from mousefacelift import STAGE_VERSIONS
from mousefacelift.artifacts.center import CenteredChunk, ChunkMeasures
from mousefacelift.artifacts.hdf5 import StageFile
from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.subject import Subject, SubjectMeasures
from mousefacelift.base.errors import UserError
from support.paths import ROOT
from support.stagefiles import chunk, poses, same, subject

FILES = {"center": chunk, "cameras": subject, "normalize": lambda: poses(subject())}
KINDS = {"center": CenteredChunk, "cameras": Subject, "normalize": Poses}
STAGES = tuple(FILES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.h5"


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_written_is_read_again(stage, path):
    file = FILES[stage]()
    file.write(path)
    assert same(KINDS[stage].read(path), file)
    assert same(KINDS[stage].read(path, "day1"), file)


@pytest.mark.parametrize("stage", STAGES)
def test_fields_are_the_files_datasets_and_attributes_and_there_are_no_others(stage, path):
    FILES[stage]().write(path)
    with h5py.File(path) as file:
        attributes = {"distance_policy" if name == "distance" else name for name in file.attrs}
        assert attributes - {"stage", "version"} | set(file) == {each.name for each in fields(KINDS[stage])}
        assert (file.attrs["stage"], file.attrs["version"]) == (stage, STAGE_VERSIONS[stage])


@pytest.mark.parametrize(("part", "whole"), [(ChunkMeasures, chunk()), (SubjectMeasures, subject())])
def test_a_part_of_a_file_is_read_without_the_rest(part, whole, path, monkeypatch):
    whole.write(path)
    with h5py.File(path, "r+") as file:
        for each in {f.name for f in fields(whole)} - {f.name for f in fields(part)}:
            del file[each]
    read = part.read(path)
    assert type(read) is part
    assert same(read, part(**{each.name: getattr(whole, each.name) for each in fields(part)}))


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_of_another_version_is_refused_by_name_with_the_command_that_makes_it(stage, path):
    FILES[stage]().write(path)
    for version in (STAGE_VERSIONS[stage] - 1, STAGE_VERSIONS[stage] + 1):
        with h5py.File(path, "r+") as file:
            file.attrs["version"] = version
        with pytest.raises(
            UserError,
            match=rf"file\.h5: is of version {version} of stage {stage}, this is version {STAGE_VERSIONS[stage]}; delete it and "
            rf"run `mousefacelift {stage}` again",
        ):
            KINDS[stage].read(path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_of_another_stage_is_refused_by_name_and_not_to_be_deleted(stage, path):
    other = next(name for name in STAGES if name != stage)
    FILES[other]().write(path)
    with pytest.raises(UserError, match=rf"file\.h5: is a file of stage {other}, not of {stage}: name") as caught:
        KINDS[stage].read(path)
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_of_another_capture_is_refused_by_name(stage, path):
    FILES[stage]().write(path)
    with pytest.raises(UserError, match=r"file\.h5: is of capture day1, not of day2: name the file"):
        KINDS[stage].read(path, "day2")


@pytest.mark.parametrize("missing", ["stage", "version", "capture"])
def test_a_file_that_does_not_say_what_it_is_is_refused(missing, path):
    subject().write(path)
    with h5py.File(path, "r+") as file:
        del file.attrs[missing]
    with pytest.raises(UserError, match=r"file\.h5: does not say which stage .* run `mousefacelift cameras` again"):
        Subject.read(path)


@pytest.mark.parametrize("missing", ["hull_iou", "cameras"])
def test_a_file_that_lacks_a_field_is_refused(missing, path):
    subject().write(path)
    with h5py.File(path, "r+") as file:
        del (file if missing in file else file.attrs)[missing]
    with pytest.raises(UserError, match=rf"file\.h5: .*{missing}.*delete it and run `mousefacelift cameras` again"):
        Subject.read(path)


def test_other_cameras_are_named_and_so_is_another_order(path):
    file = subject()
    file.check_cameras(path, list(file.cameras), "rig.json")
    for cameras in (file.cameras[:2], file.cameras[::-1]):
        with pytest.raises(UserError, match=r"file\.h5: has cameras 1, top left, ümlaut, but rig\.json has"):
            file.check_cameras(path, cameras, "rig.json")


def test_a_part_of_the_frames_and_joined_parts_are_those_frames():
    whole = subject()
    mask = whole.frame < 30
    parts = [whole.at(mask), whole.at(~mask)]
    assert parts[0].frame.tolist() == [0, 10, 20] and parts[0].outline_px.shape == (3, 3, 32, 2)
    assert same(Subject.joined(parts), whole)
    assert same(whole.at(np.array([3])), whole.at(slice(3, 4)))


def test_a_failed_writer_leaves_the_earlier_file(path):
    file = subject()
    file.write(path)
    with pytest.raises(TypeError):
        replace(file, frame=np.array(["no number"])).write(path)
    assert same(Subject.read(path), file)
    assert [each.name for each in path.parent.iterdir()] == ["file.h5"]


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_field_is_documented_on_a_line_of_its_own(kind):
    text = "".join(base.__doc__ for base in inspect.getmro(kind) if issubclass(base, StageFile))
    undocumented = [each.name for each in fields(kind) if not re.search(rf"^    {each.name}: ", text, re.MULTILINE)]
    assert not undocumented


def test_no_stage_of_a_capture_spells_the_name_of_a_dataset():
    """Only artifacts open HDF5 files of stages 1 to 4; everyone else reads fields."""
    package = ROOT / "workflow" / "mousefacelift"
    names = {each.name for kind in KINDS.values() for each in kind._datasets()}
    spelled = []
    for stage in ("center", "cameras", "normalize", "sample", "shard"):
        path = package / "stages" / f"{stage}.py"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value in names:
                spelled.append(f"{path.name}, line {node.lineno}: {ast.unparse(node)}")
        assert not re.search(r"\bh5py\b|\bopen_h5\b", path.read_text()), path
    # A row of qc.json, which has a value of the same name, is no file.
    assert [each for each in spelled if "row['hull_iou']" not in each] == []


def a_group(file, name):
    del file[name]
    file.create_group(name)


def a_number(file, name):
    del file[name]
    file[name] = 3.0


def a_text(file, name):
    del file[name]
    file[name] = "x"


def too_short(file, name):
    values = file[name][()]
    del file[name]
    file[name] = values[:-1]


@pytest.mark.parametrize("damage", [a_group, a_number, a_text, too_short])
@pytest.mark.parametrize("stage", STAGES)
def test_a_dataset_that_is_no_row_of_numbers_per_frame_is_named_with_the_command(stage, damage, path):
    FILES[stage]().write(path)
    with h5py.File(path, "r+") as file:
        damage(file, "flags")
    with pytest.raises(UserError, match=rf"flags does not hold a row of numbers.*`mousefacelift {stage}` again"):
        KINDS[stage].read(path)


@pytest.mark.parametrize("value", [3, np.nan, [[1.0]]])
@pytest.mark.parametrize("stage", STAGES)
def test_an_attribute_that_cannot_be_what_it_says_is_named_with_the_command(stage, value, path):
    FILES[stage]().write(path)
    with h5py.File(path, "r+") as file:
        file.attrs["cameras" if np.ndim(value) == 0 else "capture"] = value
    with pytest.raises(UserError, match=rf"(attribute cameras is damaged|does not say).*`mousefacelift {stage}` again"):
        KINDS[stage].read(path)


def test_several_captures_in_one_file_are_each_read_by_name(path):
    parts = [chunk(), replace(chunk(number=1), capture="day2")]
    CenteredChunk.write_shared(path, parts)
    assert CenteredChunk.captures_in(path) == ("day1", "day2")
    for part in parts:
        assert same(CenteredChunk.read(path, part.capture), part)
        with CenteredChunk.open(path, part.capture) as opened:
            assert opened.crop_zstd[3][1].tolist() == part.crop_zstd[3][1].tolist()
    for name, words in (("day3", r"holds captures day1, day2, not day3"), (None, r"holds captures day1, day2: name")):
        with pytest.raises(UserError, match=rf"file\.h5: {words}"):
            CenteredChunk.read(path, name)


def test_a_file_of_one_capture_names_it(path):
    chunk().write(path)
    assert CenteredChunk.captures_in(path) == ("day1",)
    with h5py.File(path) as file:
        assert "captures" not in file.attrs


def test_the_same_captures_give_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        CenteredChunk.write_shared(tmp_path / name, [chunk(), replace(chunk(), capture="day2")])
        time.sleep(1.1)  # a file with times in it would differ
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("damage", ["no group", "a dataset", "another version", "no list"])
def test_a_damaged_file_of_several_captures_is_an_error_in_words(path, damage):
    CenteredChunk.write_shared(path, [chunk(), replace(chunk(), capture="day2")])
    with h5py.File(path, "r+") as file:
        if damage == "another version":
            file.attrs["version"] = 1
        elif damage == "no list":
            file.attrs["captures"] = 7
        else:
            del file["day2"]
            if damage == "a dataset":
                file["day2"] = np.zeros(3)
    with pytest.raises(UserError, match=r"file\.h5: "):
        CenteredChunk.read(path, "day2")
    with pytest.raises(UserError, match=r"file\.h5: "):
        CenteredChunk.captures_in(path)
