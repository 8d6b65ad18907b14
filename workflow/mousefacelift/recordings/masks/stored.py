"""A mask as its file holds it, and what every form of mask file offers."""

from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.recordings.clocks import Timing
from mousefacelift.recordings.video import Frame, Missing

Image = NDArray[np.uint8]
Numbers = NDArray[Any]  # whole numbers, [H, W], uint8 or uint16

ZERO = 65535  # stands for the animal of number 0 in an image of numbers, where 0 is nothing


class Stored(Protocol):
    """One mask as it is stored. What it means, `meaning` decides."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""

    def grey(self) -> Image:
        """Brightness [H, W]."""

    def rgb(self) -> Image | None:
        """Colours [H, W, 3]; None if the file holds none."""

    def alpha(self) -> Image | None:
        """Opacity [H, W]; None if the file holds none."""

    def numbers(self) -> Numbers | None:
        """The stored numbers [H, W], of a palette the places in it; None for colours that are not grey."""


class FrameMask:
    """A frame of a video."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.size = (frame.width, frame.height)

    def grey(self) -> Image:
        """See `Stored`."""
        return self._frame.gray()

    def rgb(self) -> Image | None:
        """See `Stored`."""
        return None if self._frame.is_grey else self._frame.rgb()

    def alpha(self) -> Image | None:
        """See `Stored`."""
        return self._frame.alpha()

    def numbers(self) -> Numbers | None:
        """See `Stored`."""
        if (deep := self._frame.gray16()) is not None:
            return deep
        rgb = self.rgb()
        return self._frame.gray() if rgb is None else _equal_channels(rgb)


class ArrayMask:
    """An image or an array.

    values: [H, W] bool, uint8 or uint16, or [H, W, 3 or 4] uint8, RGB or RGBA.
    palette: [K, 3] uint8, the colours that the values of [H, W] stand for; None: they stand for themselves.
    """

    def __init__(self, values: Numbers, palette: Image | None = None) -> None:
        self._values, self._palette = values, palette
        self.size = (values.shape[1], values.shape[0])

    def grey(self) -> Image:
        """See `Stored`. Numbers of 16 bits are divided by 256 if they need to be."""
        rgb = self.rgb()
        if rgb is not None:
            return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        values = self._values
        if values.dtype == np.bool_:
            return values.astype(np.uint8) * np.uint8(255)
        return values if values.dtype == np.uint8 else (values >> 8 if values.max() > 255 else values).astype(np.uint8)

    def rgb(self) -> Image | None:
        """See `Stored`."""
        if self._palette is not None:
            return self._palette[self._values]
        return np.ascontiguousarray(self._values[..., :3]) if self._values.ndim == 3 else None

    def alpha(self) -> Image | None:
        """See `Stored`."""
        return self._values[..., 3] if self._values.ndim == 3 and self._values.shape[2] == 4 else None

    def numbers(self) -> Numbers | None:
        """See `Stored`."""
        if self._values.ndim == 3:
            return _equal_channels(self._values)
        return self._values.astype(np.uint8) if self._values.dtype == np.bool_ else self._values


def _equal_channels(rgb: Image) -> Image | None:
    """The first of three channels [H, W, 3] if all are equal."""
    red = rgb[..., 0]
    return red if np.array_equal(red, rgb[..., 1]) and np.array_equal(red, rgb[..., 2]) else None


class MaskFile(Protocol):
    """The masks of one camera, opened."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""

    @property
    def first(self) -> int | None:
        """The number of the first mask where names number the masks."""

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The animals' numbers, of a form that holds each animal for itself.

        The values of its masks are these numbers, with ZERO for number 0. None: a mask's values may mean anything.
        """

    @property
    def exact(self) -> bool:
        """Whether the values are numbers that somebody wrote, not grey levels: an array."""

    @property
    def lossy(self) -> str:
        """What makes the values inexact, such as "JPEG"; "" if nothing does."""

    def length(self, timing: Timing, fps: float | None) -> int:
        """The index after the last mask's."""

    def read(
        self, frames: range, where: str, timing: Timing, fps: float | None, threads: int
    ) -> Iterator["Stored | Missing"]:
        """Each of `frames` (an increasing range of indices), in order: the mask, or why there is none.

        Raises UserError, which begins with `where`, for a mask that cannot be read.
        """
