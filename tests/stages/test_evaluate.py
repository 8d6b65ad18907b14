"""Evaluation: the numbers are those of the pictures, the baselines are what their names say, all files are there."""

import json
import math
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.metrics import METRICS
from mousefacelift.models.splats import read_ply
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.evaluate import (
    evaluate,
    input_views,
    nearest_view,
    open_trained,
    predict_views,
    turntable_cameras,
)
from mousefacelift.training.data import Samples
from support.balls import write_shards

SETTINGS = Evaluate(split="test", pictures=2, splats=1, turntable_frames=4, turntable_size=64)


@pytest.fixture(scope="module")
def results(synthetic_shards, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    (out / "pictures").mkdir()
    for stale in (out / "ball-old.ply", out / "pictures" / "ball-old.png"):
        stale.touch()
    evaluate(synthetic_shards, trained, out, SETTINGS, threads=1)
    return out


@pytest.fixture(scope="module")
def metrics(results):
    return json.loads((results / "metrics.json").read_text())


@pytest.fixture(scope="module")
def held_out_samples(synthetic_shards):
    return Samples(read_manifest(synthetic_shards), "test", 32, 1.0)


@pytest.fixture(scope="module")
def rows(results):
    lines = [line.split("\t") for line in (results / "metrics.tsv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_every_view_of_every_sample_is_scored_by_every_method(rows, metrics):
    assert len(rows) == 2 * 6 * 4
    assert {(row["key"], row["view"]) for row in rows} == {
        (f"ball-test-{i:06d}", str(v)) for i in range(2) for v in range(6)
    }
    assert (metrics["samples"], metrics["views"], metrics["image_size"], metrics["split"]) == (2, 6, 32, "test")


def test_the_summary_is_the_mean_of_the_rows(rows, metrics):
    for method in ("model", "white", "mean_train", "nearest_view"):
        summary = metrics["model"] if method == "model" else metrics["baselines"][method]
        for name in METRICS:
            values = [float(row[name]) for row in rows if row["method"] == method]
            assert summary[name] == pytest.approx(np.mean(values), abs=1e-3)
    best = max(baseline["psnr"] for baseline in metrics["baselines"].values())
    assert metrics["gain"]["psnr"] == pytest.approx(metrics["model"]["psnr"] - best)
    assert metrics["baselines"][metrics["best_baseline"]]["psnr"] == best


def test_the_white_baseline_is_a_white_image(held_out_samples, metrics):
    errors = [((1 - view) ** 2).mean().item() for i in range(2) for view in held_out_samples[i]["image"]]
    assert metrics["baselines"]["white"]["psnr"] == pytest.approx(
        np.mean([-10 * math.log10(e) for e in errors]), abs=1e-4
    )
    assert metrics["baselines"]["white"]["mask_iou"] == 0


def test_the_mean_train_baseline_is_the_mean_of_the_training_images(synthetic_shards, held_out_samples, rows):
    samples = Samples(read_manifest(synthetic_shards), "train", 32, 1.0)
    mean = torch.stack([samples[i]["image"][4] for i in range(len(samples))]).mean(0)
    expected = -10 * math.log10(((mean - held_out_samples[1]["image"][4]) ** 2).mean())
    (row,) = [r for r in rows if (r["key"], r["view"], r["method"]) == ("ball-test-000001", "4", "mean_train")]
    assert float(row["psnr"]) == pytest.approx(expected, abs=1e-3)


def test_the_nearest_view_is_the_one_that_looks_the_same_way(held_out_samples):
    c2w = held_out_samples[0]["c2w"]
    for view in range(6):
        inputs = input_views(6, 5, view)
        angles = {other: float(c2w[other, :3, 2] @ c2w[view, :3, 2]) for other in inputs}
        assert nearest_view(c2w, inputs, view) == max(angles, key=angles.get)
        assert nearest_view(c2w, inputs, view) in ((view - 1) % 6, (view + 1) % 6)


def test_the_held_out_view_is_never_an_input():
    for num_inputs in range(1, 6):
        for view in range(6):
            inputs = input_views(6, num_inputs, view)
            assert view not in inputs and len(set(inputs)) == num_inputs and inputs == sorted(inputs)
    assert input_views(6, 2, 1) == [0, 5] and input_views(6, 5, 2) == [0, 1, 3, 4, 5]


def test_turntable_cameras_circle_the_origin_upright():
    w2c = turntable_cameras(4).double()
    c2w = torch.linalg.inv(w2c)
    torch.testing.assert_close(c2w[0, :3, 3], torch.tensor([0, -2.7, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(c2w[1, :3, 3], torch.tensor([2.7, 0, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(w2c), torch.ones(4).double())
    for camera in w2c:
        torch.testing.assert_close(camera[:3, 3], torch.tensor([0, 0, 2.7]).double(), atol=1e-6, rtol=0)
        up = camera[:3, :3] @ torch.tensor([0, 0, 1]).double()
        torch.testing.assert_close(up, torch.tensor([0, -1, 0]).double(), atol=1e-6, rtol=0)


def test_the_turntable_is_a_video_of_the_asked_size(results):
    with av.open(str(results / "turntable.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 4


def test_pictures_and_splats_are_written_and_stale_ones_gone(results):
    assert {path.name for path in (results / "pictures").iterdir()} == {
        "ball-test-000000.png",
        "ball-test-000001.png",
    }
    picture = cv2.imread(str(results / "pictures" / "ball-test-000000.png"))
    assert picture.shape[0] > 600 and picture.shape[1] > 1000 and picture.std() > 10
    assert cv2.imread(str(results / "metrics.png")) is not None
    assert [path.name for path in results.glob("*.ply")] == ["ball-test-000000.ply"]
    assert len(read_ply(results / "ball-test-000000.ply")["x"]) > 0


def test_nothing_optional_is_written_when_not_asked(synthetic_shards, trained, tmp_path):
    settings = Evaluate(split="val", pictures=0, splats=0, turntable_frames=0)
    evaluate(synthetic_shards, trained, tmp_path, settings, threads=1)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "metrics.tsv", "metrics.png"}


def test_an_empty_split_is_refused(trained, tmp_path):
    manifest = write_shards(tmp_path, {"train": 1, "test": 0})
    with pytest.raises(UserError, match="no test samples"):
        evaluate(manifest, trained, tmp_path / "out", SETTINGS, threads=1)


def test_data_without_training_samples_get_a_white_mean(trained, tmp_path):
    manifest = write_shards(tmp_path, {"train": 0, "test": 1})
    settings = Evaluate(pictures=0, splats=0, turntable_frames=0)
    evaluate(manifest, trained, tmp_path / "out", settings, threads=1)
    baselines = json.loads((tmp_path / "out" / "metrics.json").read_text())["baselines"]
    assert baselines["mean_train"] == baselines["white"]


def test_samples_with_no_view_to_hold_out_are_refused(synthetic_shards, trained, tmp_path):
    record = (trained / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(record.replace("num_input_views: 5", "num_input_views: 6"))
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"6 views.* takes 6 as inputs: none would be held out"):
        evaluate(synthetic_shards, tmp_path, tmp_path / "out", SETTINGS, threads=1)


def test_missing_weights_are_refused(synthetic_shards, trained, tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml"):
        evaluate(synthetic_shards, tmp_path, tmp_path / "out", SETTINGS, threads=1)
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        evaluate(synthetic_shards, tmp_path, tmp_path / "out", SETTINGS, threads=1)


def test_a_model_trained_on_views_in_random_order_is_given_them_so_and_draws_the_same(synthetic_shards, trained):
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    given = []

    def spy(image, c2w, fxfycxcy):
        given.append(c2w)
        return opened.model(image, c2w, fxfycxcy)

    spied = replace(opened, model=spy, train=opened.train.model_copy(update={"view_order": "random"}))
    sample = opened.samples[1]
    rgb, alpha = predict_views(spied, sample)
    again, _ = predict_views(spied, sample)
    plain, plain_alpha = predict_views(opened, sample)
    assert torch.equal(rgb, again), "the order is of seed, sample and view"
    torch.testing.assert_close(rgb, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(alpha, plain_alpha, rtol=0, atol=1e-4)
    orders = [[int((sample["c2w"] == c).all((1, 2)).nonzero()) for c in c2w[0]] for c2w in given[:6]]
    assert [sorted(order) for order in orders] == [input_views(6, 5, view) for view in range(6)]
    assert sum(order != sorted(order) for order in orders) >= 5
