"""Stage 1, center: decode each video once; keep the mouse's silhouette, its measures and a full-resolution crop."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.captures import Capture
from mousefacelift.config import Center
from mousefacelift.errors import UserError
from mousefacelift.files import atomic
from mousefacelift.images import encode_png
from mousefacelift.progress import track
from mousefacelift.video import probe, read_frames

Image = NDArray[np.uint8]

SUPPORT_DIRECTIONS = 32


class Flag(IntFlag):
    """What is wrong with one view of one frame."""

    EMPTY = 1
    CLIPPED = 2
    SEVERAL_BLOBS = 4
    UNSHARP = 8


@dataclass(frozen=True)
class Silhouette:
    """One view's silhouette. Pixel coordinates have the first pixel's centre at (0.5, 0.5).

    center_px: [2] centre of mass, pixels weighted by their squared distance to the edge. area_px: pixels. support_px: [SUPPORT_DIRECTIONS, 2] the outermost point in each
    direction: corners of the silhouette's convex hull. window: x, y, width, height of its crop in the raw frame.
    """

    center_px: NDArray[np.float64]
    area_px: int
    support_px: NDArray[np.float64]
    sharpness: float
    flags: Flag
    window: tuple[int, int, int, int]


def chunk_ranges(frames: int, settings: Center) -> list[range]:
    """The candidate frames of each chunk of a capture with this many frames; none is empty."""
    chunks = (
        range(
            -(-start // settings.stride) * settings.stride, min(start + settings.chunk_frames, frames), settings.stride
        )
        for start in range(0, frames, settings.chunk_frames)
    )
    return [chunk for chunk in chunks if chunk]


def measure(image: Image, mask: Image, settings: Center) -> tuple[Silhouette, Image]:
    """Measure one view and cut out its crop.

    image: [H, W, 3] RGB; mask: [H, W], above 127 is mouse. The crop is [h, w, 4]
    RGBA at full resolution; its RGB is 0 outside the silhouette, where nothing downstream looks.
    """
    height, width = mask.shape
    silhouette = (mask > 127).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(silhouette)
    part = silhouette[y : y + h, x : x + w]
    area = int(part.sum())
    if area < settings.min_area_px:
        return _empty()
    flags = Flag(0)
    # A paw before the tail cuts the silhouette in two; a second animal is no such sliver.
    blobs = np.sort(cv2.connectedComponentsWithStats(part, connectivity=8)[2][1:, cv2.CC_STAT_AREA])
    if len(blobs) > 1 and blobs[-2] > settings.blob_fraction * blobs[-1]:
        flags |= Flag.SEVERAL_BLOBS
    if x == 0 or y == 0 or x + w == width or y + h == height:
        flags |= Flag.CLIPPED
    # A pixel weighs by its squared distance to the silhouette's edge, so that the tail and the paws weigh next to
    # nothing. On the demo capture the triangulated centre is off by 3.2 mm (median) with every pixel counted alike, by
    # 1.5 mm weighted by the distance, by 1.2 mm by its square.
    # Integers, because float sums depend on memory alignment, and not OpenCV's "precise" distance, whose last bits vary
    # from call to call: shards must be the same byte for byte.
    distance = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    weight = np.rint(distance * 16).astype(np.int64) ** 2
    total = weight.sum()
    center = 0.5 + np.array(
        [x + (weight.sum(axis=0) @ np.arange(w)) / total, y + (weight.sum(axis=1) @ np.arange(h)) / total]
    )

    margin = settings.margin_px
    x0, y0, x1, y1 = max(x - margin, 0), max(y - margin, 0), min(x + w + margin, width), min(y + h + margin, height)
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    alpha[y - y0 : y - y0 + h, x - x0 : x - x0 + w] = part
    rgb = image[y0:y1, x0:x1]
    sharpness = _sharpness(rgb, alpha)
    if sharpness < settings.min_sharpness:
        flags |= Flag.UNSHARP
    crop = np.dstack([rgb * alpha[..., None], alpha * np.uint8(255)])
    window = (x0, y0, x1 - x0, y1 - y0)
    return Silhouette(center, area, _support(part) + [x, y], sharpness, flags, window), crop


def _empty() -> tuple[Silhouette, Image]:
    nowhere = np.full((SUPPORT_DIRECTIONS, 2), np.nan)
    return Silhouette(nowhere[0], 0, nowhere, 0.0, Flag.EMPTY, (0, 0, 0, 0)), np.zeros((0, 0, 4), np.uint8)


def _sharpness(rgb: Image, alpha: Image) -> float:
    """Variance of the Laplacian of grey values well inside the silhouette (its edge would dominate)."""
    inside = cv2.erode(alpha, np.ones((5, 5), np.uint8)).astype(bool)
    if not inside.any():
        return 0.0
    return float(cv2.Laplacian(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[inside].var())


def _support(part: Image) -> NDArray[np.float64]:
    """Outermost pixel corner of a silhouette [h, w] in each of SUPPORT_DIRECTIONS directions, relative to its corner."""
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pixels = np.concatenate(contours)[:, 0].astype(np.float64)
    corners = np.concatenate([pixels + [dx, dy] for dx in (0, 1) for dy in (0, 1)])
    angles = np.arange(SUPPORT_DIRECTIONS) * 2 * np.pi / SUPPORT_DIRECTIONS
    return corners[np.argmax(corners @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)]


def center(capture: Capture, chunk: int, output: Path, settings: Center, threads: int = 1) -> None:
    """Write one chunk of a capture: `center/{capture}/{chunk}.h5`.

    Raises UserError if cameras have different numbers of frames, a video and its masks differ in size or length, a
    frame cannot be decoded, or the chunk lies beyond the capture's end.
    """
    probed = [probe(path) for path in capture.videos]
    counts = {name: count for name, (count, _) in zip(capture.cameras, probed, strict=True)}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"camera {name}: {count}" for name, count in counts.items())
        raise UserError(f"capture {capture.name}: the cameras' videos differ in their number of frames ({listed})")
    ranges = chunk_ranges(next(iter(counts.values())), settings)
    if not 0 <= chunk < len(ranges):
        raise UserError(f"capture {capture.name}: chunk {chunk} is beyond its {len(ranges)} chunks")
    frames = ranges[chunk]
    if chunk == len(ranges) - 1:  # once per capture: where a header does not say, the whole file is read to count
        for name, path in zip(capture.cameras, capture.masks, strict=True):
            if (masks := probe(path)[0]) != counts[name]:
                raise UserError(
                    f"capture {capture.name}, camera {name}: the video has {counts[name]} frames, its masks {masks} ({path})"
                )
    fps = capture.fps or probed[0][1]
    views = len(capture.cameras)

    # Cameras are independent, and decoding and OpenCV release Python's lock: one thread per camera.
    done = track(len(frames) * views, f"center {capture.name} chunk {chunk}")
    sizes: list[tuple[int, int]] = [(0, 0)] * views

    def one_camera(view: int) -> list[tuple[Silhouette, bytes]]:
        cv2.setNumThreads(1)
        where = f"capture {capture.name}, camera {capture.cameras[view]}"
        images = read_frames(capture.videos[view], frames, "rgb24", where)
        masks = read_frames(capture.masks[view], frames, "gray", where)
        rows = []
        for (index, image), (_, mask) in zip(images, masks, strict=True):
            if image.shape[:2] != mask.shape:
                raise UserError(
                    f"{where}, frame {index}: the video is {image.shape[1]}x{image.shape[0]} px, its masks "
                    f"{mask.shape[1]}x{mask.shape[0]} ({capture.masks[view]})"
                )
            sizes[view] = image.shape[1], image.shape[0]
            silhouette, crop = measure(image, mask, settings)
            rows.append((silhouette, encode_png(crop, level=1)))
            done()
        return rows

    with ThreadPoolExecutor(max_workers=max(1, min(threads, views))) as pool:
        columns = list(pool.map(one_camera, range(views)))

    with atomic(output) as temporary, h5py.File(temporary, "w", libver="latest") as file:
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
        crops = file.create_dataset("crop_png", shape, h5py.vlen_dtype(np.uint8))
        for n, v in np.ndindex(shape):
            crops[n, v] = np.frombuffer(columns[v][n][1], np.uint8)
