"""A frozen dataclass as an HDF5 file: its fields are the file's attributes and datasets, under the same names."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import h5py
import numpy as np

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, open_h5

SHARED = "captures"  # the attribute that lists the captures of a file of several


def attribute(convert: Callable[[Any], Any], name: str | None = None) -> dict[str, Any]:
    """Metadata of a dataclass field that is kept as an attribute of the file.

    convert: gives the field's value from what h5py reads. name: the attribute's, where a dataset has the field's name.
    """
    return {"convert": convert, "attribute": name}


def names(values: Any) -> tuple[str, ...]:
    """An attribute that lists names, as h5py reads it."""
    return tuple(str(value) for value in values)


@contextmanager
def open_stage_file(path: Path, stage: str, command: str, capture: str | None = None) -> Iterator[Any]:
    """Open a file that a stage wrote. command: the one that writes it. capture: the one whose file it must be.

    Of a file with several captures (`new_shared_file`) this opens the group of the one that is named.

    Raises UserError, naming the file and the command, if the file is missing or damaged, or was written by another stage,
    by another version of it, or for another capture.
    """
    with open_h5(path, command) as file:
        found = {name: file.attrs.get(name) for name in ("stage", "version", "capture")}
        if any(value is None or np.ndim(value) for value in found.values()):
            raise UserError(
                f"{path}: does not say which stage and version wrote it, of which capture; delete it and run `{command}` again"
            )
        if found["stage"] != stage:
            raise UserError(
                f"{path}: is a file of stage {found['stage']}, not of {stage}: name one that `{command}` writes"
            )
        if found["version"] != STAGE_VERSIONS[stage]:
            raise UserError(
                f"{path}: is of version {found['version']} of stage {stage}, this is version {STAGE_VERSIONS[stage]}; "
                f"delete it and run `{command}` again"
            )
        if SHARED in file.attrs:
            yield _group(file, path, command, capture)
            return
        if capture not in (None, found["capture"]):
            raise UserError(
                f"{path}: is of capture {found['capture']}, not of {capture}: name the file that `{command}` writes for {capture}"
            )
        yield file


def _group(file: Any, path: Path, command: str, capture: str | None) -> Any:
    """The group of one capture in a file of several. Raises UserError if there is none."""
    held = names(np.atleast_1d(file.attrs[SHARED]))
    if capture not in held or not isinstance(file.get(str(capture)), h5py.Group):
        raise UserError(
            f"{path}: holds captures {', '.join(held)}{f', not {capture}' if capture else ''}: name the file that `{command}` "
            f"writes for {capture or 'one of them'}"
        )
    return file[capture]


def captures_in(path: Path, stage: str, command: str) -> tuple[str, ...]:
    """The captures that a stage's file holds: one, or those of one recording. Raises UserError as `open_stage_file` does."""
    with open_h5(path, command) as file:
        shared = names(np.atleast_1d(file.attrs[SHARED])) if SHARED in file.attrs else ()
    if shared:
        for name in shared:
            with open_stage_file(path, stage, command, name):
                pass
        return shared
    with open_stage_file(path, stage, command) as file:
        return (str(file.attrs["capture"]),)


