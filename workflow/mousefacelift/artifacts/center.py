"""What `center` writes: silhouettes, their measures and crops in chunks, and the empty arena."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.hdf5 import StageFile, attribute, new_stage_file, open_stage_file
from mousefacelift.base.errors import UserError

BACKGROUND = "mousefacelift background"


class Flag(IntFlag):
    """What is wrong with one view of one frame. Without a frame (MISSING) the view counts as EMPTY too.

    LARGE, far larger than the mouse, is found by `cameras`, which sees the whole capture.
    """

    EMPTY = 1
    CLIPPED = 2
    SEVERAL_BLOBS = 4
    UNSHARP = 8
    MISSING = 16
    LARGE = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class ChunkMeasures(StageFile):
    """center/{capture}/{chunk}.h5 but for the crops: N frames of V cameras. Pixels are those of the raw frames.

    The first pixel's centre is at (0.5, 0.5). A view without a silhouette has area_px 0 and NaN in center_px and
    support_px.

    chunk: number of the chunk.
    fps: frame rate of the capture, Hz.
    size: [V, 2] int64, width and height of each camera's frames, px.
    frame: [N] int64, index in the capture, ascending.
    time_s: [N] float64, s since frame 0.
    center_px: [N, V, 2] float64, x and y of the silhouette's centre of mass, weighted towards its middle.
    area_px: [N, V] int64, the silhouette's pixels.
    support_px: [N, V, S, 2] float64, the silhouette's outermost point in each of S directions at equal angles.
    sharpness: [N, V] float64, variance of the Laplacian of grey values inside the silhouette.
    edge_contrast: [N, V] float64, how much the picture changes across the silhouette's outline, grey levels; NaN if unknown.
    edge_bare: [N, V] float64, share of the outline without an edge of the picture near it; NaN if unknown.
    edge_offset_px: [N, V] float64, how far outside of the outline the picture's edge lies, px; NaN without an edge.
    holes: [N, V] float64, share of the silhouette, filled, that is holes.
    flags: [N, V] uint8, sums of `Flag`.
    window: [N, V, 4] int32, x, y, width and height of the crop, px.
    """

    STAGE: ClassVar[str] = "center"

    chunk: int = field(metadata=attribute(int))
    fps: float = field(metadata=attribute(float))
    size: NDArray[np.int64] = field(metadata=attribute(np.asarray))
    frame: NDArray[np.int64]
    time_s: NDArray[np.float64]
    center_px: NDArray[np.float64]
    area_px: NDArray[np.int64]
    support_px: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    edge_contrast: NDArray[np.float64]
    edge_bare: NDArray[np.float64]
    edge_offset_px: NDArray[np.float64]
    holes: NDArray[np.float64]
    flags: NDArray[np.uint8]
    window: NDArray[np.int32]

    def check_chunk(self, path: Path, number: int) -> None:
        """Raise UserError if the file, at `path`, is another chunk than number `number` of its capture."""
        if self.chunk != number:
            raise UserError(
                f"{path}: is chunk {self.chunk} of capture {self.capture}, not chunk {number}; name all chunks in order"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class CenteredChunk(ChunkMeasures):
    """center/{capture}/{chunk}.h5: the measures of N frames in V cameras, and their crops.

    crop_zstd: [N, V] object, uint8 [bytes] each, as `shards.images.encode_crop` makes them; empty without a silhouette.
        Of an opened file this is a dataset, which reads a row of V crops when it is indexed by a frame's row.
    """

    crop_zstd: NDArray[np.object_]

    @classmethod
    @contextmanager
    def open(cls, path: Path, capture: str | None = None) -> Iterator[Self]:
        """Like `read`, but crops, most of the file, stay in it until they are asked for.

        HDF5 takes its time for each request: ask for all cameras of a frame at once.
        """
        with open_stage_file(path, cls.STAGE, cls.command(), capture) as file:
            stored = cls._stored(file, path)
            small = {each.name: stored[each.name][()] for each in ChunkMeasures._datasets()}
            yield cls(**cls._attributes(file, path), **small, crop_zstd=stored["crop_zstd"])


@dataclass(frozen=True)
class Arenas:
    """center/{capture}/background.h5: what is known of each camera's empty arena.

    capture: name of the capture.
    models: camera name -> name -> array, a group of datasets for each camera; the names, shapes and units are those of
        the silhouette method that needs the arena.
    """

    capture: str
    models: Mapping[str, Mapping[str, NDArray[Any]]]

    @classmethod
    def read(cls, path: Path, capture: str, cameras: Sequence[str]) -> Self:
        """Read the file. Raises UserError if it is missing, damaged, of another version or capture, or lacks a camera."""
        with open_stage_file(path, "center", BACKGROUND, capture) as file:
            if lacking := [name for name in cameras if name not in file]:
                raise UserError(
                    f"{path}: lacks camera {', '.join(lacking)} of capture {capture}; delete it and run `{BACKGROUND}` again"
                )
            models = {name: {key: value[()] for key, value in file[name].items()} for name in cameras}
            return cls(capture, models)

    def write(self, path: Path) -> None:
        """Write the file, complete or not at all."""
        with new_stage_file(path, "center", self.capture) as file:
            for name, model in self.models.items():
                group = file.create_group(name)
                for key, value in model.items():
                    group.create_dataset(key, data=value, compression="gzip", compression_opts=1)
