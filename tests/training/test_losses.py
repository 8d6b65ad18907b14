"""Losses: against independent formulas, and on images whose answer is known."""

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from mousefacelift.config.train import Loss
from mousefacelift.training.losses import image_loss, ssim


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 3, 24, 30, generator=random)
    return (target + 0.1 * torch.randn(target.shape, generator=random)).clamp(0, 1), target


def test_ssim_equals_an_independent_formula(images):
    """Per channel by cv2's Gaussian filter in float64; only pixels where the whole window fits count."""

    def blur(x):
        return cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]

    found = ssim(*images)
    for index in np.ndindex(2, 3):
        values = []
        for channel in range(3):
            x, y = (image[index][channel].double().numpy() for image in images)
            mx, my = blur(x), blur(y)
            vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
            values.append(
                ((2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()
            )
        assert found[index].item() == pytest.approx(np.mean(values), abs=1e-5)


def test_ssim_is_torchmetrics_without_its_reflected_border(images):
    image, target = (x.flatten(0, 1) for x in images)
    _, full = structural_similarity_index_measure(image, target, data_range=1.0, sigma=1.5, return_full_image=True)
    torch.testing.assert_close(ssim(image, target), full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_ssim_of_constant_images_never_exceeds_one(level):
    flat = torch.full((1, 3, 64, 64), level)
    assert ssim(flat, flat).item() <= 1
    loss, _ = image_loss(flat, torch.zeros(1, 64, 64), flat, torch.zeros(1, 64, 64), Loss(l2=0, masked_l2=0, ssim=1))
    assert 0 <= loss.item() < 1e-5


def test_ssim_is_computed_in_float32_under_autocast():
    """In bf16 its variances, small differences of squares, would be noise, and so would its gradient."""
    random = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 32, 32, generator=random) * 0.05 + 0.9
    image = (target + 0.01 * torch.randn(target.shape, generator=random)).requires_grad_(True)
    plain = ssim(image, target)
    (expected,) = torch.autograd.grad(plain.sum(), image)
    with torch.autocast("cpu", torch.bfloat16):
        found = ssim(image, target)
    assert torch.equal(found, plain)
    assert torch.equal(torch.autograd.grad(found.sum(), image)[0], expected)


def test_masked_terms_are_means_over_samples_of_means_over_their_own_silhouettes():
    """So that a batch has the same loss however it is divided."""
    random = torch.Generator().manual_seed(1)
    rgb, target = (torch.rand(3, 2, 3, 16, 16, generator=random) for _ in range(2))
    alpha = (torch.rand(3, 2, 16, 16, generator=random) < torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1)).float()
    weights = Loss(l2=1, masked_l2=0.5, background=0.2, ssim=0.3, alpha=0.1)
    whole, _ = image_loss(rgb, alpha, target, alpha, weights)
    parts = [
        image_loss(rgb[i : i + 1], alpha[i : i + 1], target[i : i + 1], alpha[i : i + 1], weights)[0] for i in range(3)
    ]
    assert whole.item() == pytest.approx(sum(parts).item() / 3, rel=1e-6)


def test_masked_terms_do_not_depend_on_the_silhouette_area():
    """Plain L2 shrinks with the mouse; the masked term keeps its size, the background term counts the rest."""
    target, rgb = torch.ones(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    for rows in (2, 16):
        alpha = torch.zeros(1, 32, 32)
        alpha[:, :rows] = 1
        rgb = target - 0.2 * alpha.unsqueeze(1) - 0.1 * (1 - alpha.unsqueeze(1))
        total, terms = image_loss(rgb, alpha, target, alpha, Loss(l2=1, masked_l2=2, background=3))
        assert terms["masked_l2"].item() == pytest.approx(0.04, rel=1e-4)
        assert terms["background"].item() == pytest.approx(0.01, rel=1e-4)
        assert terms["l2"].item() == pytest.approx((rows * 0.04 + (32 - rows) * 0.01) / 32, rel=1e-4)
        assert total.item() == pytest.approx(terms["l2"].item() + 2 * 0.04 + 3 * 0.01, rel=1e-4)


def test_an_empty_silhouette_gives_a_finite_loss_and_gradient():
    rgb = torch.rand(1, 3, 16, 16, requires_grad=True)
    total, _ = image_loss(rgb, rgb[:, 0], torch.ones(1, 3, 16, 16), torch.zeros(1, 16, 16), Loss(masked_l2=1, ssim=0.5))
    total.backward()
    assert total.isfinite() and rgb.grad.isfinite().all()


def test_terms_without_a_weight_are_not_computed():
    rgb = torch.rand(1, 3, 4, 4)  # too small for SSIM's window
    total, terms = image_loss(rgb, rgb[:, 0], rgb, torch.ones(1, 4, 4), Loss(l2=1, masked_l2=0))
    assert list(terms) == ["l2"] and total.item() == 0


def test_the_alpha_term_tells_white_gaussians_from_none():
    white, silhouette = torch.ones(1, 3, 16, 16), torch.zeros(1, 16, 16)
    weights = Loss(l2=1, masked_l2=1, background=1, ssim=1, alpha=0.5)
    drawn, _ = image_loss(white, torch.ones(1, 16, 16), white, silhouette, weights)
    empty, _ = image_loss(white, torch.zeros(1, 16, 16), white, silhouette, weights)
    assert drawn.item() == pytest.approx(0.5, abs=1e-5) and empty.item() == pytest.approx(0, abs=1e-5)


def test_held_out_views_count_as_often_as_they_are_told_to():
    generator = torch.Generator().manual_seed(3)
    rgb, target = (torch.rand(2, 4, 3, 24, 24, generator=generator) for _ in range(2))
    alpha, mask = (torch.rand(2, 4, 24, 24, generator=generator) for _ in range(2))
    held_out = torch.tensor([[True, False, False, False], [False, False, True, False]])
    weights = Loss(l2=1, masked_l2=0.5, background=0.5, ssim=0.3, alpha=0.2, held_out=3)
    _, found = image_loss(rgb, alpha, target, mask, weights, held_out=held_out)
    # A view that is held out, three times over, beside the other three.
    places = [[0, 0, 0, 1, 2, 3], [0, 1, 2, 2, 2, 3]]
    thrice = [
        torch.stack([tensor[i, place] for i, place in enumerate(places)]) for tensor in (rgb, alpha, target, mask)
    ]
    _, expected = image_loss(*thrice, weights)
    for name in ("l2", "ssim", "alpha"):
        torch.testing.assert_close(found[name], expected[name])
    # Means over a silhouette's pixels are over those of the views as they are: three of one view are no more pixels.
    assert found["masked_l2"] != image_loss(rgb, alpha, target, mask, weights)[1]["masked_l2"]


def test_without_a_weight_all_views_count_alike():
    rgb, target, alpha = torch.rand(1, 3, 3, 16, 16), torch.rand(1, 3, 3, 16, 16), torch.rand(1, 3, 16, 16)
    held_out = torch.tensor([[True, False, False]])
    plain = image_loss(rgb, alpha, target, alpha, Loss())
    weighted = image_loss(rgb, alpha, target, alpha, Loss(held_out=1), held_out=held_out)
    torch.testing.assert_close(plain[0], weighted[0])


WEIGHTS = Loss(l2=1, masked_l2=0.5, background=0.5, ssim=0.3, alpha=0.2, held_out=2)


def half_known():
    generator = torch.Generator().manual_seed(5)
    rgb, target = (torch.rand(2, 3, 3, 24, 24, generator=generator) for _ in range(2))
    alpha, mask = (torch.rand(2, 3, 24, 24, generator=generator) for _ in range(2))
    unknown = torch.zeros(2, 3, 24, 24, dtype=torch.bool)
    unknown[0, 1, 4:9, 10:] = unknown[1, 0, :, 20:] = unknown[1, 2, 3, 3] = True
    return rgb, alpha, target, mask, unknown


def test_no_term_of_the_loss_depends_on_what_is_predicted_for_unknown_pixels():
    rgb, alpha, target, mask, unknown = half_known()
    held_out = torch.tensor([[True, False, False], [False, True, False]])
    _, expected = image_loss(rgb, alpha, target, mask, WEIGHTS, None, held_out, unknown)
    other, opacity = rgb.clone(), alpha.clone()
    other.movedim(2, -1)[unknown], opacity[unknown] = 0.3, 1
    other.requires_grad_(), opacity.requires_grad_()
    total, found = image_loss(other, opacity, target, mask, WEIGHTS, None, held_out, unknown)
    assert list(found) == ["l2", "masked_l2", "background", "ssim", "alpha"]
    for name, term in found.items():
        assert torch.equal(term, expected[name]), name
        assert not torch.equal(term, image_loss(rgb, alpha, target, mask, WEIGHTS, None, held_out)[1][name]), name
    total.backward()
    assert other.grad.movedim(2, -1)[unknown].eq(0).all() and opacity.grad[unknown].eq(0).all()
    assert other.grad.movedim(2, -1)[~unknown].ne(0).any() and opacity.grad[~unknown].ne(0).any()


def test_terms_are_means_over_the_known_pixels():
    rgb, alpha, target, mask, unknown = half_known()
    _, found = image_loss(rgb, alpha, target, mask, WEIGHTS.model_copy(update={"held_out": 1.0}), unknown=unknown)
    error, wrong = (rgb - target).square().mean(2), (alpha - mask).square()
    for name, values, where in (
        ("l2", error, ~unknown), ("masked_l2", error, ~unknown & (mask > 0.5)),
        ("background", error, ~unknown & (mask <= 0.5)), ("alpha", wrong, ~unknown),
    ):  # fmt: skip
        expected = torch.stack([values[i][where[i]].mean() for i in range(2)]).mean()
        torch.testing.assert_close(found[name], expected)


def test_masks_without_an_unknown_pixel_change_nothing():
    rgb, alpha, target, mask, unknown = half_known()
    plain = image_loss(rgb, alpha, target, mask, WEIGHTS)[1]
    for name, term in image_loss(rgb, alpha, target, mask, WEIGHTS, unknown=unknown & False)[1].items():
        torch.testing.assert_close(term, plain[name])


def test_a_view_of_which_nothing_is_known_gives_a_finite_loss_and_gradient():
    rgb, alpha, target, mask, unknown = half_known()
    rgb.requires_grad_()
    total, _ = image_loss(rgb, alpha, target, mask, WEIGHTS, unknown=unknown | True)
    total.backward()
    assert total.isfinite() and rgb.grad.eq(0).all()
