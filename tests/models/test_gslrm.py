"""The model: same numbers and names as the reference, rays that agree with the cameras."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig, patchify
from mousefacelift.models.rays import pixel_rays
from mousefacelift.models.registry import build_model

PARITY = Path(__file__).with_name("gslrm_micro.npz")
MICRO = GSLRMConfig(width=32, head_width=16, layers=2)


@pytest.fixture(scope="module")
def parity():
    return {name: torch.from_numpy(array) for name, array in np.load(PARITY).items()}


@pytest.fixture
def inputs(parity):
    """The reference takes RGBA and ignores the alpha: its colours are already over white."""
    return parity["image"][:, :, :3], parity["c2w"], parity["fxfycxcy"]


@pytest.fixture
def reference_model(parity):
    model = GSLRM(MICRO)
    model.load_state_dict({k.removeprefix("state."): v for k, v in parity.items() if k.startswith("state.")})
    return model


@pytest.mark.parametrize("recompute", ["none", "selective", "all"])
def test_outputs_equal_the_reference(parity, reference_model, inputs, recompute):
    reference_model.recompute = recompute
    gaussians = reference_model(*inputs)
    for name in ("xyz", "features", "scaling", "rotation", "opacity"):
        found, expected = getattr(gaussians, name), parity[f"out.{name}"]
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5, name


def test_recomputed_activations_give_the_same_gradients(parity, reference_model, inputs):
    gradients = []
    for recompute in ("none", "selective", "all"):
        reference_model.recompute = recompute
        reference_model.zero_grad()
        gaussians = reference_model(*inputs)
        gaussians.xyz.square().mean().backward()
        gradients.append(reference_model.patch_embedder[1].weight.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


def test_under_autocast_the_heads_and_the_rays_stay_in_float32(reference_model, inputs):
    """The layers' bf16 moves a Gaussian along its ray by less than rounding its depth to bf16 would, never off its ray."""
    exact = reference_model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = reference_model(*inputs)
    assert all(value.dtype == torch.float32 for value in vars(found).values())
    moved = (found.xyz - exact.xyz)[:, MICRO.free_gaussians :]
    _, directions = pixel_rays(inputs[1], inputs[2], 32, 32)
    directions = patchify(directions, 8).reshape(1, -1, 3)
    assert torch.linalg.cross(moved, directions).norm(dim=-1).max() < 1e-6
    # Not multiples of bf16's step at 2: the depth was decoded in float32.
    raw = found.opacity[:, MICRO.free_gaussians :] - MICRO.opacity_bias
    assert (raw.bfloat16().float() - raw).abs().max() > 1e-5


def test_base_has_the_released_number_of_parameters():
    with torch.device("meta"):
        tensors = build_model("base").state_dict()
    assert len(tensors) == 151
    assert sum(t.numel() for t in tensors.values()) == 303_565_824


def test_pixel_gaussians_lie_on_their_pixel_rays(parity, reference_model, inputs):
    """Every Gaussian projects onto the centre of the pixel that emitted it, in the order the docstring promises."""
    gaussians = reference_model(*inputs)
    row, col = torch.meshgrid(torch.arange(32.0) + 0.5, torch.arange(32.0) + 0.5, indexing="ij")
    pixel = patchify(torch.stack([col, row], -1).expand(1, 3, -1, -1, -1), 8).reshape(3, -1, 2)
    xyz = gaussians.xyz[0, MICRO.free_gaussians :].reshape(3, -1, 3)
    w2c = torch.linalg.inv(parity["c2w"][0])
    camera = xyz @ w2c[:, :3, :3].transpose(1, 2) + w2c[:, None, :3, 3]
    fx, fy, cx, cy = parity["fxfycxcy"][0].T[:, :, None]
    u = camera[..., 0] / camera[..., 2] * fx + cx
    v = camera[..., 1] / camera[..., 2] * fy + cy
    torch.testing.assert_close(torch.stack([u, v], -1), pixel, rtol=0, atol=1e-3)


def test_rays_stay_exact_under_bf16_autocast(parity):
    plain = pixel_rays(parity["c2w"], parity["fxfycxcy"], 32, 32)[1]
    with torch.autocast("cpu", torch.bfloat16):
        autocast = pixel_rays(parity["c2w"], parity["fxfycxcy"], 32, 32)[1]
    assert torch.equal(plain, autocast)


