"""Commands of the experiments, which run only when asked for by name."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import (
    CONFIG,
    ConfigOption,
    ManifestOption,
    SplitChoice,
    ThreadsOption,
    TrainedOption,
    checked,
    limit_threads,
    parse_sections,
    section,
)

app = typer.Typer()


@app.command()
def poc(
    manifest: ManifestOption,
    train: TrainedOption,
    output: Annotated[Path, typer.Option(help="Folder for metrics, table and picture grid.")],
    split: Annotated[
        SplitChoice | None, typer.Option(help="Split to compare on; by default evaluate.split of --config.")
    ] = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Compare four camera conventions on the same images and the same weights."""
    threads = limit_threads(threads)
    chosen: Any = split.value if split else section("evaluate", None, config).split
    from mousefacelift.stages.poc import poc as stage

    stage(manifest, train, output, chosen, threads)


@app.command()
def framings(
    results: Annotated[Path, typer.Option(help="Folder of the workflow's results: center, cameras, sample.")],
    capture: Annotated[list[str], typer.Option(help="A capture's name; give the option once for each.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics, table and picture grid.")],
    recording: Annotated[
        list[str] | None,
        typer.Option(help="For several animals: each capture's folder of `center`, in the order of --capture."),
    ] = None,
    split: Annotated[
        SplitChoice | None, typer.Option(help="Split to compare on; by default evaluate.split of --config.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Folder that `train` wrote; by default train.init of --config, not yet trained.")
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(help="Sections normalize and shard of the configuration as JSON; by default --config is read."),
    ] = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Compare ways to frame the mouse (exact, fit, canonical, fit_body) on the same moments and the same weights."""
    threads = limit_threads(threads)
    names = ("normalize", "shard")
    if settings is None:
        parts = [section(name, None, config) for name in names]
    else:
        given = parse_sections(names, settings)
        parts = [checked(name, given[name]) for name in names]
    chosen: Any = split.value if split else section("evaluate", None, config).split
    from mousefacelift.stages.framings import framings as stage

    weights = train or section("train", None, config)
    if recording and len(recording) != len(capture):
        raise UserError(f"--recording: {len(recording)} names for {len(capture)} captures: give one for each")
    recordings = dict(zip(capture, recording or capture, strict=True))
    stage(results, capture, (parts[0], parts[1]), weights, output, chosen, threads, recordings)


@app.command()
def ablation(
    train: Annotated[Path, typer.Option(help="Folder that `train` wrote for the configured run.")],
    evaluate: Annotated[Path, typer.Option(help="Folder that `evaluate` wrote for it.")],
    variants: Annotated[Path, typer.Option(help="Folder with {variant}/train and {variant}/evaluate.")],
    output: Annotated[Path, typer.Option(help="Folder for table.md, metrics.json and curves.png.")],
) -> None:
    """Compare a training run with others that differ from it in one setting each."""
    limit_threads(1)
    from mousefacelift.stages.ablation import ablation as stage

    stage(train, evaluate, variants, output)
