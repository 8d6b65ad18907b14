"""FaceLift's folders as shards.

An import appears under its name when it is complete, and never in a folder that holds something already.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from mousefacelift.base.errors import UserError
from mousefacelift.base.parallel import in_order
from mousefacelift.base.progress import track
from mousefacelift.config.sample import SplitFractions
from mousefacelift.config.shard import Shard
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.views import inverse_rigid
from mousefacelift.rigs.checks import field, image_size, number, numbers
from mousefacelift.rigs.containers.documents import open_document
from mousefacelift.rigs.formats.facelift import check_last_row, frames_of
from mousefacelift.rigs.names import names_from_files
from mousefacelift.shards.cameras import check_cameras
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.fields import first_problem
from mousefacelift.shards.folders import NAME, new_folder
from mousefacelift.shards.images import Image, decode_image
from mousefacelift.shards.imports.lists import is_file, samples_by_split
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.shards.sample import SampleMeta, opencv_cameras

SAMPLES_PER_SHARD = 256
PATCH = 8  # px: what the transformer cuts images into
WHITE = np.array([255, 255, 255, 0], np.uint8)


def import_facelift(
    folder: Path, output: Path, settings: Shard, fractions: SplitFractions | None = None, name: str | None = None, threads: int = 1
) -> None:  # fmt: skip
    """Write FaceLift's folders as shards: `{output}/{split}/{name}-{chunk}.tar` and .h5, and manifest.json.

    Splits are those of the lists in `folder`: data_train.txt, data_val.txt, data_test.txt, or other names with one of
    these words (`data_gslrm_val.txt`); a line names a sample's folder or its opencv_cameras.json, relative to the list or
    absolute. Of a data set that was moved, no line of a list is true any more: then a line means the longest end of its
    path that is there beside the list. Without lists, all opencv_cameras.json below the folder, in natural order of
    their paths, are divided into contiguous blocks by `fractions` (default: 0.8, 0.1, 0.1), with nothing left out between.

    A sample's key is its `id`, or else its folder's name and number. Views stay in their order. Pixels of alpha 0 become
    white; all else is kept, whatever other keys the JSON has included. `name`: of the shards, by default the folder's.

    Raises UserError, naming the file, for samples that are missing or twice there, images that are missing, damaged,
    without alpha, not square, not of one size and a multiple of 8 px, other numbers of views, and cameras that are not
    rigid, not level with +Z up, or do not look at the world's origin; before anything is written, but for the images.
    """
    name = folder.resolve().name if name is None else name
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of shards: give one of letters, digits, _ and - (--name)")
    with new_folder(output) as temporary:
        found = _checked(samples_by_split(folder, fractions), folder)
        done = track(sum(map(len, found.values())), f"import {folder}")
        written = []
        for split, samples in found.items():
            for chunk, run in enumerate(_runs(samples)):
                written.append(temporary / split / f"{name}-{chunk:04d}.h5")
                _write_shard(written[-1], run, split, name, settings, threads, done)
        write_manifest(written, temporary / "manifest.json", needed=(), threads=threads)


@dataclass(frozen=True)
class FaceLiftSample:
    """One opencv_cameras.json.

    content: all of it. frames: its list of V views. w2c: [V, 4, 4]; fxfycxcy: [V, 4] px; size: of the square images, px.
    files: the V images. views: their names.
    """

    content: Mapping[str, Any]
    frames: list[Mapping[str, Any]]
    w2c: Array
    fxfycxcy: Array
    size: int
    files: list[Path]
    views: tuple[str, ...]


@dataclass(frozen=True)
class SampleToImport:
    """A sample to import: its opencv_cameras.json, its key and number, and what samples of one shard have in common.

    views: their names; placed: whether world_from_mm is known.
    """

    path: Path
    key: str
    number: int
    views: tuple[str, ...]
    placed: bool


def read_facelift(path: Path) -> FaceLiftSample:
    """Read and check one opencv_cameras.json; the images are not opened. Raises UserError as `import_facelift`."""
    where = str(path)
    content = open_document(path, where, {"JSON"}).content
    frames = frames_of(content, where)
    if not frames:
        raise UserError(f"{where}: frames is empty: a sample needs views")
    places = [f"{where}, frames[{i}]" for i in range(len(frames))]
    w2c = np.stack([numbers(frame, "w2c", (4, 4), place) for frame, place in zip(frames, places, strict=True)])
    sizes, intrinsics, names = set(), [], []
    for frame, pose, place in zip(frames, w2c, places, strict=True):
        check_last_row(pose, "w2c", place)
        intrinsics.append([number(frame, key, place) for key in ("fx", "fy", "cx", "cy")])
        sizes.add(image_size([number(frame, key, place) for key in ("w", "h")], "w, h", place))
        names.append(str(field(frame, "file_path", place)))
    width, height = min(sizes)
    if len(sizes) > 1 or width != height or width % PATCH:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise UserError(
            f"{where}: images of {listed} px; they must be square, of one size, and that a multiple of {PATCH}"
        )
    fxfycxcy = np.array(intrinsics)
    check_cameras(inverse_rigid(w2c)[None], fxfycxcy[None], [where])
    if "world_from_mm" in content:
        numbers(content, "world_from_mm", (4, 4), where)
    stored = content.get("views")
    named = isinstance(stored, list) and len(stored) == len(frames) and all(isinstance(view, str) for view in stored)
    views = tuple(stored if named and stored else names_from_files(names))
    return FaceLiftSample(content, frames, w2c, fxfycxcy, width, [path.parent / each for each in names], views)


def _checked(samples: dict[str, list[Path]], folder: Path) -> dict[str, list[SampleToImport]]:
    """Every sample's JSON read and checked, before hours of images: keys, numbers of views, sizes, files that are there."""
    done = track(sum(map(len, samples.values())), f"checking {folder}")
    found: dict[str, list[SampleToImport]] = {split: [] for split in samples}
    keys: dict[str, Path] = {}
    places: dict[Path, str] = {}
    first: tuple[Path, int, int] | None = None
    for split, paths in samples.items():
        for path in paths:
            before = places.setdefault(path.resolve(), split)
            if before != split:
                raise UserError(f"{path}: listed for {before} and for {split}: a sample is of one split")
            sample = read_facelift(path)
            shape = (len(sample.files), sample.size)
            first = first or (path, *shape)
            if shape != first[1:]:
                raise UserError(
                    f"{path}: {shape[0]} views of {shape[1]} px, but {first[0]} has {first[1]} of {first[2]} px: all samples "
                    "need the same"
                )
            for file in sample.files:
                if not is_file(file):
                    raise UserError(f"{file}: no such image, but {path} lists it")
            stored, place = sample.content.get("id"), len(keys)
            key = stored if isinstance(stored, str) and NAME.fullmatch(stored) else _key(path, place)
            if key in keys:
                raise UserError(
                    f"{path}: its id {key!r} is also that of {keys[key]}: is one a copy of the other? Leave one out, or delete "
                    "the field 'id' from both"
                )
            keys[key] = path
            found[split].append(SampleToImport(path, key, place, sample.views, "world_from_mm" in sample.content))
            done()
    return found


