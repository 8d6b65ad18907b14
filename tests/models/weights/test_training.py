"""Training starts from weights that fit, and nothing starts with weights that do not."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from mousefacelift.config.presets import PRESETS
from mousefacelift.models.registry import build_model, preset_config
from mousefacelift.models.weights.files import load_weights, save_weights
from support.paths import ROOT
from support.presets import preset_of
from support.rodent import record, write_table
from support.weights import MICRO, MISFITS, damage, facelift, frozen, hollow


def train_words(manifest, folder, **settings):
    return [
        "train", "--manifest", manifest, "--output", folder / "out", "--checkpoints", folder / "checkpoints",
        "--settings", json.dumps({"preset": "base", "image_size": 32, "steps": 1, "accelerator": "cpu", "precision": "32-true", **settings}),
    ]  # fmt: skip


def write_misfit(path, kind):
    """A checkpoint of base shapes with one fault; returns what the message must say of it."""
    if kind == "missing path":
        return [f"train.init: {path}: no such file"]
    torch.save(facelift(damage(hollow(preset_config("base")), kind) | frozen()), path)
    return [f"train.init: {path}: ", *MISFITS[kind]]


@pytest.mark.parametrize("kind", ["renamed", "shape", "missing path"])
def test_training_does_not_start_from_weights_that_do_not_fit(tmp_path, synthetic_shards, call, kind):
    lines = write_misfit(tmp_path / "w.pt", kind)
    status, out, err = call(*train_words(synthetic_shards, tmp_path, init=str(tmp_path / "w.pt")))
    assert (status, out) == (1, "")
    assert all(line in err for line in lines), err
    assert not (tmp_path / "out").exists() and not (tmp_path / "checkpoints").exists()


def test_training_refuses_facelifts_weights_for_another_preset(tmp_path, synthetic_shards, call):
    torch.save(facelift(hollow(preset_config("base"))), tmp_path / "w.pt")
    words = train_words(synthetic_shards, tmp_path, init=str(tmp_path / "w.pt"), preset="tiny")
    status, _, err = call(*words)
    assert status == 1
    assert f"train.init: {tmp_path / 'w.pt'} is not a model of preset tiny (width 1024 instead of 128, " in err
    assert not (tmp_path / "out").exists()


def test_training_starts_from_facelifts_weights(tmp_path, synthetic_shards, call, micro, monkeypatch):
    monkeypatch.setitem(PRESETS, "base", preset_of(MICRO))
    torch.save(facelift(micro | frozen()), tmp_path / "w.pt")
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "init": str(tmp_path / "w.pt")}
    status, _, err = call(*train_words(synthetic_shards, tmp_path, **still))
    assert status == 0, err
    end = load_weights(tmp_path / "out" / "model.safetensors").state_dict()
    assert all(torch.allclose(end[name], tensor, atol=1e-9) for name, tensor in micro.items())


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    return write_table(record(folder, range(100, 103)), folder / "captures.tsv")


def dry_run(folder, table, target="train", python=(), **train):
    """A dry run of the workflow in its own process; returns exit status and everything it said."""
    project = folder / "project"
    project.mkdir()
    for name in ("Snakefile", "rules", "config", "profiles", "envs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, project / name)
    settings = {"captures": str(table), "train": {"image_size": 64, **train}}
    (project / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, *python, "-m", "snakemake", "--cores", "1", "--dry-run", target],
        cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert not (project / "results").exists()
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["renamed", "shape", "missing path"])
def test_no_job_runs_before_weights_that_do_not_fit(tmp_path, table, kind):
    lines = write_misfit(tmp_path / "w.pt", kind)
    status, out = dry_run(tmp_path, table, preset="base", init=str(tmp_path / "w.pt"))
    assert status == 1
    assert all(line in out for line in lines), out
    assert "Traceback (most recent call last)" not in out


@pytest.mark.slow
def test_no_job_runs_before_weights_of_another_preset(tmp_path, table):
    save_weights(build_model("tiny"), tmp_path / "w.safetensors")
    status, out = dry_run(tmp_path, table, preset="base", init=str(tmp_path / "w.safetensors"))
    assert status == 1 and "is not a model of preset base (width 128 instead of 1024, " in out, out


@pytest.mark.slow
def test_weights_that_fit_are_an_input_of_training_alone(tmp_path, table):
    path = tmp_path / "w.safetensors"
    save_weights(build_model("tiny"), path)
    status, out = dry_run(tmp_path, table, preset="tiny", init=str(path))
    assert status == 0, out
    assert re.search(rf"^rule train:\n    input: .*{re.escape(str(path))}$", out, flags=re.MULTILINE), out


@pytest.mark.slow
@pytest.mark.parametrize("init", [True, False], ids=["init", "none"])
def test_the_workflow_imports_torch_only_to_look_at_weights(tmp_path, table, init):
    path = tmp_path / "w.safetensors"
    save_weights(build_model("tiny"), path)
    timing = ["-X", "importtime"]
    status, out = dry_run(tmp_path, table, python=timing, preset="tiny", init=str(path) if init else None)
    assert status == 0, out[-2000:]
    assert bool(re.search(r"\| +torch$", out, flags=re.MULTILINE)) == init
