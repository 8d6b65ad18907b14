"""Lossless encoding of RGBA images. docs/shards.md has the measurements that the defaults follow from."""

import io

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError

Image = NDArray[np.uint8]
# The first bytes of each format's files.
SIGNATURES = {"png": b"\x89PNG", "webp": b"RIFF", "qoi": b"qoif"}


def encode_image(rgba: Image, codec: str, level: int) -> bytes:
    """File of an RGBA image [h, w, 4] in one of the formats of SIGNATURES, lossless even where alpha is 0.

    level: of zlib for png (0 to 9), effort for webp (0 to 6); qoi has none.
    """
    if codec == "webp":
        from PIL import Image as Pillow

        file = io.BytesIO()  # OpenCV's encoder changes the colours of transparent pixels
        Pillow.fromarray(rgba).save(file, "webp", lossless=True, exact=True, method=min(level, 6))
        return file.getvalue()
    if codec == "qoi":
        import qoi

        return bytes(qoi.encode(np.ascontiguousarray(rgba)))
    # Filters are off: for a mouse on an empty background they triple the time and save a tenth of the bytes.
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), options)[1].tobytes()


def decode_image(data: bytes, where: str) -> Image:
    """The image [h, w, 4] RGBA of a file's bytes, whichever format of SIGNATURES they are.

    Raises UserError beginning with `where` if they are not a whole RGBA image.
    """
    try:
        if data.startswith(SIGNATURES["qoi"]):
            import qoi

            image = qoi.decode(data)
        else:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if image is not None and image.ndim == 3 and image.shape[2] == 4:
                image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    except (cv2.error, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: not a readable image ({error})") from None
    if image is None:
        raise UserError(f"{where}: not a readable image")
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise UserError(f"{where}: not an RGBA image of 8 bits per channel")
    return image


def encode_masks(masks: NDArray[np.bool_]) -> bytes:
    """PNG of V masks [V, h, w], one below the other: 255 where they are true, else 0."""
    image = masks.reshape(-1, masks.shape[-1]).astype(np.uint8) * np.uint8(255)
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def decode_masks(data: bytes, count: int, where: str) -> NDArray[np.bool_]:
    """The `count` masks [count, h, w] of `encode_masks`'s bytes. Raises UserError beginning with `where` if they are no such."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UserError(f"{where}: not a readable image ({error})") from None
    if image is None:
        raise UserError(f"{where}: not a readable image")
    if image.ndim != 2 or image.dtype != np.uint8 or image.shape[0] != count * image.shape[1]:
        raise UserError(f"{where}: not {count} square masks of 8 bits, one below the other")
    if not np.isin(image, (0, 255)).all():
        raise UserError(f"{where}: a mask has values other than 0 and 255")
    return image.reshape(count, -1, image.shape[1]) > 0


def encode_crop(rgb: Image, alpha: Image) -> bytes:
    """A crop, colours [h, w, 3] and silhouette [h, w] (0 or 255), zstandard-compressed with a checksum.

    PNG at level 1 takes three times as long to write and four times as long to read the demo's crops, and is 4 % larger.
    """
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True).compressobj(size=rgb.size + -(-alpha.size // 8))
    parts = (np.ascontiguousarray(rgb), np.packbits(alpha > 0))
    return b"".join([*(compressor.compress(part.data) for part in parts), compressor.flush()]) if rgb.size else b""


def decode_crop(data: Image, size: NDArray[np.int32], where: str) -> Image:
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
    alpha = 255 * np.unpackbits(pixels[3 * count :], count=count).reshape(height, width)
    cv2.mixChannels([pixels[: 3 * count].reshape(height, width, 3), alpha], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
    return rgba
