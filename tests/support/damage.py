"""Damage done to the shards of `support.balls`, and what refuses them."""

import io
import json
import tarfile

import cv2
import h5py
import numpy as np
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.shards.images import encode_image
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.train import train

TAR, H5 = "train/ball-0000.tar", "train/ball-0000.h5"

KEYS = [f"ball-train-{i:06d}" for i in range(3)]

OTHER = "ball-train-000003"  # the first sample of train/ball-0001


def refused(manifest, kind):
    """What refuses the manifest's shards: training, which reads HDF5 files, before its first step; or a reader of tars."""
    folder = manifest.parent.parent / "run"
    settings = Train(preset="tiny", image_size=32, steps=2, warmup_steps=0, accelerator="cpu")
    with pytest.raises(UserError) as caught:
        if kind == "h5":
            train(manifest, folder / "train", folder / "checkpoints", settings, threads=1)
        else:
            refuse_damaged(read_manifest(manifest), "tar", ("train", "val"), 2)
    assert not folder.exists()
    return str(caught.value).splitlines()


def flip(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def members(path):
    with tarfile.open(path) as tar:
        return {info.name: info for info in tar}


def chunk(path, row):
    with h5py.File(path) as file:
        return file["image"].id.get_chunk_info(row)


def offset(path, name, row, byte):
    """Where a byte of a row of a contiguous dataset lies in the file."""
    with h5py.File(path) as file:
        values = file[name]
        return values.id.get_offset() + row * values.dtype.itemsize * int(np.prod(values.shape[1:])) + byte


def rewrite(path, change):
    """Write a tar again; change(name, content) gives a member's new name and content, or None to leave it out."""
    with tarfile.open(path) as tar:
        old = [(info.name, tar.extractfile(info).read()) for info in tar]
    write_tar(path, [new for name, content in old if (new := change(name, content))])


def write_tar(path, files):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def with_image(key, view, edit):
    """For `rewrite`: one view of one sample is edited and encoded again."""

    def change(name, content):
        if name == f"{key}.cam{view}.png":
            image = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), -1), cv2.COLOR_BGRA2RGBA)
            edited = edit(image)
            content = edited if isinstance(edited, bytes) else encode_image(edited, "png", 1)
        return name, content

    return change


def with_meta(key, edit):
    """For `rewrite`: the JSON of one sample is edited."""

    def change(name, content):
        if name == f"{key}.json":
            meta = json.loads(content)
            edit(meta)
            content = json.dumps(meta, separators=(",", ":")).encode()
        return name, content

    return change


def in_h5(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)
