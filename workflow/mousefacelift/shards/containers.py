"""Shards on disk: a WebDataset tar and an HDF5 file, side by side, with the same samples.

Tar: `{key}.cam0.png` to `{key}.cam5.png` and `{key}.json` per sample, samples one after the other. HDF5: the same as
arrays, one sample per chunk. Another program must import hdf5plugin before it reads the images, for their codec.

A sample with unknown pixels (`geometry.unknown`) has `{key}.unknown.png` before its JSON: the views' masks, one below the
other. The HDF5 file then has the dataset `unknown`, which a shard without such a sample lacks.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.config.shard import Shard
from mousefacelift.shards.images import Image, decode_image, decode_masks, encode_image, encode_masks
from mousefacelift.shards.manifest import Manifest, ShardEntry
from mousefacelift.shards.sample import SampleMeta
from mousefacelift.shards.strict import first_problem

UNKNOWN = "unknown"  # the member with a sample's unknown pixels, and the dataset
FIELDS = {"c2w": (4, 4), "fxfycxcy": (4,)}  # of each view
# For codecs whose level the settings do not name.
LEVELS = {"png": 1, "webp": 4, "qoi": 0, "zstd": 3, "blosc-lz4": 5, "blosc-zstd": 3, "gzip": 1}


def h5_codec(settings: Shard) -> dict[str, Any]:
    """h5py's arguments for the compression of images."""
    codec, level = settings.h5_codec, settings.h5_level
    if level is None:
        level = LEVELS.get(codec)
    if codec == "zstd":
        return dict(hdf5plugin.Zstd(clevel=level))
    if codec == "lz4":
        return dict(hdf5plugin.LZ4())
    if codec.startswith("blosc-"):
        return dict(hdf5plugin.Blosc(codec.removeprefix("blosc-"), clevel=level, shuffle=0))
    return {"compression": codec, "compression_opts": level if codec == "gzip" else None}


def encode_view(rgba: Image, settings: Shard) -> bytes:
    """A view as the tar's member."""
    level = LEVELS[settings.tar_codec] if settings.tar_level is None else settings.tar_level
    return encode_image(rgba, settings.tar_codec, level)


class ShardWriter:
    """Writes a tar and an HDF5 file in one pass; both appear under their final names only when complete.

    The same samples give the same bytes: no times, owners or hash orders are written.
    """

    def __init__(self, tar: Path, h5: Path, samples: int, views: list[str], size: int, settings: Shard) -> None:
        self._paths, self._stack, self._count = (tar, h5), ExitStack(), 0
        self._shape = (samples, len(views), size)
        self._views, self._settings = views, settings
        self._small: dict[str, list[Any]] = {}
        # Reused for every sample: allocating 6 MB anew takes as long as compressing them.
        self._stacked = np.empty((len(views), size, size, 4), np.uint8)

    def __enter__(self) -> "ShardWriter":
        tar, h5 = (self._stack.enter_context(atomic(path)) for path in self._paths)
        self._tar = self._stack.enter_context(tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT))
        self._h5 = self._stack.enter_context(h5py.File(h5, "w", libver="latest"))
        n, v, size = self._shape
        # fletcher32: a chunk that is damaged after fine-tuning has begun is an error, not a picture.
        image = {"chunks": (1, v, size, size, 4), "fletcher32": True} | h5_codec(self._settings) if n else {}
        self._h5.attrs.update(stage="shard", version=STAGE_VERSIONS["shard"], views=self._views)
        self._h5.create_dataset("image", (n, v, size, size, 4), np.uint8, **image)
        self._stack.push(lambda error, *_: None if error else self._write_small())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def add(
        self, meta: SampleMeta, images: list[Image], files: list[bytes], unknown: NDArray[np.bool_] | None = None
    ) -> None:
        """Append one sample to both files.

        meta: the tar's JSON, with id, frame and every view's file_path. images: the views; files: the same, encoded.
        unknown: [V, S, S] the pixels of which nothing is known, if there are any.
        """
        i = self._count
        for view, file in zip(meta.frames, files, strict=True):
            self._add_member(str(view.file_path), file)
        if unknown is not None and unknown.any():
            self._add_member(f"{meta.id}.{UNKNOWN}.png", encode_masks(unknown))
            self._unknown()[i] = unknown.astype(np.uint8) * np.uint8(255)
        self._add_member(f"{meta.id}.json", meta.encoded())
        self._h5["image"][i] = np.stack(images, out=self._stacked)
        small: dict[str, Any] = dict(zip(("c2w", "fxfycxcy"), meta.cameras(), strict=True))
        small |= {"frame": meta.frame, "key": meta.id}
        if meta.has("world_from_mm"):
            small["world_from_mm"] = meta.world_from_mm
        if i and small.keys() != self._small.keys():
            raise ValueError(f"{meta.id}: world_from_mm must be known of all samples of a shard or of none")
        for name, value in small.items():
            self._small.setdefault(name, []).append(value)
        self._count += 1

    def _unknown(self) -> Any:
        """The dataset of unknown pixels. It is 0 in the samples that nothing is written for."""
        n, v, size = self._shape
        if UNKNOWN not in self._h5:
            options = {"chunks": (1, v, size, size), "fletcher32": True} | h5_codec(self._settings)
            self._h5.create_dataset(UNKNOWN, (n, v, size, size), np.uint8, **options)
        return self._h5[UNKNOWN]

    def _write_small(self) -> None:
        """Write everything but the images at once, when all samples are known: each HDF5 call is slow."""
        n, v, _ = self._shape
        shapes = {name: (n, v, *shape) for name, shape in FIELDS.items()} | {"world_from_mm": (n, 4, 4)}
        for name, shape in shapes.items():
            if name in self._small or not n:
                self._h5[name] = np.array(self._small.get(name, []), np.float64).reshape(shape)
        self._h5["frame"] = np.array(self._small.get("frame", []), np.int64)
        self._h5.create_dataset("key", data=self._small.get("key", []), shape=(n,), dtype=h5py.string_dtype())

    def _add_member(self, name: str, content: bytes) -> None:
        # A new TarInfo has time, owner and group 0.
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        self._tar.addfile(info, io.BytesIO(content))


