"""What all methods that look at the pictures alone share: their types, and going through a camera's frames."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import read_camera
from mousefacelift.recordings.video import Frame, Missing

Image = NDArray[np.uint8]
Arena = Mapping[str, NDArray[Any]]
"""What is known of the empty arena in one camera's view, by name: arrays that HDF5 can hold."""
Segment = Callable[[Image], Image]
"""Called for successive frames of one camera, [H, W, 3] RGB; returns [H, W], 255 where there is mouse, else 0."""
JointSegment = Callable[[Sequence[Image | None]], list[Image | None]]
"""Like Segment, for the V frames of one moment; None for a frame that is missing."""

NOTHING: Image = np.zeros((0, 0), np.uint8)
"""The silhouette of a missing frame."""


def segment_frames(
    capture: Capture, view: int, frames: range, settings: Center, threads: int, segment: Segment
) -> Iterator[tuple[Frame | Missing, Image]]:
    """A camera's frames in order, each with what `segment` makes of it. See `registry.Silhouettes`."""
    for frame in read_camera(capture, capture.videos, view, frames, settings, threads):
        yield frame, NOTHING if isinstance(frame, Missing) else segment(frame.rgb())
