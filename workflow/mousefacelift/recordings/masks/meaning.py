"""What stored masks mean: which pixels are mouse, by the setting `center.masks_are`, and whether that can be right.

Masks come from many programs. What is not a white mouse on black is named with the values seen and the key that helps,
instead of becoming an empty or a full silhouette.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.masks import looks
from mousefacelift.recordings.masks.stored import ZERO, Image, MaskFile, Numbers, Stored

CHECKED = 20  # masks of a chunk that are looked at closely; a mask of one value says nothing and does not count
VOTES = 5  # so many must agree that masks are inverted, or pictures: a single mask may have leaked


class Meaning:
    """How one camera's masks are understood.

    Args:
        file: the masks.
        kind: the setting `masks_are`.
        label: the number of the mouse among several animals; None: there is one.
        min_area: a silhouette of fewer pixels counts as empty.
        path: the masks' path, for errors.
        elsewhere: masks from all over the file, which are read only if those seen leave a doubt.
    """

    def __init__(
        self,
        file: MaskFile,
        kind: str,
        label: int | None,
        min_area: int,
        path: Path,
        elsewhere: Callable[[], Iterable[Stored]],
    ) -> None:
        self.labelled = kind == "labels" or label is not None or file.labels is not None
        self._file, self._kind, self._label, self._min_area = file, kind, label, min_area
        self._path, self._elsewhere = path, elsewhere
        self._checked = 0
        self._reading: Callable[[Stored, str], Image] = self._grey
        self._colour: NDArray[np.float64] | None = None
        self._only: int | None = None  # the label of masks that hold one animal
        self._seen: set[int] = set()
        self._votes: dict[str, list[str]] = {"inverted": [], "picture": []}

    def mouse(self, stored: Stored, where: str) -> Image:
        """What is above 127 is mouse [H, W]. For masks that are not labelled. Raises UserError, which begins with `where`."""
        if self._kind == "alpha":
            return self._opacity(stored, where)
        if self._checked < CHECKED:
            self._examine(stored, where)
        mask = self._reading(stored, where)
        return 255 - mask if self._kind == "inverted" else mask

    def animals(self, stored: Stored, where: str) -> Numbers:
        """The animals' numbers [H, W]; 1 is the mouse if none was chosen. For labelled masks. Raises UserError."""
        numbers = stored.numbers()
        if numbers is None:
            raise self._wrong(
                where,
                f"the mask holds {looks.colours(stored)}; labels are numbers: write an image of each animal's number",
            )
        if self._label is not None:
            # Whether a file that lists its animals holds this one is known from its headers.
            if self._file.labels is None and self._checked < CHECKED and not self._seen & {self._label or ZERO}:
                self._look_for_label(numbers)
            return numbers
        marked = np.count_nonzero(numbers)
        if marked and (self._only is None or np.count_nonzero(numbers == self._only) != marked):
            known = {*looks.labels(numbers), *([self._only] if self._only else [])}
            if len(known) > 1:
                raise self._wrong(where, f"the masks hold {looks.values(numbers)}: {several(sorted(known))}")
            (self._only,) = known
        return (numbers > 0).astype(np.uint8)

    def survey(self, where: str) -> None:
        """Raise UserError if masks all over a file hold several animals and none was chosen: a chunk may show one alone."""
        if self.labelled and self._label is None and self._file.labels is None:
            for stored in self._elsewhere():
                self.animals(stored, where)

    def finish(self) -> None:
        """Say what only all masks of a chunk show. Raises UserError."""
        self._judge_votes(1)
        if self._label is not None and self._seen and not self._seen & {self._label or ZERO}:
            self._refuse_unseen()

    def _look_for_label(self, numbers: Numbers) -> None:
        found = looks.labels(numbers)
        self._seen |= set(found)
        self._checked += bool(found)
        if self._checked == CHECKED and (self._label or ZERO) not in self._seen:
            self._refuse_unseen()
            self._seen.add(self._label or ZERO)

    def _refuse_unseen(self) -> None:
        """Raise UserError if no mask of the file holds the animal that was chosen."""
        for stored in self._elsewhere():
            if (numbers := stored.numbers()) is not None:
                self._seen |= set(looks.labels(numbers))
        if (self._label or ZERO) not in self._seen:
            seen = ", ".join(map(str, sorted(self._seen)))
            raise UserError(
                f"{self._path}: no mask that was looked at holds the animal {self._label}; the labels there are {seen}. The "
                "table's column 'label' or center.animal says which is the mouse"
            )

    def _opacity(self, stored: Stored, where: str) -> Image:
        alpha = stored.alpha()
        if alpha is None:
            raise self._wrong(where, "the mask has no alpha channel, but center.masks_are is alpha")
        if alpha.min() == 255:
            raise self._wrong(where, "the mask's alpha channel is opaque everywhere, but center.masks_are is alpha")
        return alpha

    def _examine(self, stored: Stored, where: str) -> None:
        """Decide how values are read, and raise UserError if a mask holds something else than the setting says."""
        grey, alpha = stored.grey(), stored.alpha()
        if alpha is None and grey.min() == grey.max():
            return  # an empty arena, or a mouse that fills the frame
        if self._kind == "auto" and (problem := looks.shape_in_alpha(stored, self._min_area)):
            raise self._wrong(where, f"{problem}: set center.masks_are: alpha")
        if self._reading == self._grey:
            self._choose_reading(stored, where)
        grey = self._reading(stored, where)
        if grey.min() == grey.max():
            return
        self._checked += 1
        lossy = f" (as {self._file.lossy} they are no longer exact)" if self._file.lossy else ""
        # What a codec leaves of a mouse that has gone has several dark values, too.
        if not lossy and looks.several_labels(grey, self._min_area):
            raise self._wrong(
                where, f"the mask holds {self._seen_in(stored, grey)}, several animals or classes: set center.masks_are: labels and say which is "
                "the mouse in the table's column 'label' or in center.animal"
            )  # fmt: skip
        if looks.dark_label(grey, self._min_area) and not self._white_elsewhere(grey):
            remedy = "write the masks as 0 and 255"
            if not lossy:
                remedy += ", or set center.masks_are: labels"
            seen = self._seen_in(stored, grey)
            raise self._wrong(where, f"the mask holds {seen}, but mouse is what is above 127{lossy}: {remedy}")
        self._vote(stored, grey, where)

    def _seen_in(self, stored: Stored, grey: Image) -> str:
        numbers = stored.numbers() if self._reading == self._grey else None
        return looks.values(grey if numbers is None else numbers)

    def _vote(self, stored: Stored, grey: Image, where: str) -> None:
        mask = 255 - grey if self._kind == "inverted" else grey
        if looks.inverted(mask, self._min_area):
            right = "inverted" if self._kind != "inverted" else "auto"
            self._votes["inverted"].append(
                f"{where}: the masks look {'inverted' if right == 'inverted' else 'right as they are'} "
                f"({self._seen_in(stored, grey)}; "
                f"{'white' if right == 'inverted' else 'black'} all along the frame's border): set center.masks_are: {right} "
                f"({self._path})"
            )
        elif looks.picture(grey, self._min_area):
            self._votes["picture"].append(
                f"{where}: the mask holds {self._seen_in(stored, grey)}, much of it neither black nor white, but mouse is what is above 127: write "
                f"the masks as 0 and 255 ({self._path})"
            )
        if self._checked == VOTES:
            self._judge_votes(VOTES)

    def _judge_votes(self, least: int) -> None:
        for said in self._votes.values():
            if len(said) >= least and len(said) >= min(self._checked, VOTES):
                raise UserError(said[0])

    def _white_elsewhere(self, grey: Image) -> bool:
        """Whether the file has white masks, so that dark values are what a lossy codec left where no mouse is."""
        if len(np.unique(grey)) == 2 and not self._file.lossy:
            return False
        return any(cv2.countNonZero((each.grey() > 127).view(np.uint8)) >= self._min_area for each in self._elsewhere())

    def _choose_reading(self, stored: Stored, where: str) -> None:
        rgb = stored.rgb()
        if rgb is not None and looks.coloured(rgb, self._min_area):
            self._colour, self._reading = self._one_colour(stored, rgb, where), self._strongest
        elif (
            self._file.exact and (numbers := stored.numbers()) is not None and numbers.max() == 1 and not numbers.min()
        ):
            self._reading = self._ones

    def _one_colour(self, stored: Stored, rgb: Image, where: str) -> NDArray[np.float64]:
        """The colour of a mask in one colour on black. Raises UserError if there is another."""
        colour = looks.one_colour_on_black(rgb, self._min_area, self._colour)
        if colour is None:
            numbers = stored.numbers()
            stand = "" if numbers is None else f", which stand for the {looks.values(numbers)}"
            remedy = (
                ""
                if numbers is not None
                else "write the masks as 0 and 255; of several animals write each one's number, "
            )
            raise self._wrong(
                where,
                f"the mask holds {looks.colours(stored)}{stand}, but mouse is what is white, or one colour, on black: {remedy}set "
                "center.masks_are: labels and say which is the mouse in the table's column 'label' or in center.animal",
            )
        return colour

    def _grey(self, stored: Stored, where: str) -> Image:
        return stored.grey()

    def _strongest(self, stored: Stored, where: str) -> Image:
        """The strongest channel of a mask in one colour, such as red on black."""
        rgb = stored.rgb()
        if rgb is None:
            return stored.grey()
        self._one_colour(stored, rgb, where)
        return rgb.max(axis=2)

    def _ones(self, stored: Stored, where: str) -> Image:
        """An array in which 1 is mouse."""
        numbers = stored.numbers()
        if numbers is None or numbers.max() > 1:
            seen = looks.colours(stored) if numbers is None else looks.values(numbers)
            raise self._wrong(
                where, f"the mask holds {seen}, the masks before it 0 and 1: set center.masks_are: labels and say which is the "
                "mouse in the table's column 'label' or in center.animal"
            )  # fmt: skip
        return numbers.astype(np.uint8) * np.uint8(255)

    def _wrong(self, where: str, what: str) -> UserError:
        return UserError(f"{where}: {what} ({self._path})")


def several(labels: Iterable[int]) -> str:
    """That there are several animals, and what to do."""
    listed = ", ".join(str(0 if label == ZERO else label) for label in labels)
    return f"labels {listed}: say which is the mouse in the table's column 'label' or in center.animal"
