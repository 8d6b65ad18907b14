"""The forms of mask files, recognised by content and then by name.

Add a form: write a module beside these, and one line in FORMS. Nothing else lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import parse_json
from mousefacelift.recordings.masks import coco, hdf5, numpy_files, sam2
from mousefacelift.recordings.masks.pictures import ImageMasks, VideoMasks
from mousefacelift.recordings.masks.stored import MaskFile
from mousefacelift.recordings.video import VIDEO_SUFFIXES, first_image


@dataclass(frozen=True)
class Form:
    """A form of mask files.

    description: what the form is, for people.
    recognises: whether a file, given by its path and its first bytes, or its JSON document if it is one, is of this form.
    open: reads what its headers say; raises UserError. Given the path and the document.
    """

    description: str
    recognises: Callable[[Path, bytes, Any], bool]
    open: Callable[[Path, Any], MaskFile]


FORMS: dict[str, Form] = {
    "images": Form(
        "a folder of PNG, TIFF, BMP or JPEG images; palettes, 16 bits and alpha channels are kept",
        lambda path, head, document: path.is_dir() and first_image(path) is not None,
        lambda path, document: ImageMasks(path),
    ),
    "npy": Form(
        "a NumPy array [frames, height, width]",
        lambda path, head, document: head.startswith(numpy_files.NPY),
        lambda path, document: numpy_files.read_npy(path),
    ),
    "npz": Form(
        "NumPy arrays: one of all frames, one per frame, or one per frame and animal",
        lambda path, head, document: head.startswith(numpy_files.ZIP) and path.suffix.lower() != ".zip",
        lambda path, document: numpy_files.read_npz(path),
    ),
    "hdf5": Form(
        "datasets as for npz, also of MATLAB's version 7.3",
        lambda path, head, document: hdf5.SIGNATURE in (head[:8], head[512:520]),
        lambda path, document: hdf5.read(path),
    ),
    "coco": Form(
        "COCO's JSON: images, and annotations with run lengths or polygons",
        lambda path, head, document: coco.recognises(document),
        lambda path, document: coco.read(document, path),
    ),
    "sam2": Form(
        "JSON from SAM 2's video predictor: frame, object, and run lengths or rows",
        lambda path, head, document: sam2.recognises(document),
        lambda path, document: sam2.read(document, path),
    ),
    "video": Form(
        "a video, or a folder with its parts",
        lambda path, head, document: document is None and not head.startswith(numpy_files.ZIP),
        lambda path, document: _video(path),
    ),
}


def open_masks(path: Path) -> MaskFile:
    """A camera's masks, opened by what the file holds. Raises UserError if it is missing or of no known form."""
    return _opened(path, _state(path))[1]


def form_of(path: Path) -> str:
    """The name of a mask file's form. Raises UserError as `open_masks`."""
    return _opened(path, _state(path))[0]


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: no such mask file or folder ({error.strerror})") from None
    return stat.st_mtime_ns, stat.st_size


# A parsed JSON file stays for as long as one camera's frames are read, and for all cameras of a large rig.
@lru_cache(maxsize=64)
def _opened(path: Path, state: tuple[int, int]) -> tuple[str, MaskFile]:
    head, document = b"", None
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(1024)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            document = _document(path)
    for name, form in FORMS.items():
        if form.recognises(path, head, document):
            return name, form.open(path, document)
    raise UserError(f"{path}: not a form of masks that is read. {_known()}")


def _known() -> str:
    return "These are: " + "; ".join(f"{name}: {form.description}" for name, form in FORMS.items())


def _video(path: Path) -> MaskFile:
    try:
        return VideoMasks(path)
    except UserError as error:
        if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
            raise
        raise UserError(f"{error}. {_known()}") from None


def _document(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from None
