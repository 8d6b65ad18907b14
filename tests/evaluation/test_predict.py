"""Predictions: which views are given for a held-out one, and in which order."""

from dataclasses import replace

import pytest
import torch

from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.methods import scored_samples
from mousefacelift.evaluation.predict import input_views, open_trained, predict_views, reconstruct
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig


def test_the_held_out_view_is_never_an_input():
    for num_inputs in range(1, 6):
        for view in range(6):
            inputs = input_views(6, num_inputs, view)
            assert view not in inputs and len(set(inputs)) == num_inputs and inputs == sorted(inputs)
    assert input_views(6, 2, 1) == [0, 5] and input_views(6, 5, 2) == [0, 1, 3, 4, 5]


def test_a_model_trained_on_views_in_random_order_is_given_them_so_and_draws_the_same(synthetic_shards, trained):
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    given = []

    def spy(image, c2w, fxfycxcy, alpha):
        given.append(c2w)
        return opened.model(image, c2w, fxfycxcy, alpha)

    spied = replace(opened, model=spy, train=opened.train.model_copy(update={"view_order": "random"}))
    sample = opened.samples[1]
    rgb, alpha = predict_views(spied, sample)
    again, _ = predict_views(spied, sample)
    plain, plain_alpha = predict_views(opened, sample)
    assert torch.equal(rgb, again), "the order is of seed, sample and view"
    torch.testing.assert_close(rgb, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(alpha, plain_alpha, rtol=0, atol=1e-4)
    orders = [[int((sample["c2w"] == c).all((1, 2)).nonzero()) for c in c2w[0]] for c2w in given[:6]]
    assert [sorted(order) for order in orders] == [input_views(6, 5, view) for view in range(6)]
    assert sum(order != sorted(order) for order in orders) >= 5


def test_refinement_never_looks_at_the_held_out_view(synthetic_shards, trained):
    """With its image replaced by noise the prediction is the same to the bit; an input's noise changes it."""
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    sample, noise = opened.samples[0], torch.Generator().manual_seed(0)
    before = reconstruct(opened, sample, held_out=3, refine_steps=3)

    def noisy(view):
        values = {name: sample[name].clone() for name in ("image", "alpha")}
        for value in values.values():
            value[view] = torch.rand(value[view].shape, generator=noise)
        return sample | values

    after = reconstruct(opened, noisy(3), held_out=3, refine_steps=3)
    assert all(torch.equal(value, vars(before)[name]) for name, value in vars(after).items())
    assert not torch.equal(reconstruct(opened, noisy(2), held_out=3, refine_steps=3).features, before.features)


def test_no_steps_of_refinement_are_the_prediction_to_the_byte(synthetic_shards, trained):
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    sample = opened.samples[0]
    for first, second in zip(predict_views(opened, sample), predict_views(opened, sample, refine_steps=0), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(predict_views(opened, sample)[0], predict_views(opened, sample, refine_steps=3)[0])


def test_the_model_is_told_which_pixels_of_its_inputs_are_unknown(synthetic_shards, trained):
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    sample, told = opened.samples[0], []

    def spy(image, c2w, fxfycxcy, alpha, unknown=None):
        told.append(unknown)
        return opened.model(image, c2w, fxfycxcy, alpha)

    unknown = sample["alpha"] > 0.5
    spied = replace(opened, model=spy)
    reconstruct(spied, sample | {"unknown": unknown}, held_out=3)
    reconstruct(spied, sample, held_out=3)
    assert torch.equal(told[0], unknown[None, [0, 1, 2, 4, 5]]) and told[1] is None


def test_unknown_pixels_of_the_inputs_are_not_what_a_prediction_is_refined_to(synthetic_shards, trained):
    """Whatever colour and opacity stand there, the same prediction is refined to the same bits; as known pixels they would count."""
    opened = open_trained(synthetic_shards, trained, "test", threads=1)
    sample = opened.samples[0]
    predicted = reconstruct(opened, sample, held_out=3)
    fixed = replace(opened, model=lambda *_: predicted)
    unknown = torch.zeros(sample["alpha"].shape, dtype=torch.bool)
    unknown[..., : sample["alpha"].shape[-1] // 2] = True
    other = {
        "image": sample["image"].masked_fill(unknown[:, None], 0.3),
        "alpha": sample["alpha"].masked_fill(unknown, 0.7),
    }
    told, misled, untold = (
        predict_views(fixed, sample | each, refine_steps=3)
        for each in ({"unknown": unknown}, other | {"unknown": unknown}, other)
    )
    assert all(torch.equal(first, second) for first, second in zip(told, misled, strict=True))
    assert not torch.equal(untold[0], told[0])


@pytest.mark.parametrize("guided", [False, True])
def test_samples_that_are_worked_on_at_once_are_scored_as_one_after_the_other(synthetic_shards, trained, guided):
    opened = open_trained(synthetic_shards, trained, "val", threads=1)
    if guided:
        opened = replace(
            opened, model=GSLRM(GSLRMConfig(width=32, head_width=16, layers=1, guide="hull", residual=True))
        )
    settings, before = Evaluate(refine_steps=2), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = list(scored_samples(opened, settings))
        torch.set_num_threads(3)
        together = list(scored_samples(opened, settings))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert [each.key for each in together] == opened.samples.keys
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one.rgb[name], other.rgb[name]) for name in one.rgb)
