"""Masks as videos and as folders of images."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.clocks import Timing, open_video
from mousefacelift.recordings.masks.stored import ArrayMask, FrameMask, Stored
from mousefacelift.recordings.video import Frame, Missing, image_files, length, probe, read_frames, read_image

# What OpenCV would change: it expands palettes, drops an alpha channel and refuses 16 bits only later.
_PILLOW_MODES = {"P", "PA", "LA", "RGBA", "RGBa", "1", "I;16", "I;16B", "I;16L", "I"}
_LOSSY_CODECS = re.compile("h26[0-9]|hevc|av1|vp[0-9]|mpeg|mjpeg|wmv|theora|msvideo|prores|dnxhd|cinepak|dv")
_MAX_PIXELS = 2**28


class VideoMasks:
    """A video, or a folder with its parts."""

    first, labels, exact = None, None, False

    def __init__(self, path: Path) -> None:
        probed = probe(path)
        self._path, self.size = path, (probed.width, probed.height)
        self.lossy = _lossy_codec(path)

    def length(self, timing: Timing, fps: float | None) -> int:
        """See `MaskFile`."""
        return length(self._path, timing, fps)

    def read(
        self, frames: range, where: str, timing: Timing, fps: float | None, threads: int
    ) -> Iterator[Stored | Missing]:
        """See `MaskFile`."""
        for _, frame in read_frames(self._path, frames, where, timing, fps, threads):
            yield FrameMask(frame) if isinstance(frame, Frame) else frame


class ImageMasks:
    """A folder of images, which their names number."""

    labels, exact = None, False

    def __init__(self, path: Path) -> None:
        self._path, self._files = path, image_files(path) or {}
        self.first = min(self._files)
        first = self._files[self.first]
        self.size = image_size(first)
        self.lossy = "JPEG" if first.suffix.lower() in (".jpg", ".jpeg") else ""

    def length(self, timing: Timing, fps: float | None) -> int:
        """See `MaskFile`."""
        return max(self._files) + 1

    def read(
        self, frames: range, where: str, timing: Timing, fps: float | None, threads: int
    ) -> Iterator[Stored | Missing]:
        """See `MaskFile`."""
        for index in frames:
            path = self._files.get(index)
            yield Missing(f"{where}: {self._path}: no image {index}") if path is None else self._mask(path, where)

    def _mask(self, path: Path, where: str) -> Stored | Missing:
        try:
            mask = read_mask_image(path)
        except UserError as error:
            return Missing(f"{where}: {error}")
        if mask.size != self.size:
            (w, h), (first_w, first_h) = mask.size, self.size
            return Missing(f"{where}: {path}: is {w}x{h} px, the first one {first_w}x{first_h}")
        return mask


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, by its header. Raises UserError if it has none."""
    try:
        with Pillow.open(path) as image:
            size = image.size
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Pillow.DecompressionBombError):
        raise UserError(f"{path}: cannot be read as an image") from None
    if size[0] * size[1] > _MAX_PIXELS:
        raise UserError(f"{path}: {size[0]}x{size[1]} px are more than any camera has")
    return size


def read_mask_image(path: Path) -> ArrayMask:
    """An image with the numbers that it holds. Raises UserError if it cannot be read."""
    image_size(path)
    try:
        with Pillow.open(path) as image:
            if image.mode in _PILLOW_MODES:
                return _as_stored(image, path)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
    return ArrayMask(read_image(path))


def _as_stored(image: Pillow.Image, path: Path) -> ArrayMask:
    if image.mode == "1":
        return ArrayMask(np.asarray(image, np.bool_))
    if image.mode == "P" and image.palette is not None:
        palette = np.zeros((256, 3), np.uint8)
        # In RGB by Pillow: a file's palette may have another order or an alpha channel.
        indices = np.asarray(image)
        ramp = Pillow.frombytes("P", (256, 1), bytes(range(256)))
        ramp.putpalette(image.getpalette("RGB") or [])
        palette[:] = np.asarray(ramp.convert("RGB"))[0]
        return ArrayMask(indices, palette)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise UserError(f"{path}: holds values from {values.min()} to {values.max()}; masks hold 0 to 65535")
        return ArrayMask(values.astype(np.uint16))
    return ArrayMask(np.asarray(image.convert("RGBA")))


def _lossy_codec(path: Path) -> str:
    """The name of a video's codec if it is one that changes values."""
    part = (
        next((f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith(".")), path)
        if path.is_dir()
        else path
    )
    with open_video(part) as container:
        name = container.streams.video[0].codec_context.name
    return name if _LOSSY_CODECS.search(name) else ""


def resize(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask [H, W] at another width and height: each pixel takes the value at its centre."""
    return cv2.resize(numbers, size, interpolation=cv2.INTER_NEAREST_EXACT)
