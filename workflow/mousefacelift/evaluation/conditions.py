"""Four camera conditions: the same images, with cameras that describe another world.

GS-LRM knows a camera by its rays in the world, so the same images mean something else to it in a world with another
origin, scale or up axis. `raw`, `z_up` and `y_up` describe one and the same scene; `facelift` contradicts the images.
"""

import numpy as np
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.evaluation.predict import Sample
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.views import (
    FACELIFT_ELEVATION,
    FACELIFT_FOCAL,
    FACELIFT_IMAGE_SIZE,
    MEAN_CAMERA_DISTANCE,
    azimuth_elevation,
    inverse_rigid,
    orbit,
    rigid,
)
from mousefacelift.training.data import Samples

CONDITIONS = {
    "raw": "the calibration's own world, scaled to a mean camera distance of 2.7",
    "z_up": "the shards' cameras: Z-up, mouse at the origin",
    "y_up": "the same, the world turned to Y-up",
    "facelift": "FaceLift's circle, imposed on the images",
}
Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # -90 degrees about X


def camera_conditions(sample: Sample, world_from_mm: Array) -> dict[str, Sample]:
    """One sample as each condition shows it to the model.

    Args:
        sample: as `Samples` gives it, in its Z-up world.
        world_from_mm: similarity [4, 4] from the calibration's millimetres to the sample's world.

    Returns:
        condition -> the sample with the same images and other c2w, w2c and fxfycxcy.
    """
    c2w = sample["c2w"].double().numpy()
    facelift, intrinsics = facelift_cameras(c2w, sample["image"].shape[-1])
    return {
        "raw": _posed(sample, raw_cameras(c2w, world_from_mm)),
        "z_up": sample,
        "y_up": _posed(sample, Y_UP_FROM_Z_UP @ c2w),
        "facelift": _posed(sample, facelift) | {"fxfycxcy": torch.from_numpy(intrinsics).float()},
    }


def raw_cameras(c2w: Array, world_from_mm: Array) -> Array:
    """Carry cameras back into the calibration's world, scaled about its origin to a mean camera distance of 2.7.

    A scale about the origin changes no pixel, so the images agree with these cameras as they do with the sample's.

    Args:
        c2w: camera to world [V, 4, 4], of the sample's Z-up world.
        world_from_mm: similarity [4, 4] from the calibration's millimetres to the sample's world.

    Returns:
        c2w [V, 4, 4] of the scaled calibration's world.
    """
    scale = np.cbrt(np.linalg.det(world_from_mm[:3, :3]))
    R_world = world_from_mm[:3, :3] / scale
    center_mm = (c2w[:, :3, 3] - world_from_mm[:3, 3]) @ R_world / scale
    unit = MEAN_CAMERA_DISTANCE / np.linalg.norm(center_mm, axis=-1).mean()
    return rigid(R_world.T @ c2w[:, :3, :3], unit * center_mm)


def facelift_cameras(c2w: Array, size: int) -> tuple[Array, Array]:
    """FaceLift's cameras for V views in their order.

    They stand at equal steps of azimuth, counter-clockwise from the first view's; at elevation 20 degrees and distance
    2.7; level, looking at the origin; with the focal length of the pretrained weights.

    Args:
        c2w: camera to world [V, 4, 4], Z-up, of which the first view's azimuth is kept.
        size: width and height of the images, px.

    Returns:
        c2w [V, 4, 4].
        fxfycxcy [V, 4] in px.
    """
    views = len(c2w)
    azimuth, _ = azimuth_elevation(c2w[0, :3, 3])
    c2w = orbit(azimuth + np.arange(views) * 360 / views, FACELIFT_ELEVATION)
    focal = FACELIFT_FOCAL * size / FACELIFT_IMAGE_SIZE
    intrinsics = np.tile([focal, focal, size / 2, size / 2], (views, 1))
    return c2w, intrinsics


def similarities(samples: Samples) -> Array:
    """The samples' similarities from the calibration's millimetres to their worlds.

    Returns:
        [N, 4, 4].

    Raises:
        UserError: for shards without them, and for matrices that are no similarities.
    """
    matrices = samples.field("world_from_mm", (4, 4))
    A = matrices[:, :3, :3]
    gram, determinant = np.swapaxes(A, -1, -2) @ A, np.linalg.det(A)
    squared = np.cbrt(determinant)[:, None, None] ** 2
    wrong = (determinant <= 0) | (np.abs(gram - squared * np.eye(3)) > 1e-6 * squared).any((-1, -2))
    wrong |= (matrices[:, 3] != [0, 0, 0, 1]).any(-1)
    if wrong.any():
        key = samples.keys[int(wrong.argmax())]
        raise UserError(
            f"sample {key}: world_from_mm is not a rotation, scale and shift; delete its shard and rerun the workflow"
        )
    return matrices


def _posed(sample: Sample, c2w: Array) -> Sample:
    """The sample with other cameras."""
    return sample | {"c2w": torch.from_numpy(c2w).float(), "w2c": torch.from_numpy(inverse_rigid(c2w)).float()}
