"""Shards from FaceLift's folders: all samples are checked, then written, and the import appears when it is complete."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
from mousefacelift.shards.folders import NAME, new_folder
from mousefacelift.shards.images import Image, decode_image, decode_masks
from mousefacelift.shards.imports.lists import is_file, samples_by_split
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.shards.sample import SampleMeta, opencv_cameras
from mousefacelift.shards.strict import first_problem

SAMPLES_PER_SHARD = 256
MASK = "mask_path"
PATCH = 8  # px: what the transformer cuts images into
WHITE = np.array([255, 255, 255, 0], np.uint8)


def import_facelift(
    folder: Path, output: Path, settings: Shard, fractions: SplitFractions | None = None, name: str | None = None, threads: int = 1
) -> None:  # fmt: skip
    """Write FaceLift's folders as shards: `{output}/{split}/{name}-{chunk}.tar` and .h5, and manifest.json.

    The lists in `folder` say which split a sample is for: data_train.txt, data_val.txt, data_test.txt, or other names with
    one of these words (`data_gslrm_val.txt`). A line names a sample's folder or its opencv_cameras.json, relative to the
    list or absolute. If no line of a list names a file, the data set was moved: then each line stands for the longest end
    of its path that exists beside the list. Without lists, `fractions` (default: 0.8, 0.1, 0.1) divides all
    opencv_cameras.json below the folder, in natural order of their paths, into contiguous blocks without gaps.

    A sample's key is its `id`, or else its folder's name and a number. Views keep their order. Pixels of alpha 0 become
    white; all else is kept, unknown keys of the JSON included. Masks that frames name as `mask_path`, as this package's exports
    do, say which pixels are unknown: those of value 0. `name`: of the shards, by default the folder's.

    Raises UserError, naming the file, for samples that are missing or listed twice; images that are missing, damaged,
    without alpha, not square, or not all of one size that is a multiple of 8 px; samples with different numbers of views;
    cameras that are not rigid, not level with +Z up, or do not look at the world's origin. Only what concerns pixels is
    found after writing has begun.
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
        raise UserError(f"{where}: images of {listed} px; they must be square and of one size, a multiple of {PATCH}")
    fxfycxcy = np.array(intrinsics)
    check_cameras(inverse_rigid(w2c)[None], fxfycxcy[None], [where])
    if "world_from_mm" in content:
        numbers(content, "world_from_mm", (4, 4), where)
    stored = content.get("views")
    named = isinstance(stored, list) and len(stored) == len(frames) and all(isinstance(view, str) for view in stored)
    views = tuple(stored if named and stored else names_from_files(names))
    return FaceLiftSample(content, frames, w2c, fxfycxcy, width, [path.parent / each for each in names], views)


def _checked(samples: dict[str, list[Path]], folder: Path) -> dict[str, list[SampleToImport]]:
    """Read and check every sample's JSON before hours of images: keys, numbers of views, sizes, missing files."""
    _check_splits(samples)
    done = track(sum(map(len, samples.values())), f"checking {folder}")
    found: dict[str, list[SampleToImport]] = {split: [] for split in samples}
    keys: dict[str, Path] = {}
    first: tuple[Path, FaceLiftSample] | None = None
    for split, paths in samples.items():
        for path in paths:
            sample = read_facelift(path)
            first = first or (path, sample)
            _check_alike(path, sample, *first)
            for file in sample.files:
                if not is_file(file):
                    raise UserError(f"{file}: no such image, but {path} lists it")
            number = len(keys)
            key = _key(path, sample, number)
            if key in keys:
                raise UserError(
                    f"{path}: its id {key!r} is also that of {keys[key]}: is one a copy of the other? Leave one out, or delete "
                    "the field 'id' from both"
                )
            keys[key] = path
            found[split].append(SampleToImport(path, key, number, sample.views, "world_from_mm" in sample.content))
            done()
    return found


def _check_splits(samples: dict[str, list[Path]]) -> None:
    places: dict[Path, str] = {}
    for split, paths in samples.items():
        for path in paths:
            before = places.setdefault(path.resolve(), split)
            if before != split:
                raise UserError(f"{path}: listed for {before} and for {split}, but a sample belongs to one split")


