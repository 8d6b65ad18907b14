from dataclasses import replace
from pathlib import Path

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.animals import check_told_apart, recordings_of
from support.rodent import demo_capture


def row(name, label=None, **changes):
    return replace(demo_capture(), name=name, animal=changes.pop("animal", name), label=label, **changes)


def table(*rows):
    return {each.name: each for each in rows}


OTHER = {"masks": tuple(Path(f"other{k}.mkv") for k in range(6))}


def test_rows_with_the_same_videos_and_masks_and_other_labels_are_one_recording():
    rows = table(row("a", 1), row("alone"), row("b", 2), row("c", 1, **OTHER), row("d", 0))
    assert recordings_of(rows, None) == {"a": ("a", "b", "d"), "alone": ("alone",), "c": ("c",)}


def test_rows_without_a_label_have_that_of_the_configuration():
    rows = table(row("a"), row("b", 2))
    assert recordings_of(rows, None) == {"a": ("a",), "b": ("b",)}
    assert recordings_of(rows, 1) == {"a": ("a", "b")}
    with pytest.raises(UserError, match="captures a and b are the same animal, 2, of the same videos"):
        recordings_of(rows, 2)


def test_the_same_animal_twice_is_an_error():
    with pytest.raises(UserError, match=r"captures a and c are the same animal, 1, .* 'label'"):
        recordings_of(table(row("a", 1), row("b", 2), row("c", 1)), None)


def test_animals_of_one_recording_have_one_rig_and_one_clock():
    other = row("b", 2, sync=(0, 1, 0, 0, 0, 0), fps=40.0)
    with pytest.raises(UserError, match=r"captures a and b are animals of the same videos, but .* differ in fps, sync"):
        recordings_of(table(row("a", 1), other), None)


@pytest.mark.parametrize(
    ("rows", "animal", "what"),
    [
        ([row("a"), row("b")], None, "captures a and b are animals of the same videos"),
        ([row("a", 1)], None, "capture a asks for animal 1"),
        ([row("a")], 2, "capture a asks for animal 2"),
    ],
)
def test_a_method_that_finds_whatever_moves_is_not_asked_for_one_of_several_animals(rows, animal, what):
    with pytest.raises(UserError, match=f"{what}.*background cannot tell animals apart.*center.masks: provided"):
        check_told_apart(rows, "background", animal)


def test_one_animal_may_be_listed_twice_and_others_have_videos_of_their_own():
    other = row("c", videos=tuple(Path(f"{k}.mp4") for k in range(6)))
    check_told_apart([row("a", animal="m1"), row("b", animal="m1"), other], "background", None)
