"""Stage 5, shard: one remap per view from the raw crop to the final RGBA image; WebDataset tar, HDF5 and manifest."""

import functools
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.config import SPLITS, Shard
from mousefacelift.containers import ShardWriter, encode_view
from mousefacelift.errors import UserError
from mousefacelift.files import open_h5, write_json
from mousefacelift.geometry import Array, Camera, view_map
from mousefacelift.images import Image, decode_crop
from mousefacelift.progress import track
from mousefacelift.rigs import rig_from_json
from mousefacelift.sample import read_samples

Region = tuple[int, int, int, int]  # x0, y0, x1, y1
SPLAT_BLUR = 0.3  # px^2 in each direction: what rasterisers of Gaussians add to every one of them


@dataclass(frozen=True)
class View:
    """A virtual camera: rotation R [3, 3] from the calibration's world, intrinsics fxfycxcy [4], square image size."""

    R: Array
    fxfycxcy: Array
    size: int


def render_view(crop: Image, window: NDArray[np.int32], camera: Camera, view: View) -> Image:
    """What a virtual camera at a raw camera's optical centre sees: [size, size, 4] RGBA, white where alpha is 0.

    crop: [h, w, 4] RGBA part of the raw frame at `window` (x, y, w, h), RGB 0 where alpha is 0: colours are interpolated
    multiplied by alpha and divided by it afterwards, so that the arena around the mouse does not bleed into its edge.

    A view whose pixels are r > 1 raw pixels wide is sampled from the crop blurred by a Gaussian of variance
    SPLAT_BLUR * (r^2 - 1) raw px^2: what the raw image had of blur in its own pixels, the view has in its own. Nothing is
    aliased, no ring is left around the silhouette, and the images are as sharp as splats can be drawn.
    """
    image = _white(view.size).copy()
    x, y, w, h = cv2.boundingRect(cv2.extractChannel(crop, 3))
    if w == 0:
        return image
    low, high = window[:2] + [x, y], window[:2] + [x + w, y + h]
    part, ratio = _seen(low, high, camera, view)
    variance = SPLAT_BLUR * max(ratio**2 - 1, 0.0)
    # Lanczos is faithful, but rings at a silhouette that is not blurred; linear interpolation blurs by 1/6 px^2 itself.
    method, own = (cv2.INTER_LANCZOS4, 0.0) if variance > 0.36 else (cv2.INTER_LINEAR, 1 / 6)
    blur = max(variance - own, 0.0) ** 0.5
    reach = 1 + int(np.ceil(3 * blur))
    pad = max(0, reach - min(x, y, crop.shape[1] - x - w, crop.shape[0] - y - h))  # what the crop's margin lacks
    if pad:
        crop = cv2.copyMakeBorder(crop, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    if blur:
        crop = cv2.GaussianBlur(crop, (0, 0), blur)
    raw, (x0, y0, x1, _) = _dense_map(camera, view, part, low - reach, high + reach)
    if not raw.size:
        return image
    # OpenCV's pixel centres are integers; ours are at halves.
    raw -= (window[:2] - pad + 0.5).astype(np.float32)
    # The mouse fills a third of its box: what a cheap look at alpha finds empty is not interpolated.
    alpha = cv2.remap(cv2.extractChannel(crop, 3), raw, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    pixels = np.flatnonzero(cv2.dilate(alpha, np.ones((3, 3), np.uint8)))
    if not len(pixels):
        return image
    points = np.resize(raw.reshape(-1, 2)[pixels], (-(-len(pixels) // 1024), 1024, 2))  # OpenCV's rows are short
    sampled = cv2.remap(crop, points, None, method, borderMode=cv2.BORDER_CONSTANT)
    sampled = sampled.reshape(-1, 4)[: len(pixels)]
    opaque = sampled[:, 3] > 0
    sampled, pixels = sampled[opaque].astype(np.float32), pixels[opaque]
    sampled[:, :3] = np.clip(np.rint(sampled[:, :3] * (255 / sampled[:, 3:])), 0, 255)
    image[y0 + pixels // (x1 - x0), x0 + pixels % (x1 - x0)] = sampled
    return image


@functools.lru_cache(maxsize=4)
def _white(size: int) -> Image:
    return np.full((size, size, 4), (255, 255, 255, 0), np.uint8)


def _seen(low: Array, high: Array, camera: Camera, view: View) -> tuple[Region, float]:
    """The part of the view that can see a box of the raw frame, and how many raw pixels wide one of its pixels is there.

    low, high: the box's corners in raw pixels, [2] each. Found on a grid of every 16th row and column; an empty region if
    the view does not see the box.
    """
    step = 16
    ticks = np.arange(-step, view.size + 2 * step, step, dtype=np.float64)
    raw, radius = view_map(camera, view.R, view.fxfycxcy, ticks, ticks)
    with np.errstate(invalid="ignore"):
        right, down = raw[:-1, 1:] - raw[:-1, :-1], raw[1:, :-1] - raw[:-1, :-1]
        ratio = np.sqrt(np.abs(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0])) / step
        raw, reach = raw[:-1, :-1], 2 * step * ratio[..., None]  # a box between nodes is within a diagonal of one
        near = ((raw > low - reach) & (raw < high + reach)).all(axis=-1) & (radius[:-1, :-1] < camera.field_radius)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return (0, 0, 0, 0), 1.0
    x0, x1, y0, y1 = (int(np.clip(ticks[i], 0, view.size)) for i in (columns[0], columns[-1], rows[0], rows[-1]))
    return (x0, y0, x1, y1), float(np.median(ratio[near]))


def _dense_map(camera: Camera, view: View, part: Region, low: Array, high: Array) -> tuple[NDArray[np.float32], Region]:
    """Raw pixels [H, W, 2] of the view's pixels that see a box of the raw frame, and the region of the view they fill.

    Pixels of the region that lie outside the box, the raw frame or the calibrated field get -1e4. The map is computed in
    every 4th row and column of `part` and interpolated linearly between: within 0.01 px of the view of the exact map on
    the demo's rig, in a tenth of the time.
    """
    block = 4
    left, top, right, bottom = part
    if left >= right or top >= bottom:
        return np.empty((0, 0, 2), np.float32), (0, 0, 0, 0)
    # Nodes at the centres of blocks, with one block more on each side: cv2.resize interpolates between just these.
    x = left + block * (np.arange(-1.0, -(-(right - left) // block) + 1) + 0.5)
    y = top + block * (np.arange(-1.0, -(-(bottom - top) // block) + 1) + 0.5)
    raw, radius = view_map(camera, view.R, view.fxfycxcy, x, y)
    nodes = np.dstack([raw, radius]).astype(np.float32)
    dense = cv2.resize(nodes, (len(x) * block, len(y) * block), interpolation=cv2.INTER_LINEAR)
    dense = dense[block : block + bottom - top, block : block + right - left]
    lowest, highest = np.maximum(low, 0), np.minimum(high, [camera.width, camera.height])
    inside = cv2.inRange(dense, (*lowest.tolist(), 0.0), (*highest.tolist(), min(camera.field_radius, 1e9)))
    x0, y0, w, h = cv2.boundingRect(inside)
    dense, inside = dense[y0 : y0 + h, x0 : x0 + w, :2], inside[y0 : y0 + h, x0 : x0 + w]
    return np.where(inside[..., None] > 0, dense, np.float32(-1e4)), (left + x0, top + y0, left + x0 + w, top + y0 + h)


def opencv_cameras(w2c: Array, fxfycxcy: Array, size: int, names: list[str]) -> list[dict[str, Any]]:
    """FaceLift's `frames` list for one sample's views. w2c: [V, 4, 4]; fxfycxcy: [V, 4]."""
    return [
        {
            "w": size, "h": size, "fx": k[0], "fy": k[1], "cx": k[2], "cy": k[3],
            "w2c": m, "file_path": name,
        }
        for m, k, name in zip(w2c.tolist(), fxfycxcy.tolist(), names, strict=True)
    ]  # fmt: skip


def shard(
    samples_file: Path, center_file: Path, cameras_file: Path, rig_file: Path, chunk: int,
    outputs: dict[str, tuple[Path, Path]], settings: Shard, threads: int = 1,
) -> None:  # fmt: skip
    """Write one chunk of a capture as shards: for each split a tar and an HDF5 file with the same samples.

    outputs: split -> (tar, h5). A split without samples in this chunk gets empty containers, which the manifest lists
    with 0 samples. The same input gives the same bytes, whatever `threads` is.
    """
    samples = [row for row in read_samples(samples_file) if int(row["chunk"]) == chunk]
    rig = {camera.name: camera for camera in rig_from_json(rig_file)}
    names = list(rig)
    with open_h5(cameras_file, "mousefacelift normalize") as cameras:
        size = int(cameras.attrs["image_size"])
        poses = {int(f): n for n, f in enumerate(cameras["frame"][()])}
        fields = {
            name: cameras[name][()]
            for name in ("w2c", "fxfycxcy", "image_fxfycxcy", "R_view", "world_from_mm", "world_units_per_mm", "time_s",
                         "residual_px", "fill", "offset_px", "reprojection_px")
        }  # fmt: skip
        policy = str(cameras.attrs["distance"])
    with open_h5(center_file, "mousefacelift center") as center:
        frames = center["frame"][()].tolist()
        crops = {frame: n for n, frame in enumerate(frames)}
        window, stored = center["window"][()], center["crop_zstd"]
        views = samples[0]["views"].split(",") if samples else []
        unknown = set(views) - set(names)
        if unknown:
            raise UserError(f"{samples_file}: views {', '.join(sorted(unknown))} are not cameras of {rig_file}")
        order = [names.index(name) for name in views]
        done = track(max(len(samples), 1), f"shard {center_file.parent.name} chunk {chunk}")

        def one_view(data: NDArray[np.uint8], n: int, p: int, v: int) -> tuple[Image, bytes]:
            cv2.setNumThreads(1)
            view = View(fields["R_view"][p, v], fields["image_fxfycxcy"][p, v], size)
            crop = decode_crop(data, window[n, v, 2:], f"{center_file}, frame {frames[n]}, camera {names[v]}")
            image = render_view(crop, window[n, v], rig[names[v]], view)
            return image, encode_view(image, settings)

        def finished(pool: ThreadPoolExecutor) -> Iterator[tuple[dict[str, str], int, list[tuple[Image, bytes]]]]:
            """Samples in order; a few are worked on ahead, so that memory stays bounded."""
            pending: deque[tuple[dict[str, str], int, list[Future[tuple[Image, bytes]]]]] = deque()
            for row in samples:
                frame = int(row["frame"])
                if frame not in crops or frame not in poses:
                    raise UserError(
                        f"{samples_file}: frame {frame} is not in {center_file} or {cameras_file}; run `mousefacelift sample` again"
                    )
                n, p = crops[frame], poses[frame]
                pending.append((row, p, [pool.submit(one_view, stored[n, v], n, p, v) for v in order]))
                if len(pending) > threads:
                    row_, p_, futures = pending.popleft()
                    yield row_, p_, [future.result() for future in futures]
            for row_, p_, futures in pending:
                yield row_, p_, [future.result() for future in futures]

        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(
                    ShardWriter(
                        *paths,
                        samples=sum(r["split"] == split for r in samples),
                        views=views,
                        size=size,
                        settings=settings,
                    )
                )
                for split, paths in outputs.items()
            }
            pool = stack.enter_context(ThreadPoolExecutor(max_workers=threads))
            for row, p, rendered in finished(pool):
                w2c, fxfycxcy = fields["w2c"][p, order], fields["fxfycxcy"][p, order]
                meta = {
                    "id": row["key"], "capture": row["capture"], "frame": int(row["frame"]), "time_s": float(fields["time_s"][p]),
                    "split": row["split"], "views": views, "distance_policy": policy,
                    "world_units_per_mm": float(fields["world_units_per_mm"][p]), "qc": _quality(fields, p, order, views),
                    "world_from_mm": fields["world_from_mm"][p].tolist(),
                    "frames": opencv_cameras(w2c, fxfycxcy, size, [f"{row['key']}.cam{i}.{settings.tar_codec}" for i in range(len(order))]),
                }  # fmt: skip
                images, files = zip(*rendered, strict=True)
                writers[row["split"]].add(meta, list(images), list(files))
                done()


def _quality(fields: dict[str, Array], pose: int, order: list[int], views: list[str]) -> dict[str, Any]:
    """What `cameras` and `normalize` measured of a sample: per view, and the distance policy's error; null if unknown."""

    def numbers(values: Array) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    measures = ("residual_px", "fill", "offset_px")
    return {name: dict(zip(views, numbers(fields[name][pose, order]), strict=True)) for name in measures} | {
        "reprojection_px": dict(zip(("median", "p95", "max"), numbers(fields["reprojection_px"][pose]), strict=True))
    }


def manifest(h5_files: list[Path], output: Path, needed: tuple[str, ...] = ("train",)) -> None:
    """Write `shard/manifest.json`: every shard with split, capture, samples, bytes and sha256; totals per split.

    h5_files: `{split}/{capture}-{chunk}.h5` beside their tars, below the manifest's folder. Raises UserError if a
    shard is unreadable, a tar is missing, or one of the `needed` splits has no sample: known now, not after training.
    """
    entries = []
    sizes, views = set(), set()
    for path in h5_files:
        tar = path.with_suffix(".tar")
        if not tar.exists():
            raise UserError(f"{tar}: no such file; it is written by `mousefacelift shard`")
        with open_h5(path, "mousefacelift shard") as file:
            count, v, size = file["image"].shape[:3]
            keys = [key.decode() for key in file["key"][()]]
        if count:
            sizes.add(size)
            views.add(v)
        capture, _, chunk = path.stem.rpartition("-")
        entries.append(
            {
                "split": path.parent.name, "capture": capture, "chunk": int(chunk), "samples": count,
                **{kind: f.relative_to(output.parent).as_posix() for kind, f in (("tar", tar), ("h5", path))},
                "bytes": {kind: f.stat().st_size for kind, f in (("tar", tar), ("h5", path))},
                "sha256": {kind: _sha256(f) for kind, f in (("tar", tar), ("h5", path))},
                "first": keys[0] if keys else None, "last": keys[-1] if keys else None,
            }
        )  # fmt: skip
    if len(sizes) > 1 or len(views) > 1:
        raise UserError(
            f"{output.parent}: shards of different image sizes ({sorted(sizes)}) or view counts ({sorted(views)}) cannot be mixed"
        )
    totals = {split: sum(e["samples"] for e in entries if e["split"] == split) for split in SPLITS}
    empty = [split for split in needed if not totals[split]]
    if empty:
        raise UserError(
            f"{output.parent}: no sample is for {' and '.join(empty)} ({totals}): look at the captures' rejected.tsv, shorten "
            "sample.gap_s, or change sample.fractions (0 for a split that is not wanted)"
        )
    write_json(
        output,
        {
            "version": STAGE_VERSIONS["shard"],
            "image_size": sizes.pop(),
            "views": views.pop(),
            "samples": totals,
            "shards": entries,
        },
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
