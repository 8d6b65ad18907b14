"""Files that are either complete or absent: everything is written under a temporary name and renamed."""

import fcntl
import glob
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path in the target's folder; rename it to `path` on success, delete it on failure.

    The rename is atomic, so that a reader, or a run after a kill, never sees half a file. The temporary name keeps the
    target's extension, by which some writers choose the format, and holds the process id, so that two writers never
    share one. First, what a killed writer of the same target left behind is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, meanwhile: str) -> Iterator[None]:
    """Hold a lock; while another process holds it, wait and say so. The system releases that of a killed process.

    Args:
        path: of the lock's file, which stays.
        meanwhile: what the other process does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: {meanwhile} (lock {path})", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{path}: this file system has no locks ({error.strerror}); use a folder on another"
            ) from None
        try:
            yield
        finally:
            # Processes started meanwhile may hold copies of the handle: closing this one would not release it.
            fcntl.flock(handle, fcntl.LOCK_UN)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: readable, stable key order as given, no NaN."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure atomically, in the format of the path's extension."""
    with atomic(path) as temporary:
        figure.savefig(temporary)


def read_json(path: Path, made_by: str) -> Any:
    """Read JSON. Raises UserError naming the file and the stage that makes it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is written by `{made_by}`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `{made_by}` again") from None


@contextmanager
def open_h5(path: Path, made_by: str) -> Iterator[Any]:
    """Open an HDF5 file of an earlier stage for reading. Raises UserError naming the file and the stage that makes it."""
    import h5py

    try:
        handle = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is written by `{made_by}`") from None
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); delete it and run `{made_by}` again") from None
    with handle:
        try:
            yield handle
        except KeyError as error:
            if not str(error.args[0]).startswith(
                ("Unable to", "Can't")
            ):  # HDF5 says so of a missing name; anything else is a defect
                raise
            raise UserError(f"{path}: {error.args[0]}; delete it and run `{made_by}` again") from None


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts cam2 before cam10."""
    # Numbers compare by length, then as text: no conversion, so that a name of a million digits is just a name.
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(not p.isdecimal(), len(p.lstrip("0")) if p.isdecimal() else 0, p.lstrip("0") or p) for p in parts]
