"""Options that several commands share, and the values they stand for."""

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import parse_json

SettingsOption = Annotated[
    str | None,
    typer.Option("--settings", help="The stage's configuration section as JSON; by default --config is read."),
]
ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration file.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="CPU threads to use.")]
TableOption = Annotated[Path | None, typer.Option("--captures", help="Captures table; by default the configuration's.")]
CaptureOption = Annotated[str | None, typer.Option("--capture", help="The capture's name in the table.")]
RowOption = Annotated[
    str | None, typer.Option("--row", help="The capture as JSON, as the workflow passes it; no table is read.")
]
AnimalsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--row",
        help="The capture as JSON, as the workflow passes it; no table is read. Once for each animal of a recording.",
    ),
]
ChunkOption = Annotated[int, typer.Option("--chunk", min=0, help="Number of the capture's chunk.")]
BackgroundOption = Annotated[
    Path | None, typer.Option("--background", help="File that `background` wrote, for center.masks: background.")
]
RigFileOption = Annotated[Path, typer.Option("--rig", help="rig.json of the capture.")]
SubjectOption = Annotated[Path, typer.Option("--subject", help="subject.h5 of the capture.")]
PosesOption = Annotated[Path, typer.Option("--cameras", help="cameras.h5 that `normalize` wrote.")]
ManifestOption = Annotated[str, typer.Option(help="manifest.json of the shards, a path or an http(s) URL.")]
TrainedOption = Annotated[Path, typer.Option("--train", help="Folder that `train` wrote.")]
UnitOption = Annotated[str, typer.Option("--unit", help="Unit of the file's lengths: mm, cm, m.")]
CONFIG = Path("config/config.yaml")


class SplitChoice(StrEnum):
    """Names of the splits, for typer to check."""

    train = "train"
    val = "val"
    test = "test"


def section(stage: str, settings: str | None, config: Path) -> Any:
    """A stage's checked settings, from JSON or from the configuration file."""
    from mousefacelift.config.reading import load_config

    if settings is None:
        return getattr(load_config(config), stage)
    return checked(stage, parse_json(settings, "--settings"))


def parse_sections(names: Sequence[str], settings: str) -> dict[str, Any]:
    """The unchecked sections of these names, from JSON. Raises UserError if it holds others, or lacks one."""
    values = parse_json(settings, "--settings")
    if not isinstance(values, dict) or set(values) != set(names):
        raise UserError(f"--settings: expected the sections {', '.join(names)} in one JSON object")
    return values


def checked(stage: str, values: Any) -> Any:
    """A stage's checked settings, from a section's values."""
    from mousefacelift.config.config import Config
    from mousefacelift.config.reading import validate

    model: Any = Config.model_fields[stage].annotation
    return validate(model, values, f"--settings, section {stage}")


def find_capture(row: str | None, table: Path | None, name: str | None, config: Path) -> Any:
    """The capture that --row holds, or else the one of this name in the table.

    Raises UserError for a row that is wrong, and for a name that is not in the table, with the names that are.
    """
    from mousefacelift.recordings.rows import capture_from_json

    if row is not None:
        return capture_from_json(row, "--row")
    found, name = _table(table, name, config)
    return found[name]


def find_animals(rows: list[str] | None, table: Path | None, name: str | None, config: Path, animal: int | None) -> Any:
    """All captures of a recording: those that --row holds, or else the one of this name and its other animals in the table.

    animal: the setting `center.animal`. Raises UserError as `find_capture` does, and if rows are not of one recording.
    """
    from mousefacelift.recordings.animals import recordings_of
    from mousefacelift.recordings.rows import capture_from_json

    if rows:
        given = [capture_from_json(row, "--row") for row in rows]
        found = {capture.name: capture for capture in given}
        if len(found) < len(given) or len(recordings_of(found, animal)) > 1:
            raise UserError(f"--row: {', '.join(capture.name for capture in given)} are not animals of one recording")
        return given
    found, name = _table(table, name, config)
    return next([found[n] for n in group] for group in recordings_of(found, animal).values() if name in group)


def _table(table: Path | None, name: str | None, config: Path) -> tuple[dict[str, Any], str]:
    """The table's captures, and the name, which is among them."""
    from mousefacelift.config.reading import load_config
    from mousefacelift.recordings.captures import captures_table, read_captures

    if name is None:
        raise typer.BadParameter("name a capture of the table", param_hint="--capture")
    path = table or captures_table(load_config(config).captures)
    captures = read_captures(path)
    if name not in captures:
        raise UserError(f"{path}: no capture {name!r}; the table has {', '.join(captures)}")
    return captures, name


def limit_threads(threads: int) -> int:
    """Keep every library's thread pool to `threads`, or to the cores that this process may use, and return how many.

    Must run before NumPy and torch are imported.
    """
    threads = min(threads, len(os.sched_getaffinity(0)))
    _set_thread_counts(threads)
    return threads


def _set_thread_counts(threads: int) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Idle OpenMP threads sleep: by default they spin, and take the CPU from the rasteriser's own threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
