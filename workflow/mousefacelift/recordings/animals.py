"""The animals of one recording: captures with the same videos and masks, told apart by their labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.captures import Capture

# What animals of one recording may differ in.
OF_AN_ANIMAL = ("name", "animal", "label")


def recordings_of(captures: Mapping[str, Capture], animal: int | None) -> dict[str, tuple[str, ...]]:
    """The captures of each recording, by name, in the table's order; a recording is named after its first capture.

    animal: label of the captures that say none themselves (`center.animal`). Captures without any are each a recording of
    their own.

    Raises UserError if two captures are the same animal of the same videos, or animals of the same videos and masks differ
    in anything that belongs to the recording.
    """
    found: dict[str, list[Capture]] = {}
    first_with: dict[object, str] = {}
    for capture in captures.values():
        files = capture.name if label_of(capture, animal) is None else (capture.videos, capture.masks)
        found.setdefault(first_with.setdefault(files, capture.name), []).append(capture)
    for first, *others in found.values():
        labels = {label_of(first, animal): first.name}
        for other in others:
            _check_alike(first, other)
            label = label_of(other, animal)
            if label in labels:
                raise UserError(
                    f"captures {labels[label]} and {other.name} are the same animal, {label}, of the same videos: give each "
                    "row a label of its own (the table's column 'label')"
                )
            labels[label] = other.name
    return {name: tuple(capture.name for capture in group) for name, group in found.items()}


def label_of(capture: Capture, animal: int | None) -> int | None:
    """The number that a capture's animal has in the masks; None: masks hold one animal. animal: of center.animal."""
    return animal if capture.label is None else capture.label


def _check_alike(first: Capture, other: Capture) -> None:
    different = [
        each.name
        for each in fields(Capture)
        if each.name not in OF_AN_ANIMAL and getattr(first, each.name) != getattr(other, each.name)
    ]
    if different:
        raise UserError(
            f"captures {first.name} and {other.name} are animals of the same videos, but their rows differ in "
            f"{', '.join(different)}: make these equal in the captures table"
        )


def check_told_apart(captures: Iterable[Capture], method: str, animal: int | None) -> None:
    """Raise UserError if several animals, or one of several, are asked of a method that finds whatever moves.

    method: of the setting `center.masks`, one that cannot tell animals apart. animal: the setting `center.animal`.
    """
    first_with: dict[object, Capture] = {}
    for capture in captures:
        if (label := label_of(capture, animal)) is not None:
            _refuse(
                f"capture {capture.name} asks for animal {label} (center.animal, or the table's column 'label')", method
            )
        first = first_with.setdefault((capture.videos, capture.sync, capture.calibration), capture)
        if first.animal != capture.animal:
            _refuse(f"captures {first.name} and {capture.name} are animals of the same videos", method)


def check_refinable(animals: Sequence[str], refine: bool) -> None:
    """Raise UserError if the silhouettes of several animals, the captures of these names, were to be refined.

    refine: the setting of this name. What one animal hides of another looks like an error of its silhouette.
    """
    if refine and len(animals) > 1:
        raise UserError(
            f"captures {', '.join(animals)} are animals of the same videos: center.refine: true corrects the silhouettes of "
            "one animal alone in a recording; set it to false"
        )


def _refuse(what: str, method: str) -> None:
    raise UserError(
        f"{what}, but center.masks: {method} cannot tell animals apart. Track them with another program, name its label "
        "masks in the table's column 'masks' and each animal's label in 'label', and set center.masks: provided "
        "(docs/captures.md, Several animals)"
    )
