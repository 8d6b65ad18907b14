"""Samples of the HDF5 shards, and the form in which samples travel from loaders to the device.

They travel as bytes, a quarter of the floats they become on the device (`floating`).
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import hdf5plugin  # noqa: F401 - importing it is what lets HDF5 read its codecs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mousefacelift.base.errors import UserError
from mousefacelift.base.progress import track
from mousefacelift.geometry.views import moved_to_mean_distance
from mousefacelift.shards.cameras import check_cameras
from mousefacelift.shards.containers import UNKNOWN
from mousefacelift.shards.manifest import Manifest

# OpenCV's threads do not survive the fork of a loader process, which would wait for them forever.
cv2.setNumThreads(1)

MAX_OPEN = 64  # HDF5 files per process: systems allow about a thousand
SplitName = Literal["train", "val", "test"]
CamerasName = Literal["exact", "canonical"]


class Samples(Dataset[dict[str, Any]]):
    """One split of the HDF5 shards; a sample is a dictionary of tensors of its V views of S x S px.

    image: [V, 3, S, S] float32 in [0, 1], over white.
    alpha: [V, S, S] float32 in [0, 1].
    c2w, w2c: [V, 4, 4] float32, OpenCV axes, Z-up world.
    fxfycxcy: [V, 4] float32, px of the S x S image.
    unknown: [V, S, S] bool, pixels of which nothing is known; a sample without any lacks it.
    index: the sample's place in the split.

    `keys` and `frames` [N] name the samples. A split that fits into `cache_gb` is decoded once, here. Otherwise a sample
    is read from its shard when it is asked for; every loader process opens files of its own.

    Args:
        manifest: of the shards.
        split: "train", "val" or "test".
        image_size: S, which must divide the shards' image size.
        cache_gb: memory for decoded images, 10^9 bytes.
        cameras: as in `camera_tensors`.

    Raises:
        UserError: naming shard and sample, for a shard that is missing, damaged or not what the manifest says, for
            cameras that are not finite, rigid and level, and for an image size that does not divide the shards'.
    """

    def __init__(
        self, manifest: Manifest, split: SplitName, image_size: int, cache_gb: float, cameras: CamerasName = "exact"
    ):
        check_size(manifest, image_size)
        self.image_size, self.views = image_size, manifest.views
        self.keys: list[str] = []
        self.frames: list[int] = []
        self._places: list[tuple[Path, int]] = []
        self._open: OrderedDict[tuple[int, Path], h5py.File] = OrderedDict()
        c2w, fxfycxcy = [], []
        for shard in manifest.split(split):
            stored = self._read_index(manifest.local(shard, "h5"), shard.samples, manifest)
            c2w.append(stored[0])
            fxfycxcy.append(stored[1])
        if not c2w:
            c2w, fxfycxcy = [np.zeros((0, self.views, 4, 4))], [np.zeros((0, self.views, 4))]
        scale = image_size / manifest.image_size
        self._cameras = camera_tensors(np.concatenate(c2w), np.concatenate(fxfycxcy), scale, cameras)
        self._cache: Tensor | None = None
        self._unknown: dict[int, Tensor] = {}  # of the cached samples that have any
        if len(self) * self.views * 4 * image_size**2 <= cache_gb * 1e9:
            self._cache = torch.empty(len(self), self.views, image_size, image_size, 4, dtype=torch.uint8)
            advance = track(len(self), f"loading {split}") if len(self) else None
            for index in range(len(self)):
                self._cache[index] = self._read(index)
                unknown = self._read_unknown(index)
                if unknown is not None:
                    self._unknown[index] = unknown
                if advance:
                    advance()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def cached(self) -> bool:
        """Whether the split is in memory: loader processes would only copy it."""
        return self._cache is not None

    @property
    def fxfycxcy(self) -> Tensor:
        """Intrinsics of all samples, [N, V, 4]."""
        return self._cameras["fxfycxcy"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return floating(self.stored(index))

    def stored(self, index: int) -> dict[str, Any]:
        """The sample as it travels: `rgba` uint8 [V, S, S, 4], composited over white, instead of image and alpha."""
        if self._cache is None:
            rgba, unknown = self._read(index), self._read_unknown(index)
        else:
            rgba, unknown = self._cache[index], self._unknown.get(index)
        cameras = {name: values[index] for name, values in self._cameras.items()}
        return {"rgba": rgba, **cameras, "index": index} | ({} if unknown is None else {"unknown": unknown})

    def field(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Read another dataset of the shards.

        Args:
            name: of the dataset.
            shape: of one sample's value.

        Returns:
            [N, *shape].

        Raises:
            UserError: naming the shard that lacks it, or that holds another shape or values that are not finite.
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
        return self.__dict__ | {"_open": OrderedDict()}

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
        if UNKNOWN in file:
            shapes[UNKNOWN] = file[UNKNOWN].shape, (samples, self.views, size, size)
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
        """A shard open in this process: HDF5 handles do not survive a fork. The least recently used ones are closed."""
        name = (os.getpid(), path)
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        try:
            self._open[name] = h5py.File(path, "r", rdcc_nbytes=0)  # a chunk is a sample: nothing is read twice
        except FileNotFoundError:
            raise UserError(f"{path}: no such shard, but the manifest lists it; rerun the workflow") from None
        except OSError as error:
            raise UserError(f"{path}: damaged shard ({error}); delete it and rerun the workflow") from None
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return self._open[name]

    def _read(self, index: int) -> Tensor:
        """One sample over white at image_size: [V, S, S, 4] uint8."""
        return over_white(self._stored(index, "image"), self.image_size)

    def _read_unknown(self, index: int) -> Tensor | None:
        """One sample's unknown pixels at image_size: [V, S, S] bool; None if there are none."""
        if UNKNOWN not in self._file(self._places[index][0]):
            return None
        stored = self._stored(index, UNKNOWN) > 0
        return any_unknown(stored, self.image_size) if stored.any() else None

    def _stored(self, index: int, name: str) -> NDArray[np.uint8]:
        path, row = self._places[index]
        try:
            return np.asarray(self._file(path)[name][row])
        except (KeyError, OSError) as error:
            raise UserError(
                f"{path}: damaged shard, sample {self.keys[index]} ({error}); delete it and rerun the workflow"
            ) from None


