"""The rasteriser draws its model: compared with the plain dense reference, closed forms and finite differences."""

import math
import sys
import types

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.gpu.extension import built, device_archs, ready, shipped
from mousefacelift.gpu.toolchain import installed_gsplat
from mousefacelift.models.rasterize.api import _gsplat, rasterize
from mousefacelift.models.rasterize.reference import rasterize_reference

NAMES = ["means", "quats", "scales", "opacities", "colors"]


def look_at_origin(azimuth: float, elevation: float, distance: float) -> torch.Tensor:
    """w2c of a level camera, angles in degrees."""
    azimuth, elevation = math.radians(azimuth), math.radians(elevation)
    away = torch.tensor(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)],
        dtype=torch.float64,
    )
    right = torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0], dtype=torch.float64)
    w2c = torch.eye(4, dtype=torch.float64)
    w2c[:3, :3] = torch.stack([right, torch.linalg.cross(-away, right), -away])
    w2c[2, 3] = distance
    return w2c


def random_gaussians(count: int, seed: int, opaque: bool = False) -> list[torch.Tensor]:
    """A cloud half a unit wide, long and round splats, some colours below 0, some opacities below 1/255 or above 0.99."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, 11, generator=generator, dtype=torch.float64)
    uniform = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    means, quats, colors = 0.5 * normal[:, :3], 2 * normal[:, 3:7], 0.4 + 0.5 * normal[:, 7:10]
    scales = 0.02 * 15 ** uniform[:, :3]
    opacities = 1 - 0.015 * uniform[:, 3] if opaque else 0.9 * uniform[:, 3] + 0.001
    return [means, quats, scales, opacities, colors]


def cameras(width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three views: one outside the cloud, one at its border, one inside with the principal point outside the image."""
    w2c = torch.stack([look_at_origin(10, 20, 2.7), look_at_origin(100, -30, 0.9), look_at_origin(200, 5, 0.4)])
    f = float(width)
    fxfycxcy = [[f, 1.1 * f, 0.5 * width, 0.5 * height], [0.6 * f, 0.5 * f, 0.2 * width, 0.9 * height], [f, f, -3, 30]]
    return w2c, torch.tensor(fxfycxcy, dtype=torch.float64)


def image_and_gradients(draw, gaussians, w2c, fxfycxcy, width, height, dtype=torch.float64, background=0.7):
    """rgb, alpha and the gradients of a fixed random weighting of both, as float64."""
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in gaussians]
    rgb, alpha = draw(*inputs, w2c, fxfycxcy, width, height, background)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(*alpha.shape, 4, generator=generator, dtype=torch.float64).to(dtype)
    ((rgb * weights[..., :3]).sum() + (alpha * weights[..., 3]).sum()).backward()
    named = {"rgb": rgb.detach(), "alpha": alpha.detach()} | {
        name: tensor.grad for name, tensor in zip(NAMES, inputs, strict=True)
    }
    return {name: tensor.double() for name, tensor in named.items()}


def assert_close(found, expected, tolerance):
    for name in expected:
        size = max(1.0, float(expected[name].abs().max()))
        assert float((found[name] - expected[name]).abs().max()) <= tolerance * size, name


@pytest.mark.parametrize(
    ("width", "height", "count", "opaque"),
    [(37, 29, 60, False), (16, 16, 40, True), (50, 41, 120, True), (9, 70, 100, False), (1, 1, 30, False)],
)
def test_image_and_gradients_are_those_of_the_dense_reference(width, height, count, opaque):
    gaussians, views = random_gaussians(count, seed=width, opaque=opaque), cameras(width, height)
    expected = image_and_gradients(rasterize_reference, gaussians, *views, width, height)
    assert_close(image_and_gradients(rasterize, gaussians, *views, width, height), expected, 1e-9)


