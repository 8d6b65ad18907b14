"""Models, batches and shards to measure with; no run is needed to make them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mousefacelift.config.shard import Shard
from mousefacelift.models.registry import preset_config
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.shards.sample import SampleMeta, opencv_cameras
from mousefacelift.training.data import floating
from mousefacelift.training.finetuning import Batch
from scenes import DISTANCE, FOCAL, ring


def pixel_sized(preset: str, size: int) -> Any:
    """The preset's config, with which random weights give Gaussians about a pixel of `ring`'s cameras wide."""
    return replace(preset_config(preset), scale_bias=math.log(DISTANCE / (FOCAL * size)))


def pictures(views: int, size: int, seed: int) -> np.ndarray:
    """RGBA uint8 [V, S, S, 4]: a disc of coarse noise that covers an eighth of each view, transparent around it."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 200, (views, size // 8, size // 8, 3), np.uint8)
    rgba = np.zeros((views, size, size, 4), np.uint8)
    rgba[..., :3] = coarse.repeat(8, axis=1).repeat(8, axis=2)
    rows, columns = np.ogrid[:size, :size]
    inside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < size**2 / (8 * np.pi)
    rgba[:, inside, 3] = 255
    rgba[:, ~inside] = 0
    return rgba


def device_batch(views: int, inputs: int, size: int, samples: int, device: torch.device) -> Batch:
    """A batch on the device, as `predict` and `image_loss` take it."""
    rgba = torch.from_numpy(np.stack([pictures(views, size, seed) for seed in range(samples)]))
    rgba[..., :3][rgba[..., 3] == 0] = 255
    w2c, fxfycxcy = ring(views, size)
    batch = {
        "rgba": rgba,
        "w2c": w2c.expand(samples, -1, -1, -1).contiguous(),
        "c2w": torch.linalg.inv(w2c).expand(samples, -1, -1, -1).contiguous(),
        "fxfycxcy": fxfycxcy.expand(samples, -1, -1).contiguous(),
        "inputs": torch.arange(inputs).expand(samples, -1).contiguous(),
    }
    return floating({name: tensor.to(device) for name, tensor in batch.items()})


def write_shards(folder: Path, views: int, size: int, samples: int, shards: int, val: int = 0) -> Path:
    """Write shards of `pictures` for training, and one of `val` samples for validation; return their manifest's path."""
    settings, names = Shard(), [f"{v + 1}" for v in range(views)]
    w2c, fxfycxcy = (tensor.double().numpy() for tensor in ring(views, size))
    counts = {folder / "train" / f"disc-{n:04d}.h5": samples for n in range(shards)}
    if val:
        counts[folder / "val" / "disc-0000.h5"] = val
    first = 0
    for path, count in counts.items():
        with ShardWriter(path.with_suffix(".tar"), path, count, names, size, settings) as writer:
            for i in range(first, first + count):
                key = f"disc-{i:06d}"
                images = list(pictures(views, size, i))
                files = [f"{key}.cam{v}.{settings.tar_codec}" for v in range(views)]
                meta = SampleMeta(id=key, frame=i, frames=opencv_cameras(w2c, fxfycxcy, size, files))
                writer.add(meta, images, [encode_view(image, settings) for image in images])
        first += count
    write_manifest(list(counts), folder / "manifest.json")
    return folder / "manifest.json"
