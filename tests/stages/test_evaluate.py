"""Evaluation: the numbers are those of the pictures, the baselines are what their names say, all files are there."""

import json
import math

import av
import cv2
import numpy as np
import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.train import Train
from mousefacelift.evaluation import pictures
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.predict import _device
from mousefacelift.models.splats import read_ply
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.evaluate import evaluate
from mousefacelift.training.data import Samples
from support.balls import write_shards
from support.registered import CLOSENESS, GREY
from support.tables import rows_of

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
    return rows_of(results / "metrics.tsv")


def test_every_view_of_every_sample_is_scored_by_every_method(rows, metrics):
    assert len(rows) == 2 * 6 * (1 + len(BASELINES))
    assert {(row["key"], row["view"]) for row in rows} == {
        (f"ball-test-{i:06d}", str(v)) for i in range(2) for v in range(6)
    }
    assert (metrics["samples"], metrics["views"], metrics["image_size"], metrics["split"]) == (2, 6, 32, "test")


def test_the_summary_is_the_mean_of_the_rows(rows, metrics):
    for method in ("model", *BASELINES):
        summary = metrics["model"] if method == "model" else metrics["baselines"][method]
        for name in METRICS:
            values = [float(row[name]) for row in rows if row["method"] == method]
            assert summary[name] == pytest.approx(np.mean(values), abs=1e-3)
    best = max(baseline["psnr"] for baseline in metrics["baselines"].values())
    assert metrics["gain"]["psnr"] == pytest.approx(metrics["model"]["psnr"] - best)
    assert metrics["baselines"][metrics["best_baseline"]]["psnr"] == best


def test_every_mean_has_its_standard_error_over_samples(results, rows, metrics):
    table = (results / "table.md").read_text()
    for method in ("model", *BASELINES):
        for name, each in METRICS.items():
            values = np.array([float(row[name]) for row in rows if row["method"] == method]).reshape(2, 6).mean(1)
            error = metrics["standard_error"][method][name]
            assert error == pytest.approx(values.std(ddof=1) / math.sqrt(2), abs=1e-3)
            assert f"{each.text(values.mean())} ± {each.text(error)}"[:-3] in table


def test_the_model_is_compared_with_the_best_baseline_of_every_metric(results, rows, metrics):
    """Paired over samples; the sentence says who is better."""
    table = (results / "table.md").read_text()
    by_sample = {
        method: {name: np.array([float(r[name]) for r in rows if r["method"] == method]).reshape(2, 6).mean(1) for name in METRICS}
        for method in ("model", *BASELINES)
    }  # fmt: skip
    for name, each in METRICS.items():
        best = max(BASELINES, key=lambda method: metrics["baselines"][method][name])
        lead = metrics["to_best_baseline"]["model"][name]
        gap = by_sample["model"][name] - by_sample[best][name]
        assert lead["baseline"] == best
        assert lead["mean"] == pytest.approx(gap.mean(), abs=1e-3) == pytest.approx(metrics["gain"][name], abs=1e-3)
        assert lead["standard_error"] == pytest.approx(gap.std(ddof=1) / math.sqrt(2), abs=1e-3)
        words = (
            "no clear difference" if not lead["clear"] else f"the model is {'better' if lead['mean'] > 0 else 'worse'}"
        )
        (line,) = [line for line in table.splitlines() if line.startswith(f"- {each.label}, model - ")]
        assert line.startswith(f"- {each.label}, model - {BASELINES[best].label}: ") and line.endswith(f": {words}")


@pytest.fixture(scope="module")
def optimised(synthetic_shards, trained, tmp_path_factory):
    """An evaluation with refinement and the fit."""
    out = tmp_path_factory.mktemp("optimised")
    asked = {"refine_steps": 2, "baselines": ["fit"], "fit_steps": 2, "pictures": 1, "turntable_frames": 0}
    evaluate(synthetic_shards, trained, out, SETTINGS.model_copy(update=asked), threads=1)
    return out


def test_a_run_with_refinement_has_the_model_with_and_without_it(optimised, rows, metrics):
    """Without it, and the baselines, it is as in the run that asks for nothing."""
    found = json.loads((optimised / "metrics.json").read_text())
    both = rows_of(optimised / "metrics.tsv")
    assert [row for row in both if row["method"] not in ("refined", "fit")] == rows
    assert (
        found["model"] == metrics["model"]
        and found["baselines"].pop("fit")
        and found["baselines"] == metrics["baselines"]
    )
    values = {
        method: np.array([float(row["psnr"]) for row in both if row["method"] == method]).reshape(2, 6).mean(1)
        for method in ("model", "refined")
    }
    gain = values["refined"] - values["model"]
    assert found["refinement"]["steps"] == 2 and (gain != 0).all()
    assert found["refinement"]["gain"]["psnr"]["mean"] == pytest.approx(gain.mean(), abs=1e-3)
    assert found["refinement"]["gain"]["psnr"]["standard_error"] == pytest.approx(gain.std(ddof=1) / 2**0.5, abs=1e-3)
    assert found["refined"]["psnr"] == pytest.approx(values["refined"].mean(), abs=1e-3)
    assert set(found["to_best_baseline"]) == {"model", "refined"}
    assert not {"refined", "refinement", "seconds_per_view"} & set(metrics)


