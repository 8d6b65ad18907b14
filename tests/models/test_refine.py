"""Refined Gaussians are closer to the views they are fitted to, and what must stay stays."""

import dataclasses

import numpy as np
import pytest
import torch

from mousefacelift.models.gaussians import SH_C0, Gaussians, render
from mousefacelift.models.hull.surface import hull_gaussians
from mousefacelift.models.refine import refine
from support.balls import AZIMUTHS, ELEVATIONS, ball, look_at_origin

SIZE, VIEWS = 24, 6
NAMES = [field.name for field in dataclasses.fields(Gaussians)]


@pytest.fixture(scope="module")
def views():
    """image, alpha, c2w, w2c and fxfycxcy [1, V, ...] of a coloured ball."""
    c2w = np.array([look_at_origin(a, e, 2.7) for a, e in zip(AZIMUTHS, ELEVATIONS, strict=True)])
    fxfycxcy = np.tile([1.6 * SIZE, 1.6 * SIZE, SIZE / 2, SIZE / 2], (VIEWS, 1))
    rgba = np.array([ball(c2w[v], fxfycxcy[v], SIZE, np.array([0.1, 0, -0.05]), 0.4) for v in range(VIEWS)]) / 255
    alpha = rgba[..., 3:]
    image = rgba[..., :3] * alpha + 1 - alpha
    arrays = image.transpose(0, 3, 1, 2), alpha[..., 0], c2w, np.linalg.inv(c2w), fxfycxcy
    return [torch.tensor(array).float()[None] for array in arrays]


@pytest.fixture(scope="module")
def inputs(views):
    """What `refine` takes of the first five views."""
    image, alpha, _, w2c, fxfycxcy = (tensor[:, :5] for tensor in views)
    return image, alpha, w2c, fxfycxcy


@pytest.fixture
def start(views):
    """The hull of the first five views in a wrong colour, and a Gaussian before it that a guide took away."""
    hull = hull_gaussians(*(tensor[0, :5] for tensor in views))
    hull = dataclasses.replace(hull, features=hull.features - 0.2 / SH_C0)
    excluded = {name: getattr(hull, name)[:, :1].clone() for name in NAMES}
    excluded["opacity"].fill_(-100)
    return Gaussians(**{name: torch.cat([excluded[name], getattr(hull, name)], 1) for name in NAMES})


def error(gaussians, image, alpha, w2c, fxfycxcy):
    """Mean squared errors of the views and of their silhouettes."""
    rgb, opacity = render(gaussians, w2c, fxfycxcy, SIZE, SIZE)
    return (rgb - image).square().mean(), (opacity - alpha).square().mean()


def distance(first, second):
    return max((getattr(first, name) - getattr(second, name)).abs().max().item() for name in NAMES)


def test_a_few_steps_bring_the_input_views_closer(start, inputs):
    rgb, opacity = error(start, *inputs)
    refined_rgb, refined_opacity = error(refine(start, *inputs, steps=10), *inputs)
    assert refined_rgb < 0.5 * rgb and refined_opacity < opacity


def test_a_view_that_is_not_among_the_inputs_comes_closer_too(start, inputs, views):
    """The wrong colour is the same in all views."""
    image, alpha, _, w2c, fxfycxcy = (tensor[:, 5:] for tensor in views)
    before, _ = error(start, image, alpha, w2c, fxfycxcy)
    after, _ = error(refine(start, *inputs, steps=10), image, alpha, w2c, fxfycxcy)
    assert after < 0.6 * before


def test_no_steps_change_nothing(start, inputs):
    assert refine(start, *inputs, steps=0) is start


def test_the_given_gaussians_are_not_changed(start, inputs):
    before = {name: getattr(start, name).clone() for name in NAMES}
    refine(start, *inputs, steps=2)
    assert all(torch.equal(before[name], getattr(start, name)) for name in NAMES)


def test_every_kind_of_parameter_moves_and_excluded_gaussians_stay(start, inputs):
    refined = refine(start, *inputs, steps=3)
    for name in NAMES:
        given, found = getattr(start, name), getattr(refined, name)
        assert torch.equal(found[:, 0], given[:, 0]), f"{name} of the excluded one"
        # A round Gaussian looks the same however it is turned, until its axes differ.
        assert (found[:, 1:] != given[:, 1:]).any(), name


def test_a_strong_prior_keeps_the_prediction(start, inputs):
    """Adam's steps do not shrink with the loss, but they turn back."""
    free, held = (refine(start, *inputs, steps=30, prior=prior) for prior in (0.0, 1e3))
    assert distance(held, start) < 0.1 * distance(free, start)


def test_unknown_pixels_of_the_input_views_are_not_fitted(start, inputs):
    """Whatever stands there changes nothing; elsewhere it would."""
    image, alpha, w2c, fxfycxcy = inputs
    unknown = torch.zeros(alpha.shape, dtype=torch.bool)
    unknown[..., : SIZE // 2] = True
    other = image.masked_fill(unknown[:, :, None], 0.3), alpha.masked_fill(unknown, 0.7)
    first = refine(start, *inputs, steps=3, unknown=unknown)
    assert distance(refine(start, *other, w2c, fxfycxcy, steps=3, unknown=unknown), first) == 0
    assert distance(refine(start, *other, w2c, fxfycxcy, steps=3), first) > 0


def test_refining_again_gives_the_same_bytes(start, inputs):
    first, second = (refine(start, *inputs, steps=3) for _ in range(2))
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in NAMES)


def test_samples_of_a_batch_are_refined_for_themselves(start, inputs):
    """One of them is padded by a Gaussian that is not there, and has no effect on the other."""
    other = {name: getattr(start, name).clone() for name in NAMES}
    other["opacity"][:, -5:] = -100
    other["features"] = other["features"] + 0.1
    batch = Gaussians(**{name: torch.cat([getattr(start, name), other[name]]) for name in NAMES})
    together = refine(batch, *(tensor.expand(2, *tensor.shape[1:]) for tensor in inputs), steps=2)
    for sample, alone in enumerate((start, Gaussians(**other))):
        refined = refine(alone, *inputs, steps=2)
        assert all(torch.equal(getattr(together, name)[sample], getattr(refined, name)[0]) for name in NAMES)


def test_predictions_of_inference_mode_are_refined_and_carry_no_gradient(start, inputs):
    plain = refine(start, *inputs, steps=2)
    with torch.inference_mode():
        predicted = Gaussians(**{name: getattr(start, name) * 1 for name in NAMES})
        refined = refine(predicted, *inputs, steps=2)
    assert distance(refined, plain) == 0
    assert not any(getattr(refined, name).requires_grad for name in NAMES)


def test_nothing_to_see_is_nothing_to_refine(start, inputs):
    none = dataclasses.replace(start, opacity=torch.full_like(start.opacity, -100))
    refined = refine(none, *inputs, steps=2)
    assert distance(refined, none) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_refines_as_the_cpu_does(start, inputs):
    there = Gaussians(**{name: getattr(start, name).cuda() for name in NAMES})
    refined = refine(there, *(tensor.cuda() for tensor in inputs), steps=10)
    assert refined.xyz.device.type == "cuda"
    found, _ = error(refined, *(tensor.cuda() for tensor in inputs))
    expected, _ = error(refine(start, *inputs, steps=10), *inputs)
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
