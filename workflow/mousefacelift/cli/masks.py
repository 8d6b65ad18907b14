"""Commands for masks that were made elsewhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import limit_threads

app = typer.Typer(no_args_is_help=True, help="Check masks that were made elsewhere, and make them the workflow's own.")


class MasksAre(StrEnum):
    """What masks hold, for typer to check."""

    auto = "auto"
    alpha = "alpha"
    inverted = "inverted"
    labels = "labels"


class MissingMasks(StrEnum):
    """What frames without a mask are, for typer to check."""

    error = "error"
    empty = "empty"


class Timing(StrEnum):
    """Which instant a frame shows, for typer to check."""

    by_rate = "rate"
    by_index = "index"
    by_timestamp = "timestamp"


# Keyword-only: an option without a default may follow one with a default, so that --help keeps a sensible order.
@app.command("import")
def masks_import(
    source: Annotated[
        str,
        typer.Argument(
            help="Mask files, one per camera, with {camera} for what differs; or one camera's. `masks forms` lists the forms."
        ),
    ],
    *,
    videos: Annotated[str, typer.Option(help="The videos, with {camera} as in SOURCE.")],
    output: Annotated[str, typer.Option(help="Files to write, .mkv, with {camera} as in SOURCE.")],
    masks_are: Annotated[MasksAre, typer.Option(help="What the masks hold, as center.masks_are.")] = MasksAre.auto,
    animal: Annotated[int | None, typer.Option(min=0, help="The mouse's number among several animals.")] = None,
    keep_labels: Annotated[
        bool, typer.Option("--keep-labels", help="Write all animals, each with its number, instead of one mouse.")
    ] = False,
    missing: Annotated[
        MissingMasks, typer.Option(help="What a frame without a mask is: an error, or empty: there is no mouse.")
    ] = MissingMasks.error,
    timing: Annotated[Timing, typer.Option(help="Which frame a mask is of, as center.timing.")] = Timing.by_rate,
    fps: Annotated[float | None, typer.Option(min=0.001, help="Frames per second, for videos that are images.")] = None,
) -> None:
    """Check masks of any form against their videos, and write them as lossless videos: all of them, or none."""
    limit_threads(1)
    from mousefacelift.base.progress import track
    from mousefacelift.config.center import Center
    from mousefacelift.recordings.captures import uncalibrated
    from mousefacelift.recordings.silhouettes.importing import import_masks, import_table

    capture = uncalibrated(videos, source, fps)
    if ("{camera}" in output) != ("{camera}" in source):
        raise UserError(f"--output {output}: give {{camera}} once, as in SOURCE, or for one camera in neither")
    outputs = tuple(Path(output.replace("{camera}", name)) for name in capture.cameras)
    settings = Center(masks_are=masks_are.value, animal=animal, timing=timing.value)
    done = track(len(outputs), "masks import")
    imported = import_masks(capture, outputs, settings, keep_labels, missing.value, done)
    _print(import_table(capture, imported))
    print(f"{len(outputs)} file{'s' if len(outputs) > 1 else ''} written, such as {outputs[0]}")


@app.command("forms")
def masks_forms() -> None:
    """List the forms of masks that can be read."""
    from rich.markup import escape
    from rich.table import Table

    from mousefacelift.recordings.masks.registry import FORMS

    table = Table("form", "what it is")
    for name, form in FORMS.items():
        table.add_row(name, escape(form.description))
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    # Wide enough for every number: a file or a narrow terminal must not cut a table.
    Console(width=max(Console().width, 110)).print(table)
