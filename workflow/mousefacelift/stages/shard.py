"""Stage 5, shard: one remap per view from the raw crop to the final RGBA image; WebDataset tar and HDF5."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mousefacelift.artifacts.center import CenteredChunk
from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.samples import SampleRow, Samples
from mousefacelift.base.errors import UserError
from mousefacelift.base.parallel import in_order
from mousefacelift.base.progress import track
from mousefacelift.config.shard import Shard
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.resampling import View, render_view
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.images import Image, decode_crop
from mousefacelift.shards.sample import SampleMeta, opencv_cameras


@dataclass(frozen=True)
class Source:
    """What the samples of one chunk are made of.

    order: the views as cameras' numbers. pose_of, crop_of: the row of a frame in `poses` and in `center`.
    """

    samples: tuple[SampleRow, ...]
    views: tuple[str, ...]
    order: list[int]
    rig: Rig
    poses: Poses
    pose_of: dict[int, int]
    center: CenteredChunk
    center_file: Path
    crop_of: dict[int, int]


def shard(
    samples_file: Path, center_file: Path, cameras_file: Path, rig_file: Path, chunk: int,
    outputs: dict[str, tuple[Path, Path]], settings: Shard, threads: int = 1,
) -> None:  # fmt: skip
    """Write one chunk of a capture as shards: for each split a tar and an HDF5 file with the same samples.

    outputs: split -> (tar, h5). A split without samples in this chunk gets empty containers, which the manifest lists
    with 0 samples. The same input gives the same bytes, whatever `threads` is.
    """
    samples, rig, poses = Samples.read(samples_file), rig_from_json(rig_file), Poses.read(cameras_file)
    poses.check_cameras(cameras_file, [camera.name for camera in rig], rig_file)
    samples.check_poses(samples_file, poses, cameras_file)
    with CenteredChunk.open(center_file, poses.capture) as center:
        center.check_cameras(center_file, poses.cameras, cameras_file)
        center.check_chunk(center_file, chunk)
        source = _source(samples, rig, poses, center, center_file)
        if missing := [row.frame for row in source.samples if row.frame not in source.crop_of]:
            raise UserError(
                f"{samples_file}: frame {missing[0]} is not in {center_file}; run `mousefacelift sample` again"
            )
        _write(source, outputs, settings, threads)


def _source(samples: Samples, rig: Rig, poses: Poses, center: CenteredChunk, center_file: Path) -> Source:
    here = tuple(row for row in samples.rows if row.chunk == center.chunk)
    views = here[0].views if here else ()
    return Source(
        samples=here,
        views=views,
        order=[poses.cameras.index(name) for name in views],
        rig=rig,
        poses=poses,
        pose_of={int(frame): n for n, frame in enumerate(poses.frame)},
        center=center,
        center_file=center_file,
        crop_of={int(frame): n for n, frame in enumerate(center.frame)},
    )


def _write(source: Source, outputs: dict[str, tuple[Path, Path]], settings: Shard, threads: int) -> None:
    samples = source.samples
    done = track(max(len(samples), 1), f"shard {source.center_file.parent.name} chunk {source.center.chunk}")

    def one_sample(row: SampleRow) -> tuple[SampleMeta, list[Image], list[bytes]]:
        """A sample's JSON, its views, and these as the tar's files."""
        cv2.setNumThreads(1)
        images = _render(source, row.frame)
        return _describe(source, row, settings.tar_codec), images, [encode_view(image, settings) for image in images]

    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(
                    *paths,
                    samples=sum(row.split == split for row in samples),
                    views=list(source.views),
                    size=source.poses.image_size,
                    settings=settings,
                )
            )
            for split, paths in outputs.items()
        }
        for meta, images, files in in_order(one_sample, samples, threads):
            writers[str(meta.split)].add(meta, images, files)
            done()


def _render(source: Source, frame: int) -> list[Image]:
    """A frame's views, in their order."""
    poses, center = source.poses, source.center
    n, p = source.crop_of[frame], source.pose_of[frame]
    crops = center.crop_zstd[n]
    images = []
    for v in source.order:
        camera = source.rig[v]
        crop = decode_crop(
            crops[v], center.window[n, v, 2:], f"{source.center_file}, frame {frame}, camera {camera.name}"
        )
        view = View(poses.R_view[p, v], poses.image_fxfycxcy[p, v], poses.image_size)
        images.append(render_view(crop, center.window[n, v], camera, view))
    return images


def _describe(source: Source, row: SampleRow, codec: str) -> SampleMeta:
    """A sample's JSON: where it is from, its cameras, and what earlier stages measured of it."""
    poses, p, order = source.poses, source.pose_of[row.frame], source.order
    files = [f"{row.key}.cam{i}.{codec}" for i in range(len(order))]
    return SampleMeta(
        id=row.key,
        capture=row.capture,
        frame=row.frame,
        time_s=float(poses.time_s[p]),
        split=row.split,
        views=list(source.views),
        distance_policy=poses.distance_policy,
        world_units_per_mm=float(poses.world_units_per_mm[p]),
        qc=_quality(source, p),
        world_from_mm=poses.world_from_mm[p].tolist(),
        frames=opencv_cameras(poses.w2c[p, order], poses.fxfycxcy[p, order], poses.image_size, files),
    )


def _quality(source: Source, pose: int) -> dict[str, Any]:
    """What `cameras` and `normalize` measured of a sample: per view, and the distance policy's error; null if unknown."""

    def numbers(values: Array) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    def by_view(values: Array) -> dict[str, float | None]:
        return dict(zip(source.views, numbers(values[pose, source.order]), strict=True))

    poses = source.poses
    return {
        "residual_px": by_view(poses.residual_px),
        "fill": by_view(poses.fill),
        "offset_px": by_view(poses.offset_px),
        "reprojection_px": dict(zip(("median", "p95", "max"), numbers(poses.reprojection_px[pose]), strict=True)),
    }
