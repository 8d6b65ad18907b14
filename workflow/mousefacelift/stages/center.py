"""Stage 1, center: decode each video once; keep the mouse's silhouette, its measures and a full-resolution crop."""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.artifacts.center import Flag
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, open_h5
from mousefacelift.base.progress import track
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import capture_fps, read_camera
from mousefacelift.recordings.recording import capture_frames, chunk_ranges
from mousefacelift.recordings.silhouettes.arena import estimate_background
from mousefacelift.recordings.silhouettes.registry import method
from mousefacelift.recordings.silhouettes.segmentation import Arena
from mousefacelift.recordings.silhouettes.sheet import Tile, preview_sheet
from mousefacelift.recordings.video import Frame, Missing, probe
from mousefacelift.shards.images import encode_crop

Image = NDArray[np.uint8]

SUPPORT_DIRECTIONS = 32
PREVIEW_MOMENTS = 6


@dataclass(frozen=True)
class Silhouette:
    """One view's silhouette. Pixel coordinates have the first pixel's centre at (0.5, 0.5).

    center_px: [2] centre of mass, pixels weighted by their squared distance to the edge. area_px: pixels. support_px:
    [SUPPORT_DIRECTIONS, 2] the outermost point in each direction: corners of the silhouette's convex hull. window: x, y,
    width, height of its crop in the raw frame.
    """

    center_px: NDArray[np.float64]
    area_px: int
    support_px: NDArray[np.float64]
    sharpness: float
    flags: Flag
    window: tuple[int, int, int, int]


def measure(frame: Frame, mask: Image, settings: Center) -> tuple[Silhouette, Image, Image]:
    """Measure one view and cut out its crop.

    mask: [H, W], above 127 is mouse. The crop, at full resolution: RGB [h, w, 3], 0 outside the silhouette, where nothing
    downstream looks, and the silhouette [h, w], 0 or 255.
    """
    height, width = mask.shape
    # Within the mask's own bounds first: of most masks they are the silhouette's, and the rest of the frame is nothing.
    left, top, w, h = cv2.boundingRect(mask)
    if not w:
        return _empty()
    binary = cv2.threshold(mask[top : top + h, left : left + w], 127, 255, cv2.THRESH_BINARY)[1]
    x, y, w, h = cv2.boundingRect(binary)
    part = np.ascontiguousarray(binary[y : y + h, x : x + w])
    x, y = x + left, y + top
    area = cv2.countNonZero(part)
    if area < settings.min_area_px:
        return _empty()
    flags = Flag(0)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) > 1 and _several(part, contours, settings.blob_fraction):
        flags |= Flag.SEVERAL_BLOBS
    if x == 0 or y == 0 or x + w == width or y + h == height:
        flags |= Flag.CLIPPED

    margin = settings.margin_px
    x0, y0, x1, y1 = max(x - margin, 0), max(y - margin, 0), min(x + w + margin, width), min(y + h + margin, height)
    window = (x0, y0, x1 - x0, y1 - y0)
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    alpha[y - y0 : y - y0 + h, x - x0 : x - x0 + w] = part
    rgb = frame.rgb(window)
    sharpness = _sharpness(rgb[y - y0 :, x - x0 :][:h, :w], part)
    if sharpness < settings.min_sharpness:
        flags |= Flag.UNSHARP
    silhouette = Silhouette(_center(part) + [x, y], area, _support(contours) + [x, y], sharpness, flags, window)
    return silhouette, cv2.copyTo(rgb, alpha, np.zeros_like(rgb)), alpha


def _several(part: Image, contours: Sequence[NDArray[np.int32]], fraction: float) -> bool:
    """Whether a blob of a silhouette [h, w] other than the largest could be an animal.

    Then its area is more than a fraction of the largest's, and it is more than half as thick: a paw before the tail, or a
    bright reflection on it, cuts off a piece that is long but thin.
    """
    # A contour runs through the centres of its pixels: half a pixel all along it lies outside of its polygon.
    areas = np.array([cv2.contourArea(c) + cv2.arcLength(c, True) / 2 + 1 for c in contours])
    largest = int(areas.argmax())
    others = [int(k) for k in np.flatnonzero(areas > fraction * areas[largest]) if k != largest]
    if not others:
        return False
    distance = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]

    def thickness(k: int) -> float:
        x, y, w, h = cv2.boundingRect(contours[k])
        inside = cv2.drawContours(np.zeros((h, w), np.uint8), contours, k, 255, cv2.FILLED, offset=(-x, -y))
        return float(distance[y : y + h, x : x + w][inside > 0].max())

    return any(thickness(k) > thickness(largest) / 2 for k in others)


