"""Whether a sample of the tar and its row of the HDF5 file are the same."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.shards.containers import UNKNOWN
from mousefacelift.shards.images import Image
from mousefacelift.shards.manifest import KINDS
from mousefacelift.shards.sample import SampleMeta
from mousefacelift.shards.verify.problems import EXACT, SAME, Examination
from mousefacelift.shards.verify.samples import is_count, is_matrix


def check_agreement(
    shard: Examination,
    key: str,
    meta: SampleMeta | None,
    images: Sequence[Image | None],
    unknown: NDArray[np.bool_] | None,
    row: dict[str, Any],
    placed: bool,
) -> None:
    """Says in what a sample of the tar and its row of the HDF5 file differ.

    meta, images and unknown: None for what could not be read. row: its arrays by name, without those that could not be read.
    placed: whether the HDF5 file has world_from_mm.
    """
    differences = list(_pixels(images, row))
    # A shard's HDF5 file lacks unknown pixels if none of its samples has any.
    if unknown is not None and not np.array_equal(unknown, row.get(UNKNOWN, np.zeros_like(unknown)) > 0):
        differences.append("unknown pixels differ from those of {other}")
    if meta is not None:
        differences += _numbers(meta, row, SAME if all(shard.whole.values()) else EXACT)
        if meta.has("world_from_mm") != placed:
            differences.append("world_from_mm is in only one of this file and {other}")
    # The file whose checksum is right is right.
    for kind in [kind for kind in KINDS if not shard.whole[kind]] or [KINDS[0]]:
        other = shard.entry.path("h5" if kind == "tar" else "tar")
        for text in differences:
            shard.say(kind, key, text.format(other=other))


def _pixels(images: Sequence[Image | None], row: dict[str, Any]) -> Iterator[str]:
    for i, image in enumerate(images):
        if image is not None and "image" in row and not np.array_equal(image, row["image"][i]):
            differs = (image != row["image"][i]).any(-1)
            y, x = np.argwhere(differs)[0]
            where = f"the first at x {x}, y {y}"
            yield f"cam{i}: {differs.sum()} of {differs.size} pixels differ from {{other}}, {where}"


def _numbers(meta: SampleMeta, row: dict[str, Any], tolerance: float) -> Iterator[str]:
    known = dict(zip(("c2w", "fxfycxcy"), meta.cameras(), strict=True))
    if is_count(meta.frame):
        known["frame"] = np.asarray(meta.frame)
    if is_matrix(meta.world_from_mm):
        known["world_from_mm"] = np.asarray(meta.world_from_mm)
    for name, value in known.items():
        with np.errstate(all="ignore"):
            if name in row and not np.abs(row[name] - value).max() <= tolerance:
                yield f"{name} differs from {{other}}"
