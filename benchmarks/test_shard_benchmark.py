"""Frame-views per CPU-second of stage 5 on the demo (crop to encoded tar and HDF5), and of stages 1 and 5 together.

    pytest benchmarks/test_shard_benchmark.py -s

Process time of all threads, so that other work on the machine matters little.
"""

import time
from statistics import median

import pytest

from mousefacelift.artifacts.samples import Samples
from mousefacelift.config.center import Center
from mousefacelift.config.config import Config
from mousefacelift.config.sample import SPLITS
from mousefacelift.config.shard import Shard
from mousefacelift.stages.center import center
from mousefacelift.stages.shard import shard
from support.rodent import demo_capture, run_stages

ROUNDS = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = Config.model_validate(
        {"center": {"chunk_frames": 200}, "normalize": {"zoom": "fit"}, "sample": {"gap_s": 0}}
    )
    return run_stages(demo_capture(), tmp_path_factory.mktemp("demo"), config)


@pytest.mark.parametrize("threads", [1, 2])
def test_shard_writes_a_hundred_frame_views_per_cpu_second(run, tmp_path, threads):
    views = 6 * len(Samples.read(run.folder / "samples.tsv").rows)
    chunk = run.folder / "center" / run.capture.name / "0000.h5"
    outputs = {split: (tmp_path / f"{split}.tar", tmp_path / f"{split}.h5") for split in SPLITS}
    stages = {
        "center": lambda: center(run.capture, 0, tmp_path / "0.h5", Center(chunk_frames=200), threads),
        "shard": lambda: shard(
            run.folder / "samples.tsv", chunk, run.folder / "cameras.h5", run.folder / "rig.json", 0, outputs, Shard(), threads
        ),
    }  # fmt: skip
    seconds = {name: [] for name in stages}
    for _ in range(ROUNDS):
        for name, stage in stages.items():
            begin = time.process_time()
            stage()
            seconds[name].append(time.process_time() - begin)
    per_view = {"center": median(seconds["center"]) / 1200, "shard": median(seconds["shard"]) / views}
    size = sum(path.stat().st_size for pair in outputs.values() for path in pair) / views
    print(
        f"\n{threads} threads: center {1 / per_view['center']:.0f}, shard {1 / per_view['shard']:.0f}, together "
        f"{1 / sum(per_view.values()):.0f} frame-views per CPU-s; {size / 1e3:.0f} kB per view in tar and HDF5"
    )
    assert 1 / per_view["shard"] >= 100
    assert 1 / sum(per_view.values()) >= 60
