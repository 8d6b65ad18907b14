"""Parts of silhouettes that the other views contradict: which there are, and whether the pictures agree with the others.

A view's cells are squares of about a voxel's size, on which voxels and pixels are compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Rig, project
from mousefacelift.recordings.silhouettes.background import disc

Image = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Table = NDArray[np.int64]

SQUARE: Image = np.ones((3, 3), np.uint8)
BINS = 32  # of 8 levels of Y, of 4 levels of Cr and Cb around neutral
NAT = 64  # evidence is counted in integers, so many to a nat: sums are then the same from run to run
CALM = 25  # grey levels: less contrast is none between a mouse and its arena
HOLE_EVIDENCE, BITE_EVIDENCE = -0.5, 0.5  # nats for the mouse in what is surely a hole, and in what may be none
BITE_OPEN = 0.15  # share of a bite's outline that may be open to the arena
LEAST_EDGE = 12  # grey levels of contrast around a part that is restored
DISPLACED = 0.2  # cells beyond the others' hull for each that was lost, from which a view is displaced
FINE = 4  # a voxel's edge is divided by this where a lost part is looked for
# Of 1500 parts of the demo's true silhouettes in the arena's colours, none passes these; of 46 made shadows, 37 do.
FOREIGN_EVIDENCE = -1.2  # nats
FOREIGN_SHARE, FOREIGN_THICK_PX, FOREIGN_OPEN, FOREIGN_CONTRAST, FOREIGN_SUPPORT = 0.004, 7, 0.4, 16, 0.2


@dataclass
class View:
    """One view's part of a frame, with its silhouette, which changes as parts of it do.

    rgb: [h, w, 3] the picture. mask: [h, w], 0 or 1. corner: x, y of its first pixel in the frame. step: edge of a cell, px.
    cell: [n] the flat index of each voxel's cell; the number of cells for one beyond them. grid: cells, rows and columns.
    """

    rgb: Image
    mask: Image
    corner: tuple[int, int]
    step: int
    cell: NDArray[np.int32]
    grid: tuple[int, int]

    @classmethod
    def of(cls, rgb: Image, mask: Image, corner: tuple[int, int], pixels: Floats, step: int) -> "View":
        """pixels: [2, n] of all voxels in the raw frame."""
        rows, columns = (-(-size // step) for size in mask.shape)
        column, row = np.floor((pixels - np.array(corner, np.float32)[:, None]) / np.float32(step)).astype(np.int32)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        return cls(rgb, mask, corner, step, np.where(inside, row * columns + column, rows * columns), (rows, columns))

    def cells(self, pixels: Image) -> Bools:
        """The cells at least half of whose pixels [h, w], 0 or 1, are 1."""
        rows, columns = self.grid
        whole = np.zeros((rows * self.step, columns * self.step), np.uint8)
        whole[: pixels.shape[0], : pixels.shape[1]] = pixels * np.uint8(255)
        return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA) > 127)

    def holding(self, voxels: Bools) -> Image:
        """The cells, 0 or 1, that hold some of the chosen voxels [n]."""
        found = np.zeros(self.grid[0] * self.grid[1] + 1, np.uint8)
        found[self.cell[voxels]] = 1
        return found[:-1].reshape(self.grid)

    def shown(self, voxels: Bools) -> Image:
        """The cells, 0 or 1, in which the chosen voxels appear, without gaps."""
        return cv2.morphologyEx(self.holding(voxels), cv2.MORPH_CLOSE, SQUARE)

    def pixels(self, cells: Image | Bools) -> Image:
        """The pixels [h, w], 0 or 1, of cells."""
        fine = np.repeat(np.repeat(cells.astype(np.uint8), self.step, axis=0), self.step, axis=1)
        return fine[: self.mask.shape[0], : self.mask.shape[1]]

    def of_cells(self, cells: Image | Bools) -> Bools:
        """Which voxels [n] lie in chosen cells."""
        return np.append(cells.ravel() > 0, False)[self.cell]

    @cached_property
    def colour(self) -> NDArray[np.int32]:
        """The bin of each pixel's colour, [h, w]."""
        y, cr, cb = cv2.split(cv2.cvtColor(self.rgb, cv2.COLOR_RGB2YCrCb))
        chroma = [(np.clip(c, 64, 191) - np.uint8(64)) >> 2 for c in (cr, cb)]
        return ((y >> 3).astype(np.int32) * BINS + chroma[0]) * BINS + chroma[1]

    @cached_property
    def contrast(self) -> Image:
        """How much the picture changes within two pixels, [h, w], grey levels."""
        red, green, blue = cv2.split(cv2.morphologyEx(self.rgb, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)))
        return np.asarray(cv2.max(cv2.max(red, green), blue))

    def evidence(self, mouse: Image) -> NDArray[np.int32]:
        """Log p(colour | mouse) - log p(colour | arena), [h, w], in 1 / NAT nats, the mean of 5 x 5 pixels.

        mouse: [h, w], 0 or 1, what is mouse; what is outside the silhouette is arena.
        """
        arena = cv2.dilate(self.mask, disc(2)) == 0
        table = _log_ratio(_histogram(self.colour[mouse > 0]), _histogram(self.colour[arena]))
        each = table[self.colour]
        return np.asarray(cv2.boxFilter(each, cv2.CV_32S, (5, 5), normalize=False) // 25)


@dataclass(frozen=True)
class Near:
    """One moment's views and the voxels near their hull.

    views: by their places in the rig. points_mm: [n, 3] the voxels' centres. misses: [V, n] whether a view sees a voxel
    outside of its silhouette. total: [n] the number of views that do.
    """

    views: dict[int, View]
    rig: Rig
    points_mm: Floats
    misses: Bools
    total: NDArray[np.int32]
    voxel_mm: float

    def others(self, k: int) -> Bools:
        """The voxels that may be mouse for all views but the k-th, one of which may contradict if there are three or more."""
        return np.asarray(self.total - self.misses[k] <= (1 if len(self.views) > 3 else 0))

    def only(self, k: int) -> Bools:
        """The voxels that the k-th view alone sees outside of its silhouette."""
        return np.asarray(self.misses[k] & (self.total == 1))


def fill_holes(near: Near) -> None:
    """Fill holes and bites of the edge that the other views do not know, and around which the picture has no edge."""
    for k, view in enumerate(near.views.values()):
        padded = np.pad(view.mask, 8)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc(8))[8:-8, 8:-8]
        bites = cv2.morphologyEx(closed & (1 - view.mask), cv2.MORPH_OPEN, disc(2))
        candidates = bites | _enclosed(view.mask)
        if not candidates.any():
            continue
        possible = view.pixels(view.shown(near.total == near.misses[k]))
        # Spotted fur has edges itself.
        spots = view.contrast[cv2.erode(view.mask, disc(4)) > 0]
        calm = max(CALM, 3 * int(np.median(spots)) // 2) if spots.size else CALM
        evidence = None
        for box, part in _components(candidates, 20):
            rim = _Rim.of(view, box, part)
            open_to_arena = rim.free >= BITE_OPEN * (rim.free + rim.mouse)
            if open_to_arena or rim.mouse_contrast > calm or possible[box][part].mean() < 0.9:
                continue
            evidence = view.evidence(view.mask) if evidence is None else evidence
            # A gap between dark legs shows a dark arena. Its outline is not quite without an edge.
            surely_hole = not rim.free and rim.mouse_contrast <= calm / 2
            if evidence[box][part].mean() > NAT * (HOLE_EVIDENCE if surely_hole else BITE_EVIDENCE):
                view.mask[box][part] = 1


def restore_lost(near: Near) -> None:
    """Restore thin parts that a view lost: without them the other views' silhouettes show what no voxel explains."""
    votes = np.zeros(len(near.total), np.int32)
    for k, view in enumerate(near.views.values()):
        explained = cv2.dilate(view.shown(near.total == 0), SQUARE)
        votes += view.of_cells(view.cells(view.mask) & (explained == 0)) & ~near.misses[k]
    for k, v in enumerate(near.views):
        view, lost = near.views[v], near.only(k) & (votes >= max(2, (len(near.views) - 1) // 2))
        if np.count_nonzero(lost) < 4:
            continue
        # A camera with a wrong calibration lacks parts, too. It shows as much where the others see nothing.
        beyond = view.cells(view.mask) & (view.shown(near.total == near.misses[k]) == 0)
        if np.count_nonzero(beyond) > DISPLACED * np.count_nonzero(view.holding(lost)):
            continue
        # Its neighbours too, where it goes over into what the view still shows.
        around = near.only(k) & view.of_cells(cv2.dilate(view.holding(lost), SQUARE))
        candidates = _finely(near, v, around) & (1 - view.mask)
        for box, part in _components(candidates, max(30, view.mask.sum() // 2000)):
            if _Rim.of(view, box, part).free_contrast > LEAST_EDGE:
                view.mask[box][part] = 1


def remove_foreign(near: Near) -> None:
    """Remove parts in the arena's colours: a shadow, a leak.

    What is deep inside the silhouette is surely mouse. Other parts may have the arena's colours, and paws and a tail do.
    A part is foreign only if the picture has no edge where it meets the arena, and if other views say the same: a voxel of
    it is in the arena's colours for another view, too, or lies outside of their hull.
    """
    alike, votes = [], np.zeros(len(near.total), np.int32)
    for view in near.views.values():
        depth = cv2.distanceTransform(view.mask, cv2.DIST_L2, cv2.DIST_MASK_5)
        evidence = view.evidence((depth > np.float32(0.3) * depth.max()).astype(np.uint8))
        foreign = ((evidence < FOREIGN_EVIDENCE * NAT) & (view.mask > 0)).astype(np.uint8)
        alike.append(cv2.dilate(cv2.morphologyEx(foreign, cv2.MORPH_OPEN, disc(3)), disc(2)) & view.mask)
        votes += view.of_cells(view.cells(alike[-1]))
    for k, view in enumerate(near.views.values()):
        own = view.of_cells(view.cells(alike[k]))
        beyond = cv2.dilate(view.shown(near.others(k)), SQUARE) == 0
        supported = beyond | (view.holding((near.total == 0) & (votes > own)) > 0)
        for box, part in _components(alike[k], max(60, FOREIGN_SHARE * view.mask.sum())):
            rim = _Rim.of(view, box, part)
            if rim.free <= FOREIGN_OPEN * (rim.free + rim.mouse) or rim.free_contrast >= FOREIGN_CONTRAST:
                continue
            # Where a silhouette is too wide, the picture's edge lies some pixels inside of the outline.
            inside = part & (cv2.dilate((view.mask[box] == 0).astype(np.uint8), disc(3)) > 0)
            if inside.any() and view.contrast[box][inside].mean() >= FOREIGN_CONTRAST:
                continue
            whole = np.zeros_like(view.mask)
            whole[box][part] = 1
            cells = view.cells(whole)
            thick = cv2.distanceTransform(np.pad(whole[box], 1), cv2.DIST_L2, cv2.DIST_MASK_5).max()
            if thick >= FOREIGN_THICK_PX and supported[cells].sum() > FOREIGN_SUPPORT * cells.sum():
                view.mask[box][part] = 0


@dataclass(frozen=True)
class _Rim:
    """The pixels around a part: how many are mouse and how many are free, and the picture's mean contrast there."""

    mouse: int
    free: int
    mouse_contrast: float
    free_contrast: float

    @classmethod
    def of(cls, view: View, box: tuple[slice, slice], part: Bools) -> "_Rim":
        inner = part.astype(np.uint8)
        rim, mouse = cv2.dilate(inner, SQUARE) > inner, view.mask[box] > 0
        sides = [view.contrast[box][rim & side] for side in (mouse, ~mouse)]
        means = [float(side.mean()) if side.size else 0.0 for side in sides]
        return cls(sides[0].size, sides[1].size, *means)


def _components(mask: Image, least_px: float) -> Iterator[tuple[tuple[slice, slice], Bools]]:
    """The connected parts of a mask [h, w], 0 or 1, of so many pixels: a box around each, and what it is in there."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for label in range(1, count):
        x, y, w, h, area = (int(i) for i in stats[label])
        if area >= least_px:
            box = np.s_[max(y - 2, 0) : y + h + 2, max(x - 2, 0) : x + w + 2]
            yield box, labels[box] == label


def _enclosed(mask: Image) -> Image:
    """The holes of a mask [h, w], 0 or 1."""
    # Flooded from a border around it.
    outside = np.pad(mask, 1)
    cv2.floodFill(outside, None, (0, 0), 1)
    return 1 - outside[1:-1, 1:-1]


def _histogram(colours: NDArray[np.int32]) -> Table:
    """Counts of colours by bin, spread over neighbouring bins."""
    counts = np.bincount(colours, minlength=BINS**3).reshape(BINS, BINS, BINS)
    for axis in range(3):
        spread = np.moveaxis(2 * counts, axis, 0)
        each = np.moveaxis(counts, axis, 0)
        spread[1:] += each[:-1]
        spread[:-1] += each[1:]
        counts = np.moveaxis(spread, 0, axis)
    return counts.ravel()


def _log_ratio(mouse: Table, arena: Table) -> NDArray[np.int16]:
    """Log of the ratio of two histograms' densities, in 1 / NAT nats, within 6 nats; 0 where neither has a colour."""
    ratio = (mouse / max(int(mouse.sum()), 1) + 1e-6) / (arena / max(int(arena.sum()), 1) + 1e-6)
    return np.rint(NAT * np.clip(np.log(ratio), -6, 6)).astype(np.int16)


def _finely(near: Near, v: int, voxels: Bools) -> Image:
    """Where a view sees what all other views see of some voxels [n], cut finely: its pixels [h, w], 0 or 1."""
    ticks = (np.arange(FINE) - (FINE - 1) / 2) * near.voxel_mm / FINE
    offsets = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    points = (near.points_mm[voxels][:, None] + offsets).reshape(-1, 3)
    for other, view in near.views.items():
        if other != v:
            row, column, inside = _places(points, near, other)
            points = points[inside][view.mask[row, column] > 0]
    row, column, _ = _places(points, near, v)
    view = near.views[v]
    shown = np.zeros_like(view.mask)
    shown[row, column] = 1
    return cv2.morphologyEx(shown, cv2.MORPH_CLOSE, disc(max(1, view.step // FINE)))


def _places(points: NDArray[np.float64], near: Near, v: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Bools]:
    """Rows and columns in a view of those points [n, 3] that lie in it, and which these are, [n]."""
    view = near.views[v]
    pixels = project(points, near.rig[v])[0] - view.corner
    height, width = view.mask.shape
    # What the camera does not see is NaN, and no comparison holds.
    inside: Bools = np.all((pixels >= 0) & (pixels < [width, height]), axis=1)
    column, row = pixels[inside].astype(np.intp).T
    return row, column, inside
