"""Masks in COCO's format: images, and annotations with run lengths or polygons."""

import re
from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.masks.objects import ObjectMasks

TRACKS = ("track_id", "instance_id", "object_id", "tracking_id")  # where programs put an animal's number


def recognises(document: Any) -> bool:
    """Whether a JSON document is in COCO's format."""
    return isinstance(document, dict) and {"images", "annotations"} <= set(document)


def read(document: dict[str, Any], path: Path) -> ObjectMasks:
    """The masks of a file.

    A frame is the last number in an image's `file_name`; where names have none, images follow in the order of their ids. An
    animal's number is the annotation's track, or without tracks its category.

    Raises UserError for images of several sizes or with the same number, annotations of unknown images, and two animals of
    one number in a frame.
    """
    images = _list(document, "images", ("id", "width", "height"), path)
    annotations = _list(document, "annotations", ("image_id", "segmentation"), path)
    sizes = {(image["width"], image["height"]) for image in images}
    if len(sizes) != 1 or not all(type(n) is int and 0 < n < 2**16 for n in next(iter(sizes))):
        raise UserError(
            f"{path}: its images have the sizes {sorted(sizes, key=str)[:4]}; one camera's file has one size, px"
        )
    frame_of, numbered = _frames(images, path)
    frames: dict[int, dict[int, Any]] = {frame: {} for frame in frame_of.values()}
    for annotation in annotations:
        if annotation["image_id"] not in frame_of:
            raise UserError(f"{path}: an annotation is of image {annotation['image_id']!r}, which is not in the file")
        frame, label = frame_of[annotation["image_id"]], _label(annotation, path)
        if label in frames[frame]:
            raise UserError(
                f"{path}, frame {frame}: two annotations have the number {label}, so that animals cannot be told apart; give "
                "each its track_id, or unite the parts of one animal"
            )
        frames[frame][label] = annotation["segmentation"]
    return ObjectMasks(path, next(iter(sizes)), frames, numbered)


def _list(document: dict[str, Any], key: str, needed: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    entries = document[key]
    if isinstance(entries, list) and entries and isinstance(entries[0], dict) and "segmentations" in entries[0]:
        raise UserError(
            f"{path}: annotations hold segmentations of a whole video (YouTube-VIS); export COCO with one per image"
        )
    if not isinstance(entries, list) or not all(isinstance(e, dict) and set(needed) <= set(e) for e in entries):
        raise UserError(f"{path}: {key} is not a list of entries with {', '.join(needed)}")
    if key == "images" and not entries:
        raise UserError(f"{path}: holds no images")
    return entries


def _frames(images: list[dict[str, Any]], path: Path) -> tuple[dict[Any, int], bool]:
    """Each image's frame by its id, and whether file names number the frames."""
    ids = [image["id"] for image in images]
    if not all(type(each) in (int, str) for each in ids) or len(set(ids)) < len(ids):
        raise UserError(f"{path}: the images' ids are not numbers or names that differ")
    matches = [re.search(r"(\d{1,9})\D*$", Path(str(image.get("file_name", ""))).stem) for image in images]
    if all(matches):
        numbers = [int(match[1]) for match in matches if match]
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{path}: two images have the same number in their file_name; write one file per camera")
        return dict(zip(ids, numbers, strict=True)), True
    return {each: k for k, each in enumerate(sorted(ids, key=lambda each: (isinstance(each, str), each)))}, False


def _label(annotation: dict[str, Any], path: Path) -> int:
    """The number of an annotation's animal."""
    inner = annotation.get("attributes")
    for source in (annotation, inner if isinstance(inner, dict) else {}):
        for key in TRACKS:
            if source.get(key) is not None:
                return _number(source[key], key, path)
    return _number(annotation.get("category_id", 1), "category_id", path)


def _number(value: Any, key: str, path: Path) -> int:
    if type(value) is int and value >= 0:
        return value
    raise UserError(f"{path}: {key} of an annotation is {value!r:.40}, not a whole number from 0 on")
