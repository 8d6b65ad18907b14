"""Frame-views per CPU-second of stage 1 on the demo with its masks, beside decoding video and mask alone.

    pytest benchmarks/test_center_benchmark.py -s

Process time of all threads, so that other work on the machine matters little; the ratio of the two is of one run.
"""

import time
from statistics import median

import h5py
import numpy as np
import pytest

from mousefacelift.config.center import Center
from mousefacelift.recordings.video import read_frames
from mousefacelift.stages.center import center
from support.rodent import demo_capture

SETTINGS = Center(chunk_frames=200)
FRAMES = range(200)
ROUNDS = 5


def decode():
    capture = demo_capture()
    for path in (*capture.videos, *capture.masks):
        assert sum(1 for _ in read_frames(path, FRAMES, "benchmark")) == len(FRAMES)


@pytest.mark.parametrize("threads", [1, 2])
def test_center_takes_at_most_two_and_a_half_times_the_decoding(tmp_path, threads):
    work = {"decode": decode, "center": lambda: center(demo_capture(), 0, tmp_path / "0.h5", SETTINGS, threads)}
    seconds = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, run in work.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    with h5py.File(tmp_path / "0.h5") as file:
        views = np.prod(file["flags"].shape)
    rate = {name: views / median(values) for name, values in seconds.items()}
    ratio = median(d / c for d, c in zip(seconds["decode"], seconds["center"], strict=True))
    size = (tmp_path / "0.h5").stat().st_size / views / 1e3
    print(
        f"\n{threads} threads: decode {rate['decode']:.0f}, center {rate['center']:.0f} frame-views per CPU-s, ratio {ratio:.2f}, {size:.0f} kB each"
    )
    assert rate["center"] >= 100
    assert ratio >= 0.4
