"""What every export has in common: a folder per sample, with its images and one JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.base.parallel import in_order
from mousefacelift.base.progress import track
from mousefacelift.shards.containers import TarSample, shard_samples
from mousefacelift.shards.folders import NAME
from mousefacelift.shards.images import SIGNATURES, encode_image, encode_masks
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import Manifest, ShardEntry, read_manifest
from mousefacelift.shards.sample import SampleMeta

# The JSON of a sample, from what the shard tells of it and its images' names and size in px.
Document = Callable[[SampleMeta, list[str], int], dict[str, Any]]


@dataclass(frozen=True)
class Export:
    """A layout of another program. write: takes the manifest, the folder to write, splits, and the number of threads."""

    description: str
    write: Callable[[Path | str, Path, Sequence[str], int], None]


def write_samples(
    manifest: Path | str, folder: Path, splits: Sequence[str], threads: int, document: Document, file_name: str
) -> Iterator[tuple[str, str]]:
    """Write `{folder}/{split}/{key}/`, a sample's JSON after its images; yields split and key in the shards' order.

    A sample with unknown pixels gets a mask for every view, 0 where the pixel is unknown, which its frame names as nerfstudio
    does: `mask_path`.

    Raises UserError if there is no sample, or for damaged shards.
    """
    data = read_manifest(manifest)
    shards = [shard for split in splits for shard in data.split(split)]
    if not shards:
        raise UserError(f"{manifest}: no sample is for {' or '.join(splits)}")
    refuse_damaged(data, "tar", splits, threads)
    done = track(sum(shard.samples for shard in shards), f"export {manifest}")

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
        content = document(meta, names, len(images[0]))
        unknown = sample.unknown_pixels(where)
        if unknown is not None:
            (target / "masks").mkdir()
            for frame, name, mask in zip(content["frames"], names, unknown, strict=True):
                frame["mask_path"] = name.replace("images/", "masks/")
                (target / frame["mask_path"]).write_bytes(encode_masks(~mask[None]))
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        (target / file_name).write_text(text, encoding="utf-8")
        done()
        return split, sample.key

    yield from in_order(one, _samples(data, shards), threads)


def _samples(data: Manifest, shards: list[ShardEntry]) -> Iterator[tuple[str, str, TarSample]]:
    """Split, name of the tar and sample, for every sample of the shards."""
    seen: dict[str, str] = {}
    for shard in shards:
        path = data.location(shard, "tar")
        for sample in shard_samples(data, shard):
            if not NAME.fullmatch(sample.key):
                raise UserError(f"{path}, sample {sample.key!r}: cannot be the name of a folder")
            if sample.key in seen:
                raise UserError(f"{path}: sample {sample.key} is also in {seen[sample.key]}")
            seen[sample.key] = path
            yield shard.split, path, sample
