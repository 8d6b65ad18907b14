"""The workflow as a user runs it, on a recording of six frames of the demo capture.

Every start of Snakemake takes seconds, so a test here needs what only Snakemake can show. What a run will do, and which
mistakes stop it, is in tests/test_plan.py.
"""

import ast
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
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mousefacelift.evaluation.framings import FRAMINGS
from mousefacelift.evaluation.variants import VARIANTS
from mousefacelift.plan import Plan
from support.budget import ALL, some
from support.paths import ROOT
from support.rodent import record, write_table
from support.twomice import two_mice, write_two_rows

TARGETS = (
    "center",
    "preview",
    "cameras",
    "normalize",
    "sample",
    "shard",
    "verify",
    "compare_cameras",
    "train",
    "evaluate",
    "poc",
    "ablation",
    "all",
)
BY_NAME = ("verify", "poc", "ablation")  # not part of `all`
PARTS = ("Snakefile", "rules", "config", "profiles", "envs")
needs_slurm = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="needs snakemake-executor-plugin-slurm: pip install -c envs/constraints.txt -e '.[slurm]'",
)


# Variants that the configured run has already are left out of the ablation: in the gate none is.
ALREADY = {} if ALL else {"loss": VARIANTS["plain_loss"].changes["loss"], "view_order": "random"}


