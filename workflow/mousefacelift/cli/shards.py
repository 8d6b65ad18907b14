"""Commands for shards: verify, export, import, show."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import (
    CONFIG,
    SplitChoice,
    ThreadsOption,
    limit_threads,
    section,
)

MAX_PROBLEMS = 50  # printed

app = typer.Typer()


@app.command()
def verify(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of the shards.")],
    output: Annotated[Path | None, typer.Option(help="JSON receipt to write if nothing is wrong.")] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Re-read all shards completely; name every damaged file and sample."""
    threads = limit_threads(threads)
    from mousefacelift.shards.verify.manifest import verify as stage
    from mousefacelift.shards.verify.manifest import write_receipt

    begin = time.monotonic()
    if output is not None:
        output.unlink(missing_ok=True)  # it stood for other bytes
    problems = stage(manifest, threads)
    for problem in problems[:MAX_PROBLEMS]:
        print(problem)
    if len(problems) > MAX_PROBLEMS:
        print(f"and {len(problems) - MAX_PROBLEMS} more")
    if problems:
        raise UserError(
            f"{manifest}: {len(problems)} problem{'s' * (len(problems) > 1)}; delete the files named above and rerun the "
            "workflow, which makes the missing ones again"
        )
    print(f"{manifest}: {write_receipt(manifest, output)}: no problem found in {time.monotonic() - begin:.1f} s")


@app.command("export")
def export_(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of the shards.")],
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="Layout to write, such as facelift or transforms; an unknown name is an error that lists all."
        ),
    ],
    split: Annotated[
        list[SplitChoice] | None, typer.Option(help="Splits to write; may be given several times; else all.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Write the shards' samples as folders in the layout of another program."""
    threads = limit_threads(threads)
    from mousefacelift.shards.exports.registry import find_export

    find_export(to).write(manifest, folder, [each.value for each in split or SplitChoice], threads)
    print(folder)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="Folder of FaceLift samples (opencv_cameras.json, images), with or without lists.")
    ],
    output: Annotated[Path, typer.Argument(help="New folder for {split}/{name}-{chunk}.tar, .h5 and manifest.json.")],
    fractions: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Shares of train, val and test, used without lists (data_train.txt, …); by default 0.8 0.1 0.1."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the shards; by default the folder's.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help=f"Configuration whose section shard names the codecs; by default {CONFIG}, if it exists."),
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Write folders of FaceLift samples as shards."""
    threads = limit_threads(threads)
    from mousefacelift.config.reading import validate
    from mousefacelift.config.sample import SplitFractions
    from mousefacelift.config.shard import Shard
    from mousefacelift.shards.imports.facelift import import_facelift

    config = config or (CONFIG if CONFIG.exists() else None)
    settings = section("shard", None, config) if config else Shard()
    parts = fractions and validate(
        SplitFractions, dict(zip(SplitFractions.model_fields, fractions, strict=True)), "--fractions"
    )
    import_facelift(folder, output, settings, parts, name, threads)
    print(output / "manifest.json")


@app.command()
def show(
    shard: Annotated[Path, typer.Argument(help="A shard, .tar or .h5, or a manifest.json.")],
    output: Annotated[Path, typer.Option(help="PNG file to draw samples in.")] = Path("contact-sheet.png"),
    samples: Annotated[int, typer.Option(min=1, max=100, help="How many samples to draw.")] = 8,
) -> None:
    """Print what a shard holds, and draw a contact sheet."""
    limit_threads(1)
    from mousefacelift.shards.show import show as look

    look(shard, output, samples)
