from itertools import combinations

import numpy as np
import pytest

from mousefacelift.geometry.animals import (
    EXCHANGED,
    RIGHT,
    UNDECIDED,
    body_radius,
    exchanged_views,
    hidden_views,
    jumps,
    stretches,
    traded_places,
    union,
)
from mousefacelift.recordings.recording import read_capture_rig
from support.rodent import demo_capture

SIZE = 50.0  # of two animals together, mm


@pytest.fixture(scope="module")
def rig():
    return read_capture_rig(demo_capture())


def rays_to(rig, places):
    offset = places[:, None] - np.stack([camera.center for camera in rig])
    return offset / np.linalg.norm(offset, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def apart(rig):
    """Two animals 150 mm apart for one frame, with rays that pass them by up to 3 mm; in order and exchangeable."""
    noise = np.random.default_rng(0).uniform(-2, 2, (2, len(rig), 3))
    places = np.array([[-75.0, 0, 0], [75.0, 0, 0]])
    return [
        np.stack([rays_to(rig, (place + noise[k, v])[None])[:, v] for v in range(len(rig))], axis=1)
        for k, place in enumerate(places)
    ]


def exchange(pair, views):
    first, second = (rays.copy() for rays in pair)
    first[:, views], second[:, views] = pair[1][:, views], pair[0][:, views]
    return first, second


def test_animals_under_their_own_names_are_right_in_every_view(rig, apart):
    assert (exchanged_views(rig, *apart, SIZE) == RIGHT).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_whichever_views_are_exchanged_they_are_named(rig, apart, count):
    for views in combinations(range(6), count):
        if 2 * count == 6 and 0 in views:
            continue  # of two halves the one without the first view counts as exchanged
        state = exchanged_views(rig, *exchange(apart, list(views)), SIZE)[0]
        assert np.flatnonzero(state == EXCHANGED).tolist() == list(views)
        assert (state != UNDECIDED).all()


def test_of_most_views_the_others_are_exchanged(rig, apart):
    state = exchanged_views(rig, *exchange(apart, [0, 1, 2, 3]), SIZE)[0]
    assert np.flatnonzero(state == EXCHANGED).tolist() == [4, 5]


def test_a_view_with_one_of_the_animals_alone_is_judged_by_it(rig, apart):
    first, second = exchange(apart, [2])
    second[:, 2] = np.nan
    assert np.flatnonzero(exchanged_views(rig, first, second, SIZE)[0] == EXCHANGED).tolist() == [2]


def test_animals_that_are_near_each_other_are_not_judged(rig, apart):
    first, second = exchange(apart, [2])
    assert (exchanged_views(rig, first, second, 20 * SIZE) == UNDECIDED).all()
    nowhere = np.full_like(first, np.nan)
    assert (exchanged_views(rig, first, nowhere, SIZE) == UNDECIDED).all()


def test_undecided_frames_beside_exchanged_ones_belong_to_them():
    def state(text):
        return np.array([{"x": EXCHANGED, "-": RIGHT, "?": UNDECIDED}[letter] for letter in text], np.int8)

    assert stretches(state("--?x?x?--")) == [(2, 6)]
    assert stretches(state("x-??-x")) == [(0, 0), (5, 5)]
    assert stretches(state("?x-")) == [(0, 1)]
    assert stretches(state("-x?")) == [(1, 2)], "up to the end"
    assert stretches(state("?--?")) == stretches(state("????")) == stretches(state("")) == []


def test_the_farther_of_two_touching_animals_is_hidden_and_both_where_none_is_clearly_farther(rig):
    toward = rig[0].center / np.linalg.norm(rig[0].center)
    near, far = (100 * toward)[None], (-100 * toward)[None]
    touching = np.zeros((1, 6), bool)
    touching[:, 0] = True
    assert hidden_views(rig, touching, far, near, SIZE).tolist() == touching.tolist()
    assert not hidden_views(rig, touching, near, far, SIZE).any()
    assert hidden_views(rig, touching, near, far, 300.0).tolist() == touching.tolist(), "not clearly in front"
    unknown = np.full((1, 3), np.nan)
    assert hidden_views(rig, touching, near, unknown, SIZE).tolist() == touching.tolist()
    assert not hidden_views(rig, ~touching, near, far, SIZE)[0, 0], "where they do not touch nothing is hidden"


def walk(count, begin, step):
    return np.array([begin + n * np.array(step) for n in range(count)], float)


def test_animals_that_trade_places_from_one_frame_to_the_next_exchanged_their_names():
    time = np.arange(10) / 20
    one, two = walk(10, [-75, 0, 0], [2, 0, 0]), walk(10, [75, 0, 0], [0, 2, 0])
    assert traded_places(one, two, time, SIZE) == []
    traded_one, traded_two = one.copy(), two.copy()
    traded_one[4:7], traded_two[4:7] = two[4:7], one[4:7]
    assert traded_places(traded_one, traded_two, time, SIZE) == [4, 7]
    traded_one[4] = np.nan
    assert traded_places(traded_one, traded_two, time, SIZE) == [5, 7], "seen in the next frame with both"
    assert traded_places(traded_one, traded_two, 10 * time, SIZE) == [], "in half a second animals may trade places"


def test_an_animal_that_is_steady_before_and_after_jumps():
    time, length = np.arange(12) / 20, np.full(12, 80.0)
    steady = walk(12, [0, 0, 0], [1, 0, 0])
    jumping = steady.copy()
    jumping[6:] += [0, 150, 0]
    assert jumps(steady, time, length) == []
    assert jumps(jumping, time, length) == [6]
    assert jumps(jumping, 10 * time, length) == [], "there is time enough to walk there"
    assert jumps(walk(12, [0, 0, 0], [90, 0, 0]), time, length) == [], "one that runs does not jump"
    assert jumps(jumping, time, 2 * length) == [], "no farther than it is long"
    assert jumps(jumping[:2], time[:2], length[:2]) == []
    assert jumps(jumping, time, np.full(12, np.nan)) == []


def test_a_disc_as_large_as_the_silhouettes_has_the_bodys_radius(rig):
    place = np.zeros((3, 3))
    scale = [np.sqrt(abs(np.linalg.det(camera.K))) / (place[0] @ camera.R[2] + camera.t[2]) for camera in rig]
    area = np.rint(np.pi * (25 * np.array(scale)) ** 2).astype(np.int64)[None].repeat(3, axis=0)
    assert body_radius(rig, place, area) == pytest.approx(25, rel=1e-3)
    assert np.isnan(body_radius(rig, np.full((3, 3), np.nan), area))


def test_a_union_holds_every_pixel_of_its_silhouettes_and_no_other():
    one, two = np.zeros((4, 6), np.uint8), np.full((3, 2), 255, np.uint8)
    one[1:3, 2:5] = 255
    alpha, (x, y, w, h) = union([(one, (10, 20, 6, 4)), (two, (14, 18, 2, 3))])
    assert (x, y, w, h, alpha.shape) == (10, 18, 6, 6, (6, 6))
    expected = np.zeros((6, 6), np.uint8)
    expected[3:5, 2:5] = expected[:3, 4:6] = 255
    np.testing.assert_array_equal(alpha, expected)
