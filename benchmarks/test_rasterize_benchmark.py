"""Time of the CPU rasteriser on scenes like those of GS-LRM.

    pytest benchmarks/test_rasterize.py --benchmark-columns=min,median,rounds

Two threads. "initial" is GS-LRM before training: every opacity 0.12, standard deviations of 1 to 4 px. "trained" has its
Gaussians on a mouse-sized body, a fair part of them opaque, and those of background pixels nearly transparent.
"""

import math
import resource

import numba
import pytest
import torch

from mousefacelift.rasterize import rasterize

DISTANCE = 2.7
BODY = torch.tensor([0.30, 0.16, 0.14])
"""Half axes of the body in world units; at a focal length of 4 image sides its length fills 9/10 of the width."""


def look_at_origin(azimuth: float, elevation: float) -> torch.Tensor:
    azimuth, elevation = math.radians(azimuth), math.radians(elevation)
    away = torch.tensor(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    right = torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0])
    w2c = torch.eye(4)
    w2c[:3, :3] = torch.stack([right, torch.linalg.cross(-away, right), -away])
    w2c[2, 3] = DISTANCE
    return w2c


def pixel_aligned_scene(kind: str, side: int, inputs: int, views: int) -> list[torch.Tensor]:
    """One Gaussian per pixel of `inputs` images, and the first `views` of six cameras: arguments of `rasterize`."""
    generator = torch.Generator().manual_seed(0)
    w2c = torch.stack([look_at_origin(60 * view, 20 + 15 * (view % 2)) for view in range(6)])
    focal = 4.0 * side
    ticks = (torch.arange(side) + 0.5 - side / 2) / focal
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3), dim=-1)
    means, on_body = [], []
    for pose in w2c[:inputs]:
        directions, origin = rays @ pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
        a, b = ((directions / BODY) ** 2).sum(-1), (directions * origin / BODY**2).sum(-1)
        under_root = b**2 - a * (((origin / BODY) ** 2).sum() - 1)
        hit = under_root > 0
        depth = torch.where(hit, (-b - under_root.clamp_min(0).sqrt()) / a, DISTANCE)
        depth += 0.02 * torch.randn(depth.shape, generator=generator)
        means.append(origin + directions * depth[:, None])
        on_body.append(hit)
    means, on_body = torch.cat(means), torch.cat(on_body)
    spread, logits = torch.randn(len(means), 3, generator=generator), torch.randn(len(means), generator=generator)
    pixel = DISTANCE / focal
    if kind == "initial":
        scales, opacities = pixel * 2 * torch.exp(0.35 * spread), torch.full_like(logits, 0.12)
    else:
        scales = pixel * 0.8 * torch.exp(0.4 * spread)
        opacities = torch.sigmoid(torch.where(on_body, 1 + 1.5 * logits, logits - 5.5))
    quats, colors = torch.randn(len(means), 4, generator=generator), torch.rand(len(means), 3, generator=generator)
    fxfycxcy = torch.tensor([focal, focal, side / 2, side / 2]).expand(views, 4)
    return [means, quats, scales, opacities, colors, w2c[:views], fxfycxcy]


@pytest.fixture(autouse=True)
def two_threads():
    before = numba.get_num_threads()
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    yield
    numba.set_num_threads(before)


WORKLOADS = [
    pytest.param(128, 6, 1, id="98k_gaussians_128px_1_view"),
    pytest.param(64, 5, 6, id="20k_gaussians_64px_6_views"),
]


@pytest.mark.parametrize("kind", ["initial", "trained"])
@pytest.mark.parametrize(("side", "inputs", "views"), WORKLOADS)
def test_forward(benchmark, side, inputs, views, kind):
    scene = pixel_aligned_scene(kind, side, inputs, views)
    benchmark.pedantic(rasterize, (*scene, side, side), rounds=40, warmup_rounds=3)


@pytest.mark.parametrize("kind", ["initial", "trained"])
@pytest.mark.parametrize(("side", "inputs", "views"), WORKLOADS)
def test_backward(benchmark, side, inputs, views, kind):
    scene = pixel_aligned_scene(kind, side, inputs, views)
    gaussians = [tensor.requires_grad_() for tensor in scene[:5]]
    weights = torch.randn(views, side, side, 3, generator=torch.Generator().manual_seed(1))

    def draw():
        rgb, _ = rasterize(*gaussians, *scene[5:], side, side)
        return (rgb,), {}

    def differentiate(rgb):
        torch.autograd.grad(rgb, gaussians, weights)

    benchmark.pedantic(differentiate, setup=draw, rounds=40, warmup_rounds=3)


def test_forward_of_a_full_size_sample(benchmark):
    scene = pixel_aligned_scene("trained", 512, 6, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        benchmark.pedantic(rasterize, (*scene, 512, 512), rounds=4, warmup_rounds=1)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    benchmark.extra_info["peak memory, MB"] = round(grown)
    assert grown < 400
