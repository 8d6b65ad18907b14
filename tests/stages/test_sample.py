import csv
import json
import re
from collections import Counter
from unittest.mock import patch

import h5py
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mousefacelift.artifacts.center import Flag
from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.samples import Samples
from mousefacelift.artifacts.subject import Subject
from mousefacelift.base.errors import UserError
from mousefacelift.config.config import Config
from mousefacelift.config.sample import SPLITS, Sample, SplitFractions
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Train
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.geometry.views import inverse_rigid
from mousefacelift.stages.sample import check_views, rejections, sample, view_checks
from mousefacelift.stages.shard import shard
from support.balls import level_cameras

NAMES = ["1", "2", "3", "4", "5", "6"]
AZIMUTHS = [200.0, 20, 80, 320, 260, 140]  # counter-clockwise from the first: 1, 5, 4, 2, 3, 6
ORDER = "1,5,4,2,3,6"


def run(
    folder, frames=100, names=NAMES, flags=None, fits=None, lost=(), iou=None, cut=None, rearing=(), fps=20.0,
    settings=None, split=None, chunk_frames=30, azimuths=AZIMUTHS,
):  # fmt: skip
    """sample() on a synthetic capture; gives the rows of samples.tsv and rejected.tsv. lost: frames without a centre."""
    index, views = np.arange(frames), len(names)
    known = np.setdiff1d(index, lost)
    axis = np.tile([1.0, 0, 0], (frames, 1))
    axis[list(rearing)] = [0, 0, 1]
    center_mm = np.zeros((frames, 3))
    center_mm[list(lost)] = np.nan
    subject = Subject(
        capture="day1", cameras=tuple(names), frame=index, time_s=index / fps, chunk=index // chunk_frames,
        flags=np.zeros((frames, views), np.uint8) if flags is None else flags,
        residual_px=np.where(np.isin(index, known)[:, None], np.ones(views), np.nan),
        area_px=np.full((frames, views), 5000), sharpness=np.ones((frames, views)), center_mm=center_mm,
        triangulated_mm=center_mm, volume_mm3=np.full(frames, 4e4), lengths_mm=np.tile([80.0, 40, 30], (frames, 1)),
        axis=axis, hull_iou=np.full((frames, views), 0.9) if iou is None else iou,
        cut=np.full((frames, views), np.nan) if cut is None else cut, center_rays=np.zeros((frames, views, 3)),
        outline_px=np.zeros((frames, views, 4, 2)), outline_rays=np.zeros((frames, views, 4, 3)),
        surface_mm=np.zeros((frames, 1, 3), np.float32), thin_mm=np.zeros((frames, 1, 4), np.float32),
        body_mm=np.zeros((frames, 1, 3), np.float32),
    )  # fmt: skip
    subject.write(folder / "subject.h5")
    of_views, located = np.ones((len(known), views)), subject.at(known)
    Poses(
        capture="day1", cameras=tuple(names), image_size=512, distance_policy="exact", frame=located.frame,
        time_s=located.time_s, chunk=located.chunk, flags=located.flags, residual_px=located.residual_px,
        w2c=level_cameras(frames, azimuths[:views], jitter=5)[known], fxfycxcy=np.ones((len(known), views, 4)),
        image_fxfycxcy=np.ones((len(known), views, 4)), R_view=np.tile(np.eye(3), (len(known), views, 1, 1)),
        world_from_mm=np.tile(np.diag([0.01, 0.01, 0.01, 1]), (len(known), 1, 1)),
        world_units_per_mm=np.full(len(known), 0.01), distance=2.7 * of_views, reprojection_px=np.zeros((len(known), 3)),
        fits=(np.ones((frames, views), bool) if fits is None else fits)[known], fill=0.2 * of_views,
        width=0.5 * of_views, body_width=0.4 * of_views, body_length=0.8 * np.ones(len(known)),
        clipped_px=0 * of_views, offset_px=of_views,
    ).write(folder / "cameras.h5")  # fmt: skip
    sample(folder / "cameras.h5", folder / "subject.h5", folder, settings or Sample(), split)
    return tables(folder)


