"""Commands for calibrations: show and convert them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import UnitOption

app = typer.Typer(no_args_is_help=True, help="Look at a calibration, or convert it.")
RigOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="The file's format, as `mousefacelift rig formats` lists them; auto recognises it by its content.",
    ),
]
OriginOption = Annotated[
    str | None,
    typer.Option(
        help="For transforms.json only: whether the first pixel's centre is (0.5, 0.5) (corner) or (0, 0) (center)."
    ),
]


def _rig(source: list[Path], format: str, unit: str, pixel_origin: str | None) -> Any:
    from mousefacelift.rigs.registry import read_rig

    options = {"pixel_origin": pixel_origin} if pixel_origin else {}
    files: Any = source[0] if len(source) == 1 else {path.stem.removesuffix("_params"): path for path in source}
    return read_rig(files, format, unit, **options)


@app.command("show")
def rig_show(
    source: Annotated[list[Path], typer.Argument(help="A calibration file or folder, or one file per camera.")],
    format: RigOption = "auto",
    unit: UnitOption = "mm",
    pixel_origin: OriginOption = None,
    page: Annotated[Path, typer.Option(help="HTML file to write, a page that shows the rig in 3D.")] = Path("rig.html"),
) -> None:
    """Print a rig as a table and draw it as an interactive 3D page."""
    from rich.console import Console

    from mousefacelift.rigs.view import rig_tables, write_page

    rig = _rig(source, format, unit, pixel_origin)
    title = f"{source[0]}{f' and {len(source) - 1} more' if len(source) > 1 else ''}: {len(rig)} cameras"
    # Wide enough for every number: a file or a narrow terminal must not cut a table.
    console = Console(width=max(Console().width, 110))
    for table in rig_tables(rig, title):
        console.print(table)
    write_page(rig, page, title)
    print(f"3D page: {page}")


@app.command("convert")
def rig_convert(
    source: Annotated[Path, typer.Argument(help="A calibration file or folder.")],
    target: Annotated[Path, typer.Argument(help="File to write; for colmap a folder.")],
    to: Annotated[str, typer.Option(help="Format to write, as `mousefacelift rig formats` lists them.")],
    format: RigOption = "auto",
    unit: UnitOption = "mm",
    pixel_origin: OriginOption = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height in px, for example 1152x1024, of cameras whose size the file does not state."
        ),
    ] = None,
) -> None:
    """Write a rig in another format, in millimetres. If the format cannot hold a part of the rig, nothing is written."""
    import re
    from dataclasses import replace

    from mousefacelift.rigs.registry import write_rig

    rig = _rig([source], format, unit, pixel_origin)
    if size is not None:
        if not re.fullmatch(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", size):
            raise UserError(f"--size: {size!r} is not width x height in px, such as 1152x1024")
        width, height = map(int, size.split("x"))
        rig = tuple(camera if camera.width else replace(camera, width=width, height=height) for camera in rig)
    write_rig(rig, target, to)
    print(f"{target}: {len(rig)} cameras as {to}")


@app.command("formats")
def rig_formats() -> None:
    """List the formats that can be read and written."""
    from rich.console import Console
    from rich.table import Table

    from mousefacelift.rigs.registry import FORMATS

    table = Table("format", "recognised by", "written")
    for name, each in FORMATS.items():
        table.add_row(name, each.description, "yes" if each.write else "")
    Console().print(table)