def test_the_random_scenes_reach_every_branch_of_the_model():
    means, _, _, opacities, colors = random_gaussians(120, seed=50, opaque=True)
    w2c, fxfycxcy = cameras(50, 41)
    z = means @ w2c[2, 2, :3] + w2c[2, 2, 3]
    assert (z < 0).any() and ((z > 0) & (z < 0.2)).any() and ((z > 0.2) & (z < 0.3)).any()
    assert (opacities > 0.99).any() and (colors < 0).any()
    _, alpha = rasterize(*random_gaussians(120, seed=50, opaque=True), w2c, fxfycxcy, 50, 41)
    assert (alpha > 0.999).any() and (alpha < 1 - 1e-4 + 1e-12).all(), "pixels stop before transmittance 1e-4"
    assert (random_gaussians(100, seed=9)[3] < 1 / 255).any()


def test_gradients_are_those_of_finite_differences():
    means, quats, scales, opacities, colors = random_gaussians(3, seed=4)
    inputs = [0.2 * means, quats, 4 * scales, 0.5 + 0.3 * opacities, colors.abs() + 0.1]
    w2c, fxfycxcy = look_at_origin(30, 20, 2.7)[None], torch.tensor([[8.0, 8, 2.5, 2]], dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *gaussians: rasterize(*gaussians, w2c, fxfycxcy, 5, 4), inputs)


def test_float32_draws_the_float64_image():
    gaussians, (w2c, fxfycxcy) = random_gaussians(300, seed=7), cameras(64, 48)
    expected = image_and_gradients(rasterize, gaussians, w2c, fxfycxcy, 64, 48)
    found = image_and_gradients(rasterize, gaussians, w2c.float(), fxfycxcy.float(), 64, 48, torch.float32)
    assert ((found["rgb"] - expected["rgb"]).abs() < 1 / 255).double().mean() > 0.999
    for name in NAMES:
        assert torch.linalg.norm(found[name] - expected[name]) < 1e-3 * torch.linalg.norm(expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gaussians_are_drawn_in_float32(dtype):
    gaussians = [tensor.to(dtype).requires_grad_() for tensor in random_gaussians(20, seed=1)]
    rgb, _ = rasterize(*gaussians, *cameras(16, 16), 16, 16)
    same, _ = rasterize(*(tensor.float() for tensor in gaussians), *cameras(16, 16), 16, 16)
    rgb.sum().backward()
    assert rgb.dtype == torch.float32 and torch.equal(rgb, same)
    assert all(tensor.grad is not None and tensor.grad.dtype == dtype for tensor in gaussians)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_bitwise_equal_in_every_run_on_any_number_of_threads(dtype):
    gaussians, views = random_gaussians(400, seed=3), cameras(64, 64)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2, 2):
            torch.set_num_threads(count)
            runs.append(image_and_gradients(rasterize, gaussians, *views, 64, 64, dtype))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


def test_one_centred_round_gaussian_is_its_closed_form():
    distance, focal, scale, opacity, side = 2.7, 40.0, 0.25, 0.8, 33
    gaussian = [[[0.0, 0, 0]], [[1.0, 0, 0, 0]], [[scale] * 3], [opacity], [[0.9, 0.5, 0.1]]]
    gaussian = [torch.tensor(values, dtype=torch.float64) for values in gaussian]
    fxfycxcy = torch.tensor([[focal, focal, side / 2, side / 2]], dtype=torch.float64)
    rgb, alpha = rasterize(*gaussian, look_at_origin(45, 0, distance)[None], fxfycxcy, side, side, 0.2)

    offsets = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    variance = (focal * scale / distance) ** 2 + 0.3
    expected = opacity * torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * variance))
    expected = torch.where(expected >= 1 / 255, expected, 0)
    torch.testing.assert_close(alpha[0], expected, rtol=0, atol=1e-12)
    color = gaussian[4][0] * expected[..., None] + 0.2 * (1 - expected[..., None])
    torch.testing.assert_close(rgb[0], color, rtol=0, atol=1e-12)


