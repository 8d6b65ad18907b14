"""nerfstudio's layout: every sample is a scene, a folder with its transforms.json and images.

The JSON also holds all else that the shard tells of the sample, under keys that nerfstudio ignores. Pixels and cameras are
the shard's, to the last bit: nothing is resampled or moved.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mousefacelift.config.sample import SPLITS
from mousefacelift.rigs.formats.transforms import OPENGL_FROM_OPENCV
from mousefacelift.shards.exports.samples import Export, write_samples
from mousefacelift.shards.folders import new_folder
from mousefacelift.shards.sample import SampleMeta

TRANSFORMS_FILE = "transforms.json"


def export_transforms(manifest: Path | str, folder: Path, splits: Sequence[str] = SPLITS, threads: int = 1) -> None:
    """Write shards for nerfstudio: every sample is a scene, `{folder}/{split}/{key}/transforms.json` with its images.

    Camera axes are OpenGL's, the world stays the sample's, and the first pixel's centre is at (0.5, 0.5), as nerfstudio
    has it. Raises UserError as `export_facelift`.
    """
    with new_folder(folder) as temporary:
        for _ in write_samples(manifest, temporary, splits, threads, _document, TRANSFORMS_FILE):
            pass


def _document(meta: SampleMeta, names: list[str], size: int) -> dict[str, Any]:
    c2w, fxfycxcy = meta.cameras()
    c2w[:, :3, :3] *= OPENGL_FROM_OPENCV
    frames = [
        {
            "file_path": name, "w": size, "h": size,
            **dict(zip(("fl_x", "fl_y", "cx", "cy"), k, strict=True)),
            "transform_matrix": pose,
        }
        for name, k, pose in zip(names, fxfycxcy.tolist(), c2w.tolist(), strict=True)
    ]  # fmt: skip
    return {"camera_model": "OPENCV"} | meta.model_dump() | {"frames": frames}


EXPORT = Export("nerfstudio's transforms.json", export_transforms)
