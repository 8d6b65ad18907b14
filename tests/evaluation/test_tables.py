"""What tables and sentences say of means and differences."""

import math

import pytest

from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.scores import Lead
from mousefacelift.evaluation.tables import (
    comparison_table,
    difference_record,
    estimate_text,
    few_samples,
    few_samples_note,
    lead_sentences,
    lead_table,
)


@pytest.mark.parametrize(
    ("mean", "error", "words"),
    [
        (-2.3, 0.2, "-2.30 ± 0.20 dB: the model is worse"),
        (2.3, 0.2, "+2.30 ± 0.20 dB: the model is better"),
        (0.3, 0.2, "+0.30 ± 0.20 dB: no clear difference"),
        (-0.3, 0.2, "-0.30 ± 0.20 dB: no clear difference"),
        (2.3, math.inf, "+2.30 dB: unclear (one sample)"),
        (0.0, 0.0, "+0.00 ± 0.00 dB: no clear difference"),
    ],
)
def test_a_sentence_says_who_is_better(mean, error, words):
    (sentence,) = lead_sentences("model", {"psnr": Lead("nearest_view", mean, error)})
    assert sentence == f"PSNR, model - nearest input: {words}"


def rows_of_leads(**baselines):
    """The cells of a table of leads, its header first: every row is 0.25 below the named baseline."""
    found = {row: {name: Lead(baseline, -0.25, 0.01) for name in METRICS} for row, baseline in baselines.items()}
    header, _, *lines = lead_table("run", found).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in (header, *lines)]


def test_a_row_of_a_comparison_says_better_or_worse_and_than_what():
    header, one, two = rows_of_leads(one="white", two="white")
    assert header[:2] == ["run", "PSNR, dB: minus white image"] and len(header) == 1 + len(METRICS)
    assert one[:2] == ["`one`", "-0.25 ± 0.01, worse"] and two[0] == "`two`"


def test_rows_with_different_best_baselines_name_their_own():
    header, one, two = rows_of_leads(one="white", two="nearest_view")
    assert header[1] == "PSNR, dB: minus nearest input or white image"
    assert one[1] == "-0.25 ± 0.01, worse than white image" and two[1] == "-0.25 ± 0.01, worse than nearest input"


def test_a_baseline_that_is_no_longer_registered_has_its_name():
    assert "model - gone: " in lead_sentences("model", {"psnr": Lead("gone", 1.0, 0.1)})[0]


def test_fewer_than_ten_samples_are_warned_of():
    assert few_samples(10) is None and few_samples_note(10) == ""
    assert "9 samples are few" in few_samples(9) and "uncertain by 25 %" in few_samples(9)
    assert "1 sample has no standard error" in few_samples(1)
    assert few_samples_note(3) == f"\n{few_samples(3)}\n"


def test_one_sample_has_a_mean_without_an_error():
    assert estimate_text("ssim", 0.5, math.inf) == "0.500"
    assert difference_record(0.5, math.inf) == {"mean": 0.5, "standard_error": None}


def test_the_column_of_differences_is_there_only_with_a_reference():
    row = ("it", dict.fromkeys(METRICS, (0.5, 0.1)), "+1")
    plain, compared = comparison_table("run", [row]), comparison_table("run", [row], "other")
    assert "to `other`, dB" in compared and "to `" not in plain
    assert plain.splitlines()[2].count("|") + 1 == compared.splitlines()[2].count("|")
    assert len({line.count("|") for line in compared.splitlines()}) == 1
