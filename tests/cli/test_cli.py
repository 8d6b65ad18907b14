import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mousefacelift import STAGE_VERSIONS
from mousefacelift.artifacts.center import CenteredChunk, Flag
from mousefacelift.cli import app, main
from mousefacelift.recordings.captures import read_captures
from mousefacelift.recordings.masks.registry import FORMS
from mousefacelift.recordings.rows import capture_json
from support.maskfiles import capture_of, npz, stack
from support.paths import ROOT
from support.rodent import record, write_table

COMMANDS = list(get_command(app).commands)
FRAMES = range(100, 104)  # whole in every view


@pytest.fixture
def call(call, monkeypatch):
    """Runs the command line from the repository's root."""
    monkeypatch.chdir(ROOT)
    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert len(result.output.splitlines()) > 5


def test_the_commands_are_the_stages_and_a_few_more():
    result = CliRunner().invoke(app, ["--help"])
    stages = [name.replace("_", "-") for name in STAGE_VERSIONS]
    more = ["background", "preview", "manifest", "export", "import", "show", "schema", "rig", "weights"]
    assert {*stages, *more} <= set(COMMANDS)
    assert all(name in result.output for name in COMMANDS)


def test_the_installed_program_prints_the_schema():
    done = subprocess.run(
        [Path(sys.executable).with_name("mousefacelift"), "schema"], capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / "config" / "schema.json").read_text()
    assert done.stderr == ""


def test_the_tables_of_keys_are_written_into_a_document_and_the_rest_of_it_stays(call, tmp_path):
    document = tmp_path / "keys.md"
    document.write_text("# Keys\n<!-- keys of evaluate -->\n<!-- end of keys -->\nEnd\n")
    assert call("schema", "--tables", document) == (0, "", "")
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("# Keys", "End")
    assert lines[4] == "| `split` | `test` | `val`, `test` | split to evaluate |"


def test_the_installed_program_reports_a_mistake_in_one_line_without_a_traceback(tmp_path):
    program = Path(sys.executable).with_name("mousefacelift")
    words = [program, "center", "--capture", "nobody", "--chunk", "0", "--output", tmp_path / "0.h5"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "mousefacelift: error: workflow/demo/captures.tsv: no capture 'nobody'; the table has rodent-a\n"
    )


def center_words(folder, **changes):
    options = {"capture": "rodent-a", "chunk": 0, "output": folder / "0.h5", **changes}
    return ["center", *(word for name, value in options.items() for word in (f"--{name}", value))]


