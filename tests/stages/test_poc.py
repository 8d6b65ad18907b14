"""The camera comparison: its files agree with each other and with `evaluate`, and the sentence says what the numbers do."""

import json
import math
import shutil
import sys

import cv2
import h5py
import numpy as np
import pytest
import torch
import yaml

from mousefacelift.base.errors import UserError
from mousefacelift.cli import main
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.conditions import camera_conditions
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.predict import open_trained, predict_views
from mousefacelift.evaluation.scores import paired_difference
from mousefacelift.stages.evaluate import evaluate
from mousefacelift.stages.poc import checkpoint_note, poc, verdict
from support.balls import list_shards, write_shards
from support.registered import CLOSENESS
from support.tables import rows_of

CONDITIONS = ("raw", "z_up", "y_up", "facelift")


@pytest.fixture(scope="module")
def results(synthetic_shards, trained, tmp_path_factory):
    """What the command writes."""
    out = tmp_path_factory.mktemp("compared") / "poc"
    words = ["poc", "--manifest", synthetic_shards, "--train", trained, "--output", out, "--split", "test"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mousefacelift", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return out


@pytest.fixture(scope="module")
def metrics(results):
    return json.loads((results / "metrics.json").read_text())


def test_z_up_scores_what_evaluate_scores(synthetic_shards, trained, results, metrics, tmp_path):
    settings = Evaluate(split="test", pictures=0, splats=0, turntable_frames=0)
    evaluate(synthetic_shards, trained, tmp_path, settings, threads=1)
    expected = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: metrics["conditions"]["z_up"][name] for name in METRICS} == expected["model"]
    assert metrics["white"] == expected["baselines"]["white"]
    ours = [row for row in rows_of(results / "metrics.tsv") if row.pop("condition") == "z_up"]
    theirs = [row for row in rows_of(tmp_path / "metrics.tsv") if row.pop("method") == "model"]
    assert ours == theirs


