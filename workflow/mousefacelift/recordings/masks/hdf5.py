"""Masks in HDF5 files, of which MATLAB's version 7.3 is one kind."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.masks.arrays import Array, ArrayMasks, masks_in

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST = 200_000  # datasets in a file
_CHUNK_BYTES = 2**28  # of a chunk, which HDF5 holds as a whole


def read(path: Path) -> ArrayMasks:
    """The masks of an HDF5 file. Raises UserError for datasets that are no masks."""
    arrays: list[Array] = []

    def add(name: str, entry: object) -> None:
        if not isinstance(entry, h5py.Dataset) or entry.shape is None:
            return
        if len(arrays) == _MOST:
            raise UserError(f"{path}: holds more than {_MOST} datasets")
        if entry.chunks and int(np.prod(entry.chunks, dtype=object)) * entry.dtype.itemsize > _CHUNK_BYTES:
            raise UserError(
                f"{path}: {name} is stored in pieces of {list(entry.chunks)}, too large to read frame by frame; write it with "
                "chunks of one frame"
            )
        whole = partial(_whole, path, name)
        arrays.append(Array(name, entry.shape, entry.dtype, partial(_rows, path, name), whole))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened as HDF5: {error}") from None
    return masks_in(arrays, path)


def _rows(path: Path, name: str, places: Sequence[int]) -> Iterator[np.ndarray]:
    try:
        with h5py.File(path, "r") as file:
            for place in places:
                yield file[name][place]
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error})") from None


def _whole(path: Path, name: str) -> np.ndarray:
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file[name][()])
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error})") from None
