import csv
from collections import Counter
from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mousefacelift.center import Flag
from mousefacelift.config import Sample, Split
from mousefacelift.errors import UserError
from mousefacelift.geometry import look_at, rigid
from mousefacelift.sample import SPLITS, read_samples, reject_reason, sample, split_blocks, uniform, view_order

NAMES = ["1", "2", "3", "4", "5", "6"]
AZIMUTHS = [200.0, 20, 80, 320, 260, 140]  # counter-clockwise from the first: 1, 5, 4, 2, 3, 6
ORDER = "1,5,4,2,3,6"


def poses(frames, azimuths=AZIMUTHS, jitter=0.0, seed=0):
    """w2c [N, V, 4, 4] of level cameras around the origin, whose directions vary a little from frame to frame."""
    random = np.random.default_rng(seed)
    angle = np.deg2rad(np.array(azimuths) + random.uniform(-jitter, jitter, (frames, len(azimuths))))
    centers = 2.7 * np.stack([np.cos(angle), np.sin(angle), 0.3 + 0 * angle], axis=-1)
    R = look_at(centers, np.zeros(3))
    return rigid(R, -(R @ centers[..., None])[..., 0])


def run(
    folder, frames=100, names=NAMES, flags=None, fits=None, lost=(), iou=None, fps=20.0, settings=None, chunk_frames=30
):
    """sample() on a synthetic capture; gives the rows of samples.tsv and rejected.tsv. lost: frames without a centre."""
    index = np.arange(frames)
    known = np.setdiff1d(index, lost)
    with h5py.File(folder / "cameras.h5", "w") as file:
        file.attrs.update(capture="day1", cameras=names)
        file["frame"], file["time_s"], file["chunk"] = known, known / fps, known // chunk_frames
        file["flags"] = (np.zeros((frames, len(names)), np.uint8) if flags is None else flags)[known]
        file["fits"] = (np.ones((frames, len(names)), bool) if fits is None else fits)[known]
        file["residual_px"] = np.ones((len(known), len(names)))
        file["w2c"] = poses(frames, AZIMUTHS[: len(names)], jitter=5)[known]
    with h5py.File(folder / "subject.h5", "w") as file:
        file["frame"], file["time_s"] = index, index / fps
        file["hull_iou"] = np.full((frames, len(names)), 0.9) if iou is None else iou
    outputs = folder / "samples.tsv", folder / "rejected.tsv"
    sample(folder / "cameras.h5", folder / "subject.h5", *outputs, settings or Sample())
    with outputs[1].open(newline="") as file:
        return read_samples(outputs[0]), list(csv.DictReader(file, delimiter="\t"))


def test_time_is_given_to_the_splits_by_their_fractions_and_in_their_order():
    time = np.arange(1001) / 100
    for fractions in (Split(), Split(train=0.5, val=0.2, test=0.3)):
        splits = split_blocks(time, fractions, 0)
        counts = Counter(splits)
        for name in SPLITS:
            assert counts[name] == pytest.approx(1000 * getattr(fractions, name), abs=1.5)
        assert splits == sorted(splits, key=SPLITS.index)


def test_a_gap_is_centred_on_each_border():
    time = np.arange(1001) / 100
    splits = split_blocks(time, Split(), 0.5)
    dropped = time[[s is None for s in splits]]
    assert all(np.abs(np.array([8.0, 9.0]) - t).min() < 0.25 for t in dropped)
    assert len(dropped) == pytest.approx(100, abs=2)


@given(
    st.lists(st.floats(0.001, 5), min_size=1, max_size=60),
    st.tuples(*[st.integers(0, 5)] * 3).filter(any),
    st.floats(0, 4),
)
def test_frames_of_different_splits_are_never_closer_than_the_gap(steps, shares, gap_s):
    time = np.cumsum(steps)
    fractions = Split(**dict(zip(SPLITS, np.array(shares) / sum(shares), strict=True)))
    splits = split_blocks(time, fractions, gap_s)
    kept = [(t, SPLITS.index(s)) for t, s in zip(time, splits, strict=True) if s is not None]
    for (t, one), (u, two) in pairwise(kept):
        assert one <= two, "the splits are not in order"
        assert one == two or u - t >= gap_s - 1e-9
    assert all(shares[s] > 0 for _, s in kept), "a split without a share of the time has frames"


@given(st.integers(1, 500), st.integers(1, 500))
def test_frames_are_picked_evenly_with_the_first_and_the_last(count, wanted):
    picked = uniform(count, wanted)
    assert len(picked) == min(count, wanted)
    assert picked[0] == 0
    if wanted > 1:
        assert picked[-1] == count - 1
    if 1 < wanted < count:
        steps = np.diff(picked)
        assert steps.min() >= 1
        assert np.abs(steps - (count - 1) / (wanted - 1)).max() <= 1
    np.testing.assert_array_equal(uniform(count, None), np.arange(count))


