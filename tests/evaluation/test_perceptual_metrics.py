"""MS-SSIM and gradient similarity: their formulas in float64, known values, and what a blur does to them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, gaussian_filter

from mousefacelift.evaluation.metrics.gradient_similarity import gradient_similarity, surroundings
from mousefacelift.evaluation.metrics.ms_ssim import ms_ssim, scales
from mousefacelift.evaluation.metrics.psnr import psnr

NONE = torch.empty(0)  # what a metric does not look at
PAPER = (0.0448, 0.2856, 0.3001, 0.2363)


def mouse(size=128, seed=0):
    """A furry ellipse over white [3, S, S], and its silhouette [S, S]."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = ((x / 0.22) ** 2 + (y / 0.12) ** 2) < 1
    fur = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (size, size)), size / 128)
    grey = np.where(inside, np.clip(0.35 + 0.6 * fur, 0, 1), 1.0)
    image = np.stack([grey, 0.9 * grey + 0.1 * ~inside, 0.8 * grey + 0.2 * ~inside])
    return torch.from_numpy(image).float(), torch.from_numpy(inside).float()


def blurred(image, sigma):
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, sigma, sigma), mode="nearest"))


def ms_ssim_in_float64(x, y, weights):
    """Wang et al. (2003), channel by channel. The border is mirrored, and left out but at the last scale."""
    x, y = np.float64(x), np.float64(y)

    def mean(image):
        return gaussian_filter(image, (0, 1.5, 1.5), mode="mirror", truncate=5 / 1.5)

    value = 1.0
    for place, weight in enumerate(np.array(weights) / np.sum(weights)):
        a, b = mean(x), mean(y)
        contrast = (2 * (mean(x * y) - a * b) + 0.03**2) / (mean(x * x) - a * a + mean(y * y) - b * b + 0.03**2)
        if place < len(weights) - 1:
            term = contrast[:, 5:-5, 5:-5].mean()
        else:
            term = (contrast * (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)).mean()
        value *= max(term, 0) ** weight
        x, y = (image.reshape(3, image.shape[1] // 2, 2, -1, 2).mean((2, 4)) for image in (x, y))
    return value


def gradient_similarity_in_float64(x, y, mask):
    """Xue et al. (2014), equations 3 to 6, in the box around the mask."""
    across = np.array([[1, 0, -1]] * 3) / 3
    magnitudes = []
    for image in (np.float64(x), np.float64(y)):
        luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        half = luma.reshape(len(luma) // 2, 2, -1, 2).mean((1, 3))
        magnitudes.append(np.hypot(*(convolve(half, kernel, mode="nearest") for kernel in (across, across.T))))
    a, b = magnitudes
    similarity = (2 * a * b + 170 / 255**2) / (a * a + b * b + 170 / 255**2)
    ys, xs = np.nonzero(mask.numpy().reshape(len(a), 2, -1, 2).max((1, 3)) > 0.5)
    margin = len(a) // 16
    box = [slice(max(0, place.min() - margin), place.max() + 1 + margin) for place in (ys, xs)]
    return similarity[*box].mean()


@pytest.mark.parametrize(("size", "count"), [(128, 4), (512, 4), (64, 3), (32, 2)])
def test_ms_ssim_is_the_papers_formula_with_the_scales_that_fit(size, count):
    target, _ = mouse(size)
    other, _ = mouse(size, seed=1)
    assert scales(size) == count
    for rgb in (blurred(target, 2), other, 1 - target):
        found = ms_ssim(rgb.unsqueeze(0), NONE, target.unsqueeze(0), NONE).item()
        assert found == pytest.approx(
            ms_ssim_in_float64(rgb, target, PAPER[:count]), abs=1e-4
        )  # float32 variances of white are 1e-7


@pytest.mark.parametrize("size", [128, 64])
def test_gradient_similarity_is_the_papers_formula_around_the_silhouette(size):
    target, mask = mouse(size)
    other, _ = mouse(size, seed=1)
    for rgb in (blurred(target, 2), other, 1 - target, torch.ones_like(target)):
        found = gradient_similarity(rgb.unsqueeze(0), NONE, target.unsqueeze(0), mask.unsqueeze(0)).item()
        assert found == pytest.approx(gradient_similarity_in_float64(rgb, target, mask), abs=1e-5)


def test_equal_views_score_one():
    target, mask = (value.unsqueeze(0) for value in mouse())
    assert ms_ssim(target, NONE, target, mask).item() == pytest.approx(1, abs=1e-6)
    assert gradient_similarity(target, NONE, target, mask).item() == pytest.approx(1, abs=1e-6)


def test_gradient_similarity_does_not_see_which_side_of_an_edge_is_dark():
    target, mask = (value.unsqueeze(0) for value in mouse())
    assert gradient_similarity(1 - target, NONE, target, mask).item() == pytest.approx(1, abs=1e-5)
    assert ms_ssim(1 - target, NONE, target, mask).item() < 0.5


def test_a_constant_shift_costs_lightness_and_no_edges():
    target, mask = (value.unsqueeze(0) for value in mouse())
    assert gradient_similarity(target - 0.1, NONE, target, mask).item() == pytest.approx(1, abs=1e-5)
    a, b = 0.4, 0.7
    plain = torch.full((1, 3, 128, 128), a), torch.full((1, 3, 128, 128), b)
    lightness = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    expected = lightness ** (PAPER[3] / sum(PAPER))  # the coarsest scale alone sees it
    assert ms_ssim(plain[0], NONE, plain[1], NONE).item() == pytest.approx(expected, abs=5e-4)


def test_at_equal_psnr_a_blurred_view_is_worse_than_a_sharp_one():
    target, mask = mouse()
    blur = blurred(target, 2.0)
    error = (blur - target).square().mean().sqrt()
    tinted = target + error * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
    rgb, targets, masks = torch.stack([blur, tinted]), torch.stack([target] * 2), torch.stack([mask] * 2)
    torch.testing.assert_close(*psnr(rgb, NONE, targets, NONE), atol=1e-3, rtol=0)
    for measure in (ms_ssim, gradient_similarity):
        values = measure(rgb, NONE, targets, masks)
        assert values[1] - values[0] > 0.02, measure.__name__


def test_blurring_a_misplaced_mouse_raises_psnr_and_ms_ssim_and_lowers_gradient_similarity():
    target, mask = mouse()
    sharp = target.roll(3, -1)
    rgb, targets, masks = torch.stack([sharp, blurred(sharp, 2.0)]), torch.stack([target] * 2), torch.stack([mask] * 2)
    for measure, rises in ((psnr, True), (ms_ssim, True), (gradient_similarity, False)):
        before, after = measure(rgb, NONE, targets, masks)
        assert (after > before) == rises, measure.__name__


def test_white_around_the_mouse_does_not_hide_that_it_is_missing():
    target, mask = (value.unsqueeze(0) for value in mouse())
    white = torch.ones_like(target)
    everywhere = gradient_similarity(white, NONE, target, torch.ones_like(mask)).item()
    assert gradient_similarity(white, NONE, target, mask).item() < everywhere - 0.2
    far = target.clone()
    far[..., :8, :] = 0.0  # outside the region
    assert gradient_similarity(far, NONE, target, mask).item() == pytest.approx(1, abs=1e-6)


def test_the_region_is_the_bounding_box_and_a_sixteenth_of_the_view():
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[0, 10, 5], mask[0, 20, 9] = True, True
    mask[1, 0, 31] = True
    region = surroundings(mask)
    expected = torch.zeros_like(mask)
    expected[0, 8:23, 3:12], expected[1, :3, 29:] = True, True
    assert torch.equal(region, expected)


def test_a_view_without_a_mouse_has_no_gradient_similarity():
    target = torch.ones(2, 3, 32, 32)
    mask = torch.zeros(2, 32, 32)
    mask[1, 16, 16] = 1
    assert gradient_similarity(target, NONE, target, mask).isnan().tolist() == [True, False]
    assert ms_ssim(target, NONE, target, mask).tolist() == pytest.approx([1, 1])
