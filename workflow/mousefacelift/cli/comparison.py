"""The command that compares two data sets' cameras."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mousefacelift.cli.options import UnitOption, limit_threads

app = typer.Typer()

COMPARED = (
    "A calibration (file or folder), shards (manifest.json, .h5, .tar or a folder), FaceLift's opencv_cameras.json, a folder "
    "of samples that hold one each, or the word facelift for FaceLift's training views."
)


class Origin(StrEnum):
    """What a calibrated rig is scaled about."""

    world = "world"
    target = "target"


class UpAxis(StrEnum):
    """Axes of a calibration's world."""

    plus_x = "+x"
    minus_x = "-x"
    plus_y = "+y"
    minus_y = "-y"
    plus_z = "+z"
    minus_z = "-z"


@app.command("compare-cameras")
def compare_cameras(
    a: Annotated[str, typer.Argument(metavar="A", help=COMPARED)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other data set, of any of these kinds.")],
    output: Annotated[Path, typer.Option(help="Folder for comparison.md, .html and .json.")] = Path("compare-cameras"),
    origin: Annotated[
        Origin,
        typer.Option(
            help="Point that a calibration is scaled about: its world's origin, or target, where the optical axes meet."
        ),
    ] = Origin.world,
    up_axis: Annotated[UpAxis, typer.Option(help="Axis of a calibration's world that points up.")] = UpAxis.plus_z,
    unit: UnitOption = "mm",
) -> None:
    """Put two data sets' cameras side by side: what matches, what differs, and what to do about it."""
    limit_threads(1)
    from mousefacelift.comparison.measure import compare
    from mousefacelift.comparison.page import check_folder, print_comparison, write_comparison
    from mousefacelift.comparison.sets import read_cameras

    check_folder(output)
    sets = (read_cameras(source, origin.value, up_axis.value, unit) for source in (a, b))
    comparison = compare(*sets)
    print_comparison(comparison)
    for path in write_comparison(comparison, output):
        print(path)
