"""Masks in NumPy's .npy and .npz files, read frame by frame and without pickles."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.masks.arrays import Array, ArrayMasks, masks_in

NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"
_PIECE = 2**20
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)


def read_npy(path: Path) -> ArrayMasks:
    """The masks of a .npy file. Raises UserError for an array that is no masks."""
    with _reported(path), path.open("rb") as file:
        shape, fortran, dtype = _header(file)
        offset = file.tell()
    if dtype.hasobject:
        return masks_in([Array("the array", shape, dtype, _nothing, partial(np.zeros, 0))], path)
    with _reported(path):
        values = np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    return masks_in([Array("the array", shape, dtype, partial(_mapped_rows, values), partial(np.array, values))], path)


def _nothing(places: Sequence[int]) -> Iterator[np.ndarray]:
    yield from ()


def _mapped_rows(values: np.ndarray, places: Sequence[int]) -> Iterator[np.ndarray]:
    for place in places:
        yield np.ascontiguousarray(values[place])


def read_npz(path: Path) -> ArrayMasks:
    """The masks of a .npz file. Raises UserError for arrays that are no masks."""
    arrays = []
    with _reported(path), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise UserError(f"{path}: holds {member.filename:.60}, which is no array of NumPy's")
            with archive.open(member) as file:
                shape, fortran, dtype = _header(file)
                start = file.tell()
            name = member.filename.removesuffix(".npy")
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if not dtype.hasobject and member.file_size != start + size:
                raise UserError(
                    f"{path}: {name} {list(shape)} {dtype} does not fit its {member.file_size} bytes: damaged"
                )
            rows = partial(_zipped_rows, path, member.filename, shape, dtype, fortran)
            arrays.append(Array(name, shape, dtype, rows, partial(_zipped_whole, path, member.filename)))
    return masks_in(arrays, path)


def _zipped_rows(
    path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, places: Sequence[int]
) -> Iterator[np.ndarray]:
    """Parts of an array in a zip file, which is decompressed from its start on but never held as a whole."""
    if fortran and shape[0] > 1:
        raise UserError(
            f"{path}: {name} is stored column by column, so that its frames cannot be read one by one; save it with "
            "np.ascontiguousarray"
        )
    size = int(np.prod(shape[1:])) * dtype.itemsize
    with _reported(path), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        _header(file)
        at = 0
        for place in places:
            _skip(file, (place - at) * size)
            data = file.read(size)
            if len(data) < size:
                raise EOFError("it ends early")
            yield np.frombuffer(data, dtype).reshape(shape[1:])
            at = place + 1


def _zipped_whole(path: Path, name: str) -> np.ndarray:
    with _reported(path), zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _skip(file: IO[bytes], size: int) -> None:
    while size > 0:
        piece = file.read(min(size, _PIECE))
        if not piece:
            raise EOFError("it ends early")
        size -= len(piece)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of an array, by its header."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Whatever a damaged file raises, as UserError."""
    try:
        yield
    except PermissionError:
        raise
    except _DAMAGE as error:
        raise UserError(f"{path}: not a readable file of NumPy's arrays ({error})") from None
