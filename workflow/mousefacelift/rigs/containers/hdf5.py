"""HDF5 files, and MATLAB's version 7.3 which is HDF5, as plain nested values. hdf5_child.py reads them, in its own process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# A calibration takes half a second, most of it for starting Python.
MAX_CPU_SECONDS = 20
MAX_SECONDS = 300


@dataclass(frozen=True)
class Unread:
    """Stands for an array that is larger than any calibration's: a recording beside the cameras, or a trap."""

    shape: tuple[int, ...]


def load_hdf5(path: Path, where: str) -> dict[str, Any]:
    """Groups as dicts, datasets as float arrays or lists of text; Unread for what is too large to be a calibration."""
    return _load(path, where, "hdf5")


def load_matlab73(path: Path, where: str) -> dict[str, Any]:
    """Variables of a version 7.3 file as `matlab.load_matlab5` gives them.

    MATLAB stores arrays in column order, so HDF5 sees them transposed; structs are groups, cells are datasets of
    references, and text is a dataset of UTF-16 code units (attribute MATLAB_class).
    """
    return _load(path, where, "matlab")


def _load(path: Path, where: str, layout: str) -> dict[str, Any]:
    answer = _ask_child(path, where, layout)
    if "problem" in answer:
        raise UserError(f"{where}: {answer['problem']}")
    content = _plain(answer["content"])
    return content if isinstance(content, dict) else {}


def _ask_child(path: Path, where: str, layout: str) -> dict[str, Any]:
    """What hdf5_child prints of a file. Raises UserError if it crashes or does not finish."""
    child = [sys.executable, "-P", str(Path(__file__).with_name("hdf5_child.py"))]
    # One thread: each one's buffers would count against the child's memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*child, layout, str(path.absolute()), str(MAX_CPU_SECONDS)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MAX_SECONDS,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError, ValueError) as error:
        status = f" (status {error.returncode})" if isinstance(error, subprocess.CalledProcessError) else ""
        raise UserError(f"{where}: damaged HDF5 file: the HDF5 library did not finish reading it{status}") from None
    return answer


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "group" in value:
        return {name: _plain(entry) for name, entry in value["group"].items()}
    if "unread" in value:
        return Unread(tuple(value["unread"]))
    return np.array(value["array"], np.float64).reshape(value["shape"])
