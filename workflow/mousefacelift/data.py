"""Shards as training samples: manifest and HDF5 in, tensors over white out, in an order that a resumed run repeats."""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mousefacelift.errors import UserError
from mousefacelift.files import read_json
from mousefacelift.progress import track

SplitName = Literal["train", "val", "test"]
MAX_TILT = np.sin(np.deg2rad(5))  # of a view's horizontal against the world's
MAX_OFF_AXIS = np.cos(np.deg2rad(5))  # between the optical axis and the direction to the origin


@dataclass(frozen=True)
class Manifest:
    """What `shard` wrote: `image_size` px, `views` per sample, the shards, and the hash that stands for all of it.

    The manifest lists every shard's checksum, so that its own bytes identify the data.
    """

    folder: Path
    image_size: int
    views: int
    shards: list[dict[str, Any]]
    sha256: str


def read_manifest(path: Path) -> Manifest:
    """Read manifest.json. Raises UserError if it is missing, damaged or lacks a key."""
    values = read_json(path, "shard")
    try:
        shards = [{key: shard[key] for key in ("split", "h5", "samples")} for shard in values["shards"]]
        size, views = int(values["image_size"]), int(values["views"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a shard manifest ({error!r}); delete it and rerun the workflow") from None
    return Manifest(path.parent, size, views, shards, hashlib.sha256(path.read_bytes()).hexdigest())


class Samples(Dataset[dict[str, Any]]):
    """One split, every sample a dict of tensors; V views of S x S px.

    image [V, 3, S, S] float32 in [0, 1] over white; alpha [V, S, S] float32; c2w, w2c [V, 4, 4] float32;
    fxfycxcy [V, 4] float32 in pixels of the S x S image; index, the sample's place in the split.
    `keys` [N] are the samples' names. A split that fits into `cache_gb` is decoded once, here; otherwise a sample is
    read from its shard when asked for, by every loader process with files of its own.

    Raises UserError, naming the shard and the sample, for a shard that is missing, damaged or not what the manifest
    says, for cameras that are not finite, rigid and level, and for an image size that does not divide the shards'.
    """

    def __init__(self, manifest: Manifest, split: SplitName, image_size: int, cache_gb: float):
        if manifest.image_size % image_size:
            raise UserError(
                f"train.image_size {image_size} does not divide the shards' {manifest.image_size} px: pixels could not "
                f"be averaged exactly; choose {manifest.image_size} divided by a whole number"
            )
        self.image_size, self.views = image_size, manifest.views
        self.keys: list[str] = []
        self.frames: list[int] = []
        self._places: list[tuple[Path, int]] = []
        self._open: dict[tuple[int, Path], h5py.File] = {}
        c2w, fxfycxcy = [], []
        for shard in manifest.shards:
            if shard["split"] == split and shard["samples"]:
                path = manifest.folder / shard["h5"]
                cameras = self._read_index(path, shard["samples"], manifest)
                c2w.append(cameras[0])
                fxfycxcy.append(cameras[1])
        if not c2w:
            c2w, fxfycxcy = [np.zeros((0, self.views, 4, 4))], [np.zeros((0, self.views, 4))]
        poses = np.concatenate(c2w)
        self.c2w = torch.from_numpy(poses).float()
        self.w2c = torch.from_numpy(np.linalg.inv(poses)).float()
        # The first pixel's centre is at 0.5, so averaging k x k pixels divides all four intrinsics by k, exactly.
        self.fxfycxcy = torch.from_numpy(np.concatenate(fxfycxcy) * image_size / manifest.image_size).float()
        self._cache: Tensor | None = None
        if len(self) * self.views * 4 * image_size**2 <= cache_gb * 1e9:
            self._cache = torch.empty(len(self), self.views, 4, image_size, image_size, dtype=torch.uint8)
            advance = track(len(self), f"loading {split}") if len(self) else None
            for index in range(len(self)):
                self._cache[index] = self._read(index)
                if advance:
                    advance()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def cached(self) -> bool:
        """Whether the split is in memory, so that loader processes would only copy it."""
        return self._cache is not None

    def __getitem__(self, index: int) -> dict[str, Any]:
        rgba = self._read(index) if self._cache is None else self._cache[index]
        image = rgba.float() / 255
        return {
            "image": image[:, :3],
            "alpha": image[:, 3],
            "c2w": self.c2w[index],
            "w2c": self.w2c[index],
            "fxfycxcy": self.fxfycxcy[index],
            "index": index,
        }

    def field(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Something else that the shards hold for every sample, [N, *shape].

        Raises UserError, naming the shard, if one of them lacks it or holds something of another shape or not finite.
        """
        values = np.empty((len(self), *shape))
        for index, (path, row) in enumerate(self._places):
            try:
                value = np.asarray(self._file(path)[name][row], np.float64)
            except (KeyError, OSError, ValueError, TypeError, IndexError) as error:
                raise UserError(f"{path}: no {name} ({error}); delete it and rerun the workflow") from None
            if value.shape != shape or not np.isfinite(value).all():
                raise UserError(
                    f"{path}, sample {self.keys[index]}: {name} is not {' x '.join(map(str, shape))} finite numbers; "
                    "delete the shard and rerun the workflow"
                )
            values[index] = value
        return values

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def _read_index(self, path: Path, samples: int, manifest: Manifest) -> tuple[NDArray[Any], NDArray[Any]]:
        """Check one shard against the manifest, note its samples, and return its cameras in float64."""
        size = manifest.image_size
        file = self._file(path)
        try:
            image, c2w, fxfycxcy = file["image"], file["c2w"][()], file["fxfycxcy"][()]
            frames, keys = file["frame"][()].tolist(), file["key"].asstr()[()].tolist()
        except (KeyError, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged shard ({error}); delete it and rerun the workflow") from None
        shapes = {
            "image": (image.shape, (samples, self.views, size, size, 4)),
            "c2w": (c2w.shape, (samples, self.views, 4, 4)),
            "fxfycxcy": (fxfycxcy.shape, (samples, self.views, 4)),
            "frame": ((len(frames),), (samples,)),
            "key": ((len(keys),), (samples,)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise UserError(
                    f"{path}: {name} has shape {found}, the manifest says {expected}; delete it and rerun the workflow"
                )
        if image.dtype != np.uint8:
            raise UserError(f"{path}: image is {image.dtype}, expected uint8; delete it and rerun the workflow")
        check_cameras(c2w, fxfycxcy, [f"{path}, sample {key}" for key in keys])
        self._places += [(path, row) for row in range(samples)]
        self.keys += keys
        self.frames += frames
        return c2w, fxfycxcy

    def _file(self, path: Path) -> h5py.File:
        """A shard open in this process: HDF5 handles do not survive a fork."""
        opened = self._open.get((os.getpid(), path))
        if opened is None:
            try:
                opened = h5py.File(path, "r")
            except FileNotFoundError:
                raise UserError(f"{path}: no such shard, but the manifest lists it; rerun the workflow") from None
            except OSError as error:
                raise UserError(f"{path}: damaged shard ({error}); delete it and rerun the workflow") from None
            self._open[os.getpid(), path] = opened
        return opened

    def _read(self, index: int) -> Tensor:
        """One sample over white at image_size: [V, 4, S, S] uint8, RGB and alpha."""
        path, row = self._places[index]
        try:
            rgba = self._file(path)["image"][row]
        except (KeyError, OSError) as error:
            raise UserError(
                f"{path}: damaged shard, sample {self.keys[index]} ({error}); delete it and rerun the workflow"
            ) from None
        return torch.from_numpy(np.stack([over_white(view, self.image_size) for view in rgba]))


def over_white(rgba: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Composite one view on white, then average it to size x size px.

    [H, W, 4] straight alpha -> [4, size, size]: composited RGB and alpha, rounded once. In this order, because
    averaging straight colours across an edge would mix in the colour of transparent pixels.
    """
    averaged = np.full((size, size, 4), [255, 255, 255, 0], np.uint8)
    opaque, k = rgba[..., 3] > 0, len(rgba) // size
    rows, cols = np.flatnonzero(opaque.any(1)) // k, np.flatnonzero(opaque.any(0)) // k
    if len(rows):
        # The mouse is a tenth of the image: everything outside its box is white without arithmetic.
        top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
        box: NDArray[Any] = rgba[k * top : k * bottom, k * left : k * right].astype(np.float32)
        box[..., :3] = 255 + (box[..., :3] - 255) * (box[..., 3:] / 255)
        if k > 1:
            box = box.reshape(bottom - top, k, right - left, k, 4).mean((1, 3))
        averaged[top:bottom, left:right] = np.rint(box)
    return np.ascontiguousarray(averaged.transpose(2, 0, 1))


def check_cameras(c2w: NDArray[Any], fxfycxcy: NDArray[Any], names: list[str]) -> None:
    """Raise UserError, naming the first sample and view, unless all cameras are what GS-LRM was trained on.

    c2w [N, V, 4, 4], fxfycxcy [N, V, 4]; finite, rigid, positive focal lengths; the view looks at the world's origin,
    level, with +Z up in the image. A world with another up axis is refused, not guessed: weights are Z-up.
    """
    R, center = c2w[..., :3, :3], c2w[..., :3, 3]
    right, down, axis = R[..., 0], R[..., 1], R[..., 2]
    with np.errstate(all="ignore"):
        toward = -center / np.linalg.norm(center, axis=-1, keepdims=True)
        finite = np.isfinite(c2w).all((-1, -2)) & np.isfinite(fxfycxcy).all(-1)
        orthonormal = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max((-1, -2)) < 1e-4
        problems = {
            "is not finite": ~finite,
            "is not a rigid pose (rotation without mirroring or scale, last row 0 0 0 1)": ~(
                orthonormal & (np.linalg.det(R) > 0) & (np.abs(c2w[..., 3, :] - [0, 0, 0, 1]).max(-1) < 1e-6)
            ),
            "has a focal length that is not positive": ~(fxfycxcy[..., :2] > 0).all(-1),
            "does not look at the world's origin, where the mouse should be": ~((axis * toward).sum(-1) > MAX_OFF_AXIS),
            "is not level with +Z up: rotate the world to Z-up and level the views (`normalize` does both)": ~(
                (np.abs(right[..., 2]) < MAX_TILT) & (down[..., 2] < 1e-6)
            ),
        }
    for problem, wrong in problems.items():
        if wrong.any():
            sample, view = np.argwhere(wrong)[0]
            raise UserError(
                f"{names[sample]}: the camera of view {view} {problem} ({wrong.sum()} of {wrong.size} views)"
            )


class Visits(Dataset[dict[str, Any]]):
    """The endless sequence of training samples: visit i is a pure function of (seed, i), whatever ran before.

    Every epoch visits all samples once in an order of its own. A sample's held-out views advance with every epoch, so
    that over V epochs each of its V views is held out equally often. Adds to the sample: inputs [num_inputs] and
    held_out [V - num_inputs], view indices in their order by azimuth. With `augment`, every visit turns its sample by
    another angle and mirrors it or not.
    """

    def __init__(self, samples: Samples, num_inputs: int, seed: int, augment: bool = False):
        self.samples, self.num_inputs, self.seed, self.augment = samples, num_inputs, seed, augment

    def __getitem__(self, visit: int) -> dict[str, Any]:
        epoch, place = divmod(visit, len(self.samples))
        index = int(_order(self.seed, epoch, len(self.samples))[place])
        first = int(_order(self.seed, -1, len(self.samples))[index]) + epoch * (self.samples.views - self.num_inputs)
        sample = self.samples[index]
        if self.augment:
            random = np.random.default_rng([self.seed, visit])
            sample = turned(sample, random.uniform(0, 2 * np.pi), mirror=random.random() < 0.5)
        return sample | split_views(self.samples.views, self.num_inputs, first)


class HeldOut(Dataset[dict[str, Any]]):
    """A split for validation: sample i once, holding out the views from i on, so that all views get their turn."""

    def __init__(self, samples: Samples, num_inputs: int):
        self.samples, self.num_inputs = samples, num_inputs

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index] | split_views(self.samples.views, self.num_inputs, index)


def turned(sample: dict[str, Any], angle: float, mirror: bool) -> dict[str, Any]:
    """The same sample in a world turned about +Z by `angle` radians and, before that, mirrored in x or not.

    Exact: a turn leaves the images as they are and moves the cameras; a mirror flips images and principal points, and
    reflects the cameras (in the world and in their own x axis, so that they stay rotations).
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float32)
    sample = dict(sample)
    if mirror:
        flip = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
        sample["image"], sample["alpha"] = sample["image"].flip(-1), sample["alpha"].flip(-1)
        sample["c2w"], sample["w2c"] = flip @ sample["c2w"] @ flip, flip @ sample["w2c"] @ flip
        fx, fy, cx, cy = sample["fxfycxcy"].unbind(-1)
        sample["fxfycxcy"] = torch.stack([fx, fy, sample["image"].shape[-1] - cx, cy], -1)
    return sample | {"c2w": turn @ sample["c2w"], "w2c": sample["w2c"] @ turn.T}


def split_views(views: int, num_inputs: int, first: int) -> dict[str, Tensor]:
    """Hold out `views - num_inputs` views, from `first` on around the circle; the rest are inputs, order kept."""
    held_out = {(first + i) % views for i in range(views - num_inputs)}
    return {
        "inputs": torch.tensor([view for view in range(views) if view not in held_out]),
        "held_out": torch.tensor(sorted(held_out), dtype=torch.long),
    }


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """A permutation of the samples. Epoch -1 is none: it staggers which view each sample holds out first."""
    return np.random.default_rng([seed, epoch + 1]).permutation(samples)
