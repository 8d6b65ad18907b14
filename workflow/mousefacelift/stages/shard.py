"""Stage 5, shard: one remap per view from the raw crop to the final RGBA image; WebDataset tar and HDF5."""

import functools
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import open_h5
from mousefacelift.base.parallel import in_order
from mousefacelift.base.progress import track
from mousefacelift.config.shard import Shard
from mousefacelift.geometry.camera import Array, Camera
from mousefacelift.geometry.views import view_map
from mousefacelift.rigs.formats.opencv_json import rig_from_json
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.images import Image, decode_crop
from mousefacelift.shards.sample import SampleMeta, opencv_cameras
from mousefacelift.stages.sample import read_samples

Region = tuple[int, int, int, int]  # x0, y0, x1, y1
LARGEST_RATIO = 32.0  # raw px per px of a view: of a mouse so small there is nothing to be seen
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
    raw, inside, (x0, y0) = _dense_map(camera, view, part, low - reach, high + reach)
    if not raw.size:
        return image
    # OpenCV's pixel centres are integers; ours are at halves.
    raw = raw - (window[:2] - pad + 0.5).astype(np.float32)
    # The mouse fills a third of its box: what a cheap look at alpha finds empty is not interpolated.
    alpha = cv2.remap(cv2.extractChannel(crop, 3), raw, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    rows, columns = np.nonzero(cv2.bitwise_and(cv2.dilate(alpha, np.ones((3, 3), np.uint8)), inside))
    if not len(rows):
        return image
    points = np.resize(raw[rows, columns], (-(-len(rows) // 1024), 1024, 2))  # OpenCV's rows are short
    sampled = cv2.remap(crop, points, None, method, borderMode=cv2.BORDER_CONSTANT).reshape(-1, 4)[: len(rows)]
    edge = np.flatnonzero(sampled[:, 3] < 255)
    premultiplied = sampled[edge].astype(np.float32)
    colour = np.minimum(np.rint(premultiplied[:, :3] * (255 / np.maximum(premultiplied[:, 3:], 1))), 255)
    sampled[edge, :3] = np.where(premultiplied[:, 3:] > 0, colour, 255)
    image[rows + y0, columns + x0] = sampled
    return image


@functools.lru_cache(maxsize=4)
def _white(size: int) -> Image:
    return np.full((size, size, 4), (255, 255, 255, 0), np.uint8)


def _seen(low: Array, high: Array, camera: Camera, view: View) -> tuple[Region, float]:
    """The part of the view that can see a box of the raw frame, and how many raw pixels wide one of its pixels is there.

    low, high: the box's corners in raw pixels, [2] each. Found in cells of 16 x 16 px; an empty region if the view does
    not see the box.
    """
    step = 16
    ticks = np.arange(-step, view.size + 2 * step, step, dtype=np.float64)
    raw, radius = view_map(camera, view.R, view.fxfycxcy, ticks, ticks)
    field = radius < camera.field_radius
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1], np.s_[1:, 1:]]
    with np.errstate(invalid="ignore"):
        inside = field & ((raw >= low) & (raw <= high)).all(axis=-1)
        whole = np.logical_and.reduce([field[c] for c in corners])
        # Beyond the field the map folds back: only of whole cells it is known what lies between the corners.
        least, most = (f.reduce([raw[c] for c in corners]) for f in (np.minimum, np.maximum))
        overlapping = whole & ((least <= high) & (most >= low)).all(axis=-1)
        right, down = raw[:-1, 1:] - raw[:-1, :-1], raw[1:, :-1] - raw[:-1, :-1]
        area = np.abs(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0])
    touched = np.logical_or.reduce([inside[c] for c in corners])
    near = (overlapping | touched).astype(np.uint8)
    # And their neighbours, for what bends between the corners or lies at the field's edge.
    x, y, w, h = cv2.boundingRect(cv2.dilate(near, np.ones((3, 3), np.uint8)))
    if not w:
        return (0, 0, 0, 0), 1.0
    x0, x1, y0, y1 = (int(np.clip(ticks[i], 0, view.size)) for i in (x, x + w, y, y + h))
    measured = next(cells for cells in (whole & touched, overlapping, near > 0) if cells.any())
    ratio = np.sqrt(np.median(np.nan_to_num(area[measured], nan=step**2))) / step
    return (x0, y0, x1, y1), min(float(ratio), LARGEST_RATIO)


def _dense_map(
    camera: Camera, view: View, part: Region, low: Array, high: Array
) -> tuple[NDArray[np.float32], Image, tuple[int, int]]:
    """Raw pixels [H, W, 2] of the region of the view that sees a box of the raw frame.

    Also 255 [H, W] where they lie in the box, the raw frame and the calibrated field, else 0; and the region's first column
    and row. The map is computed in every 4th row and column of `part` and interpolated linearly between: within 0.005 px
    of the view of the exact map on the demo's rig, in half the time.
    """
    block = 4
    left, top, right, bottom = part
    if left >= right or top >= bottom:
        return np.empty((0, 0, 2), np.float32), np.empty((0, 0), np.uint8), (0, 0)
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
    found = np.s_[y0 : y0 + h, x0 : x0 + w]
    return dense[found][..., :2], np.ascontiguousarray(inside[found]), (left + x0, top + y0)


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
        crops = {int(f): n for n, f in enumerate(center["frame"][()])}
        window, stored = center["window"][()], center["crop_zstd"]
        views = samples[0]["views"].split(",") if samples else []
        unknown = set(views) - set(names)
        if unknown:
            raise UserError(f"{samples_file}: views {', '.join(sorted(unknown))} are not cameras of {rig_file}")
        order = [names.index(name) for name in views]
        done = track(max(len(samples), 1), f"shard {center_file.parent.name} chunk {chunk}")

        def one_sample(row: dict[str, str]) -> tuple[dict[str, Any], list[Image], list[bytes]]:
            """A sample's JSON, its views, and the same as the tar's files."""
            cv2.setNumThreads(1)
            frame = int(row["frame"])
            if frame not in crops or frame not in poses:
                raise UserError(
                    f"{samples_file}: frame {frame} is not in {center_file} or {cameras_file}; run `mousefacelift sample` again"
                )
            n, p = crops[frame], poses[frame]
            row_crops = stored[n]  # all cameras at once: HDF5 takes its time for each request
            images = []
            for v in order:
                crop = decode_crop(row_crops[v], window[n, v, 2:], f"{center_file}, frame {frame}, camera {names[v]}")
                view = View(fields["R_view"][p, v], fields["image_fxfycxcy"][p, v], size)
                images.append(render_view(crop, window[n, v], rig[names[v]], view))
            files = [f"{row['key']}.cam{i}.{settings.tar_codec}" for i in range(len(order))]
            meta = {
                "id": row["key"], "capture": row["capture"], "frame": frame, "time_s": float(fields["time_s"][p]),
                "split": row["split"], "views": views, "distance_policy": policy,
                "world_units_per_mm": float(fields["world_units_per_mm"][p]), "qc": _quality(fields, p, order, views),
                "world_from_mm": fields["world_from_mm"][p].tolist(),
                "frames": opencv_cameras(fields["w2c"][p, order], fields["fxfycxcy"][p, order], size, files),
            }  # fmt: skip
            return meta, images, [encode_view(image, settings) for image in images]

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
            for meta, images, files in in_order(one_sample, samples, threads):
                writers[meta["split"]].add(SampleMeta(**meta), images, files)
                done()


def _quality(fields: dict[str, Array], pose: int, order: list[int], views: list[str]) -> dict[str, Any]:
    """What `cameras` and `normalize` measured of a sample: per view, and the distance policy's error; null if unknown."""

    def numbers(values: Array) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    measures = ("residual_px", "fill", "offset_px")
    return {name: dict(zip(views, numbers(fields[name][pose, order]), strict=True)) for name in measures} | {
        "reprojection_px": dict(zip(("median", "p95", "max"), numbers(fields["reprojection_px"][pose]), strict=True))
    }