def tables(folder):
    return table(folder / "samples.tsv"), table(folder / "rejected.tsv")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


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
    measured, limit = data.draw(st.booleans()), data.draw(st.none() | st.integers(1, 70))
    select, stratify = data.draw(st.sampled_from(["uniform", "diverse"])), data.draw(st.booleans())
    assume(select == "uniform" or limit)
    settings = Sample(frames=limit, gap_s=data.draw(st.floats(0, 1)), select=select, stratify=stratify)
    cut = np.full((frames, 6), 0.01 if measured else np.nan)
    bad = flags & ~np.uint8(Flag.CLIPPED if measured else 0)
    good = [f for f in range(frames) if f not in lost and not bad[f].any() and fits[f].all()]
    assume(good)
    folder = tmp_path_factory.mktemp("sample")
    try:
        with patch("mousefacelift.stages.sample.plot_sampling"):  # half of the time
            rows, rejected = run(folder, frames, flags=flags, fits=fits, lost=lost, cut=cut, settings=settings)
    except UserError as error:
        assert "lower sample.gap_s" in str(error)
        rejected = table(folder / "rejected-failed.tsv")
        assert [int(r["frame"]) for r in rejected] == list(range(frames))
        assert {int(r["frame"]) for r in rejected if "(sample." in r["reason"]} == set(good)
        return
    kept, dropped = [int(r["frame"]) for r in rows], [int(r["frame"]) for r in rejected]
    assert sorted(kept + dropped) == list(range(frames))
    assert set(kept) <= set(good)
    assert all(r["reason"] for r in rejected)
    assert all(r["capture"] == "day1" and float(r["time_s"]) == int(r["frame"]) / 20 for r in rejected)
    left = {int(r["frame"]) for r in rejected if "sample.frames" in r["reason"]}
    assert len(left) == max(len(good) - (limit or len(good)), 0)
    assert left <= set(good)
    if select == "uniform":
        assert set(good) - left == set(np.array(good)[evenly_spaced(len(good), limit)].tolist())
    for one in rows:
        for other in rows:
            if one["split"] != other["split"]:
                assert abs(float(one["time_s"]) - float(other["time_s"])) >= settings.gap_s - 1e-5
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["candidates"], summary["accepted"]) == (frames, len(rows))
    assert summary["samples"] == {name: sum(r["split"] == name for r in rows) for name in SPLITS}
    assert summary["rejected"]["total"] == sum(summary["rejected"]["by_reason"].values()) == len(rejected)
    for camera, count in summary["rejected"]["by_camera"].items():
        assert count == sum(camera in re.findall(r"\d+", r["reason"].partition(": camera ")[2]) for r in rejected)


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
        (Flag.OCCLUDED | Flag.SEVERAL_BLOBS, "hidden in part by another animal: camera 2, 5"),
        (Flag.EXCHANGED | Flag.OCCLUDED, "silhouette is another animal's: camera 2, 5"),
    ],
)
def test_a_reason_names_the_cameras(flag, reason):
    assert str(judge({})) == "None"
    assert str(judge({1: flag, 4: flag})) == reason


def judge(flags=None, cut=None, settings=None, located=range(6), fits=range(6)):
    """The rejection of a frame whose views are fine but for these."""
    values, share = np.zeros(6, np.uint8), np.full(6, np.nan)
    for view, flag in (flags or {}).items():
        values[view] = flag
    for view, amount in (cut or {}).items():
        share[view] = amount
    there, inside = np.isin(np.arange(6), list(located)), np.isin(np.arange(6), list(fits))
    frame = (each[None] for each in (values, inside, there, np.ones(6), share))
    return rejections(view_checks(*frame, settings or Sample()), NAMES)[0]


def test_a_view_is_rejected_by_how_much_of_the_mouse_the_videos_edge_cuts_off():
    clipped = {1: Flag.CLIPPED, 4: Flag.CLIPPED}
    assert judge(clipped, {1: 0.02, 4: 0.001}) is None, "the tip of a tail"
    reason = "the video's edge cuts off more than 2 % of the mouse: camera 2, 5"
    assert str(judge(clipped, {1: 0.021, 4: 0.5})) == reason
    assert str(judge({}, {1: 0.021, 4: 0.5})) == reason, "whether or not its silhouette touches the edge"
    assert str(judge(clipped, {1: 0.02, 4: 0.04}, Sample(max_cut=0.025))) == (
        "the video's edge cuts off more than 2.5 % of the mouse: camera 5"
    )
    assert str(judge(clipped, {1: 0.02})) == "clipped by the video's edge: camera 5", "how much is not known"
    assert judge(clipped, {1: 0.9, 4: 1}, Sample(max_cut=1)) is None
    assert str(judge(clipped, {1: 0.9, 4: 0.01})) == "the video's edge cuts off more than 2 % of the mouse: camera 2"