def check_size(manifest: Manifest, image_size: int) -> None:
    """Raise UserError unless views of image_size px are averages of whole pixels of the shards'."""
    if manifest.image_size % image_size:
        raise UserError(
            f"train.image_size {image_size} does not divide the shards' {manifest.image_size} px: pixels could not "
            f"be averaged exactly; choose {manifest.image_size} divided by a whole number"
        )


def camera_tensors(
    c2w: NDArray[Any], fxfycxcy: NDArray[Any], scale: float, cameras: CamerasName = "exact"
) -> dict[str, Tensor]:
    """Cameras as float32 tensors, for images scaled by `scale`.

    The first pixel's centre is at 0.5, so averaging k x k pixels divides all four intrinsics by k, exactly.

    Args:
        c2w: camera to world [..., 4, 4].
        fxfycxcy: intrinsics [..., 4] in px.
        scale: of the images, new over old size.
        cameras: "exact"; or "canonical", moved to the mean distance, which the images do not follow
            (`moved_to_mean_distance`).

    Returns:
        c2w and w2c [..., 4, 4], fxfycxcy [..., 4] in px of the scaled images.
    """
    if cameras == "canonical":
        c2w, fxfycxcy = moved_to_mean_distance(c2w, fxfycxcy)
    values = {"c2w": c2w, "w2c": np.linalg.inv(c2w), "fxfycxcy": fxfycxcy * scale}
    return {name: torch.from_numpy(np.asarray(value)).float() for name, value in values.items()}


