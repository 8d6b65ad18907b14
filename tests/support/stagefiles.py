"""Files that stages hand on, filled with random numbers of the right shapes."""

from dataclasses import fields

import numpy as np

from mousefacelift.artifacts.center import CenteredChunk
from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.subject import FrameColumns, Subject

CAMERAS = ("1", "top left", "ümlaut")


def chunk(frames=4, number=0, cameras=CAMERAS) -> CenteredChunk:
    random, shape = np.random.default_rng(number), (frames, len(cameras))
    crops = np.empty(shape, object)
    for n, v in np.ndindex(shape):
        crops[n, v] = random.integers(0, 256, 10 * n + v).astype(np.uint8)  # the first one is empty
    center_px = random.uniform(0, 900, (*shape, 2))
    center_px[1, 1] = np.nan
    frame = number * frames + np.arange(frames)
    return CenteredChunk(
        capture="day1", cameras=cameras, chunk=number, fps=29.97, size=np.array([[1152, 1024]] * len(cameras)),
        frame=frame, time_s=frame / 29.97, center_px=center_px, area_px=random.integers(0, 9000, shape),
        support_px=random.uniform(0, 900, (*shape, 32, 2)), sharpness=random.uniform(0, 90, shape),
        edge_contrast=random.uniform(0, 90, shape), edge_bare=random.uniform(0, 1, shape),
        edge_offset_px=random.uniform(-4, 4, shape), holes=random.uniform(0, 1, shape),
        flags=random.integers(0, 64, shape).astype(np.uint8),
        window=random.integers(0, 900, (*shape, 4)).astype(np.int32), crop_zstd=crops,
    )  # fmt: skip


def subject(frames=8, cameras=CAMERAS) -> Subject:
    random, shape = np.random.default_rng(1), (frames, len(cameras))
    center_mm, residual_px = random.uniform(-90, 90, (frames, 3)), random.uniform(0, 9, shape)
    center_mm[2], residual_px[2], residual_px[3, 0] = np.nan, np.nan, np.inf
    index = np.arange(frames)
    return Subject(
        capture="day1", cameras=cameras, frame=10 * index, time_s=index / 3, chunk=index // 5,
        flags=random.integers(0, 64, shape).astype(np.uint8), residual_px=residual_px,
        area_px=random.integers(0, 9000, shape), sharpness=random.uniform(0, 90, shape), center_mm=center_mm,
        triangulated_mm=center_mm + 1, volume_mm3=random.uniform(2e4, 9e4, frames),
        lengths_mm=random.uniform(20, 90, (frames, 3)), axis=random.uniform(-1, 1, (frames, 3)),
        hull_iou=random.uniform(0, 1, shape), cut=random.uniform(0, 1, shape), center_rays=random.normal(size=(*shape, 3)),
        outline_px=random.uniform(0, 900, (*shape, 32, 2)), outline_rays=random.normal(size=(*shape, 32, 3)),
        surface_mm=random.normal(size=(frames, 48, 3)).astype(np.float32),
        thin_mm=random.normal(size=(frames, 64, 4)).astype(np.float32),
        body_mm=random.normal(size=(frames, 64, 3)).astype(np.float32),
    )  # fmt: skip


def poses(of: Subject) -> Poses:
    """What normalize could make of a subject."""
    random, known = np.random.default_rng(2), of.at(np.isfinite(of.center_mm).all(axis=1))
    shape = (len(known.frame), len(of.cameras))
    copied = {each.name: getattr(known, each.name) for each in fields(FrameColumns)}
    return Poses(
        **copied, image_size=512, distance_policy="focal", w2c=random.normal(size=(*shape, 4, 4)),
        fxfycxcy=random.uniform(200, 600, (*shape, 4)), image_fxfycxcy=random.uniform(200, 600, (*shape, 4)),
        R_view=random.normal(size=(*shape, 3, 3)), world_from_mm=random.normal(size=(len(known.frame), 4, 4)),
        world_units_per_mm=random.uniform(0.001, 0.1, len(known.frame)), distance=random.uniform(2, 3, shape),
        reprojection_px=random.uniform(0, 1, (len(known.frame), 3)), fits=random.uniform(size=shape) > 0.5,
        fill=random.uniform(0, 1, shape), width=random.uniform(0, 1, shape), body_width=random.uniform(0, 1, shape),
        body_length=random.uniform(0, 1, len(known.frame)), clipped_px=random.uniform(0, 9, shape), offset_px=random.uniform(0, 9, shape),
    )  # fmt: skip


def same(one, other) -> bool:
    """Whether two artifacts have equal fields, of equal dtypes."""
    return type(one) is type(other) and all(_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def _equal(one, other) -> bool:
    if not isinstance(one, np.ndarray):
        return type(one) is type(other) and one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return all(_equal(a, b) for a, b in zip(one.ravel(), other.ravel(), strict=True))
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
