"""Lossless encoding of RGBA images."""

import cv2
import numpy as np
from numpy.typing import NDArray


def encode_png(rgba: NDArray[np.uint8], level: int) -> bytes:
    """PNG file of an image [h, w, 4] at a zlib level; nothing for an image without pixels.

    Filters are off: on a mouse before nothing they cost three times the time and save under a tenth of the bytes.
    """
    if rgba.size == 0:
        return b""
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), options)[1].tobytes()


def decode_png(png: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image [h, w, 4] RGBA of a PNG file's bytes [n]. Raises ValueError if they are no such file."""
    image = cv2.imdecode(png, cv2.IMREAD_UNCHANGED) if png.size else None
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        raise ValueError("not a PNG file of an RGBA image")
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