@given(st.permutations([0, 50, 110, 170, 240, 300]), st.integers(0, 1000), st.floats(0, 360))
def test_views_are_ordered_by_azimuth_from_the_first_camera(azimuths, seed, turn):
    azimuths = [a + turn for a in azimuths]
    order = view_order(poses(7, azimuths, jitter=4, seed=seed))
    expected = sorted(range(6), key=lambda v: (azimuths[v] - azimuths[0]) % 360)
    assert order == expected


def test_one_frame_in_which_two_cameras_seem_swapped_does_not_change_the_order():
    usual, swapped = poses(9, [0, 60, 65, 180, 240, 300]), poses(1, [0, 65, 60, 180, 240, 300])
    for one in (0, 5, 9):
        assert view_order(np.insert(usual, one, swapped[0], axis=0)) == [0, 1, 2, 3, 4, 5]


def test_the_order_of_views_is_the_same_for_every_sample(tmp_path):
    rows, _ = run(tmp_path)
    assert {row["views"] for row in rows} == {ORDER}


def test_the_demos_views_go_once_around_the_mouse_counter_clockwise_in_every_sample(demo_run):
    names = set()
    for path in demo_run.shards:
        with h5py.File(path) as file:
            centers = file["c2w"][()][..., :3, 3]
            names.add(tuple(file.attrs["views"]))
        azimuth = np.degrees(np.arctan2(centers[..., 1], centers[..., 0]))
        steps = np.diff(np.concatenate([azimuth, azimuth[:, :1]], axis=1), axis=1) % 360
        np.testing.assert_allclose(steps.sum(axis=1), 360)
    (order,) = names
    assert order[0] == "1"
    assert sorted(order) == NAMES


def test_a_row_says_what_the_sample_is(tmp_path):
    rows, _ = run(tmp_path)
    row = rows[31]
    assert row == {
        "key": "day1-000031", "capture": "day1", "frame": "31", "time_s": "1.550000", "chunk": "1", "split": "train",
        "views": ORDER,
    }  # fmt: skip
    assert (tmp_path / "samples.tsv").read_bytes().count(b"\r") == 0


def test_a_good_capture_loses_only_its_gaps(tmp_path):
    rows, rejected = run(tmp_path, frames=201)
    assert Counter(r["reason"] for r in rejected) == {"within the gap of 0.25 s between two splits (sample.gap_s)": 10}
    assert [r["split"] for r in rows] == sorted((r["split"] for r in rows), key=SPLITS.index)


@given(st.data())
def test_every_candidate_is_in_exactly_one_table_and_rejected_ones_have_a_reason(tmp_path_factory, data):
    frames = data.draw(st.integers(2, 60))
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    flags = random.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 3], (frames, 6)).astype(np.uint8)
    fits = random.random((frames, 6)) > 0.01
    lost = np.flatnonzero(random.random(frames) < 0.1)
    clipped, limit = data.draw(st.booleans()), data.draw(st.none() | st.integers(1, 70))
    settings = Sample(allow_clipped=clipped, frames=limit, gap_s=data.draw(st.floats(0, 1)))
    bad = flags & ~np.uint8(Flag.CLIPPED if clipped else 0)
    good = [f for f in range(frames) if f not in lost and not bad[f].any() and fits[f].all()]
    assume(good)
    folder = tmp_path_factory.mktemp("sample")
    rows, rejected = run(folder, frames, flags=flags, fits=fits, lost=lost, settings=settings)
    kept, dropped = [int(r["frame"]) for r in rows], [int(r["frame"]) for r in rejected]
    assert sorted(kept + dropped) == list(range(frames))
    assert set(kept) <= set(good)
    assert all(r["reason"] for r in rejected)
    assert all(r["capture"] == "day1" and float(r["time_s"]) == int(r["frame"]) / 20 for r in rejected)
    chosen = set(np.array(good)[uniform(len(good), limit)].tolist())
    assert set(kept) <= chosen
    for r in rejected:
        assert ("sample.frames" in r["reason"]) == (int(r["frame"]) in set(good) - chosen)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        (Flag.EMPTY, "no silhouette: camera 2, 5"),
        (Flag.SEVERAL_BLOBS, "several blobs: camera 2, 5"),
        (Flag.UNSHARP, "unsharp: camera 2, 5"),
        (Flag.CLIPPED, "clipped by the video's edge: camera 2, 5"),
        (Flag.CLIPPED | Flag.EMPTY, "no silhouette: camera 2, 5"),
        (Flag.MISSING | Flag.EMPTY, "no frame (missing, or cannot be decoded): camera 2, 5"),
        (Flag.LARGE, "silhouette far larger than the mouse: camera 2, 5"),
    ],
)
def test_a_reason_names_the_cameras(flag, reason):
    flags, fits = np.zeros(6, np.uint8), np.ones(6, bool)
    assert reject_reason(flags, fits, np.ones(6, bool), np.ones(6), NAMES, Sample()) is None
    flags[[1, 4]] = flag
    assert reject_reason(flags, fits, np.ones(6, bool), np.ones(6), NAMES, Sample()) == reason
    if flag == Flag.CLIPPED:
        assert reject_reason(flags, fits, np.ones(6, bool), np.ones(6), NAMES, Sample(allow_clipped=True)) is None