@contextmanager
def new_shared_file(path: Path, stage: str, captures: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Write a stage's file of several captures, complete or not at all: a group for each, by its name."""
    with new_stage_file(path, stage, captures[0]) as file:
        file.attrs[SHARED] = list(captures)
        groups = {name: file.create_group(name) for name in captures}
        for name, group in groups.items():
            group.attrs["capture"] = name
        yield groups


@contextmanager
def new_stage_file(path: Path, stage: str, capture: str) -> Iterator[Any]:
    """Write a stage's file, complete or not at all, with the attributes that `open_stage_file` checks."""
    with atomic(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(stage=stage, version=STAGE_VERSIONS[stage], capture=capture)
        yield file


@dataclass(frozen=True, eq=False, kw_only=True)
class StageFile:
    """One capture's data as a stage hands it on.

    A subclass names its stage and adds fields: those with the metadata of `attribute` are attributes of the file, all others datasets
    whose first axis counts frames. A subclass with a part of a file's fields reads that part alone.

    capture: name of the capture.
    cameras: names of its V cameras, in the order of every axis of length V.
    """

    STAGE: ClassVar[str]

    capture: str = field(metadata=attribute(str))
    cameras: tuple[str, ...] = field(metadata=attribute(names))

    @classmethod
    def command(cls) -> str:
        """The command that writes the file."""
        return f"mousefacelift {cls.STAGE}"

    @classmethod
    def captures_in(cls, path: Path) -> tuple[str, ...]:
        """The captures that the file holds: one, or those of one recording. Raises UserError as `read` does."""
        return captures_in(path, cls.STAGE, cls.command())

    @classmethod
    def read(cls, path: Path, capture: str | None = None) -> Self:
        """Read this class's fields from the file. Raises UserError as `open_stage_file` does, or if one is missing."""
        with open_stage_file(path, cls.STAGE, cls.command(), capture) as file:
            stored = cls._stored(file, path)
            return cls(**cls._attributes(file, path), **{name: dataset[()] for name, dataset in stored.items()})

    def write(self, path: Path) -> None:
        """Write the file, complete or not at all. The fields' dtypes are those of the datasets."""
        with new_stage_file(path, self.STAGE, self.capture) as file:
            self._store(file)

    @classmethod
    def write_shared(cls, path: Path, parts: Sequence[Self]) -> None:
        """Write several captures in one file, complete or not at all. `read` finds each by its name."""
        with new_shared_file(path, cls.STAGE, [part.capture for part in parts]) as groups:
            for part in parts:
                part._store(groups[part.capture])

    def _store(self, file: Any) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if "attribute" in each.metadata:
                file.attrs[each.metadata["attribute"] or each.name] = list(value) if isinstance(value, tuple) else value
            else:
                # Arrays of objects hold bytes, of a different number in each.
                dtype = h5py.vlen_dtype(np.uint8) if value.dtype == object else None
                file.create_dataset(each.name, data=value, dtype=dtype)

    def at(self, frames: Any) -> Self:
        """The same of a part of the frames, by any index of numpy's along the first axis."""
        return replace(self, **{each.name: getattr(self, each.name)[frames] for each in self._datasets()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The frames of several files in one, with the first file's attributes."""
        joined: dict[str, Any] = {
            each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in cls._datasets()
        }
        return replace(parts[0], **joined)

    def check_cameras(self, path: Path, cameras: Sequence[str], of: object) -> None:
        """Raise UserError if the file, at `path`, has other cameras, or in another order, than `of` has."""
        if self.cameras != tuple(cameras):
            raise UserError(
                f"{path}: has cameras {', '.join(self.cameras)}, but {of} has {', '.join(cameras)}; delete it and run "
                f"`{self.command()}` again"
            )

    @classmethod
    def _datasets(cls) -> list[Field[Any]]:
        return [each for each in fields(cls) if "attribute" not in each.metadata]

    @classmethod
    def _attributes(cls, file: Any, path: Path) -> dict[str, Any]:
        """The fields that are attributes. Raises UserError for one that cannot be what the field says."""
        found = {}
        for each in fields(cls):
            if "attribute" in each.metadata:
                name = each.metadata["attribute"] or each.name
                try:
                    found[each.name] = each.metadata["convert"](file.attrs[name])
                except (TypeError, ValueError, OverflowError):
                    raise UserError(
                        f"{path}: attribute {name} is damaged; delete it and run `{cls.command()}` again"
                    ) from None
        return found

    @classmethod
    def _stored(cls, file: Any, path: Path) -> dict[str, Any]:
        """The fields that are datasets, unread. Raises UserError unless they hold numbers, a row per frame in each."""
        stored = {each.name: file[each.name] for each in cls._datasets()}
        for name, dataset in stored.items():
            numbers = isinstance(dataset, h5py.Dataset) and (
                dataset.dtype.kind in "biuf" or h5py.check_vlen_dtype(dataset.dtype) == np.uint8
            )
            if not numbers or not dataset.shape or len(dataset) != len(next(iter(stored.values()))):
                raise UserError(
                    f"{path}: {name} does not hold a row of numbers per frame; delete it and run `{cls.command()}` again"
                )
        return stored
