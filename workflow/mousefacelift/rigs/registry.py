"""Calibrations of any known format as one rig: geometry.Camera per camera, in millimetres.

Add a format: write a module in `formats`, and one line in FORMATS. The module has LOOKS_FOR (what it is recognised by),
KINDS (the containers it may come in), recognises() and read(); it may have write(), OPTIONS, FILES and UNITLESS, see
`Format`. `documents` parses the containers, and `checks.checked_camera` is the one way to a Camera.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.geometry.camera import Camera, Rig
from mousefacelift.rigs.checks import (
    MIN_RIG_MM,
    MIN_RIG_UNITLESS,
    MM_PER_UNIT,
    check_lengths,
    check_rig,
    listed,
    optical_axes_meet,
    scaled,
    warn,
)
from mousefacelift.rigs.containers.documents import Document, open_document
from mousefacelift.rigs.formats import (
    anipose,
    colmap,
    dannce,
    easymocap,
    facelift,
    jarvis,
    mammal,
    multicam,
    opencv_json,
    opencv_storage,
    rat7m,
    transforms,
)


class Contents(NamedTuple):
    """What a file or folder holds: its cameras, in the file's unit, and the name of its format."""

    cameras: list[Camera]
    format: str


@dataclass(frozen=True)
class Format:
    """One format, as its module describes it.

    description: what it is recognised by. kinds: the containers it may come in. write: None where this package only
    reads it. options: of `read`, each with its valid values. files: names of which any stands for the folder it lies in.
    unitless: its world is scaled to the subject.
    """

    description: str
    kinds: tuple[str, ...]
    recognises: Callable[[Document], bool]
    read: Callable[..., list[Camera]]
    write: Callable[[Rig, Path], None] | None
    options: Mapping[str, tuple[str, ...]]
    files: tuple[str, ...]
    unitless: bool


def _format(module: ModuleType) -> Format:
    return Format(
        description=module.LOOKS_FOR,
        kinds=module.KINDS,
        recognises=module.recognises,
        read=module.read,
        write=getattr(module, "write", None),
        options=getattr(module, "OPTIONS", {}),
        files=getattr(module, "FILES", ()),
        unitless=getattr(module, "UNITLESS", False),
    )


FORMATS = {
    "opencv-json": _format(opencv_json),
    "dannce": _format(dannce),
    "mammal": _format(mammal),
    "multicam": _format(multicam),
    "anipose": _format(anipose),
    "jarvis": _format(jarvis),
    "easymocap": _format(easymocap),
    "colmap": _format(colmap),
    "transforms": _format(transforms),
    "facelift": _format(facelift),
    "rat7m": _format(rat7m),
    "opencv-storage": _format(opencv_storage),
}
FOLDER_FORMATS = tuple(name for name, each in FORMATS.items() if "folder" in each.kinds)
FOLDER_FILES = {file for each in FORMATS.values() for file in each.files}


def read_rig(
    source: Path | Mapping[str, Path],
    format: str = "auto",
    unit: str = "mm",
    where: str = "",
    **options: str,
) -> Rig:
    """Read a calibration: a file, a folder, or one file per camera.

    Reading runs nothing and writes nothing. Lines on stderr name what was left out or looks odd.

    Args:
        source: a file or folder, or a file for each camera's name.
        format: a name in FORMATS, or auto, which recognises the content (never the extension).
        unit: of the file's lengths, a key of MM_PER_UNIT.
        where: begins errors, such as the capture's name.
        options: those of the format (transforms: pixel_origin).

    Returns:
        The cameras in millimetres: in the order of the file, of the mapping, or of the natural order of a folder's files.

    Raises:
        UserError: something is missing, damaged, dangerous, ambiguous or implausible; it names file, camera and field.
    """
    if unit not in MM_PER_UNIT:
        raise UserError(f"{_at(where, source)}: unit {unit!r} is not one of {', '.join(MM_PER_UNIT)}")
    if format != "auto" and format not in FORMATS:
        raise UserError(f"{_at(where, source)}: format {format!r} is not one of auto, {', '.join(FORMATS)}")
    if isinstance(source, Mapping):
        files = list(dict.fromkeys(source.values()))
        one_each = len(files) != 1 or len(source) == 1
        contents = _one_each(source, format, where, options) if one_each else _read(files[0], format, where, options)
    else:
        contents = _read(source, format, where, options)
    place = _at(where, source)
    rig = scaled(tuple(contents.cameras), MM_PER_UNIT[unit])
    check_rig(rig, place)
    check_lengths(rig, place, MIN_RIG_UNITLESS if FORMATS[contents.format].unitless else MIN_RIG_MM)
    with np.errstate(all="ignore"):
        depths = optical_axes_meet(rig)
    behind = [camera.name for camera, depth in zip(rig, depths, strict=True) if depth <= 0]
    if len(rig) > 1 and behind:
        warn(
            f"{place}: the optical axes do not meet in front of camera{'s' * (len(behind) > 1)} {listed(behind)}: is a rotation "
            "transposed, or camera to world?"
        )
    return rig


