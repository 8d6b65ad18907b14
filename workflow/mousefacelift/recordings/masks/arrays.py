"""Masks in named arrays, whatever file they are in: one array of all frames, one per frame, or one per animal."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.clocks import Timing
from mousefacelift.recordings.masks.objects import MAX_LABEL
from mousefacelift.recordings.masks.stored import ZERO, ArrayMask, Numbers, Stored
from mousefacelift.recordings.video import Missing

READ = (
    "one array of booleans or whole numbers [frames, height, width]; one array [height, width] per frame with the frame's "
    "number in its name; or the like per animal, with the animal's number in its name too"
)
MASK_NAMES = ("masks", "mask", "silhouettes", "segmentation", "segmentations", "labels")
_ANIMAL = re.compile(r"(?:obj(?:ect)?|id|animal|mouse|track|instance|label)[^0-9a-z]*(\d+)", re.IGNORECASE)
_SIDE = 2**16


@dataclass(frozen=True)
class Array:
    """An array in a file.

    rows: yields the array's parts at increasing places along the first axis, without reading more than it must.
    whole: reads all of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[Sequence[int]], Iterator[np.ndarray]]
    whole: Callable[[], np.ndarray]


def masks_in(arrays: Sequence[Array], path: Path) -> "ArrayMasks":
    """The masks of a file by its arrays' names and shapes. Raises UserError that names them if they are of no known form."""
    for array in arrays:
        if array.dtype.hasobject:
            raise UserError(
                f"{path}: {array.name} holds Python objects, which are not read because that would run code from the file; "
                f"save {READ}"
            )
    listed = ", ".join(f"{a.name} {list(a.shape)} {a.dtype}" for a in arrays[:8]) + (" …" if len(arrays) > 8 else "")
    several = len(arrays) > 1 and all(a.shape[:1] == (1,) for a in arrays if len(a.shape) == 3)
    stacks = [a for a in arrays if len(a.shape) == 4 or (len(a.shape) == 3 and not several)]
    if len(named := [a for a in stacks if a.name.rpartition("/")[2].lower() in MASK_NAMES]) == 1:
        stacks = named
    if len(stacks) == 1:
        return ArrayMasks(path, {None: stacks[0]}, {}, _numbers(stacks[0], arrays, path))
    if stacks:
        by_animal = {_number_in(a.name): a for a in stacks}
        if None not in by_animal and len(by_animal) == len(arrays) and len({a.shape for a in stacks}) == 1:
            return ArrayMasks(path, by_animal, {}, None)
    planes = {_frame_and_animal(a.name, arrays): a for a in arrays if len(_squeezed(a.shape)) == 2}
    if not stacks and planes and len(planes) == len(arrays) and None not in planes:
        return ArrayMasks(path, {}, planes, None)
    raise UserError(f"{path}: holds {listed or 'no arrays'}; expected {READ}")


def _numbers(stack: Array, arrays: Sequence[Array], path: Path) -> list[int] | None:
    """The frames of a stack by an array beside it, such as frame_idx. Raises UserError for arrays that say something else."""
    numbers = None
    for other in arrays:
        if other is stack:
            continue
        if "frame" not in other.name.lower() or other.shape != stack.shape[:1] or other.dtype.kind not in "iu":
            raise UserError(
                f"{path}: beside the masks in {stack.name} {list(stack.shape)} there is {other.name} {list(other.shape)}, "
                f"whose meaning is not known; leave it out, or save {READ}"
            )
        numbers = [int(n) for n in other.whole()]
        if any(b <= a for a, b in pairwise(numbers)) or min(numbers, default=0) < 0:
            raise UserError(f"{path}: the frames' numbers in {other.name} do not ascend")
    return numbers


def _number_in(name: str) -> int | None:
    """The only number in an array's name."""
    found = re.findall(r"\d+", name.rpartition("/")[2])
    return int(found[0]) if len(found) == 1 and len(found[0]) < 10 else None


def _frame_and_animal(name: str, arrays: Sequence[Array]) -> tuple[int, int | None] | None:
    """The frame and, where a name holds it, the animal of an array [H, W]."""
    if len(name) > 200:
        return None
    animal = _ANIMAL.search(name)
    rest = name[: animal.start()] + name[animal.end() :] if animal else name
    numbers = re.findall(r"\d{1,9}", rest)
    if animal and numbers:
        return int(numbers[-1]), int(animal[1])
    numbers = re.findall(r"\d{1,9}", name)
    # Of two numbers the first is the frame, unless it is the same in all names, as a camera's is.
    first = {re.findall(r"\d{1,9}", a.name)[:1] == numbers[:1] for a in arrays}
    if len(numbers) == 2 and False in first:
        return int(numbers[0]), int(numbers[1])
    return (int(numbers[-1]), None) if numbers else None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A mask's shape without axes of length 1 at its ends."""
    if len(shape) == 3 and shape[0] == 1:
        return shape[1:]
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else shape