def test_a_view_that_shows_something_else_than_the_others_is_named(tmp_path):
    iou = np.full((100, 6), 0.9)
    iou[7, 3], iou[8, 3], iou[9] = 0.39, 0.41, np.nan  # NaN: not measured, for want of a hull
    rows, rejected = run(tmp_path, iou=iou)
    assert {r["frame"]: r["reason"] for r in rejected if int(r["frame"]) < 20} == {
        "7": "silhouette contradicts the other views (hull IoU below 0.4): camera 4"
    }
    assert {"8", "9"} <= {r["frame"] for r in rows}


def test_a_silhouette_larger_than_its_view_is_rejected():
    assert str(judge(fits=[0, 1, 3, 4, 5])) == "mouse does not fit the normalised view (normalize.fit): camera 3"


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
def test_fewer_cameras_than_views_is_an_error_that_says_what_to_set(tmp_path, count):
    message = (
        rf"capture day1 has {count} .*, fewer than sample\.views \(6\): set sample\.views: {count} and "
        rf"train\.num_input_views: {count - 1}{', and train.i_know: true .*' * (count < 5)}$"
    )
    with pytest.raises(UserError, match=message):
        run(tmp_path, names=NAMES[:count])
    assert not list(tmp_path.glob("*.tsv"))
    rows, _ = run(tmp_path, names=NAMES[:count], settings=Sample(views=count))
    assert {len(row["views"].split(",")) for row in rows} == {count}


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_what_too_few_cameras_are_told_to_set_is_a_configuration(count):
    with pytest.raises(UserError) as caught:
        check_views("day1", NAMES[:count], 6)
    told = dict(re.findall(r"(?:sample|train)\.(\w+): (\w+)", str(caught.value)))
    Config(sample=Sample(views=told.pop("views")), train=Train(**told))


def test_of_more_cameras_those_that_spread_best_are_chosen_and_judged(tmp_path):
    flags, cut = np.zeros((100, 6), np.uint8), np.zeros((100, 6))
    flags[:30, [1, 4, 5]], cut[30:49, [1, 4, 5]] = Flag.EMPTY, 0.5  # cameras 2, 5, 6, which are not chosen
    flags[70, 2] = Flag.UNSHARP
    rows, rejected = run(tmp_path, flags=flags, cut=cut, settings=Sample(views=3, gap_s=0))
    assert {row["views"] for row in rows} == {"1,4,3"}
    assert [(r["frame"], r["reason"]) for r in rejected] == [("70", "unsharp: camera 3")]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["views"] == rows[0]["views"].split(",")
    assert summary["min_angle_deg"] > 100
    assert summary["cameras_left_out"] == {}


def test_a_camera_that_seldom_sees_the_mouse_is_not_chosen_however_well_it_stands(tmp_path, capsys):
    flags, iou = np.zeros((100, 6), np.uint8), np.full((100, 6), 0.9)
    flags[:, 2], iou[:60, 0] = Flag.EMPTY, 0.1  # of cameras 1, 3, 4, which spread best
    rows, rejected = run(tmp_path, flags=flags, iou=iou, lost=range(90, 100), settings=Sample(views=3, gap_s=0))
    assert {row["views"] for row in rows} == {"2,6,5"}
    assert len(rejected) == 10, "those without a centre"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cameras_left_out"] == {"1": 0.3333, "3": 0}
    err = capsys.readouterr().err
    assert "camera 3 is not among those that views are chosen from: it could be one in 0 % of the frames" in err
    rows, _ = run(tmp_path, flags=flags, iou=iou, settings=Sample(views=5, gap_s=0))
    assert {row["views"] for row in rows} == {"1,5,4,2,6"}, "the next best fills up"
    assert json.loads((tmp_path / "summary.json").read_text())["cameras_left_out"] == {"3": 0}