def _check_alike(path: Path, sample: FaceLiftSample, first_path: Path, first: FaceLiftSample) -> None:
    views, first_views = len(sample.files), len(first.files)
    if (views, sample.size) != (first_views, first.size):
        raise UserError(
            f"{path}: {views} views of {sample.size} px, but {first_path} has {first_views} of {first.size} px: all samples "
            "must have the same"
        )


def _key(path: Path, sample: FaceLiftSample, number: int) -> str:
    """A sample's id if that can be its key, else its folder's name and its number."""
    stored = sample.content.get("id")
    if isinstance(stored, str) and NAME.fullmatch(stored):
        return stored
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().parent.name)[:72].lstrip("_-")
    return f"{words or 'sample'}-{number:06d}"


def _runs(samples: list[SampleToImport]) -> Iterator[list[SampleToImport]]:
    """The samples of each shard: at most SAMPLES_PER_SHARD in a row whose views have the same names."""
    for _, group in groupby(samples, key=lambda sample: (sample.views, sample.placed)):
        alike = list(group)
        for begin in range(0, len(alike), SAMPLES_PER_SHARD):
            yield alike[begin : begin + SAMPLES_PER_SHARD]


def _write_shard(
    h5: Path, samples: list[SampleToImport], split: str, capture: str, settings: Shard, threads: int, done: Callable[[], None]
) -> None:  # fmt: skip
    def one(found: SampleToImport) -> tuple[SampleMeta, list[Image], list[bytes], NDArray[np.bool_] | None]:
        sample = read_facelift(found.path)
        images = [_read_view(file, sample.size, found.path) for file in sample.files]
        meta = _meta(found, sample, split, capture, settings.tar_codec)
        return meta, images, [encode_view(image, settings) for image in images], _read_unknown(sample, found.path)

    size = read_facelift(samples[0].path).size
    with ShardWriter(h5.with_suffix(".tar"), h5, len(samples), list(samples[0].views), size, settings) as writer:
        for written in in_order(one, samples, threads):
            writer.add(*written)
            done()


def _meta(found: SampleToImport, sample: FaceLiftSample, split: str, capture: str, codec: str) -> SampleMeta:
    """The JSON for the tar: all that FaceLift's holds, with this package's own keys set."""
    names = [f"{found.key}.cam{i}.{codec}" for i in range(len(sample.files))]
    cameras = opencv_cameras(sample.w2c, sample.fxfycxcy, sample.size, names)
    kept = [{key: value for key, value in frame.items() if key != MASK} for frame in sample.frames]
    frames = [{**frame, **camera.model_dump()} for frame, camera in zip(kept, cameras, strict=True)]
    stored = {"id": found.key, "capture": capture, "frame": found.number} | dict(sample.content)
    whole = type(stored["frame"]) is int and abs(stored["frame"]) < 2**63
    known = {
        "id": found.key, "capture": str(stored["capture"]), "frame": stored["frame"] if whole else found.number,
        "split": split, "views": list(found.views), "frames": frames,
    }  # fmt: skip
    try:
        return SampleMeta.model_validate(stored | known)
    except ValidationError as error:
        raise UserError(f"{found.path}: {first_problem(error)}") from None


def _read_unknown(sample: FaceLiftSample, path: Path) -> NDArray[np.bool_] | None:
    """The views' unknown pixels [V, size, size], where the frames' masks are 0; None without masks. Raises UserError."""
    if not any(MASK in frame for frame in sample.frames):
        return None
    unknown = []
    for i, frame in enumerate(sample.frames):
        file = path.parent / str(field(frame, MASK, f"{path}, frames[{i}]"))
        try:
            mask = ~decode_masks(file.read_bytes(), 1, str(file))[0]
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}), but {path} lists it") from None
        if len(mask) != sample.size:
            raise UserError(f"{file}: {len(mask)} px, but {path} says {sample.size} px")
        unknown.append(mask)
    return np.stack(unknown)


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
        raise UserError(
            f"{file}: {width}x{height} px, but {listed_in} says {size}x{size}: image and cameras do not belong together"
        )
    if image[..., 3].min() == 255:
        raise UserError(f"{file}: alpha is 255 everywhere: the image holds no silhouette, and none is guessed")
    return np.where(image[..., 3:] > 0, image, WHITE)
