"""All cameras' frames and silhouettes, one moment after another."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.config.center import Center
from mousefacelift.recordings.animals import check_refinable, check_told_apart
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import read_camera
from mousefacelift.recordings.recording import read_capture_rig
from mousefacelift.recordings.silhouettes.provided import identity
from mousefacelift.recordings.silhouettes.refine import refine_views
from mousefacelift.recordings.silhouettes.registry import method
from mousefacelift.recordings.silhouettes.segmentation import NOTHING, Arena, Image
from mousefacelift.recordings.video import Frame, Missing

BATCH = 8  # moments in memory at a time: enough to keep threads busy


@dataclass(frozen=True)
class Seen:
    """One camera's frame, and each animal's silhouette in it, [H, W], of which above 127 is the animal."""

    frame: Frame | Missing
    masks: list[Image]


Moment = Sequence[Seen]


def moments(
    animals: Sequence[Capture], frames: range, settings: Center, arenas: Sequence[Arena | None], threads: int = 1
) -> Iterator[list[Seen]]:
    """Go through a recording: what each camera sees in each of the frames.

    Args:
        animals: the captures of one recording.
        frames: which of its frames.
        settings: the section `center`.
        arenas: each camera's empty arena, for a method that needs it.
        threads: to read cameras with, and to work on moments with.
    """
    capture = animals[0]
    check_refinable([animal.name for animal in animals], settings.refine)
    together = _together(capture, settings, arenas)
    workers = max(1, min(threads, len(capture.cameras)))
    cv2.setNumThreads(1)
    cameras = [
        _frames(capture, v, frames, settings, max(1, threads // workers))
        if together
        else _masks(animals, v, frames, settings, max(1, threads // workers), arena)
        for v, arena in enumerate(arenas)
    ]
    # Cameras are independent, and decoding and OpenCV release Python's lock.
    refined = _refined(capture) if settings.refine else None
    with ThreadPoolExecutor(max_workers=workers) as pool:
        while batch := list(zip(*pool.map(lambda camera: list(islice(camera, BATCH)), cameras), strict=True)):
            made = pool.map(together, batch) if together else map(list, batch)
            yield from pool.map(refined, made) if refined else made


def _with_masks(moment: Moment, masks: Sequence[Image | None]) -> list[Seen]:
    """The moment with other silhouettes of its one animal."""
    return [Seen(seen.frame, [NOTHING if mask is None else mask]) for seen, mask in zip(moment, masks, strict=True)]


def _refined(capture: Capture) -> Callable[[Moment], list[Seen]]:
    """What corrects the one animal's silhouettes of a moment by those of the other views."""
    rig = read_capture_rig(capture)

    def refined(moment: Moment) -> list[Seen]:
        pictures = [seen.frame.rgb if isinstance(seen.frame, Frame) else None for seen in moment]
        masks = refine_views(pictures, [seen.masks[0] for seen in moment], rig)
        return _with_masks(moment, masks)

    return refined


def _together(
    capture: Capture, settings: Center, arenas: Sequence[Arena | None]
) -> Callable[[Moment], list[Seen]] | None:
    """What makes the silhouettes of all views of a moment, if they are not made view by view."""
    how = method(settings.masks)
    known = [arena for arena in arenas if arena is not None]
    segment = how.together(known, read_capture_rig(capture), settings) if how.together else None
    if segment is None:
        return None

    def made(moment: Moment) -> list[Seen]:
        images = [seen.frame.rgb() if isinstance(seen.frame, Frame) else None for seen in moment]
        return _with_masks(moment, segment(images))

    return made


def _frames(capture: Capture, view: int, frames: range, settings: Center, threads: int) -> Iterator[Seen]:
    for frame in read_camera(capture, capture.videos, view, frames, settings, threads):
        yield Seen(frame, [NOTHING])


def _masks(
    animals: Sequence[Capture], view: int, frames: range, settings: Center, threads: int, arena: Arena | None
) -> Iterator[Seen]:
    """A camera's frames in order, each with every animal's silhouette."""
    how = method(settings.masks)
    if len(animals) == 1:
        for frame, mask in how.silhouettes(animals[0], view, frames, settings, threads, arena):
            yield Seen(frame, [mask])
        return
    if how.identities is None:
        check_told_apart(animals, settings.masks, settings.animal)
        raise UserError(f"center.masks: {settings.masks} cannot tell {len(animals)} animals apart")
    for frame, ids in how.identities(animals[0], view, frames, settings, threads):
        yield Seen(frame, [(ids == identity(animal, settings)).astype(np.uint8) * np.uint8(255) for animal in animals])