def settings(table: Path) -> dict:
    return {
        "captures": str(table),
        "results": "results",
        "center": {"chunk_frames": 3},
        "normalize": {"zoom": "fit"},
        "sample": {"gap_s": 0, "fractions": {"train": 0.6, "val": 0.2, "test": 0.2}},
        "train": {
            "run": "t", "preset": "tiny", "image_size": 64, "steps": 2, "batch_size": 1, "warmup_steps": 1,
            "val_every": 2, "checkpoint_every": 1, "learning_rate": 1e-3, **ALREADY,
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


def blocks(output: str) -> dict[str, str]:
    """What a dry run says of each rule; of one with several jobs, of its last job."""
    found = re.split(r"^(?:local)?rule (\w+):$", output, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def requested(block: str) -> dict[str, int]:
    """The threads, memory and minutes of a job in a dry run."""
    numbers = re.findall(r"(?:^|[ ,])(threads|mem_mb|runtime)[:=] ?(\d+)", block, flags=re.MULTILINE)
    return {"threads": 1} | {name: int(number) for name, number in numbers}


def recorded(project: Path) -> dict[str, set[object]]:
    """The params that Snakemake recorded of each rule's jobs, and compares with those of the next run."""
    params: dict[str, set[object]] = {}
    for path in (project / ".snakemake" / "metadata").rglob("*"):
        if path.is_file():
            record = json.loads(path.read_text())
            values = (ast.literal_eval(text) for text in record["params"] or [])
            params.setdefault(record["rule"], set()).update(v for v in values if isinstance(v, str))
    return params


def changed(project: Path, change: dict) -> set[str]:
    """The rules whose recorded params a change of the configuration changes."""
    values = yaml.safe_load((project / "config" / "config.yaml").read_text())
    before, after = (answers(Plan.of(each)) for each in (values, update(values, change)))
    return {rule for rule, params in recorded(project).items() if params & (before - after)}


def update(values: dict, change: dict) -> dict:
    """Configuration values with a change, as Snakemake's --config merges them."""
    nested = {key: update(values.get(key, {}), value) for key, value in change.items() if isinstance(value, dict)}
    return {**values, **change, **nested}


def answers(plan: Plan) -> set[str]:
    """All settings that a plan gives to rules, as they stand in the params."""
    stages = ("center", "cameras", "normalize", "sample", "shard", "train", "evaluate")
    variants = {plan.variant_settings(name) for name in plan.per_variant(["{variant}"])}
    parts = {plan.background_settings(), plan.data_settings(), plan.framing_settings(), plan.config.evaluate.split}
    parts.add(plan.variant_evaluation())
    return {plan.settings(stage) for stage in stages} | variants | parts


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    # The shell must not take a path apart.
    folder = tmp_path_factory.mktemp("recording") / "it's a $lab"
    return write_table(record(folder, range(100, 106)), folder / "captures.tsv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, table):
    """A project in which `all` has run."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project", table)
    run = snakemake(project, "all")
    assert run.returncode == 0, run.stdout[-4000:]
    return project


@pytest.fixture(scope="module")
def by_name(finished):
    """What Snakemake said when the rules that are not part of `all` ran, in the finished project."""
    assert not any((finished / "results" / name).exists() for name in BY_NAME)
    run = snakemake(finished, *BY_NAME)
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


@pytest.fixture(scope="module")
def several(tmp_path_factory, table):
    """A project of four captures of three animals, whole animals to a split."""
    folder = tmp_path_factory.mktemp("several")
    header, row = table.read_text().splitlines()
    animals = ("m10", "m1", "m2", "m2")
    rows = [row.replace("short\ta\t", f"day{k}\t{animal}\t", 1) for k, animal in enumerate(animals)]
    (folder / "captures.tsv").write_text("\n".join([header, *rows]) + "\n")
    project = make_project(folder / "project", folder / "captures.tsv")
    values = settings(folder / "captures.tsv")
    values["sample"]["split"] = "animal"
    (project / "config" / "config.yaml").write_text(yaml.safe_dump(values))
    return project


@pytest.fixture(scope="module")
def dry(several):
    """What a dry run of every target says, with as many cores as jobs ask for."""
    run = snakemake(several, "--cores", "64", "--dry-run", "--printshellcmds", *TARGETS)
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


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
def test_a_second_run_has_nothing_to_do(finished, by_name):
    begin = time.monotonic()
    run = snakemake(finished, "all", *BY_NAME)
    assert "Nothing to be done" in run.stdout
    print(f"second run: {time.monotonic() - begin:.1f} s")


@pytest.mark.slow
def test_what_is_asked_for_by_name_leaves_the_configured_run_as_it_is(by_name):
    assert planned(by_name) == {
        "verify", "poc", "poc_cameras", "poc_framings", "ablation", "ablation_train", "ablation_evaluate",
    }  # fmt: skip


@pytest.mark.slow
def test_shards_are_verified_when_asked_for_by_name_and_the_manifest_knows_their_settings(finished, by_name, tmp_path):
    project = shutil.copytree(finished, tmp_path / "project")
    manifest = project / "results" / "shard" / "manifest.json"
    listed = json.loads(manifest.read_text())
    assert list(listed["config"]) == sorted(["center", "cameras", "normalize", "sample", "shard"])
    assert listed["config"]["normalize"]["zoom"] == "fit"
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
def test_the_camera_conventions_are_compared_when_asked_for_by_name(finished, by_name):
    assert {path.name for path in (finished / "results" / "poc" / "t").iterdir()} == {
        "metrics.json", "metrics.tsv", "table.md", "grid.png", "framings",
    }  # fmt: skip


@pytest.mark.slow
def test_the_framings_are_compared_when_the_camera_conventions_are(finished, by_name):
    folder = finished / "results" / "poc" / "t" / "framings"
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "metrics.tsv", "table.md", "grid.png"}
    assert set(json.loads((folder / "metrics.json").read_text())["framings"]) == set(FRAMINGS)


@pytest.mark.slow
def test_the_ablation_trains_every_variant_that_changes_something(finished, by_name):
    results = finished / "results" / "ablation" / "t"
    variants = {"unguided", "clamp", "one_input", "canonical"} | ({"plain_loss", "random_order"} if ALL else set())
    assert {path.name for path in results.iterdir()} == variants | {"table.md", "metrics.json", "curves.png"}
    for name in variants:
        assert (results / name / "evaluate" / "metrics.json").stat().st_size > 0
    assert set(json.loads((results / "metrics.json").read_text())["runs"]) == {"configured"} | variants


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "change", "rules"),
    [
        ("center", {"margin_px": 20}, {"center_chunk", "center_preview", "shard_manifest"}),
        ("cameras", {"max_residual_px": 50}, {"cameras_capture", "shard_manifest"}),
        ("normalize", {"zoom": 1.0}, {"normalize_capture", "shard_manifest", "poc_framings"}),
        ("sample", {"gap_s": 0.01}, {"sample_capture", "shard_manifest"}),
        ("shard", {"h5_level": 5}, {"shard_chunk", "shard_manifest", "poc_framings"}),
        ("train", {"seed": 1}, {"train", "ablation_train"}),
        ("evaluate", {"pictures": 0}, {"evaluate", "ablation_evaluate"}),
        ("evaluate", {"split": "val"}, {"evaluate", "ablation_evaluate", "poc_cameras", "poc_framings"}),
    ],
)
def test_a_changed_setting_stands_in_the_params_of_its_stage_and_no_other(finished, by_name, section, change, rules):
    assert changed(finished, {section: change}) == rules


@pytest.mark.slow
def test_changed_params_rerun_their_stage_and_what_follows_and_nothing_before(finished, by_name):
    run = snakemake(finished, "--dry-run", "evaluate", "--config", "sample={gap_s: 0.01}")
    assert run.returncode == 0, run.stdout
    assert planned(run.stdout) == {"sample_capture", "shard_chunk", "shard_manifest", "train", "evaluate"}


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_completes_with_the_same_shards(tmp_path, finished, table):
    expected = digests(finished)
    assert len(expected) == 13
    project = make_project(tmp_path / "project", table)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    interrupted = 0
    for moment in some((2.0, 3.0, 4.0, 5.5, 7.0)):
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


def test_every_stage_is_a_target(dry):
    assert set(TARGETS) <= planned(dry)


def test_whole_animals_go_to_the_splits_by_the_tables_names(dry):
    given = dict(re.findall(r"normalize/(day\d)/cameras\.h5 .*--split (\w+)", dry))
    assert given == {"day0": "test", "day1": "train", "day2": "val", "day3": "val"}


def test_a_job_is_given_its_own_captures_row_and_no_table(dry):
    commands = [line for line in dry.splitlines() if line.startswith("Shell command: ") and "--row" in line]
    assert len(commands) == 4 * 4  # two chunks, a preview and the cameras of every capture
    for command in commands:
        assert len(set(re.findall(r"\bday\d\b", command))) == 1, command
    assert "captures.tsv" not in "".join(commands)


def test_silhouettes_without_masks_go_through_the_same_rules(tmp_path, table):
    project = make_project(tmp_path / "project", table)
    values = settings(table)
    values["center"] |= {"masks": "background", "background": {"frames": 6}}
    (project / "config" / "config.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(project, "center")
    assert run.returncode == 0, run.stdout
    folder = project / "results" / "center" / "short"
    assert sorted(p.name for p in folder.iterdir()) == ["0000.h5", "0001.h5", "background.h5", "preview.png"]
    assert changed(project, {"center": {"margin_px": 20}}) == {"center_chunk", "center_preview"}, (
        "the arena is the same"
    )
    assert changed(project, {"center": {"background": {"frames": 5}}}) >= {"center_background"}


@pytest.mark.slow
def test_two_animals_and_one_alone_have_shards_each_and_a_second_run_has_nothing_to_do(tmp_path, table):
    header, alone = table.read_text().splitlines()
    cells = dict(zip(header.split("\t"), alone.split("\t"), strict=True)) | {"capture": "alone"}
    mice = two_mice(tmp_path / "mice", begins=(25, 175), frames=6)
    project = make_project(tmp_path / "project", write_two_rows(mice, tmp_path / "captures.tsv", cells))
    cold = snakemake(project, *TARGETS, "--dry-run")
    assert cold.returncode == 0 and {"center_chunk", "poc_framings"} <= planned(cold.stdout), cold.stdout[-4000:]
    run = snakemake(project, "shard", "preview")
    assert run.returncode == 0, run.stdout[-4000:]
    results = project / "results"
    chunks = ["0000.h5", "0001.h5"]
    assert {path.name: sorted(p.name for p in path.iterdir()) for path in (results / "center").iterdir()} == {
        name: [*chunks, "preview.png"] for name in ("alone", "mouse1")
    }
    samples = Counter()
    for shard in json.loads((results / "shard" / "manifest.json").read_text())["shards"]:
        samples[Path(shard["h5"]).stem.rpartition("-")[0]] += shard["samples"]
    print(dict(samples))
    # In camera 4, mouse 2 passes behind mouse 1 in most frames.
    hidden = (
        (results / "sample" / "mouse2" / "rejected.tsv").read_text().count("hidden in part by another animal: camera 4")
    )
    assert hidden >= 1 and samples["mouse1"] > samples["mouse2"] > 0 and samples["alone"] == 6
    assert "Nothing to be done" in snakemake(project, "shard", "preview", "--dry-run").stdout


@pytest.mark.parametrize(
    ("target", "override", "message"),
    [
        ("all", "normalize={zom: 1.0}", r"unknown key 'normalize.zom': did you mean 'zoom'\?"),  # any job's mistake
        ("train", "sample={views: 5}", r"num_input_views is 5, but samples have 5 views"),  # this target's mistake
    ],
)
def test_a_mistake_in_the_configuration_stops_everything_before_the_first_job(
    tmp_path, table, target, override, message
):
    project = make_project(tmp_path / "project", table)
    run = snakemake(project, target, "--config", override)
    assert run.returncode == 1
    assert re.search(message, run.stdout), run.stdout
    assert "Traceback (most recent call last)" not in run.stdout
    assert not (project / "results").exists()


@needs_slurm
def test_on_slurm_every_job_gets_what_its_rule_asks_for_and_training_a_gpu(several, dry):
    slurm = snakemake(several, "--cores", "64", "--dry-run", "--workflow-profile", "profiles/slurm", *TARGETS)
    assert slurm.returncode == 0, slurm.stdout
    asked, given = blocks(dry), blocks(slurm.stdout)
    assert asked.keys() == given.keys()
    for rule in asked:
        got = requested(given[rule])
        assert all(got[name] >= number for name, number in requested(asked[rule]).items()), f"{rule}: {got}"
        assert ("slurm_partition=gpu" in given[rule]) == ("gpu=1" in given[rule]), rule


def test_the_profiles_leave_threads_memory_and_time_to_the_rules():
    for path in (ROOT / "profiles").glob("*/profile.yaml"):
        profile = yaml.safe_load(path.read_text())
        assert "set-threads" not in profile
        given = profile.get("set-resources", {}) | {"every rule": profile.get("default-resources", {})}
        numbers = {f"{rule}: {name}" for rule, each in given.items() for name in each if not name.startswith("slurm_")}
        assert not numbers, f"{path}: {numbers}"


def test_every_rule_that_runs_something_logs_and_is_measured():
    for path in (ROOT / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if "shell:" in rule:
                for directive in ("log:", "benchmark:", "threads:", "conda:", "mem_mb=", "runtime=", "version="):
                    assert directive in rule, f"{path.name}: rule {rule.split(':')[0]} lacks {directive}"
                assert "mousefacelift " in rule


def test_rules_only_wire():
    for path in (ROOT / "rules").glob("*.smk"):
        if path.name != "common.smk":
            code = re.sub(r"#.*", "", path.read_text())
            assert not re.search(r"\b(lambda|def|if|for|import)\b|^    (run|script):", code, re.MULTILINE), (
                f"{path.name}: ask the plan"
            )