def test_bf16_autocast_returns_float32_close_to_the_reference(parity, reference_model, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        gaussians = reference_model(*inputs)
    assert gaussians.xyz.dtype == torch.float32
    assert (gaussians.xyz - parity["out.xyz"]).abs().mean() < 0.01


def test_clip_xyz_bounds_pixel_gaussians_only_when_asked(parity, reference_model, inputs):
    assert reference_model(*inputs).xyz.abs().max() > 1
    reference_model.config = replace(MICRO, clip_xyz=True)
    assert reference_model(*inputs).xyz[:, MICRO.free_gaussians :].abs().max() <= 1


def test_skipping_blank_patches_changes_nothing_where_none_is_blank(parity, reference_model, inputs):
    reference_model.config = replace(MICRO, skip_blank=True)
    gaussians = reference_model(*inputs)
    assert (gaussians.xyz - parity["out.xyz"]).abs().max() <= 1e-5


def test_blank_patches_give_no_gaussians_and_padding_changes_no_sample(reference_model, inputs):
    """Two samples with different numbers of occupied patches: in one batch each gives what it gives alone."""
    reference_model.config = replace(MICRO, skip_blank=True)
    image, c2w, fxfycxcy = (x.repeat(2, *[1] * (x.ndim - 1)) for x in inputs)
    image[0, :, :, 8:] = 1  # a row of 4 patches is left in each of 3 views
    image[1, 1:] = 1  # 16 patches of the first view are left
    together = reference_model(image, c2w, fxfycxcy)
    assert together.xyz.shape[1] == 2 + 16 * 64
    for i, patches in enumerate((12, 16)):
        alone = reference_model(image[i : i + 1], c2w[i : i + 1], fxfycxcy[i : i + 1])
        count = 2 + patches * 64
        assert alone.xyz.shape[1] == count
        for name in ("xyz", "features", "scaling", "rotation", "opacity"):
            found, expected = getattr(together, name)[i, :count], getattr(alone, name)[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (together.opacity[i, count:].sigmoid() == 0).all()


@pytest.mark.parametrize("skip_blank", [False, True])
def test_views_given_in_another_order_make_the_same_gaussians_in_another_order(
    parity, reference_model, inputs, skip_blank
):
    """Image tokens know their view by its rays alone: nothing tells the network which came first."""
    image, c2w, fxfycxcy = (value.clone() for value in inputs)
    image[:, :, :, :8] = 1.0  # a row of blank patches in every view
    reference_model.config = replace(MICRO, skip_blank=skip_blank)
    views = image.shape[1]
    order = torch.arange(views).roll(1)
    assert views > 1
    plain, turned = (
        reference_model(image, c2w, fxfycxcy),
        reference_model(image[:, order], c2w[:, order], fxfycxcy[:, order]),
    )
    free = MICRO.free_gaussians
    for name in ("xyz", "features", "scaling", "rotation", "opacity"):
        one, other = getattr(plain, name), getattr(turned, name)
        torch.testing.assert_close(one[:, :free], other[:, :free], rtol=1e-4, atol=1e-5)
        if not skip_blank:  # else views differ in how many Gaussians they have
            one, other = (value[:, free:].unflatten(1, (views, -1)) for value in (one, other))
            torch.testing.assert_close(one[:, order], other, rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(
                one.flatten(2)[0].sort(0).values, other.flatten(2)[0].sort(0).values, rtol=1e-4, atol=1e-5
            )


def test_activated_gaussians_are_drawable(parity, reference_model, inputs):
    gaussians = reference_model(*inputs)
    means, quats, scales, opacities, colors = gaussians.activated(0)
    n = 2 + 3 * 32 * 32
    assert [t.shape for t in (means, quats, scales, opacities, colors)] == [(n, 3), (n, 4), (n, 3), (n,), (n, 3)]
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(n))
    assert scales.min() > 0 and scales.max() <= np.exp(-1.2) + 1e-6
    assert opacities.min() > 0 and opacities.max() < 1


def test_initial_weights_follow_the_reference():
    torch.manual_seed(0)
    model = build_model("tiny")
    assert model.transformer_layers[0].attn.to_qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.gaussian_position_embeddings.std().item() == pytest.approx(0.02, rel=0.15)
    assert (model.input_layer_norm.weight == 1).all()


def test_images_that_do_not_fit_the_patches_are_refused(reference_model):
    with pytest.raises(UserError, match="30 x 32"):
        reference_model(torch.zeros(1, 1, 3, 32, 30), torch.eye(4).expand(1, 1, 4, 4), torch.ones(1, 1, 4))
    with pytest.raises(UserError, match="head width"):
        GSLRMConfig(width=30, head_width=16)
