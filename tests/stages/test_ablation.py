"""The ablation: each variant is one change, only runs that differ in it are compared, and the sentences say what the numbers do."""

import json
import math
import re
import shutil

import cv2
import numpy as np
import pytest
import yaml

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.presets import PRESETS, Preset
from mousefacelift.config.train import Loss, Train
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.predict import open_trained
from mousefacelift.evaluation.variants import VARIANTS, applicable, left_out, variant
from mousefacelift.models.gslrm import GSLRMConfig
from mousefacelift.stages.ablation import ablation, read_run, verdict
from mousefacelift.stages.evaluate import evaluate
from mousefacelift.stages.train import train
from support.presets import preset_of
from support.registered import CLOSENESS
from support.tables import metrics_of

SAMPLES, VIEWS = 8, 6
BASE = Train(run="mice", preset="tiny", steps=20, batch_size=2, seed=5, val_every=10)
LEVELS = {"configured": 22.0, "one_input": 14.0, "canonical": 21.0}  # of the others 22.0


def scores_of(level, noise=0.1, seed=0, samples=SAMPLES):
    """[N, V] of every metric: samples differ by far more than the runs."""
    random = np.random.default_rng([17, seed])
    difficulty = np.random.default_rng(3).normal(0, 3, (samples, 1))
    psnr = level + difficulty + random.normal(0, noise, (samples, 1)) + np.linspace(0, 1, VIEWS)
    known = {"psnr": psnr, "psnr_foreground": psnr - 8, "ssim": psnr / 30, "mask_iou": psnr / 40}
    return {name: known.get(name, psnr / 50) for name in METRICS}


