from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.config.sample import SPLITS, Sample, SplitFractions
from mousefacelift.geometry.selection import (
    MAX_DEVIATIONS,
    SHAPE,
    allocate,
    capture_splits,
    choose_views,
    evenly_spaced,
    farthest_points,
    pose_strata,
    shape_descriptors,
    split_blocks,
    split_stratified,
    spread_views,
    standardised,
    usable_views,
    view_order,
)
from mousefacelift.geometry.views import look_at, rigid
from support.balls import level_cameras

FRACTIONS = st.tuples(*[st.integers(0, 5)] * 3).filter(any)
TENTHS = SplitFractions(train=0.8, val=0.1, test=0.1)


def split(shares):
    return SplitFractions(**dict(zip(SPLITS, np.array(shares) / sum(shares), strict=True)))


def directions(seed, count):
    return np.random.default_rng(seed).normal(size=(count, 3))


def smallest_angle(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return min(np.arccos(np.clip(a @ b, -1, 1)) for a, b in combinations(unit, 2))


# Frames


@given(st.integers(1, 500), st.integers(1, 500))
def test_frames_are_picked_evenly_with_the_first_and_the_last(count, wanted):
    picked = evenly_spaced(count, wanted)
    assert len(picked) == min(count, wanted)
    assert picked[0] == 0
    if wanted > 1:
        assert picked[-1] == count - 1
    if 1 < wanted < count:
        steps = np.diff(picked)
        assert steps.min() >= 1
        assert np.abs(steps - (count - 1) / (wanted - 1)).max() <= 1
    np.testing.assert_array_equal(evenly_spaced(count, None), np.arange(count))


def hulls(seed, count=80):
    """lengths_mm, volume_mm3, axis and world_from_mm of a mouse somewhere on a floor, in a tilted calibration's world."""
    random = np.random.default_rng(seed)
    R, scale = Rotation.random(random_state=seed).as_matrix(), 0.01
    axis = random.normal(size=(count, 3))
    world_from_mm = np.tile(np.eye(4), (count, 1, 1))
    world_from_mm[:, :3, :3] = scale * R
    world_from_mm[:, :3, 3] = -scale * random.normal(size=(count, 3)) * [200, 200, 10]
    lengths = np.sort(random.uniform(20, 100, (count, 3)))[:, ::-1]
    return lengths, lengths.prod(axis=1) / 2, axis / np.linalg.norm(axis, axis=1, keepdims=True), world_from_mm


@given(st.integers(0, 1000), st.floats(0, 360), st.tuples(st.floats(-2, 2), st.floats(-2, 2)), st.booleans())
def test_where_the_mouse_stands_and_which_way_it_looks_is_no_pose(seed, degrees, along_the_floor, flipped):
    lengths, volume, axis, world = hulls(seed)
    turned = world.copy()
    turned[:, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix() @ world[:, :3]
    turned[:, :2, 3] += along_the_floor
    before = shape_descriptors(lengths, volume, axis, world)
    after = shape_descriptors(lengths, volume, -axis if flipped else axis, turned)
    np.testing.assert_allclose(after, before, atol=1e-9)
    picks = [farthest_points(standardised(shape), 20).tolist() for shape in (before, after)]
    assert picks[0] == picks[1]


def test_pitch_is_told_from_the_floor_and_height_in_millimetres():
    world = np.tile(np.eye(4), (3, 1, 1))
    world[:, :3, :3] *= 0.02
    world[:, :3, 3] = -0.02 * np.array([50, 60, 30])  # the mouse's centre stands 30 mm high
    axis = np.array([[1, 0, 0], [0, 0, -1], [0, np.cos(0.5), np.sin(0.5)]])
    shape = dict(zip(SHAPE, shape_descriptors(np.ones((3, 3)), np.ones(3), axis, world).T, strict=True))
    np.testing.assert_allclose(shape["pitch_deg"], [0, 90, np.degrees(0.5)], atol=1e-6)
    np.testing.assert_allclose(shape["height_mm"], 30)


def test_standardised_values_are_in_deviations_from_the_median_and_wild_ones_are_no_wilder_than_some():
    random = np.random.default_rng(0)
    values = random.normal(50, 7, (5000, 2))
    values[0] = 1e9
    result = standardised(values)
    np.testing.assert_allclose(np.median(result, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(result[1:].std(axis=0), 1, rtol=0.05)
    assert (result[0] == MAX_DEVIATIONS).all()
    np.testing.assert_array_equal(standardised(np.full((5, 2), 3.0)), 0)
    mostly_alike = standardised(np.array([[1.0]] * 9 + [[2.0]]))
    assert mostly_alike[9, 0] == MAX_DEVIATIONS and (mostly_alike[:9] == 0).all()


def test_frames_without_a_hull_do_not_count_in_the_median_and_are_picked_last():
    values = np.random.default_rng(1).normal(size=(30, 3))
    with_holes = np.insert(values, 7, np.nan, axis=0)
    with_holes = np.insert(with_holes, 20, np.nan, axis=0)
    result = standardised(with_holes)
    np.testing.assert_array_equal(np.delete(result, [7, 20], axis=0), standardised(values))
    assert farthest_points(result, 32)[-2:].tolist() == [7, 20]
    assert not set(farthest_points(result, 30).tolist()) & {7, 20}
    assert farthest_points(np.full((4, 3), np.nan), 2).tolist() == [0, 1]
    assert farthest_points(np.empty((0, 3)), 2).tolist() == []


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 60))
def test_farthest_points_are_different_and_the_first_of_more_are_those_of_fewer(seed, count, wanted):
    points = np.random.default_rng(seed).normal(size=(count, 4)).round(1)
    picked = farthest_points(points, wanted)
    assert len(set(picked.tolist())) == len(picked) == min(wanted, count)
    np.testing.assert_array_equal(farthest_points(points, wanted + 1)[: len(picked)], picked)
    for k in range(1, len(picked)):
        nearest = np.linalg.norm(points[:, None] - points[picked[:k]], axis=2).min(axis=1)
        assert nearest[picked[k]] == pytest.approx(nearest.max())


def test_the_first_pick_is_the_most_typical_frame():
    values = np.random.default_rng(2).normal(size=(101, 5))
    points = standardised(values)
    assert farthest_points(points, 1)[0] == np.linalg.norm(points, axis=1).argmin()


@given(st.integers(0, 1000))
def test_diverse_frames_show_rare_poses_that_uniform_ones_miss(seed):
    random = np.random.default_rng(seed)
    values = random.normal(size=(1000, 6))
    rare = random.choice(np.setdiff1d(np.arange(1000), evenly_spaced(1000, 10)), 5, replace=False)
    values[rare, 4] += 30
    assert not set(evenly_spaced(1000, 10).tolist()) & set(rare.tolist())
    assert set(farthest_points(standardised(values), 10).tolist()) & set(rare.tolist())


# Views


@given(st.permutations([0, 50, 110, 170, 240, 300]), st.integers(0, 1000), st.floats(0, 360))
def test_views_are_ordered_by_azimuth_from_the_first_camera(azimuths, seed, turn):
    azimuths = [a + turn for a in azimuths]
    order = view_order(level_cameras(7, azimuths, jitter=4, seed=seed))
    expected = sorted(range(6), key=lambda v: (azimuths[v] - azimuths[0]) % 360)
    assert order == expected


def test_one_frame_in_which_two_cameras_seem_swapped_does_not_change_the_order():
    usual = level_cameras(9, [0, 60, 65, 180, 240, 300])
    swapped = level_cameras(1, [0, 65, 60, 180, 240, 300])
    for one in (0, 5, 9):
        assert view_order(np.insert(usual, one, swapped[0], axis=0)) == [0, 1, 2, 3, 4, 5]


@given(st.integers(0, 1000), st.integers(2, 8), st.integers(2, 6))
def test_the_chosen_views_spread_best_of_all_subsets(seed, cameras, views):
    vectors = directions(seed, cameras)
    chosen = spread_views(vectors, min(views, cameras))
    best = max(smallest_angle(vectors[list(subset)]) for subset in combinations(range(cameras), min(views, cameras)))
    assert smallest_angle(vectors[chosen]) == pytest.approx(best, abs=1e-6)
    assert chosen == sorted(set(chosen))


@given(st.integers(0, 1000), st.integers(30, 60), st.integers(4, 9))
def test_views_of_a_large_rig_spread_better_than_random_ones(seed, cameras, views):
    vectors = directions(seed, cameras)
    chosen = spread_views(vectors, views)
    assert len(set(chosen)) == views
    random = np.random.default_rng(seed)
    others = (random.choice(cameras, views, replace=False) for _ in range(30))
    assert smallest_angle(vectors[chosen]) >= max(smallest_angle(vectors[other]) for other in others)


def test_exchanging_finds_nearly_what_trying_all_finds(monkeypatch):
    for seed in range(20):
        vectors = directions(seed, 14)
        with monkeypatch.context() as patch:
            patch.setattr("mousefacelift.geometry.selection.MAX_SUBSETS", 0)
            quick = smallest_angle(vectors[spread_views(vectors, 6)])
        assert quick >= 0.9 * smallest_angle(vectors[spread_views(vectors, 6)])


@pytest.mark.parametrize("most", [0, 1000])
def test_among_equal_smallest_angles_those_are_chosen_whose_others_are_larger(monkeypatch, most):
    monkeypatch.setattr("mousefacelift.geometry.selection.MAX_SUBSETS", most)
    angle = np.deg2rad([0, 60, 120, 180])
    chosen = spread_views(np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1), 3)
    assert chosen[0] == 0 and chosen[-1] == 3, "60 degrees apart are two in any three of them"


def test_no_single_exchange_makes_the_views_of_a_large_rig_better():
    for seed in range(20):
        vectors = directions(seed, 40)
        chosen = spread_views(vectors, 9)
        best = smallest_angle(vectors[chosen])
        for member in chosen:
            rest = [v for v in chosen if v != member]
            for other in set(range(40)) - set(chosen):
                assert smallest_angle(vectors[[*rest, other]]) <= best + 1e-9


@given(st.permutations(range(6)), st.integers(2, 6), st.lists(st.integers(0, 9), min_size=6, max_size=6))
def test_views_are_chosen_among_cameras_that_are_of_use_half_as_often_as_the_best(order, count, useful):
    names = ["cam10", "cam9", "top", "cam2", "b", "01"]
    usable = np.arange(9)[:, None] < useful
    among = usable_views(names, usable, count)
    often = [v for v in range(6) if useful[v] >= max(useful) / 2]
    assert among == sorted(among) and set(often) <= set(among)
    assert len(among) == max(count, len(often))
    assert all(useful[v] <= useful[w] for v in set(range(6)) - set(among) for w in among)
    shuffled = usable_views([names[v] for v in order], usable[:, list(order)], count)
    assert {order[v] for v in shuffled} == set(among)


def test_of_cameras_of_equal_use_the_first_by_name_fill_up():
    usable = np.array([[0, 0, 0, 1]], bool)
    assert usable_views(["cam10", "cam2", "cam9", "cam11"], usable, 3) == [1, 2, 3]


def test_views_that_look_the_same_way_are_not_chosen_together():
    pairs = np.repeat(directions(3, 6), 2, axis=0)
    chosen = spread_views(pairs, 6)
    assert sorted(v // 2 for v in chosen) == list(range(6))
    assert len(set(spread_views(pairs, 12))) == 12, "unless all are asked for"


@given(st.permutations(range(9)), st.integers(0, 100), st.booleans())
def test_the_order_in_which_cameras_are_listed_does_not_matter(order, seed, symmetric):
    names = ["cam10", "cam9", "top", "cam2", "b", "a", "01", "1", "left"]
    centers = directions(seed, 9)
    if symmetric:  # many subsets spread equally well
        angle = np.arange(9) * 2 * np.pi / 9
        centers = np.stack([np.cos(angle), np.sin(angle), np.full(9, 0.4)], axis=1)
    R = look_at(centers, np.zeros(3))
    w2c = rigid(R, -(R @ centers[..., None])[..., 0])[None]
    for count in (4, 9):
        views, angle = choose_views(names, w2c, count)
        shuffled, same = choose_views([names[v] for v in order], w2c[:, list(order)], count)
        assert [names[order[v]] for v in shuffled] == [names[v] for v in views]
        assert angle == pytest.approx(same)
        assert angle == pytest.approx(np.degrees(smallest_angle(centers[views])), abs=1e-4)
    assert names[views[0]] == "01", "the first name in natural order"


# Splits


@given(st.integers(0, 60), FRACTIONS)
def test_things_are_shared_out_by_fractions_and_none_is_forgotten(count, shares):
    fractions = split(shares)
    given_ = allocate(count, fractions)
    assert sum(given_.values()) == count
    wanted = [name for name in SPLITS if getattr(fractions, name) > 0]
    assert all(given_[name] == 0 for name in SPLITS if name not in wanted)
    if count >= len(wanted):
        assert all(given_[name] >= 1 for name in wanted)
        assert all(abs(given_[name] - getattr(fractions, name) * count) < 2 for name in SPLITS)


ANIMALS = st.dictionaries(
    st.text("abc0123456789", min_size=1, max_size=5),
    st.sampled_from(["m1", "m2", "m10", "m3"]),
    min_size=1,
    max_size=25,
)


@given(ANIMALS, st.sampled_from(["capture", "animal"]), FRACTIONS, st.randoms())
def test_whole_captures_or_animals_go_to_one_split_whatever_their_order(animal_of, kind, shares, random):
    settings = Sample(split=kind, fractions=split(shares))
    groups = set(animal_of) if kind == "capture" else set(animal_of.values())
    wanted = {name for name in SPLITS if getattr(settings.fractions, name) > 0}
    if len(groups) < len(wanted):
        with pytest.raises(UserError, match=rf"sample\.split: {kind}: {len(wanted)} splits .* use split: block"):
            capture_splits(animal_of, settings)
        return
    found = capture_splits(animal_of, settings)
    assert list(found) == list(animal_of)
    assert set(found.values()) == wanted
    if kind == "animal":
        for animal in groups:
            assert len({found[capture] for capture in animal_of if animal_of[capture] == animal}) == 1
    shuffled = list(animal_of)
    random.shuffle(shuffled)
    assert capture_splits({name: animal_of[name] for name in shuffled}, settings) == found


def test_captures_of_a_split_are_spread_over_the_names_in_their_natural_order():
    settings = Sample(split="capture", fractions=SplitFractions(train=0.6, val=0.2, test=0.2))
    found = capture_splits({f"day{k}": "m" for k in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)}, settings)
    order = [found[f"day{k}"] for k in range(1, 11)]
    assert order == ["train", "train", "val", "test", "train", "train", "train", "val", "test", "train"]
    assert capture_splits({"a": "m"}, Sample()) == {}, "blocks in time need no such thing"


def test_too_few_animals_are_named_with_what_to_do():
    with pytest.raises(UserError) as caught:
        capture_splits({"d1": "m2", "d2": "m10", "d3": "m2"}, Sample(split="animal"))
    assert str(caught.value) == (
        "sample.split: animal: 3 splits (train, val, test) need as many animals; the captures table has 2 (m2, m10): add "
        "some, use split: block, or set a fraction to 0 (sample.fractions)"
    )


def test_time_is_given_to_the_splits_by_their_fractions_and_in_their_order():
    time = np.arange(1001) / 100
    for fractions in (SplitFractions(), SplitFractions(train=0.5, val=0.2, test=0.3)):
        splits = split_blocks(time, fractions, 0)
        counts = Counter(splits)
        for name in SPLITS:
            assert counts[name] == pytest.approx(1000 * getattr(fractions, name), abs=1.5)
        assert splits == sorted(splits, key=SPLITS.index)


def test_a_gap_is_centred_on_each_border():
    time = np.arange(1001) / 100
    splits = split_blocks(time, SplitFractions(), 0.5)
    dropped = time[[s is None for s in splits]]
    assert all(np.abs(np.array([8.0, 9.0]) - t).min() < 0.25 for t in dropped)
    assert len(dropped) == pytest.approx(100, abs=2)


@given(
    st.lists(st.floats(0.001, 5), min_size=1, max_size=60), FRACTIONS, st.floats(0, 4), st.integers(1, 6),
    st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_frames_of_different_splits_are_never_closer_than_the_gap(steps, shares, gap_s, rounds, stratify, seed):
    time, fractions = np.cumsum(steps), split(shares)
    if stratify:
        strata = np.random.default_rng(seed).integers(0, 4, len(time))
        splits = split_stratified(time, strata, fractions, gap_s, rounds)
    else:
        splits = split_blocks(time, fractions, gap_s, rounds)
    kept = [(t, name) for t, name in zip(time, splits, strict=True) if name is not None]
    for (t, one), (u, other) in pairwise(kept):
        assert one == other or u - t >= gap_s - 1e-9
    assert all(getattr(fractions, name) > 0 for _, name in kept), "a split without a share of the time has frames"
    if gap_s == 0:
        assert len(kept) == len(time)


@given(FRACTIONS, st.floats(0, 100), st.integers(1, 100_000), st.integers(1, 3))
def test_a_single_instant_is_of_the_largest_split_and_in_no_gap(shares, gap_s, rounds, frames):
    fractions = split(shares)
    (name,) = set(split_blocks(np.full(frames, 7.0), fractions, gap_s, rounds))
    assert getattr(fractions, name) == max(fractions.model_dump().values())


def bouts(seed, length=25):
    """Standardised shapes of 1000 frames at 20 Hz: 95 % walking, and rearing in two bouts, early in the capture."""
    random = np.random.default_rng(seed)
    shapes = random.normal(size=(1000, 6))
    rare = np.zeros(1000, bool)
    for begin in (random.integers(0, 350), random.integers(400, 750)):
        rare[begin : begin + length] = True
    shapes[rare, 4] += 20
    return standardised(shapes), rare


@given(st.integers(0, 1000))
def test_a_rare_pose_has_strata_of_its_own_the_same_every_time(seed):
    shapes, rare = bouts(seed)
    strata = pose_strata(shapes)
    mostly_rare = [k for k in set(strata.tolist()) if rare[strata == k].mean() > 0.5]
    assert np.isin(strata[rare], mostly_rare).mean() > 0.75
    np.testing.assert_array_equal(pose_strata(shapes), strata)


def test_frames_that_were_not_measured_count_as_typical():
    random = np.random.default_rng(0)
    shapes = np.concatenate([random.normal(0, 0.1, (50, 6)), random.normal(4, 0.1, (20, 6))])
    unmeasured = pose_strata(np.concatenate([shapes, np.full((30, 6), np.nan)]))
    np.testing.assert_array_equal(unmeasured, pose_strata(np.concatenate([shapes, np.zeros((30, 6))])))
    assert not set(unmeasured[50:70].tolist()) & set(unmeasured[70:].tolist())


@given(st.integers(0, 1000))
def test_frames_of_a_rare_pose_that_a_gap_may_take_are_not_counted_on(seed):
    rare = np.zeros(1000, int)
    random = np.random.default_rng(seed)
    blocks = 2 * random.choice(24, 4, replace=False) + 1
    for block in blocks[:2]:
        rare[block * 20 : block * 20 + 2] = 1  # a fitting share for val and for test, but on a border
    for block in blocks[2:]:
        rare[block * 20 + 6 : block * 20 + 14] = 1
    splits = np.array(split_stratified(np.arange(1000) / 20, rare, TENTHS, 0.3, rounds=5), object)
    assert {"val", "test"} <= set(splits[rare == 1].tolist())


@given(st.integers(0, 1000))
def test_a_rare_pose_is_seen_by_every_split_where_plain_blocks_miss_it(seed):
    shapes, rare = bouts(seed)
    time, strata = np.arange(1000) / 20, pose_strata(shapes)
    plain = np.array(split_blocks(time, TENTHS, 0.1), object)
    assert not (plain[rare] == "val").any() and not (plain[rare] == "test").any()
    splits = np.array(split_stratified(time, strata, TENTHS, 0.1, rounds=10), object)
    for name in SPLITS:
        assert (splits[rare] == name).any()
        share = (splits == name).sum() / sum(s is not None for s in splits)
        assert share == pytest.approx(getattr(TENTHS, name), abs=0.05)


@given(st.integers(0, 1000))
def test_a_pose_seen_in_two_blocks_is_for_val_and_test(seed):
    rare = np.zeros(1000, int)
    for block in np.random.default_rng(seed).choice(50, 2, replace=False):
        rare[block * 20 + 5 : block * 20 + 15] = 1
    splits = np.array(split_stratified(np.arange(1000) / 20, rare, TENTHS, 0.1, rounds=5), object)
    assert {"val", "test"} == set(splits[rare == 1].tolist())


@given(st.integers(0, 1000), FRACTIONS)
def test_each_split_gets_its_share_of_every_stratum(seed, shares):
    random, fractions = np.random.default_rng(seed), split(shares)
    strata = np.repeat(random.integers(0, 3, 200), 10)  # poses that last half a second
    splits = np.array(split_stratified(np.arange(2000) / 20, strata, fractions, 0, rounds=20))
    for stratum in range(3):
        for name in SPLITS:
            share = (splits[strata == stratum] == name).mean()
            assert share == pytest.approx(getattr(fractions, name), abs=0.05)


def test_blocks_are_whole_and_as_many_as_their_fractions_say():
    splits = split_stratified(np.arange(1000) / 20, np.zeros(1000, int), TENTHS, 0, rounds=2)
    assert Counter(splits) == {"train": 800, "val": 100, "test": 100}
    assert all(len(set(splits[k : k + 50])) == 1 for k in range(0, 1000, 50))