def test_equal_depths_are_drawn_in_the_order_given():
    gaussians = [tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in random_gaussians(1, seed=2)]
    gaussians[3][:] = 0.9
    gaussians[4] = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    w2c, fxfycxcy = look_at_origin(0, 0, 2.7)[None], torch.tensor([[30.0, 30, 8, 8]])
    rgb, alpha = rasterize(*gaussians, w2c, fxfycxcy, 16, 16, 0.0)
    middle = alpha[0].argmax()
    assert rgb[0].reshape(-1, 3)[middle, 0] > 5 * rgb[0].reshape(-1, 3)[middle, 1]


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_in_view_is_background(count):
    gaussians = random_gaussians(count, seed=0)
    w2c, fxfycxcy = cameras(20, 10)
    w2c[:, 2, 3] = -5.0
    found = image_and_gradients(rasterize, gaussians, w2c, fxfycxcy, 20, 10, background=0.25)
    assert (found["rgb"] == 0.25).all() and (found["alpha"] == 0).all()
    assert all((found[name] == 0).all() and len(found[name]) == count for name in NAMES)


def test_views_drawn_together_are_the_views_drawn_alone():
    gaussians, (w2c, fxfycxcy) = random_gaussians(100, seed=5), cameras(30, 20)
    together, _ = rasterize(*gaussians, w2c, fxfycxcy, 30, 20)
    for view in range(3):
        alone, _ = rasterize(*gaussians, w2c[view : view + 1], fxfycxcy[view : view + 1], 30, 20)
        assert torch.equal(alone[0], together[view])


