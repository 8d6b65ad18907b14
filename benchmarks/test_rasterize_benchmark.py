"""Time of the CPU rasteriser on scenes like those of GS-LRM.

    pytest benchmarks/test_rasterize_benchmark.py --benchmark-columns=min,median,rounds

Two threads.
"""

import resource

import pytest
import torch

from mousefacelift.models.rasterize.api import rasterize
from scenes import pixel_aligned_scene


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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
