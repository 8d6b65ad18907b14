"""CPU time of one frame's visual hull on the demo: six silhouettes of 1152x1024 frames, voxels of the default size.

OMP_NUM_THREADS=1 pytest benchmarks/test_hull_benchmark.py -s
"""

import time
from statistics import median

import cv2
import h5py
import numpy as np

from mousefacelift.config.cameras import Cameras
from mousefacelift.config.center import Center
from mousefacelift.geometry.hull import outline_radius, visual_hull
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.shards.images import decode_crop
from mousefacelift.stages.cameras import cameras
from mousefacelift.stages.center import center
from support.rodent import demo_capture

ROUNDS = 5


def test_a_hull_takes_at_most_15_ms(tmp_path):
    center(demo_capture(), 0, tmp_path / "0000.h5", Center(chunk_frames=200, stride=4), 2)
    cameras(demo_capture(), [tmp_path / "0000.h5"], tmp_path, Cameras())
    rig = rig_from_json(tmp_path / "rig.json")
    with h5py.File(tmp_path / "subject.h5") as file:
        start, rays = file["triangulated_mm"][()], file["outline_rays"][()]
    radius = outline_radius(rig, start, rays)
    with h5py.File(tmp_path / "0000.h5") as file:
        window, crops = file["window"][()], file["crop_zstd"][()]
    frames = [
        [
            (np.ascontiguousarray(decode_crop(crop, w[2:], "benchmark")[..., 3]), w)
            for crop, w in zip(*frame, strict=True)
        ]
        for frame in zip(crops, window, strict=True)
    ]
    cv2.setNumThreads(1)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for n, silhouettes in enumerate(frames):
            visual_hull(silhouettes, rig, start[n], float(radius[n]), Cameras().voxel_mm)
        rounds.append((time.process_time() - begin) / len(frames))
    print(
        f"\nhull: {1e3 * median(rounds):.1f} ms of CPU per frame (of {len(frames)} frames; {ROUNDS} rounds: {1e3 * min(rounds):.1f} to {1e3 * max(rounds):.1f})"
    )
    assert median(rounds) <= 0.015