MISTAKES = {
    "settings no JSON": (
        lambda f: center_words(f, settings="{stride: 2"),
        "--settings: not valid JSON",
    ),
    "settings unknown key": (
        lambda f: center_words(f, settings='{"strid": 2}'),
        "--settings, section center: unknown key 'strid': did you mean 'stride'?",
    ),
    "settings no mapping": (lambda f: center_words(f, settings="[]"), "--settings, section center: (top level): Input should be a valid dict"),
    "no table": (lambda f: center_words(f, captures=f / "a.tsv"), "a.tsv: no such captures table"),
    "no configuration": (lambda f: center_words(f, config=f / "a.yaml"), "a.yaml: no such configuration file"),
    "no such chunk": (lambda f: center_words(f, chunk=99), "capture rodent-a: chunk 99 is beyond its 2 chunks"),
    "cameras": (
        lambda f: ["cameras", f / "0.h5", "--capture", "rodent-a", "--output", f / "o"],
        "0.h5: no such file; it is written by `mousefacelift center`",
    ),
    "normalize": (
        lambda f: ["normalize", "--rig", f / "r", "--subject", f / "s", "--cameras", f / "c", "--world", f / "w"],
        "r: no such file; it is written by `mousefacelift cameras`",
    ),
    "sample": (
        lambda f: ["sample", "--cameras", f / "c", "--subject", f / "s", "--output", f / "o"],
        "c: no such file; it is written by `mousefacelift normalize`",
    ),
    "shard": (
        lambda f: ["shard", "--samples", f / "a", "--center", f / "x", "--cameras", f / "c", "--rig", f / "r",
                   "--chunk", 0, "--output", f],
        "a: no such file; it is written by `mousefacelift sample`",
    ),
    "manifest": (
        lambda f: ["manifest", f / "train" / "a-0000.h5", "--output", f / "m.json"],
        "a-0000.tar: no such file; it is written by `mousefacelift shard`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_one_line_and_exit_status_1(call, tmp_path, mistake):
    words, message = MISTAKES[mistake]
    status, out, err = call(*words(tmp_path))
    assert (status, out) == (1, "")
    assert err.startswith("mousefacelift: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "something was written"


def test_a_defect_of_the_program_keeps_its_traceback(call, monkeypatch):
    def broken(choices):
        raise KeyError("a defect")

    monkeypatch.setattr("mousefacelift.config.documents.json_schema", broken)
    monkeypatch.setattr(sys, "argv", ["mousefacelift", "schema"])
    with pytest.raises(KeyError, match="a defect"):
        main()


def test_a_missing_option_is_a_usage_error(call):
    status, _, err = call("center", "--capture", "rodent-a")
    assert status == 2
    assert "--chunk" in err
    status, _, err = call("center", "--chunk", 0, "--output", "0.h5")
    assert status == 2
    assert "--capture" in err


def test_settings_go_to_the_stage_and_the_configuration_file_is_the_default(call, tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text("center: {stride: 3, chunk_frames: 4}")
    words = center_words(tmp_path, config=config)
    assert call(*words)[0] == 0
    with h5py.File(tmp_path / "0.h5") as file:
        assert file["frame"][()].tolist() == [0, 3]
    assert call(*words, "--settings", '{"stride": 2, "chunk_frames": 4}', "--threads", 2)[0] == 0
    with h5py.File(tmp_path / "0.h5") as file:
        assert file["frame"][()].tolist() == [0, 2]


def test_settings_of_one_stage_are_not_held_against_the_defaults_of_another(call, tmp_path):
    # Pictures of 64 px are no multiple of the default size to train on, which is not this stage's business.
    words = ["normalize", "--rig", tmp_path / "r", "--subject", "s", "--cameras", "c", "--world", "w"]
    _, _, err = call(*words, "--settings", '{"image_size": 64}')
    assert "r: no such file" in err


def test_a_row_stands_for_the_table_and_no_other_capture_is_looked_at(call, tmp_path, monkeypatch):
    capture = record(tmp_path / "videos", range(100, 102))
    table = write_table(capture, tmp_path / "captures.tsv")
    settings = ["--settings", '{"chunk_frames": 4}', "--chunk", 0]
    assert (
        call("center", "--captures", table, "--capture", "short", *settings, "--output", tmp_path / "table.h5")[0] == 0
    )
    row = capture_json(read_captures(table)["short"])
    table.unlink()
    monkeypatch.chdir(tmp_path)  # where there is no configuration either
    status, _, err = call("center", "--row", row, *settings, "--output", tmp_path / "row.h5")
    assert status == 0, err
    assert (tmp_path / "row.h5").read_bytes() == (tmp_path / "table.h5").read_bytes()


def test_an_animal_of_several_is_centred_with_the_others_of_its_recording(call, tmp_path):
    table = write_table(record(tmp_path / "videos", range(100, 102)), tmp_path / "captures.tsv")
    header, row = table.read_text().splitlines()
    rows = [row.replace("short", name, 1) + f"\t{label}" for name, label in (("a", 255), ("alone", ""), ("b", 7))]
    table.write_text("\n".join([f"{header}\tlabel", *rows]) + "\n")
    settings, captures = ["--settings", "{}", "--chunk", 0], read_captures(table)
    by_hand, by_rows = tmp_path / "hand.h5", tmp_path / "rows.h5"
    assert call("center", "--captures", table, "--capture", "b", *settings, "--output", by_hand)[0] == 0
    options = [word for name in ("a", "b") for word in ("--row", capture_json(captures[name]))]
    assert call("center", *options, *settings, "--output", by_rows)[0] == 0
    assert by_rows.read_bytes() == by_hand.read_bytes()
    assert CenteredChunk.captures_in(by_hand) == ("a", "b")
    assert (CenteredChunk.read(by_hand, "b").flags == Flag.EMPTY).all(), "there is no animal 7"
    status, _, err = call("center", *options, "--row", capture_json(captures["alone"]), *settings, "--output", by_rows)
    assert status == 1 and "--row: a, b, alone are not animals of one recording" in err


def test_stages_1_to_5_run_by_hand(call, tmp_path):
    capture = record(tmp_path / "videos", FRAMES)
    table = write_table(capture, tmp_path / "captures.tsv")
    out, chunk = tmp_path / "out", tmp_path / "out" / "center" / "short" / "0000.h5"
    named = ["--captures", table, "--capture", "short"]
    rig, subject, poses, rows = (out / name for name in ("rig.json", "subject.h5", "cameras.h5", "samples.tsv"))
    for words in (
        ["center", *named, "--chunk", 0, "--output", chunk, "--threads", 2],
        ["cameras", chunk, *named, "--output", out],
        ["normalize", "--rig", rig, "--subject", subject, "--cameras", poses, "--world", out / "world.json"],
        ["sample", "--cameras", poses, "--subject", subject, "--output", out, "--settings", '{"gap_s": 0}'],
        ["shard", "--samples", rows, "--center", chunk, "--cameras", poses, "--rig", rig, "--chunk", 0,
         "--output", out / "shard", "--threads", 2],
        ["manifest", *(out / "shard" / s / "short-0000.h5" for s in ("train", "val", "test")),
         "--output", out / "shard" / "manifest.json"],
    ):  # fmt: skip
        status, stdout, err = call(*words)
        assert (status, stdout) == (0, ""), err
    listed = json.loads((out / "shard" / "manifest.json").read_text())
    assert listed["samples"] == {"train": 3, "val": 0, "test": 1}
    assert (listed["image_size"], listed["views"]) == (512, 6)
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["train", "--checkpoints", "c"], ["evaluate", "--train", "t"], ["poc", "--train", "t"]],
    ids=lambda w: w[0],
)
def test_training_and_evaluation_name_a_missing_manifest(call, tmp_path, words):
    status, _, err = call(*words, "--manifest", tmp_path / "manifest.json", "--output", tmp_path / "run")
    assert status == 1
    assert err.startswith("mousefacelift: error: ")
    assert "no such file" in err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    arguments = ["mousefacelift", "manifest", "--output", str(tmp_path / "file" / "manifest.json"), "none.h5"]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr("mousefacelift.shards.manifest.write_manifest", lambda *_: (tmp_path / "file" / "x").mkdir())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("mousefacelift: error:")
    assert "Not a directory" in message


def test_masks_are_imported_by_camera_and_a_table_says_what_they_were(call, tmp_path):
    for camera in ("a", "b"):
        made = capture_of(tmp_path / camera, npz(tmp_path / f"mask_{camera}.npz", masks=stack()))
        made.videos[0].rename(tmp_path / f"film_{camera}.mkv")
    patterns = tmp_path / "mask_{camera}.npz", "--videos", tmp_path / "film_{camera}.mkv"
    code, out, _ = call("masks", "import", *patterns, "--output", tmp_path / "out" / "{camera}.mkv")
    assert code == 0 and "│ a " in out and "│ b " in out and "npz" in out and "2 files written" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mkv", "b.mkv"]
    (tmp_path / "film_b.mkv").unlink()
    code, _, err = call("masks", "import", *patterns, "--output", tmp_path / "out" / "{camera}.mkv")
    assert code == 1 and "--videos names cameras a; SOURCE" in err and "also has b" in err
    single = tmp_path / "mask_b.npz", "--videos", tmp_path / "film_a.mkv"
    assert call("masks", "import", *single, "--output", tmp_path / "one.mkv")[0] == 0


def test_the_forms_of_masks_are_listed(call):
    code, out, _ = call("masks", "forms")
    assert code == 0
    assert all(f"│ {name} " in out for name in FORMS) and "[frames, height, width]" in out
