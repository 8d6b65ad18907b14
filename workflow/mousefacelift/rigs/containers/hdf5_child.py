"""Reads one HDF5 file in a process of its own and prints it as JSON: `python hdf5_child.py hdf5|matlab FILE SECONDS`.

The HDF5 library loops forever, or crashes, on some damaged files. So this script runs apart, with limits on time and
memory, and depends on h5py and numpy alone. A file of a kilobyte may also declare a dataset of a terabyte, or point into
other files: shapes, chunks, types and links are looked at before anything is read.

Prints {"content": …} or {"problem": text}. An array is {"array": numbers, "shape": […]}, or {"unread": shape} if it is
larger than any calibration's: a recording beside the cameras, or a trap. A group is {"group": {name: …}}.
"""

import json
import math
import resource
import sys
from typing import Any

import h5py
import numpy as np

MAX_VALUES = 100_000
MAX_ALL_VALUES = 1_000_000
MAX_CHUNK_BYTES = 16 << 20
MAX_NODES = 20_000
MAX_DEPTH = 12
MAX_MEMORY_BYTES = 4 << 30


class RefusedError(Exception):
    """The file asks for something that no calibration needs."""


class Reader:
    """Walks one open file, and counts."""

    def __init__(self, file: h5py.File) -> None:
        self.file, self.nodes, self.values = file, 0, 0

    def group(self, group: h5py.Group, depth: int) -> dict[str, Any]:
        """Groups and datasets as they are; text as lists."""
        return {"group": {name: self._entry(node, depth) for name, node in self._children(group, depth)}}

    def variables(self, file: h5py.File) -> dict[str, Any]:
        """MATLAB's variables: column order undone, references followed, text joined."""
        children = [(name, node) for name, node in self._children(file, 0) if not name.startswith("#")]
        return {"group": {name: self._value(node, 0) for name, node in children}}

    def _entry(self, node: Any, depth: int) -> Any:
        if isinstance(node, h5py.Group):
            return self.group(node, depth + 1)
        if h5py.check_string_dtype(node.dtype) is None or (node.size or 0) > MAX_VALUES:
            return self._array(node, transposed=False)
        return self._texts(node)

    def _value(self, node: Any, depth: int) -> Any:
        if isinstance(node, h5py.Group):
            children = self._children(node, depth)
            fields = {name: self._value(child, depth + 1) for name, child in children}
            # In a struct array every field is a list of references; unlike a cell's it has no class of its own.
            if children and all(is_reference(child) and "MATLAB_class" not in child.attrs for _, child in children):
                return [
                    {"group": dict(zip(fields, values, strict=True))} for values in zip(*fields.values(), strict=True)
                ]
            return {"group": fields}
        if is_reference(node) and (node.size or 0) <= MAX_VALUES:
            self._check(node)
            return [self._reference(reference, depth) for reference in np.ravel(node[()])]
        if node.attrs.get("MATLAB_empty", 0):
            return {"array": [], "shape": [0, 0]}
        value = self._array(node, transposed=True)
        if node.attrs.get("MATLAB_class") == b"char" and isinstance(value, dict) and "array" in value:
            return "".join(chr(int(code)) for code in value["array"])
        return value

    def _reference(self, reference: Any, depth: int) -> Any:
        self._count(depth)
        return self._value(self.file[reference], depth + 1)

    def _children(self, group: Any, depth: int) -> list[tuple[str, Any]]:
        children = []
        for name in group:
            self._count(depth)
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RefusedError(f"{name!r} is a link to another place or file, which is refused")
            child = group[name]
            if isinstance(child, h5py.Group | h5py.Dataset):
                children.append((name, child))
        return children

    def _count(self, depth: int) -> None:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise RefusedError("more nested groups than a calibration holds")

    def _check(self, dataset: Any) -> None:
        name = short_name(dataset)
        if dataset.is_virtual or dataset.external:
            raise RefusedError(f"field {name!r} lies in other files, which is refused")
        largest = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if largest > MAX_CHUNK_BYTES or dataset.dtype.itemsize > 4096:
            raise RefusedError(f"field {name!r} declares chunks of {largest >> 20} MiB, which no calibration has")
        self.values += dataset.size or 0
        if self.values > MAX_ALL_VALUES:
            raise RefusedError("more numbers than a calibration holds")

    def _texts(self, dataset: Any) -> list[str]:
        """Text of any length lies in a heap, where one entry may stand for many: read one by one, and counted."""
        self._check(dataset)
        texts: list[str] = []
        for i in np.ndindex(dataset.shape or ()):
            text = dataset[i]
            texts.append(text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text))
            if sum(map(len, texts)) > MAX_VALUES or len(texts) > 1000:
                raise RefusedError(f"field {short_name(dataset)!r} holds more text than names of cameras")
        return texts

    def _array(self, dataset: Any, transposed: bool) -> Any:
        if (dataset.size or 0) > MAX_VALUES:
            return {"unread": list(dataset.shape)}
        self._check(dataset)
        if dataset.shape is None or dataset.dtype.kind not in "biuf":
            return None
        value = np.asarray(dataset[()], np.float64)
        value = value.T if transposed else value
        return {"array": value.ravel().tolist(), "shape": list(value.shape)}


def short_name(dataset: Any) -> str:
    """A dataset's own name, for an error message."""
    return str(dataset.name).rsplit("/", 1)[-1][:60]


def is_reference(node: Any) -> bool:
    """Whether a dataset points to other objects of the file."""
    return isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype) is h5py.Reference


def answer(layout: str, path: str) -> dict[str, Any]:
    """The file's content, or what is wrong with it. layout: hdf5, or matlab for MATLAB's version 7.3."""
    try:
        with h5py.File(path, "r") as file:
            reader = Reader(file)
            return {"content": reader.variables(file) if layout == "matlab" else reader.group(file, 0)}
    except RefusedError as error:
        return {"problem": str(error)}
    except Exception as error:  # h5py raises many types for damaged files
        return {"problem": f"damaged HDF5 file ({type(error).__name__}: {str(error)[:200]})"}


def main(layout: str, path: str, seconds: str) -> None:
    """Print the answer, or be killed when the time is over."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print(json.dumps(answer(layout, path)))


if __name__ == "__main__":
    main(*sys.argv[1:])
