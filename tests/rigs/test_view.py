"""A rig as a table and as a 3D page."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mousefacelift.cli import app
from mousefacelift.geometry.camera import Camera, pad_distortion, project
from mousefacelift.geometry.views import look_at
from mousefacelift.rigs.registry import read_rig, write_rig
from mousefacelift.rigs.view import frustum, rig_figure, rig_tables


def camera(k):
    center = 300 * np.array([np.cos(k), np.sin(k), 0.4])
    R = look_at(center, np.zeros(3))
    K = np.array([[900.0, 2.5, 310], [0, 910, 250], [0, 0, 1]])
    return Camera(f"side{k}", 640, 480, K, pad_distortion([-0.1, 0.02]), R, -R @ center)


RIG = tuple(camera(k) for k in range(4))


def printed(rig):
    console = Console(width=140, file=io.StringIO())
    for table in rig_tables(rig, "a rig"):
        console.print(table)
    return console.file.getvalue()


def test_the_table_states_what_the_cameras_are():
    text = printed(RIG)
    for part in (
        "side3",
        "640x480",
        "900.0",
        "910.0",
        "310.0",
        "2.50",
        "k1",
        "-0.1",
        "0.02",
        "300.0",
        "120.0",
        "323.1",
    ):
        assert part in text
    assert "180.0°" in text, "camera 0 stands on +x and looks back"
    assert "pinhole" in printed(tuple(replace(c, dist=np.zeros(14)) for c in RIG))
    fisheye = replace(RIG[0], dist=pad_distortion([0.1, 0, 0.3, 0], fisheye=True), fisheye=True)
    assert "p1/k3" in printed((fisheye, *RIG[1:]))
    assert "?" in printed(tuple(replace(c, width=0, height=0) for c in RIG))


def test_parallel_cameras_have_no_target():
    parallel = tuple(replace(RIG[0], name=str(k), t=RIG[0].t + [100.0 * k, 0, 0]) for k in range(2))
    assert "no target" in printed(parallel)
    assert rig_figure(parallel).data


def test_a_frustums_corners_are_the_images_corners():
    for each in RIG:
        plain = replace(each, dist=np.zeros(14))
        pixels, depth = project(frustum(each, 50.0), plain)
        np.testing.assert_allclose(pixels, [[0, 0], [640, 0], [640, 480], [0, 480]], atol=1e-9)
        np.testing.assert_allclose(depth, 50)


def test_the_page_needs_no_network(tmp_path):
    source, page = tmp_path / "rig.json", tmp_path / "page.html"
    write_rig(RIG, source, "opencv-json")
    run = CliRunner().invoke(app, ["rig", "show", str(source), "--page", str(page)])
    assert run.exit_code == 0, run.output
    assert "side0" in run.output and str(page) in run.output
    html = page.read_text()
    assert "Plotly.newPlot" in html and "side3" in html
    assert "<script src=" not in html


@pytest.mark.parametrize("format", ["opencv-json", "anipose"])
def test_a_rig_is_converted_and_what_a_format_cannot_hold_is_refused(tmp_path, format):
    rig = RIG if format == "opencv-json" else tuple(replace(c, K=c.K * [[1, 0, 1], [1, 1, 1], [1, 1, 1]]) for c in RIG)
    source, target = tmp_path / "a", tmp_path / "b"
    write_rig(rig, source, "opencv-json")
    run = CliRunner().invoke(app, ["rig", "convert", str(source), str(target), "--to", format])
    assert run.exit_code == 0, run.output
    for one, two in zip(rig, read_rig(target), strict=True):
        np.testing.assert_allclose(one.K, two.K, atol=1e-9)
        np.testing.assert_allclose(one.t, two.t, atol=1e-9)
    write_rig(RIG, source, "opencv-json")
    refused = CliRunner().invoke(app, ["rig", "convert", str(source), str(tmp_path / "c"), "--to", "facelift"])
    assert refused.exit_code == 1
    assert not (tmp_path / "c").exists()


def test_an_unknown_image_size_can_be_given(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    plain = tuple(replace(c, K=c.K * [[1, 0, 1], [1, 1, 1], [1, 1, 1]], width=0, height=0) for c in RIG)
    write_rig(plain, source, "opencv-json")
    words = ["rig", "convert", str(source), str(target), "--to", "anipose"]
    assert "--size" in str(CliRunner().invoke(app, words).exception)
    assert CliRunner().invoke(app, [*words, "--size", "640"]).exit_code == 1
    assert CliRunner().invoke(app, [*words, "--size", "640x480"]).exit_code == 0
    assert {(c.width, c.height) for c in read_rig(target)} == {(640, 480)}


def test_the_formats_are_listed():
    run = CliRunner().invoke(app, ["rig", "formats"])
    assert run.exit_code == 0
    for name in ("dannce", "mammal", "colmap", "transforms", "rat7m"):
        assert name in run.output
