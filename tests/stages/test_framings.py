"""The comparison of framings: each is what the workflow would have made, and only what cannot be made is left out."""

import json

import cv2
import numpy as np
import pytest
import yaml

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.train import Train
from mousefacelift.evaluation.framings import FRAMINGS
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.stages.evaluate import evaluate
from mousefacelift.stages.framings import framings
from support.tables import rows_of

CAPTURE = "rodent-a"


@pytest.fixture(scope="module")
def stages(demo_run, tmp_path_factory):
    """The demo's stages as the workflow lays them out."""
    results = tmp_path_factory.mktemp("framings") / "results"
    for stage, names in (("cameras", ("rig.json", "subject.h5")), ("sample", ("samples.tsv",))):
        (results / stage / CAPTURE).mkdir(parents=True)
        for name in names:
            (results / stage / CAPTURE / name).symlink_to(demo_run.folder / name)
    (results / "center").symlink_to(demo_run.folder / "center")
    return results


def compared(demo_run, stages, weights, out):
    framings(stages, [CAPTURE], (demo_run.config.normalize, demo_run.config.shard), weights, out, "test", 1)
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def out(demo_run, stages, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("framings") / "out"
    compared(demo_run, stages, trained, folder)
    return folder


@pytest.fixture(scope="module")
def found(out):
    return json.loads((out / "metrics.json").read_text())


def test_the_configured_framing_scores_what_evaluate_scores(demo_run, trained, found, tmp_path):
    """The demo is framed by `fit`: its samples, made anew, are those of its shards."""
    evaluate(
        demo_run.folder / "shard/manifest.json",
        trained,
        tmp_path,
        Evaluate(pictures=0, splats=0, turntable_frames=0),
        1,
    )
    expected = json.loads((tmp_path / "metrics.json").read_text())
    assert found["framings"]["fit"]["model"] == expected["model"]
    assert found["framings"]["fit"]["visual_hull"] == expected["baselines"]["visual_hull"]


def test_canonical_fills_the_picture_with_the_mouse_as_fit_does(demo_run, found):
    made = found["framings"]
    world = json.loads((demo_run.folder / "world.json").read_text())
    extent = world["subject"]["filling_canonical_extent"]
    assert made["canonical"]["normalize"] == {
        "distance": "canonical", "zoom": 1.0, "canonical_extent": pytest.approx(extent),
    }  # fmt: skip
    assert made["exact"]["share_of_image"] < min(made[name]["share_of_image"] for name in ("fit", "canonical"))
    assert all(made[name]["views_that_hold_the_mouse"] == 1 for name in ("exact", "fit", "canonical"))
    assert made["fit_body"]["views_that_hold_the_mouse"] > 0.9
    assert made["fit_body"]["share_of_image"] > 2 * made["fit"]["share_of_image"]
    assert made["fit_body"]["normalize"]["fit"] == "body"
    assert made["exact"]["camera_error_px"] < 1e-9 < 0.1 < made["canonical"]["camera_error_px"] < 1


def test_the_files_agree_and_compare_the_mouse_alone(out, found):
    assert {path.name for path in out.iterdir()} == {"metrics.json", "metrics.tsv", "table.md", "grid.png"}
    rows = rows_of(out / "metrics.tsv")
    for name in FRAMINGS:
        for method in ("model", "visual_hull"):
            each = [row for row in rows if row["framing"] == f"{name}.{method}"]
            assert len(each) == found["samples"] * 6
            for metric in METRICS:
                mean = np.nanmean([float(row[metric]) for row in each])
                assert found["framings"][name][method][metric] == pytest.approx(mean, abs=1e-3)
        lead = found["framings"][name]["to_visual_hull"]["psnr_foreground"]["mean"]
        ours, theirs = (found["framings"][name][method]["psnr_foreground"] for method in ("model", "visual_hull"))
        assert lead == pytest.approx(ours - theirs, abs=1e-4)
    table = (out / "table.md").read_text()
    head = table.splitlines()[0]
    assert (
        "PSNR inside the silhouette" in head and "mask IoU" in head and "| PSNR, dB" not in head and "SSIM" not in head
    )
    assert found["sentence"] in table and "only the mouse is compared" in table
    assert cv2.imread(str(out / "grid.png")).std() > 10


def test_a_framing_that_shows_no_mouse_is_left_out_with_the_reason(
    demo_run, stages, trained, found, tmp_path, monkeypatch
):
    """As `exact` is on a rig that stands metres away."""
    covered = [found["framings"][name]["share_of_image"] for name in ("exact", "fit")]
    monkeypatch.setattr("mousefacelift.stages.normalize.LEAST_FILL", 0.0275)
    assert covered[0] < covered[1]
    result = compared(demo_run, stages, trained, tmp_path)
    assert set(result["framings"]) == {"fit", "canonical", "fit_body"} and "zoom" in result["left_out"]["exact"]
    assert "`exact` is left out: " in (tmp_path / "table.md").read_text()


def test_weights_are_compared_before_any_training(demo_run, stages, trained, found, tmp_path):
    record = yaml.safe_load((trained / "config.yaml").read_text())
    settings = Train.model_validate(record["train"] | {"init": str(trained / "model.safetensors")})
    with pytest.MonkeyPatch.context() as patch:
        from mousefacelift.config.presets import PRESETS
        from mousefacelift.models.gslrm import GSLRMConfig
        from support.presets import preset_of

        patch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(**record["model"])))
        result = compared(demo_run, stages, settings, tmp_path)
    assert result["framings"] == found["framings"]
    with pytest.raises(UserError, match=r"name a run with --train, or set train\.init"):
        compared(demo_run, stages, settings.model_copy(update={"init": None}), tmp_path)


def test_an_empty_split_is_refused(demo_run, stages, trained, tmp_path):
    with pytest.raises(UserError, match="no test samples"):
        framings(stages, [], (demo_run.config.normalize, demo_run.config.shard), trained, tmp_path / "out", "test", 1)
    assert not (tmp_path / "out").exists()
