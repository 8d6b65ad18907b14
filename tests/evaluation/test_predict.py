"""Predictions: which views are given for a held-out one, and in which order."""

from dataclasses import replace

import torch

from mousefacelift.evaluation.predict import input_views, open_trained, predict_views


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
