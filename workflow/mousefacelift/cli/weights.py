"""Commands for files of weights."""

from pathlib import Path
from typing import Annotated

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import limit_threads

app = typer.Typer(no_args_is_help=True, help="Look at a file of weights, or convert it.")


@app.command("inspect")
def weights_inspect(
    file: Annotated[Path, typer.Argument(help="model.safetensors, or FaceLift's .pt or .ckpt.")],
) -> None:
    """Print which model a file holds, which preset it fits and the range of its values, or why it cannot be used."""
    limit_threads(1)
    from mousefacelift.models.weights.report import inspect_weights, print_report

    report = inspect_weights(file)
    print_report(report)
    if report.problems:
        raise UserError(f"{file}: cannot be used:\n  " + "\n  ".join(report.problems))


@app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="FaceLift's .pt or .ckpt.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New .safetensors to write.")],
) -> None:
    """Write a file's model as .safetensors with its config, in float32 and without what only FaceLift's trainer needs."""
    limit_threads(1)
    from mousefacelift.models.weights.files import convert_weights

    model = convert_weights(source, target)
    print(f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters")
