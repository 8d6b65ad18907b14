"""gsplat draws what our CPU rasteriser draws, except where alpha is clamped.

gsplat's kernels need a GPU. Here gsplat's own Python and its own projection run on the CPU, over plain versions of its
kernels (`support.gsplat_kernels`), and are called by the code that calls them on a GPU.
"""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from mousefacelift.models.gaussians import SH_C0, Gaussians, render
from mousefacelift.models.rasterize import api, reference
from mousefacelift.models.rasterize.api import rasterize
from support import gsplat_kernels

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed: pip install gsplat==1.5.3 packaging"
)

NAMES = ["means", "quats", "scales", "opacities", "colors"]
WIDTH, HEIGHT = 60, 44
FOCAL = 548.99 / 512 * WIDTH  # FaceLift's field of view


class OnGsplat:
    """In the place of `CpuRasterizer`: tensors on the CPU go where tensors on CUDA go."""

    @staticmethod
    def apply(width, height, background, w2c, fxfycxcy, *scene):
        dtype = scene[0].dtype
        return api._gsplat(scene, w2c.to(dtype), fxfycxcy.to(dtype), width, height, background)


@pytest.fixture
def draw_by_gsplat(monkeypatch):
    """`rasterize`, as on CUDA tensors."""

    def draw(*arguments):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "gsplat.cuda._backend", gsplat_kernels.backend())
            patch.setattr(api, "CpuRasterizer", OnGsplat)
            return rasterize(*arguments)

    # The backward pass calls gsplat's functions, too, after `draw` is over.
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", gsplat_kernels.backend())
    return draw


