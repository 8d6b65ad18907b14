"""Silhouettes where an animal is as bright as its arena: all cameras together tell it from its shadow on the floor.

One camera cannot tell a white animal's grey belly from its shadow on a white floor. The others know more. What is floor
looks alike to all of them (`geometry.floor`), and what is animal lies in the hull of all views, above the floor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from mousefacelift.config.center import Background, Center
from mousefacelift.geometry.agreement import locate_cutouts
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.floor import FloorMap, Plane, Shading, sample, shrunk
from mousefacelift.geometry.hull import Cutout, near_hull
from mousefacelift.recordings.silhouettes.background import (
    Detector,
    disc,
    relative_gain,
    shrink,
    to_ycc,
)
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image, JointSegment

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

FINE_PX = 6000  # an animal of fewer pixels is not looked at more coarsely
LUMA_BINS = 32  # of 8 levels
MARGIN_PX = 12
# Pixels of the floor are carried over with errors of a pixel: a shadow's brightness is uncertain by this share of its depth.
WARP = 0.06
LEAST_NOISE = 2.5  # grey levels: of a video's compression
# The floor's own layer is no hint of an animal: shadows fill it. Paws are found by their pixels.
LOW_MM = 5.0
VOXEL_PX = 3.0
IN_HULL, BEYOND_HULL, EVIDENCE = 1.1, -4.0, 8.0  # nats
ODD_SHADOW = 5.0  # nats by which a shadow is less likely that no other camera sees where it should
SMOOTHING, SMOOTHING_STEPS, SMOOTHING_PX, SAME_FUR = 45.0, 8, 5, 64.0  # see `_smoothed`
RIM_PX, RIM_CONTRAST = 1, 12.0  # grey levels
ROUNDS = 6  # of carving and deciding
SURE = -9.0  # log density below which a pixel is surely no floor


@dataclass(frozen=True)
class Look:
    """One view of one moment, in a box around all that differs from the empty arena, at the fine scale.

    x, y: the box's first pixel. luma: [h, w] with the arena's brightness. level: [h, w] the empty arena's. noise: [h, w] its
    standard deviation. differs: [h, w] whether it is animal or shadow.
    """

    x: int
    y: int
    luma: Floats
    level: Floats
    noise: Floats
    differs: Bools

    @property
    def window(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the box."""
        return self.x, self.y, self.luma.shape[1], self.luma.shape[0]

    @cached_property
    def share(self) -> Floats:
        """[h, w] brightness as a share of the empty arena's, smoothed."""
        size = (3, 3)
        return np.asarray(cv2.blur(self.luma, size) / np.maximum(cv2.blur(self.level, size), 1), np.float32)

    @property
    def shading(self) -> Shading:
        """What `geometry.floor` needs of it."""
        return Shading(self.x, self.y, self.share, self.differs)


def together(arenas: Sequence[Arena], rig: Rig, settings: Center) -> JointSegment | None:
    """What segments the views of a moment together; None where each camera's own silhouettes are good enough.

    arenas: as `agreeing.agreeing_arenas` returned them.
    """
    if not arenas or not all("floor" in arena for arena in arenas):
        return None
    return Together(arenas, rig, settings.background).segment


