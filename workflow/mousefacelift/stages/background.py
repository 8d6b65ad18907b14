"""Before stage 1, for center.masks: background: what is known of each camera's empty arena."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import Arenas
from mousefacelift.base.errors import UserError
from mousefacelift.base.progress import track
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.reading import read_camera
from mousefacelift.recordings.recording import capture_frames, read_capture_rig
from mousefacelift.recordings.silhouettes.agreeing import agreeing_arenas
from mousefacelift.recordings.silhouettes.arena import estimate_background
from mousefacelift.recordings.silhouettes.background import shrink, shrink_factor, to_ycc
from mousefacelift.recordings.silhouettes.pictured import arena_pictures, check_other, check_pictures, pictured_arena
from mousefacelift.recordings.silhouettes.registry import method
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image
from mousefacelift.recordings.silhouettes.stillness import Movement, movement
from mousefacelift.recordings.video import Frame, length, probe, read_frames

REMEDIES = (
    "Give a picture or a video of the empty arena (center.background.image), or name another capture of the same rig in "
    "which the mouse is elsewhere (center.background.capture)"
)


def background(
    capture: Capture, output: Path, settings: Center, threads: int = 1, other: Capture | None = None
) -> None:
    """Write `center/{capture}/background.h5` (see `Arenas`): what `masks: background` knows of each camera's empty arena.

    Args:
        capture: the recording.
        output: the file to write.
        settings: the section `center`.
        threads: cameras worked on at a time.
        other: the capture that `background.capture` names, whose frames are looked at too.

    Raises:
        UserError: too few frames can be read; pictures of the arena, or the other capture, do not fit; or most cameras
            show a mouse that does not leave its place, or nothing that moves. This names all cameras.
    """
    if other is not None and other.name != capture.name:
        check_other(capture, other)
    check_pictures(capture, settings.background)
    frames = capture_frames(capture, settings)
    done = track(len(capture.cameras), f"background {capture.name}")

    def one_camera(view: int) -> tuple[Arena | None, Movement | None]:
        cv2.setNumThreads(1)
        images = _images(capture, view, frames, settings)
        try:
            found = _arena(capture, view, images, settings, other)
        except UserError as error:
            raise UserError(f"capture {capture.name}, camera {capture.cameras[view]}: {error}") from None
        done()
        return found

    # One camera's frames take some hundreds of megabytes: no more cameras at a time than threads.
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        found, movements = zip(*pool.map(one_camera, range(len(capture.cameras))), strict=True)
    _check_movement(capture, [each for each in movements if each is not None])
    arenas = _agreed(capture, frames, list(found), settings, other)
    Arenas(capture.name, dict(zip(capture.cameras, arenas, strict=True))).write(output)


def arenas_of(capture: Capture, settings: Center, path: Path | None) -> Sequence[Arena | None]:
    """Each camera's empty arena from the file at `path`, for a method that needs it."""
    if path is None or not method(settings.masks).needs_arena:
        return [None] * len(capture.cameras)
    models = Arenas.read(path, capture.name, capture.cameras).models
    return [models[name] for name in capture.cameras]


def spread(frames: range, count: int) -> range:
    """At most `count` of the frames, at equal steps over all.

    A range, unlike what `selection.evenly_spaced` gives: a video is decoded in order, and its reader takes a start and a step.
    What the steps leave over is shared between the two ends.
    """
    step = -(-len(frames) // count)
    return frames[(len(frames) - 1) % step // 2 :: step]


def _images(capture: Capture, view: int, frames: range, settings: Center) -> list[Image]:
    """Frames [H, W, 3] RGB of a camera, spread over the capture."""
    some = spread(frames, settings.background.frames)
    return [f.rgb() for f in read_camera(capture, capture.videos, view, some, settings) if isinstance(f, Frame)]


def _arena(
    capture: Capture, view: int, images: list[Image], settings: Center, other: Capture | None
) -> tuple[Arena, Movement | None]:
    """A camera's empty arena, and how what it shows moves, where the arena is found from that."""
    known = settings.background
    pictures = arena_pictures(capture, known)
    if pictures:
        return pictured_arena(_pictures(pictures[view], known.frames), images, known), None
    others = []
    if other is not None and other.name != capture.name:
        others = _images(other, view, capture_frames(other, settings), settings)
    arena = estimate_background([*images, *others], known)
    factor = shrink_factor(images[0].shape[1], known)
    small = [to_ycc(shrink(image, factor)) for image in (*images, *others)]
    return arena, movement(small, 0.1 * known.min_area)


def _agreed(
    capture: Capture, frames: range, arenas: Sequence[Arena], settings: Center, other: Capture | None
) -> Sequence[Arena]:
    """The arenas after all cameras together looked for shadows that each one alone takes for the mouse."""
    known = settings.background
    some = spread(frames, known.frames)

    def moments() -> Iterator[list[Image | None]]:
        cameras = [read_camera(capture, capture.videos, v, some, settings) for v in range(len(capture.cameras))]
        for moment in zip(*cameras, strict=True):
            yield [frame.rgb() if isinstance(frame, Frame) else None for frame in moment]

    def again(view: int, hidden: NDArray[np.bool_]) -> Arena:
        if known.image is not None:
            return arenas[view]
        images = _images(capture, view, frames, settings)
        if other is None or other.name == capture.name:
            return estimate_background(images, known, hidden)
        others = _images(other, view, capture_frames(other, settings), settings)
        nowhere = np.zeros((len(others), *hidden.shape[1:]), bool)
        return estimate_background([*images, *others], known, np.concatenate([hidden, nowhere]))

    cv2.setNumThreads(1)
    return agreeing_arenas(arenas, read_capture_rig(capture), moments, len(some), again, known)


def _pictures(path: Path, count: int) -> list[Image]:
    """At most `count` pictures [H, W, 3] RGB of a picture, a folder of them or a video, spread over it."""
    frames = spread(range(length(path, "index", probe(path).fps)), count)
    found = read_frames(path, frames, "center.background.image", "index")
    return [frame.rgb() for _, frame in found if isinstance(frame, Frame)]


def _check_movement(capture: Capture, movements: Sequence[Movement]) -> None:
    """Raise UserError if most cameras show a mouse that does not leave its place, or nothing that moves."""
    moving = [each for each in movements if each.moves]
    if movements and len(moving) < min(2, len(movements)):
        raise UserError(
            f"capture {capture.name}: nothing moved in any of the frames looked at, in "
            f"{'any camera' if not moving else 'all cameras but one'}: is there a mouse? If it sleeps, no empty arena can be "
            f"found behind it. {REMEDIES}"
        )
    # One camera alone may see something else move. A mouse that sits still does so for all.
    if 2 * sum(each.still for each in moving) <= len(moving):
        return
    shares = "\n  ".join(
        f"camera {name}: the mouse sat still in {100 * each.still_share:.0f} % of the frames looked at"
        if each.moves
        else f"camera {name}: nothing moved in any of the frames looked at"
        for name, each in zip(capture.cameras, movements, strict=True)
    )
    raise UserError(
        f"capture {capture.name}: no empty arena can be found behind a mouse that stays in its place:\n  {shares}\n  {REMEDIES}"
    )
