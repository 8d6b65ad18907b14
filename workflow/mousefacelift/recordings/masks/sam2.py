"""Masks as scripts around SAM 2's video predictor write them: frame -> object's id -> run-length code or rows of 0 and 1."""

from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.masks.objects import ObjectMasks
from mousefacelift.recordings.masks.rle import is_rle, rle_size


def recognises(document: Any) -> bool:
    """Whether a JSON document maps frames to objects, or holds SAM's masks in another way, which `read` names."""
    inner = _frames(document)
    return (bool(inner) and all(key.isdecimal() for key in inner)) or _automatic(document)


def read(document: Any, path: Path) -> ObjectMasks:
    """The masks of a file. A frame's key is its place in the video, from 0.

    Raises UserError for masks of SAM's automatic generator, which says nothing of what stays the same from frame to frame, and
    for anything else that is not of this form.
    """
    if _automatic(document):
        raise UserError(
            f"{path}: holds the masks of SAM's automatic generator (segmentation, bbox), which do not say which one is the "
            "mouse; track it with SAM 2's video predictor: docs/captures.md has a script"
        )
    frames = {}
    for key, objects in _frames(document).items():
        if not isinstance(objects, dict) or not all(each.isdecimal() and len(each) < 10 for each in objects):
            raise UserError(f"{path}, frame {key}: expected objects by their number, found {objects!r:.60}")
        if len(key) > 9 or int(key) in frames:
            raise UserError(f"{path}: frame {key:.20} is no frame's number, or is there twice")
        frames[int(key)] = {int(each): _plane(shape) for each, shape in objects.items()}
    return ObjectMasks(path, _size(frames, path), frames, numbered=False)


def _frames(document: Any) -> dict[str, Any]:
    """The frames of a document, which may be below one name."""
    if not isinstance(document, dict):
        return {}
    if len(document) == 1 and not next(iter(document)).isdecimal():
        document = next(iter(document.values()))
    return document if isinstance(document, dict) else {}


def _automatic(document: Any) -> bool:
    """Whether the document is one list of masks with boxes, or one per frame."""
    if isinstance(document, dict) and document and all(isinstance(each, list) for each in document.values()):
        document = next((each for each in document.values() if each), [])
    if isinstance(document, list) and document and isinstance(document[0], list):
        document = document[0]
    return (
        isinstance(document, list)
        and bool(document)
        and isinstance(document[0], dict)
        and "segmentation" in document[0]
    )


def _plane(shape: Any) -> Any:
    """Rows of a mask without the axis of length 1 that SAM 2's masks have."""
    return shape[0] if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], list) else shape


def _size(frames: dict[int, dict[int, Any]], path: Path) -> tuple[int, int]:
    """Width and height by the first mask."""
    shape = next((shape for objects in frames.values() for shape in objects.values()), None)
    if isinstance(shape, dict) and is_rle(shape):
        return rle_size(shape, str(path))
    if isinstance(shape, list) and shape and isinstance(shape[0], list) and shape[0]:
        return len(shape[0]), len(shape)
    raise UserError(f"{path}: a mask is neither a run-length code (size, counts) nor rows of 0 and 1: {shape!r:.60}")
