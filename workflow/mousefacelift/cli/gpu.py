"""Commands for machines with a GPU."""

from typing import Annotated

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import limit_threads

app = typer.Typer(no_args_is_help=True, help="See whether a GPU can be used, and compile what drawing on it needs.")

Threads = Annotated[int, typer.Option(min=1, help="Compilers that run at once, as far as memory allows.")]


@app.command("check")
def gpu_check(threads: Threads = 4) -> None:
    """Print what drawing on a GPU needs and where it was found; exit status 1 if something is missing."""
    limit_threads(1)
    from mousefacelift.gpu.checks import report, thorough

    report(thorough(threads))


@app.command("build")
def gpu_build(
    arch: Annotated[
        str | None,
        typer.Option(
            help="Compute capabilities to compile for, as 8.6,9.0: for a container, or a machine without a GPU. By "
            "default those of the GPUs here."
        ),
    ] = None,
    threads: Threads = 4,
) -> None:
    """Compile gsplat's CUDA extension now; otherwise the first job that draws on a GPU does it. Once, for all processes."""
    limit_threads(1)
    from mousefacelift.gpu import checks, driver, extension

    if wrong := checks.missing(checks.rapid()):
        raise UserError(wrong)
    if found := extension.shipped():
        print(f"{found}: gsplat came compiled")
        return
    archs = [extension.parse_arch(each) for each in arch.split(",")] if arch else extension.device_archs()
    if not archs:
        why = driver.unseen()
        raise UserError(
            f"{why or 'there is no GPU here to compile for'}. For others: mousefacelift gpu build --arch 8.6,9.0"
        )
    library = extension.built(archs) or extension.build(sorted(set(archs)), threads)
    extension.load(library)
    print(library)
