"""Stage 5, shard: one remap per view from the raw crop to the final RGBA image; WebDataset tar, HDF5 and manifest."""

import hashlib
import io
import json
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.config import SPLITS, Shard
from mousefacelift.errors import UserError
from mousefacelift.files import atomic, open_h5, write_json
from mousefacelift.geometry import Array, Camera, inverse_rigid, pixel_rays, view_map
from mousefacelift.images import decode_crop, encode_png
from mousefacelift.progress import track
from mousefacelift.rigs import rig_from_json
from mousefacelift.sample import read_samples

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A virtual camera: rotation R [3, 3] from the calibration's world, intrinsics fxfycxcy [4], square image size."""

    R: Array
    fxfycxcy: Array
    size: int


def render_view(crop: Image, window: NDArray[np.int32], camera: Camera, view: View) -> Image:
    """What a virtual camera at a raw camera's optical centre sees: [size, size, 4] RGBA, white where alpha is 0.

    crop: [h, w, 4] RGBA part of the raw frame at `window` (x, y, w, h), RGB 0 where alpha is 0: colours are interpolated
    multiplied by alpha and divided by it afterwards, so that the arena around the mouse does not bleed into its edge. When the view is
    smaller than the crop, each pixel averages enough samples that none of the crop's pixels are skipped.
    """
    image = np.full((view.size, view.size, 4), (255, 255, 255, 0), np.uint8)
    x0, y0, x1, y1 = _region(window, camera, view)
    if x0 >= x1 or y0 >= y1:
        return image
    raw, inside = _dense_map(camera, view, (x0, y0, x1, y1), oversample := _oversample(window, camera, view))
    # OpenCV's pixel centres are integers; ours are at halves.
    local = raw - (window[:2] + 0.5).astype(np.float32)
    local[~inside] = -10
    sampled = cv2.remap(crop, local, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    if oversample > 1:
        sampled = cv2.resize(sampled, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    alpha = sampled[..., 3:].astype(np.float32)
    colour = np.clip(np.rint(sampled[..., :3] * (255 / np.maximum(alpha, 1))), 0, 255).astype(np.uint8)
    image[y0:y1, x0:x1] = np.where(alpha > 0, np.dstack([colour, sampled[..., 3]]), image[y0:y1, x0:x1])
    return image


def _region(window: NDArray[np.int32], camera: Camera, view: View) -> tuple[int, int, int, int]:
    """The part x0, y0, x1, y1 of the view that a window of the raw frame can reach: its border, carried over."""
    x, y, w, h = (int(value) for value in window)
    along = np.linspace(0, 1, 9)
    border = np.concatenate([np.stack([s, t], axis=-1) for s, t in (
        (x + w * along, np.full(9, y)), (x + w * along, np.full(9, y + h)),
        (np.full(9, x), y + h * along), (np.full(9, x + w), y + h * along),
    )])  # fmt: skip
    rays = pixel_rays(border, camera) @ (view.R @ camera.R.T).T
    if not np.isfinite(rays).all():  # part of the window lies beyond the calibrated field: look everywhere
        return 0, 0, view.size, view.size
    fx, fy, cx, cy = view.fxfycxcy
    pixels = rays[:, :2] / rays[:, 2:] * [fx, fy] + [cx, cy]
    low = np.clip(np.floor(pixels.min(axis=0)) - 1, 0, view.size).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, view.size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _dense_map(
    camera: Camera, view: View, region: tuple[int, int, int, int], oversample: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Raw pixels [H, W, 2] of a region's sub-pixels, and whether each lies in the raw frame and the calibrated field.

    The map is computed at every 8th sub-pixel and interpolated linearly between: within 0.01 raw px of the exact
    map on the demo's rig, in a fifth of the time.
    """
    block = 8
    x0, y0, x1, y1 = region
    columns, rows = (x1 - x0) * oversample, (y1 - y0) * oversample
    # Nodes at the centres of blocks, with one block more on each side: cv2.resize interpolates between just these.
    x, y = ((np.arange(-1, -(-n // block) + 1) + 0.5) * block / oversample for n in (columns, rows))
    raw, radius = view_map(camera, view.R, view.fxfycxcy, x + x0, y + y0)
    nodes = np.dstack([raw, radius]).astype(np.float32)
    dense = cv2.resize(nodes, (len(x) * block, len(y) * block), interpolation=cv2.INTER_LINEAR)
    dense = dense[block : block + rows, block : block + columns]
    limits = (camera.width, camera.height, camera.field_radius)
    inside = cv2.inRange(dense, (0.0, 0.0, 0.0), tuple(min(limit, 1e9) for limit in limits))
    return np.ascontiguousarray(dense[..., :2]), inside > 0


def _oversample(window: NDArray[np.int32], camera: Camera, view: View) -> int:
    """Samples per axis of a view's pixel so that they lie no farther apart than the raw frame's pixels."""
    x, y, w, h = (int(value) for value in window)
    middle = np.array([x + w / 2, y + h / 2])
    rays = pixel_rays(middle + [[0, 0], [1, 0], [0, 1]], camera) @ (view.R @ camera.R.T).T
    steps = np.linalg.norm((rays[1:, :2] / rays[1:, 2:] - rays[0, :2] / rays[0, 2]) * view.fxfycxcy[:2], axis=-1)
    return int(np.clip(np.ceil(1 / steps.min() - 0.05), 1, 8)) if np.isfinite(steps).all() else 1


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
        crops = {int(f): n for n, f in enumerate(center["frame"][()])}
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
            where = f"{center_file}, frame {center['frame'][n]}, camera {names[v]}"
            crop = decode_crop(data, window[n, v, 2:], where)
            image = render_view(crop, window[n, v], rig[names[v]], view)
            return image, encode_png(image, settings.png_level)

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
                    _Writer(
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
                    "frames": opencv_cameras(w2c, fxfycxcy, size, [f"{row['key']}.cam{i}.png" for i in range(len(order))]),
                }  # fmt: skip
                writers[row["split"]].add(meta, rendered, inverse_rigid(w2c), fxfycxcy, fields["world_from_mm"][p])
                done()


def _quality(fields: dict[str, Array], pose: int, order: list[int], views: list[str]) -> dict[str, Any]:
    """What `cameras` and `normalize` measured of a sample: per view, and the distance policy's error; null if unknown."""

    def numbers(values: Array) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    measures = ("residual_px", "fill", "offset_px")
    return {name: dict(zip(views, numbers(fields[name][pose, order]), strict=True)) for name in measures} | {
        "reprojection_px": dict(zip(("median", "p95", "max"), numbers(fields["reprojection_px"][pose]), strict=True))
    }


class _Writer:
    """Writes a tar and an HDF5 file side by side; both appear under their final names only when complete."""

    def __init__(self, tar: Path, h5: Path, samples: int, views: list[str], size: int, settings: Shard) -> None:
        self._paths, self._stack, self._count = (tar, h5), ExitStack(), 0
        self._shape = (samples, len(views), size)
        self._views, self._gzip = views, settings.gzip_level

    def __enter__(self) -> "_Writer":
        tar, h5 = (self._stack.enter_context(atomic(path)) for path in self._paths)
        # USTAR with zeroed times and owners, and HDF5 without object times: the same samples give the same bytes.
        self._tar = self._stack.enter_context(tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT))
        self._h5 = self._stack.enter_context(h5py.File(h5, "w"))
        n, v, size = self._shape
        image = {"chunks": (1, v, size, size, 4), "compression": "gzip", "compression_opts": self._gzip} if n else {}
        self._h5.attrs.update(stage="shard", version=STAGE_VERSIONS["shard"], views=self._views)
        self._h5.create_dataset("image", (n, v, size, size, 4), np.uint8, **image)
        self._h5.create_dataset("c2w", (n, v, 4, 4), np.float64)
        self._h5.create_dataset("fxfycxcy", (n, v, 4), np.float64)
        self._h5.create_dataset("world_from_mm", (n, 4, 4), np.float64)
        self._h5.create_dataset("frame", (n,), np.int64)
        self._h5.create_dataset("key", (n,), h5py.string_dtype())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def add(
        self,
        meta: dict[str, Any],
        rendered: list[tuple[Image, bytes]],
        c2w: Array,
        fxfycxcy: Array,
        world_from_mm: Array,
    ) -> None:
        """Append one sample to both files."""
        for i, (_, png) in enumerate(rendered):
            self._add_member(f"{meta['id']}.cam{i}.png", png)
        self._add_member(f"{meta['id']}.json", json.dumps(meta, separators=(",", ":"), allow_nan=False).encode())
        i = self._count
        self._h5["image"][i] = np.stack([image for image, _ in rendered])
        self._h5["c2w"][i], self._h5["fxfycxcy"][i], self._h5["world_from_mm"][i] = c2w, fxfycxcy, world_from_mm
        self._h5["frame"][i], self._h5["key"][i] = meta["frame"], meta["id"]
        self._count += 1

    def _add_member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        self._tar.addfile(info, io.BytesIO(content))


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
