"""Samples for other programs and back: FaceLift's folders and nerfstudio's transforms.json out, FaceLift's folders in.

A sample is a folder with `images/cam_000.png`, … (RGBA, straight alpha) and one JSON: FaceLift's `opencv_cameras.json` or
`transforms.json`, each with everything else that the shard tells of the sample (id, frame, time_s, world_from_mm, …) under
keys that these programs ignore. Pixels and cameras are the shard's, to the last bit: nothing is resampled or moved.

An export or import appears under its name when it is complete, and never in a folder that holds something already.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.base.parallel import in_order
from mousefacelift.base.progress import track
from mousefacelift.config.sample import SPLITS, SplitFractions
from mousefacelift.config.shard import Shard
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.selection import allocate
from mousefacelift.geometry.views import inverse_rigid
from mousefacelift.rigs.checks import field, image_size, number, numbers
from mousefacelift.rigs.containers.documents import open_document
from mousefacelift.rigs.formats.facelift import FACELIFT_FILE, check_last_row, frames_of
from mousefacelift.rigs.formats.transforms import OPENGL_FROM_OPENCV
from mousefacelift.rigs.names import names_from_files
from mousefacelift.shards.containers import (
    ShardWriter,
    TarSample,
    encode_view,
    meta_cameras,
    opencv_cameras,
    shard_samples,
)
from mousefacelift.shards.images import SIGNATURES, Image, decode_image, encode_image
from mousefacelift.shards.manifest import Manifest, read_manifest, write_manifest
from mousefacelift.shards.verify import check_cameras, refuse_damaged

TRANSFORMS_FILE = "transforms.json"
SAMPLES_PER_SHARD = 256
# What a tar, a shard's name and a folder can all hold: a dot would end the key of a member of a tar.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
LIST_WORDS = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}, "test": {"test", "testing"}}
PATCH = 8  # px: what the transformer cuts images into
WHITE = np.array([255, 255, 255, 0], np.uint8)


def export_facelift(manifest: Path | str, folder: Path, splits: Sequence[str] = SPLITS, threads: int = 1) -> None:
    """Write shards as FaceLift reads them: `{folder}/{split}/{key}/opencv_cameras.json`, images beside it, and lists.

    `{folder}/data_{split}.txt` names a sample's folder in each line, as an absolute path: FaceLift's loader appends
    /opencv_cameras.json to the line and takes a relative path from wherever it was started. A split without samples has
    no list. Raises UserError if the folder is not new or empty, if there is no sample, or for damaged shards.
    """
    final = folder.resolve()
    with _new_folder(folder) as temporary:
        lists: dict[str, list[Path]] = {}
        for split, key in _export(manifest, temporary, splits, threads, _facelift_document, FACELIFT_FILE):
            lists.setdefault(split, []).append(final / split / key)
        for split, samples in lists.items():
            text = "".join(f"{sample}\n" for sample in samples)
            (temporary / f"data_{split}.txt").write_text(text, encoding="utf-8")


def export_transforms(manifest: Path | str, folder: Path, splits: Sequence[str] = SPLITS, threads: int = 1) -> None:
    """Write shards for nerfstudio: every sample is a scene, `{folder}/{split}/{key}/transforms.json` with its images.

    Camera axes are OpenGL's, the world stays the sample's, and the first pixel's centre is at (0.5, 0.5), as nerfstudio
    has it. Raises UserError as `export_facelift`.
    """
    with _new_folder(folder) as temporary:
        for _ in _export(manifest, temporary, splits, threads, _transforms_document, TRANSFORMS_FILE):
            pass


def _facelift_document(meta: dict[str, Any], names: list[str], size: int) -> dict[str, Any]:
    frames = [frame | {"file_path": name} for frame, name in zip(meta["frames"], names, strict=True)]
    return meta | {"frames": frames}


def _transforms_document(meta: dict[str, Any], names: list[str], size: int) -> dict[str, Any]:
    c2w, fxfycxcy = meta_cameras(meta)
    c2w[:, :3, :3] *= OPENGL_FROM_OPENCV
    frames = [
        {
            "file_path": name, "w": size, "h": size,
            **dict(zip(("fl_x", "fl_y", "cx", "cy"), k, strict=True)),
            "transform_matrix": pose,
        }
        for name, k, pose in zip(names, fxfycxcy.tolist(), c2w.tolist(), strict=True)
    ]  # fmt: skip
    return {"camera_model": "OPENCV"} | meta | {"frames": frames}


def _export(
    manifest: Path | str, folder: Path, splits: Sequence[str], threads: int,
    document: Callable[[dict[str, Any], list[str], int], dict[str, Any]], file_name: str,
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Write a folder per sample, its JSON after its images; yields split and key in the shards' order."""
    data = read_manifest(manifest)
    shards = [shard for split in splits for shard in data.split(split)]
    if not shards:
        raise UserError(f"{manifest}: no sample is for {' or '.join(splits)}")
    refuse_damaged(data, "tar", splits, threads)
    done = track(sum(shard["samples"] for shard in shards), f"export {manifest}")

    def one(item: tuple[str, str, TarSample]) -> tuple[str, str]:
        split, where, sample = item
        meta = sample.meta(where)
        # Decoded even where the file is copied: a damaged picture stops here, not in the other program.
        images = sample.images(where)
        target, names = folder / split / sample.key, [f"images/cam_{i:03d}.png" for i in range(data.views)]
        (target / "images").mkdir(parents=True)
        for name, file, image in zip(names, sample.files, images, strict=True):
            is_png = file.startswith(SIGNATURES["png"])
            (target / name).write_bytes(file if is_png else encode_image(image, "png", 1))
        text = json.dumps(document(meta, names, len(images[0])), indent=2, allow_nan=False) + "\n"
        (target / file_name).write_text(text, encoding="utf-8")
        done()
        return split, sample.key

    yield from in_order(one, _exported(data, shards), threads)


