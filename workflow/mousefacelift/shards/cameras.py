"""What the cameras of a shard must be."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError

MAX_TILT = np.sin(np.deg2rad(5))  # of a view's horizontal against the world's
MAX_OFF_AXIS = np.cos(np.deg2rad(5))  # between the optical axis and the direction to the origin


def check_cameras(c2w: NDArray[Any], fxfycxcy: NDArray[Any], names: list[str]) -> None:
    """Raise UserError, naming the first sample and view, unless all cameras are what GS-LRM was trained on.

    Cameras must be finite and rigid, with positive focal lengths; they must look at the world's origin and be level, with
    +Z up in the image. A world with another up axis is refused, not turned by a guess: the weights are Z-up.

    Args:
        c2w: [N, V, 4, 4].
        fxfycxcy: [N, V, 4], px.
        names: of the N samples, for the message.
    """
    R, center = c2w[..., :3, :3], c2w[..., :3, 3]
    right, down, axis = R[..., 0], R[..., 1], R[..., 2]
    with np.errstate(all="ignore"):
        toward = -center / np.linalg.norm(center, axis=-1, keepdims=True)
        finite = np.isfinite(c2w).all((-1, -2)) & np.isfinite(fxfycxcy).all(-1)
        orthonormal = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max((-1, -2)) < 1e-4
        problems = {
            "is not finite": ~finite,
            "is not a rigid pose (rotation without mirroring or scale, last row 0 0 0 1)": ~(
                orthonormal & (np.linalg.det(R) > 0) & (np.abs(c2w[..., 3, :] - [0, 0, 0, 1]).max(-1) < 1e-6)
            ),
            "has a focal length that is not positive": ~(fxfycxcy[..., :2] > 0).all(-1),
            "does not look at the world's origin, where the mouse should be": ~((axis * toward).sum(-1) > MAX_OFF_AXIS),
            "is not level with +Z up: rotate the world to Z-up and level the views (`normalize` does both)": ~(
                (np.abs(right[..., 2]) < MAX_TILT) & (down[..., 2] < 1e-6)
            ),
        }
    for problem, wrong in problems.items():
        if wrong.any():
            sample, view = np.argwhere(wrong)[0]
            raise UserError(
                f"{names[sample]}: the camera of view {view} {problem} ({wrong.sum()} of {wrong.size} views)"
            )
