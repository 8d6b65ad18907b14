"""Data sets' cameras for comparison: made, turned, rolled, and written as a calibration."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mousefacelift.comparison.measure import compare
from mousefacelift.comparison.sets import CameraSet, facelift_reference
from mousefacelift.geometry.camera import Camera
from mousefacelift.rigs.registry import write_rig
from support.balls import AZIMUTHS, ELEVATIONS, look_at_origin
from support.paths import SHARED

EXAMPLES = SHARED / "calibrations"
REFERENCE = facelift_reference()
SHOWN = ("samples", "azimuth: range", "subject: width of its silhouette / image width, mean (range)")  # not judged


def example(name):
    if not (EXAMPLES / name).exists():
        pytest.skip(f"the example calibrations beside the repository (../shared/calibrations/{name}) are missing")
    return str(EXAMPLES / name)


def cameras(c2w, focal=549.0, size=512, names=None, share=0.326, width=0.6):
    """A data set of level square views from poses [N, V, 4, 4], whose subjects have a share of the image and a width."""
    c2w = np.asarray(c2w, float)
    n, v = c2w.shape[:2]
    fxfycxcy = np.tile([focal, focal, size / 2, size / 2], (n, v, 1))
    names = names or tuple(f"cam{i}" for i in range(v))
    sizes, silhouettes = np.full((n, v, 2), float(size)), np.tile([share, width], (n, v, 1))
    return CameraSet("made", "test", "", names, c2w, fxfycxcy, sizes, silhouettes)


def ring(azimuths=AZIMUTHS, elevations=ELEVATIONS, distance=2.7):
    return [[look_at_origin(a, e, distance) for a, e in zip(azimuths, elevations, strict=True)]]


def turned(data, rotation):
    """The data set in a world turned by a scipy rotation."""
    M = np.eye(4)
    M[:3, :3] = rotation.as_matrix()
    return replace(data, c2w=M @ data.c2w)


def rolled(data, degrees, view=None):
    """The data set with one view, or all, rolled clockwise about the optical axis, as seen from behind the camera."""
    c2w = data.c2w.copy()
    roll = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    chosen = slice(None) if view is None else view
    c2w[:, chosen, :3, :3] = c2w[:, chosen, :3, :3] @ roll
    return replace(data, c2w=c2w)


def verdicts(a, b):
    return {row.quantity: row.verdict for row in compare(a, b).rows}


def differing(a, b):
    return {quantity.split(",")[0].split(":")[0] for quantity, verdict in verdicts(a, b).items() if verdict == "differ"}


def written_rig(folder, name="rig.json", centers=None, scale=1000.0):
    """A calibration in mm, an animal-sized rig that looks at its world's origin."""
    poses = np.array(ring())[0] if centers is None else np.array(centers)
    rig = tuple(
        Camera(f"cam{i}", 640, 480, np.array([[900.0, 0, 320], [0, 900, 240], [0, 0, 1]]), np.zeros(14),
               c2w[:3, :3].T, -c2w[:3, :3].T @ c2w[:3, 3] * scale / 2.7)
        for i, c2w in enumerate(poses)
    )  # fmt: skip
    write_rig(rig, folder / name, "opencv-json")
    return folder / name


BASE = cameras(ring())


def text(path, content):
    path.write_text(content)
    return path
