"""Options that several commands share, and what they stand for."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mousefacelift.base.errors import UserError

SettingsOption = Annotated[
    str | None,
    typer.Option("--settings", help="The stage's configuration section as JSON; else it is read from --config."),
]
ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration file.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="CPU threads to use.")]
TableOption = Annotated[Path | None, typer.Option("--captures", help="Captures table; else the configuration's.")]
CaptureOption = Annotated[str, typer.Option("--capture", help="Capture's name in the table.")]
BackgroundOption = Annotated[
    Path | None, typer.Option("--background", help="What `background` wrote, for center.masks: background.")
]
ManifestOption = Annotated[str, typer.Option(help="manifest.json of the shards, a path or an http(s) URL.")]
UnitOption = Annotated[str, typer.Option("--unit", help="Unit of the file's lengths: mm, cm, m.")]
CONFIG = Path("config/config.yaml")


class SplitChoice(StrEnum):
    """Names of the splits, for typer to check."""

    train = "train"
    val = "val"
    test = "test"


def section(stage: str, settings: str | None, config: Path) -> Any:
    """A stage's checked settings, from JSON or from the configuration file."""
    from mousefacelift.config.config import Config
    from mousefacelift.config.reading import load_config, validate

    if settings is None:
        return getattr(load_config(config), stage)
    values = json_settings(settings)
    model: Any = Config.model_fields[stage].annotation
    return validate(model, values, f"--settings, section {stage}")


def json_settings(settings: str) -> Any:
    """The value of --settings. Raises UserError if it is not JSON."""
    try:
        return json.loads(settings)
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not valid JSON ({error})") from None


def find_capture(table: Path | None, name: str, config: Path) -> Any:
    """A capture's row of the table, or of the configuration's. Raises UserError naming the captures that are there."""
    from mousefacelift.config.reading import load_config
    from mousefacelift.recordings.captures import captures_table, read_captures

    path = table or captures_table(load_config(config).captures)
    captures = read_captures(path)
    if name not in captures:
        raise UserError(f"{path}: no capture {name!r}; the table has {', '.join(captures)}")
    return captures[name]


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
