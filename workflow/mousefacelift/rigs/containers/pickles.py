"""Pickles that may hold numbers, text, containers and numpy arrays, and nothing else.

A pickle is a program. Here its only callables are stand-ins for numpy's own, which check what they are given before an
array exists; any other name it asks for is refused. The pure Python unpickler keeps its memo in a dict: the C one can
be made to allocate gigabytes by a file of ten bytes.
"""

import io
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from mousefacelift.base.errors import UserError

_MODULES = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}
MAX_DEPTH = 12
MAX_VALUES = 100_000


class _RefusedError(Exception):
    """A pickle asked for something that is not on the list."""


class _DType:
    """Stand-in for numpy.dtype: plain numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        if not isinstance(code, str) or np.dtype(code).kind not in "biuf" or len(code) > 8:
            raise _RefusedError(f"an array of {str(code)[:20]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, subtype, names, fields, item size, alignment, flags)
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for numpy.ndarray: takes its shape, type and bytes, and only then becomes an array."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, data = state[-5:]
        self.value = _array(data, dtype, shape, "F" if column_major else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if isinstance(data, str):  # how Python 2 wrote bytes
        data = data.encode("latin1")
    dtype = dtype.dtype
    if not all(isinstance(n, int) and n >= 0 for n in shape) or len(data) != math.prod(shape) * dtype.itemsize:
        raise _RefusedError(f"an array of shape {str(shape)[:60]} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> float | int:
    return _array(data, dtype, ()).item()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"the encoding {encoding[:20]!r}")
    return text.encode("latin1")


class _Callable:
    """One allowed function. A pickle may set attributes of what it is given; these exist for this file only."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("a change of one of numpy's functions")


class _Unpickler(pickle._Unpickler):
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self) -> None:
        """The base class takes the memory before it reads the bytes; here what is not in the file is not taken."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[str, Callable[..., Any]] = {
            "_reconstruct": lambda *_: _Array(),
            "ndarray": lambda *_: _Array(),
            "dtype": _DType,
            "scalar": _scalar,
            "_frombuffer": _array,
        }
        if module in _MODULES and name in allowed:
            return _Callable(allowed[name])
        if (module, name) == ("_codecs", "encode"):
            return _Callable(_latin1)
        if (module, name) == ("collections", "OrderedDict"):
            return _Callable(dict)
        raise _RefusedError(f"{module}.{name}")


def looks_like_pickle(head: bytes) -> bool:
    """Whether a file begins as a pickle of a list or dict, of any protocol."""
    return (head[:1] == b"\x80" and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL) if len(head) > 1 and head[0] == 0x80 else (
        head.startswith((b"(lp", b"(dp", b"]q", b"}q", b"(l", b"(d"))
    )  # fmt: skip


def load_pickle(data: bytes, where: str) -> Any:
    """A pickle's lists, dicts, text, numbers and numpy arrays. Raises UserError naming whatever else it asks for."""
    try:
        return _plain(_Unpickler(io.BytesIO(data), encoding="latin1").load(), [MAX_VALUES], 0)
    except _RefusedError as error:
        raise UserError(
            f"{where}: the pickle asks for {error}, which is refused, and nothing in it was run: a calibration holds arrays, "
            "numbers, text, lists and dicts only"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: damaged pickle: nested too deeply") from None
    except Exception as error:  # a damaged pickle can make the unpickler raise nearly anything
        raise UserError(f"{where}: damaged pickle ({type(error).__name__}: {str(error)[:200]})") from None


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    """Arrays for their stand-ins; refuses cycles and lists that share lists until they are endless."""
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise ValueError("more nested lists and numbers than a calibration holds")
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, np.ndarray | str | bytes | bool | int | float) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_plain(entry, budget, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry, budget, depth + 1) for key, entry in value.items() if isinstance(key, str | int)}
    raise _RefusedError(f"a {type(value).__name__}")
