import numpy as np
import pytest

from mousefacelift.stages.grades import Agreement, Pictured, grades, picture_grade

N = 40


def pictured(contrast=40.0, bare=0.02, offset=0.3, holes=0.0, area=60000.0, jump=0.0, step_s=0.05):
    """A camera whose silhouettes are good but for what is said."""
    sizes = np.full(N, area)
    sizes[::5] *= 1 + jump
    return Pictured(
        np.full(N, contrast), np.full(N, bare), np.full(N, offset), np.full(N, holes), sizes.astype(np.int64), step_s
    )


def agreement(iou=0.92, reachable=0.95, others=0.84, beyond=0.0, below=-2.0, alone=0.0):
    return Agreement(iou, reachable, others, beyond, below, alone)


def test_good_silhouettes_are_good_without_a_reason():
    (found,) = grades([pictured()], [agreement()])
    assert found.grade == "good" and not found.reasons
    assert found.as_json()["hull_iou"] == 0.92 and found.as_json()["edge_contrast"] == 40


@pytest.mark.parametrize(
    ("values", "grade", "reason"),
    [
        ({"offset": -3.0}, "doubtful", "3.0 px outside of the mouse's edge"),
        ({"offset": 3.0}, "doubtful", "3.0 px inside of the mouse's edge"),
        ({"offset": -3.0, "area": 20000.0}, "bad", "3.0 px outside"),
        ({"offset": -1.0, "area": 2000.0}, "good", None),
        ({"bare": 0.15}, "doubtful", "15 % of the outline has no edge"),
        ({"bare": 0.5}, "bad", "50 % of the outline has no edge"),
        ({"holes": 0.08}, "doubtful", "8 % of it is holes"),
        ({"holes": 0.15}, "bad", "15 % of it is holes"),
        ({"jump": 0.3}, "doubtful", "its area jumps by 30 %"),
        ({"jump": 0.3, "step_s": 0.5}, "good", None),
    ],
)
def test_pictures_tell_by_what_a_silhouette_is_not_good(values, grade, reason):
    found = picture_grade(pictured(**values))
    assert found.grade == grade
    assert reason is None or reason in found.reasons[0]


@pytest.mark.parametrize(
    ("values", "grade", "reason"),
    [
        ({"iou": 0.88}, "doubtful", "hull IoU 0.88 where this rig can reach 0.95"),
        ({"iou": 0.80}, "bad", "hull IoU 0.80 where this rig can reach 0.95"),
        ({"iou": 0.88, "reachable": 0.91}, "good", None),
        ({"beyond": 0.1}, "doubtful", "10 % of it lies where no other camera sees a mouse"),
        ({"below": 8.0}, "doubtful", "8 mm below"),
        ({"below": np.nan, "beyond": np.nan, "reachable": np.nan}, "good", None),
    ],
)
def test_hulls_tell_by_what_a_silhouette_is_not_good(values, grade, reason):
    found = grades([pictured()] * 4, [agreement(**values), *[agreement()] * 3])[0]
    assert found.grade == grade
    assert reason is None or reason in found.reasons[0]


def test_a_camera_that_carves_away_what_the_others_see_is_blamed_and_the_others_are_not():
    lowered = {"iou": 0.88, "reachable": 0.95, "beyond": 0.06}
    found = grades([pictured()] * 4, [agreement(**lowered)] * 3 + [agreement(iou=0.94, others=0.74, alone=0.05)])
    assert [each.grade for each in found] == ["good"] * 3 + ["doubtful"]
    assert "without it the other cameras' hull IoU is higher by 0.05" in found[3].reasons


def test_cameras_that_all_agree_better_without_each_other_are_no_culprits():
    found = grades([pictured()] * 4, [agreement(iou=0.8, alone=0.05)] * 4)
    assert [each.grade for each in found] == ["bad"] * 4


def test_a_camera_without_silhouettes_is_bad_and_its_numbers_are_null():
    none = np.zeros(0)
    empty = Pictured(none, none, none, none, none.astype(np.int64))
    found = grades([empty, pictured()], [agreement(*[np.nan] * 6), agreement()])
    assert found[0].grade == "bad" and found[0].reasons == ("no silhouette was found",)
    assert all(value is None for name, value in found[0].as_json().items() if name not in ("grade", "reasons"))
    assert picture_grade(empty).grade == "bad"