class ArrayMasks:
    """The masks in a file's arrays. See `MaskFile`.

    stacks: animal -> its array of all frames; None stands for a file that does not tell animals apart.
    planes: frame and animal -> its array [H, W].
    numbers: the frames of the stack; None: from 0 on.
    """

    exact, lossy = True, ""

    def __init__(
        self,
        path: Path,
        stacks: dict[int | None, Array],
        planes: dict[tuple[int, int | None] | None, Array],
        numbers: list[int] | None,
    ) -> None:
        self._path, self._stacks, self._numbers = path, stacks, numbers
        self._planes = {key: array for key, array in planes.items() if key is not None}
        some = next(iter((*stacks.values(), *planes.values())))
        shape = _squeezed(some.shape[1:] if stacks else some.shape)
        if some.dtype.kind not in "biu":
            raise UserError(
                f"{path}: {some.name} holds {some.dtype}, such as logits or probabilities; save booleans (masks > 0 of SAM's "
                "logits) or whole numbers"
            )
        channels = shape[2:] if len(shape) == 3 else ()
        if len(shape) not in (2, 3) or channels not in ((), (3,), (4,)) or not all(0 < n < _SIDE for n in shape[:2]):
            raise UserError(f"{path}: {some.name} has the shape {list(some.shape)}; expected {READ}")
        self.size = (shape[1], shape[0])
        animals = {animal for _, animal in self._planes} if self._planes else set(stacks)
        if animals != {None} and (None in animals or channels or max(a or 0 for a in animals) > MAX_LABEL):
            raise UserError(
                f"{path}: the names of its arrays, such as {some.name}, do not number frames and animals alike"
            )
        self.labels = None if animals == {None} else tuple(sorted(a for a in animals if a is not None))
        self.first = min(frame for frame, _ in self._planes) if self._planes and self.labels is None else None

    def length(self, timing: Timing, fps: float | None) -> int:
        """See `MaskFile`."""
        if self._planes:
            return max(frame for frame, _ in self._planes) + 1
        if self._numbers is not None:
            return max(self._numbers, default=-1) + 1
        return next(iter(self._stacks.values())).shape[0]

    def read(
        self, frames: range, where: str, timing: Timing, fps: float | None, threads: int
    ) -> Iterator[Stored | Missing]:
        """See `MaskFile`. Where animals overlap, a pixel belongs to the one with the largest number."""
        yield from self._read_planes(frames, where) if self._planes else self._read_stacks(frames, where)

    def _read_stacks(self, frames: range, where: str) -> Iterator[Stored | Missing]:
        count = next(iter(self._stacks.values())).shape[0]
        place_of = {n: k for k, n in enumerate(range(count) if self._numbers is None else self._numbers)}
        places = [place_of[n] for n in frames if n in place_of]
        animals = sorted(self._stacks, key=lambda animal: -1 if animal is None else animal)
        # From a plain file parts can only be read in order: all animals' arrays go forward together.
        parts = [self._stacks[animal].rows(places) for animal in animals]
        for index in frames:
            if index not in place_of:
                yield Missing(f"{where}: {self._path}: no mask of frame {index}")
                continue
            masks = [next(each) for each in parts]
            yield self._mask(dict(zip(animals, masks, strict=True)), f"{where}: {self._path}, frame {index}")

    def _read_planes(self, frames: range, where: str) -> Iterator[Stored | Missing]:
        by_frame: dict[int, list[int | None]] = {}
        for frame, animal in self._planes:
            by_frame.setdefault(frame, []).append(animal)
        for index in frames:
            if index not in by_frame:
                yield Missing(f"{where}: {self._path}: no mask of frame {index}")
                continue
            masks = {animal: self._planes[index, animal] for animal in by_frame[index]}
            name = next(iter(masks.values())).name
            yield self._mask(
                {animal: array.whole() for animal, array in masks.items()}, f"{where}: {self._path}: {name}"
            )

    def _mask(self, masks: dict[int | None, np.ndarray], where: str) -> Stored:
        """One frame's mask from each animal's, or the only one's."""
        plain = {animal: self._checked(values, where) for animal, values in masks.items()}
        if self.labels is None:
            return ArrayMask(plain[None])
        numbers = np.zeros(self.size[::-1], np.uint16)
        for animal in sorted(animal for animal in plain if animal is not None):
            values = plain[animal]
            if values.dtype != np.bool_ and len(found := np.unique(values[values > 0])) > 1:
                raise UserError(f"{where}: one animal's mask holds the values {', '.join(map(str, found[:4]))}")
            numbers[values > 0] = animal or ZERO
        return ArrayMask(numbers)

    def _checked(self, values: np.ndarray, where: str) -> Numbers:
        """Values [H, W] or [H, W, C] as a mask can hold them."""
        values = values.reshape(_squeezed(values.shape))
        if values.shape[:2] != self.size[::-1]:
            raise UserError(f"{where}: has the shape {list(values.shape)}, the first mask {[*self.size[::-1]]}")
        if values.dtype in (np.bool_, np.uint8, np.uint16):
            return values
        if values.dtype.kind not in "iu" or not 0 <= values.min() <= values.max() <= 65535:
            raise UserError(
                f"{where}: holds {values.dtype} from {values.min()} to {values.max()}; masks hold 0 to 65535"
            )
        return values.astype(np.uint8 if values.max() < 256 else np.uint16)
