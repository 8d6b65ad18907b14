"""MATLAB's version 5 files (MathWorks, "MAT-File Format"), parsed within bounds.

scipy.io.loadmat inflates and allocates what a damaged file claims; here every size is checked against the bytes that
are there. Values become float arrays with MATLAB's shapes, text, lists (cells, struct arrays) and dicts (structs).
"""

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mousefacelift.base.errors import UserError

# Label3D keeps labels of a whole recording beside the cameras, Rat7M the recording itself: variables that are larger
# are no calibration and are left out.
MAX_VARIABLE_BYTES = 4 << 20
MAX_DEPTH = 12
MAX_ARRAYS = 20_000

_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)


class _DamagedError(Exception):
    """The bytes are not what the format demands."""


class _Element(NamedTuple):
    kind: int
    data: bytes


def is_matlab5(head: bytes) -> bool:
    """Whether a file begins with the header of a version 5 file, of either byte order."""
    return len(head) >= 128 and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def load_matlab5(path: Path, where: str) -> dict[str, Any]:
    """The variables of a version 5 file by name. Raises UserError if it is damaged."""
    variables: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            order = "<" if file.read(128)[126:] == b"IM" else ">"
            end = file.seek(0, os.SEEK_END)
            position = 128
            while end - position >= 8:
                file.seek(position)
                kind, size = struct.unpack(order + "II", file.read(8))
                position += 8 + size
                if position > end:
                    raise _DamagedError("it ends in the middle of a variable")
                content = None
                if kind == _COMPRESSED:
                    inflated = _inflate(file, size)
                    kind, content = _Elements(inflated, order).next() if inflated is not None else (kind, None)
                elif size <= MAX_VARIABLE_BYTES:
                    content = file.read(size)
                if kind == _MATRIX and content is not None:
                    name, value = _Variable(order).read(content, 0)
                    variables[name] = value
    except (_DamagedError, ValueError, struct.error, zlib.error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{where}: damaged MATLAB file ({error})") from None
    return variables


def _inflate(file: BinaryIO, size: int) -> bytes | None:
    """A compressed variable, or None if it is larger than a calibration."""
    inflater = zlib.decompressobj()
    parts, length = [], 0
    while size > 0 and not inflater.eof:
        packed = file.read(min(size, 1 << 16))
        size -= len(packed)
        parts.append(inflater.decompress(packed, MAX_VARIABLE_BYTES + 1 - length))
        length += len(parts[-1])
        if length > MAX_VARIABLE_BYTES:
            return None
    if not inflater.eof:
        raise _DamagedError("a compressed variable is cut off")
    return b"".join(parts)


class _Elements:
    """The elements of a block of bytes, one after the other."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.position = data, order, 0

    def __bool__(self) -> bool:
        return len(self.data) - self.position >= 8

    def next(self) -> _Element:
        """The next element; small ones keep their data inside the tag."""
        if not self:
            raise _DamagedError("an array is cut off")
        kind, size = struct.unpack_from(self.order + "II", self.data, self.position)
        start = self.position + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, self.position + 4
            if size > 4:
                raise _DamagedError(f"a small element claims {size} bytes")
            self.position += 8
        else:
            self.position = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(self.data):
            raise _DamagedError(f"an array claims {size} bytes, {len(self.data) - start} are there")
        return _Element(kind, self.data[start : start + size])


class _Variable:
    """Reads one variable with all that is nested in it, and counts."""

    def __init__(self, order: str) -> None:
        self.order, self.arrays = order, 0

    def read(self, data: bytes, depth: int) -> tuple[str, Any]:
        self.arrays += 1
        if depth > MAX_DEPTH or self.arrays > MAX_ARRAYS:
            raise _DamagedError("more nested arrays than a calibration holds")
        if not data:  # an empty cell
            return "", np.zeros((0, 0))
        elements = _Elements(data, self.order)
        flags = self._integers(elements.next(), 2)[0]
        kind, is_complex = flags & 0xFF, bool(flags & 0x800)
        if kind == 17:  # MATLAB's own objects follow no documented form
            return "", None
        shape = tuple(self._integers(elements.next()))
        if len(shape) < 2 or min(shape) < 0:
            raise _DamagedError(f"an array of shape {shape[:8]}")
        name = elements.next().data.decode("latin1")
        count = math.prod(shape)
        if kind in _NUMERIC and not is_complex:
            return name, self._numbers(elements.next(), shape)
        if kind == _CHAR:
            return name, self._text(elements.next(), count)
        if kind == _CELL:
            return name, [self._matrix(elements, depth) for _ in range(self._bounded(count, data))]
        if kind == _STRUCT:
            return name, self._structs(elements, self._bounded(count, data), depth)
        return name, None

    def _structs(self, elements: _Elements, count: int, depth: int) -> Any:
        width = self._integers(elements.next(), 1)[0]
        text = elements.next().data
        if not 0 < width <= 256 or len(text) % width:
            raise _DamagedError("a struct's field names")
        names = [text[i : i + width].split(b"\0")[0].decode("latin1") for i in range(0, len(text), width)]
        structs = [{name: self._matrix(elements, depth) for name in names} for _ in range(count)]
        return structs[0] if len(structs) == 1 else structs

    def _matrix(self, elements: _Elements, depth: int) -> Any:
        kind, data = elements.next()
        if kind != _MATRIX:
            raise _DamagedError(f"element type {kind} where an array belongs")
        return self.read(data, depth + 1)[1]

    def _bounded(self, count: int, data: bytes) -> int:
        if count > len(data) // 8:
            raise _DamagedError(f"{count} entries claimed in {len(data)} bytes")
        return count

    def _integers(self, element: _Element, at_least: int = 0) -> list[int]:
        if element.kind not in (5, 6) or len(element.data) % 4 or len(element.data) < 4 * at_least:
            raise _DamagedError(f"element type {element.kind} where integers belong")
        return np.frombuffer(element.data, self.order + _TYPES[element.kind]).tolist()

    def _numbers(self, element: _Element, shape: tuple[int, ...]) -> np.ndarray:
        if element.kind not in _TYPES:
            raise _DamagedError(f"element type {element.kind} where numbers belong")
        values = np.frombuffer(element.data, self.order + _TYPES[element.kind])
        if values.size != math.prod(shape):
            raise _DamagedError(f"{values.size} numbers for an array of shape {shape}")
        return values.astype(np.float64).reshape(shape, order="F")

    def _text(self, element: _Element, count: int) -> str:
        if element.kind not in _TEXT or count > len(element.data):
            raise _DamagedError(f"element type {element.kind} where text belongs")
        encoding = _TEXT[element.kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self.order == "<" else "-be"
        return element.data.decode(encoding)
