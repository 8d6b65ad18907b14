"""CPU time of correcting one frame's silhouettes by the other cameras, on the demo: six views of 1152x1024 px.

OMP_NUM_THREADS=1 pytest benchmarks/test_refine_benchmark.py -s
"""

import time
from statistics import median

import cv2
import pytest

from mousefacelift.recordings.silhouettes.refine import refine_views
from support.maskdamage import demo_frames, demo_rig, holed, shadowed, wide, without_tail

ROUNDS = 5
WANTED = 40  # frames of one view per second of CPU time


@pytest.fixture(scope="module")
def frames():
    return demo_frames(range(0, 200, 10))


def damaged(frame):
    masks = [holed(wide(shadowed(mask, frame.number, v)), v) for v, mask in enumerate(frame.masks)]
    return [without_tail(masks[0]), *masks[1:]]


@pytest.mark.parametrize("masks_of", [lambda frame: frame.masks, damaged], ids=["true", "damaged"])
def test_forty_frames_of_a_view_take_at_most_a_second(frames, masks_of):
    rig, given = demo_rig(), [(frame.images, masks_of(frame)) for frame in frames]
    cv2.setNumThreads(1)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for images, masks in given:
            refine_views(images, masks, rig)
        rounds.append(len(given) * len(rig) / (time.process_time() - begin))
    print(
        f"\nrefine: {median(rounds):.0f} frames of one view per second of CPU "
        f"({len(given)} frames of {len(rig)} views; {ROUNDS} rounds: {min(rounds):.0f} to {max(rounds):.0f})"
    )
    assert median(rounds) >= WANTED
