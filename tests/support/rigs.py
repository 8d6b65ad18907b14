"""A known rig in OpenCV's conventions, and the cameras that a reader must make of it."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from mousefacelift.geometry.camera import Camera, pad_distortion


@dataclass(frozen=True)
class Truth:
    """One camera with OpenCV's conventions: first pixel's centre at (0, 0), nothing transposed, millimetres."""

    name: str
    size: tuple[int, int]
    K: np.ndarray
    dist: np.ndarray
    R: np.ndarray
    t: np.ndarray


def rig(names=("cam_1", "cam_2", "cam_10", "cam_3"), skew=True, dist=True, seed=4):
    """Cameras around the origin, about 300 mm away, in which no two numbers agree."""
    random = np.random.default_rng(seed)
    truths = []
    for i, name in enumerate(names):
        azimuth, elevation, distance = (
            2 * np.pi * (i + 0.1) / len(names),
            random.uniform(0.2, 0.9),
            random.uniform(250, 420),
        )
        center = distance * np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        )
        forward = random.normal(0, 8, 3) - center
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        R = cv2.Rodrigues(random.normal(0, 0.05, 3))[0] @ R
        fx, fy = random.uniform(1500, 1700, 2)
        cx, cy = random.uniform(550, 620), random.uniform(440, 520)
        K = np.array([[fx, random.uniform(2, 6) if skew else 0, cx], [0, fy, cy], [0, 0, 1]])
        coefficients = random.normal(0, [0.1, 0.2, 0.003, 0.003, 0.5]) if dist else np.zeros(5)
        truths.append(Truth(name, (1152 + 2 * i, 1024 - 2 * i), K, coefficients, R, -R @ center))
    return truths


def expected(truth, size=True):
    """The camera that a reader must make of it."""
    width, height = truth.size if size else (0, 0)
    K = truth.K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    return Camera(truth.name, width, height, K, pad_distortion(truth.dist), truth.R, truth.t)


PLAIN = tuple(expected(truth) for truth in rig(skew=False, dist=False))
"""A rig without skew and distortion."""
SIZE = PLAIN[0].width, PLAIN[0].height
CORNER = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
"""What intrinsics gain by moving the origin from the first pixel's centre to its corner."""


def renamed(truths, names):
    return [replace(truth, name=name) for truth, name in zip(truths, names, strict=True)]


def by_name(cameras):
    return {camera.name: camera for camera in cameras}


def assert_same_rig(found, wanted, atol=1e-9):
    assert [c.name for c in found] == [c.name for c in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert (a.width, a.height, a.fisheye) == (b.width, b.height, b.fisheye)
        for name in ("K", "dist", "R", "t"):
            np.testing.assert_allclose(
                getattr(a, name), getattr(b, name), rtol=0, atol=atol, err_msg=f"{a.name}: {name}"
            )
