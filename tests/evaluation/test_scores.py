"""How sets of scores are compared: paired over samples."""

import math

import numpy as np
import pytest
import torch

from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.scores import Lead, is_clear, leads, mean_score, paired_difference, standard_error


def test_a_standard_error_counts_samples_and_not_views():
    random = np.random.default_rng(1)
    first, second = random.normal(20, 1, (9, 6)), random.normal(19, 1, (9, 6))
    mean, error = paired_difference(torch.from_numpy(first), torch.from_numpy(second))
    each = (first - second).mean(1)
    assert mean == pytest.approx(each.mean())
    assert error == pytest.approx(each.std(ddof=1) / 3)


def test_views_without_the_metric_are_left_out_and_one_sample_has_no_error():
    first, second = torch.tensor([[3.0, torch.nan], [5.0, 7.0]]), torch.tensor([[1.0, torch.nan], [2.0, 2.0]])
    assert paired_difference(first, second) == (pytest.approx(3.0), pytest.approx(1.0))
    assert paired_difference(first[:1], second[:1]) == (2.0, math.inf)
    assert paired_difference(first[:1, 1:], second[:1, 1:]) == (0.0, math.inf)


def test_the_mean_is_over_the_views_that_have_a_value():
    assert mean_score(torch.tensor([[1.0, torch.nan], [3.0, 5.0]])) == 3.0
    assert mean_score(torch.tensor([[torch.nan]])) == 0.0


def test_a_difference_is_clear_beyond_two_standard_errors_in_either_direction():
    assert is_clear(-0.3, 0.1) and is_clear(0.3, 0.1)
    assert not is_clear(0.19, 0.1) and not is_clear(9.0, math.inf)


def test_the_standard_error_of_a_mean_counts_samples_and_not_views():
    values = torch.tensor([[1.0, 3.0], [5.0, torch.nan], [8.0, 8.0]])
    assert standard_error(values) == pytest.approx(np.std([2, 5, 8], ddof=1) / math.sqrt(3))
    assert standard_error(values.expand(3, 2).repeat(1, 50)) == pytest.approx(standard_error(values))
    assert standard_error(values[:1]) == math.inf


def test_a_lead_is_over_the_baseline_that_is_best_by_that_metric_and_paired():
    """The samples differ by far more than the methods: without pairing nothing would be clear."""
    difficulty = np.random.default_rng(0).normal(0, 5, (12, 1)) + np.zeros((12, 6))
    noise = np.random.default_rng(1).normal(0, 0.1, (12, 1))
    flat = dict.fromkeys(METRICS, difficulty)
    bright = flat | {"psnr": difficulty + 2.3 + noise}
    found = leads(flat, {"flat": {name: values - 1 for name, values in flat.items()}, "bright": bright})
    assert list(found) == list(METRICS)
    assert found["psnr"] == Lead("bright", pytest.approx(-2.3, abs=0.1), pytest.approx(0.03, abs=0.02))
    assert is_clear(found["psnr"].mean, found["psnr"].error) and standard_error(difficulty) > 1
    assert found["ssim"] == Lead("bright", 0.0, 0.0)