def write_rig(rig: Rig, path: Path, format: str) -> None:
    """Write a rig in millimetres; path is a file, or COLMAP's folder. Complete or absent, as all files.

    Raises UserError for a format that is only read, and for a camera that the format cannot hold.
    """
    if format not in FORMATS or FORMATS[format].write is None:
        writable = [name for name, each in FORMATS.items() if each.write]
        raise UserError(f"{path}: format {format!r} cannot be written; these can: {', '.join(writable)}")
    check_rig(rig, str(path))
    FORMATS[format].write(rig, path)  # type: ignore[misc]


def _at(where: str, source: Path | Mapping[str, Path]) -> str:
    paths = list(source.values()) if isinstance(source, Mapping) else [source]
    shown = ", ".join(str(path) for path in dict.fromkeys(paths[:1] + paths[-1:]))
    return f"{where}: {shown}" if where else shown


def _one_each(source: Mapping[str, Path], format: str, where: str, options: Mapping[str, str]) -> Contents:
    if not source:
        raise UserError(f"{where or 'calibration'}: no calibration file is given")
    cameras = []
    for name, path in source.items():
        here = f"{where}, camera {name}" if where else f"camera {name}"
        found, recognised = _read(path, format, here, options, name)
        if len(found) != 1:
            raise UserError(
                f"{here}: {path}: holds {len(found)} cameras ({listed(c.name for c in found)}), and one file per camera was "
                "given; give the one file for all cameras"
            )
        cameras.append(replace(found[0], name=name))
    return Contents(cameras, recognised)


def _read(path: Path, format: str, where: str, options: Mapping[str, str], name: str = "") -> Contents:
    """The cameras of one file or folder, in the file's unit, and its format."""
    place = _at(where, path)
    name = name or path.stem.removesuffix("_params")
    is_part = path.name in FOLDER_FILES and path.is_file()
    folder = open_document(path.parent if is_part else path, place) if is_part or path.is_dir() else None
    if folder and (format in FOLDER_FORMATS or any(FORMATS[each].recognises(folder) for each in FOLDER_FORMATS)):
        recognised = _recognised(folder, place) if format == "auto" else format
        return Contents(_call(recognised, folder, name, _at(where, folder.path), options), recognised)
    if folder and path.is_dir():
        return _read_folder(folder, format, where, options)
    document = open_document(path, place, None if format == "auto" else FORMATS[format].kinds)
    recognised = _recognised(document, place) if format == "auto" else format
    return Contents(_call(recognised, document, name, place, options), recognised)


def _read_folder(folder: Document, format: str, where: str, options: Mapping[str, str]) -> Contents:
    """One camera per file: all files of a folder that are calibrations, of one format."""
    found: dict[str, list[Document]] = {}
    damaged: dict[Path, UserError] = {}
    for path in folder.content.values():
        kinds = {kind for name, each in FORMATS.items() if format in ("auto", name) for kind in each.kinds}
        try:
            document = open_document(path, _at(where, path), kinds)
        except UserError as error:
            damaged[path] = error
            continue
        for name, each in FORMATS.items():
            if format in ("auto", name) and document.kind in each.kinds and each.recognises(document):
                found.setdefault(name, []).append(document)
    place = _at(where, folder.path)
    if len(found) != 1:
        several = "; ".join(f"{name}: {listed(d.path.name for d in documents)}" for name, documents in found.items())
        raise UserError(
            f"{place}: " + (f"this folder holds calibrations of several formats ({several}): name one file, or state the format"
            if found else f"no calibration in this folder (format {format}). Looked for: {_looked_for(format)}")
        )  # fmt: skip
    ((name, documents),) = found.items()
    # A damaged neighbour is a camera that would be missing.
    for path, problem in damaged.items():
        if path.suffix in {document.path.suffix for document in documents}:
            raise problem
    cameras = []
    for document in sorted(documents, key=lambda document: natural_key(document.path.name)):
        stem = document.path.stem.removesuffix("_params")
        cameras += _call(name, document, stem, _at(where, document.path), options)
    return Contents(cameras, name)


def _recognised(document: Document, where: str) -> str:
    names = [name for name, each in FORMATS.items() if document.kind in each.kinds and each.recognises(document)]
    if len(names) != 1:
        problem = f"could be {' or '.join(names)}: state the format" if names else "no known calibration format"
        raise UserError(
            f"{where}: this {document.kind} {'is ' * (not names)}{problem}. Looked for: {_looked_for('auto')}"
        )
    return names[0]


def _looked_for(format: str) -> str:
    return "; ".join(f"{name}: {each.description}" for name, each in FORMATS.items() if format in ("auto", name))


def _call(format: str, document: Document, name: str, where: str, options: Mapping[str, Any]) -> list[Camera]:
    known = FORMATS[format].options
    for option, value in options.items():
        if option not in known:
            raise UserError(
                f"{where}: format {format} has no option {option!r}{f' (only {listed(known)})' if known else ''}"
            )
        if value not in known[option]:
            raise UserError(f"{where}: option {option} is {value!r}, not one of {', '.join(known[option])}")
    return FORMATS[format].read(document, name, where, **options)