def _key(path: Path, place: int) -> str:
    """A key for a sample without a usable id, by its folder."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().parent.name)[:72].lstrip("_-")
    return f"{words or 'sample'}-{place:06d}"


def _runs(samples: list[SampleToImport]) -> Iterator[list[SampleToImport]]:
    """The samples of each shard: a few hundred in a row with one naming of the views."""
    for _, group in groupby(samples, key=lambda sample: (sample.views, sample.placed)):
        alike = list(group)
        for begin in range(0, len(alike), SAMPLES_PER_SHARD):
            yield alike[begin : begin + SAMPLES_PER_SHARD]


def _write_shard(
    h5: Path, samples: list[SampleToImport], split: str, capture: str, settings: Shard, threads: int, done: Callable[[], None]
) -> None:  # fmt: skip
    def one(found: SampleToImport) -> tuple[SampleMeta, list[Image], list[bytes]]:
        sample = read_facelift(found.path)
        images = [_read_view(file, sample.size, found.path) for file in sample.files]
        names = [f"{found.key}.cam{i}.{settings.tar_codec}" for i in range(len(images))]
        cameras = opencv_cameras(sample.w2c, sample.fxfycxcy, sample.size, names)
        frames = [{**frame, **camera.model_dump()} for frame, camera in zip(sample.frames, cameras, strict=True)]
        stored = {"id": found.key, "capture": capture, "frame": found.number} | dict(sample.content)
        whole = type(stored["frame"]) is int and abs(stored["frame"]) < 2**63
        known = {
            "id": found.key, "capture": str(stored["capture"]), "frame": stored["frame"] if whole else found.number,
            "split": split, "views": list(found.views), "frames": frames,
        }  # fmt: skip
        try:
            meta = SampleMeta.model_validate(stored | known)
        except ValidationError as error:
            raise UserError(f"{found.path}: {first_problem(error)}") from None
        return meta, images, [encode_view(image, settings) for image in images]

    size = read_facelift(samples[0].path).size
    with ShardWriter(h5.with_suffix(".tar"), h5, len(samples), list(samples[0].views), size, settings) as writer:
        for meta, images, files in in_order(one, samples, threads):
            writer.add(meta, images, files)
            done()


def _read_view(file: Path, size: int, listed_in: Path) -> Image:
    """One view [size, size, 4] RGBA, white where alpha is 0. Raises UserError naming the file."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        image = decode_image(data, str(file))
    except UserError as error:
        raise UserError(
            f"{error}; the silhouette is read from alpha, and is not guessed from a white background"
        ) from None
    height, width = image.shape[:2]
    if (width, height) != (size, size):
        raise UserError(f"{file}: {width}x{height} px, but {listed_in} says {size}x{size}: whose cameras are these?")
    if image[..., 3].min() == 255:
        raise UserError(f"{file}: alpha is 255 everywhere: there is no silhouette in it, nor is one guessed")
    return np.where(image[..., 3:] > 0, image, WHITE)
