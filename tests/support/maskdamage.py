"""What goes wrong with masks, done to the demo's true ones: too wide, too narrow, shadows, holes, lost tails."""

from dataclasses import dataclass

import cv2
import numpy as np

from mousefacelift.recordings.recording import read_capture_rig
from mousefacelift.recordings.video import read_frames
from support.rodent import demo_capture, ground_truth, project_raw

SHADOW_MM = (30.0, 15.0)  # its length and width


@dataclass(frozen=True)
class DemoFrame:
    """One frame of the demo in its V views: images [H, W, 3] RGB, true masks [H, W] of 0 and 255."""

    number: int
    images: list[np.ndarray]
    masks: list[np.ndarray]


def demo_frames(numbers: range) -> list[DemoFrame]:
    demo = demo_capture()
    images = [[frame.rgb() for _, frame in read_frames(video, numbers, "demo")] for video in demo.videos]
    masks = [[frame.gray().copy() for _, frame in read_frames(mask, numbers, "demo")] for mask in demo.masks]
    rows = zip(numbers, zip(*images, strict=True), zip(*masks, strict=True), strict=True)
    return [DemoFrame(number, list(each), list(true)) for number, each, true in rows]


def demo_rig():
    return read_capture_rig(demo_capture())


def disc(radius: int):
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def wide(mask, px: int = 3):
    return cv2.dilate(mask, disc(px))


def narrow(mask, px: int = 3):
    return cv2.erode(mask, disc(px))


def blurred(mask):
    return np.where(cv2.GaussianBlur(mask, (0, 0), 1) > 127, np.uint8(255), np.uint8(0))


def holed(mask, seed: int, count: int = 5):
    """Discs of 6 to 10 px radius are missing, anywhere in the mouse."""
    rng, result = np.random.default_rng(seed), mask.copy()
    rows, columns = np.nonzero(mask)
    for k in rng.integers(len(rows), size=count):
        cv2.circle(result, (int(columns[k]), int(rows[k])), int(rng.integers(6, 11)), 0, -1)
    return result


def without_tail(mask, px: int = 9):
    """Thin parts are missing: tail, toes, and the tips of the fur."""
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc(px))


def shadowed(mask, number: int, view: int):
    """An ellipse on the floor, along the body and half under its side, is taken for the mouse."""
    truth = ground_truth()
    middle, skin = truth["center"][number, :2], truth["vertices"][number, :, :2]
    along = np.linalg.svd(skin - skin.mean(axis=0), full_matrices=False)[2][0]
    across = np.array([-along[1], along[0]])
    place = middle + across * (np.percentile((skin - middle) @ across, 95) + 5)
    turn = np.arange(64) * 2 * np.pi / 64
    half_length, half_width = (side / 2 for side in SHADOW_MM)
    ellipse = place + np.outer(half_length * np.cos(turn), along) + np.outer(half_width * np.sin(turn), across)
    polygon = project_raw(np.column_stack([ellipse, np.zeros(64)]), view)
    return cv2.fillPoly(mask.copy(), [np.rint(polygon).astype(np.int32)], 255)


def iou(mask, true) -> float:
    return np.count_nonzero((mask > 127) & (true > 127)) / np.count_nonzero((mask > 127) | (true > 127))
