"""Exports are chosen by name."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mousefacelift.base.errors import UserError
from mousefacelift.cli import app
from mousefacelift.shards.exports.registry import EXPORTS


def test_the_command_line_writes_reads_and_shows_them(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, printed in (
        (
            ["export", str(small), "out", "--to", "facelift", "--split", "train", "--split", "val", "--threads", "2"],
            "out",
        ),
        (["export", str(small), "scenes", "--to", "transforms"], "scenes"),
        (["import", "out", "back", "--name", "mice"], "back/manifest.json"),
        (["show", "back/train/mice-0000.tar", "--samples", "2"], "contact sheet: contact-sheet.png"),
    ):
        result = CliRunner().invoke(app, words)
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, printed)
    assert {path.name for path in Path("out").iterdir()} == {"train", "val", "data_train.txt", "data_val.txt"}
    assert len(list(Path("scenes").glob("*/*/transforms.json"))) == 7
    assert Path("contact-sheet.png").exists()


def test_an_unknown_name_lists_those_there_are(small, tmp_path):
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["export", str(small), str(tmp_path / "out"), "--to", "colmap"], catch_exceptions=False)
    assert "'colmap': no such layout" in str(error.value)
    for name, export in EXPORTS.items():
        assert f"{name} ({export.description})" in str(error.value)
    assert not (tmp_path / "out").exists()