def test_a_chosen_few_of_the_demos_views_become_shards(tmp_path, demo_run):
    source = demo_run.folder
    sample(source / "cameras.h5", source / "subject.h5", tmp_path, Sample(views=4, gap_s=0.4, frames=6))
    rows, _ = tables(tmp_path)
    views = rows[0]["views"].split(",")
    assert views[0] == min(views) and len(set(views)) == 4
    chunk = source / "center" / demo_run.capture.name / "0000.h5"
    outputs = {name: (tmp_path / f"{name}.tar", tmp_path / f"{name}.h5") for name in SPLITS}
    shard(tmp_path / "samples.tsv", chunk, source / "cameras.h5", source / "rig.json", 0, outputs, Shard())
    with h5py.File(tmp_path / "train.h5") as file, h5py.File(source / "cameras.h5") as poses:
        assert file["image"].shape[1:] == (4, 512, 512, 4) and len(file["frame"])
        assert file["image"][()][..., 3].any(axis=(2, 3)).all(), "the mouse is in every view"
        n = np.flatnonzero(poses["frame"][()] == file["frame"][0])
        order = [NAMES.index(name) for name in views]
        np.testing.assert_allclose(file["c2w"][0], inverse_rigid(poses["w2c"][()][n][0, order]))


@pytest.mark.parametrize("kind", ["capture", "animal"])
def test_a_whole_capture_goes_to_the_split_it_is_given_without_gaps(tmp_path, kind):
    rows, rejected = run(tmp_path, settings=Sample(split=kind, gap_s=3), split="val")
    assert (len(rows), rejected) == (100, [])
    assert {row["split"] for row in rows} == {"val"}
    with pytest.raises(UserError, match=rf"sample\.split is {kind}: the capture's split must be given \(--split\)"):
        run(tmp_path, settings=Sample(split=kind))
    with pytest.raises(UserError, match=r"sample\.split is block: a capture's split is not given \(--split\)"):
        run(tmp_path, split="val")


def test_a_rare_pose_is_in_every_split_if_stratified_and_among_the_diverse_frames(tmp_path):
    rearing = [*range(100, 130), *range(300, 330)]
    summaries = {}
    for stratify in (False, True):
        rows, _ = run(tmp_path, 1000, rearing=rearing, settings=Sample(stratify=stratify, rounds=5, gap_s=0.1))
        summaries[stratify] = json.loads((tmp_path / "summary.json").read_text())
        found = {row["split"] for row in rows if int(row["frame"]) in rearing}
        assert found == set(SPLITS) if stratify else "val" not in found
    assert "strata" not in summaries[False]
    rare, common = summaries[True]["strata"]
    assert (rare["frames"], rare["pitch_deg"], common["frames"], common["pitch_deg"]) == (60, 90, 940, 0)
    assert sum(rare[name] for name in (*SPLITS, "left out")) == 60
    for select, count in (("uniform", 0), ("diverse", 1)):
        rows, _ = run(tmp_path, 1000, rearing=[501], settings=Sample(select=select, frames=10, gap_s=0))
        assert sum(row["frame"] == "501" for row in rows) == count
        assert [int(r["frame"]) for r in rows] == sorted(int(r["frame"]) for r in rows)