def write_run(folder, evaluated, settings, scores, split="test"):
    """What `train` and `evaluate` leave, by hand."""
    folder.mkdir(parents=True)
    evaluated.mkdir(parents=True)
    record = {
        "train": settings.model_dump(mode="json"),
        "model": {"layers": 4, "guide": settings.guide, "residual": settings.guide == "hull"},
        "data": {"sha256": "d" * 64, "image_size": 512, "views": VIEWS},
        "init_sha256": None,
        "version": 2,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    lines = ["step,loss,val_psnr,val_psnr_foreground,val_mask_iou,seconds"]
    for step in range(10, settings.steps + 1, 10):
        lines.append(f"{step},0.1,{10 + step},{5 + step},0.5,{step}")
        lines.append(f"{step + 5},0.1,,,,{step}")
    (folder / "metrics.csv").write_text("\n".join(lines[:-1]) + "\n")
    rows = [["key", "frame", "view", "method", *METRICS]]
    for sample, view in np.ndindex(scores["psnr"].shape):
        values = [f"{scores[metric][sample, view]:.5g}" for metric in METRICS]
        rows.append([f"m-{sample:06d}", str(sample), str(view), "model", *values])
        rows.append([f"m-{sample:06d}", str(sample), str(view), "white", *["1"] * len(METRICS)])
    (evaluated / "metrics.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    summary = {
        "model": {metric: float(np.nanmean(scores[metric])) for metric in METRICS},
        "split": split,
        "run": settings.run,
        "data": "d" * 64,
        "trained_on": record["data"],
    }
    (evaluated / "metrics.json").write_text(json.dumps(summary))


def write_all(folder, base=BASE, noise=0.1, samples=SAMPLES, **levels):
    """A configured run and its variants; gives the arguments of `ablation`."""
    levels = LEVELS | levels
    write_run(folder / "train", folder / "evaluate", base, scores_of(levels["configured"], noise, 0, samples))
    for number, name in enumerate(applicable(base), 1):
        run = folder / "runs" / name
        scores = scores_of(levels.get(name, 22.0), noise, number, samples)
        write_run(run / "train", run / "evaluate", variant(base, name), scores)
    return folder / "train", folder / "evaluate", folder / "runs", folder / "out"


@pytest.fixture
def runs(tmp_path):
    return write_all(tmp_path)


def edit_record(folder, change):
    path = folder / "config.yaml"
    record = yaml.safe_load(path.read_text())
    change(record)
    path.write_text(yaml.safe_dump(record))


def changed_keys(name, base=BASE):
    values, other = base.model_dump(), variant(base, name).model_dump()
    return {key: other[key] for key in values if values[key] != other[key]}


def test_each_variant_is_one_change_with_the_alarms_off():
    free = {"run", "guards"}
    assert changed_keys("hull", BASE.model_copy(update={"guide": "none"})).keys() - free == {"guide"}
    assert {name: set(changed_keys(name)) - free for name in applicable(BASE)} == {
        "unguided": {"guide"},
        "clamp": {"guide"},
        "one_input": {"num_input_views", "i_know"},
        "plain_loss": {"loss"},
        "canonical": {"cameras"},
        "random_order": {"view_order"},
    }
    assert changed_keys("one_input")["num_input_views"] == 1
    assert changed_keys("canonical")["cameras"] == "canonical"
    assert changed_keys("random_order")["view_order"] == "random"
    loss = {name: weight for name, weight in changed_keys("plain_loss")["loss"].items() if weight}
    assert loss == {"l2": 1.0}
    for name in applicable(BASE):
        settings = variant(BASE, name)
        assert settings.run == f"mice.{name}"
        assert set(settings.guards.model_dump().values()) == {None}, "what fails is measured"


def test_the_guide_is_no_variant_where_weights_or_network_do_not_allow_it(monkeypatch):
    guides = {"unguided", "clamp", "hull"}
    begun = BASE.model_copy(update={"init": "w.safetensors"})
    assert not guides & set(applicable(begun)) and "train.init" in left_out(begun, "clamp")
    clamped = begun.model_copy(update={"guide": "clamp"})
    assert guides & set(applicable(clamped)) == {"unguided"}, "these have the same tensors"
    facelift = Train(preset="base", init="facelift.pt")
    assert guides & set(applicable(facelift)) == {"clamp", "hull"}, "which begin as the weights are"
    monkeypatch.setitem(PRESETS, "base", Preset("unet", {"layers": 1}, memory_mb=1, guidable=False))
    assert not guides & set(applicable(Train(preset="base"))) and "takes no guide" in left_out(facelift, "hull")


def test_a_plain_loss_counts_held_out_views_as_the_configured_one_does():
    assert variant(BASE.model_copy(update={"loss": Loss(held_out=4)}), "plain_loss").loss.held_out == 4


def test_one_input_view_cannot_be_dropped():
    dropping = BASE.model_copy(update={"view_dropout": 0.5})
    assert variant(dropping, "one_input").view_dropout == 0
    assert variant(dropping, "canonical").view_dropout == 0.5


def test_a_variant_is_a_valid_setting_and_has_a_known_name():
    for name in VARIANTS:
        assert Train.model_validate_json(variant(BASE, name).model_dump_json()) == variant(BASE, name)
    with pytest.raises(UserError, match="two_inputs: no such variant; there are unguided, clamp"):
        variant(BASE, "two_inputs")


@pytest.mark.parametrize(
    ("setting", "without"),
    [
        ({}, "hull"),
        ({"guide": "clamp"}, "clamp"),
        ({"guide": "none"}, "unguided"),
        ({"num_input_views": 1, "i_know": True}, "one_input"),
        ({"loss": Loss(l2=1, masked_l2=0)}, "plain_loss"),
        ({"cameras": "canonical"}, "canonical"),
        ({"view_order": "random"}, "random_order"),
    ],
)
def test_a_variant_that_the_configuration_has_already_is_left_out_and_named(tmp_path, setting, without):
    base = BASE.model_copy(update=setting)
    arguments = write_all(tmp_path, base)
    absent = [name for name in VARIANTS if name == without or (name == "hull" and base.guide == "hull")]
    assert applicable(base) == [name for name in VARIANTS if name not in absent]
    ablation(*arguments)
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"- {left_out(base, without)}\n" in table and f"| `{without}`" not in table
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["left_out"] == absent and without not in metrics["runs"]
    assert metrics["sentences"][without] == left_out(base, without)


def test_the_command_writes_a_table_metrics_and_curves(runs, call):
    options = zip(("--train", "--evaluate", "--variants", "--output"), runs, strict=True)
    assert call("ablation", *(word for pair in options for word in pair))[0] == 0
    out = runs[-1]
    assert {path.name for path in out.iterdir()} == {"table.md", "metrics.json", "curves.png"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["runs"]) == ["configured", *applicable(BASE)]
    assert (
        metrics["steps"] == 20 and metrics["seed"] == 5 and metrics["samples"] == SAMPLES and metrics["split"] == "test"
    )
    table = (out / "table.md").read_text()
    means, _, leads = table.partition("Each row minus the baseline that is best by the metric")
    for name, values in metrics["runs"].items():
        (line,) = [line for line in means.splitlines() if line.startswith(f"| `{name}`")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        columns = [cells[1], *cells[3:]]
        for cell, (key, each) in zip(columns, METRICS.items(), strict=True):
            assert cell == f"{values[key]:.{each.digits}f} ± {metrics['standard_error'][name][key]:.{each.digits}f}"
        (line,) = [line for line in leads.splitlines() if line.startswith(f"| `{name}` ")]
        assert line.count(" ± ") == len(METRICS) and ", better" in line.split(" | ")[1]
        assert leads.count(": minus white image") == len(METRICS)
        if name == "configured":
            assert cells[2] == ""
        else:
            difference = values["difference"]["psnr"]
            assert cells[2] == f"{difference['mean']:+.2f} ± {difference['standard_error']:.2f}"
            assert f"- {metrics['sentences'][name]}\n" in table
    assert "20 steps at batch size 2, seed 5" in table
    picture = cv2.imread(str(out / "curves.png"))
    assert picture.shape[1] > 1000 and picture.std() > 5


def test_a_run_is_compared_with_the_baselines_of_its_own_evaluation(runs, capsys):
    """Samples that are fewer than ten are warned of, and a run that a baseline beats is called worse."""
    path = runs[2] / "one_input" / "evaluate" / "metrics.tsv"
    path.write_text(re.sub(r"\twhite\t1\t", "\twhite\t99\t", path.read_text()))
    ablation(*runs)
    metrics = json.loads((runs[-1] / "metrics.json").read_text())
    leads = metrics["to_best_baseline"]
    own = read_run(*runs[:2]).scores["psnr"].mean()
    assert leads["configured"]["psnr"]["mean"] == pytest.approx(own - 1)
    assert leads["one_input"]["psnr"]["mean"] < -50 and leads["one_input"]["psnr"]["clear"]
    assert leads["one_input"]["psnr"]["baseline"] == "white"
    table = (runs[-1] / "table.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith("| `one_input` ")]
    assert ", worse" in line.split(" | ")[1]
    assert metrics["warning"].startswith("Warning: 8 samples are few.")
    assert metrics["warning"] in table and metrics["warning"] in capsys.readouterr().err


def test_the_refined_model_is_no_baseline(runs):
    """An evaluation with `evaluate.refine_steps` has it beside the model."""
    path = runs[1] / "metrics.tsv"
    text = path.read_text()
    path.write_text(text + re.sub("(?m)^.*\twhite\t.*\n|^key.*\n", "", text).replace("\tmodel\t", "\trefined\t"))
    assert "\trefined\t" in path.read_text() and list(read_run(*runs[:2]).baselines) == ["white"]


@pytest.mark.parametrize(
    "damage", [lambda lines: [line for line in lines if "white" not in line], lambda lines: lines[:-1]]
)
def test_an_evaluation_without_every_value_of_a_baseline_is_refused(runs, damage):
    path = runs[1] / "metrics.tsv"
    lines = path.read_text().splitlines(keepends=True)
    assert "white" in lines[-1]
    path.write_text("".join(damage(lines)))
    with pytest.raises(UserError, match=r"damaged metrics .*run `evaluate` again"):
        ablation(*runs)


def test_differences_are_paired_over_samples(runs):
    ablation(*runs)
    metrics = json.loads((runs[-1] / "metrics.json").read_text())["runs"]
    base, other = (read_run(*pair).scores["psnr"] for pair in (runs[:2], [runs[2] / "one_input" / f for f in ("train", "evaluate")]))  # fmt: skip
    each = (other - base).mean(1)
    found = metrics["one_input"]["difference"]["psnr"]
    assert found["mean"] == pytest.approx(each.mean())
    assert found["standard_error"] == pytest.approx(each.std(ddof=1) / math.sqrt(SAMPLES))
    assert found["standard_error"] < 0.1, "samples differ by 3 dB, their differences by far less"
    assert found["clear"] is True


def test_a_clear_difference_is_called_clear_and_its_direction_named():
    base = scores_of(22.0)
    text = verdict("one_input", scores_of(14.0, seed=1), base)
    assert text.startswith("`one_input` against `configured`: PSNR is ")
    assert text.count(" dB lower, a clear difference") == 2 and "inside the silhouette" in text
    assert text.endswith("(paired, 8 samples).")
    assert " dB higher, a clear difference" in verdict("one_input", scores_of(25.0, seed=1), base)


def test_what_lies_within_two_standard_errors_is_not_clear():
    base, same = scores_of(22.0, noise=1.0), scores_of(22.1, noise=1.0, seed=1)
    assert verdict("random_order", same, base).count("no clear difference") == 2
    assert "a clear" not in verdict("random_order", same, base)


def test_a_difference_that_does_not_show_is_none_however_sure():
    base = scores_of(22.0)
    assert verdict("random_order", base, base).count("the same to 0.01 dB") == 2
    tiny = base | {"psnr": base["psnr"] + 0.002}
    assert verdict("random_order", tiny, base).startswith(
        "`random_order` against `configured`: PSNR is the same to 0.01 dB;"
    )


def test_the_mouse_and_the_whole_image_are_judged_apart():
    base, other = scores_of(22.0), scores_of(23.0, seed=1)
    other["psnr_foreground"] = other["psnr_foreground"] - 5
    text = verdict("plain_loss", other, base)
    whole, inside = text.split(";")
    assert "higher, a clear difference" in whole and "lower, a clear difference" in inside


def test_one_sample_decides_nothing(tmp_path):
    arguments = write_all(tmp_path, samples=1)
    ablation(*arguments)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    difference = metrics["runs"]["one_input"]["difference"]["psnr"]
    assert difference["standard_error"] is None and difference["clear"] is False
    assert "1 sample has no spread to judge a difference by" in metrics["sentences"]["one_input"]


def test_views_without_a_foreground_are_left_out(tmp_path):
    arguments = write_all(tmp_path)
    path = tmp_path / "runs" / "canonical" / "evaluate" / "metrics.tsv"
    header, first, *rest = (line.split("\t") for line in path.read_text().splitlines())
    first[header.index("psnr_foreground")] = "nan"
    path.write_text("".join("\t".join(row) + "\n" for row in (header, first, *rest)))
    ablation(*arguments)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert math.isfinite(metrics["runs"]["canonical"]["difference"]["psnr_foreground"]["mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["train"].update(seed=6), r"train\.seed is 6, not 5"),
        (lambda r: r["train"].update(batch_size=4), r"train\.batch_size is 4, not 2"),
        (lambda r: r["train"].update(learning_rate=1e-3), r"train\.learning_rate is 0\.001"),
        (lambda r: r["train"].update(num_input_views=5), r"train\.num_input_views is 5, not 1"),
        (lambda r: r["train"].update(cameras="canonical"), r"train\.cameras is canonical, not exact"),
        (lambda r: r["data"].update(sha256="e" * 64), "the data .*eeee"),
        (lambda r: r.update(init_sha256="f" * 64), "the weights to start from"),
        (lambda r: r.update(version=3), "the version of `train`"),
        (lambda r: r["model"].update(layers=7), "the model"),
        (lambda r: r["train"].update(guide="clamp"), r"train\.guide is clamp, not hull"),
    ],
)
def test_runs_that_differ_in_more_than_the_change_are_refused(runs, change, message):
    edit_record(runs[2] / "one_input" / "train", change)
    with pytest.raises(UserError, match=message) as error:
        ablation(*runs)
    assert "differ in more than the change of one_input" in str(error.value)
    assert not runs[-1].exists()


def test_another_budget_is_refused(runs):
    folder = runs[2] / "canonical"
    shutil.rmtree(folder)
    longer = variant(BASE.model_copy(update={"steps": 30}), "canonical")
    write_run(folder / "train", folder / "evaluate", longer, scores_of(21.0))
    with pytest.raises(UserError, match=r"train\.steps is 30, not 20"):
        ablation(*runs)


def test_a_run_that_ended_early_is_refused(runs):
    path = runs[2] / "plain_loss" / "train" / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"plain_loss.*metrics\.csv: ends at step 15 of 20"):
        ablation(*runs)


def test_other_samples_or_another_split_are_refused(runs):
    folder = runs[2] / "random_order"
    summary = json.loads((folder / "evaluate" / "metrics.json").read_text())
    (folder / "evaluate" / "metrics.json").write_text(json.dumps(summary | {"split": "val"}))
    with pytest.raises(UserError, match="split: val, not test"):
        ablation(*runs)
    (folder / "evaluate" / "metrics.json").write_text(json.dumps(summary))
    path = folder / "evaluate" / "metrics.tsv"
    path.write_text(path.read_text().replace("m-000003", "m-000033"))
    with pytest.raises(UserError, match="the samples and views that were evaluated"):
        ablation(*runs)


def test_an_evaluation_of_another_run_is_refused(runs):
    with pytest.raises(UserError, match=r"of run mice\.canonical, but .* holds run mice"):
        read_run(runs[0], runs[2] / "canonical" / "evaluate")


@pytest.mark.parametrize(
    "name", ["train/config.yaml", "train/metrics.csv", "evaluate/metrics.json", "evaluate/metrics.tsv"]
)
@pytest.mark.parametrize("content", [None, "", "key\tmethod\nm\tmodel\n", "step,val_psnr\nx,y\n"])
def test_a_file_that_is_missing_or_damaged_is_named(runs, name, content):
    path = runs[2] / "canonical" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="canonical"):
        ablation(*runs)


def test_runs_elsewhere_and_with_other_alarms_may_be_compared(runs):
    edit_record(runs[0], lambda r: r["train"].update(manifest="elsewhere/manifest.json", guards={"white": 7}))
    ablation(*runs)


def test_without_a_validation_split_there_are_no_curves(runs):
    for path in runs[0].parent.rglob("metrics.csv"):
        path.write_text("step,loss,seconds\n20,0.1,5\n")
    ablation(*runs)
    assert cv2.imread(str(runs[-1] / "curves.png")) is not None


@pytest.mark.slow
def test_trained_variants_differ_in_their_change_alone(synthetic_shards, tmp_path, call, monkeypatch):
    """Four steps each: enough to see what the model was shown, and that another order of views is only rounding."""
    monkeypatch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(width=32, head_width=16, layers=1, scale_bias=-3.0)))
    base = Train(
        preset="tiny", image_size=32, steps=4, warmup_steps=0, val_every=2, learning_rate=1e-3, batch_size=1,
        accelerator="cpu", precision="32-true",
    )  # fmt: skip
    quiet = Evaluate(pictures=0, splats=1, turntable_frames=0)
    for name in (None, *applicable(base)):
        folder = tmp_path / name if name else tmp_path
        settings = variant(base, name) if name else base
        train(synthetic_shards, folder / "train", folder / "checkpoints", settings, threads=1)
        evaluate(synthetic_shards, folder / "train", folder / "evaluate", quiet, threads=1)
    out = tmp_path / "out"
    words = [
        "--train",
        tmp_path / "train",
        "--evaluate",
        tmp_path / "evaluate",
        "--variants",
        tmp_path,
        "--output",
        out,
    ]
    status, _, err = call("ablation", *words)
    assert status == 0, err

    runs = json.loads((out / "metrics.json").read_text())["runs"]
    difference = {name: values["difference"]["psnr"]["mean"] for name, values in runs.items() if name != "configured"}
    assert abs(difference["random_order"]) < 1e-3
    assert all(abs(difference[name]) > 1e-3 for name in difference if name != "random_order")

    distance = open_trained(synthetic_shards, tmp_path / "canonical" / "train", "test", 1).samples[0]["c2w"][:, :3, 3]
    np.testing.assert_allclose(distance.norm(dim=-1), 2.7, rtol=1e-6)
    assert json.loads((tmp_path / "one_input" / "evaluate" / "metrics.json").read_text())["num_input_views"] == 1
    columns = metrics_of(tmp_path / "plain_loss" / "train")[0]
    assert "l2" in columns and "masked_l2" not in columns


def test_a_metric_of_the_registry_is_in_every_file(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "closeness", CLOSENESS)
    arguments = write_all(tmp_path)
    ablation(*arguments)
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    runs, errors = result["runs"], result["standard_error"]
    header, _, *lines = (
        line.strip("| ").split(" | ") for line in (tmp_path / "out" / "table.md").read_text().splitlines()
    )
    assert header[-1] == "closeness"
    for line, (name, values) in zip(lines, runs.items(), strict=False):
        assert (
            line[0].startswith(f"`{name}`")
            and line[-1] == f"{values['closeness']:.4f} ± {errors[name]['closeness']:.4f}"
        )
    assert runs["one_input"]["difference"]["closeness"]["clear"] is True


def test_an_evaluation_that_lacks_a_metric_is_refused(runs, monkeypatch):
    monkeypatch.setitem(METRICS, "closeness", CLOSENESS)
    with pytest.raises(UserError, match=r"damaged metrics .*closeness.*run `evaluate` again"):
        ablation(*runs)
