"""The workflow as a user runs it, on a recording of six frames of the demo capture."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from support.paths import ROOT
from support.rodent import record, write_table

TARGETS = (
    "center",
    "cameras",
    "normalize",
    "sample",
    "shard",
    "verify",
    "compare_cameras",
    "train",
    "evaluate",
    "ablation",
    "all",
)
PARTS = ("Snakefile", "rules", "config", "profiles", "envs")


def settings(table: Path) -> dict:
    return {
        "captures": str(table),
        "results": "results",
        "center": {"chunk_frames": 3},
        "normalize": {"zoom": "fit"},
        "sample": {"gap_s": 0, "fractions": {"train": 0.6, "val": 0.2, "test": 0.2}},
        "train": {
            "run": "t", "preset": "tiny", "image_size": 64, "steps": 2, "batch_size": 1, "warmup_steps": 1,
            "val_every": 2, "checkpoint_every": 1, "learning_rate": 1e-3,
        },
        "evaluate": {"pictures": 1, "turntable_frames": 3, "turntable_size": 64},
    }  # fmt: skip


def make_project(folder: Path, table: Path) -> Path:
    """A copy of the workflow's files with a configuration for the recording."""
    folder.mkdir()
    for name in PARTS:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(settings(table)))
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]


def snakemake(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    # The console script's folder first: the rules call `mousefacelift` by name.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command(*arguments), cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def planned(output: str) -> set[str]:
    """The rules that a dry run would run."""
    return set(re.findall(r"^(?:local)?rule (\w+):$", output, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    return write_table(record(folder, range(100, 106)), folder / "captures.tsv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, table):
    """A project in which `all` has run."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project", table)
    run = snakemake(project, "all")
    assert run.returncode == 0, run.stdout[-4000:]
    return project


def digests(project: Path) -> dict[str, str]:
    shards = project / "results" / "shard"
    return {
        path.relative_to(shards).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(shards.rglob("*.*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_one_command_makes_weights_metrics_and_pictures(finished):
    results = finished / "results"
    for name in ("train/t/model.safetensors", "train/t/metrics.csv", "train/t/config.yaml", "evaluate/t/metrics.json"):
        assert (results / name).stat().st_size > 0
    assert list(results.glob("evaluate/t/pictures/*.png"))
    assert list(results.glob("evaluate/t/*.ply"))
    assert list(results.glob("evaluate/t/turntable.mp4"))
    for stage in ("center", "cameras", "normalize", "sample", "shard", "train", "evaluate"):
        assert list((results / "logs" / stage).rglob("*.log"))
        assert list((results / "benchmarks" / stage).rglob("*.tsv"))


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(finished):
    begin = time.monotonic()
    run = snakemake(finished, "all")
    assert "Nothing to be done" in run.stdout
    print(f"second run: {time.monotonic() - begin:.1f} s")


@pytest.mark.slow
def test_shards_are_verified_when_asked_for_by_name_and_the_manifest_knows_their_settings(finished, tmp_path):
    project = shutil.copytree(finished, tmp_path / "project")
    manifest = project / "results" / "shard" / "manifest.json"
    listed = json.loads(manifest.read_text())
    assert list(listed["config"]) == sorted(["center", "cameras", "normalize", "sample", "shard"])
    assert listed["config"]["normalize"]["zoom"] == "fit"
    run = snakemake(project, "verify")
    assert run.returncode == 0, run.stdout[-4000:]
    receipt = project / "results" / "verify" / "verify.json"
    assert json.loads(receipt.read_text())["manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    damaged = manifest.parent / next(e["h5"] for e in listed["shards"] if e["samples"])
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    run = snakemake(project, "verify", "--force")
    assert run.returncode == 1
    assert f"{damaged.parent.name}/{damaged.name}" in run.stdout
    assert "1 problem; delete the files named above and rerun the workflow" in run.stdout
    assert not receipt.exists()


@pytest.mark.slow
def test_the_camera_conventions_are_compared_when_asked_for_by_name(finished):
    assert not (finished / "results" / "poc").exists()
    run = snakemake(finished, "poc")
    assert run.returncode == 0, run.stdout[-4000:]
    assert {path.name for path in (finished / "results" / "poc" / "t").iterdir()} == {
        "metrics.json", "metrics.tsv", "table.md", "grid.png",
    }  # fmt: skip
    dry = snakemake(finished, "--dry-run", "poc", "--config", "evaluate={pictures: 0}")
    assert "Nothing to be done" in dry.stdout, "of evaluate's settings only the split matters"
    dry = snakemake(finished, "--dry-run", "poc", "--config", "evaluate={split: val}")
    assert planned(dry.stdout) == {"poc"}


@pytest.mark.slow
def test_the_ablation_trains_every_variant_but_not_the_configured_run(finished):
    results = finished / "results" / "ablation"
    assert not results.exists()
    weights = (finished / "results" / "train" / "t" / "model.safetensors").stat()
    assert planned(snakemake(finished, "--dry-run", "ablation").stdout) == {
        "ablation",
        "ablation_train",
        "ablation_evaluate",
    }
    run = snakemake(finished, "ablation")
    assert run.returncode == 0, run.stdout[-4000:]
    assert (finished / "results" / "train" / "t" / "model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns
    variants = {"one_input", "plain_loss", "canonical", "random_order"}
    assert {path.name for path in (results / "t").iterdir()} == variants | {"table.md", "metrics.json", "curves.png"}
    for name in variants:
        assert (results / "t" / name / "evaluate" / "metrics.json").stat().st_size > 0
    assert set(json.loads((results / "t" / "metrics.json").read_text())["runs"]) == {"configured"} | variants
    assert "Nothing to be done" in snakemake(finished, "--dry-run", "ablation").stdout
    fewer = snakemake(finished, "--dry-run", "ablation", "--config", "train={loss: {masked_l2: 0}}").stdout
    assert "ablation/t/one_input/" in fewer
    assert "plain_loss" not in fewer, "what the configuration has already is not trained again"
    assert "Nothing to be done" in snakemake(finished, "--dry-run", "all").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "key", "value", "first"),
    [
        ("center", "margin_px", 20, "center_chunk"),
        ("cameras", "max_residual_px", 50, "cameras_capture"),
        ("normalize", "zoom", 1.0, "normalize_capture"),
        ("sample", "gap_s", 0.01, "sample_capture"),
        ("shard", "h5_level", 5, "shard_chunk"),
        ("train", "seed", 1, "train"),
        ("evaluate", "pictures", 0, "evaluate"),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows_and_nothing_before(finished, section, key, value, first):
    chain = [
        "center_chunk", "cameras_capture", "normalize_capture", "sample_capture", "shard_chunk", "shard_manifest",
        "train", "evaluate",
    ]  # fmt: skip
    dry = snakemake(finished, "--dry-run", "evaluate", "--config", f"{section}={{{key}: {value}}}")
    assert dry.returncode == 0, dry.stdout
    assert planned(dry.stdout) == set(chain[chain.index(first) :])


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_completes_with_the_same_shards(tmp_path, finished, table):
    expected = digests(finished)
    assert len(expected) == 13
    project = make_project(tmp_path / "project", table)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    interrupted = 0
    for moment in (2.0, 3.0, 4.0, 5.5, 7.0):
        process = subprocess.Popen(
            command("shard"), cwd=project, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            interrupted += 1
        finals = digests(project) if (project / "results" / "shard").exists() else {}
        for name, digest in finals.items():
            if ".partial" not in name:
                assert digest == expected[name], f"a half-written {name} stands under its final name"
    assert interrupted
    run = snakemake(project, "shard")
    assert run.returncode == 0, run.stdout[-4000:]
    assert digests(project) == expected


@pytest.mark.parametrize("target", TARGETS)
def test_every_stage_is_a_target(tmp_path, table, target):
    dry = snakemake(make_project(tmp_path / "project", table), "--dry-run", target)
    assert dry.returncode == 0, dry.stdout
    assert planned(dry.stdout)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("normalize={zom: 1.0}", r"unknown key 'normalize.zom': did you mean 'zoom'\?"),
        ("train={num_input_views: 1}", "num_input_views is 1"),
        ("train={image_size: 96}", "must divide"),
        ("train={init: nowhere.safetensors}", "train.init: nowhere.safetensors: no such file"),
        ("captures=nowhere.tsv", "nowhere.tsv: no such captures table"),
    ],
)
def test_a_mistake_in_the_configuration_stops_everything_before_the_first_job(tmp_path, table, override, message):
    project = make_project(tmp_path / "project", table)
    run = snakemake(project, "all", "--config", override)
    assert run.returncode == 1
    assert re.search(message, run.stdout), run.stdout
    assert "Traceback" not in run.stdout
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"format": "anipose"},
            r"hires_cam1_params\.mat: the file looks like MATLAB; expected TOML for the stated format",
        ),
        ({"unit": "m"}, r"is the unit off by 1000.*State the calibration's unit"),
        ({"sync": "2=5000"}, "the cameras have no frame in common; look at the table's column 'sync'"),
        ({"calibration_names": "1=left"}, "camera '1' is not in the calibration"),
    ],
)
def test_a_calibration_that_does_not_fit_stops_everything_before_the_first_job(tmp_path, table, cells, message):
    header, row = table.read_text().splitlines()[-2:]
    other = tmp_path / "captures.tsv"
    other.write_text("\t".join([header, *cells]) + "\n" + "\t".join([row, *cells.values()]) + "\n")
    run = snakemake(make_project(tmp_path / "project", other), "--dry-run", "center")
    assert run.returncode == 1
    assert re.search(message, run.stdout), run.stdout
    assert "Traceback" not in run.stdout


def test_silhouettes_without_masks_go_through_the_same_rules(tmp_path, table):
    project = make_project(tmp_path / "project", table)
    run = snakemake(project, "center", "--config", "center={masks: background, background: {frames: 6}}")
    assert run.returncode == 0, run.stdout
    folder = project / "results" / "center" / "short"
    assert sorted(p.name for p in folder.iterdir()) == ["0000.h5", "0001.h5", "background.h5", "preview.png"]
    again = snakemake(
        project, "--dry-run", "center", "--config", "center={masks: background, background: {frames: 6}, margin_px: 20}"
    )
    assert planned(again.stdout) == {"center", "center_chunk", "center_preview"}, "the arena is the same"
    missing = snakemake(project, "--dry-run", "center", "--config", "center={masks: onnx}")
    assert missing.returncode == 1
    assert "center.onnx.path: is not set" in missing.stdout


@pytest.mark.parametrize(
    ("target", "views", "before", "message"),
    [
        (
            "sample", 7, "normalize",
            r"capture \S+ has 6 cameras \(1, 2, 3, 4, 5, 6\), fewer than sample\.views \(7\): set sample\.views: 6 and",
        ),
        (
            "train", 5, "shard",
            r"num_input_views is 5, but samples have 5 views \(sample\.views\): none would be held out; use 4",
        ),
    ],
)  # fmt: skip
def test_a_number_of_views_that_does_not_fit_stops_what_needs_it_and_no_more(
    tmp_path, table, target, views, before, message
):
    project = make_project(tmp_path / "project", table)
    run = snakemake(project, target, "--config", f"sample={{views: {views}}}")
    assert run.returncode == 1
    assert re.search(message, run.stdout), run.stdout
    assert not (project / "results").exists()
    assert snakemake(project, "--dry-run", before, "--config", f"sample={{views: {views}}}").returncode == 0


def test_whole_animals_go_to_the_splits_by_the_tables_names(tmp_path, table):
    header, row = table.read_text().splitlines()
    rows = [row.replace("short\ta\t", f"day{k}\t{animal}\t", 1) for k, animal in enumerate(("m10", "m1", "m2", "m2"))]
    several = tmp_path / "captures.tsv"
    several.write_text("\n".join([header, *rows]) + "\n")
    project = make_project(tmp_path / "project", several)
    dry = snakemake(project, "--dry-run", "--printshellcmds", "sample", "--config", "sample={split: animal}")
    assert dry.returncode == 0, dry.stdout
    given = dict(re.findall(r"normalize/(day\d)/cameras\.h5 .*--split (\w+)", dry.stdout))
    assert given == {"day0": "test", "day1": "train", "day2": "val", "day3": "val"}
    several.write_text("\n".join([header, *rows[1:]]) + "\n")
    too_few = snakemake(project, "--dry-run", "sample", "--config", "sample={split: animal}")
    assert too_few.returncode == 1
    assert "3 splits (train, val, test) need as many animals; the captures table has 2 (m1, m2)" in too_few.stdout
    assert "Traceback" not in too_few.stdout


def test_a_split_without_frames_stops_an_evaluation_before_the_training(tmp_path, table):
    project = make_project(tmp_path / "project", table)
    fractions = "sample={fractions: {train: 1, val: 0, test: 0}}"
    run = snakemake(project, "evaluate", "--config", fractions)
    assert run.returncode == 1
    assert "evaluate.split is test, but sample.fractions gives it nothing" in run.stdout
    assert not (project / "results").exists()
    assert snakemake(project, "--dry-run", "train", "--config", fractions).returncode == 0


@pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="needs snakemake-executor-plugin-slurm: pip install -c envs/constraints.txt -e '.[slurm]'",
)
def test_the_slurm_profile_plans_the_whole_workflow(tmp_path, table):
    dry = snakemake(
        make_project(tmp_path / "project", table), "--dry-run", "--workflow-profile", "profiles/slurm", "all"
    )
    assert dry.returncode == 0, dry.stdout
    trained = re.search(r"rule train:.*?resources: ([^\n]*)", dry.stdout, flags=re.DOTALL)
    assert trained
    assert "slurm_partition=gpu" in trained[1]
    assert "gpu=1" in trained[1]


def test_every_rule_that_runs_something_logs_and_is_measured():
    for path in (ROOT / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if "shell:" in rule:
                for directive in ("log:", "benchmark:", "threads:", "conda:", "mem_mb=", "runtime=", "version="):
                    assert directive in rule, f"{path.name}: rule {rule.split(':')[0]} lacks {directive}"
                assert "mousefacelift " in rule
