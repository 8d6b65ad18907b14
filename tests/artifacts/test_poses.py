from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from support.stagefiles import poses, subject

OURS, THEIRS = Path("cameras.h5"), Path("subject.h5")


def test_rows_are_those_of_the_frames_whose_centre_is_known():
    source = subject()
    assert poses(source).rows_in(source, OURS, THEIRS).tolist() == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, capture="day2"), r"cameras\.h5: has frames that subject\.h5 has not"),
        (lambda s: replace(s, cameras=("1", "2", "3")), r"cameras\.h5: has cameras 1, top .*, but subject\.h5 has 1, 2, 3"),
        (lambda s: replace(s, frame=s.frame + 1), r"cameras\.h5: has frames that subject\.h5 has not"),
        (lambda s: s.at(slice(0, 5)), r"cameras\.h5: has frames that subject\.h5 has not"),
        (lambda s: replace(s, time_s=s.time_s + 1), "they differ in time_s"),
        (lambda s: replace(s, chunk=s.chunk + 1), "they differ in chunk"),
        (lambda s: replace(s, flags=s.flags ^ 1), "they differ in flags"),
        (lambda s: replace(s, residual_px=np.nextafter(s.residual_px, 9)), r"was not made from this subject\.h5: they differ in residual_px"),
    ],
    ids=["capture", "cameras", "frames", "fewer frames", "times", "chunks", "flags", "the last digit of a residual"],
)  # fmt: skip
def test_another_subject_is_told_from_the_one_that_poses_were_made_from(change, message):
    source = subject()
    with pytest.raises(UserError, match=message) as caught:
        poses(source).rows_in(change(source), OURS, THEIRS)
    assert "delete it and run `mousefacelift normalize` again" in str(caught.value)
