"""Masks that were made elsewhere, checked against their videos and written in the lossless form that the workflow reads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.config.center import Center
from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.masks.looks import colours, labels
from mousefacelift.recordings.masks.pictures import resize
from mousefacelift.recordings.masks.registry import form_of, open_masks
from mousefacelift.recordings.masks.stored import ZERO
from mousefacelift.recordings.reading import capture_fps, masks_length, own_frames, recording_length
from mousefacelift.recordings.recording import check_numbers
from mousefacelift.recordings.silhouettes.provided import check_headers, identity, is_labelled, masks
from mousefacelift.recordings.video import Missing, probe

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Imported:
    """What one camera's masks were.

    form: of the file, a name of `masks.registry.FORMS`. size, video: width and height of masks and video, px.
    missing: frames without a mask, which were written as empty.
    areas: [N] pixels of mouse, or of all animals, in each frame, at the video's size.
    animals: the numbers written; empty for a mouse as 255.
    """

    form: str
    size: tuple[int, int]
    video: tuple[int, int]
    missing: int
    areas: NDArray[np.int64]
    animals: tuple[int, ...]


def import_masks(
    capture: Capture,
    outputs: tuple[Path, ...],
    settings: Center,
    keep_labels: bool = False,
    missing: Literal["error", "empty"] = "error",
    done: Callable[[], None] = lambda: None,
) -> list[Imported]:
    """Write each camera's masks as an FFV1 video of the video's size and length, all of them or none.

    A mouse is 255 on 0. With keep_labels, each animal has its number, in 16 bits if a number is above 255.

    Args:
        capture: the videos and the masks.
        outputs: a file per camera, .mkv.
        settings: masks_are, animal, min_area_px and timing are used.
        keep_labels: write all animals instead of one.
        missing: whether a frame without a mask is an error or shows no mouse.
        done: called after each camera.

    Raises:
        UserError: masks do not fit their video, or hold something else than the settings say.
    """
    settings = settings.model_copy(update={"on_bad_frame": "error" if missing == "error" else "skip"})
    _check_outputs(capture, outputs)
    if keep_labels and settings.animal is not None:
        raise UserError("--keep-labels writes all animals, and --animal one of them: choose")
    # Several animals without a choice would be an error; where all are kept, any choice will do for the check.
    check_headers(_any_animal(capture) if keep_labels else capture, settings)
    check_numbers(capture, settings)
    with ExitStack() as stack:
        temporary = [stack.enter_context(atomic(path)) for path in outputs]
        return [
            _camera(capture, view, settings, path, keep_labels, missing, done) for view, path in enumerate(temporary)
        ]


def import_table(capture: Capture, imported: Sequence[Imported]) -> "Table":
    """What was written, a row per camera."""
    from rich.table import Table

    table = Table(title="masks", title_justify="left")
    for column in (
        "camera",
        "form",
        "size px",
        "video px",
        "frames",
        "missing",
        "no mouse",
        "area px: least, median, most",
    ):
        table.add_column(column, justify="left" if column in ("camera", "form") else "right", no_wrap=True)
    table.add_column("holds", no_wrap=True)
    for name, each in zip(capture.cameras, imported, strict=True):
        some = each.areas[each.areas > 0]
        area = f"{some.min()}, {np.median(some):.0f}, {some.max()}" if some.size else "none"
        holds = f"animals {', '.join(map(str, each.animals))}" if each.animals else "a mouse"
        sizes = [f"{w}x{h}" for w, h in (each.size, each.video)]
        empty = np.count_nonzero(each.areas == 0) - each.missing
        table.add_row(name, each.form, *sizes, *map(str, (len(each.areas), each.missing, empty)), area, holds)
    return table


def _check_outputs(capture: Capture, outputs: tuple[Path, ...]) -> None:
    read = {path.resolve() for path in (*capture.videos, *capture.masks)}
    for path in outputs:
        if path.suffix.lower() != ".mkv":
            raise UserError(f"{path}: masks are written as FFV1 in a .mkv file: give that suffix")
        if path.resolve() in read:
            raise UserError(f"{path}: would replace a file that is read")


def _any_animal(capture: Capture) -> Capture:
    known = [label for path in capture.masks for label in open_masks(path).labels or ()]
    return replace(capture, label=max(known)) if known else capture


def _camera(
    capture: Capture,
    view: int,
    settings: Center,
    path: Path,
    keep_labels: bool,
    missing: str,
    done: Callable[[], None],
) -> Imported:
    source, probed, fps = capture.masks[view], probe(capture.videos[view]), capture_fps(capture)
    size = (probed.width, probed.height)
    frames = range(recording_length(capture, capture.videos[view], settings, fps))
    if masks_length(capture, source, settings, fps) > len(frames):
        raise UserError(
            f"camera {capture.cameras[view]}: {source} has more masks than its video has frames, {len(frames)}"
        )
    absent, areas, animals = 0, [], set[int]()
    with _Writer(path, size, fps) as writer:
        for mask in (_all_animals if keep_labels else _one_mouse)(capture, view, frames, settings):
            if isinstance(mask, Missing):
                if missing == "error":
                    raise UserError(f"{mask.reason}; --missing empty would write such frames without a mouse")
                absent, mask = absent + 1, np.zeros(size[::-1], np.uint8)
            elif (mask.shape[1], mask.shape[0]) != size:
                mask = resize(mask, size)
            areas.append(np.count_nonzero(mask))
            animals |= set(labels(mask)) if keep_labels else set()
            writer.add(mask)
    done()
    numbers = np.array(areas, np.int64)
    return Imported(form_of(source), open_masks(source).size, size, absent, numbers, tuple(sorted(animals)))


def _one_mouse(capture: Capture, view: int, frames: range, settings: Center) -> Iterator[NDArray[Any] | Missing]:
    """Each frame's mouse as 255."""
    own, labelled = identity(capture, settings), is_labelled(capture, view, settings)
    for mask in masks(capture, view, frames, settings):
        if isinstance(mask, Missing):
            yield mask
        else:
            yield np.where(mask == own if labelled else mask > 127, 255, 0).astype(np.uint8)


