"""Pixels of a sample's views that nothing can be learned from, because they can show what some view's picture does not hold.

A picture ends at its own edge, and where the raw frame ends. What lies beyond, such as a tail, is lost from that view. Then
no pixel of any view can be judged that may show this part: a prediction that leaves it out is as right as one that has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array, Camera, project
from mousefacelift.geometry.hull import Floats
from mousefacelift.geometry.resampling import View
from mousefacelift.geometry.views import view_map

Mask = NDArray[np.bool_]
LARGEST_SPLAT = 64  # px, of a voxel that is very close to a camera


@dataclass(frozen=True)
class Picture:
    """One view's picture, and where the mouse may go on beyond it.

    camera: the raw camera.
    view: the virtual camera.
    alpha: [size, size] uint8, the silhouette in the picture.
    leaves_picture: whether the silhouette goes on beyond the picture.
    leaves_frame: whether it touches an edge of the raw frame. If not, the mouse ends inside, and what is beyond is white.
    """

    camera: Camera
    view: View
    alpha: NDArray[np.uint8]
    leaves_picture: bool
    leaves_frame: bool


def unknown_pixels(pictures: Sequence[Picture], voxels_mm: Floats, voxel_mm: float) -> Mask:
    """Find the pixels that can show a part of the mouse which some picture does not hold, or that lie beyond the raw frame.

    Args:
        pictures: of a sample's V views.
        voxels_mm: [n, 3] the mouse's visual hull, as of `hull.hull_voxels`, in the calibration's world.
        voxel_mm: edge of a voxel.

    Returns:
        [V, size, size] bool. The silhouettes bound what is marked: a pixel more than one pixel outside of its view's
        silhouette and inside the raw frame shows no part of the mouse, and that is known.
    """
    lost = np.zeros(len(voxels_mm), bool)
    for picture in pictures:
        lost |= ~_held(picture, voxels_mm)
    return np.stack([_showing(picture, voxels_mm[lost], voxel_mm) | _beyond_frame(picture) for picture in pictures])


def _in_view(view: View, camera: Camera, points_mm: Floats) -> tuple[Array, Array]:
    """Pixels [n, 2] of points in a virtual camera at a raw camera's centre, and their depths [n] in mm."""
    x, y, z = (view.R @ (points_mm - camera.center).T).astype(np.float64)
    fx, fy, cx, cy = view.fxfycxcy
    return np.stack([fx * x / z + cx, fy * y / z + cy], axis=-1), z


def _held(picture: Picture, points_mm: Floats) -> Mask:
    """Whether a picture holds each of the points [n]."""
    held = np.ones(len(points_mm), bool)
    if picture.leaves_picture:
        pixels, _ = _in_view(picture.view, picture.camera, points_mm)
        held &= ((pixels >= 0) & (pixels <= picture.view.size)).all(axis=-1)
    if picture.leaves_frame:
        raw, _ = project(points_mm, picture.camera)
        held &= ((raw >= 0) & (raw <= [picture.camera.width, picture.camera.height])).all(axis=-1)
    return held


def _showing(picture: Picture, points_mm: Floats, voxel_mm: float) -> Mask:
    """The pixels [size, size] at which a picture can show voxels: those of their balls, inside the silhouette."""
    size = picture.view.size
    pixels, depth = _in_view(picture.view, picture.camera, points_mm)
    pixels, depth = pixels[depth > 0], depth[depth > 0]
    if not len(pixels):
        return np.zeros((size, size), bool)
    radius = min(int(np.ceil(np.sqrt(3) / 2 * voxel_mm * picture.view.fxfycxcy[0] / depth.min())), LARGEST_SPLAT)
    # A voxel beyond the picture reaches in by its radius.
    column, row = np.floor(pixels).T + radius
    near = (column >= 0) & (row >= 0) & (column < size + 2 * radius) & (row < size + 2 * radius)
    shown = np.zeros((size + 2 * radius, size + 2 * radius), np.uint8)
    shown[row[near].astype(int), column[near].astype(int)] = 1
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    shown = cv2.dilate(shown, ball)[radius : radius + size, radius : radius + size]
    silhouette = cv2.dilate((picture.alpha > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    return (shown & silhouette).astype(bool)


def _beyond_frame(picture: Picture) -> Mask:
    """The pixels [size, size] that lie beyond the raw frame or its calibrated field, or next to one that does."""
    size, camera = picture.view.size, picture.camera
    if not picture.leaves_frame:
        return np.zeros((size, size), bool)
    ticks = np.arange(size, dtype=np.float64) + 0.5
    raw, radius = view_map(camera, picture.view.R, picture.view.fxfycxcy, ticks, ticks)
    inside = ((raw >= 0) & (raw <= [camera.width, camera.height])).all(axis=-1) & (radius < camera.field_radius)
    return cv2.dilate((~inside).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