def _exported(data: Manifest, shards: list[dict[str, Any]]) -> Iterator[tuple[str, str, TarSample]]:
    """SplitFractions, name of the tar and sample, for every sample of the shards."""
    seen: dict[str, str] = {}
    for shard in shards:
        path = data.location(shard, "tar")
        for sample in shard_samples(data, shard):
            if not NAME.fullmatch(sample.key):
                raise UserError(f"{path}, sample {sample.key!r}: cannot be the name of a folder")
            if sample.key in seen:
                raise UserError(f"{path}: sample {sample.key} is also in {seen[sample.key]}")
            seen[sample.key] = path
            yield shard["split"], path, sample


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
    with _new_folder(output) as temporary:
        found = _checked(_samples_by_split(folder, fractions), folder)
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
class Found:
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


def _checked(samples: dict[str, list[Path]], folder: Path) -> dict[str, list[Found]]:
    """Every sample's JSON read and checked, before hours of images: keys, numbers of views, sizes, files that are there."""
    done = track(sum(map(len, samples.values())), f"checking {folder}")
    found: dict[str, list[Found]] = {split: [] for split in samples}
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
                if not _is_file(file):
                    raise UserError(f"{file}: no such image, but {path} lists it")
            stored, place = sample.content.get("id"), len(keys)
            key = stored if isinstance(stored, str) and NAME.fullmatch(stored) else _key(path, place)
            if key in keys:
                raise UserError(
                    f"{path}: its id {key!r} is also that of {keys[key]}: is one a copy of the other? Leave one out, or delete "
                    "the field 'id' from both"
                )
            keys[key] = path
            found[split].append(Found(path, key, place, sample.views, "world_from_mm" in sample.content))
            done()
    return found


