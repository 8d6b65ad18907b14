"""How large the subject is in the images of one sample, in each form that data sets have. What cannot be read is unknown."""

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hdf5plugin  # noqa: F401 - importing it is what lets HDF5 read its codecs
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import open_h5
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.subject_size import silhouette_size
from mousefacelift.shards.images import decode_image

# Of a block's sample by its number: [V, 2] as `silhouette_size` has it, NaN where it is unknown.
Look = Callable[[int], Array]


def unknown(views: int) -> Look:
    """Of a data set without images."""
    return lambda _: np.full((views, 2), np.nan)


def in_h5(path: Path, views: int) -> Look:
    """Of a shard. `verify` and training name a shard that is damaged; here it only leaves sizes unknown."""

    def look(row: int) -> Array:
        try:
            with open_h5(path, "mousefacelift shard") as file:
                return silhouette_size(file["image"][row, ..., 3])
        except (OSError, UserError):
            return unknown(views)(row)

    return look


def in_tar(path: Path, names: Sequence[str]) -> Look:
    """Of one sample in a tar, by its images' names."""

    def look(row: int) -> Array:
        try:
            with tarfile.open(path, "r:") as tar:  # once for all images: finding one reads all headers before it
                return _of_files(names, lambda name: _member(tar, name))
        except (OSError, tarfile.TarError):
            return unknown(len(names))(row)

    return look


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    return member.read() if member else b""


def in_folder(folder: Path, names: Sequence[str]) -> Look:
    """Of one sample of FaceLift's folders, by its images' paths."""
    return lambda _: _of_files(names, lambda name: (folder / name).read_bytes())


def _of_files(names: Sequence[str], read: Callable[[str], bytes]) -> Array:
    """[V, 2], NaN for an image that cannot be read."""

    def size(name: str) -> Array:
        try:
            return silhouette_size(decode_image(read(name), name)[None, ..., 3])[0]
        except (OSError, KeyError, tarfile.TarError, UserError):
            return np.full(2, np.nan)

    return np.stack([size(name) for name in names])
