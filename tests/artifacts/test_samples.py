from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mousefacelift.artifacts.samples import Rejected, RejectedRow, SampleRow, Samples
from mousefacelift.base.errors import UserError
from mousefacelift.config.sample import SPLITS
from support.stagefiles import poses, subject

ROW = SampleRow("day1-000030", "day1", 30, 1.0, 0, "train", ("ümlaut", "1"))
PATH, POSES = Path("samples.tsv"), Path("cameras.h5")
TIME = st.integers(0, 10**10).map(lambda microseconds: microseconds / 10**6)
NAME = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=","), min_size=1)
FRAME = st.integers(0, 10**9)
SAMPLE = st.builds(
    SampleRow, key=NAME, capture=NAME, frame=FRAME, time_s=TIME, chunk=FRAME, split=st.sampled_from(SPLITS),
    views=st.lists(NAME, min_size=1).map(tuple),
)  # fmt: skip
REJECTED = st.builds(RejectedRow, capture=NAME, frame=FRAME, time_s=TIME, reason=NAME)


@given(st.lists(SAMPLE).map(tuple))
def test_samples_are_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("samples") / "samples.tsv"
    Samples(rows).write(path)
    assert Samples.read(path) == Samples(rows)


@given(st.lists(REJECTED).map(tuple))
def test_rejected_frames_are_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rejected") / "rejected.tsv"
    Rejected(rows).write(path)
    assert Rejected.read(path) == Rejected(rows)


def test_a_table_is_one_line_per_row_below_the_names_of_the_fields(tmp_path):
    Samples((ROW,)).write(tmp_path / "samples.tsv")
    assert (tmp_path / "samples.tsv").read_bytes().decode() == (
        "key\tcapture\tframe\ttime_s\tchunk\tsplit\tviews\nday1-000030\tday1\t30\t1.000000\t0\ttrain\tümlaut,1\n"
    )


@pytest.mark.parametrize("rows", [(), (ROW,)])
def test_a_table_of_other_columns_is_named_and_so_is_one_of_no_columns(tmp_path, rows):
    Samples(rows).write(tmp_path / "samples.tsv")
    with pytest.raises(UserError, match=r"samples\.tsv: expected the columns capture, frame, time_s, reason"):
        Rejected.read(tmp_path / "samples.tsv")
    (tmp_path / "samples.tsv").write_text("")
    with pytest.raises(UserError, match=r"samples\.tsv: expected the columns key, capture"):
        Samples.read(tmp_path / "samples.tsv")


@pytest.mark.parametrize("change", [lambda line: line + "\tmore", lambda line: line.rpartition("\t")[0], lambda line: line.replace("1.0", "soon"), lambda line: f"\n{line}"])  # fmt: skip
def test_a_line_that_is_no_row_is_named(tmp_path, change):
    path = tmp_path / "samples.tsv"
    Samples((ROW, ROW)).write(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], change(lines[2])]))
    with pytest.raises(UserError, match=r"samples\.tsv, line 3: not a row .* run `mousefacelift sample` again"):
        Samples.read(path)


def test_samples_that_were_chosen_from_these_poses_pass():
    known = poses(subject())
    Samples((ROW, replace(ROW, frame=10, time_s=0.333333))).check_poses(PATH, known, POSES)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(ROW, capture="day2"), r"samples\.tsv: is of capture day2, but cameras\.h5 of day1"),
        (replace(ROW, views=("1", "9")), r"samples\.tsv: views 9 are not cameras of cameras\.h5"),
        (replace(ROW, frame=20), r"samples\.tsv: frame 20 at 1\.000000 s in chunk 0 is not in cameras\.h5"),
        (replace(ROW, time_s=1.1), "frame 30 at 1.100000 s"),
        (replace(ROW, chunk=1), "in chunk 1 is not"),
    ],
    ids=["capture", "views", "frame without a centre", "time", "chunk"],
)
def test_samples_of_other_poses_are_named(row, message):
    with pytest.raises(UserError, match=message):
        Samples((ROW, row)).check_poses(PATH, poses(subject()), POSES)
