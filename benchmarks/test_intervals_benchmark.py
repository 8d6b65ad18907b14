"""Time of the intervals inside the hull: samples of the demo, five input views of each.

    OMP_NUM_THREADS=1 pytest benchmarks/test_intervals_benchmark.py -s

On the CPU one thread. On a GPU, if there is one, also the memory, and whether both give the same.
"""

from itertools import cycle

import cv2
import pytest
import torch

from measuring import Clock, summary
from mousefacelift.config.config import Config
from mousefacelift.models.hull.api import intervals
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.data import Samples
from support.rodent import demo_capture, run_stages

ROUNDS = 40
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    settings = {"center": {"stride": 20}, "normalize": {"zoom": "fit"}, "sample": {"gap_s": 0}}
    run = run_stages(demo_capture(), tmp_path_factory.mktemp("demo"), Config.model_validate(settings))
    return read_manifest(run.folder / "shard" / "manifest.json")


def given(manifest, size, device):
    """alpha, c2w, w2c and fxfycxcy [1, 5, ...] of every training sample."""
    samples = Samples(manifest, "train", size, 0)
    names = ("alpha", "c2w", "w2c", "fxfycxcy")
    return [[samples[i][name][None, :5].to(device) for name in names] for i in range(len(samples))]


def seconds(samples, device):
    """Median time of a sample and half the distance between the quartiles."""
    queue = cycle(samples)
    return summary(Clock(device).times(lambda: intervals(*next(queue)), ROUNDS, 2))


def test_the_intervals_of_a_sample_take_at_most_15_ms_on_one_core(manifest):
    cv2.setNumThreads(1)
    samples = given(manifest, 128, CPU)
    middle, spread = seconds(samples, CPU)
    print(f"\nintervals of 5 x 128 px: {1e3 * middle:.1f} ± {1e3 * spread:.1f} ms ({len(samples)} samples)")
    assert middle <= 0.015


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("size", [128, 512])
def test_a_gpu_needs_little_memory_for_the_same_intervals(manifest, size):
    samples = given(manifest, size, GPU)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    middle, spread = seconds(samples, GPU)
    memory = torch.cuda.max_memory_allocated() - before
    print(
        f"\nintervals of 5 x {size} px on a GPU: {1e3 * middle:.2f} ± {1e3 * spread:.2f} ms, {memory / 2**20:.0f} MiB"
    )
    assert memory < 2**30
    for sample in samples:
        found, expected = intervals(*sample), intervals(*(tensor.cpu() for tensor in sample))
        both = found[2].cpu() & expected[2]
        step = (sample[1][..., :3, 3].norm(dim=-1) / sample[3][..., 0]).min() / 2
        agreed = [
            (one.cpu() - other).abs()[both] <= step.cpu() for one, other in zip(found[:2], expected[:2], strict=True)
        ]
        assert (found[2].cpu() == expected[2]).float().mean() > 0.9999
        assert torch.stack(agreed).float().mean() > 0.999