def test_steps_and_times_of_what_is_optimised_are_stated(optimised):
    table, found = (optimised / "table.md").read_text(), json.loads((optimised / "metrics.json").read_text())
    assert "| model, refined in 2 steps |" in table and "| fit, 2 steps " in table
    assert "PSNR, refined model - model: " in table and "PSNR, refined model - " in table
    seconds = found["seconds_per_view"]
    assert set(seconds) == {"model", "refined", *found["baselines"]} and all(value >= 0 for value in seconds.values())
    assert f"fit, 2 steps {seconds['fit']:.3g} s" in table


def test_splats_are_of_the_refined_gaussians(optimised, results):
    name = "ball-test-000000.ply"
    refined, plain = read_ply(optimised / name), read_ply(results / name)
    assert len(refined["x"]) and not np.array_equal(refined["x"], plain["x"])


def test_few_samples_are_warned_of_in_table_json_and_log(synthetic_shards, trained, tmp_path, capsys):
    settings = Evaluate(split="test", pictures=0, splats=0, turntable_frames=0)
    evaluate(synthetic_shards, trained, tmp_path, settings, threads=1)
    warning = json.loads((tmp_path / "metrics.json").read_text())["warning"]
    assert warning.startswith("Warning: 2 samples are few.")
    assert warning in (tmp_path / "table.md").read_text() and warning in capsys.readouterr().err


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
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "metrics.tsv", "table.md", "metrics.png"}


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


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, by file name."""
    drawn = {}
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: drawn.update({path.name: figure}))
    return drawn


def test_a_metric_of_the_registry_is_in_every_file(synthetic_shards, trained, tmp_path, monkeypatch, figures):
    monkeypatch.setitem(METRICS, "closeness", CLOSENESS)
    settings = Evaluate(split="test", pictures=0, splats=0, turntable_frames=0)
    evaluate(synthetic_shards, trained, tmp_path, settings, threads=1)
    result = json.loads((tmp_path / "metrics.json").read_text())
    rows = rows_of(tmp_path / "metrics.tsv")
    for method in ("model", *BASELINES):
        summary = result["model"] if method == "model" else result["baselines"][method]
        values = [float(row["closeness"]) for row in rows if row["method"] == method]
        assert summary["closeness"] == pytest.approx(np.mean(values), abs=1e-4) and 0 < summary["closeness"] < 1
    assert "closeness" in result["gain"]
    panels = {axes.get_ylabel(): axes for axes in figures["metrics.png"].axes}
    assert list(panels) == [each.title for each in METRICS.values()]
    means = [patch.get_height() for patch in panels["closeness"].patches]
    assert np.mean(means[:6]) == pytest.approx(result["model"]["closeness"], abs=1e-5)


def test_a_baseline_of_the_registry_is_in_every_file(synthetic_shards, trained, tmp_path, monkeypatch, figures):
    monkeypatch.setitem(BASELINES, "grey", GREY)
    settings = Evaluate(split="test", pictures=1, splats=0, turntable_frames=0)
    evaluate(synthetic_shards, trained, tmp_path, settings, threads=1)
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert list(result["baselines"]) == ["white", "mean_train", "nearest_view", "visual_hull", "grey"]
    values = [float(row["psnr"]) for row in rows_of(tmp_path / "metrics.tsv") if row["method"] == "grey"]
    assert len(values) == 2 * 6 and result["baselines"]["grey"]["psnr"] == pytest.approx(np.mean(values), abs=1e-3)
    (legend,) = figures["metrics.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "model", "white image", "mean training image", "nearest input", "visual hull", "grey image",
    ]  # fmt: skip
    labels = [axes.get_ylabel() for axes in figures["ball-test-000000.png"].axes if axes.get_ylabel()]
    assert labels[:6] == ["target", "model", "nearest input", "visual hull", "grey image", "error of model"]


def test_memory_that_runs_out_is_one_sentence(synthetic_shards, trained, monkeypatch, tmp_path):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr("mousefacelift.evaluation.predict.reconstruct", exhausted)
    with pytest.raises(
        UserError, match=r"the GPU's memory ran out in .* \(CUDA out of memory\. Tried to allocate 2\.00 GiB\)"
    ):
        evaluate(synthetic_shards, trained, tmp_path / "out", SETTINGS, threads=1)


def test_a_model_of_four_gpus_is_evaluated_on_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("mousefacelift.training.machine.rapid", lambda: [])
    monkeypatch.setattr("mousefacelift.training.machine.unsupported", lambda gpus: [])
    assert _device(Train(gpus=4, nodes=2, batch_size=8)) == "cuda"
