"""A comparison as tables, as a page, as Markdown and as JSON."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from mousefacelift.base.errors import UserError
from mousefacelift.cli import app
from mousefacelift.comparison.measure import compare, measure, per_camera
from mousefacelift.comparison.page import check_folder, markdown, mean_rig, page, rig_figure, write_comparison
from support.balls import AZIMUTHS, ELEVATIONS, look_at_origin
from support.camerasets import (
    BASE,
    REFERENCE,
    cameras,
    ring,
    text,
    written_rig,
)


def test_rows_of_cameras_are_means_over_samples_and_azimuths_go_round():
    data = cameras(np.concatenate([ring(AZIMUTHS - np.deg2rad(16)), ring(AZIMUTHS - np.deg2rad(12))]))
    np.testing.assert_allclose(per_camera(measure(data))["azimuth"], np.rad2deg(AZIMUTHS) - 14)
    assert per_camera(measure(data))["azimuth"][0] == pytest.approx(1.0), "the mean of 359 and 3"
    for camera, azimuth, elevation in zip(mean_rig(data), AZIMUTHS - np.deg2rad(14), ELEVATIONS, strict=True):
        np.testing.assert_allclose(camera.R.T, look_at_origin(azimuth, elevation, 1)[:3, :3], atol=1e-12)
        assert np.degrees(np.arctan2(*camera.center[1::-1])) % 360 == pytest.approx(np.rad2deg(azimuth) % 360)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: text(f / "out", ""), "--output .*out: .*out is not a folder"),
        (lambda f: text(f / "out", "") / "deep" / "er", "er: .*out is not a folder"),
        (lambda f: (f / "out").symlink_to("nowhere") or f / "out", "out is not a folder"),
        (lambda f: (f / "out" / "comparison.md").mkdir(parents=True) or f / "out", "comparison.md is a folder, in the way"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_found_before_anything_is_read_or_printed(tmp_path, make, message):
    output = make(tmp_path)
    run = CliRunner().invoke(app, ["compare-cameras", "no such source", "facelift", "--output", str(output)])
    assert (run.exit_code, run.stdout) == (1, "")
    assert isinstance(run.exception, UserError) and re.search(message, str(run.exception))


def test_a_folder_that_must_not_be_written_to_is_no_output(tmp_path, monkeypatch):
    check_folder(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir()), "nothing is created"
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"--output {tmp_path}/new/folder: {tmp_path} cannot be written to"):
        check_folder(tmp_path / "new" / "folder")


def test_the_command_prints_the_table_and_writes_it_in_three_forms(tmp_path):
    output = tmp_path / "out"
    run = CliRunner().invoke(
        app, ["compare-cameras", str(written_rig(tmp_path)), "facelift", "--output", str(output)], terminal_width=40
    )
    assert run.exit_code == 0, run.output
    for part in ("camera distance: std", "548.99 (548.99 to 548.99)", "900.00 (900.00 to 900.00)", "differ", "view 31"):
        assert part in run.output, "cut, or missing"
    assert "…" not in run.output
    assert sorted(path.name for path in output.iterdir()) == ["comparison.html", "comparison.json", "comparison.md"]
    values = json.loads((output / "comparison.json").read_text())
    assert [len(values[side]["cameras"]) for side in "ab"] == [6, 32]
    assert {row["verdict"] for row in values["quantities"]} == {"match", "differ", "unknown", None}, (
        "a rig has no images"
    )
    written = (output / "comparison.md").read_text()
    assert "| views | 6 | 32 | equal | differ |" in written
    for line in values["summary"]:
        assert line in written and line in run.output


def test_the_page_needs_no_network_and_shows_both_rigs(tmp_path):
    html = page(compare(BASE, REFERENCE))
    assert "Plotly.newPlot" in html
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=\s*[\"']?https?:", html)
    for part in ("A: 6 views", "B: 32 views", "distance, world units", "azimuth, degrees", "% of views", "cam5"):
        assert part in html


def test_names_cannot_become_markup():
    bad = "</script><script>alert(1)</script>|[red]*x*"
    comparison = compare(replace(BASE, source=bad, names=(bad, *BASE.names[1:])), REFERENCE)
    assert "<script>alert" not in page(comparison)
    text = markdown(comparison)
    assert "<script>" not in text.replace("\\<", "")
    assert "\\|\\[red\\]\\*x\\*" in text


def test_a_name_is_written_in_a_3d_label_as_it_is():
    figure = rig_figure(compare(replace(BASE, names=("a<b>&c", *BASE.names[1:])), REFERENCE))
    (labels,) = (trace for trace in figure.data if trace.text and "cam5" in trace.text)
    assert labels.text[0] == "a<b>&c"
    assert labels.hovertext[0] == "A: a&lt;b&gt;&amp;c", "there Plotly reads HTML"


def test_files_are_complete_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr("mousefacelift.comparison.page.page", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_comparison(compare(BASE, BASE), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.md"]


def test_a_mistake_is_one_line_and_torch_is_not_loaded(tmp_path):
    program = (
        "import sys; from mousefacelift.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    words = ["compare-cameras", str(tmp_path / "none"), "facelift", "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr.startswith("mousefacelift: error: ") and done.stderr.count("\n") == 1
    words[1] = str(written_rig(tmp_path))
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")
