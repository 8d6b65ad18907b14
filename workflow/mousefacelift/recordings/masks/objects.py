"""Masks that hold each animal for itself, frame by frame: run lengths or polygons from a JSON file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.clocks import Timing
from mousefacelift.recordings.masks.rle import Mask, decode_rle, fill_polygons, is_rle
from mousefacelift.recordings.masks.stored import ZERO, ArrayMask, Stored
from mousefacelift.recordings.video import Missing

MAX_LABEL = ZERO - 1


class ObjectMasks:
    """Frames with the shapes of their animals.

    path: of the file.
    size: width and height, px.
    frames: frame -> animal's number -> its shape: a run-length code, a list of polygons, or rows of 0 and 1. A frame that is
        there without animals is empty; one that is not there is missing.
    numbered: whether the frames' numbers are those of files' names, so that the lowest is the first.
    """

    exact, lossy = True, ""

    def __init__(
        self, path: Path, size: tuple[int, int], frames: Mapping[int, Mapping[int, Any]], numbered: bool
    ) -> None:
        if not frames:
            raise UserError(f"{path}: holds no masks")
        self._path, self.size, self._frames = path, size, frames
        self.first = min(frames) if numbered else None
        self.labels: tuple[int, ...] | None = tuple(sorted({label for each in frames.values() for label in each}))
        if self.labels and self.labels[-1] > MAX_LABEL:
            raise UserError(f"{path}: an animal's number is {self.labels[-1]}; at most {MAX_LABEL} can be read")

    def length(self, timing: Timing, fps: float | None) -> int:
        """See `MaskFile`."""
        return max(self._frames) + 1

    def read(
        self, frames: range, where: str, timing: Timing, fps: float | None, threads: int
    ) -> Iterator[Stored | Missing]:
        """See `MaskFile`. Where animals overlap, a pixel belongs to the one with the largest number."""
        width, height = self.size
        for index in frames:
            if index not in self._frames:
                yield Missing(f"{where}: {self._path}: no masks of frame {index}")
                continue
            numbers = np.zeros((height, width), np.uint16)
            for label, shape in sorted(self._frames[index].items()):
                numbers[self._shape(shape, f"{where}: {self._path}, frame {index}, animal {label}")] = label or ZERO
            yield ArrayMask(numbers)

    def _shape(self, shape: Any, where: str) -> Mask:
        width, height = self.size
        if is_rle(shape):
            mask = decode_rle(shape, where) if shape["size"] == [height, width] else None
        elif (
            isinstance(shape, list)
            and len(shape) == height
            and all(isinstance(r, list) and len(r) == width for r in shape)
        ):
            mask = np.array(shape)
            if mask.dtype.kind not in "bi" or mask.min() < 0 or mask.max() > 1:
                raise UserError(f"{where}: rows of a mask hold false and true, or 0 and 1")
            mask = mask.astype(np.bool_)
        else:
            return fill_polygons(shape, self.size, where) if isinstance(shape, list) else self._unknown(shape, where)
        if mask is None:
            raise UserError(f"{where}: has the size {shape['size']}, the first mask {[height, width]} (height, width)")
        return mask

    def _unknown(self, shape: Any, where: str) -> Mask:
        raise UserError(f"{where}: neither a run-length code (size, counts) nor polygons nor rows: {shape!r:.60}")
