"""What `cameras` makes of a recording's other animals: who hides whom, and who bears the other's name in which frames."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mousefacelift.artifacts.center import ChunkMeasures, Flag
from mousefacelift.base.errors import UserError
from mousefacelift.config.cameras import Cameras
from mousefacelift.geometry.agreement import locate, usable_silhouettes
from mousefacelift.geometry.animals import (
    EXCHANGED,
    RIGHT,
    body_radius,
    exchanged_views,
    hidden_views,
    jumps,
    stretches,
    traded_places,
)
from mousefacelift.geometry.camera import Array, Rig, pixel_rays

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Exchange:
    """Two animals bear each other's names for some frames of a capture.

    camera: in this camera alone; None: in all of them. animals: their captures. first, last: indices of candidate frames.
    """

    camera: str | None
    animals: tuple[str, str]
    first: int
    last: int

    def report(self, frame: NDArray[np.int64]) -> dict[str, Any]:
        """The entry in qc.json."""
        frames = {"first_frame": int(frame[self.first]), "last_frame": int(frame[self.last])}
        return {"camera": self.camera, "animals": list(self.animals), **frames}

    def text(self, frame: NDArray[np.int64]) -> str:
        """Who, where and when, in words."""
        where = f"in camera {self.camera}" if self.camera else "in all cameras at once"
        when = f"in frames {frame[self.first]} to {frame[self.last]}"
        return f"{' and '.join(self.animals)} are exchanged {where} {when}"


@dataclass(frozen=True)
class Company:
    """What a recording's other animals mean for N frames of a capture in V cameras.

    hidden: [N, V] another animal may hide a part of this one.
    foreign: [N, V] the silhouette is another animal's, against the other views.
    renamed: [N] this animal bears another one's name in all views.
    exchanges: of this animal with others.
    """

    hidden: Mask
    foreign: Mask
    renamed: Mask
    exchanges: tuple[Exchange, ...]

    @property
    def flags(self) -> NDArray[np.uint8]:
        """What is added to the flags [N, V]; OCCLUDED takes the place of what `center` found."""
        another = self.foreign | self.renamed[:, None]
        return (np.where(self.hidden, Flag.OCCLUDED, 0) | np.where(another, Flag.EXCHANGED, 0)).astype(np.uint8)


@dataclass(frozen=True)
class _Animal:
    """One animal of a recording: its rays [N, V, 3] in the world, NaN without a silhouette; and what `center` measured."""

    name: str
    measures: ChunkMeasures
    rays: Array

    @classmethod
    def of(cls, rig: Rig, measures: ChunkMeasures) -> "_Animal":
        pixels = measures.center_px
        rays = np.stack([pixel_rays(pixels[:, v], camera) @ camera.R for v, camera in enumerate(rig)], axis=1)
        rays[(measures.flags & Flag.EMPTY) > 0] = np.nan
        return cls(measures.capture, measures, rays)

    def flagged(self, flag: Flag) -> Mask:
        found: Mask = (self.measures.flags & flag) > 0
        return found

    def places(self, rig: Rig, foreign: Mask, settings: Cameras) -> Array:
        """Centres [N, 3] in mm from silhouettes that are this animal's and whole, as far as there are enough."""
        doubtful = self.flagged(Flag.CLIPPED) | self.flagged(Flag.OCCLUDED)
        use = usable_silhouettes(~self.flagged(Flag.EMPTY) & ~foreign, doubtful, self.rays, settings.min_views)
        return locate(rig, self.measures.center_px, self.rays, use, settings.min_views)[0]


def in_company(rig: Rig, measures: ChunkMeasures, others: Mapping[str, ChunkMeasures], settings: Cameras) -> Company:
    """Look at a capture's silhouettes beside those of the recording's other animals.

    Raises UserError if two animals are exchanged up to the end of the capture: nobody can say which names are right.
    """
    own = _Animal.of(rig, measures)
    hidden, foreign = np.zeros(measures.flags.shape, bool), np.zeros(measures.flags.shape, bool)
    renamed = np.zeros(len(measures.frame), bool)
    exchanges: list[Exchange] = []
    for other in (_Animal.of(rig, each) for each in others.values()):
        pair = (own.name, other.name)
        nowhere = np.zeros_like(foreign)
        # Places for the animals' size alone: an exchange in one of the views hardly changes it.
        radii = [body_radius(rig, each.places(rig, nowhere, settings), each.measures.area_px) for each in (own, other)]
        size_mm = float(np.nansum(radii))
        state = exchanged_views(rig, own.rays, other.rays, size_mm)
        crossed = np.zeros_like(foreign)
        for v, camera in enumerate(measures.cameras):
            for first, last in stretches(state[:, v]):
                exchanges.append(Exchange(camera, pair, first, last))
                crossed[first : last + 1, v] = True
        own_mm, other_mm = (each.places(rig, crossed, settings) for each in (own, other))
        trades = traded_places(own_mm, other_mm, measures.time_s, size_mm)
        for first, last in stretches(_after_trades(trades, len(renamed))):
            exchanges.append(Exchange(None, pair, first, last))
            renamed[first : last + 1] = True
        touching = own.flagged(Flag.OCCLUDED) & other.flagged(Flag.OCCLUDED)
        hidden |= hidden_views(rig, touching, own_mm, other_mm, size_mm)
        foreign |= crossed
    _check_exchanges(exchanges, measures)
    return Company(hidden, foreign, renamed, tuple(exchanges))


def _after_trades(trades: list[int], count: int) -> NDArray[np.int8]:
    """The state of each of `count` frames, if two animals exchange their names whenever they trade places."""
    number = np.searchsorted(trades, np.arange(count), side="right")
    return np.where(number % 2 == 1, EXCHANGED, RIGHT).astype(np.int8)


def _check_exchanges(exchanges: list[Exchange], measures: ChunkMeasures) -> None:
    lasting = [each for each in exchanges if each.last == len(measures.frame) - 1]
    if lasting:
        listed = "\n  ".join(
            f"{each.text(measures.frame)}, the last one: exchange their labels there" for each in lasting
        )
        raise UserError(
            f"capture {measures.capture}: animals bear each other's names up to the end, so it is not known which names are "
            f"right. Mend the masks:\n  {listed}"
        )


def jumps_report(
    measures: ChunkMeasures, company: Company | None, center_mm: Array, length_mm: Array
) -> list[dict[str, Any]]:
    """The entries of qc.json for jumps of the animal that no exchange explains: frames, and how far it went, mm."""
    known: set[int] = set()
    for each in company.exchanges if company else ():
        known |= {each.first, each.last + 1}
    return [
        {
            "last_frame": int(measures.frame[n - 1]),
            "next_frame": int(measures.frame[n]),
            "distance_mm": round(float(np.linalg.norm(center_mm[n] - center_mm[n - 1])), 1),
        }
        for n in jumps(center_mm, measures.time_s, length_mm)
        if n not in known
    ]


def print_company(measures: ChunkMeasures, company: Company | None, jumped: list[dict[str, Any]]) -> None:
    """Warn on stderr, which is the job's log, of exchanged animals and of jumps."""
    for each in company.exchanges if company else ():
        print(
            f"warning: capture {measures.capture}: {each.text(measures.frame)}: `sample` rejects these frames where it uses "
            "such a view. Mend the masks there",
            file=sys.stderr,
        )
    for jump in jumped:
        print(
            f"warning: capture {measures.capture}: the mouse jumps by {jump['distance_mm']:g} mm from frame {jump['last_frame']} "
            f"to frame {jump['next_frame']}, farther than it is long: do the masks follow another animal or a thing?",
            file=sys.stderr,
        )