class Together:
    """Segments the V views of a moment together. Arrays are at the fine scale: raw pixels divided by `factor`."""

    def __init__(self, arenas: Sequence[Arena], rig: Rig, settings: Background) -> None:
        self.settings = settings
        self.detectors = [Detector(arena, settings) for arena in arenas]
        self.factor = min(_fine_factor(detector) for detector in self.detectors)
        self.rig = tuple(shrunk(camera, self.factor) for camera in rig)
        self.size = [arena["background"].shape[1::-1] for arena in arenas]
        levels = (to_ycc(shrink(arena["background"], self.factor)) for arena in arenas)
        self.level = [level.astype(np.float32) for level in levels]
        self.noise = [
            cv2.resize(detector.noise, level.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            for detector, level in zip(self.detectors, self.level, strict=True)
        ]
        floors = [arena["floor"] for arena in arenas if "floor" in arena]
        self.plane = Plane(floors[0][:3], float(floors[0][3])) if floors else None
        self.fur = [np.asarray(arena["fur"], np.float32) if "fur" in arena else None for arena in arenas]
        self.map = cache(self._new_map)

    def _new_map(self, view: int, other: int) -> FloorMap:
        assert self.plane is not None
        return FloorMap(self.plane, self.rig[view], self.rig[other])

    def look(self, view: int, image: Image) -> Look | None:
        """What a view's frame [H, W, 3] RGB shows against its empty arena; None if nothing differs."""
        detector, fine = self.detectors[view], self.factor
        small = to_ycc(shrink(image, detector.factor))
        gain = relative_gain(small[..., 0], detector.level8[..., 0])
        box = detector.box(small, gain)
        if box is None:
            return None
        ratio = detector.factor // fine
        height, width = self.level[view].shape[:2]
        rows, columns = (
            slice(s.start * ratio, min(s.stop * ratio, n)) for s, n in zip(box, (height, width), strict=True)
        )
        part = image[rows.start * fine : rows.stop * fine, columns.start * fine : columns.stop * fine]
        value = to_ycc(shrink(part, fine)).astype(np.float32)
        value[..., 0] /= np.float32(gain)
        level, noise = self.level[view][rows, columns], self.noise[view][rows, columns]
        differs = _differing(value, level, noise)
        x, y, w, h = cv2.boundingRect(differs)
        if not w:
            return None
        x0, y0 = max(x - MARGIN_PX, 0), max(y - MARGIN_PX, 0)
        tight = np.s_[y0 : y + h + MARGIN_PX, x0 : x + w + MARGIN_PX]
        return Look(
            columns.start + x0,
            rows.start + y0,
            np.ascontiguousarray(value[tight][..., 0]),
            np.ascontiguousarray(level[tight][..., 0]),
            np.maximum(noise[tight], np.float32(LEAST_NOISE)),
            differs[tight] > 0,
        )

    def looks(self, images: Sequence[Image | None]) -> list[Look | None]:
        """`look` of all views of a moment; None also for a missing frame."""
        return [None if image is None else self.look(v, image) for v, image in enumerate(images)]

    def masks(self, looks: Sequence[Look | None]) -> list[Bools | None]:
        """The animal in each view's box, [h, w]; of a view that nobody else supports, all that differs.

        Each round carves the hull of what was left by the round before, so that a shadow that one view gives up is
        missing in the others' hull.
        """
        moment = _Moment(self, looks)
        found = moment.differs
        for _ in range(ROUNDS):
            hull = moment.hull(found)
            if hull is None:
                break
            hiding = moment.hiding(found)
            known = [moment.known(v, hiding) if look else None for v, look in enumerate(looks)]
            found = [
                None if look is None else _decided(look, moment.evidence(v, known[v], hull[v]), self.settings)
                for v, look in enumerate(looks)
            ]
        return [
            None if mask is None or look is None else _settled(mask, look)
            for mask, look in zip(found, looks, strict=True)
        ]

    def hidden(self, looks: Sequence[Look | None]) -> list[Bools | None]:
        """Where the animal may hide the arena, [h, w] of each box: wherever the hull of the other views projects.

        A view's own silhouette does not count: where its arena was estimated from an animal that sat there, the animal
        does not differ from it.
        """
        moment = _Moment(self, looks)
        hull = moment.hull(moment.differs, own=False)
        return moment.differs if hull is None else [hull[v] if look else None for v, look in enumerate(looks)]

    def furs(self, moments: Sequence[Sequence[Look | None]]) -> list[Floats]:
        """Log density of each view's animal over luma, [LUMA_BINS], from pixels that are surely not the floor."""
        counts = np.zeros((len(self.rig), LUMA_BINS))
        for looks in moments:
            moment = _Moment(self, looks)
            hull, hiding = moment.hull(moment.differs), moment.hiding(moment.differs)
            for v, look in enumerate(looks):
                if look is not None and hull is not None:
                    sure = moment.surely_animal(v, moment.known(v, hiding), hull[v])
                    counts[v] += np.bincount(_luma_bins(look.luma)[sure], minlength=LUMA_BINS)
        smooth = gaussian_filter1d(counts, 1.0, axis=1)
        density = smooth / np.maximum(smooth.sum(axis=1, keepdims=True), 1) / 8
        return list(np.log(0.95 * density + 0.05 / 256).astype(np.float32))

    def segment(self, images: Sequence[Image | None]) -> list[Image | None]:
        """The silhouettes [H, W] uint8, 0 or 255, of the V frames [H, W, 3] RGB of a moment; None where there is none."""
        looks = self.looks(images)
        masks: list[Image | None] = []
        for image, look, found, (width, height) in zip(images, looks, self.masks(looks), self.size, strict=True):
            if image is None:
                masks.append(None)
                continue
            whole = np.zeros((height, width), np.uint8)
            if look is not None and found is not None:
                part = found.astype(np.uint8) * np.uint8(255)
                if self.factor > 1:
                    part = cv2.resize(part, None, fx=self.factor, fy=self.factor, interpolation=cv2.INTER_LINEAR)
                    part = np.where(part > 127, np.uint8(255), np.uint8(0))
                x, y = look.x * self.factor, look.y * self.factor
                whole[y : y + len(part), x : x + part.shape[1]] = part
            masks.append(whole)
        return masks

    def place(self, looks: Sequence[Look | None], found: Sequence[Bools | None]) -> tuple[Array, float] | None:
        """`locate_cutouts` of what was found in each view's box."""
        return locate_cutouts(_cutouts(looks, found), self.rig)


class _Moment:
    """One moment's views, and what about them stays the same from round to round."""

    def __init__(self, together: Together, looks: Sequence[Look | None]) -> None:
        self.together, self.looks = together, looks
        self.differs = [look.differs if look else None for look in looks]
        # Shadows move the centre, but what is found of the animal later lies in the same ball.
        self._place = together.place(looks, self.differs)
        self._bare: dict[int, tuple[Floats, Floats, Floats]] = {}
        self._seen: dict[int, list[tuple[int, Floats, Bools, Floats]]] = {}

    def hull(self, found: Sequence[Bools | None], own: bool = True) -> list[Bools] | None:
        """Each view's box, [h, w]: whether the hull of what was found, above the floor, projects there; None without a hull.

        own: whether a view's own silhouette carves the hull that is projected to it.
        """
        if self._place is None:
            return None
        center, radius = self._place
        rig, kernel = self.together.rig, np.ones((3, 3), np.uint8)
        cutouts = [cutout and (cv2.dilate(cutout[0], kernel), cutout[1]) for cutout in _cutouts(self.looks, found)]
        voxel = VOXEL_PX * float(np.median([camera.mm_per_px(center) for camera in rig]))
        views, voxels, pixels, depth = near_hull(cutouts, rig, center, radius, voxel, 0 if own else 1)
        if self.together.plane is not None:
            above = self.together.plane.height(voxels) > LOW_MM
            pixels, depth = pixels.compress(above, axis=2), depth.compress(above, axis=1)
        inside = [np.zeros(look.luma.shape if look else (0, 0), bool) for look in self.looks]
        for k, v in enumerate(views):
            look = self.looks[v]
            assert look is not None
            h, w = look.luma.shape
            x, y = pixels[k]
            if not own:
                x, y = pixels[k].compress((np.delete(depth, k, axis=0) > -voxel / 2).all(axis=0), axis=1)
            column, row = x.astype(np.int32) - look.x, y.astype(np.int32) - look.y
            here = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            drawn = np.zeros((h, w), np.uint8)
            drawn[row[here], column[here]] = 1
            inside[v] = cv2.morphologyEx(cv2.dilate(drawn, disc(2)), cv2.MORPH_CLOSE, disc(2)) > 0
        return inside

    @staticmethod
    def hiding(found: Sequence[Bools | None]) -> list[Floats | None]:
        """Where in every view's box the animal that was found hides the floor, [h, w], 1 or 0."""
        return [
            None if mask is None else cv2.dilate(mask.astype(np.uint8), disc(2)).astype(np.float32) for mask in found
        ]

    def known(self, view: int, hiding: Sequence[Floats | None]) -> tuple[Floats, Bools]:
        """Log density of a view's luma if its pixels are floor, as another view shows it there, and whether any does: [h, w].

        hiding: see the method of this name.
        """
        look = self.looks[view]
        assert look is not None
        if view not in self._seen:
            self._seen[view] = list(self._floor_in_others(view, look))
        density, known = np.full(look.luma.shape, -20, np.float32), np.zeros(look.luma.shape, bool)
        for other, there, inside, like in self._seen[view]:
            free, hidden = inside, hiding[other]
            if hidden is not None:
                free = inside & (sample(hidden, there, 0.0) < 0.1)
            density = np.where(free, np.maximum(density, like), density)
            known |= free
        return density, known

    def _floor_in_others(self, view: int, look: Look) -> Iterator[tuple[int, Floats, Bools, Floats]]:
        """For each other view: its number; where in its box the floor under each pixel is; whether in its frame; and the log
        density of the pixel's luma if it is that floor.
        """
        if self.together.plane is None:
            return
        h, w = look.luma.shape
        for j, other in enumerate(self.looks):
            if j == view or other is None:
                continue
            at = self.together.map(view, j).at(look.x, look.y, w, h)
            camera = self.together.rig[j]
            inside = (at[..., 0] >= 0) & (at[..., 0] < camera.width) & (at[..., 1] >= 0) & (at[..., 1] < camera.height)
            there = at - np.array([other.x, other.y], np.float32)
            # Beyond the other's box its arena is bare.
            share = np.clip(sample(other.share, there, 1.0), 0, np.float32(1.05))
            spread = np.sqrt(look.noise**2 + (np.float32(WARP) * look.level * np.maximum(1.1 - share, 0.03)) ** 2)
            yield j, there, inside, _log_normal(look.luma - look.level * share, spread)

    def _alone(self, view: int) -> tuple[Floats, Floats, Floats]:
        """Log densities of a view's luma as the bare arena, as some shadow on it, and as the animal: [h, w] each."""
        if view not in self._bare:
            look = self.looks[view]
            assert look is not None
            luma, level = look.luma, look.level
            shaded = (luma > 0.3 * level) & (luma < 1.03 * level)
            shadow = np.where(shaded, -np.log(0.7 * np.maximum(level, 20)), np.float32(-9)).astype(np.float32)
            fur = self.together.fur[view]
            animal = np.full(luma.shape, -np.log(256), np.float32) if fur is None else fur[_luma_bins(luma)]
            self._bare[view] = _log_normal(luma - level, look.noise), shadow, animal
        return self._bare[view]

    def evidence(self, view: int, known: tuple[Floats, Bools] | None, hull: Bools) -> Floats:
        """Log odds [h, w] that a pixel is the animal; known: see the method of this name."""
        assert known is not None
        bare, shadow, animal = self._alone(view)
        # A shadow that no other camera can judge may be of any depth.
        judged = np.maximum(known[0], shadow - np.float32(ODD_SHADOW))
        floor = np.maximum(bare, np.where(known[1], judged, shadow))
        odds = np.clip(animal - floor, -np.float32(EVIDENCE), np.float32(EVIDENCE))
        return odds + np.where(hull, np.float32(IN_HULL), np.float32(BEYOND_HULL))

    def surely_animal(self, view: int, known: tuple[Floats, Bools], hull: Bools) -> Bools:
        """Pixels [h, w] in the hull that are neither the bare arena nor the floor that another view sees there."""
        return hull & known[1] & (known[0] < SURE) & (self._alone(view)[0] < SURE)


def _cutouts(looks: Sequence[Look | None], found: Sequence[Bools | None]) -> list[Cutout | None]:
    """What was found in each view's box as `hull.Cutout`."""
    return [
        None if look is None or mask is None else (mask.astype(np.uint8) * np.uint8(255), look.window)
        for look, mask in zip(looks, found, strict=True)
    ]


def _decided(look: Look, evidence: Floats, settings: Background) -> Bools:
    return _whole((_smoothed(evidence, look.luma) > 0).astype(np.uint8), settings.min_blob / 2) > 0


def _settled(mask: Bools, look: Look) -> Bools:
    """A silhouette [h, w] whose pixels along the edge, RIM_PX to either side, are animal if it covers more than half of them.

    How much of a pixel is covered shows by its place between the empty arena's luma and the animal's luma nearby.
    """
    binary = mask.astype(np.uint8)
    inside = cv2.erode(binary, disc(RIM_PX + 1)).astype(np.float32)
    weight = cv2.GaussianBlur(inside, (0, 0), 4.0)
    fur = cv2.GaussianBlur(look.luma * inside, (0, 0), 4.0) / np.maximum(weight, np.float32(1e-4))
    contrast = fur - look.level
    rim = (cv2.dilate(binary, disc(RIM_PX)) - cv2.erode(binary, disc(RIM_PX))) > 0
    told = rim & (weight > 1e-3) & (np.abs(contrast) > RIM_CONTRAST)
    return np.where(told, 2 * (look.luma - look.level) * np.sign(contrast) > np.abs(contrast), mask)


def _fine_factor(detector: Detector) -> int:
    """By what whole number frames are divided: a divisor of the working scale's, so that an animal has FINE_PX pixels."""
    pixels = max(detector.area, 1.0) * detector.factor**2
    wanted = np.sqrt(pixels / FINE_PX)
    return max(n for n in range(1, detector.factor + 1) if detector.factor % n == 0 and (n == 1 or n <= wanted))


def _differing(value: Floats, level: Floats, noise: Floats) -> Image:
    """What differs from the arena, [h, w] 0 or 1, in blobs without holes that are no specks beside the largest."""
    change = value - level
    differs = np.abs(cv2.blur(change[..., 0], (3, 3))) > 2.5 * noise + 3
    differs |= (np.abs(change[..., 1:]) > 8).any(axis=-1)
    opened = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _whole(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, disc(5)), 0.03)


