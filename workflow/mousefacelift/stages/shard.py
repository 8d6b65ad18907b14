"""Stage 5, shard: one remap per view from the raw crop to the final RGBA image; WebDataset tar and HDF5."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import CenteredChunk, Flag
from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.samples import SampleRow, Samples
from mousefacelift.base.errors import UserError
from mousefacelift.base.parallel import in_order
from mousefacelift.base.progress import track
from mousefacelift.config.shard import Shard
from mousefacelift.geometry.agreement import surrounding_polygon
from mousefacelift.geometry.camera import Array, Rig, pixel_rays
from mousefacelift.geometry.hull import hull_voxels, open_sides, outline_radius
from mousefacelift.geometry.resampling import View, render_view
from mousefacelift.geometry.unknown import Picture, unknown_pixels
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
    done = track(max(len(samples), 1), f"shard {source.center.capture} chunk {source.center.chunk}")

    def one_sample(row: SampleRow) -> tuple[SampleMeta, list[Image], list[bytes], NDArray[np.bool_] | None]:
        """A sample's JSON, its views, these as the tar's files, and their unknown pixels."""
        cv2.setNumThreads(1)
        crops = _crops(source, row.frame)
        images = _render(source, row.frame, crops)
        files = [encode_view(image, settings) for image in images]
        return _describe(source, row, settings.tar_codec), images, files, _unknown(source, row.frame, crops, images)

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
        for meta, images, files, unknown in in_order(one_sample, samples, threads):
            writers[str(meta.split)].add(meta, images, files, unknown)
            done()


def _crops(source: Source, frame: int) -> list[Image]:
    """A frame's crops [h, w, 4] in all cameras; empty without a silhouette."""
    center, n = source.center, source.crop_of[frame]
    stored = zip(center.crop_zstd[n], center.window[n, :, 2:], source.rig, strict=True)
    where = f"{source.center_file}, frame {frame}, camera"
    return [decode_crop(crop, size, f"{where} {camera.name}") for crop, size, camera in stored]


def _render(source: Source, frame: int, crops: list[Image]) -> list[Image]:
    """A frame's views, in their order."""
    window = source.center.window[source.crop_of[frame]]
    return [render_view(crops[v], window[v], source.rig[v], _view(source, frame, v)) for v in source.order]


def _view(source: Source, frame: int, camera: int) -> View:
    poses, p = source.poses, source.pose_of[frame]
    return View(poses.R_view[p, camera], poses.image_fxfycxcy[p, camera], poses.image_size)


def _unknown(source: Source, frame: int, crops: list[Image], images: list[Image]) -> NDArray[np.bool_] | None:
    """The unknown pixels [V, S, S] of a frame's views; None if every view holds the whole mouse.

    crops: of all cameras. images: the views.
    """
    n, p, rig = source.crop_of[frame], source.pose_of[frame], source.rig
    window, beyond = source.center.window[n], source.poses.clipped_px[p]
    # What is another animal's, or hidden in part by one, must not carve.
    whole = (source.poses.flags[p] & (Flag.OCCLUDED | Flag.EXCHANGED)) == 0
    silhouettes = [
        (crop[..., 3], w) if crop.size and alone else None for crop, w, alone in zip(crops, window, whole, strict=True)
    ]
    pictures = [
        Picture(
            camera=rig[v],
            view=_view(source, frame, v),
            alpha=image[..., 3],
            leaves_picture=beyond[v] != 0,  # NaN for an outline beyond the calibrated field, which leaves it too
            leaves_frame=silhouette is not None and any(open_sides(silhouette, rig[v])),
        )
        for v, image, silhouette in zip(source.order, images, [silhouettes[v] for v in source.order], strict=True)
    ]
    if not any(picture.leaves_picture or picture.leaves_frame for picture in pictures):
        return None
    # The mouse lies at the world's origin.
    center_mm = np.linalg.solve(source.poses.world_from_mm[p], [0.0, 0.0, 0.0, 1.0])[:3]
    outline_px = surrounding_polygon(source.center.support_px[n])
    rays = np.stack([pixel_rays(corners, camera) for corners, camera in zip(outline_px, rig, strict=True)])
    radius_mm = float(outline_radius(rig, center_mm[None], rays[None])[0])
    # Small enough for the tip of a tail: 1 mm for a mouse. On the demo 2 mm lose 3 % of it.
    voxel_mm = radius_mm / 100
    return unknown_pixels(pictures, hull_voxels(silhouettes, rig, center_mm, radius_mm, voxel_mm), voxel_mm)


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
