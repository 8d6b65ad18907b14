"""What `sample` writes: the frames that become samples, and why the others do not."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, get_type_hints

from mousefacelift.artifacts.poses import Poses
from mousefacelift.base.errors import UserError
from mousefacelift.base.tables import read_rows, write_table
from mousefacelift.config.sample import SPLITS

COMMAND = "mousefacelift sample"


@dataclass(frozen=True)
class SampleRow:
    """A frame that becomes a sample.

    key: name of the sample, in all shards alike.
    capture: name of the capture.
    frame: index in the capture.
    time_s: s since frame 0, in steps of a microsecond.
    chunk: number of the chunk that the frame is in.
    split: one of SPLITS.
    views: names of the cameras, in the order of the sample's views.
    """

    key: str
    capture: str
    frame: int
    time_s: float
    chunk: int
    split: str
    views: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.split} is not a split")


@dataclass(frozen=True)
class RejectedRow:
    """A frame that becomes no sample.

    capture: name of the capture.
    frame: index in the capture.
    time_s: s since frame 0, in steps of a microsecond.
    reason: why, and the cameras whose views gave the reason.
    """

    capture: str
    frame: int
    time_s: float
    reason: str


@dataclass(frozen=True)
class Samples:
    """sample/{capture}/samples.tsv: rows by ascending frame."""

    rows: tuple[SampleRow, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the table. Raises UserError, naming the line, if the file is missing or not such a table."""
        return cls(_read(path, SampleRow))

    def write(self, path: Path) -> None:
        """Write the table, complete or not at all."""
        _write(path, SampleRow, self.rows)

    def check_poses(self, path: Path, poses: Poses, poses_path: Path) -> None:
        """Raise UserError if the table, at `path`, was chosen from another cameras.h5 than this one.

        Then a row has a capture, camera, frame, time or chunk that cameras.h5 has not.
        """
        known = {
            (int(frame), label(time_s), int(chunk))
            for frame, time_s, chunk in zip(poses.frame, poses.time_s, poses.chunk, strict=True)
        }
        for row in self.rows:
            if row.capture != poses.capture:
                raise UserError(f"{path}: is of capture {row.capture}, but {poses_path} of {poses.capture}")
            if unknown := sorted(set(row.views) - set(poses.cameras)):
                raise UserError(f"{path}: views {', '.join(unknown)} are not cameras of {poses_path}")
            if (row.frame, label(row.time_s), row.chunk) not in known:
                raise UserError(
                    f"{path}: frame {row.frame} at {label(row.time_s)} s in chunk {row.chunk} is not in {poses_path}; run "
                    f"`{COMMAND}` again"
                )


@dataclass(frozen=True)
class Rejected:
    """sample/{capture}/rejected.tsv: rows by ascending frame."""

    rows: tuple[RejectedRow, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the table. Raises UserError, naming the line, if the file is missing or not such a table."""
        return cls(_read(path, RejectedRow))

    def write(self, path: Path) -> None:
        """Write the table, complete or not at all."""
        _write(path, RejectedRow, self.rows)


def label(time_s: float) -> str:
    """A time in seconds as the tables have it."""
    return f"{time_s:.6f}"


Row = TypeVar("Row", SampleRow, RejectedRow)


def _read(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    types = get_type_hints(kind)
    header, *lines = read_rows(path, COMMAND) or [[]]
    if header != list(types):
        raise UserError(f"{path}: expected the columns {', '.join(types)}")
    rows = []
    for number, cells in enumerate(lines, 2):
        try:
            if len(cells) != len(types):
                raise ValueError("more cells than columns, or fewer")
            rows.append(kind(**{name: PARSE[types[name]](cell) for name, cell in zip(types, cells, strict=True)}))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not a row as `{COMMAND}` writes it ({error}); delete the file and run `{COMMAND}` again"
            ) from None
    return tuple(rows)


def _write(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    write_table(path, list(get_type_hints(kind)), ([_cell(value) for value in astuple(row)] for row in rows))


def _cell(value: object) -> object:
    if isinstance(value, tuple):
        return ",".join(value)
    return label(value) if isinstance(value, float) else value


def _index(cell: str) -> int:
    if not cell.isdecimal():
        raise ValueError(f"{cell} is not a number of a frame or chunk")
    return int(cell)


PARSE: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: _index,
    float: float,
    tuple[str, ...]: lambda cell: tuple(cell.split(",")),
}
