"""What an evaluation says of refinement is what the scores are, and a loss is said in words."""

import pytest
import torch

from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.methods import MODEL, REFINED
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.refinement import (
    loss_warning,
    median_seconds,
    refinement_gain,
    refinement_record,
    refinement_text,
    time_text,
)

SETTINGS = Evaluate(refine_steps=20)


def scores(change):
    """Two samples of three views, and the same changed by `change` of each sample."""
    before = {name: torch.arange(6.0).view(2, 3) for name in METRICS}
    return {MODEL: before, REFINED: {name: value + torch.tensor(change)[:, None] for name, value in before.items()}}


def test_the_gain_is_paired_over_samples():
    gain = refinement_gain(scores([1.0, 2.0]))
    assert set(gain) == set(METRICS)
    assert all(lead.mean == pytest.approx(1.5) and lead.error == pytest.approx(0.5) for lead in gain.values())
    record = refinement_record(scores([1.0, 2.0]), SETTINGS)
    assert record["steps"] == 20 and record["gain"]["psnr"] == {"mean": 1.5, "standard_error": 0.5}


def test_a_gain_is_no_reason_to_warn():
    assert refinement_record(scores([1.0, 2.0]), SETTINGS)["warning"] is None
    text = refinement_text(scores([1.0, 2.0]), SETTINGS)
    assert "- PSNR, refined model - model: +1.50 ± 0.50 dB: the refined model is better" in text
    assert "Warning" not in text


def test_a_loss_on_held_out_views_is_said_in_words_however_small():
    found = scores([1.0, 2.0])
    found[REFINED]["mask_iou"] = found[MODEL]["mask_iou"] - 0.002
    warning = loss_warning(refinement_gain(found))
    assert "held-out views for the worse" in warning and "mask IoU by -0.002" in warning and "PSNR" not in warning
    assert warning in refinement_text(found, SETTINGS)
    assert warning == refinement_record(found, SETTINGS)["warning"]


def test_times_are_medians_for_one_view():
    """The first sample's time is that of compiling kernels."""
    seconds = median_seconds([{"model": 90.0}, {"model": 6.0}, {"model": 3.0}], views=6)
    assert seconds == {"model": 1.0}
    assert "on a machine: model 1 s." in time_text(seconds | {"white": 1e-5}, SETTINGS, "a machine")
