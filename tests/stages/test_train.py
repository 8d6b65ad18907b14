"""Training: a killed run ends like an undisturbed one, bad steps are skipped, bad input is refused before the start."""

import io
import math
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger
from safetensors.torch import load_file

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Guards, Loss, Train
from mousefacelift.evaluation.metrics.registry import METRICS, validation_metrics
from mousefacelift.gpu.toolchain import Torch
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.weights.files import load_weights
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.train import train
from mousefacelift.training import finetuning, metrics_table
from mousefacelift.training.clock import PARTS
from mousefacelift.training.data import Samples
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.guards import STATISTICS, AlarmError
from mousefacelift.training.runs import identity
from mousefacelift.training.visits import split_views
from support.balls import write_shards
from support.presets import preset_of
from support.registered import CLOSENESS
from support.tables import metrics_of, rows_of

MICRO = GSLRMConfig(width=32, head_width=16, layers=1, scale_bias=-3.0)
SETTINGS = Train(
    preset="tiny", guide="none", image_size=32, steps=12, batch_size=2, learning_rate=3e-3, warmup_steps=2, accelerator="cpu",
    checkpoint_every=4, val_every=6, log_every=1, loss=Loss(l2=1, masked_l2=0.1, background=0.1, ssim=0.1, alpha=0.1), augment=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def micro_model(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", preset_of(MICRO))


@dataclass(frozen=True)
class Run:
    """A training run's folders."""

    manifest: Path
    folder: Path

    def train(self, settings=SETTINGS):
        train(self.manifest, self.folder / "out", self.folder / "checkpoints", settings, threads=1)

    @property
    def weights(self):
        return (self.folder / "out" / "model.safetensors").read_bytes()

    @property
    def best(self):
        return (self.folder / "out" / "best.safetensors").read_bytes()

    @property
    def rows(self):
        return metrics_of(self.folder / "out")

    @property
    def checkpoint(self):
        (path,) = self.folder.glob("checkpoints/*/last.ckpt")
        return torch.load(path, weights_only=True)


@pytest.fixture
def run(synthetic_shards, tmp_path):
    return Run(synthetic_shards, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(synthetic_shards, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", preset_of(MICRO))
        run = Run(synthetic_shards, tmp_path_factory.mktemp("undisturbed"))
        run.train()
    return run


def test_a_run_writes_weights_metrics_and_config(undisturbed):
    assert load_weights(undisturbed.folder / "out" / "model.safetensors").config == MICRO
    rows = undisturbed.rows
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert list(rows[0]) == [
        "step", "loss", "l2", "masked_l2", "background", "ssim", "alpha", "lr", "grad_norm", "skipped",
        *STATISTICS, "train_psnr_foreground", "train_psnr_foreground_error", "val_psnr_foreground_error", *validation_metrics(),
    ]  # fmt: skip
    assert [row["step"] for row in rows if row["val_psnr"]] == ["6", "12"]
    config = yaml.safe_load((undisturbed.folder / "out" / "config.yaml").read_text())
    assert Train.model_validate(config["train"]) == SETTINGS.model_copy(
        update={"precision": "32-true", "recompute": "none"}
    )
    assert (undisturbed.folder / "out" / "curves.png").stat().st_size > 10_000
    assert config["model"]["width"] == 32 and len(config["data"]["sha256"]) == 64
    assert list((undisturbed.folder / "out" / "tensorboard").iterdir())


def views_seen(undisturbed, split, places):
    """PSNR inside the silhouette of views that were held out of stored samples, by the finished model: a value per sample."""
    samples = Samples(read_manifest(undisturbed.manifest), split, SETTINGS.image_size, 1.0)
    model, values = load_weights(undisturbed.folder / "out" / "model.safetensors"), []
    for number, place in enumerate(places):
        sample = {name: torch.as_tensor(value)[None] for name, value in samples[place].items()}
        views = {name: each[None] for name, each in split_views(samples.views, 5, number).items()}
        with torch.no_grad():
            rgb, _, _ = finetuning.predict(model, sample | views)
        (view,) = views["held_out"][0]
        inside = sample["alpha"][0, view] > 0.5
        error = ((rgb[0, view] - sample["image"][0, view]) ** 2).mean(0)[inside].mean().item()
        values.append(-10 * math.log10(error))
    return values


def test_the_last_row_compares_training_samples_as_they_are_stored_with_validation_samples(undisturbed):
    """Two of five training samples, because there are two for validation; not turned, although `augment` is on."""
    last = undisturbed.rows[-1]
    for column, values in (
        ("train_psnr_foreground", views_seen(undisturbed, "train", (0, 4))),
        ("val_psnr_foreground", views_seen(undisturbed, "val", (0, 1))),
    ):
        assert float(last[column]) == pytest.approx(np.mean(values), abs=1e-3)
        error = np.std(values, ddof=1) / math.sqrt(2)
        assert float(last[f"{column}_error"]) == pytest.approx(error, abs=1e-3)


def test_the_log_says_the_gap_between_training_and_validation_samples(run, capsys):
    run.train(SETTINGS.model_copy(update={"steps": 2}))
    last = {name: float(value) for name, value in run.rows[-1].items() if "foreground" in name}
    gap = last["train_psnr_foreground"] - last["val_psnr_foreground"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "; gap " in line]
    assert line.startswith("PSNR inside the silhouette, held-out views, after step 2: ")
    assert f"gap {gap:.2f} ± " in line and "in 2 training samples" in line and "in 2 validation samples" in line


def test_tars_give_training_samples_to_compare_with_too(run):
    run.train(SETTINGS.model_copy(update={"steps": 1, "container": "tar"}))
    assert 0 < float(run.rows[-1]["train_psnr_foreground"]) < 60


def test_the_table_says_how_fast_the_machine_was(undisturbed):
    for row in rows_of(undisturbed.folder / "out" / "metrics.csv"):
        seconds = [float(row[f"seconds_{part}"]) for part in PARTS]
        assert all(value > 0 for value in seconds) and row["gpu_gb"] == ""
        assert float(row["samples_per_s"]) == pytest.approx(SETTINGS.batch_size / sum(seconds), rel=1e-5)


def test_the_table_grows_with_the_run(run, monkeypatch):
    """At the start and with every checkpoint and validation; a run that continues drops the rows it will compute again."""
    seen, original = {}, FineTuning.training_step

    def training_step(self, *arguments):
        seen[self.step] = [int(row["step"]) for row in run.rows]
        if self.step == 11:
            raise RuntimeError("the machine fails")
        return original(self, *arguments)

    def rows_seen(interval, share):
        monkeypatch.setattr(metrics_table, "INTERVAL", interval)
        monkeypatch.setattr(metrics_table, "SHARE", share)
        seen.clear()
        with pytest.raises(RuntimeError, match="the machine fails"):
            run.train()
        return {step: len(steps) for step, steps in seen.items() if steps == list(range(1, len(steps) + 1))}

    monkeypatch.setattr(FineTuning, "training_step", training_step)
    rarely = rows_seen(1e9, 200)
    assert rarely == {0: 0, 1: 0, 2: 0, 3: 0, 4: 4, 5: 4, 6: 6, 7: 6, 8: 8, 9: 8, 10: 8, 11: 8}
    assert rows_seen(0, 0) == {8: 8, 9: 9, 10: 10, 11: 11}
    assert rows_seen(1e9, 200)[8] == 8


def test_training_lowers_the_loss(undisturbed):
    losses = [float(row["loss"]) for row in undisturbed.rows]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_logged_loss_is_the_weighted_sum_of_its_terms(undisturbed):
    row = {name: float(value) for name, value in undisturbed.rows[3].items() if value}
    weights = SETTINGS.loss.model_dump()
    assert row["loss"] == pytest.approx(sum(w * row[name] for name, w in weights.items() if w), rel=1e-5)


def kill_in_step(step):
    original = FineTuning.training_step

    def training_step(self, batch, index):
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, index)

    FineTuning.training_step = training_step


def kill_in_validation(step):
    original = FineTuning.validation_step

    def validation_step(self, batch, index, dataloader_idx):
        if self.step == step and index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, index, dataloader_idx)

    FineTuning.validation_step = validation_step


def kill_while_writing_best(number):
    kill_while_writing_checkpoint(number, "best")


def kill_while_writing_checkpoint(number, name="last"):
    original, written = torch.save, []

    def save(state, path):
        written.extend([path] * (name in path.name))
        original(state, path)
        if name in path.name and len(written) == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save


@pytest.mark.parametrize(
    ("arrange", "moment", "resumes_after"),
    [
        (kill_in_step, 3, None),
        (kill_in_step, 7, 4),
        (kill_in_validation, 12, 8),
        (kill_while_writing_checkpoint, 2, 4),
        (kill_while_writing_checkpoint, 3, 8),
        (kill_while_writing_best, 1, 4),
        (kill_in_step, 8, 4),  # best.ckpt is of step 6, which the last checkpoint does not know
    ],
)
def test_a_killed_run_ends_like_an_undisturbed_one(run, undisturbed, capsys, arrange, moment, resumes_after):
    """Same weights, bit for bit, last and best, and the same rows of metrics, none lost and none twice."""

    def child():
        arrange(moment)
        run.train()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (run.folder / "out" / "model.safetensors").exists()
    if resumes_after:
        assert run.checkpoint["step"] == resumes_after
    run.train()
    assert ("continuing after step" in capsys.readouterr().err) == bool(resumes_after)
    assert run.weights == undisturbed.weights and run.best == undisturbed.best
    assert run.rows == undisturbed.rows


@pytest.mark.parametrize("step", [5, 11])
def test_a_killed_run_that_streams_tars_goes_on_in_the_middle_of_its_epoch(run, tmp_path, step):
    settings = SETTINGS.model_copy(update={"container": "tar", "shuffle_buffer": 3, "view_dropout": 0.3})
    whole = Run(run.manifest, tmp_path / "whole")
    whole.train(settings)

    def child():
        kill_in_step(step)
        run.train(settings)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run.train(settings)
    assert run.weights == whole.weights
    assert run.rows == whole.rows


def test_the_number_of_loaders_is_part_of_a_run_that_streams_tars(run):
    for container, folders in (("h5", 1), ("tar", 2)):
        checkpoints = run.folder / container
        for workers in (0, 1):
            settings = SETTINGS.model_copy(update={"steps": 1, "container": container, "workers": workers})
            train(run.manifest, run.folder / "out", checkpoints, settings, threads=1)
        assert len(list(checkpoints.iterdir())) == folders


def test_a_finished_run_only_writes_its_results_again(run, undisturbed, monkeypatch):
    copy = Run(undisturbed.manifest, undisturbed.folder)
    weights, rows = copy.weights, copy.rows
    for path in ("model.safetensors", "metrics.csv", "config.yaml"):
        (copy.folder / "out" / path).unlink()
    monkeypatch.setattr("mousefacelift.training.trainer.lightning.Trainer", None)
    copy.train()
    assert copy.weights == weights and copy.rows == rows


def test_other_settings_or_data_never_continue_a_run(run, tmp_path):
    settings = SETTINGS.model_copy(update={"steps": 1})
    run.train(settings)
    run.train(settings.model_copy(update={"seed": 1}))
    Run(write_shards(tmp_path / "other", seed=1), tmp_path).train(settings)
    assert len(list(run.folder.glob("checkpoints/*/last.ckpt"))) == 3
    run.train(settings.model_copy(update={"workers": 1, "run": "renamed"}))  # changes nothing that is computed
    assert len(list(run.folder.glob("checkpoints/*/last.ckpt"))) == 3


def test_a_step_far_above_the_clip_is_skipped_and_counted(run):
    run.train(SETTINGS.model_copy(update={"steps": 3, "clip_norm": 1e-6}))
    torch.manual_seed(SETTINGS.seed)
    start = GSLRM(MICRO).state_dict()
    end = load_weights(run.folder / "out" / "model.safetensors").state_dict()
    assert all(torch.equal(start[name], end[name]) for name in start)
    assert [row["skipped"] for row in run.rows] == ["1", "2", "3"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(run, undisturbed, monkeypatch):
    original, calls = finetuning.image_loss, []

    def image_loss(*arguments):
        calls.append(arguments)
        loss, terms = original(*arguments)
        return loss * (float("nan") if len(calls) == 6 else 1), terms

    monkeypatch.setattr(finetuning, "image_loss", image_loss)
    with pytest.raises(AlarmError, match=r"nan at step 6.*learning_rate.*weights of step 4"):
        run.train()
    assert run.checkpoint["step"] == 4
    monkeypatch.setattr(finetuning, "image_loss", original)
    run.train()
    assert run.weights == undisturbed.weights
    assert not list((run.folder / "out").glob("*-failed.*"))


def test_a_damaged_checkpoint_is_named(run):
    settings = SETTINGS.model_copy(update={"steps": 1})
    run.train(settings)
    (path,) = run.folder.glob("checkpoints/*/last.ckpt")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"last\.ckpt: damaged checkpoint"):
        run.train(settings)


def test_training_without_validation_samples_works(run, tmp_path):
    manifest = write_shards(tmp_path / "shards", {"train": 2, "val": 0})
    lone = Run(manifest, tmp_path)
    lone.train(SETTINGS.model_copy(update={"steps": 2}))
    assert "val_psnr" not in lone.rows[0]


def test_bf16_trains_with_the_rasteriser_in_float32(run):
    run.train(SETTINGS.model_copy(update={"steps": 2, "precision": "bf16-mixed"}))
    assert all(
        torch.isfinite(t).all() for t in load_weights(run.folder / "out" / "model.safetensors").state_dict().values()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 48}, "does not divide"),
        ({"num_input_views": 6}, "none would be held out"),
        pytest.param(
            {"accelerator": "cuda"},
            "no CUDA GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_unusable_settings_are_refused_before_the_first_step(run, change, message):
    with pytest.raises(UserError, match=message):
        run.train(SETTINGS.model_copy(update=change))
    assert not (run.folder / "checkpoints").exists()


def test_data_without_training_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match="no training samples"):
        Run(write_shards(tmp_path / "shards", {"train": 0, "val": 1}), tmp_path).train()


def test_a_terminal_gets_a_progress_bar(run, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run.train(SETTINGS.model_copy(update={"steps": 2}))
    assert "2/2" in capsys.readouterr().err


def test_a_gpu_without_its_rasteriser_says_what_to_install_before_anything_starts(
    monkeypatch, synthetic_shards, tmp_path
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("mousefacelift.gpu.checks.installed_torch", lambda: Torch("2.13.0+cu130", "13.0"))
    monkeypatch.setattr("mousefacelift.gpu.checks.installed_gsplat", lambda: None)
    settings = SETTINGS.model_copy(update={"accelerator": "auto", "preset": "base"})
    with pytest.raises(UserError, match=r"needs gsplat.*pip install.*accelerator: cpu"):
        train(synthetic_shards, tmp_path / "out", tmp_path / "checkpoints", settings, 1)
    assert not (tmp_path / "out").exists()


def test_a_run_that_skips_step_after_step_is_stopped(run):
    with pytest.raises(
        AlarmError, match=r"norm explosion: 3 of the last 6 steps up to step 3 were skipped.*learning_rate"
    ):
        run.train(SETTINGS.model_copy(update={"clip_norm": 1e-6, "guards": Guards(norm=3)}))
    assert not (run.folder / "out" / "model.safetensors").exists()
    assert len((run.folder / "out" / "metrics-failed.csv").read_text().splitlines()) == 4
    assert not (run.folder / "out" / "metrics.csv").exists()
    assert (run.folder / "out" / "curves-failed.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "damage", [{}, [1], {"step": 4}, {"model": {}, "step": 4, "skipped": 0, "optimizer": {}, "rows": {}}]
)
def test_a_checkpoint_of_something_else_is_named(run, damage):
    run.train(SETTINGS.model_copy(update={"steps": 1}))
    (path,) = run.folder.glob("checkpoints/*/last.ckpt")
    torch.save(damage, path)
    with pytest.raises(UserError, match=r"last\.ckpt: not a checkpoint of this run.*delete it"):
        run.train(SETTINGS.model_copy(update={"steps": 1}))


def test_a_run_may_start_from_the_weights_of_an_earlier_one(run, synthetic_shards, tmp_path):
    run.train(SETTINGS.model_copy(update={"steps": 2}))
    weights = run.folder / "out" / "model.safetensors"
    # With a learning rate of next to nothing, what comes out is what went in.
    still = SETTINGS.model_copy(update={"steps": 1, "init": str(weights), "learning_rate": 1e-12, "weight_decay": 0.0})
    train(synthetic_shards, tmp_path / "out", tmp_path / "checkpoints", still, 1)
    start, end = load_weights(weights).state_dict(), load_weights(tmp_path / "out" / "model.safetensors").state_dict()
    assert all(torch.allclose(start[name], end[name], atol=1e-9) for name in start)


def test_weights_of_another_preset_are_refused_before_training(run, monkeypatch):
    run.train(SETTINGS.model_copy(update={"steps": 1}))
    weights = run.folder / "out" / "model.safetensors"
    monkeypatch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(width=64, head_width=16, layers=1)))
    with pytest.raises(UserError, match=r"is not a model of preset tiny .*width 32 instead of 64"):
        run.train(SETTINGS.model_copy(update={"init": str(weights)}))


def test_without_cuda_nothing_imports_gsplat(run, monkeypatch):
    from mousefacelift.config.evaluate import Evaluate
    from mousefacelift.stages.evaluate import evaluate

    class Refuse:
        def find_spec(self, name, *_):
            assert name.partition(".")[0] != "gsplat", "gsplat was imported"

    for name in [name for name in sys.modules if name.partition(".")[0] == "gsplat"]:  # of other tests in this process
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    run.train(SETTINGS.model_copy(update={"steps": 2, "accelerator": "cpu"}))
    evaluate(run.manifest, run.folder / "out", run.folder / "evaluate", Evaluate(pictures=1, turntable_frames=1), 1)
    assert "gsplat" not in sys.modules


def test_a_metric_of_the_registry_that_is_validated_is_a_column(run, monkeypatch):
    monkeypatch.setitem(METRICS, "closeness", replace(CLOSENESS, validated=True))
    run.train(SETTINGS.model_copy(update={"steps": 1}))
    (row,) = run.rows
    assert list(row)[-1] == "val_closeness"
    assert list(row)[-len(validation_metrics()) :] == list(validation_metrics())
    assert 0 < float(row["val_closeness"]) < 1


class TestBest:
    """The weights with the best validation are kept beside the last ones."""

    @pytest.fixture
    def validate(self, monkeypatch):
        """Make validations find given values, and keep what was validated: step -> weights."""

        def arrange(values):
            seen = {}
            original = FineTuning.on_validation_epoch_end, FineTuning.on_validation_start

            def on_validation_epoch_end(self):
                original[0](self)
                self.validated["val_psnr"] = values[self.step]
                self.record({"val_psnr": values[self.step]})

            def on_validation_start(self):
                original[1](self)
                seen[self.step] = {name: value.clone() for name, value in self.model.state_dict().items()}

            monkeypatch.setattr(FineTuning, "on_validation_epoch_end", on_validation_epoch_end)
            monkeypatch.setattr(FineTuning, "on_validation_start", on_validation_start)
            return seen

        return arrange

    @pytest.mark.parametrize(
        ("values", "best"),
        [({4: 10.0, 8: 20.0, 12: 15.0}, 8), ({4: 10.0, 8: 10.0, 12: 10.0}, 4), ({4: 10.0, 8: math.nan, 12: 11.0}, 12)],
    )
    @pytest.mark.parametrize("changes", [{}, {"ema": 0.5}, {"adapt": "heads"}])
    def test_it_is_the_first_of_the_best(self, run, validate, capsys, values, best, changes):
        seen = validate(values)
        run.train(SETTINGS.model_copy(update={"val_every": 4} | changes))
        found = load_file(run.folder / "out" / "best.safetensors")
        assert found.keys() == seen[best].keys() and all(torch.equal(found[name], seen[best][name]) for name in found)
        err = capsys.readouterr().err
        assert f"best validation: PSNR {values[best]:.2f} dB after step {best} (" in err
        assert "; mean over 2 validation samples)" in err and "Warning: 2 samples are few." in err
        same = (run.folder / "out" / "best.safetensors").samefile(run.folder / "out" / "model.safetensors")
        assert same == (best == 12)

    def test_its_checkpoint_holds_what_is_trained_and_no_optimiser(self, run):
        run.train(SETTINGS.model_copy(update={"adapt": "heads"}))
        (path,) = run.folder.glob("checkpoints/*/best.ckpt")
        best = torch.load(path, weights_only=True)
        assert best.keys() == {"step", "value", "model", "averages"}
        assert best["model"].keys() == run.checkpoint["model"].keys() < GSLRM(MICRO).state_dict().keys()

    def test_weights_of_a_lost_step_are_not_taken_for_the_last(self, run, validate):
        """A run may be killed after its last validation, and on a GPU end elsewhere when it continues."""
        validate({4: 10.0, 8: 20.0, 12: 15.0})
        settings = SETTINGS.model_copy(update={"val_every": 4})
        run.train(settings)
        (path,) = run.folder.glob("checkpoints/*/best.ckpt")
        torch.save(torch.load(path, weights_only=True) | {"step": 12}, path)
        lost = run.best
        run.train(settings)
        assert run.best == lost != run.weights

    def test_without_a_validation_there_is_none(self, run, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "best.safetensors").write_bytes(b"of an earlier run")
        manifest = write_shards(tmp_path / "shards", {"train": 2, "val": 0})
        Run(manifest, tmp_path).train(SETTINGS.model_copy(update={"steps": 2}))
        assert not (out / "best.safetensors").exists() and (out / "model.safetensors").exists()

    @pytest.mark.parametrize("name", ["best", "last"])
    def test_a_full_disk_is_an_error_that_says_so(self, run, monkeypatch, name):
        original = torch.save

        def save(state, path):
            if name in path.name:
                path.write_bytes(b"part")
                raise RuntimeError("[enforce fail at inline_container.cc] . file write failed")
            original(state, path)

        monkeypatch.setattr(torch, "save", save)
        with pytest.raises(UserError, match=rf"{name}\.ckpt: the checkpoint cannot be written.*is the disk full"):
            run.train()

    def test_a_damaged_one_is_named(self, run):
        run.train(SETTINGS.model_copy(update={"steps": 6}))
        (path,) = run.folder.glob("checkpoints/*/best.ckpt")
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(UserError, match=r"best\.ckpt: damaged checkpoint .*; delete it"):
            run.train(SETTINGS.model_copy(update={"steps": 6}))


def test_tensorboard_shows_held_out_views_of_every_validation(undisturbed):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

    events = EventAccumulator(str(undisturbed.folder / "out" / "tensorboard"), size_guidance={IMAGES: 0})
    events.Reload()
    images = events.Images("held_out")
    assert [image.step for image in images] == [6, 12]
    for image in images:
        picture = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        assert picture.shape == (3 * 34, 2 * 34, 3)  # both samples of the split, of 32 px and a gap
        assert picture[:32, :32].min() < 200  # a mouse


def test_a_run_that_logs_to_wandb_is_the_same_run():
    settings = SETTINGS.model_copy(update={"wandb": "mice"})
    records = [
        {"train": each.model_dump(mode="json"), "model": {}, "data": {}, "init_sha256": None, "version": 1}
        for each in (SETTINGS, settings)
    ]
    assert identity(records[0]) == identity(records[1])
    assert "wandb" not in records[0]["train"]  # as in the records of versions that did not know it


def test_wandb_without_its_package_says_what_to_install_before_anything_starts(run, monkeypatch):
    monkeypatch.setattr("mousefacelift.training.loggers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"train.wandb needs the package wandb.*pip install.*\[wandb\]"):
        run.train(SETTINGS.model_copy(update={"wandb": "mice"}))
    assert not (run.folder / "checkpoints").exists()


class TestWandb:
    """With a stand-in for the package, which is an extra."""

    @pytest.fixture
    def services(self, monkeypatch):
        """The loggers that runs open: their arguments, rows, pictures and exit status."""
        opened = []

        class Error(Exception):
            pass

        class Service(Logger):
            name = version = "stand-in"
            fails = False

            def __init__(self, **arguments):
                super().__init__()
                self.arguments, self.rows, self.pictures, self.status = arguments, {}, [], None
                opened.append(self)

            def log_hyperparams(self, *_):
                pass

            def log_metrics(self, metrics, step):
                self.rows.setdefault(step, {}).update(metrics)

            def log_image(self, key, images, step):
                self.pictures.append((key, step, images[0].shape))

            @property
            def experiment(self):
                if Service.fails:
                    raise Error("api_key not configured")
                return SimpleNamespace(finish=lambda exit_code: setattr(self, "status", exit_code))

        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Error=Error))
        monkeypatch.setattr("mousefacelift.training.loggers.importlib.util.find_spec", lambda name: name)
        for module in ("loggers", "pictures"):
            monkeypatch.setattr(f"mousefacelift.training.{module}.WandbLogger", Service)
        return SimpleNamespace(opened=opened, logger=Service)

    def test_it_gets_the_rows_of_the_table_and_the_pictures(self, run, services):
        run.train(SETTINGS.model_copy(update={"wandb": "mice"}))
        (service,) = services.opened
        assert service.arguments["project"] == "mice" and service.arguments["name"] == SETTINGS.run
        assert [row["loss"] for row in service.rows.values()] == pytest.approx(
            [float(row["loss"]) for row in run.rows], rel=1e-6
        )
        assert service.rows[12]["val_psnr"] == pytest.approx(float(run.rows[-1]["val_psnr"]), rel=1e-6)
        assert [(key, step) for key, step, _ in service.pictures] == [("held_out", 6), ("held_out", 12)]
        assert service.status == 0

    def test_a_run_that_continues_is_one_run_and_a_failed_one_is_said_to_have_failed(self, run, services, monkeypatch):
        settings = SETTINGS.model_copy(update={"wandb": "mice"})
        original = FineTuning.training_step

        def training_step(self, *arguments):
            if self.step == 7:
                raise RuntimeError("the machine fails")
            return original(self, *arguments)

        monkeypatch.setattr(FineTuning, "training_step", training_step)
        with pytest.raises(RuntimeError, match="the machine fails"):
            run.train(settings)
        monkeypatch.setattr(FineTuning, "training_step", original)
        run.train(settings)
        first, second = services.opened
        assert first.arguments["id"] == second.arguments["id"] and second.arguments["resume"] == "allow"
        assert (first.status, second.status) == (1, 0)

    def test_a_user_that_it_does_not_know_is_told_what_to_do_before_the_first_step(self, run, services, monkeypatch):
        monkeypatch.setattr(services.logger, "fails", True)
        with pytest.raises(UserError, match=r"api_key not configured.*wandb login.*WANDB_MODE=offline"):
            run.train(SETTINGS.model_copy(update={"wandb": "mice"}))
        assert not list(run.folder.glob("checkpoints/*/last.ckpt"))

    def test_the_package_itself_takes_a_run_offline(self, run, monkeypatch):
        pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_MODE", "offline")
        run.train(SETTINGS.model_copy(update={"wandb": "mice"}))
        assert len(list((run.folder / "out").glob("wandb/offline-run-*/files/media/images/held_out_*.png"))) == 2
