"""What is looked at alike in a tar and in an HDF5 file: one sample's pixels, cameras and numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.shards.cameras import check_cameras
from mousefacelift.shards.images import Image
from mousefacelift.shards.manifest import Kind
from mousefacelift.shards.verify.problems import Examination


def check_white(shard: Examination, kind: Kind, key: str, view: int, image: Image) -> None:
    """Says of an image [S, S, 4] RGBA how many pixels are not white although alpha is 0."""
    pixels = np.ascontiguousarray(image).view("<u4")  # alpha is the highest byte
    wrong = (pixels < 1 << 24) & (pixels != (1 << 24) - 1)
    if wrong.any():
        shard.say(kind, key, f"cam{view}: {wrong.sum()} of {wrong.size} pixels are not white although alpha is 0")


def check_sample_cameras(
    shard: Examination, kind: Kind, key: str, c2w: NDArray[Any], fxfycxcy: NDArray[Any]
) -> None:  # fmt: skip
    """Says if the cameras of a sample are not what GS-LRM was trained on. c2w [V, 4, 4], fxfycxcy [V, 4]."""
    try:
        check_cameras(c2w[None], fxfycxcy[None], [""])
    except UserError as error:
        shard.say(kind, key, str(error).removeprefix(": "))


def is_count(value: Any) -> bool:
    """Whether a value of a JSON is a whole number that HDF5 can hold, from 0 on."""
    return type(value) is int and 0 <= value < 1 << 63


def is_matrix(value: Any) -> bool:
    """Whether a value of a JSON is 4 x 4 finite numbers."""
    try:
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return False
    return matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())
