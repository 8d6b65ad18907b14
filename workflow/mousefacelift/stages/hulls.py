"""The visual hulls of a capture's frames, from the crops that `center` wrote."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import CenteredChunk, ChunkMeasures, Flag
from mousefacelift.base.progress import track
from mousefacelift.config.cameras import Cameras
from mousefacelift.geometry.animals import union
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.hull import BODY_POINTS, SURFACE_POINTS, THIN_POINTS, Cutout, visual_hull
from mousefacelift.geometry.selection import thinned
from mousefacelift.shards.images import decode_crop

Image = NDArray[np.uint8]

# The hulls without each one of the cameras are made for this many frames.
LEAVE_ONE_OUT_FRAMES = 100


@dataclass(frozen=True)
class Hulls:
    """N frames' visual hulls in V cameras: what subject.h5 holds of them (see `Subject`), and more.

    centroid_mm: [N, 3].
    iou_others, iou_without: [N, V], in some frames alone; see `hull.Hull`.
    """

    volume_mm3: Array
    centroid_mm: Array
    lengths_mm: Array
    axis: Array
    hull_iou: Array
    cut: Array
    iou_others: Array
    iou_without: Array
    surface_mm: NDArray[np.float32]
    thin_mm: NDArray[np.float32]
    body_mm: NDArray[np.float32]

    @classmethod
    def unknown(cls, frames: int, views: int) -> Self:
        """Those of frames without a hull."""
        return cls(
            volume_mm3=np.zeros(frames),
            centroid_mm=np.full((frames, 3), np.nan),
            lengths_mm=np.full((frames, 3), np.nan),
            axis=np.full((frames, 3), np.nan),
            hull_iou=np.full((frames, views), np.nan),
            cut=np.full((frames, views), np.nan),
            iou_others=np.full((frames, views), np.nan),
            iou_without=np.full((frames, views), np.nan),
            surface_mm=np.full((frames, SURFACE_POINTS, 3), np.nan, np.float32),
            thin_mm=np.full((frames, THIN_POINTS, 4), np.nan, np.float32),
            body_mm=np.full((frames, BODY_POINTS, 3), np.nan, np.float32),
        )

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Those of all chunks."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


def carve_hulls(
    chunks: list[Path],
    chunk: NDArray[np.int64],
    rig: Rig,
    measures: ChunkMeasures,
    siblings: Sequence[str],
    center_mm: Array,
    found: NDArray[np.bool_],
    radius_mm: Array,
    settings: Cameras,
    threads: int,
) -> Hulls:
    """The hulls of all frames.

    Args:
        chunks: the files of `center`, in order.
        chunk: [N] number of each frame's chunk.
        rig: V cameras.
        measures: of the capture; its OCCLUDED views are those in which other animals may hide a part of it.
        siblings: the other animals in the chunks.
        center_mm: [N, 3] where hulls are looked for.
        found: [N, V] which silhouettes are this animal's.
        radius_mm: [N] how far the mouse reaches from its centre, NaN where no hull can be made.
        settings: voxel_mm is used.
        threads: processes.
    """
    known = np.isfinite(radius_mm)
    hidden = (measures.flags & Flag.OCCLUDED) > 0
    leave_one_out = np.zeros(len(radius_mm), bool)
    # A frame's own hull comes out slightly different when those without a camera are made too: subject.h5 depends on which
    # frames these are, and so on the rounding of `thinned`.
    leave_one_out[thinned(np.flatnonzero(known & ~hidden.any(axis=1)), LEAVE_ONE_OUT_FRAMES)] = True
    jobs = []
    for number, path in enumerate(chunks):
        rows = chunk == number
        each = (values[rows] for values in (center_mm, radius_mm, found, hidden, leave_one_out))
        jobs.append((path, (measures.capture, *siblings), rig, *each, settings.voxel_mm))
    done = track(len(jobs), "cameras: hulls of chunks")
    hulls = []
    # Processes, because threads wait for each other here: two threads took as long as one.
    workers = min(threads, len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool:
        for made in pool.map(_hulls_of_chunk, *zip(*jobs, strict=True)) if pool else starmap(_hulls_of_chunk, jobs):
            hulls.append(made)
            done()
    return Hulls.joined(hulls)


def _hulls_of_chunk(
    path: Path,
    animals: Sequence[str],
    rig: Rig,
    center_mm: Array,
    radius_mm: Array,
    found: NDArray[np.bool_],
    hidden: NDArray[np.bool_],
    leave_one_out: NDArray[np.bool_],
    voxel_mm: float,
) -> Hulls:
    """The hulls of a chunk's frames of the first of the animals. hidden: [N, V] where the others may hide it in part."""
    cv2.setNumThreads(1)
    hulls = Hulls.unknown(*found.shape)
    with ExitStack() as stack:
        own, *others = (stack.enter_context(CenteredChunk.open(path, name)) for name in animals)
        for n in np.flatnonzero(np.isfinite(radius_mm)).tolist():
            silhouettes = _cutouts(own, n, found[n], path)
            # Behind another animal this one may go on: there it is carved by the other views.
            for each in others if hidden[n].any() else ():
                for v, more in enumerate(_cutouts(each, n, hidden[n] & found[n] & (each.area_px[n] > 0), path)):
                    silhouettes[v] = union([s for s in (silhouettes[v], more) if s]) if more else silhouettes[v]
            hull = visual_hull(
                silhouettes, rig, center_mm[n], float(radius_mm[n]), voxel_mm, leave_one_out=bool(leave_one_out[n])
            )
            hulls.volume_mm3[n], hulls.lengths_mm[n] = hull.volume_mm3, hull.lengths_mm
            hulls.centroid_mm[n], hulls.axis[n] = hull.centroid_mm, hull.axes[0]
            # The hull of this animal is not compared with silhouettes of two.
            hulls.hull_iou[n], hulls.cut[n] = np.where(hidden[n], np.nan, hull.iou), hull.cut
            hulls.surface_mm[n, : len(hull.surface_mm)] = hull.surface_mm
            hulls.thin_mm[n, : len(hull.thin_mm)] = hull.thin_mm
            hulls.body_mm[n] = hull.body_mm
            if hull.iou_others is not None and hull.iou_without is not None:
                hulls.iou_others[n], hulls.iou_without[n] = hull.iou_others, hull.iou_without
    return hulls


def frame_crops(chunk: CenteredChunk, n: int, there: NDArray[np.bool_], path: Path) -> list[Image | None]:
    """The crops [h, w, 4] of a chunk's n-th frame in the views that are asked for [V]. path: of the file, for errors."""
    stored = zip(chunk.crop_zstd[n], chunk.window[n], there, chunk.cameras, strict=True)
    return [
        decode_crop(crop, window[2:], f"{path}, frame {chunk.frame[n]}, camera {name}") if wanted else None
        for crop, window, wanted, name in stored
    ]


def cutouts_of(crops: Sequence[Image | None], window: NDArray[np.int32]) -> list[Cutout | None]:
    """The silhouettes in crops, given their windows [V, 4]."""
    return [None if crop is None else (crop[..., 3], each) for crop, each in zip(crops, window, strict=True)]


def _cutouts(chunk: CenteredChunk, n: int, there: NDArray[np.bool_], path: Path) -> list[Cutout | None]:
    """A frame's silhouettes in the views that are asked for [V]."""
    return cutouts_of(frame_crops(chunk, n, there, path), chunk.window[n])
