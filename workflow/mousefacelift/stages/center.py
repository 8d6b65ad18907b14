"""Stage 1, center: decode each video once; keep the mouse's silhouette, its measures and a full-resolution crop."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import CenteredChunk, Flag
from mousefacelift.base.errors import UserError
from mousefacelift.base.progress import track
from mousefacelift.config.center import Center
from mousefacelift.geometry.outlines import Edge, borders, edge, holes
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import capture_fps
from mousefacelift.recordings.recording import capture_frames, chunk_ranges
from mousefacelift.recordings.silhouettes.moments import Seen, moments
from mousefacelift.recordings.silhouettes.segmentation import Arena
from mousefacelift.recordings.video import Frame, Missing, probe
from mousefacelift.shards.images import encode_crop
from mousefacelift.stages.background import arenas_of

Image = NDArray[np.uint8]

SUPPORT_DIRECTIONS = 32
GAP_PX, TOUCHING_PX = 2, 6  # how near, and with how many pixels, two animals' silhouettes touch: a tail is 4 px wide


@dataclass(frozen=True)
class Silhouette:
    """One view's silhouette. Pixels are those of the raw frame, with the first one's centre at (0.5, 0.5).

    center_px: [2] centre of mass, each pixel weighted by its squared distance to the edge.
    area_px: number of pixels.
    support_px: [SUPPORT_DIRECTIONS, 2] outermost point in each direction, a corner of the silhouette's convex hull.
    sharpness: variance of the Laplacian of grey values inside.
    edge: where the picture's edges are, against its outline.
    holes: share of it, filled, that is holes.
    flags: what is wrong with it.
    window: x, y, width and height of its crop, px.
    """

    center_px: NDArray[np.float64]
    area_px: int
    support_px: NDArray[np.float64]
    sharpness: float
    edge: Edge
    holes: float
    flags: Flag
    window: tuple[int, int, int, int]


def measure(frame: Frame, mask: Image, settings: Center) -> tuple[Silhouette, Image, Image]:
    """Measure one view and cut out its crop.

    Args:
        frame: [H, W] the raw frame.
        mask: [H, W] uint8, above 127 is mouse.
        settings: min_area_px, blob_fraction, margin_px and min_sharpness are used.

    Returns:
        The silhouette.
        The crop's colours at full resolution, [h, w, 3] uint8 RGB, 0 outside the silhouette, where no later stage looks.
        The crop's silhouette, [h, w] uint8, 0 or 255.
    """
    height, width = mask.shape
    # The threshold is applied within the mask's own bounds: for most masks they are the silhouette's, and frames are large.
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
    contours = borders(part)
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
    silhouette = Silhouette(
        _center(part) + [x, y],
        area,
        _support(contours) + [x, y],
        sharpness,
        edge(rgb, contours, (x - x0, y - y0)),
        holes(area, contours),
        flags,
        window,
    )
    return silhouette, cv2.copyTo(rgb, alpha, np.zeros_like(rgb)), alpha


def _several(part: Image, contours: Sequence[NDArray[np.int32]], fraction: float) -> bool:
    """Whether a blob of a silhouette [h, w] other than the largest could be an animal.

    It could if its area is more than a fraction of the largest blob's and it is more than half as thick. A paw in front of
    the tail, or a bright reflection on it, cuts off a piece that is long but thin.
    """
    # A contour runs through the centres of its pixels: its polygon lacks half a pixel all along it.
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

    The weight of a pixel is its squared distance to the silhouette's edge, so that tail and paws weigh next to nothing.
    On the demo capture the triangulated centre is off by 3.2 mm (median) with equal weights, by 1.5 mm with the distance
    as weight, by 1.2 mm with its square. In a large silhouette every n-th pixel counts, which moves the centre by less
    than a thousandth of the silhouette's size.
    """
    step = max(1, round(max(part.shape) / 200))
    coarse = np.pad(part[step // 2 :: step, step // 2 :: step], 1)
    # Shards must be the same byte for byte. So weights are integers, because float sums depend on memory alignment, and the
    # mask is 5 x 5, because the last bits of OpenCV's "precise" distance vary from call to call.
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
        Silhouette(nowhere[0], 0, nowhere, 0.0, Edge(np.nan, np.nan, np.nan), 0.0, flag | Flag.EMPTY, (0, 0, 0, 0)),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((0, 0), np.uint8),
    )


def _sharpness(rgb: Image, part: Image) -> float:
    """Variance of the Laplacian of grey values [h, w, 3] well inside the silhouette [h, w] (its edge would dominate).

    The middle of the box is enough; if the mouse bends around it, all of the box is used.
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


Measured = list[tuple[Silhouette, bytes]]  # one camera's silhouettes of one animal in a chunk, with their encoded crops


def center(
    capture: Capture,
    chunk: int,
    output: Path,
    settings: Center,
    threads: int = 1,
    background: Path | None = None,
    others: Sequence[Capture] = (),
) -> None:
    """Write one chunk of a recording: `center/{recording}/{chunk}.h5` (see `CenteredChunk`).

    background: the file of that name, needed for masks: background. others: the recording's other animals, found in the
    same pass over the same videos and masks. Raises UserError if the recordings do not fit together (`capture_frames`), a
    frame is missing or cannot be decoded (unless on_bad_frame: skip), or the chunk lies beyond the capture's end.
    """
    ranges = chunk_ranges(capture_frames(capture, settings), settings)
    if not 0 <= chunk < len(ranges):
        raise UserError(f"capture {capture.name}: chunk {chunk} is beyond its {len(ranges)} chunks")
    arenas = arenas_of(capture, settings, background)
    animals = (capture, *others)
    cameras = _measure_cameras(animals, chunk, ranges[chunk], settings, arenas, threads)
    parts = [
        _centered_chunk(animal, chunk, ranges[chunk], [camera[k] for camera in cameras])
        for k, animal in enumerate(animals)
    ]
    if others:
        CenteredChunk.write_shared(output, parts)
    else:
        parts[0].write(output)


def _measure_cameras(
    animals: Sequence[Capture],
    chunk: int,
    frames: range,
    settings: Center,
    arenas: Sequence[Arena | None],
    threads: int,
) -> list[list[Measured]]:
    """What each camera shows of each animal in the frames. Frames that are missing are listed on stderr."""
    cameras = animals[0].cameras
    done = track(len(frames) * len(cameras), f"center {animals[0].name} chunk {chunk}")
    found: list[list[Measured]] = [[[] for _ in animals] for _ in cameras]
    dropped = [Counter[str]() for _ in cameras]

    def one_view(seen: Seen) -> list[tuple[Silhouette, bytes]]:
        if isinstance(seen.frame, Missing):
            measured = [_empty(Flag.MISSING) for _ in animals]
        else:
            measured = [measure(seen.frame, mask, settings) for mask in seen.masks]
        done()
        return [
            (replace(silhouette, flags=silhouette.flags | touch), encode_crop(*crop))
            for (silhouette, *crop), touch in zip(measured, _touches(measured), strict=True)
        ]

    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(cameras)))) as pool:
        for moment in moments(animals, frames, settings, arenas, threads):
            for v, seen in enumerate(moment):
                if isinstance(seen.frame, Missing):
                    if settings.on_bad_frame == "error":
                        raise UserError(f"{seen.frame.reason}; center.on_bad_frame: skip would drop such frames")
                    dropped[v][seen.frame.reason] += 1
            for v, rows in enumerate(pool.map(one_view, moment)):
                for k, row in enumerate(rows):
                    found[v][k].append(row)
    for name, reasons in zip(cameras, dropped, strict=True):
        if reasons:
            count = f"camera {name}: {reasons.total()} of {len(frames)} frames are missing:"
            print(count, *reasons, sep="\n  ", file=sys.stderr)
    return found


def _touches(measured: Sequence[tuple[Silhouette, Image, Image]]) -> list[Flag]:
    """For each animal of one view: OCCLUDED if its silhouette touches another's, else nothing.

    Silhouettes touch if TOUCHING_PX of one lie within GAP_PX of the other: masks of two animals often leave a gap.
    """
    flags = [Flag(0)] * len(measured)
    kernel = np.ones((2 * GAP_PX + 1, 2 * GAP_PX + 1), np.uint8)
    for a, b in combinations(range(len(measured)), 2):
        windows = [np.array(measured[k][0].window) for k in (a, b)]
        low = np.maximum(windows[0][:2], windows[1][:2])
        high = np.minimum(windows[0][:2] + windows[0][2:], windows[1][:2] + windows[1][2:])
        if (high <= low).any():
            continue
        # The windows hold a margin, wider than the gap, around the silhouettes.
        shared = [
            np.ascontiguousarray(measured[k][2][low[1] - y : high[1] - y, low[0] - x : high[0] - x])
            for k, (x, y) in zip((a, b), (window[:2] for window in windows), strict=True)
        ]
        near = cv2.dilate(shared[0], kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        if cv2.countNonZero(near & shared[1]) >= TOUCHING_PX:
            flags[a] |= Flag.OCCLUDED
            flags[b] |= Flag.OCCLUDED
    return flags


def _centered_chunk(capture: Capture, chunk: int, frames: range, cameras: list[Measured]) -> CenteredChunk:
    """The file's content: what was measured camera by camera, as arrays of frames and views."""
    grid = list(zip(*cameras, strict=True))

    def of_each(value: Callable[[Silhouette], Any], dtype: type[np.generic]) -> NDArray[Any]:
        return np.asarray([[value(silhouette) for silhouette, _ in row] for row in grid], dtype)

    crops = np.empty((len(frames), len(cameras)), object)
    for n, v in np.ndindex(crops.shape):
        crops[n, v] = np.frombuffer(grid[n][v][1], np.uint8)
    fps = capture_fps(capture)
    return CenteredChunk(
        capture=capture.name,
        cameras=capture.cameras,
        chunk=chunk,
        fps=fps,
        size=np.array([(probed.width, probed.height) for probed in map(probe, capture.videos)]),
        frame=np.asarray(frames, np.int64),
        time_s=np.asarray(frames, np.float64) / fps,
        center_px=of_each(lambda silhouette: silhouette.center_px, np.float64),
        area_px=of_each(lambda silhouette: silhouette.area_px, np.int64),
        support_px=of_each(lambda silhouette: silhouette.support_px, np.float64),
        sharpness=of_each(lambda silhouette: silhouette.sharpness, np.float64),
        edge_contrast=of_each(lambda silhouette: silhouette.edge.contrast, np.float64),
        edge_bare=of_each(lambda silhouette: silhouette.edge.bare, np.float64),
        edge_offset_px=of_each(lambda silhouette: silhouette.edge.offset_px, np.float64),
        holes=of_each(lambda silhouette: silhouette.holes, np.float64),
        flags=of_each(lambda silhouette: silhouette.flags, np.uint8),
        window=of_each(lambda silhouette: silhouette.window, np.int32),
        crop_zstd=crops,
    )
