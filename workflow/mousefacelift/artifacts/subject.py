"""What `cameras` writes of the mouse: its place and visual hull in each frame, and how the cameras agree on them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.hdf5 import StageFile


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameColumns(StageFile):
    """What subject.h5 and, for the frames whose centre is known, cameras.h5 have in common.

    frame: [N] int64, index in the capture, ascending.
    time_s: [N] float64, s since frame 0.
    chunk: [N] int64, number of the chunk that the frame is in.
    flags: [N, V] uint8, sums of `center.Flag`.
    residual_px: [N, V] float64, distance in the raw frame between the silhouette's centre of mass and the triangulated
        centre, px; NaN without silhouette or centre, inf for a centre behind the camera or beyond its calibrated field.
    """

    frame: NDArray[np.int64]
    time_s: NDArray[np.float64]
    chunk: NDArray[np.int64]
    flags: NDArray[np.uint8]
    residual_px: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class SubjectMeasures(FrameColumns):
    """cameras/{capture}/subject.h5 but for outlines, rays and points: N frames, V cameras. The world is the calibration's.

    What is of the visual hull is 0 (volume) or NaN in a frame without one; see `geometry.hull.Hull`.

    area_px: [N, V] int64, the silhouette's pixels in the raw frame.
    sharpness: [N, V] float64, as `center` measured it.
    center_mm: [N, 3] float64, the hull's centroid, mm; without a hull the triangulated centre; NaN without both.
    triangulated_mm: [N, 3] float64, centre from the silhouettes' centres of mass alone, mm; the hull is looked for here.
    volume_mm3: [N] float64, of the hull, mm^3.
    lengths_mm: [N, 3] float64, full axes of the ellipsoid with the hull's second moments, longest first, mm.
    axis: [N, 3] float64, unit vector along the longest of them, of either sign.
    hull_iou: [N, V] float64, overlap of hull and silhouette.
    cut: [N, V] float64, share of the hull's volume beyond the edge of the video.
    """

    STAGE: ClassVar[str] = "cameras"

    area_px: NDArray[np.int64]
    sharpness: NDArray[np.float64]
    center_mm: NDArray[np.float64]
    triangulated_mm: NDArray[np.float64]
    volume_mm3: NDArray[np.float64]
    lengths_mm: NDArray[np.float64]
    axis: NDArray[np.float64]
    hull_iou: NDArray[np.float64]
    cut: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject(SubjectMeasures):
    """cameras/{capture}/subject.h5, whole. Rays are unit vectors in the camera frame.

    center_rays: [N, V, 3] float64, through the silhouette's centre of mass.
    outline_px: [N, V, S, 2] float64, corners of a polygon around the silhouette in the raw frame, px.
    outline_rays: [N, V, S, 3] float64, through those corners; NaN beyond the calibrated field.
    surface_mm: [N, K, 3] float32, voxels that the hull's surface runs through, mm; NaN behind the last one.
    thin_mm: [N, K', 4] float32, such voxels of thin parts, x, y, z and depth inside the hull, mm; NaN behind the last one.
    body_mm: [N, K'', 3] float32, the outermost voxels of the body, which is the hull without thin parts, in directions spread
        evenly, mm; NaN without a hull.
    """

    center_rays: NDArray[np.float64]
    outline_px: NDArray[np.float64]
    outline_rays: NDArray[np.float64]
    surface_mm: NDArray[np.float32]
    thin_mm: NDArray[np.float32]
    body_mm: NDArray[np.float32]
