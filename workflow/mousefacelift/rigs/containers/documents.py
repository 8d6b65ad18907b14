"""Files of any container (JSON, TOML, YAML, XML, MATLAB, HDF5, pickle) as plain nested values, opened without trust.

A calibration may come from anyone. Nothing in it is executed, it cannot make the parser open another file, sizes are
checked before memory is taken, and whatever is wrong with it is a UserError.
"""

import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.rigs.containers.hdf5 import HDF5_SIGNATURE, load_hdf5, load_matlab73
from mousefacelift.rigs.containers.matlab import is_matlab5, load_matlab5
from mousefacelift.rigs.containers.pickles import load_pickle, looks_like_pickle
from mousefacelift.rigs.containers.storage import load_xml, load_yaml

# A rig of 100 cameras is 200 kB of text. MAMMAL's pickle keeps two undistortion maps per camera, 54 MiB for six. MATLAB
# and HDF5 files may be of any size: recordings beside the cameras are not read.
MAX_TEXT_BYTES = 4 << 20
MAX_PICKLE_BYTES = 128 << 20


@dataclass(frozen=True)
class Document:
    """One parsed file or one folder.

    kind: JSON, TOML, YAML, XML, MATLAB, HDF5, pickle or folder. content: dicts, lists, text, numbers and arrays; of a
    folder, its files' paths by name.
    """

    path: Path
    kind: str
    content: Any


def open_document(path: Path, where: str, kinds: Collection[str] | None = None) -> Document:
    """Parse a file by what it holds, whatever its name. kinds: containers that will do, None for any.

    Raises UserError if the file is missing, empty, damaged, dangerous, or of another kind.
    """
    if path.is_dir():
        if kinds is not None and "folder" not in kinds:
            raise UserError(f"{where}: this is a folder; expected a file ({', '.join(sorted(kinds))})")
        return Document(path, "folder", _files(path, where))
    size, head = _head(path, where)
    if size == 0:
        raise UserError(f"{where}: the file is empty")
    found = _sniff(head)
    usable = [kind for kind in found if kinds is None or kind in kinds]
    if not usable:
        wanted = ", ".join(sorted(kinds or ()))
        seen = f"looks like {' or '.join(found)}" if found else "is neither text nor any known container"
        expected = f"{wanted} for the stated format (format auto recognises the content)" if wanted else "a calibration"
        raise UserError(f"{where}: the file {seen}; expected {expected}")
    problems = []
    for kind in usable:
        try:
            return Document(path, kind, _LOADERS[kind](path, where))
        except UserError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    raise UserError(f"{where}: neither {' nor '.join(usable)}: " + "; ".join(map(str, problems)))


def read_bytes(path: Path, where: str, limit: int) -> bytes:
    """A file's bytes. Raises UserError if it is missing or larger than a calibration can be."""
    size, _ = _head(path, where)
    if size > limit:
        raise UserError(f"{where}: {size / 2**20:.0f} MiB; a calibration of this format has at most {limit >> 20} MiB")
    with path.open("rb") as file:
        return file.read(limit)


def read_text(path: Path, where: str, limit: int = MAX_TEXT_BYTES) -> str:
    """A file's text. Raises UserError as read_bytes, or if it is not UTF-8."""
    try:
        return read_bytes(path, where, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None


def _head(path: Path, where: str) -> tuple[int, bytes]:
    try:
        if not path.is_file():
            raise UserError(f"{where}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            return path.stat().st_size, file.read(4096)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a null character in the name
        raise UserError(f"{where}: not a file name ({error})") from None


def _files(folder: Path, where: str) -> dict[str, Path]:
    try:
        return {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and file.name[:1] != "."}
    except OSError as error:
        raise UserError(f"{where}: the folder cannot be read ({error.strerror or error})") from None


def _sniff(head: bytes) -> list[str]:
    """The kinds a file may be, by its beginning."""
    if head.startswith(HDF5_SIGNATURE):
        return ["HDF5"]
    if is_matlab5(head) or (head[:10] == b"MATLAB 7.3" and head[512:520] == HDF5_SIGNATURE):
        return ["MATLAB"]
    if looks_like_pickle(head):
        return ["pickle"]
    text = head.decode("utf-8-sig", "replace").lstrip()
    if any(ord(c) < 32 and c not in "\t\r\n\f" for c in text) or text.count("\ufffd") > 1:
        return []
    if text.startswith("{"):
        return ["JSON"]
    if text.startswith("["):  # a JSON list, or a TOML table
        return ["JSON", "TOML"] if not re.match(r"\[\s*[A-Za-z_]", text) else ["TOML"]
    if text.startswith("<"):
        return ["XML"]
    if text.startswith("%YAML"):
        return ["YAML"]
    # key = value before any "key:" is TOML; key: value is YAML.
    for line in text.splitlines():
        if re.match(r"""["'\w. -]+=""", line):
            return ["TOML"]
        if re.match(r"""(-\s|["'\w. /-]+:(\s|$))""", line):
            return ["YAML"]
        if re.match(r"\[", line):
            return ["TOML"]
    return ["TOML", "YAML"] if text else []


def _load_json(path: Path, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            names = [name for name, _ in pairs]
            raise UserError(f"{where}: {next(n for n in names if names.count(n) > 1)!r} occurs twice")
        return table

    def parse() -> Any:
        content = json.loads(text, object_pairs_hook=unique)
        for place in _not_finite(content, ""):
            raise UserError(f"{where}: field '{place.lstrip('.')}' is NaN or infinity, which are not numbers")
        return content

    text = read_text(path, where, 4 * MAX_TEXT_BYTES)
    return _parsed("JSON", where, parse)


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """The places of NaN and infinity in a JSON value."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _not_finite(entry, f"{place}.{name[:60]}")
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _not_finite(entry, f"{place}[{i}]")


def _load_toml(path: Path, where: str) -> Any:
    text = read_text(path, where)
    return _parsed("TOML", where, lambda: tomllib.loads(text))


def _load_matlab(path: Path, where: str) -> Any:
    if _head(path, where)[1][:10] == b"MATLAB 7.3":
        return load_matlab73(path, where)
    return load_matlab5(path, where)


def _parsed(kind: str, where: str, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except RecursionError:
        raise UserError(f"{where}: damaged {kind}: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}: damaged {kind} ({str(error)[:300]})") from None


_LOADERS: dict[str, Callable[[Path, str], Any]] = {
    "JSON": _load_json,
    "TOML": _load_toml,
    "YAML": lambda path, where: load_yaml(read_text(path, where, MAX_TEXT_BYTES // 4), where),
    "XML": lambda path, where: load_xml(read_text(path, where), where),
    "MATLAB": _load_matlab,
    "HDF5": load_hdf5,
    "pickle": lambda path, where: load_pickle(read_bytes(path, where, MAX_PICKLE_BYTES), where),
}
