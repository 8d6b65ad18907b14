"""How far a camera's silhouettes can be trusted: good, doubtful or bad, with the reasons in words and numbers.

Every limit was set between what was measured on good silhouettes (true masks of two rendered rigs, of six and of three
cameras; differences from the empty arena that overlap the truth by 0.93) and on bad ones (masks grown or shrunk by 3 px,
with holes, with a shadow or leaks, without a tail in one camera; differences that overlap the truth by 0.63).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mousefacelift.geometry.camera import Array

Word = Literal["good", "doubtful", "bad"]
WORDS: tuple[Word, ...] = ("good", "doubtful", "bad")

# What is (doubtful, bad) from here on. In brackets: the good ones' largest value, the damaged ones' smallest that counts.
HULL_GAP = 0.045, 0.12  # IoU below what the rig can reach (0.04; 0.05 to 0.26)
OFFSET_SHARE = 0.01, 0.02  # the outline's distance from the picture's edge, of the root of the area (0.008; 0.012)
OFFSET_PX = 1.5  # within this an outline is a matter of taste: of half a fur's length, or of a blurred edge
BARE = 0.08, 0.3  # share of the outline without an edge in the picture (0.04; a shadow's 0.09 to 0.18)
UNSTEADY = 0.12, 0.4  # 95 % of the changes of area against the frames before and after (0.07; 0.18 to 0.29)
HOLES = 0.05, 0.12  # share of holes, 90 % of the frames (0.02; 0.16)
BEYOND = 0.05, 0.15  # share of the silhouette where no other camera sees the mouse (0.01; 0.07)
BELOW_MM = 5.0, 15.0  # by how much it reaches farther down than the others allow
ALONE = 0.02, 0.15  # by how much the others agree better without it (0.003; a lost tail's 0.033)
STEADY_S = 0.11  # with more time between frames a mouse's area changes by itself


@dataclass(frozen=True)
class Pictured:
    """What one camera's pictures say of its N silhouettes, those that are there; see `ChunkMeasures`.

    step_s: time between two of them, s; infinite if they do not follow one another.
    """

    contrast: Array
    bare: Array
    offset_px: Array
    holes: Array
    area_px: NDArray[np.int64]
    step_s: float = np.inf

    @property
    def steadiness(self) -> float:
        """The relative change of area that 95 % of the frames stay below, against the median with both neighbours.

        NaN if the frames are too far apart, or too few.
        """
        if self.step_s > STEADY_S or len(self.area_px) < 10:
            return np.nan
        area = self.area_px.astype(np.float64)
        around = np.median(np.stack([area[:-2], area[1:-1], area[2:]]), axis=0)
        return float(np.percentile(np.abs(area[1:-1] - around) / around, 95))


@dataclass(frozen=True)
class Agreement:
    """What the other cameras say of one camera's silhouettes; NaN where unknown.

    hull_iou: mean IoU with the hull of all. reachable: what it would be with perfect silhouettes. others_iou: with the hull
    of the others. beyond: share of the silhouette outside of where the others' hull can be. below_mm: how much farther down
    it reaches than that. alone: by how much the others' IoU rises without this camera.
    """

    hull_iou: float
    reachable: float
    others_iou: float
    beyond: float
    below_mm: float
    alone: float


@dataclass(frozen=True)
class Grade:
    """A camera's grade, and why it is not good."""

    grade: Word
    reasons: tuple[str, ...] = ()
    values: Mapping[str, float | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What qc.json holds of it."""
        return {"grade": self.grade, "reasons": list(self.reasons), **self.values}


def picture_grade(pictured: Pictured) -> Grade:
    """Grade one camera's silhouettes by its pictures alone."""
    if not len(pictured.area_px):
        return Grade("bad", ("no silhouette was found",))
    return _graded(_of_pictures(pictured), _picture_values(pictured))


def grades(pictured: Sequence[Pictured], agreements: Sequence[Agreement]) -> list[Grade]:
    """Grade all cameras' silhouettes by their pictures and by the hulls.

    One camera's fault lowers all cameras' IoU, because its silhouettes carve the hull of all. Where the others agree
    clearly better without one camera than without any other, the fault is that one's: it is graded for it, and the
    others' agreement is judged without it.
    """
    alone = np.array([each.alone for each in agreements])
    # Fewer cameras always agree better, most of all in a small rig: only what exceeds the usual tells.
    rise = alone - np.nanmedian(alone) if np.isfinite(alone).any() else alone
    culprit = int(np.nanargmax(rise)) if np.isfinite(rise).any() and np.nanmax(rise) >= ALONE[0] else None
    graded = []
    for v, (pictures, agreement) in enumerate(zip(pictured, agreements, strict=True)):
        values = _picture_values(pictures) | _agreement_values(agreement)
        if not len(pictures.area_px):
            graded.append(Grade("bad", ("no silhouette was found",), values))
            continue
        found = _of_pictures(pictures)
        if v == culprit:
            found.append(
                _finding(rise[v], ALONE, f"without it the other cameras' hull IoU is higher by {alone[v]:.2f}")
            )
        found += _of_hulls(agreement, 0.0 if culprit in (None, v) else float(alone[culprit]))
        graded.append(_graded(found, values))
    return graded


def _of_pictures(pictured: Pictured) -> list[tuple[int, str]]:
    """What the pictures alone find: how bad (0 to 2), and a reason."""
    offset = _median(pictured.offset_px)
    share = abs(offset) / np.sqrt(np.median(pictured.area_px)) if abs(offset) > OFFSET_PX else 0.0
    side = "outside" if offset < 0 else "inside"
    bare, holes = _median(pictured.bare), float(np.percentile(pictured.holes, 90))
    return [
        _finding(
            share, OFFSET_SHARE, f"the outline lies {abs(offset):.1f} px {side} of the mouse's edge in the picture"
        ),
        _finding(bare, BARE, f"{100 * bare:.0f} % of the outline has no edge in the picture"),
        _finding(holes, HOLES, f"{100 * holes:.0f} % of it is holes"),
        _finding(
            pictured.steadiness,
            UNSTEADY,
            f"its area jumps by {100 * np.nan_to_num(pictured.steadiness):.0f} % from frame to frame",
        ),
    ]


def _of_hulls(agreement: Agreement, excused: float) -> list[tuple[int, str]]:
    """What the other cameras find; excused: what another camera takes from the IoU."""
    gap = agreement.reachable - agreement.hull_iou - excused
    found = [
        _finding(gap, HULL_GAP, f"hull IoU {agreement.hull_iou:.2f} where this rig can reach {agreement.reachable:.2f}")
    ]
    if excused:
        return found
    below = agreement.below_mm
    return [
        *found,
        _finding(
            agreement.beyond,
            BEYOND,
            f"{100 * np.nan_to_num(agreement.beyond):.0f} % of it lies where no other camera sees a mouse",
        ),
        _finding(below, BELOW_MM, f"it reaches {np.nan_to_num(below):.0f} mm below what the others allow: a shadow?"),
    ]


def _finding(value: float, limits: tuple[float, float], reason: str) -> tuple[int, str]:
    """How bad a value is, 0 to 2 (0 if it is unknown), and what is said of it."""
    return int(sum(value >= limit for limit in limits)), reason


def _graded(found: Sequence[tuple[int, str]], values: Mapping[str, float | None]) -> Grade:
    reasons = [reason for bad, reason in sorted(found, key=lambda each: -each[0]) if bad]
    return Grade(WORDS[max((bad for bad, _ in found), default=0)], tuple(reasons), values)


def _picture_values(pictured: Pictured) -> dict[str, float | None]:
    return {
        "edge_contrast": _number(_median(pictured.contrast)),
        "edge_bare": _number(_median(pictured.bare)),
        "edge_offset_px": _number(_median(pictured.offset_px)),
        "area_steadiness": _number(pictured.steadiness),
        "holes": _number(np.percentile(pictured.holes, 90)) if len(pictured.holes) else None,
    }


def _agreement_values(agreement: Agreement) -> dict[str, float | None]:
    return {
        "hull_iou": _number(agreement.hull_iou),
        "reachable_hull_iou": _number(agreement.reachable),
        "hull_of_others_iou": _number(agreement.others_iou),
        "beyond_others": _number(agreement.beyond),
        "floor_contact": _number(agreement.below_mm),
    }


def _median(values: Array) -> float:
    return float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
