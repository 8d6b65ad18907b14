"""How much better a run knows its training samples than those of validation, and how sure that is."""

import math

import numpy as np
import pytest

from mousefacelift.training.gap import Gap, GapColumns, last_gap, over_samples

COLUMNS = GapColumns("psnr_foreground")


def test_a_samples_views_count_as_one_moment():
    mean, error = over_samples([[10.0, 12.0], [15.0, 15.0], [math.nan, 19.0]])
    assert mean == pytest.approx(np.mean([11, 15, 19]))
    assert error == pytest.approx(np.std([11, 15, 19], ddof=1) / math.sqrt(3))


def test_one_sample_has_a_mean_and_no_error_and_none_has_neither():
    mean, error = over_samples([[10.0, 12.0]])
    assert mean == 11 and math.isnan(error)
    assert all(map(math.isnan, over_samples([[math.nan], []])))


def test_the_errors_of_two_independent_means_add_as_squares():
    assert Gap(600, (18.3, 0.3), (14.3, 0.4)).difference == pytest.approx((4.0, 0.5))


def test_the_gap_is_that_of_the_last_validation_that_measured_both():
    rows = {
        3: {"val_psnr_foreground": 9.0, "train_psnr_foreground": 9.5},
        6: {"val_psnr_foreground": 10.0, "train_psnr_foreground": 12.0, "train_psnr_foreground_error": 0.3},
        9: {"val_psnr_foreground": 11.0},  # of an older run, whose validation measured no training samples
        10: {"loss": 0.1},
    }
    found = last_gap(rows, COLUMNS)
    assert (found.step, found.train) == (6, (12.0, 0.3)) and found.val[0] == 10.0 and math.isnan(found.val[1])
    assert last_gap({9: rows[9]}, COLUMNS) is None