def _center(part: Image) -> NDArray[np.float64]:
    """Centre of mass [2] of a silhouette [h, w], relative to its corner; the first pixel's centre is (0.5, 0.5).

    A pixel weighs by its squared distance to the silhouette's edge, so that the tail and the paws weigh next to nothing.
    On the demo capture the triangulated centre is off by 3.2 mm (median) with every pixel counted alike, by 1.5 mm
    weighted by the distance, by 1.2 mm by its square. Of a large silhouette every n-th pixel is counted, which moves the
    centre by less than a thousandth of its size.
    """
    step = max(1, round(max(part.shape) / 200))
    coarse = np.pad(part[step // 2 :: step, step // 2 :: step], 1)
    # Integers, because float sums depend on memory alignment, and not OpenCV's "precise" distance, whose last bits vary
    # from call to call: shards must be the same byte for byte.
    distance = cv2.distanceTransform(coarse, cv2.DIST_L2, cv2.DIST_MASK_5)
    sixteenths = np.rint(distance * 16).astype(np.int32)
    weight = sixteenths * sixteenths
    columns, rows = weight.sum(axis=0, dtype=np.int64), weight.sum(axis=1, dtype=np.int64)
    total = columns.sum()
    index = np.array([columns @ np.arange(len(columns)) / total, rows @ np.arange(len(rows)) / total]) - 1
    return index * step + step // 2 + 0.5


def _empty(flag: Flag = Flag.EMPTY) -> tuple[Silhouette, Image, Image]:
    nowhere = np.full((SUPPORT_DIRECTIONS, 2), np.nan)
    return (
        Silhouette(nowhere[0], 0, nowhere, 0.0, flag | Flag.EMPTY, (0, 0, 0, 0)),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((0, 0), np.uint8),
    )


def _sharpness(rgb: Image, part: Image) -> float:
    """Variance of the Laplacian of grey values [h, w, 3] well inside the silhouette [h, w] (its edge would dominate).

    In the middle of the mouse, which is enough; all over where it bends around its middle.
    """
    h, w = part.shape
    for area in (np.s_[h // 4 : h - h // 4, w // 4 : w - w // 4], np.s_[:, :]):
        inside = cv2.erode(part[area], np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        if cv2.countNonZero(inside):
            laplacian = cv2.Laplacian(cv2.cvtColor(rgb[area], cv2.COLOR_RGB2GRAY), cv2.CV_16S)
            return float(cv2.meanStdDev(laplacian, mask=inside)[1][0, 0] ** 2)
    return 0.0


def _support(contours: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
    """Outermost pixel corner of a silhouette in each of SUPPORT_DIRECTIONS directions."""
    pixels = cv2.convexHull(np.concatenate(contours))[:, 0].astype(np.float64)
    corners = np.concatenate([pixels + [dx, dy] for dx in (0, 1) for dy in (0, 1)])
    angles = np.arange(SUPPORT_DIRECTIONS) * 2 * np.pi / SUPPORT_DIRECTIONS
    return corners[np.argmax(corners @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)]


def center(
    capture: Capture, chunk: int, output: Path, settings: Center, threads: int = 1, background: Path | None = None
) -> None:
    """Write one chunk of a capture: `center/{capture}/{chunk}.h5`.

    background: the file of that name, needed for masks: background. Raises UserError if the recordings do not fit
    together (`capture_frames`), a frame is missing or cannot be decoded (unless on_bad_frame: skip), or the chunk lies
    beyond the capture's end.
    """
    ranges = chunk_ranges(capture_frames(capture, settings), settings)
    if not 0 <= chunk < len(ranges):
        raise UserError(f"capture {capture.name}: chunk {chunk} is beyond its {len(ranges)} chunks")
    frames = ranges[chunk]
    fps = capture_fps(capture)
    views = len(capture.cameras)
    arenas = _arenas(capture, settings, background)

    # Cameras are independent, and decoding and OpenCV release Python's lock: one thread per camera.
    done = track(len(frames) * views, f"center {capture.name} chunk {chunk}")
    workers = max(1, min(threads, views))

    def one_camera(view: int) -> tuple[list[tuple[Silhouette, bytes]], Counter[str]]:
        cv2.setNumThreads(1)
        rows, dropped = [], Counter[str]()
        found = method(settings.masks).silhouettes(
            capture, view, frames, settings, max(1, threads // workers), arenas[view]
        )
        for frame, mask in found:
            if isinstance(frame, Missing):
                if settings.on_bad_frame == "error":
                    raise UserError(f"{frame.reason}; center.on_bad_frame: skip would drop such frames")
                dropped[frame.reason] += 1
                silhouette, *crop = _empty(Flag.MISSING)
            else:
                silhouette, *crop = measure(frame, mask, settings)
            rows.append((silhouette, encode_crop(*crop)))
            done()
        return rows, dropped

    with ThreadPoolExecutor(max_workers=workers) as pool:
        columns, dropped = zip(*pool.map(one_camera, range(views)), strict=True)
    for name, reasons in zip(capture.cameras, dropped, strict=True):
        if reasons:
            count = f"camera {name}: {reasons.total()} of {len(frames)} frames are missing:"
            print(count, *reasons, sep="\n  ", file=sys.stderr)

    with atomic(output) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        sizes = [(probed.width, probed.height) for probed in map(probe, capture.videos)]
        file.attrs.update(
            stage="center", version=STAGE_VERSIONS["center"], capture=capture.name, chunk=chunk, fps=fps,
            cameras=list(capture.cameras), size=np.array(sizes),
        )  # fmt: skip
        grid = [[columns[v][n][0] for v in range(views)] for n in range(len(frames))]
        file["frame"] = np.asarray(frames, np.int64)
        file["time_s"] = np.asarray(frames, np.float64) / fps
        shape = (len(frames), views)
        for name, dtype, tail in (
            ("center_px", np.float64, (2,)), ("area_px", np.int64, ()), ("support_px", np.float64, (SUPPORT_DIRECTIONS, 2)),
            ("sharpness", np.float64, ()), ("flags", np.uint8, ()), ("window", np.int32, (4,)),
        ):  # fmt: skip
            values = [[getattr(s, name) for s in row] for row in grid]
            file[name] = np.asarray(values, dtype).reshape(*shape, *tail)
        crops = np.empty(shape, object)
        for n, v in np.ndindex(shape):
            crops[n, v] = np.frombuffer(columns[v][n][1], np.uint8)
        file.create_dataset("crop_zstd", data=crops, dtype=h5py.vlen_dtype(np.uint8))


def _arenas(capture: Capture, settings: Center, background: Path | None) -> Sequence[Arena | None]:
    if background is None or not method(settings.masks).needs_arena:
        return [None] * len(capture.cameras)
    return read_background(background, capture.cameras)


def _spread(frames: range, count: int) -> range:
    """At most `count` of the frames, uniform over all."""
    step = -(-len(frames) // count)
    return frames[(len(frames) - 1) % step // 2 :: step]


def background(capture: Capture, output: Path, settings: Center, threads: int = 1) -> None:
    """Write `center/{capture}/background.h5`: a group per camera with what `masks: background` knows of the empty arena.

    Raises UserError if too few frames can be read.
    """
    frames = _spread(capture_frames(capture, settings), settings.background.frames)
    done = track(len(capture.cameras), f"background {capture.name}")

    def one_camera(view: int) -> dict[str, NDArray[Any]]:
        cv2.setNumThreads(1)
        images = read_camera(capture, capture.videos, view, frames, settings)
        try:
            model = estimate_background(
                (frame.rgb() for frame in images if not isinstance(frame, Missing)), settings.background
            )
        except UserError as error:
            raise UserError(f"capture {capture.name}, camera {capture.cameras[view]}: {error}") from None
        done()
        return model

    # One camera's frames are some hundreds of megabytes: no more cameras at a time than threads.
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        models = list(pool.map(one_camera, range(len(capture.cameras))))
    with atomic(output) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(stage="center", version=STAGE_VERSIONS["center"], capture=capture.name)
        for name, model in zip(capture.cameras, models, strict=True):
            group = file.create_group(name)
            for key, value in model.items():
                group.create_dataset(key, data=value, compression="gzip", compression_opts=1)


def read_background(path: Path, cameras: tuple[str, ...]) -> list[dict[str, NDArray[Any]]]:
    """Each camera's model from `background`'s file."""
    with open_h5(path, "mousefacelift background") as file:
        return [{key: value[()] for key, value in file[name].items()} for name in cameras]


def preview(capture: Capture, output: Path, settings: Center, threads: int = 1, background: Path | None = None) -> None:
    """Write `center/{capture}/preview.png`: each camera's frames at a few moments, with the silhouettes' outlines."""
    arenas = _arenas(capture, settings, background)
    frames = _spread(capture_frames(capture, settings), PREVIEW_MOMENTS)

    def one_camera(view: int) -> list[Tile]:
        cv2.setNumThreads(1)
        found = method(settings.masks).silhouettes(capture, view, frames, settings, arena=arenas[view])
        return [
            Tile(index, frame.rgb(), mask)
            for index, (frame, mask) in zip(frames, found, strict=True)
            if not isinstance(frame, Missing)
        ]

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        rows = dict(zip(capture.cameras, pool.map(one_camera, range(len(capture.cameras))), strict=True))
    for name, tiles in rows.items():
        if not any((tile.mask > 127).any() for tile in tiles):
            print(f"camera {name}: no mouse found at any of the moments drawn", file=sys.stderr)
    empty = {name: arena["background"] for name, arena in zip(capture.cameras, arenas, strict=True) if arena}
    preview_sheet(output, rows, empty)