@dataclass(frozen=True)
class TarSample:
    """One sample as it lies in a tar: its key, its JSON, its views' files, from cam0 on, and that of its unknown pixels."""

    key: str
    json: bytes
    files: list[bytes]
    unknown: bytes | None = None

    def meta(self, where: str) -> SampleMeta:
        """The JSON, parsed. Raises UserError beginning with `where` if it is not a sample's."""
        try:
            meta = SampleMeta.model_validate(json.loads(self.json))
            c2w, _ = meta.cameras()
            if c2w.shape != (len(self.files), 4, 4):
                raise ValueError(f"{len(self.files)} views, but cameras of shape {c2w.shape}")
        except ValidationError as error:
            raise UserError(f"{where}, sample {self.key}: damaged JSON ({first_problem(error)})") from None
        except (ValueError, LookupError, OverflowError, RecursionError, np.linalg.LinAlgError) as error:
            raise UserError(f"{where}, sample {self.key}: damaged JSON ({error!r:.200})") from None
        return meta

    def images(self, where: str) -> list[Image]:
        """The views, decoded: [S, S, 4] RGBA each. Raises UserError beginning with `where`, naming sample and view."""
        return [decode_image(file, f"{where}, sample {self.key}, cam{i}") for i, file in enumerate(self.files)]

    def unknown_pixels(self, where: str) -> NDArray[np.bool_] | None:
        """The views' unknown pixels [V, S, S]; None if there are none. Raises UserError beginning with `where`."""
        if self.unknown is None:
            return None
        return decode_masks(self.unknown, len(self.files), f"{where}, sample {self.key}, unknown")


def tar_samples(stream: Any, where: str, views: int) -> Iterator[TarSample]:
    """The samples of a tar in their order, read from beginning to end without seeking.

    stream: anything that can be read from; where: its name in messages; views: how many a sample has. Raises UserError
    naming the last whole sample for a tar that is damaged or truncated, and naming the sample that has a member missing,
    foreign or twice.
    """
    members: dict[str, bytes] = {}
    key, after = "", "at its beginning"
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                file = tar.extractfile(info)
                name, _, suffix = info.name.partition(".")
                if file is None or not suffix:
                    raise UserError(f"{where}, {after}: member {info.name!r} does not belong to a sample")
                if members and name != key:
                    raise UserError(f"{where}, sample {key}: {_missing(members, views)}")
                kind = suffix.partition(".")[0]
                if kind in members:
                    raise UserError(f"{where}, sample {name}: member {info.name!r} appears twice")
                key, members[kind] = name, file.read()
                if len(members[kind]) != info.size:
                    raise UserError(f"{where}, sample {name}: member {info.name!r} is truncated")
                if len(members) == views + 1 + (UNKNOWN in members):
                    if missing := _missing(members, views):
                        raise UserError(f"{where}, sample {key}: {missing}")
                    files = [members[f"cam{i}"] for i in range(views)]
                    yield TarSample(key, members["json"], files, members.get(UNKNOWN))
                    members, after = {}, f"after sample {key}"
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all members, which would fill the memory
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{where}, {f'sample {key}' if members else after}: damaged tar ({error})") from None
    if members:
        raise UserError(f"{where}, sample {key}: {_missing(members, views)}")


def shard_samples(manifest: Manifest, shard: ShardEntry) -> Iterator[TarSample]:
    """The samples of a shard's tar, wherever it lies, as many as the manifest lists. Raises UserError naming the tar."""
    where, count = manifest.location(shard, "tar"), 0
    with manifest.open(shard, "tar") as stream:
        for sample in tar_samples(stream, where, manifest.views):
            if count == shard.samples:
                raise UserError(
                    f"{where}, sample {sample.key}: the manifest lists {count} samples, but the tar has more"
                )
            yield sample
            count += 1
    if count != shard.samples:
        raise UserError(f"{where}: {count} samples where the manifest lists {shard.samples}")


def _missing(members: dict[str, bytes], views: int) -> str:
    """What a sample lacks; empty if nothing."""
    lacking = [name for name in (*(f"cam{i}" for i in range(views)), "json") if name not in members]
    foreign = [name for name in members if name not in {"json", UNKNOWN, *(f"cam{i}" for i in range(views))}]
    words = [f"{', '.join(lacking)} missing"] if lacking else []
    return " and ".join(words + ([f"{', '.join(foreign)} not expected"] if foreign else []))
