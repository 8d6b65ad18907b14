"""Lossless encoding of RGBA images."""

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from mousefacelift.errors import UserError


def encode_png(rgba: NDArray[np.uint8], level: int) -> bytes:
    """PNG file of an image [h, w, 4] at a zlib level; nothing for an image without pixels.

    Filters are off: on a mouse before nothing they cost three times the time and save under a tenth of the bytes.
    """
    if rgba.size == 0:
        return b""
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), options)[1].tobytes()


def encode_crop(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> bytes:
    """A crop, colours [h, w, 3] and silhouette [h, w] (0 or 255), zstandard-compressed with a checksum.

    Of the demo's crops PNG at level 1 takes three times the time to write, four times to read, and is 4 % larger.
    """
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True).compressobj(size=rgb.size + -(-alpha.size // 8))
    parts = (np.ascontiguousarray(rgb), np.packbits(alpha > 0))
    return b"".join([*(compressor.compress(part.data) for part in parts), compressor.flush()]) if rgb.size else b""


def decode_crop(data: NDArray[np.uint8], size: NDArray[np.int32], where: str) -> NDArray[np.uint8]:
    """The crop [h, w, 4] RGBA of `encode_crop`'s bytes [n]; size: its width and height.

    Raises UserError beginning with `where` (file, frame, camera) if they are not such an image.
    """
    width, height = (int(n) for n in size)
    count = width * height
    if not count and not data.size:
        return np.zeros((height, width, 4), np.uint8)
    try:
        if zstandard.frame_content_size(data.tobytes()) != 3 * count + -(-count // 8):
            raise zstandard.ZstdError(f"not {width}x{height} px")
        pixels = np.frombuffer(zstandard.ZstdDecompressor().decompress(data.tobytes()), np.uint8)
    except zstandard.ZstdError as error:
        raise UserError(
            f"{where}: damaged crop ({error}); delete the file and run `mousefacelift center` again"
        ) from None
    rgba = np.empty((height, width, 4), np.uint8)
    rgba[..., :3] = pixels[: 3 * count].reshape(height, width, 3)
    rgba[..., 3] = 255 * np.unpackbits(pixels[3 * count :], count=count).reshape(height, width)
    return rgba
