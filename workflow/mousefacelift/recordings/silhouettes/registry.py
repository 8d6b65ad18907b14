"""The ways to find the mouse in a frame, by the name that the setting `center.masks` gives them.

Add a method: write a module beside these, and one line in METHODS. Nothing else lists them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import nearest
from mousefacelift.config.center import Center
from mousefacelift.geometry.camera import Rig
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.silhouettes import background, onnx, provided, shadows
from mousefacelift.recordings.silhouettes.segmentation import Arena, Image, JointSegment
from mousefacelift.recordings.video import Frame, Missing


class Silhouettes(Protocol):
    """Yields a camera's frames in order, each with its silhouette [H, W], of which above 127 is mouse.

    A frame that is missing comes with its reason and an empty silhouette.
    """

    def __call__(
        self, capture: Capture, view: int, frames: range, settings: Center, threads: int = 1, arena: Arena | None = None
    ) -> Iterator[tuple[Frame | Missing, Image]]:
        """Go through a camera's frames.

        Args:
            capture: the recording.
            view: the camera's place in it.
            frames: which of the capture's frames.
            settings: the section `center`.
            threads: of the decoder.
            arena: what is known of the camera's empty arena, for a method that needs it.
        """


class Identities(Protocol):
    """Like `Silhouettes`, for all animals of a recording at once: yields each frame with its identities [H, W] uint16.

    They are 0 where there is no animal, and else the animal's label.
    """

    def __call__(
        self, capture: Capture, view: int, frames: range, settings: Center, threads: int = 1
    ) -> Iterator[tuple[Frame | Missing, NDArray[np.uint16]]]:
        """Go through a camera's frames."""


def _no_check(capture_name: str, settings: Center) -> None:
    """The settings alone cannot be wrong."""


def _no_files(capture: Capture, settings: Center) -> dict[str, tuple[Path, ...] | Path]:
    """The videos are enough."""
    return {}


def _one_animal(capture: Capture, settings: Center) -> None:
    """Raise UserError if an animal was chosen, which only masks with numbers can show."""
    if capture.label is not None or settings.animal is not None:
        raise UserError(
            f"capture {capture.name}: center.masks: {settings.masks} finds one animal; to choose one by the table's column 'label' "
            "or by center.animal, provide masks that number the animals (center.masks: provided)"
        )


@dataclass(frozen=True)
class Method:
    """One way to find the mouse in a frame, and what it needs.

    Attributes:
        silhouettes: goes through one camera's frames.
        needs_arena: whether the empty arena is estimated first, for the argument `arena`.
        together: given each camera's arena, the rig and the settings, what makes the silhouettes of all views of a moment at
            once; None where each view is for itself.
        identities: tells the animals of one recording apart; None for a method that cannot.
        check: raises UserError before the first job if the settings cannot work; given a capture's name for its text.
        files: the files read beside the videos, by name, as inputs of a rule.
        check_files: raises UserError if these files do not fit the videos, by their headers and their first frames.
    """

    silhouettes: Silhouettes
    needs_arena: bool = False
    together: Callable[[Sequence[Arena], Rig, Center], JointSegment | None] | None = None
    identities: Identities | None = None
    check: Callable[[str, Center], None] = _no_check
    files: Callable[[Capture, Center], dict[str, tuple[Path, ...] | Path]] = _no_files
    check_files: Callable[[Capture, Center], None] = _one_animal


METHODS: dict[str, Method] = {
    "provided": Method(
        provided.silhouettes, identities=provided.identities, files=provided.files, check_files=provided.check_files
    ),
    "background": Method(background.silhouettes, needs_arena=True, together=shadows.together),
    "onnx": Method(onnx.silhouettes, check=onnx.check, files=onnx.files),
}


def method(name: str) -> Method:
    """The method of a name. Raises UserError that names the nearest one, or all."""
    if name not in METHODS:
        hint = nearest(name, METHODS) or f"valid: {', '.join(METHODS)}"
        raise UserError(f"center.masks: unknown method {name!r}: {hint}")
    return METHODS[name]
