"""What a run will do, and which mistakes stop it: asked of the plan, in milliseconds, without Snakemake."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.gpu.driver import System
from mousefacelift.gpu.toolchain import Tool, Torch
from mousefacelift.plan import Plan
from mousefacelift.recordings.rows import capture_from_json
from mousefacelift.recordings.video import probe
from support.paths import ROOT
from support.rodent import record, write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    return write_table(record(folder, range(100, 106)), folder / "captures.tsv")


@pytest.fixture
def plan(table):
    """Makes a plan for the recording of six frames, with the sections given."""

    def make(captures=table, **sections):
        center = {"chunk_frames": 3} | sections.pop("center", {})
        train = {"run": "t", "preset": "tiny", "image_size": 64} | sections.pop("train", {})
        return Plan.of({"captures": str(captures), "results": "out/", "center": center, "train": train, **sections})

    return make


def with_columns(table, path, **cells):
    """The table with columns more."""
    header, row = table.read_text().splitlines()
    path.write_text("\t".join([header, *cells]) + "\n" + "\t".join([row, *cells.values()]) + "\n")
    return path


def with_captures(table, path, **animals):
    """The table with the same recording as captures of these names and animals."""
    header, row = table.read_text().splitlines()
    rows = [row.replace("short\ta\t", f"{name}\t{animal}\t", 1) for name, animal in animals.items()]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


ANIMALS = {"day0": "m10", "day1": "m1", "day2": "m2", "day3": "m2"}


def test_a_plan_knows_captures_chunks_and_files(plan):
    made = plan()
    assert list(made.captures) == ["short"]
    assert made.chunks == {"short": ["0000", "0001"]}
    assert made.split_of == {}
    assert made.results == "out", "paths in the rules are joined with one slash"
    assert made.center_chunks("short") == ["out/center/short/0000.h5", "out/center/short/0001.h5"]
    assert made.per_capture("{results}/{capture}.png") == ["out/short.png"]
    assert made.per_split("{results}/{split}/{capture}-{chunk}.h5") == [
        f"out/{split}/short-{chunk}.h5" for split in ("train", "val", "test") for chunk in ("0000", "0001")
    ]
    assert made.manifest == made.trained_manifest() == made.evaluated_manifest() == "out/shard/manifest.json"
    assert made.initial_weights() == []


def test_the_demo_is_planned_without_torch():
    code = (
        "import sys; from mousefacelift.plan import Plan; Plan.of({'captures': None});"
        "print([name for name in ('torch', 'lightning', 'matplotlib', 'snakemake') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"normalize": {"zom": 1.0}}, r"^configuration: unknown key 'normalize.zom': did you mean 'zoom'\?"),
        ({"train": {"num_input_views": 1}}, "num_input_views is 1"),
        ({"train": {"image_size": 96}}, "must divide"),
        ({"train": {"init": "nowhere.safetensors"}}, r"^train\.init: nowhere\.safetensors: no such file"),
        ({"captures": "nowhere.tsv"}, r"^nowhere\.tsv: no such captures table"),
        ({"center": {"masks": "provded"}}, r"^center\.masks: unknown method 'provded': did you mean 'provided'\?"),
        ({"center": {"masks": "onnx"}}, r"center\.onnx\.path: is not set"),
        ({"center": {"masks": "onnx", "onnx": {"path": "no.onnx"}}}, r"center\.onnx\.path: no\.onnx: "),
    ],
)
def test_a_mistake_in_the_configuration_leaves_no_plan(plan, sections, message):
    with pytest.raises(UserError, match=message):
        plan(**sections)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"format": "anipose"},
            r"hires_cam1_params\.mat: the file looks like MATLAB; expected TOML for the stated format",
        ),
        ({"unit": "m"}, r"(?s)is the unit off by 1000.*State the calibration's unit"),
        ({"sync": "2=5000"}, "the cameras have no frame in common; look at the table's column 'sync'"),
        ({"calibration_names": "1=left"}, "camera '1' is not in the calibration"),
    ],
)
def test_a_calibration_that_does_not_fit_leaves_no_plan(plan, table, tmp_path, cells, message):
    with pytest.raises(UserError, match=message):
        plan(with_columns(table, tmp_path / "captures.tsv", **cells))


def test_more_views_than_cameras_stop_what_needs_normalized_cameras_and_no_more(plan):
    made = plan(sample={"views": 7})
    message = (
        r"capture \S+ has 6 cameras \(1, 2, 3, 4, 5, 6\), fewer than sample\.views \(7\): set sample\.views: 6 and"
    )
    with pytest.raises(UserError, match=message):
        made.normalized_cameras("short")
    assert made.center_chunks("short")
    assert plan(sample={"views": 6}).normalized_cameras("short") == "out/normalize/short/cameras.h5"


def test_no_held_out_view_stops_training_and_no_more(plan):
    made = plan(sample={"views": 5})
    message = r"num_input_views is 5, but samples have 5 views \(sample\.views\): none would be held out; use 4"
    with pytest.raises(UserError, match=message):
        made.trained_manifest()
    assert made.normalized_cameras("short")
    assert made.evaluated_manifest()


def test_a_split_without_frames_stops_an_evaluation_before_the_training(plan):
    made = plan(sample={"fractions": {"train": 1, "val": 0, "test": 0}})
    with pytest.raises(UserError, match=r"evaluate\.split is test, but sample\.fractions gives it nothing"):
        made.evaluated_manifest()
    assert made.trained_manifest()
    assert made.need_options() == ["--need=train"]


def test_a_manifest_of_others_must_be_there_and_hold_the_samples_that_are_wanted(plan, tmp_path):
    manifest = tmp_path / "manifest.json"
    made = plan(train={"manifest": str(manifest)})
    with pytest.raises(UserError, match=r"^train\.manifest: .*manifest\.json: no such file"):
        made.trained_manifest()
    manifest.write_text(json.dumps({"image_size": 64, "views": 6, "shards": []}))
    for question, split in ((made.trained_manifest, "train"), (made.evaluated_manifest, "test")):
        with pytest.raises(UserError, match=rf"^train\.manifest: .* lists no {split} samples"):
            question()
    assert made.manifest == str(manifest)


def test_whole_animals_go_to_the_splits_by_the_tables_names(plan, table, tmp_path):
    made = plan(with_captures(table, tmp_path / "captures.tsv", **ANIMALS), sample={"split": "animal"})
    assert made.split_of == {"day0": "test", "day1": "train", "day2": "val", "day3": "val"}
    assert made.split_option("day0") == ["--split", "test"]
    assert plan().split_option("short") == [], "blocks in time: every capture has frames of all splits"


def test_fewer_animals_than_splits_leave_no_plan(plan, table, tmp_path):
    two = {name: animal for name, animal in ANIMALS.items() if animal != "m10"}
    message = r"3 splits \(train, val, test\) need as many animals; the captures table has 2 \(m1, m2\)"
    with pytest.raises(UserError, match=message):
        plan(with_captures(table, tmp_path / "captures.tsv", **two), sample={"split": "animal"})


def test_a_row_is_the_captures_own_whatever_else_the_table_lists(plan, table, tmp_path):
    one = plan(with_captures(table, tmp_path / "one.tsv", day0="m1"))
    two = plan(with_captures(table, tmp_path / "two.tsv", day0="m1", day1="m2"))
    assert one.row("day0") == two.row("day0"), "another capture would re-run this one"
    assert capture_from_json(two.row("day1"), "row") == two.captures["day1"]
    other = plan(with_captures(table, tmp_path / "other.tsv", day0="m3", day1="m2"))
    assert (other.row("day0") == two.row("day0"), other.row("day1") == two.row("day1")) == (False, True)


@pytest.mark.parametrize(
    ("center", "files"),
    [
        ({"masks": "provided"}, {"videos", "masks"}),
        ({"masks": "background"}, {"videos", "background", "calibration"}),
        ({"masks": "onnx", "onnx": {"path": __file__}}, {"videos", "network"}),
    ],
)
def test_silhouettes_are_made_from_what_their_method_needs(plan, center, files):
    made = plan(center=center)
    assert set(made.recording("short")) == files
    if "background" in files:
        assert made.recording("short")["background"] == "out/center/short/background.h5"


def test_pictures_of_the_empty_arena_are_inputs_and_checked_before_the_first_job(plan, tmp_path):
    image = f"{tmp_path}/empty-{{camera}}.png"
    center = {"masks": "background", "background": {"image": image}}
    with pytest.raises(UserError, match=r"center\.background\.image, capture short, camera 1: no such file"):
        plan(center=center)
    for k in range(1, 7):
        cv2.imwrite(str(tmp_path / f"empty-{k}.png"), np.zeros((1024, 1152, 3), np.uint8))
    made = plan(center=center)
    assert [path.name for path in made.empty_arena("short")] == [f"empty-{k}.png" for k in range(1, 7)]
    assert json.loads(made.background_settings())["background"]["image"] == image
    cv2.imwrite(str(tmp_path / "empty-4.png"), np.zeros((100, 1152, 3), np.uint8))
    probe.cache_clear()
    with pytest.raises(UserError, match=r"camera 4: .*empty-4\.png is 1152x100 px, the video 1152x1024"):
        plan(center=center)


def test_another_capture_that_shows_the_arena_is_an_input_and_is_handed_to_the_job(plan, table, tmp_path):
    captures = with_captures(table, tmp_path / "captures.tsv", walks="m1", sits="m1")
    center = {"masks": "background", "background": {"capture": "walks"}}
    made = plan(captures, center=center)
    assert made.empty_arena("sits") == made.videos("walks")
    option, row = made.other_row("sits")
    assert option == "--other-row" and capture_from_json(row, "row").name == "walks"
    assert made.empty_arena("walks") == () and made.other_row("walks") == []
    with pytest.raises(UserError, match="no capture 'sleeps'; the table has walks, sits"):
        plan(captures, center={"masks": "background", "background": {"capture": "sleeps"}})


def test_keys_of_the_arena_that_are_not_set_leave_an_earlier_versions_settings_as_they_were(plan):
    assert not {"image", "capture"} & set(json.loads(plan().background_settings())["background"])


def test_the_arena_is_estimated_again_for_its_own_settings_alone(plan):
    def settings(**center):
        return plan(center={"masks": "background", **center}).background_settings()

    assert settings(margin_px=20) == settings(stride=2) == settings()
    assert settings(background={"frames": 6}) != settings()
    assert settings(timing="index") != settings()


def stages(made):
    names = ("center", "cameras", "normalize", "sample", "shard", "train", "evaluate")
    return {name: made.settings(name) for name in names}


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("center", {"margin_px": 20}),
        ("cameras", {"max_residual_px": 50}),
        ("normalize", {"zoom": "fit"}),
        ("sample", {"gap_s": 0.01}),
        ("shard", {"h5_level": 5}),
        ("train", {"seed": 1}),
        ("evaluate", {"pictures": 0}),
    ],
)
def test_a_changed_setting_changes_what_its_stage_is_given_and_no_other(plan, section, change):
    before, after = plan(), plan(**{section: change})
    assert {name for name, text in stages(after).items() if text != stages(before)[name]} == {section}
    of_the_data = section not in {"train", "evaluate"}
    assert (before.data_settings() != after.data_settings()) == of_the_data


def test_what_the_configuration_has_already_is_not_trained_again(plan):
    variants = plan().per_variant(["{variant}"])
    assert variants == ["unguided", "clamp", "one_input", "plain_loss", "canonical", "random_order"]
    fewer = plan(train={"loss": {"masked_l2": 0}, "guide": "none"})
    assert fewer.per_variant(["{variant}/a", "{variant}/b"])[:6] == [
        "clamp/a", "clamp/b", "hull/a", "hull/b", "one_input/a", "one_input/b",
    ]  # fmt: skip
    assert fewer.per_variant(["{variant}"])[3:] == ["canonical", "random_order"]
    assert json.loads(plan().variant_settings("canonical"))["cameras"] == "canonical"
    assert "refine_steps" not in json.loads(plan(evaluate={"refine_steps": 9}).variant_evaluation())


def test_training_asks_for_what_its_processes_need_together(plan):
    one = plan(train={"gpus": 0})
    assert (one.train_mem_mb, one.train_gpus, one.evaluate_gpus, one.train_nodes, one.launcher()) == (
        4000,
        0,
        0,
        {},
        "",
    )
    made = plan(train={"gpus": 2, "nodes": 3, "batch_size": 6})
    assert (made.train_mem_mb, made.train_gpus) == (10000, 6), (
        "memory per machine to compile gsplat, GPUs of all machines"
    )
    assert (made.evaluate_mem_mb, made.evaluate_gpus) == (10000, 1)
    three = plan(train={"gpus": 3, "batch_size": 3})
    assert (three.train_mem_mb, three.evaluate_mem_mb) == (12000, 10000)
    assert plan(train={"gpus": 2, "accelerator": "cpu", "batch_size": 2}).train_mem_mb == 8000
    assert made.train_nodes == {"mpi": "srun", "nodes": 3, "tasks": 6, "tasks_per_gpu": 1}
    assert re.fullmatch(r"srun --nodes=3 --ntasks=6 --ntasks-per-node=2 --kill-on-bad-exit=1 ", made.launcher())


OLD_DRIVER = System(given=1, refused=0, on_bus=1, driver="550.54.14", hidden=False)
GPU = replace(OLD_DRIVER, driver="580.65.06")


@pytest.mark.parametrize(
    ("system", "problems", "said"),
    [
        (OLD_DRIVER, [], r"driver here is 550\.54\.14.*cu126.*train\.accelerator: cpu$"),
        (GPU, [Tool("ninja", "", "pip install ninja")], r"ninja: pip install ninja.*train\.accelerator: cpu$"),
        (GPU, [], None),
        (replace(GPU, given=0, refused=2), [Tool("ninja", "", "pip install ninja")], None),  # where jobs are sent from
        (replace(OLD_DRIVER, hidden=True), [], None),
    ],
)
def test_a_gpu_that_cannot_be_used_is_known_before_the_first_job(plan, monkeypatch, system, problems, said):
    monkeypatch.setattr("mousefacelift.plan.look", lambda: system)
    monkeypatch.setattr("mousefacelift.plan.rapid", lambda: problems)
    monkeypatch.setattr("mousefacelift.plan.installed_torch", lambda: Torch("2.13.0+cu130", "13.0"))
    base = plan(train={"preset": "base"})
    if said is None:
        assert base.gpu_ready() == []
    else:
        with pytest.raises(UserError) as caught:
            base.gpu_ready()
        assert re.search(said, str(caught.value))
    assert plan(train={"preset": "tiny"}).gpu_ready() == [], "trains on the CPU, and says so"
    assert plan(train={"preset": "base", "accelerator": "cpu"}).gpu_ready() == []
    assert plan(train={"preset": "base", "gpus": 0}).gpu_ready() == []


def test_animals_of_one_recording_share_its_files(plan, table, tmp_path):
    header, row = table.read_text().splitlines()
    names = {"mouse1": "1", "alone": "", "mouse2": "2"}
    rows = [row.replace("short\ta\t", f"{name}\t{name}\t", 1) + f"\t{label}" for name, label in names.items()]
    (tmp_path / "captures.tsv").write_text("\n".join([f"{header}\tlabel", *rows]) + "\n")
    made = plan(tmp_path / "captures.tsv")
    assert made.recordings == {"mouse1": ("mouse1", "mouse2"), "alone": ("alone",)}
    shared = ["out/center/mouse1/0000.h5", "out/center/mouse1/0001.h5"]
    assert made.center_chunks("mouse2") == made.center_chunks("mouse1") == shared
    assert made.center_chunk("mouse2", "0001") == shared[1]
    assert made.all_center_chunks() == [*shared, *made.center_chunks("alone")]
    assert made.per_recording("{results}/{recording}.png") == ["out/mouse1.png", "out/alone.png"]
    assert made.animals("mouse1") == ["--row", made.row("mouse1"), "--row", made.row("mouse2")]
    assert made.recording_options() == ["--recording=mouse1", "--recording=alone", "--recording=mouse1"]
    assert len(made.per_chunk("{capture}/{chunk}")) == 6, "each animal has shards of its own"


def test_several_animals_need_a_method_that_tells_them_apart(plan, table, tmp_path):
    captures = with_captures(table, tmp_path / "captures.tsv", day0="m1", day1="m2")
    with pytest.raises(UserError, match=r"day0 and day1 are animals of the same videos, but center\.masks: background"):
        plan(captures, center={"masks": "background"})
    one_animal = with_captures(table, tmp_path / "one.tsv", day0="m1", day1="m1")
    assert len(plan(one_animal, center={"masks": "background"}).recordings) == 2