def over_white(rgba: NDArray[np.uint8], size: int) -> Tensor:
    """Composite views on white, then average them to size x size px.

    In this order, because averaging straight colours across an edge would mix in the colour of transparent pixels.

    Args:
        rgba: views [V, H, H, 4] uint8, straight alpha; may be overwritten.
        size: new width and height, px; divides H.

    Returns:
        [V, size, size, 4] uint8: composited RGB and alpha, rounded once.
    """
    k = rgba.shape[1] // size
    averaged = rgba if k == 1 else np.full((len(rgba), size, size, 4), [255, 255, 255, 0], np.uint8)
    for view, target in zip(rgba, averaged, strict=True):
        # The mouse is a tenth of the image: everything outside its box is white without arithmetic.
        alpha = cv2.extractChannel(view, 3)
        x, y, w, h = cv2.boundingRect(alpha)
        if not w:
            continue
        if k == 1:
            # Inside the mouse alpha is 255 and nothing changes either: only the edge is left.
            rows, cols = np.nonzero(cv2.inRange(alpha[y : y + h, x : x + w], 1, 254))
            pixels = view[y : y + h, x : x + w][rows, cols].astype(np.float32)
            pixels[:, :3] = 255 + (pixels[:, :3] - 255) * (pixels[:, 3:] / 255)
            target[y : y + h, x : x + w][rows, cols] = np.rint(pixels)
        else:
            left, top, right, bottom = x // k, y // k, -(-(x + w) // k), -(-(y + h) // k)
            box = view[k * top : k * bottom, k * left : k * right].astype(np.float32)
            box[..., :3] = 255 + (box[..., :3] - 255) * (box[..., 3:] / 255)
            target[top:bottom, left:right] = np.rint(box.reshape(bottom - top, k, right - left, k, 4).mean((1, 3)))
    return torch.from_numpy(averaged)


def any_unknown(unknown: NDArray[np.bool_], size: int) -> Tensor:
    """Unknown pixels [V, H, H] in images averaged to size x size px: those that have any part unknown, [V, size, size] bool."""
    k = unknown.shape[1] // size
    return torch.from_numpy(unknown.reshape(len(unknown), size, k, size, k).any((2, 4)))


def collated(samples: list[dict[str, Any]]) -> Any:
    """A batch of samples. It has `unknown` if one of them has; the others' pixels are then all known."""
    some = next((sample["unknown"] for sample in samples if "unknown" in sample), None)
    if some is not None:
        samples = [{"unknown": torch.zeros_like(some)} | sample for sample in samples]
    return default_collate(samples)


def floating(sample: dict[str, Any]) -> dict[str, Any]:
    """Turn the bytes of a sample or a batch into floats, on the device they are on.

    Args:
        sample: rgba uint8 [..., V, S, S, 4] over white; tone [..., 2], if brightness and contrast change (`toned`).

    Returns:
        image float32 [..., V, 3, S, S] and alpha float32 [..., V, S, S] in place of rgba and tone; the rest as it was.
    """
    rest = {name: value for name, value in sample.items() if name not in ("rgba", "tone")}
    planes = sample["rgba"].float().div_(255).movedim(-1, -3)
    image, alpha = planes[..., :3, :, :], planes[..., 3, :, :]
    if "tone" in sample:
        image = toned(image, alpha, sample["tone"])
    return {"image": image, "alpha": alpha} | rest


def toned(image: Tensor, alpha: Tensor, tone: Tensor) -> Tensor:
    """Change the mouse's brightness and contrast, and leave the white around it.

    All views change alike, so they still show one mouse.

    Args:
        image: views [..., V, 3, S, S] in [0, 1], over white.
        alpha: opacity [..., V, S, S] in [0, 1].
        tone: [..., 2], a factor of brightness, then one of contrast about the mean grey of the mouse in all views.

    Returns:
        [..., V, 3, S, S] in [0, 1], over white.
    """
    brightness, contrast = (tone[..., i, None, None, None, None] for i in (0, 1))
    cover = alpha.unsqueeze(-3)
    mouse = (image - (1 - cover)) * brightness  # colours times alpha
    # Filled on the device: a copy from the host would make it wait.
    weights = torch.cat([image.new_full((1, 1, 1), weight) for weight in (0.299, 0.587, 0.114)])
    dims = (-4, -3, -2, -1)
    mean = (mouse * weights).sum(dims, keepdim=True) / cover.sum(dims, keepdim=True).clamp_min(1e-6)
    mouse = (mouse - mean * cover) * contrast + mean * cover
    return torch.minimum(mouse.clamp_min(0), cover) + (1 - cover)
