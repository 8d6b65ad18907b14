"""Several animals in one arena: which one hides another, and whether two exchanged their names. Arrays in, arrays out.

Conventions are those of `camera`. Places are the animals' centres in the world, mm; frames count candidates.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.agreement import area_mm2
from mousefacelift.geometry.camera import Array, Rig, triangulate
from mousefacelift.geometry.hull import Cutout

# Who was exchanged with whom is known from 3D places alone while animals cannot get far from one candidate to the next.
CLOSE_IN_TIME_S = 0.2
ROUNDS = 10  # in which an assignment of silhouettes to animals settles: two or three are usual

EXCHANGED, RIGHT, UNDECIDED = 1, -1, 0


def body_radius(rig: Rig, center_mm: Array, area_px: NDArray[np.int64]) -> float:
    """The radius of a disc as large as the animal's median silhouette.

    Args:
        rig: V cameras.
        center_mm: [N, 3]; NaN where unknown.
        area_px: [N, V] of the silhouettes, raw px; 0 without one.

    Returns:
        Millimetres; NaN if the animal is nowhere found.
    """
    area = area_mm2(rig, center_mm, area_px)
    known = area[np.isfinite(area)]
    return float(np.sqrt(np.median(known) / np.pi)) if len(known) else np.nan


def hidden_views(
    rig: Rig, touching: NDArray[np.bool_], own_mm: Array, other_mm: Array, size_mm: float
) -> NDArray[np.bool_]:
    """In which views an animal may lie behind another one.

    Args:
        rig: V cameras.
        touching: [N, V] whether the two silhouettes touch.
        own_mm: [N, 3] the animal's centre; NaN where unknown.
        other_mm: [N, 3] the other one's.
        size_mm: an animal that is nearer to the camera by more than this lies in front with all of its body.

    Returns:
        [N, V] bool: those of the touching views in which the animal does not lie in front.
    """
    eyes = np.stack([camera.center for camera in rig])
    own, other = (np.linalg.norm(place[:, None] - eyes, axis=-1) for place in (own_mm, other_mm))
    # With an unknown place or size the comparison is false, and the view counts as hidden.
    with np.errstate(invalid="ignore"):
        in_front: NDArray[np.bool_] = own < other - size_mm
    return touching & ~in_front


def exchanged_views(rig: Rig, first: Array, second: Array, size_mm: float) -> NDArray[np.int8]:
    """In which views the silhouettes of two animals bear each other's names, against most of the views.

    In each frame silhouettes are assigned to two places in space so that rays and places fit; the places follow the
    assignment. Of the two groups of views the smaller one is exchanged; of equal ones that without the first view.

    Args:
        rig: V cameras.
        first: [N, V, 3] rays in the world through the centres of mass of one animal's silhouettes; NaN without one.
        second: [N, V, 3] likewise of the other animal.
        size_mm: of both animals together. Where they are less than half of it apart, across a view's line of sight, that view
            cannot tell.

    Returns:
        [N, V] EXCHANGED, RIGHT, or UNDECIDED where the animals are too near each other or not found.
    """
    eyes = np.stack([camera.center for camera in rig])
    fit = _settle(eyes, first, second, np.zeros(first.shape[:-1], bool))
    # Where a view fits neither way, about half of the views may be exchanged, and the assignment may have settled in a wrong
    # one: then any two views, exchanged or not, are a start.
    bad = (fit.min(axis=0) > size_mm / 2).any(axis=1)
    for u, w in product((0, 1), range(1, len(rig))) if bad.any() else ():
        pair = np.broadcast_to(np.isin(np.arange(len(rig)), (u, w)), first[bad].shape[:-1])
        for other_way in (False, True):
            start = pair & (np.arange(len(rig)) == w) & other_way
            places = _places(eyes, first[bad], second[bad], start, pair)
            tried = _settle(eyes, first[bad], second[bad], _exchanged(_misfits(eyes, first[bad], second[bad], *places)))
            better = tried.min(axis=0).sum(axis=1) < fit[:, bad].min(axis=0).sum(axis=1)
            fit[:, np.flatnonzero(bad)[better]] = tried[:, better]
    as_named, crossed = fit
    both = np.isfinite(first.sum(axis=-1) + second.sum(axis=-1))
    # One ray alone tells as much of its place as the two of a view together, where the other animal is not found.
    decided = np.maximum(as_named, crossed) > np.where(both, size_mm, size_mm / 2)
    decided &= np.minimum(as_named, crossed) < np.maximum(as_named, crossed) / 2
    exchanged = _exchanged(fit)
    count, of = (exchanged & decided).sum(axis=1), decided.sum(axis=1)
    first_view = np.take_along_axis(exchanged, decided.argmax(axis=1)[:, None], axis=1)[:, 0]
    turned = (2 * count > of) | ((2 * count == of) & first_view)
    state = np.where(exchanged ^ turned[:, None], EXCHANGED, RIGHT)
    return np.where(decided, state, UNDECIDED).astype(np.int8)


def _settle(eyes: Array, first: Array, second: Array, exchanged: NDArray[np.bool_]) -> Array:
    """Misfits [2, N, V], see `_misfits`, of the assignment that a start [N, V] settles in."""
    for _ in range(ROUNDS):
        fit = _misfits(eyes, first, second, *_places(eyes, first, second, exchanged))
        before, exchanged = exchanged, _exchanged(fit)
        if (before == exchanged).all():
            break
    return fit


def _exchanged(fit: Array) -> NDArray[np.bool_]:
    as_named, crossed = fit
    exchanged: NDArray[np.bool_] = crossed < as_named
    return exchanged


def _places(
    eyes: Array, first: Array, second: Array, exchanged: NDArray[np.bool_], use: NDArray[np.bool_] | None = None
) -> tuple[Array, Array]:
    """Where two animals are [N, 3] if in some views [N, V] they are exchanged; from the views `use`, or all."""

    def place(rays: Array) -> Array:
        there = np.isfinite(rays.sum(axis=-1))
        return triangulate(eyes, np.nan_to_num(rays), there if use is None else there & use)

    swap = exchanged[..., None]
    return place(np.where(swap, second, first)), place(np.where(swap, first, second))


def _misfits(eyes: Array, first: Array, second: Array, one: Array, another: Array) -> Array:
    """How far each view's rays [N, V, 3] pass by two places [N, 3], as named and crossed: [2, N, V] mm.

    Distances of both rays are added; one that is not there counts 0, as do places that are not known.
    """

    def distance(place: Array, rays: Array) -> Array:
        return np.nan_to_num(np.linalg.norm(np.cross(rays, place[:, None] - eyes), axis=-1))

    as_named = distance(one, first) + distance(another, second)
    crossed = distance(one, second) + distance(another, first)
    known = np.isfinite(one.sum(axis=-1) + another.sum(axis=-1))[:, None]
    return np.where(known, np.stack([as_named, crossed]), 0.0)


def stretches(state: NDArray[np.int8]) -> list[tuple[int, int]]:
    """First and last frame of each time for which animals were exchanged, given the state [N] of each frame.

    Undecided frames beside exchanged ones belong to it: in one of them the exchange began or ended.
    """
    found = []
    decided = np.flatnonzero(state)
    exchanged = state[decided] == EXCHANGED
    edges = np.flatnonzero(np.diff(np.concatenate([[False], exchanged, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2):
        first = decided[begin - 1] + 1 if begin else 0
        last = decided[end] - 1 if end < len(decided) else len(state) - 1
        found.append((int(first), int(last)))
    return found


def traded_places(own_mm: Array, other_mm: Array, time_s: Array, size_mm: float) -> list[int]:
    """The frames in which two animals are where the other one was a candidate frame before.

    Judged between frames at most CLOSE_IN_TIME_S apart in which both animals [N, 3] are found, farther from each other than
    `size_mm`.
    """
    frames = np.flatnonzero(np.isfinite(own_mm).all(axis=1) & np.isfinite(other_mm).all(axis=1))
    before, after = frames[:-1], frames[1:]

    def moved(one: Array, another: Array) -> Array:
        return np.linalg.norm(one[after] - another[before], axis=1)

    stayed = moved(own_mm, own_mm) + moved(other_mm, other_mm)
    traded = moved(own_mm, other_mm) + moved(other_mm, own_mm)
    apart = np.linalg.norm(own_mm[before] - other_mm[before], axis=1) > size_mm
    close = time_s[after] - time_s[before] <= CLOSE_IN_TIME_S + 1e-9
    return [int(n) for n in after[(traded < stayed / 2) & apart & close]]


def jumps(center_mm: Array, time_s: Array, length_mm: Array) -> list[int]:
    """The frames in which an animal is farther from where it was a candidate frame before than it is long.

    Only an animal that is steady before and after jumps: one that runs is far away in every frame. Judged between frames at
    most CLOSE_IN_TIME_S apart.

    Args:
        center_mm: [N, 3]; NaN where unknown.
        time_s: [N].
        length_mm: [N] the animal's length; NaN where unknown.
    """
    length = np.nanmedian(length_mm) if np.isfinite(length_mm).any() else np.nan
    step = np.linalg.norm(np.diff(center_mm, axis=0), axis=1)
    step = np.where(np.diff(time_s) <= CLOSE_IN_TIME_S + 1e-9, step, np.nan)
    steady = step < length / 4
    jumped = (step[1:-1] > length) & steady[:-2] & steady[2:]
    return [int(n) + 2 for n in np.flatnonzero(jumped)]


def union(cutouts: Sequence[Cutout]) -> Cutout:
    """One silhouette of several in the same view: alpha 0 or 255 in the smallest window that holds theirs."""
    windows = np.array([np.asarray(window, int) for _, window in cutouts])
    x, y = windows[:, :2].min(axis=0)
    width, height = (windows[:, :2] + windows[:, 2:]).max(axis=0) - [x, y]
    alpha = np.zeros((height, width), np.uint8)
    for (part, _), (left, top, w, h) in zip(cutouts, windows, strict=True):
        alpha[top - y :, left - x :][:h, :w] |= np.where(part > 127, 255, 0).astype(np.uint8)
    return alpha, (int(x), int(y), int(width), int(height))