def _whole(mask: Image, least: float) -> Image:
    """The blobs of at least this share of the largest's area, filled: [h, w] 0 or 1."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    areas = [cv2.contourArea(contour) for contour in contours]
    whole = np.zeros_like(mask)
    if not areas:
        return whole
    kept = [c for c, area in zip(contours, areas, strict=True) if area >= least * max(areas)]
    return np.asarray(cv2.drawContours(whole, kept, -1, 1, cv2.FILLED))


def _luma_bins(luma: Floats) -> NDArray[np.int64]:
    return np.clip(luma / 8, 0, LUMA_BINS - 1).astype(np.int64)


def _log_normal(deviation: Floats, spread: Floats) -> Floats:
    density = -((deviation / spread) ** 2) / 2 - np.log(spread) - np.float32(0.5 * np.log(2 * np.pi))
    return np.maximum(density, np.float32(-20)).astype(np.float32)


def _smoothed(evidence: Floats, luma: Floats) -> Floats:
    """Evidence [h, w] after neighbours that look alike have decided together.

    Mean field of a Potts model whose neighbourhood is a guided filter's (He et al., PAMI 2013): within SMOOTHING_PX pixels,
    not across an edge of the picture that is well above the square root of SAME_FUR.
    """
    size = (2 * SMOOTHING_PX + 1,) * 2
    mean = cv2.blur(luma, size)
    scale = 1 / (cv2.blur(luma * luma, size) - mean * mean + np.float32(SAME_FUR))
    field = evidence
    for _ in range(SMOOTHING_STEPS):
        belief = np.tanh(field / 2)
        average = cv2.blur(belief, size)
        slope = (cv2.blur(luma * belief, size) - mean * average) * scale
        offset = average - slope * mean
        field = evidence + np.float32(SMOOTHING) * (cv2.blur(slope, size) * luma + cv2.blur(offset, size))
    return field