def test_every_sample_is_carried_back_by_its_own_similarity(synthetic_shards, trained, results, world_from_mm):
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    sample = opened.samples[1]
    rgb, _ = predict_views(opened, camera_conditions(sample, world_from_mm)["raw"])
    expected = -10 * ((rgb - sample["image"]) ** 2).mean((1, 2, 3)).log10()
    rows = [r for r in rows_of(results / "metrics.tsv") if (r["key"], r["condition"]) == ("ball-test-000001", "raw")]
    assert [float(row["psnr"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_command_writes_metrics_a_table_and_a_grid(results, metrics):
    assert {path.name for path in results.iterdir()} == {"metrics.json", "metrics.tsv", "table.md", "grid.png"}
    rows = rows_of(results / "metrics.tsv")
    assert {(row["key"], row["view"], row["condition"]) for row in rows} == {
        (f"ball-test-{i:06d}", str(v), name) for i in range(2) for v in range(6) for name in CONDITIONS
    }
    for name in CONDITIONS:
        for metric in METRICS:
            each = [float(row[metric]) for row in rows if row["condition"] == name]
            assert metrics["conditions"][name][metric] == pytest.approx(np.mean(each), abs=1e-3)
    table = (results / "table.md").read_text()
    assert metrics["sentence"] in table
    for name in CONDITIONS:
        (line,) = [line for line in table.splitlines() if line.startswith(f"| `{name}`: ")]
        error = metrics["standard_error"][name]["psnr"]
        assert f"| {metrics['conditions'][name]['psnr']:.2f} ± {error:.2f} " in line
    picture = cv2.imread(str(results / "grid.png"))
    assert picture.shape[0] > 1500 and picture.shape[1] > 1000 and picture.std() > 10


def test_differences_are_to_z_up_and_paired_over_samples(results, metrics):
    psnr = {}
    for row in rows_of(results / "metrics.tsv"):
        psnr.setdefault((row["condition"], row["key"]), []).append(float(row["psnr"]))
    keys = sorted({key for _, key in psnr})
    for name in CONDITIONS:
        each = [np.mean(psnr[name, key]) - np.mean(psnr["z_up", key]) for key in keys]
        found = metrics["conditions"][name]["difference_to_z_up"]["psnr"]
        assert found["mean"] == pytest.approx(np.mean(each), abs=2e-3)
        assert found["standard_error"] == pytest.approx(np.std(each, ddof=1) / math.sqrt(len(each)), abs=2e-3)


def test_every_condition_is_compared_with_the_best_baseline_of_every_metric(results, metrics):
    assert list(metrics["baselines"]) == list(BASELINES)
    table = (results / "table.md").read_text()
    _, _, leads = table.partition("Each row minus the baseline that is best by the metric")
    for name in CONDITIONS:
        (line,) = [line for line in leads.splitlines() if line.startswith(f"| `{name}` ")]
        for cell, (metric, each) in zip(line.strip("| ").split(" | ")[1:], METRICS.items(), strict=True):
            lead = metrics["to_best_baseline"][name][metric]
            best = max(BASELINES, key=lambda baseline: metrics["baselines"][baseline][metric])
            gap = metrics["conditions"][name][metric] - metrics["baselines"][best][metric]
            assert lead["baseline"] == best and lead["mean"] == pytest.approx(gap, abs=1e-5)
            verdict = ("better" if gap > 0 else "worse") if lead["clear"] else "no clear difference"
            assert f"{each.title}: minus {BASELINES[best].label}" in leads
            assert (
                cell.strip() == f"{lead['mean']:+.{each.digits}f} ± {lead['standard_error']:.{each.digits}f}, {verdict}"
            )
    assert metrics["warning"].startswith("Warning: 2 samples are few.") and metrics["warning"] in table


def made_up(samples=8, noise=0.1, **psnr):
    """Scores whose samples differ by far more than the conditions, and PSNR of a white image 15."""
    random = np.random.default_rng(2)
    difficulty = random.normal(0, 3, (samples, 1))

    def table(level):
        values = torch.from_numpy(level + difficulty + random.normal(0, noise, (samples, 1)) * np.ones((1, 6)))
        known = {"psnr": values, "psnr_foreground": values - 10, "ssim": values / 40, "mask_iou": values / 50}
        return {name: known.get(name, values / 60) for name in METRICS}

    white = {metric: torch.full((samples, 6), 15.0) for metric in METRICS}
    return {name: table(psnr.get(name, 20.0)) for name in CONDITIONS}, {"white": white}


def test_the_sentence_names_the_winner_and_its_lead():
    values, white = made_up(facelift=27.0, y_up=24.0)
    lead = (values["facelift"]["psnr"] - values["y_up"]["psnr"]).mean().item()
    text = verdict(values, white)
    assert text.startswith(
        f"`facelift` has the best PSNR, {values['facelift']['psnr'].mean():.2f} dB, {lead:.2f} dB above"
    )
    assert "the next, `y_up`: a clear difference" in text
    assert "The other metrics agree." in text
    assert "white" not in text


def test_what_is_equal_is_no_clear_difference():
    values, white = made_up(noise=0)
    text = verdict(values, white)
    assert text.startswith("No clear difference in PSNR between ")
    assert all(f"`{name}`" in text for name in CONDITIONS)
    assert "best" not in text and "below" not in text


def test_a_lead_within_two_standard_errors_is_no_clear_difference():
    values, white = made_up(z_up=22.1, y_up=22.0, noise=1.0, samples=5)
    gap, error = paired_difference(*(values[name]["psnr"] for name in ("z_up", "y_up")))
    assert abs(gap) < 2 * error
    text = verdict(values, white)
    first, _, rest = text.partition(":")
    assert "No clear difference" in first and "`z_up`" in first and "`y_up`" in first
    assert "clear difference," not in rest


def test_conditions_far_behind_two_equal_ones_are_named_as_such():
    values, white = made_up(z_up=25.0, y_up=25.0, noise=0.0)
    text = verdict(values, white)
    assert "between `z_up` (" in text and "`raw` and `facelift` clearly below." in text


def test_one_sample_decides_nothing():
    values, white = made_up(samples=1, z_up=30.0)
    text = verdict(values, white)
    assert text.startswith("No clear difference")
    assert "one sample has no spread" in text


def test_metrics_that_disagree_and_what_a_white_image_beats_are_named():
    values, white = made_up(z_up=30.0, raw=8.0)
    values["y_up"]["mask_iou"] += 1
    text = verdict(values, white)
    assert "But by mask IoU it is `y_up`." in text
    assert text.endswith("No better than the best baseline, white image (15.00 dB): `raw`.")


def with_record(trained, folder, change):
    """A copy of the run whose config.yaml is changed."""
    folder.mkdir(parents=True)
    shutil.copy(trained / "model.safetensors", folder)
    record = yaml.safe_load((trained / "config.yaml").read_text())
    change(record)
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    return folder


def test_the_sentence_says_on_which_cameras_the_weights_were_trained(synthetic_shards, trained, metrics, tmp_path):
    def note(folder):
        return checkpoint_note(open_trained(synthetic_shards, folder, "test", threads=1))

    own = note(trained)
    assert metrics["sentence"].endswith(own)
    assert "trained from nothing for 2 steps on the train split of these very shards, whose cameras are Z-up" in own
    assert "this favours `z_up`" in own
    other = with_record(
        trained, tmp_path / "other", lambda r: (r["data"].update(sha256="0"), r["train"].update(init="w"))
    )
    assert "trained from earlier weights for 2 steps on other shards" in note(other)
    unknown = with_record(trained, tmp_path / "unknown", lambda r: r.pop("data"))
    assert "config.yaml does not say" in note(unknown) and "favours" not in note(unknown)


def test_a_rig_of_four_views_is_compared_too(synthetic_shards, trained, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(synthetic_shards.parent, shards)
    for path in shards.rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            for name in ("image", "c2w", "fxfycxcy"):
                values = file[name][:, :4]
                del file[name]
                file[name] = values
    list_shards(shards / "manifest.json")
    folder = with_record(trained, tmp_path / "train", lambda r: r["train"].update(num_input_views=3, i_know=True))
    poc(shards / "manifest.json", folder, tmp_path / "out", "val", threads=1)
    assert len(rows_of(tmp_path / "out" / "metrics.tsv")) == 2 * 4 * 4
    assert cv2.imread(str(tmp_path / "out" / "grid.png")) is not None


def damaged(tmp_path, change):
    """Shards of one test sample, whose file is changed, and which the manifest lists as it is then."""
    manifest = write_shards(tmp_path / "shards", {"train": 0, "test": 1})
    (path,) = [path for path in manifest.parent.rglob("*.h5") if path.parent.name == "test"]
    with h5py.File(path, "r+") as file:
        change(file)
    return list_shards(manifest)


def skewed(file):
    file["world_from_mm"][0, 0, 1] += 0.01


def short(file):
    del file["world_from_mm"]
    file["world_from_mm"] = np.eye(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("world_from_mm"), r"ball-0001\.h5: no world_from_mm.*rerun the workflow"),
        (short, "ball-test-000000: world_from_mm is not 4 x 4 finite numbers"),
        (lambda file: file["world_from_mm"].write_direct(np.full((1, 4, 4), np.nan)), "not 4 x 4 finite numbers"),
        (lambda file: file["world_from_mm"].write_direct(-np.eye(4)[None]), "not a rotation, scale and shift"),
        (skewed, "ball-test-000000: world_from_mm is not a rotation, scale and shift"),
    ],
)
def test_shards_without_a_way_back_to_the_lab_are_refused_before_any_work(trained, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        poc(damaged(tmp_path, change), trained, tmp_path / "out", "test", threads=1)
    assert not (tmp_path / "out").exists()


def test_an_empty_split_and_missing_weights_are_refused_before_any_work(synthetic_shards, trained, tmp_path):
    manifest = write_shards(tmp_path / "shards", {"train": 1, "test": 0})
    with pytest.raises(UserError, match="no test samples"):
        poc(manifest, trained, tmp_path / "out", "test", threads=1)
    shutil.copy(trained / "config.yaml", tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        poc(synthetic_shards, tmp_path, tmp_path / "out", "test", threads=1)
    assert not (tmp_path / "out").exists()


def test_a_metric_of_the_registry_is_in_every_file(synthetic_shards, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "closeness", CLOSENESS)
    poc(synthetic_shards, trained, tmp_path, "val", threads=1)
    result = json.loads((tmp_path / "metrics.json").read_text())
    names, text = (*CONDITIONS, *BASELINES), (tmp_path / "table.md").read_text()
    header, _, *lines = (line.strip("| ").split(" | ") for line in text.splitlines()[: 2 + len(names)])
    assert header[-1] == "closeness"
    for name, line in zip(names, lines, strict=True):
        means = result["baselines"][name] if name in BASELINES else result["conditions"][name]
        assert line[-1] == f"{means['closeness']:.4f} ± {result['standard_error'][name]['closeness']:.4f}"
    assert result["conditions"]["raw"]["difference_to_z_up"]["closeness"]["standard_error"] > 0
    assert "closeness" in rows_of(tmp_path / "metrics.tsv")[0]
