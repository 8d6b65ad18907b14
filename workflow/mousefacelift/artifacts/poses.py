"""What `normalize` writes: the virtual cameras of every frame, and how their views hold the mouse."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.hdf5 import attribute
from mousefacelift.artifacts.subject import FrameColumns, SubjectMeasures
from mousefacelift.base.errors import UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class Poses(FrameColumns):
    """normalize/{capture}/cameras.h5: virtual cameras of V views in the N frames whose centre is known.

    Worlds are Z-up with the mouse at the origin, in world units. Camera frames are OpenCV's. In a view the first pixel's
    centre is at (0.5, 0.5).

    image_size: width and height of the views, px.
    distance_policy: `normalize.distance`; the attribute's name is distance.
    w2c: [N, V, 4, 4] float64, world to camera, as written to the shards.
    fxfycxcy: [N, V, 4] float64, intrinsics as written to the shards, px.
    image_fxfycxcy: [N, V, 4] float64, intrinsics with which the images are made, px; equal unless the policy is canonical.
    R_view: [N, V, 3, 3] float64, rotation from the calibration's world to the virtual camera, at the raw camera's centre.
    world_from_mm: [N, 4, 4] float64, similarity from the calibration's world in mm.
    world_units_per_mm: [N] float64, its scale.
    distance: [N, V] float64, from the camera to the mouse, world units.
    reprojection_px: [N, 3] float64, median, 95th percentile and maximum over hull and views of the distance between where
        points appear in the images and where the written cameras project them, px; NaN without a hull.
    fits: [N, V] bool, whether the view holds what it must: the whole silhouette, or the body (`normalize.fit`).
    fill: [N, V] float64, the silhouette's share of the view.
    width: [N, V] float64, longer side of the silhouette's box in the view, as a share of the view's width.
    body_width: [N, V] float64, the same of the body, the mouse without thin parts; NaN without a hull.
    body_length: [N] float64, largest distance between two points of the body, world units; NaN without a hull.
    clipped_px: [N, V] float64, the silhouette's pixels beyond the view; estimated, and too many where only a tail leaves it.
    offset_px: [N, V] float64, distance of the silhouette's centre of mass from the middle of the view, px.
    """

    STAGE: ClassVar[str] = "normalize"

    image_size: int = field(metadata=attribute(int))
    distance_policy: str = field(metadata=attribute(str, "distance"))
    w2c: NDArray[np.float64]
    fxfycxcy: NDArray[np.float64]
    image_fxfycxcy: NDArray[np.float64]
    R_view: NDArray[np.float64]
    world_from_mm: NDArray[np.float64]
    world_units_per_mm: NDArray[np.float64]
    distance: NDArray[np.float64]
    reprojection_px: NDArray[np.float64]
    fits: NDArray[np.bool_]
    fill: NDArray[np.float64]
    width: NDArray[np.float64]
    body_width: NDArray[np.float64]
    body_length: NDArray[np.float64]
    clipped_px: NDArray[np.float64]
    offset_px: NDArray[np.float64]

    def rows_in(self, subject: SubjectMeasures, path: Path, subject_path: Path) -> NDArray[np.intp]:
        """The rows [N] of subject.h5 that this file, at `path`, was made from.

        Raises UserError if it was made from another subject.h5: of another capture or other cameras, with other frames, or
        with other values in a column that `normalize` copies.
        """
        self.check_cameras(path, subject.cameras, subject_path)
        again = f"delete it and run `{self.command()}` again"
        rows = np.searchsorted(subject.frame, self.frame).clip(max=len(subject.frame) - 1)
        if self.capture != subject.capture or not np.array_equal(subject.frame[rows], self.frame):
            raise UserError(f"{path}: has frames that {subject_path} has not; {again}")
        for column in (each.name for each in fields(FrameColumns) if "attribute" not in each.metadata):
            ours, theirs = getattr(self, column), getattr(subject, column)[rows]
            if not np.array_equal(ours, theirs, equal_nan=True):
                raise UserError(f"{path}: was not made from this {subject_path}: they differ in {column}; {again}")
        return rows