def test_strides_of_the_inputs_do_not_matter():
    gaussians, (w2c, fxfycxcy) = random_gaussians(50, seed=6), cameras(30, 20)
    strided = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in gaussians]
    turned = w2c.mT.contiguous().mT
    assert not strided[0].is_contiguous() and not turned.is_contiguous()
    expected = image_and_gradients(rasterize, gaussians, w2c, fxfycxcy, 30, 20)
    leaves = [tensor.requires_grad_() for tensor in strided]
    rgb, alpha = rasterize(*leaves, turned, fxfycxcy, 30, 20, 0.7)
    assert torch.equal(rgb, expected["rgb"]) and torch.equal(alpha, expected["alpha"])
    rgb.sum().backward()
    assert all(tensor.grad is not None for tensor in leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_gaussians_leave_the_image_and_gradients_finite(dtype):
    gaussians = random_gaussians(12, seed=8)
    means, quats, scales, opacities, _ = gaussians
    quats[0] = 0
    scales[1] = 0
    scales[2] = 1e30
    scales[3] = torch.tensor([1e4, 1e-9, 1e-9])
    means[4] = torch.tensor([1e30, 0, 0])
    means[5] = torch.nan
    scales[6] = torch.inf
    quats[7] = torch.nan
    opacities[8] = 0
    opacities[9] = torch.nan
    means[10] = look_at_origin(10, 20, 2.7)[:3, :3].T @ torch.tensor([0, 0, -2.7 + 0.2 + 1e-6], dtype=torch.float64)
    opacities[11] = 1
    found = image_and_gradients(rasterize, gaussians, *cameras(24, 24), 24, 24, dtype)
    assert all(torch.isfinite(tensor).all() for tensor in found.values())


def test_only_what_needs_a_gradient_gets_one():
    gaussians = random_gaussians(20, seed=1)
    gaussians[4].requires_grad_()
    rgb, _ = rasterize(*gaussians, *cameras(16, 16), 16, 16)
    rgb.mean().backward()
    assert gaussians[4].grad is not None and all(tensor.grad is None for tensor in gaussians[:4])


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("means", torch.zeros(5, 2), r"means has shape \(5, 2\), expected \(5, 3\)"),
        ("quats", torch.zeros(5, 3), r"quats has shape \(5, 3\), expected \(5, 4\)"),
        ("opacities", torch.zeros(5, 1), r"opacities has shape \(5, 1\), expected \(5,\)"),
        ("scales", torch.zeros(4, 3), r"scales has shape \(4, 3\), expected \(5, 3\)"),
        ("w2c", torch.eye(4), r"w2c has shape \(4, 4\), expected \(4, 4, 4\)"),
        ("fxfycxcy", torch.ones(2, 4), r"fxfycxcy has shape \(2, 4\), expected \(3, 4\)"),
        ("colors", torch.zeros(5, 3, dtype=torch.int64), "colors has dtype torch.int64"),
        ("means", torch.zeros(5, 3, device="meta"), "must be on one device.*'means': 'meta'"),
        ("w2c", torch.zeros(3, 4, 4, requires_grad=True), "w2c requires a gradient"),
        ("width", 0, "image is 0 x 8 px"),
    ],
)
def test_a_wrong_argument_is_named(argument, value, message):
    arguments = dict(zip([*NAMES, "w2c", "fxfycxcy"], [*random_gaussians(5, seed=0), *cameras(8, 8)], strict=True))
    arguments |= {"width": 8, "height": 8, argument: value}
    with pytest.raises(ValueError, match=message):
        rasterize(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat draws on CUDA devices only, and there is none here")
def test_gsplat_draws_the_same_on_cuda():
    if not (installed_gsplat() and (shipped() or built(device_archs()))):
        pytest.skip("gsplat is not compiled: mousefacelift gpu build")
    gaussians, (w2c, fxfycxcy) = random_gaussians(200, seed=11), cameras(64, 48)
    expected = image_and_gradients(rasterize, gaussians, w2c, fxfycxcy, 64, 48, torch.float32)

    def on_cuda(*arguments):
        moved = [value.cuda() if isinstance(value, torch.Tensor) else value for value in arguments]
        rgb, alpha = rasterize(*moved)
        return rgb.cpu(), alpha.cpu()

    found = image_and_gradients(on_cuda, gaussians, w2c.float(), fxfycxcy.float(), 64, 48, torch.float32)
    assert ((found["rgb"] - expected["rgb"]).abs() < 1 / 255).double().mean() > 0.999
    for name in NAMES:
        assert torch.linalg.norm(found[name] - expected[name]) < 0.01 * torch.linalg.norm(expected[name]), name


def test_more_tiles_than_gsplat_can_count_are_refused(monkeypatch):
    def rasterization(*_, viewmats, width, height, **__):
        drawn = torch.zeros(len(viewmats), height, width, 4)
        return drawn[..., :3], drawn[..., 3:], {"flatten_ids": range(2**31)}

    monkeypatch.setitem(sys.modules, "gsplat", types.SimpleNamespace(rasterization=rasterization))
    gaussians = (torch.zeros(5, 3), torch.ones(5, 4), torch.ones(5, 3), torch.ones(5), torch.ones(5, 3))
    with pytest.raises(UserError, match=r"2\.15e\+09 tiles in 2 views.*train\.rerender"):
        _gsplat(gaussians, torch.eye(4).repeat(2, 1, 1), torch.ones(2, 4), 8, 8, 1.0)


def test_without_gsplat_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("mousefacelift.gpu.extension.installed_gsplat", lambda: None)
    ready.cache_clear()
    with pytest.raises(UserError, match=r"needs gsplat, which is not installed: pip install"):
        ready(1)


def test_gsplat_is_asked_for_the_same_renderer(monkeypatch):
    """Without a GPU, what can be checked: the arguments, against gsplat 1.5.3's signature, and the shapes returned."""
    asked = {}

    def rasterization(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height,
        near_plane=0.01, eps2d=0.3, packed=True, backgrounds=None, rasterize_mode="classic",
    ):  # fmt: skip
        asked.update(locals())
        views = len(viewmats)
        return torch.zeros(views, height, width, 3), torch.ones(views, height, width, 1), {}

    monkeypatch.setitem(sys.modules, "gsplat", types.SimpleNamespace(rasterization=rasterization))
    gaussians = (torch.zeros(5, 3), torch.ones(5, 4), torch.ones(5, 3), torch.ones(5), torch.ones(5, 3))
    fxfycxcy = torch.tensor([[100.0, 110, 31, 17], [90, 91, 32, 16]])
    rgb, alpha = _gsplat(gaussians, torch.eye(4).repeat(2, 1, 1), fxfycxcy, 64, 32, 1.0)
    assert rgb.shape == (2, 32, 64, 3)
    assert alpha.shape == (2, 32, 64)
    assert asked["near_plane"] == 0.2
    assert asked["eps2d"] == 0.3
    assert asked["packed"] is False
    assert asked["rasterize_mode"] == "classic"
    assert (asked["backgrounds"] == 1).all()
    assert asked["Ks"][0].tolist() == [[100, 0, 31], [0, 110, 17], [0, 0, 1]]