def test_a_view_that_shows_something_else_than_the_others_is_named(tmp_path):
    iou = np.full((100, 6), 0.9)
    iou[7, 3], iou[8, 3], iou[9] = 0.39, 0.41, np.nan  # NaN: not measured, for want of a hull
    rows, rejected = run(tmp_path, iou=iou)
    assert {r["frame"]: r["reason"] for r in rejected if int(r["frame"]) < 20} == {
        "7": "silhouette contradicts the other views (hull IoU below 0.4): camera 4"
    }
    assert {"8", "9"} <= {r["frame"] for r in rows}


def test_a_silhouette_larger_than_its_view_is_rejected():
    fits = np.array([True, True, False, True, True, True])
    reason = reject_reason(np.zeros(6, np.uint8), fits, np.ones(6, bool), np.ones(6), NAMES, Sample(allow_clipped=True))
    assert reason == "silhouette does not fit the normalised view: camera 3"


def test_a_frame_without_a_centre_is_rejected_with_its_reason(tmp_path):
    _, rejected = run(tmp_path, lost=[7])
    assert {r["frame"]: r["reason"] for r in rejected}["7"] == "mouse found in too few views"


def test_the_limit_on_frames_is_uniform_over_the_good_ones(tmp_path):
    flags = np.zeros((100, 6), np.uint8)
    flags[:50, 0] = Flag.EMPTY
    rows, rejected = run(tmp_path, flags=flags, settings=Sample(frames=8, gap_s=0))
    assert [int(r["frame"]) for r in rows] == [50, 57, 64, 71, 78, 85, 92, 99]
    assert sum("not among the 8 frames chosen" in r["reason"] for r in rejected) == 42


@pytest.mark.parametrize("count", [5, 4])
def test_another_number_of_cameras_than_views_is_an_error(tmp_path, count):
    with pytest.raises(UserError, match=rf"capture day1: has {count} cameras; sample\.views asks for 6"):
        run(tmp_path, names=NAMES[:count])
    assert not list(tmp_path.glob("*.tsv"))


def test_when_all_are_rejected_the_commonest_reason_is_named(tmp_path):
    flags = np.zeros((100, 6), np.uint8)
    flags[:40, 1], flags[40:, 3] = Flag.EMPTY, Flag.CLIPPED
    with pytest.raises(UserError, match=r"day1: no frame can .* reason: clipped by the video's edge: camera 4$"):
        run(tmp_path, flags=flags)
    assert [path.name for path in tmp_path.glob("*.tsv")] == ["rejected.tsv"]


def test_a_table_that_is_none_of_samples_is_named(tmp_path):
    with pytest.raises(UserError, match=r"samples\.tsv: no such file; it is written by `mousefacelift sample`"):
        read_samples(tmp_path / "samples.tsv")
    for content in ("", "key\tframe\na\t1\n"):
        (tmp_path / "samples.tsv").write_text(content)
        with pytest.raises(UserError, match=r"samples\.tsv: expected the columns key, capture, frame"):
            read_samples(tmp_path / "samples.tsv")


@pytest.mark.parametrize("cell", [(2, "x"), (4, "-1"), (5, "holdout")])
def test_a_damaged_row_is_named_by_its_line(tmp_path, cell):
    run(tmp_path)
    lines = (tmp_path / "samples.tsv").read_text().splitlines()
    cells = lines[3].split("\t")
    cells[cell[0]] = cell[1]
    (tmp_path / "samples.tsv").write_text("\n".join([*lines[:3], "\t".join(cells), *lines[4:]]))
    with pytest.raises(UserError, match="line 4: not a row"):
        read_samples(tmp_path / "samples.tsv")


def test_a_view_that_does_not_locate_the_mouse_rejects_its_frame():
    located = np.array([True, True, False, True, True, True])
    reason = reject_reason(np.zeros(6, np.uint8), np.ones(6, bool), located, np.ones(6), NAMES, Sample())
    assert reason == f"mouse's centre behind the camera or beyond its calibrated field: camera {NAMES[2]}"