def cameras(distance: float = 2.7) -> tuple[torch.Tensor, torch.Tensor]:
    """w2c and fxfycxcy of three level cameras around the origin, one with its own focal lengths and principal point."""
    poses = []
    for azimuth, elevation in ((0.3, 0.4), (2.4, 0.1), (4.3, -0.3)):
        away = torch.tensor(
            [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
        ).double()
        right = torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0]).double()
        w2c = torch.eye(4, dtype=torch.float64)
        w2c[:3, :3] = torch.stack([right, torch.linalg.cross(-away, right), -away])
        w2c[2, 3] = distance
        poses.append(w2c)
    centred = [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
    off_centre = [0.8 * FOCAL, 1.1 * FOCAL, 0.35 * WIDTH, 0.7 * HEIGHT]
    return torch.stack(poses), torch.tensor([centred, off_centre, centred], dtype=torch.float64)


def gaussians(count: int, seed: int, spread, pixels: tuple[float, float], opacity: tuple[float, float]):
    """Gaussians on an ellipsoid's surface, thick by a tenth of its axes; anisotropic, quaternions of any length.

    Args:
        count: how many.
        seed: of the random numbers.
        spread: [3] semi-axes, world units.
        pixels: range of the standard deviations, in pixels at a distance of 2.7.
        opacity: range of the opacities.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, 11, generator=generator, dtype=torch.float64)
    uniform = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(normal[:, :3], dim=-1)
    means = directions * (0.9 + 0.2 * uniform[:, 4:]) * torch.tensor(spread, dtype=torch.float64)
    low, high = pixels
    scales = low * (high / low) ** uniform[:, :3] * 2.7 / FOCAL
    opacities = opacity[0] + (opacity[1] - opacity[0]) * uniform[:, 3]
    return [means, normal[:, 3:7] * 3 ** normal[:, 10:], scales, opacities, 0.5 + 0.5 * normal[:, 7:10]]


MOUSE = (0.4, 0.17, 0.14)  # semi-axes of a body, world units
SCENES = {
    "pixel-sized on a mouse": (gaussians(500, 0, MOUSE, (0.5, 1.7), (0.002, 0.98)), cameras()),
    "as training begins": (gaussians(250, 1, MOUSE, (6, 10), (0.11, 0.13)), cameras()),
    "large": (gaussians(100, 2, MOUSE, (1, 24), (0.1, 0.98)), cameras()),
    "needles": (gaussians(300, 3, MOUSE, (0.02, 12), (0.1, 0.98)), cameras()),
    "across the border and beyond it": (gaussians(300, 4, (2.2, 2.2, 1.6), (2, 20), (0.1, 0.98)), cameras()),
    "around the near plane": (gaussians(300, 5, (0.8, 0.8, 0.4), (0.5, 6), (0.1, 0.9)), cameras(0.5)),
}
OPAQUE = gaussians(100, 6, MOUSE, (3, 8), (0.999, 1.0)), cameras()


def image_and_gradients(draw, scene, views, dtype, background=1.0):
    """rgb, alpha and the gradients of a fixed random weighting of both, as float64."""
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in scene]
    rgb, alpha = draw(*inputs, *views, WIDTH, HEIGHT, background)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(*alpha.shape, 4, generator=generator).to(dtype)
    ((rgb * weights[..., :3]).sum() + (alpha * weights[..., 3]).sum()).backward()
    named = {"rgb": rgb.detach(), "alpha": alpha.detach()} | {
        name: tensor.grad for name, tensor in zip(NAMES, inputs, strict=True)
    }
    return {name: tensor.double() for name, tensor in named.items()}


def distance(found, expected) -> dict[str, float]:
    """Relative error of every gradient, in the Euclidean norm."""
    return {
        name: float(torch.linalg.norm(found[name] - expected[name]) / torch.linalg.norm(expected[name]))
        for name in NAMES
    }


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("include/Common.h", ["#define ALPHA_THRESHOLD (1.f / 255.f)"]),
        ("include/Utils.cuh", ["(width - cx) / fx + 0.3f * tan_fovx", "cy / fy + 0.3f * tan_fovy"]),
        ("csrc/ProjectionEWA3DGSFused.cu", ["float extend = 3.33f", "mean_c.z < near_plane", "numel() / (N * 3)"]),
        ("csrc/RasterizeToPixels3DGSFwd.cu", ["min(0.999f,", "next_T <= 1e-4f", "(float)j + 0.5f"]),
        ("csrc/RasterizeToPixels3DGSBwd.cu", ["opac * vis <= 0.999f", "T_final = 1.0f - render_alphas"]),
        ("csrc/IntersectTile.cu", ["iid_enc | (tile_id << 32) | depth_id_enc"]),
    ],
)
def test_the_installed_gsplat_has_the_rules_that_the_stand_in_follows(file, rules):
    folder = Path(importlib.util.find_spec("gsplat").origin).parent / "cuda"
    source = " ".join((folder / file).read_text().split())
    assert not [rule for rule in rules if rule not in source], "read the kernel again, and change the stand-in"


@pytest.mark.parametrize("name", SCENES)
def test_image_and_gradients_are_gsplats(draw_by_gsplat, name):
    scene, views = SCENES[name]
    expected = image_and_gradients(draw_by_gsplat, scene, views, torch.float64)
    for draw in (rasterize, reference.rasterize_reference):
        found = image_and_gradients(draw, scene, views, torch.float64)
        assert (found["rgb"] - expected["rgb"]).abs().max() < 1e-12
        assert (found["alpha"] - expected["alpha"]).abs().max() < 1e-7, "gsplat's alpha is always float32"
        assert max(distance(found, expected).values()) < 1e-10, distance(found, expected)


@pytest.mark.parametrize("name", SCENES)
def test_in_float32_pixels_agree_to_a_grey_level_and_gradients_to_a_thousandth(draw_by_gsplat, name):
    scene, views = SCENES[name]
    expected = image_and_gradients(draw_by_gsplat, scene, views, torch.float32)
    found = image_and_gradients(rasterize, scene, views, torch.float32)
    difference = (found["rgb"] - expected["rgb"]).abs()
    assert (difference < 1e-5).double().mean() > 0.999
    assert (difference < 1 / 255).double().mean() > 0.999
    assert max(distance(found, expected).values()) < 1e-3, distance(found, expected)


def test_gsplats_gradients_are_a_hundred_times_coarser_than_ours(draw_by_gsplat):
    """Its backward pass takes the last transmittance from 1 - alpha, whose rounding all Gaussians of a pixel share."""
    scene, views = SCENES["as training begins"]
    errors = []
    for draw in (rasterize, draw_by_gsplat):
        exact, rounded = (image_and_gradients(draw, scene, views, dtype) for dtype in (torch.float64, torch.float32))
        errors.append(max(distance(rounded, exact).values()))
    assert errors[0] < 1e-5 and 1e-5 < errors[1] < 1e-3


def splats(scene, views, view: int):
    """Of what is beyond the near plane: slopes [N, 2], centres [N, 2] and variances [N, 2] in px, and alpha [N, H, W]."""
    means, quats, scales, opacities, _ = scene
    w2c, lens = views[0][view], views[1][view]
    camera = means @ w2c[:3, :3].T + w2c[:3, 3]
    keep = camera[:, 2] > 0.2
    axes = reference.rotation_matrices(quats) * scales[:, None]
    centres, covariances, _ = reference.project(means[keep], (axes @ axes.mT)[keep], w2c, lens, WIDTH, HEIGHT)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    offsets = torch.stack([x, y], -1) - centres[:, None, None]
    density = torch.exp(-0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offsets, torch.linalg.inv(covariances), offsets))
    slopes = camera[keep, :2] / camera[keep, 2:]
    return slopes, centres, torch.diagonal(covariances, dim1=1, dim2=2), opacities[keep, None, None] * density


def test_the_scenes_reach_what_they_are_named_after():
    slopes, centres, _, alpha = splats(*SCENES["across the border and beyond it"], 1)
    fx, fy, cx, cy = cameras()[1][1]
    beyond = (centres < 0).any(-1) | (centres[:, 0] > WIDTH) | (centres[:, 1] > HEIGHT)
    held = (slopes[:, 0] < -(cx + 0.15 * WIDTH) / fx) | (slopes[:, 0] > (1.15 * WIDTH - cx) / fx)
    held |= (slopes[:, 1] < -(cy + 0.15 * HEIGHT) / fy) | (slopes[:, 1] > (1.15 * HEIGHT - cy) / fy)
    seen = alpha.amax((1, 2)) > 1 / 255
    assert (beyond & seen).sum() > 20 and (held & seen).sum() > 10, "the Jacobian's slope is clamped, and it shows"

    means, w2c = SCENES["around the near plane"][0][0], SCENES["around the near plane"][1][0]
    z = means @ w2c[:, 2, :3].T + w2c[:, 2, 3]
    assert (z < 0).any() and ((z > 0) & (z < 0.2)).any() and ((z > 0.2) & (z < 0.25)).any()

    _, _, variances, _ = splats(*SCENES["pixel-sized on a mouse"], 0)
    assert 0.8 < (variances - 0.3).sqrt().median() < 1.2, "px"
    lengths = torch.linalg.norm(SCENES["large"][0][1], dim=1)
    assert lengths.min() < 0.5 and lengths.max() > 10
    assert all((scene[4] > 1).any() and (scene[4] < 0).any() for scene, _ in SCENES.values())


def test_gsplat_differs_only_where_alpha_exceeds_0_99(draw_by_gsplat):
    """It clamps alpha at 0.999, so that a pixel whose transmittance is below 0.1 ends before an opaque Gaussian."""
    scene, views = OPAQUE
    found, expected = (draw(*scene, *views, WIDTH, HEIGHT) for draw in (rasterize, draw_by_gsplat))
    difference = (found[0] - expected[0]).abs().amax(-1)
    clamped = torch.stack([(splats(scene, views, view)[3] > 0.99).any(0) for view in range(3)])
    assert 0.01 < clamped.double().mean() < 0.5
    assert difference[~clamped].max() < 1e-12
    assert 0.01 < difference.max() < 0.1 * max(1.0, scene[4].max()), "a tenth of the range of colours"
    assert (found[1] - expected[1]).abs().max() < 0.1


def on_the_axis(opacities, shades):
    """Round Gaussians of 10 px behind one another on the axis of one camera, seen by the pixel in the centre."""
    w2c, fxfycxcy = (tensor[:1] for tensor in cameras())
    count = len(opacities)
    means = -0.1 * torch.arange(count, dtype=torch.float64)[:, None] * -w2c[0, 2, :3]
    quats = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(count, 1)
    scales = torch.full((count, 3), 10 * 2.7 / FOCAL, dtype=torch.float64)
    colors = torch.tensor(shades, dtype=torch.float64)[:, None].repeat(1, 3)
    fxfycxcy = fxfycxcy + torch.tensor([0, 0, 0.5, 0.5])
    return [means, quats, scales, torch.tensor(opacities, dtype=torch.float64), colors], (w2c, fxfycxcy)


@pytest.mark.parametrize(
    ("opacities", "ours", "gsplats"),
    [
        ([0.98], 0.02, 0.02),
        ([1.0], 0.01, 0.001),
        ([1.0, 1.0], 0.0001, 0.001),
        ([0.89, 1.0], 0.0011, 0.00011),
        ([0.91, 1.0], 0.0009, 0.09),  # 0.09 * 0.001 is below 1e-4: the opaque one is not drawn
        ([0.995, 0.98], 0.0002, 0.005 * 0.02),
    ],
)
def test_how_much_of_a_white_background_shines_through_black_gaussians(draw_by_gsplat, opacities, ours, gsplats):
    scene, views = on_the_axis(opacities, [0.0] * len(opacities))
    for draw, expected in ((rasterize, ours), (draw_by_gsplat, gsplats)):
        rgb, alpha = draw(*scene, *views, WIDTH, HEIGHT)
        row, column = HEIGHT // 2, WIDTH // 2
        assert float(rgb[0, row, column, 0]) == pytest.approx(expected, abs=1e-9)
        assert 1 - float(alpha[0, row, column]) == pytest.approx(expected, abs=1e-6)


def test_an_opaque_mouse_of_small_gaussians_is_gsplats(draw_by_gsplat):
    """Alpha exceeds 0.99 within a seventh of a standard deviation of a centre, where few pixels of a real scene are."""
    scene, views = gaussians(500, 7, MOUSE, (0.5, 2), (0.99, 1.0)), cameras()
    found, expected = (draw(*scene, *views, WIDTH, HEIGHT) for draw in (rasterize, draw_by_gsplat))
    difference = (found[0] - expected[0]).abs()
    assert (found[1] > 0.99).double().mean() > 0.03
    assert (difference < 1 / 255).double().mean() > 0.999


def test_equal_depths_are_drawn_in_the_order_given_by_both(draw_by_gsplat):
    scene = [torch.cat([tensor, tensor]) for tensor in gaussians(40, 8, MOUSE, (1, 6), (0.3, 0.9))]
    scene[4] = scene[4].flip(0)
    found, expected = (
        image_and_gradients(draw, scene, cameras(), torch.float32) for draw in (rasterize, draw_by_gsplat)
    )
    assert (found["rgb"] - expected["rgb"]).abs().max() < 1e-5
    assert max(distance(found, expected).values()) < 1e-3


@pytest.mark.parametrize("w2c_z", [-3.0, 0.1])
def test_if_nothing_is_drawn_the_image_is_the_background_and_gradients_are_0(draw_by_gsplat, w2c_z):
    w2c, fxfycxcy = cameras()
    w2c[:, 2, 3] = w2c_z
    scene = gaussians(20, 9, (0.05, 0.05, 0.05), (0.5, 2), (0.5, 0.9))
    found = image_and_gradients(draw_by_gsplat, scene, (w2c, fxfycxcy), torch.float32, background=0.7)
    assert (found["rgb"] == torch.tensor(0.7, dtype=torch.float32).double()).all() and (found["alpha"] == 0).all()
    assert all((found[name] == 0).all() for name in NAMES)


def test_what_needs_a_gradient_gets_it_in_its_own_dtype(draw_by_gsplat):
    scene = [tensor.bfloat16() for tensor in SCENES["large"][0]]
    for wanted in ([True] * 5, [False] * 4 + [True], [True, False, False, False, False]):
        leaves = [tensor.clone().requires_grad_(needs) for tensor, needs in zip(scene, wanted, strict=True)]
        rgb, alpha = draw_by_gsplat(*leaves, *cameras(), WIDTH, HEIGHT)
        assert rgb.dtype == alpha.dtype == torch.float32
        (rgb.sum() + alpha.sum()).backward()
        assert [tensor.grad is not None for tensor in leaves] == wanted
        assert all(tensor.grad.dtype == torch.bfloat16 for tensor in leaves if tensor.requires_grad)


def test_autocast_does_not_reach_gsplat(draw_by_gsplat):
    scene, views = SCENES["large"]
    scene = [tensor.float() for tensor in scene]
    expected = draw_by_gsplat(*scene, *views, WIDTH, HEIGHT)
    with torch.autocast("cpu", torch.bfloat16):
        found = draw_by_gsplat(*scene, *views, WIDTH, HEIGHT)
        direct = api._gsplat(tuple(scene), views[0].float(), views[1].float(), WIDTH, HEIGHT, 1.0)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not torch.equal(direct[0], expected[0]), "without `rasterize`, which ends autocast, this test would see it"


def test_strides_of_the_inputs_do_not_matter_to_gsplat(draw_by_gsplat):
    scene, (w2c, fxfycxcy) = SCENES["large"]
    expected = image_and_gradients(draw_by_gsplat, scene, (w2c, fxfycxcy), torch.float32)
    turned = w2c.mT.contiguous().mT
    leaves = [torch.stack([tensor.float()] * 2, -1)[..., 0].requires_grad_() for tensor in scene]
    assert not turned.is_contiguous() and not leaves[0].is_contiguous()
    rgb, alpha = draw_by_gsplat(*leaves, turned, fxfycxcy, WIDTH, HEIGHT)
    (rgb.movedim(-1, 1).contiguous().square().sum() + alpha.sum()).backward()
    assert torch.equal(rgb.double(), expected["rgb"]) and all(tensor.grad is not None for tensor in leaves)


def test_views_drawn_again_in_the_backward_pass_give_the_same_gradients(draw_by_gsplat, monkeypatch):
    """`rerender` draws each view alone, and a second time from the backward pass."""
    monkeypatch.setattr(api, "rasterize", draw_by_gsplat)
    scene, (w2c, fxfycxcy) = SCENES["large"]
    raw = {
        "xyz": scene[0], "features": (scene[4] - 0.5)[:, None] / SH_C0, "scaling": scene[2].log(),
        "rotation": scene[1], "opacity": torch.logit(scene[3])[:, None],
    }  # fmt: skip
    gradients = []
    for rerender in (False, True):
        leaves = {name: tensor.float()[None].requires_grad_() for name, tensor in raw.items()}
        rgb, alpha = render(Gaussians(**leaves), w2c[None].float(), fxfycxcy[None].float(), WIDTH, HEIGHT, rerender)
        (rgb.square().sum() + alpha.sum()).backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    for together, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4 * float(together.abs().max()))


def test_no_gaussians_at_all_are_a_background(draw_by_gsplat):
    scene = [tensor[:0] for tensor in SCENES["large"][0]]
    rgb, alpha = draw_by_gsplat(*scene, *cameras(), WIDTH, HEIGHT)
    assert (rgb == 1).all() and (alpha == 0).all()