def _all_animals(capture: Capture, view: int, frames: range, settings: Center) -> Iterator[NDArray[Any] | Missing]:
    """Each frame's animals by their numbers."""
    path, where = capture.masks[view], f"camera {capture.cameras[view]}"
    file = open_masks(path)
    if file.lossy:
        raise UserError(f"{where}: {path}: {file.lossy} does not keep labels' values")
    narrow = file.labels is not None and max(file.labels, default=0) < 256
    own = own_frames(capture, path, view, frames, settings)
    for index, stored in zip(frames, file.read(own, where, settings.timing, capture_fps(capture), 1), strict=True):
        if isinstance(stored, Missing):
            yield stored
            continue
        numbers = stored.numbers()
        if numbers is None:
            raise UserError(f"{where}, frame {index}: {path}: holds {colours(stored)}, not animals' numbers")
        if numbers.max() == ZERO:
            raise UserError(
                f"{where}, frame {index}: {path}: an animal has the number 0, which is nothing in an image; import it alone, "
                "with --animal 0"
            )
        yield numbers.astype(np.uint8) if narrow else numbers


class _Writer:
    """Writes masks [H, W] as a lossless video, of 16 bits from the first value above 255 on."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self._path, self._size, self._count = path, size, 0
        self._rate = Fraction(fps).limit_denominator(1001)

    def __enter__(self) -> "_Writer":
        self._container = av.open(str(self._path), "w", format="matroska")
        self._stream: Any = None
        return self

    def add(self, mask: NDArray[Any]) -> None:
        """Add a frame. Raises UserError if it needs more bits than the first ones."""
        wide = mask.dtype == np.uint16
        if self._stream is None:
            self._stream = self._container.add_stream("ffv1", rate=self._rate)
            self._stream.width, self._stream.height = self._size
            self._stream.pix_fmt = "gray16le" if wide else "gray"
        wide = self._stream.pix_fmt == "gray16le"
        if not wide and mask.max() > 255:
            raise UserError(f"a mask holds the number {mask.max()}, the ones before it at most 255")
        image = np.ascontiguousarray(mask.astype(np.uint16 if wide else np.uint8))
        frame = av.VideoFrame.from_ndarray(image, "gray16le" if wide else "gray")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