def test_totals_are_told_in_the_log_and_drawn(tmp_path, capsys):
    flags = np.zeros((100, 6), np.uint8)
    flags[:10, 1], flags[5:20, 3] = Flag.EMPTY, Flag.UNSHARP
    run(tmp_path, flags=flags, settings=Sample(gap_s=0, stratify=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "100 candidate frames, 80 samples" in err
    assert re.search(r"10 │ no silhouette .*10 │ unsharp ", err, re.DOTALL)
    assert "pose strata" in err
    assert "frames rejected for a camera's view: 2: 10, 4: 10" in err
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_when_all_are_rejected_the_reasons_are_counted(tmp_path):
    flags = np.zeros((100, 6), np.uint8)
    flags[:40, 1], flags[40:, 3], flags[90:, 4] = Flag.EMPTY, Flag.CLIPPED, Flag.CLIPPED
    message = (
        r"day1: no frame can become a sample \(.*rejected-failed\.tsv\): 60 x clipped by the video's edge: "
        r"camera 4, 5 \(10\); 40 x no silhouette: camera 2$"
    )
    with pytest.raises(UserError, match=message):
        run(tmp_path, flags=flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.h5", "rejected-failed.tsv", "subject.h5"]
    assert len(table(tmp_path / "rejected-failed.tsv")) == 100
    run(tmp_path)
    assert not (tmp_path / "rejected-failed.tsv").exists(), "of an earlier run"


def test_a_capture_whose_samples_all_fall_into_gaps_is_an_error_that_says_what_to_set(tmp_path, capsys):
    message = (
        r"day1: no frame can become a sample \(.*rejected-failed\.tsv\): 95 x not among the 5 .*; 5 x within the gap .*: lower "
        r"sample\.gap_s \(now 100 s\) or lower sample\.rounds \(now 1000\) or raise sample\.frames \(now 5\)$"
    )
    with pytest.raises(UserError, match=message):
        run(tmp_path, settings=Sample(frames=5, gap_s=100, rounds=1000))
    assert "warning" not in capsys.readouterr().err, "the error says it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.h5", "rejected-failed.tsv", "subject.h5"]


def test_a_split_that_gets_no_samples_is_told(tmp_path, capsys):
    rows, _ = run(tmp_path, settings=Sample(frames=1, gap_s=100, rounds=100000))
    assert [row["split"] for row in rows] == ["train"], "a single frame is no border between splits"
    (warning,) = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert warning == (
        "no sample is for val and test: lower sample.gap_s (now 100 s) or lower sample.rounds (now 100000) or raise "
        "sample.frames (now 1) or set the fraction to 0 (sample.fractions)"
    )
    assert f"warning: capture day1: {warning}" in capsys.readouterr().err
    for settings, split in (
        (Sample(), None),
        (Sample(split="animal"), "val"),
        (Sample(frames=1, fractions=SplitFractions(train=1, val=0, test=0)), None),
    ):
        run(tmp_path, settings=settings, split=split)
        assert json.loads((tmp_path / "summary.json").read_text())["warnings"] == []
        assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["cut", "axis"])
def test_a_file_of_an_earlier_version_is_named(tmp_path, missing):
    run(tmp_path)
    with h5py.File(tmp_path / "subject.h5", "a") as file:
        del file[missing]
    with pytest.raises(
        UserError, match=rf"subject\.h5: .*{missing}.*; delete it and run `mousefacelift cameras` again"
    ):
        sample(tmp_path / "cameras.h5", tmp_path / "subject.h5", tmp_path, Sample())


def test_files_of_two_runs_that_do_not_fit_are_named(tmp_path):
    run(tmp_path)
    with h5py.File(tmp_path / "subject.h5", "a") as file:
        file["frame"][50:] += 1
    with pytest.raises(UserError, match=r"cameras\.h5: has frames that .*subject\.h5 has not"):
        sample(tmp_path / "cameras.h5", tmp_path / "subject.h5", tmp_path, Sample())


def test_a_table_that_is_none_of_samples_is_named(tmp_path):
    with pytest.raises(UserError, match=r"samples\.tsv: no such file; it is written by `mousefacelift sample`"):
        Samples.read(tmp_path / "samples.tsv")
    for content in ("", "key\tframe\na\t1\n"):
        (tmp_path / "samples.tsv").write_text(content)
        with pytest.raises(UserError, match=r"samples\.tsv: expected the columns key, capture, frame"):
            Samples.read(tmp_path / "samples.tsv")


@pytest.mark.parametrize("cell", [(2, "x"), (4, "-1"), (5, "holdout")])
def test_a_damaged_row_is_named_by_its_line(tmp_path, cell):
    run(tmp_path)
    lines = (tmp_path / "samples.tsv").read_text().splitlines()
    cells = lines[3].split("\t")
    cells[cell[0]] = cell[1]
    (tmp_path / "samples.tsv").write_text("\n".join([*lines[:3], "\t".join(cells), *lines[4:]]))
    with pytest.raises(UserError, match="line 4: not a row"):
        Samples.read(tmp_path / "samples.tsv")


def test_a_view_that_does_not_locate_the_mouse_rejects_its_frame():
    reason = f"mouse's centre behind the camera or beyond its calibrated field: camera {NAMES[2]}"
    assert str(judge(located=[0, 1, 3, 4, 5])) == reason
