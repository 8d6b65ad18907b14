"""What all cameras together find out about the arena, where each one alone takes a shadow for the animal."""

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.config.center import Background
from mousefacelift.geometry.agreement import locate_cutouts
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.floor import find_floor
from mousefacelift.geometry.hull import Cutout, visual_hull
from mousefacelift.geometry.selection import thinned
from mousefacelift.recordings.silhouettes.background import disc, segmenter
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image
from mousefacelift.recordings.silhouettes.shadows import Look, Together

Moment = Sequence[Image | None]
"""The V views' frames of one moment, [H, W, 3] RGB; None without one."""

# Hull IoU from which each camera's own silhouettes are good enough, and by how much others must be better. The demo's own
# have 0.93, and those made together 0.92; on a white floor a white mouse has 0.85 and 0.93.
GOOD, BETTER = 0.9, 0.02
COMPARED, FLOOR_MOMENTS = 12, 10
ARENAS = 2  # times that the arena is estimated anew: the second time the animal is known better


def agreeing_arenas(
    arenas: Sequence[Arena],
    rig: Rig,
    moments: Callable[[], Iterable[Moment]],
    count: int,
    again: Callable[[int, NDArray[np.bool_]], Arena],
    settings: Background,
) -> Sequence[Arena]:
    """Let the cameras decide whether silhouettes are made together (`shadows`), by how well their hulls fit them.

    Args:
        arenas: what each camera's own recording says of its empty arena.
        rig: the V cameras.
        moments: goes through the frames that the arenas were estimated from.
        count: how many moments there are.
        again: estimates a camera's arena anew, given its place in the rig and where the animal hides it
            in each of its frames, [n, h, w].
        settings: the section `center.background`.

    Returns:
        The arenas: those given, or where the cameras then agree better, new ones with two more arrays:
        floor: [4] float64, the floor's unit normal, up, and its distance from the calibration's origin along it, mm.
        fur: [bins] float32, log density of the animal over luma.
    """
    segments = [segmenter(arena, settings) for arena in arenas]
    some = thinned(np.arange(count), COMPARED)
    own, chosen, there = [], [], []
    for k, images in enumerate(moments()):
        there.append([image is not None for image in images])
        # All frames are segmented, as each one is held against the one before it.
        made = [None if i is None else _cutout(segment(i)) for segment, i in zip(segments, images, strict=True)]
        if k in some:
            own.append(made)
            chosen.append(images)
    alone = _agreement(own, rig)
    if not np.isfinite(alone) or alone >= GOOD:
        return arenas
    together = Together(arenas, rig, settings)
    looks = [together.looks(images) for images in moments()]
    floor = _floor(together, [looks[k] for k in thinned(np.arange(count), FLOOR_MOMENTS)])
    if floor is None:
        return arenas
    found: Sequence[Arena] = [{**arena, "floor": floor} for arena in arenas]
    for attempt in range(ARENAS):
        together = Together(found, rig, settings)
        if attempt:
            looks = [together.looks(images) for images in moments()]
        hidden = _hidden(together, looks, surely=attempt > 0)
        found = [
            {**again(v, where[[present[v] for present in there]]), "floor": floor} for v, where in enumerate(hidden)
        ]
        together = Together(found, rig, settings)
        furs = together.furs([together.looks(images) for images in chosen])
        found = [{**arena, "fur": fur} for arena, fur in zip(found, furs, strict=True)]
    together = Together(found, rig, settings)
    joint = [[None if mask is None else _cutout(mask) for mask in together.segment(images)] for images in chosen]
    return found if _agreement(joint, rig) >= alone + BETTER else arenas


def _floor(together: Together, looks: Sequence[Sequence[Look | None]]) -> Array | None:
    """The floor's normal and offset, [4]; None if the shadows do not show it."""
    places = [together.place(each, [look.differs if look else None for look in each]) for each in looks]
    known = [place for place in places if place is not None]
    if not known:
        return None
    center, radius = (np.median([place[k] for place in known], axis=0) for k in (0, 1))
    shadings = [[look.shading if look else None for look in each] for each in looks]
    plane = find_floor(together.rig, shadings, center, float(radius))
    return None if plane is None else np.array([*plane.normal, plane.offset])


def _hidden(
    together: Together, looks: Sequence[Sequence[Look | None]], surely: bool = False
) -> list[NDArray[np.bool_]]:
    """Where the animal may hide each camera's arena in each moment, [n, h, w] at the working scale."""
    found: list[list[NDArray[np.bool_]]] = [[] for _ in together.rig]
    for moment in looks:
        for v, (look, mask) in enumerate(
            zip(moment, (together.masks if surely else together.hidden)(moment), strict=True)
        ):
            detector = together.detectors[v]
            height, width = detector.level.shape[:2]
            whole = np.zeros((height, width), np.uint8)
            if look is not None and mask is not None:
                ratio = detector.factor // together.factor
                rows, columns = np.nonzero(mask)
                whole[
                    np.minimum((rows + look.y) // ratio, height - 1), np.minimum((columns + look.x) // ratio, width - 1)
                ] = 1
            found[v].append(cv2.dilate(whole, disc(4)) > 0)
    return [np.stack(each) for each in found]


def _cutout(mask: Image) -> Cutout | None:
    x, y, w, h = cv2.boundingRect(mask)
    return (np.ascontiguousarray(mask[y : y + h, x : x + w]), (x, y, w, h)) if w else None


def _agreement(moments: Sequence[Sequence[Cutout | None]], rig: Rig) -> float:
    """Mean IoU of silhouettes and their hulls; NaN if no moment has a hull."""
    ious = []
    for cutouts in moments:
        place = locate_cutouts(cutouts, rig)
        if place is not None:
            center, radius = place
            ious.append(np.nanmean(visual_hull(cutouts, rig, center, radius, radius / 30).iou))
    return float(np.mean(ious)) if ious else float("nan")
