"""The baselines are what their names say, and the registry names them."""

from typing import get_args

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.baselines.nearest_view import nearest_view
from mousefacelift.evaluation.baselines.registry import BASELINES, ON_REQUEST, baseline, chosen
from mousefacelift.evaluation.metrics.registry import score
from mousefacelift.evaluation.predict import input_views
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.data import Samples


@pytest.fixture
def held_out_samples(synthetic_shards):
    return Samples(read_manifest(synthetic_shards), "test", 32, 1.0)


def test_the_nearest_view_is_the_one_that_looks_the_same_way(held_out_samples):
    c2w = held_out_samples[0]["c2w"]
    for view in range(6):
        inputs = input_views(6, 5, view)
        angles = {other: float(c2w[other, :3, 2] @ c2w[view, :3, 2]) for other in inputs}
        assert nearest_view(c2w, inputs, view) == max(angles, key=angles.get)
        assert nearest_view(c2w, inputs, view) in ((view - 1) % 6, (view + 1) % 6)


EVERY = chosen(Evaluate(baselines=["fit"], fit_steps=3))
INPUTS = [input_views(6, 5, view) for view in range(6)]


@pytest.mark.parametrize("name", EVERY)
def test_every_baseline_predicts_every_view_in_range(synthetic_shards, held_out_samples, name):
    sample = held_out_samples[0]
    predict = EVERY[name].prepare(lambda: Samples(read_manifest(synthetic_shards), "train", 32, 1.0))
    rgb, alpha = predict(sample, INPUTS)
    assert rgb.shape == sample["image"].shape and alpha.shape == sample["alpha"].shape
    assert rgb.min() >= 0 and rgb.max() <= 1 and alpha.min() >= 0 and alpha.max() <= 1


@pytest.mark.parametrize("name", EVERY)
def test_no_baseline_looks_at_a_view_that_was_not_given(synthetic_shards, held_out_samples, name):
    """With the images of the views that are not inputs replaced by noise, a held-out view is predicted as before."""
    sample = held_out_samples[0]
    predict = EVERY[name].prepare(lambda: Samples(read_manifest(synthetic_shards), "train", 32, 1.0))
    inputs = [input_views(6, 2, view) for view in range(6)]
    rgb, alpha = predict(sample, inputs)
    for view, given in enumerate(inputs):
        hidden = torch.tensor([other not in given for other in range(6)])
        noise = {"image": sample["image"].clone(), "alpha": sample["alpha"].clone()}
        for value in noise.values():
            value[hidden] = torch.rand(value[hidden].shape, generator=torch.Generator().manual_seed(0))
        other_rgb, other_alpha = predict(sample | noise, inputs)
        assert torch.equal(other_rgb[view], rgb[view]) and torch.equal(other_alpha[view], alpha[view])


def test_only_the_mean_opens_the_training_split(held_out_samples):
    def refuse():
        raise AssertionError("the training split was opened")

    for name in ("white", "nearest_view", "visual_hull", "fit"):
        EVERY[name].prepare(refuse)(held_out_samples[0], INPUTS)
    with pytest.raises(AssertionError, match="was opened"):
        baseline("mean_train").prepare(refuse)


def test_the_visual_hull_is_drawn_where_the_ball_is(synthetic_shards):
    """It is hardly larger than the ball, and has its colours. The nearest view has neither."""
    sample = Samples(read_manifest(synthetic_shards), "test", 64, 1.0)[0]
    found, nearest = (
        score(*baseline(name).prepare(None)(sample, INPUTS), sample["image"], sample["alpha"])
        for name in ("visual_hull", "nearest_view")
    )
    assert (found["mask_iou"] > 0.87).all() and (found["mask_iou"] > nearest["mask_iou"]).all()
    assert (found["psnr_foreground"] > nearest["psnr_foreground"] + 3).all()


def test_one_input_view_is_drawn_as_a_sheet_through_the_origin(held_out_samples):
    """A camera on the other side sees it from behind, with about the ball's outline."""
    sample = held_out_samples[0]
    opposite = [[(view + 3) % 6] for view in range(6)]
    rgb, alpha = baseline("visual_hull").prepare(None)(sample, opposite)
    assert (score(rgb, alpha, sample["image"], sample["alpha"])["mask_iou"] > 0.5).all()


def test_an_unknown_baseline_is_refused_with_those_that_there_are():
    with pytest.raises(
        UserError, match="black: no such baseline; there are white, mean_train, nearest_view, visual_hull"
    ):
        baseline("black")


def test_what_can_be_asked_for_is_what_the_configuration_lists():
    (choice,) = get_args(Evaluate.model_fields["baselines"].annotation)
    assert list(get_args(choice)) == list(ON_REQUEST)


def test_a_baseline_that_is_not_asked_for_is_not_there():
    assert list(chosen(Evaluate())) == list(BASELINES)
    assert list(chosen(Evaluate(baselines=["fit"]))) == [*BASELINES, "fit"]


def test_a_fit_begins_as_the_hull_and_leaves_it(held_out_samples):
    """Its steps are those of the setting: after one it is still close to the hull, after ten farther away."""
    sample = held_out_samples[0]
    hull, _ = baseline("visual_hull").prepare(None)(sample, INPUTS)
    moved = []
    for steps in (1, 10):
        fit = chosen(Evaluate(baselines=["fit"], fit_steps=steps))["fit"]
        assert f"{steps} steps" in fit.label
        moved.append((fit.prepare(None)(sample, INPUTS)[0] - hull).abs().mean())
    assert 0 < moved[0] < 0.5 * moved[1]


def test_a_fit_is_closer_to_the_ball_than_the_hull(held_out_samples):
    sample = held_out_samples[0]
    fit = chosen(Evaluate(baselines=["fit"], fit_steps=30))["fit"]
    fitted, hull = (
        score(*each.prepare(None)(sample, INPUTS), sample["image"], sample["alpha"])["psnr"].mean()
        for each in (fit, baseline("visual_hull"))
    )
    assert fitted > hull + 0.5


def test_a_fit_is_not_fitted_to_unknown_pixels(held_out_samples):
    """The colours beside the ball change nothing where they are unknown; as known pixels they would count."""
    sample = held_out_samples[0]
    fit = chosen(Evaluate(baselines=["fit"], fit_steps=3))["fit"].prepare(None)
    unknown = sample["alpha"] == 0
    other = {"image": sample["image"].masked_fill(unknown[:, None], 0.3)}
    told, misled, untold = (
        fit(sample | each, INPUTS) for each in ({"unknown": unknown}, other | {"unknown": unknown}, other)
    )
    assert all(torch.equal(first, second) for first, second in zip(told, misled, strict=True))
    assert not torch.equal(untold[0], told[0])


@pytest.mark.parametrize("name", ["visual_hull", "fit"])
def test_what_several_pictures_do_not_hold_is_kept_by_a_hull_that_is_told_so(held_out_samples, name):
    """Four views of six hold only the ball's lower half: if they say so, the two others' upper half is still there."""
    sample = held_out_samples[0]
    unknown = torch.zeros(sample["alpha"].shape, dtype=torch.bool)
    unknown[:4, :16] = True
    cut = sample | {
        "image": sample["image"].masked_fill(unknown[:, None], 1),
        "alpha": sample["alpha"].masked_fill(unknown, 0),
    }
    predict = chosen(Evaluate(baselines=["fit"], fit_steps=1))[name].prepare(None)
    told, untold = (
        score(*predict(each, INPUTS), sample["image"], sample["alpha"])["mask_iou"].mean()
        for each in (cut | {"unknown": unknown}, cut)
    )
    assert told > untold + 0.1