def _key(path: Path, place: int) -> str:
    """A key for a sample without a usable id, by its folder."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().parent.name)[:72].lstrip("_-")
    return f"{words or 'sample'}-{place:06d}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null character
        return False


def _runs(samples: list[Found]) -> Iterator[list[Found]]:
    """The samples of each shard: a few hundred in a row with one naming of the views."""
    for _, group in groupby(samples, key=lambda sample: (sample.views, sample.placed)):
        alike = list(group)
        for begin in range(0, len(alike), SAMPLES_PER_SHARD):
            yield alike[begin : begin + SAMPLES_PER_SHARD]


def _write_shard(
    h5: Path, samples: list[Found], split: str, capture: str, settings: Shard, threads: int, done: Callable[[], None]
) -> None:  # fmt: skip
    def one(found: Found) -> tuple[dict[str, Any], list[Image], list[bytes]]:
        sample = read_facelift(found.path)
        images = [_read_view(file, sample.size, found.path) for file in sample.files]
        names = [f"{found.key}.cam{i}.{settings.tar_codec}" for i in range(len(images))]
        cameras = opencv_cameras(sample.w2c, sample.fxfycxcy, sample.size, names)
        frames = [{**frame, **camera} for frame, camera in zip(sample.frames, cameras, strict=True)]
        stored = {"id": found.key, "capture": capture, "frame": found.number} | dict(sample.content)
        whole = type(stored["frame"]) is int and abs(stored["frame"]) < 2**63
        known = {
            "id": found.key, "capture": str(stored["capture"]), "frame": stored["frame"] if whole else found.number,
            "split": split, "views": list(found.views), "frames": frames,
        }  # fmt: skip
        return stored | known, images, [encode_view(image, settings) for image in images]

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


def _samples_by_split(folder: Path, fractions: SplitFractions | None) -> dict[str, list[Path]]:
    """The opencv_cameras.json of each split's samples; splits without samples are left out."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    lists = _lists(folder)
    if lists and fractions:
        raise UserError(
            f"{folder}: {', '.join(path.name for path in lists.values())} say which split a sample is of: leave out "
            "--fractions, or move the lists away"
        )
    if lists:
        samples = {split: _listed(path) for split, path in lists.items()}
    else:
        below = (path.relative_to(folder) for path in folder.rglob(FACELIFT_FILE))
        # A hidden folder may be another program's, half-written.
        visible = (path for path in below if not any(part.startswith(".") for part in path.parts))
        paths = [folder / path for path in sorted(visible, key=lambda path: (natural_key(str(path)), path))]
        counts = allocate(len(paths), fractions or SplitFractions()) if paths else {}
        ends = np.cumsum(list(counts.values())).tolist()
        samples = {split: paths[end - count : end] for (split, count), end in zip(counts.items(), ends, strict=True)}
    samples = {split: paths for split, paths in samples.items() if paths}
    if not samples:
        raise UserError(f"{folder}: no samples: neither a list names one, nor is there an {FACELIFT_FILE} below it")
    return samples


def _lists(folder: Path) -> dict[str, Path]:
    """The list file of each split, by the words in its name."""
    lists: dict[str, Path] = {}
    for path in sorted(folder.glob("*.txt")):
        words = set(re.findall("[a-z]+", path.stem.lower()))
        named = [split for split in SPLITS if words & LIST_WORDS[split]]
        if len(named) > 1:
            raise UserError(f"{path}: is this the list of {' or of '.join(named)}? Rename it")
        if named and named[0] in lists:
            raise UserError(f"{path}: {lists[named[0]].name} is a list of {named[0]} too: move one of them away")
        lists |= dict.fromkeys(named, path)
    return {split: lists[split] for split in SPLITS if split in lists}


def _listed(path: Path) -> list[Path]:
    """The opencv_cameras.json that a list names. Raises UserError, naming list and line, for what is missing or twice there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of samples ({error})") from None
    rows = [(n, Path(line.strip())) for n, line in enumerate(lines, 1) if line.strip()]
    places = [(n, row if row.name == FACELIFT_FILE else row / FACELIFT_FILE) for n, row in rows]
    found = {n: path.parent / place for n, place in places}
    if not any(map(_is_file, found.values())):
        found = {n: _moved(path.parent, place) for n, place in places}
    seen: dict[Path, int] = {}
    for n, place in found.items():
        if not _is_file(place):
            raise UserError(f"{path}, line {n}: {place}: no such file")
        if place in seen:
            raise UserError(f"{path}, line {n}: {place} stands in line {seen[place]} already")
        seen[place] = n
    return list(seen)


def _moved(folder: Path, place: Path) -> Path:
    """The longest end of a path that is there in the folder; else the path as it is."""
    parts = [part for part in place.parts if part not in (place.anchor, "..")]
    ends = (folder.joinpath(*parts[k:]) for k in range(len(parts) - 1))
    return next((end for end in ends if _is_file(end)), folder / place)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; rename it to `folder` on success, delete it on failure.

    What a killed writer of the same folder left behind is deleted first. Raises UserError if `folder` is there and is
    anything but an empty folder: nothing is written over, and nothing mixed.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already there, and not an empty folder; name a new one, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(folder.name)}\.[0-9]+\.partial", stale.name):
            shutil.rmtree(stale)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
