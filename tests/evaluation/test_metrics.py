"""The metrics on views whose answer is known, and the registry that names them."""

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.metrics.mask_iou import mask_iou
from mousefacelift.evaluation.metrics.psnr import psnr
from mousefacelift.evaluation.metrics.psnr_foreground import psnr_foreground
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, metric, score, validation_metrics
from mousefacelift.training import losses
from support.paths import ROOT

NONE = torch.empty(0)  # what a metric does not look at


def test_psnr_of_a_known_error():
    target = torch.zeros(2, 3, 8, 8)
    image = torch.stack([torch.full((3, 8, 8), 0.1), torch.zeros(3, 8, 8)])
    torch.testing.assert_close(psnr(image, NONE, target, NONE), torch.tensor([20.0, 100.0]))


def test_foreground_psnr_sees_the_silhouette_only():
    target, alpha = torch.ones(1, 3, 8, 8), torch.zeros(1, 8, 8)
    alpha[:, :2] = 1
    image = target.clone()
    image[:, :, :2] = 0.9  # inside the silhouette
    image[:, :, 4:] = 0.0  # outside
    torch.testing.assert_close(psnr_foreground(image, NONE, target, alpha), torch.tensor([20.0]))
    assert psnr_foreground(image, NONE, target, torch.zeros(1, 8, 8)).isnan().all()


def test_mask_iou_of_known_overlaps():
    a, b = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    a[0, :2], b[0, 1:3] = 1, 1  # one row of three
    a[1, :2], b[1, :2] = 1, 0.6  # the same silhouette
    torch.testing.assert_close(mask_iou(NONE, a, NONE, b), torch.tensor([1 / 3, 1.0, 1.0]))


def test_the_ssim_of_an_evaluation_is_that_of_the_loss():
    random = torch.Generator().manual_seed(0)
    rgb, target = torch.rand(2, 2, 3, 16, 16, generator=random)
    found = METRICS["ssim"].measure(rgb, NONE, target, NONE)
    assert torch.equal(found, losses.ssim(rgb, target)) and found.shape == (2,)


def test_every_metric_scores_every_view_and_a_perfect_prediction_scores_best():
    random = torch.Generator().manual_seed(0)
    target, other = torch.rand(2, 4, 3, 16, 16, generator=random)
    mask = (torch.rand(4, 16, 16, generator=random) > 0.5).float()
    worse, best = score(other, 1 - mask, target, mask), score(target, mask, target, mask)
    assert list(best) == list(METRICS)
    for name in METRICS:
        assert best[name].shape == (4,) and (best[name] > worse[name]).all(), name


def test_values_are_shown_with_the_digits_and_the_unit_of_their_metric():
    assert metric("psnr").title == "PSNR, dB" and metric("psnr").text(25.4321) == "25.43"
    assert metric("ssim").title == "SSIM" and metric("ssim").text(0.92049) == "0.920"


def test_validation_measures_what_the_registry_says():
    assert list(validation_metrics()) == [f"val_{name}" for name, each in METRICS.items() if each.validated]
    assert {"val_psnr", "val_psnr_foreground", "val_mask_iou"} <= set(validation_metrics())
    assert PRIMARY in METRICS


def test_an_unknown_metric_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match=f"psnr_forground: no such metric; there are {', '.join(METRICS)}"):
        metric("psnr_forground")


def test_nothing_but_its_file_and_the_registry_names_a_metric_or_a_baseline():
    evaluation = ROOT / "workflow" / "mousefacelift" / "evaluation"
    own = (evaluation / "metrics", evaluation / "baselines")
    others = [path for path in (ROOT / "workflow" / "mousefacelift").rglob("*.py") if path.parent not in own]
    assert len(others) > 50
    names = (
        "psnr_foreground",
        "mask_iou",
        "ms_ssim",
        "gradient_similarity",
        "mean_train",
        "nearest_view",
    )  # PSNR ranks, SSIM is a loss term, white is poc's floor
    assert set(names) <= {*METRICS, *BASELINES}
    assert not [(path.name, name) for path in others for name in names if name in path.read_text()]


def test_no_metric_depends_on_unknown_pixels():
    random = torch.Generator().manual_seed(0)
    rgb, target = torch.rand(2, 4, 3, 32, 32, generator=random)
    alpha, mask = torch.rand(2, 4, 32, 32, generator=random)
    unknown = torch.zeros(4, 32, 32, dtype=torch.bool)
    unknown[:, 3:14, 8:30] = True
    expected = score(rgb, alpha, target, mask, unknown)
    rgb.movedim(1, -1)[unknown], alpha[unknown] = 0.5, 1
    found, plain = score(rgb, alpha, target, mask, unknown), score(rgb, alpha, target, mask)
    known = score(rgb, alpha, target, mask, unknown & False)
    for name in METRICS:
        assert torch.equal(found[name], expected[name]), name
        assert not torch.equal(found[name], plain[name]), name
        torch.testing.assert_close(known[name], plain[name])


def test_errors_are_means_over_known_pixels_and_the_silhouettes_overlap_is_of_known_ones():
    target, mask, unknown = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    unknown[:, :, 4:] = True
    mask[:, :4] = 1
    image, alpha = target + 1, torch.zeros(1, 8, 8)
    image[..., :4], alpha[:, :2] = 0.1, 1
    torch.testing.assert_close(psnr(image, NONE, target, NONE, unknown), torch.tensor([20.0]))
    torch.testing.assert_close(psnr_foreground(image, NONE, target, mask, unknown), torch.tensor([20.0]))
    alpha[..., 4:] = 1
    torch.testing.assert_close(mask_iou(NONE, alpha, NONE, mask, unknown), torch.tensor([0.5]))
