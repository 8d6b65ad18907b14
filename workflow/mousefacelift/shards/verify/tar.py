"""The tar of a shard, read from its first byte to its last."""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.shards.containers import TarSample, tar_samples
from mousefacelift.shards.images import SIGNATURES, Image, decode_image, decode_masks
from mousefacelift.shards.sample import SampleMeta
from mousefacelift.shards.verify.problems import Examination
from mousefacelift.shards.verify.samples import check_sample_cameras, check_white, is_count, is_matrix

BLOCK, RECORD = 512, 10240  # bytes, of a tar
# What a sample's JSON holds, and each of its `frames`; world_from_mm is there where it is known.
META = ("id", "capture", "frame", "split", "views", "frames")
MEASURED = ("time_s", "distance_policy", "world_units_per_mm", "qc")  # all of them, or none of what was imported
FRAME = ("w", "h", "fx", "fy", "cx", "cy", "w2c", "file_path")


class TarReader:
    """The samples of a tar. Afterwards `lost` says why it could not be read further, and `lost_in` in which sample."""

    def __init__(self, path: Path, views: int) -> None:
        self.path, self.views = path, views
        self.lost: str | None = None
        self.lost_in: str | None = None
        self._end = 0  # byte behind the last sample

    def __iter__(self) -> Iterator[TarSample]:
        try:
            with self.path.open("rb") as stream:
                for sample in tar_samples(stream, "", self.views):
                    yield sample
                    files = (sample.json, *sample.files, *([sample.unknown] if sample.unknown is not None else []))
                    self._end += sum(BLOCK - (-len(file) // BLOCK) * BLOCK for file in files)
        except UserError as error:
            parts = re.fullmatch(r", (?:sample (.+?)|after sample .+?|at its beginning): (.*)", str(error), re.DOTALL)
            self.lost_in, self.lost = parts.groups() if parts else (None, str(error))
        except (OSError, ValueError, OverflowError) as error:  # of a header that no checksum tells to be damaged
            self.lost = f"damaged tar ({error})"
        else:
            self.lost = self._tail()

    def _tail(self) -> str | None:
        """What is wrong after the last sample, where only zeros belong; None if nothing."""
        with self.path.open("rb") as handle:
            handle.seek(self._end)
            if any(handle.read(BLOCK)):
                return "damaged tar (the next header cannot be read)"
            while rest := handle.read(1 << 20):
                if any(rest):
                    return "damaged tar (something follows its end)"
            size = handle.tell()
        whole = size >= self._end + 2 * BLOCK and size % RECORD == 0
        return None if whole else "damaged tar (its end is cut off)"


def examine_sample(shard: Examination, sample: TarSample) -> tuple[SampleMeta | None, list[Image | None]]:
    """A sample's JSON and images, None for what cannot be read; says what is wrong with them."""
    return _examine_meta(shard, sample), [_examine_image(shard, sample, view) for view in range(len(sample.files))]


def _examine_meta(shard: Examination, sample: TarSample) -> SampleMeta | None:
    try:
        meta = sample.meta("")
    except UserError as error:
        shard.say("tar", sample.key, str(error).removeprefix(f", sample {sample.key}: "))
        return None
    for text in _meta_problems(shard, sample.key, meta):
        shard.say("tar", sample.key, text)
    check_sample_cameras(shard, "tar", sample.key, *meta.cameras())
    # A flipped digit leaves a number, but seldom the shortest way to write that number.
    if not shard.whole["tar"] and json.dumps(meta.model_dump(), separators=(",", ":")).encode() != sample.json:
        shard.say("tar", sample.key, "damaged JSON (not as `shard` writes it)")
    return meta


def _meta_problems(shard: Examination, key: str, meta: SampleMeta) -> Iterator[str]:
    expected = META + (MEASURED if any(map(meta.has, MEASURED)) else ())
    if missing := [name for name in expected if not meta.has(name)]:
        yield f"JSON lacks {', '.join(missing)}"
    if meta.has("id") and meta.id != key:
        yield f"JSON says id {meta.id!r}, expected {key!r}"
    if meta.has("split") and meta.split != shard.entry.split:
        yield f"JSON says split {meta.split!r}, expected {shard.entry.split!r}"
    if meta.has("frame") and not is_count(meta.frame):
        yield f"JSON says frame {meta.frame!r}, expected a number"
    if meta.has("world_from_mm") and not is_matrix(meta.world_from_mm):
        yield "JSON: world_from_mm is not 4 x 4 finite numbers"
    for i, view in enumerate(meta.frames):
        if missing := [name for name in FRAME if not view.has(name)]:
            yield f"JSON lacks {', '.join(missing)} of view {i}"
        elif (view.w, view.h) != (shard.size, shard.size):
            yield f"JSON says {view.w}x{view.h} px of view {i}, the manifest says {shard.size}x{shard.size}"
        elif not str(view.file_path).startswith(f"{key}.cam{i}."):
            yield f"JSON says file_path {view.file_path!r} of view {i}, expected {key}.cam{i}.…"


def _examine_image(shard: Examination, sample: TarSample, view: int) -> Image | None:
    file, name = sample.files[view], f"cam{view}"
    if file.startswith(SIGNATURES["png"]) and not _png_is_whole(file):
        shard.say("tar", sample.key, f"{name}: damaged PNG (a checksum in it differs)")
        return None
    try:
        image = decode_image(file, name)
    except UserError as error:
        shard.say("tar", sample.key, str(error))
        return None
    if image.shape != (shard.size, shard.size, 4):
        size = f"{image.shape[1]}x{image.shape[0]}"
        shard.say("tar", sample.key, f"{name}: has {size} px, the manifest says {shard.size}x{shard.size}")
        return None
    check_white(shard, "tar", sample.key, view, image)
    return image


def examine_unknown(shard: Examination, sample: TarSample) -> NDArray[np.bool_] | None:
    """A sample's unknown pixels [V, S, S], all False without any; None if they cannot be read. Says what is wrong with them."""
    shape = (shard.views, shard.size, shard.size)
    if sample.unknown is None:
        return np.zeros(shape, bool)
    if not _png_is_whole(sample.unknown):
        shard.say("tar", sample.key, "unknown: damaged PNG (a checksum in it differs)")
        return None
    try:
        masks = decode_masks(sample.unknown, shard.views, "unknown")
    except UserError as error:
        shard.say("tar", sample.key, str(error))
        return None
    if masks.shape != shape:
        found, expected = (f"{n}x{n}" for n in (masks.shape[-1], shard.size))
        shard.say("tar", sample.key, f"unknown: has {found} px, the manifest says {expected}")
        return None
    return masks


def _png_is_whole(file: bytes) -> bool:
    """Whether the checksums of all chunks of a PNG are right and nothing follows the last. OpenCV forgives some."""
    place, kind = 8, b""
    if file[:place] != b"\x89PNG\r\n\x1a\n":
        return False
    while place < len(file) and kind != b"IEND":
        length = int.from_bytes(file[place : place + 4])
        kind, content = file[place + 4 : place + 8], file[place + 4 : place + 8 + length]
        place += 12 + length
        if zlib.crc32(content) != int.from_bytes(file[place - 4 : place]):
            return False
    return kind == b"IEND" and place == len(file)
