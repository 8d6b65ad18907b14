"""Commands of the stages: a rule of the workflow calls them, and a person can run them by hand."""

from pathlib import Path
from typing import Annotated

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import (
    CONFIG,
    BackgroundOption,
    CaptureOption,
    ChunkOption,
    ConfigOption,
    ManifestOption,
    PosesOption,
    RigFileOption,
    RowOption,
    SettingsOption,
    SplitChoice,
    SubjectOption,
    TableOption,
    ThreadsOption,
    TrainedOption,
    checked,
    find_capture,
    limit_threads,
    parse_sections,
    section,
)

app = typer.Typer()


# Keyword-only: an option without a default may follow one with a default, so that --help keeps a sensible order.
@app.command()
def center(
    *,
    capture: CaptureOption = None,
    chunk: ChunkOption,
    output: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    background: BackgroundOption = None,
    captures: TableOption = None,
    row: RowOption = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Decode a chunk of a capture; write silhouettes, measures and crops."""
    threads = limit_threads(threads)
    from mousefacelift.stages.center import center as stage

    values = section("center", settings, config)
    stage(find_capture(row, captures, capture, config), chunk, output, values, threads, background)


@app.command()
def background(
    *,
    capture: CaptureOption = None,
    output: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    captures: TableOption = None,
    row: RowOption = None,
    other_row: Annotated[
        str | None, typer.Option("--other-row", help="The capture of center.background.capture as JSON, like --row.")
    ] = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Estimate the empty arena of every camera, for center.masks: background."""
    threads = limit_threads(threads)
    from mousefacelift.stages.background import background as stage

    values = section("center", settings, config)
    name = values.background.capture
    other = find_capture(other_row, captures, name, config) if name else None
    stage(find_capture(row, captures, capture, config), output, values, threads, other)


@app.command()
def preview(
    *,
    capture: CaptureOption = None,
    output: Annotated[Path, typer.Option(help="PNG file to write.")],
    background: BackgroundOption = None,
    captures: TableOption = None,
    row: RowOption = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Draw a capture's silhouettes at a few moments: look at them before you run anything else."""
    threads = limit_threads(threads)
    from mousefacelift.stages.preview import preview as stage

    values = section("center", settings, config)
    stage(find_capture(row, captures, capture, config), output, values, threads, background)


@app.command()
def cameras(
    *,
    chunks: Annotated[list[Path], typer.Argument(help="The capture's center/*.h5 files, in order.")],
    capture: CaptureOption = None,
    output: Annotated[Path, typer.Option(help="Folder for rig.json, subject.h5, qc.json and qc.png.")],
    captures: TableOption = None,
    row: RowOption = None,
    timing: Annotated[
        str, typer.Option(help="center.timing, to find the frames that are drawn in the videos.")
    ] = "rate",
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Read the calibration; find the mouse in each frame; check that the cameras agree in place and in time."""
    threads = limit_threads(threads)
    from mousefacelift.stages.cameras import cameras as stage

    values = section("cameras", settings, config)
    stage(
        find_capture(row, captures, capture, config),
        chunks,
        output,
        values,
        threads,
        checked("center", {"timing": timing}).timing,
    )


@app.command()
def normalize(
    rig: RigFileOption,
    subject: SubjectOption,
    cameras: Annotated[Path, typer.Option(help="cameras.h5 to write.")],
    world: Annotated[Path, typer.Option(help="world.json to write.")],
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Rotate the world to Z-up, scale it, and point level virtual cameras at the mouse."""
    limit_threads(1)
    from mousefacelift.stages.normalize import normalize as stage

    stage(rig, subject, cameras, world, section("normalize", settings, config))


@app.command()
def sample(
    cameras: PosesOption,
    subject: SubjectOption,
    output: Annotated[Path, typer.Option(help="Folder for samples.tsv, rejected.tsv, summary.json and summary.png.")],
    split: Annotated[
        SplitChoice | None, typer.Option(help="Split of the whole capture, for sample.split: capture or animal.")
    ] = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Choose frames and views; split them into train, val and test; give a reason for every rejected frame."""
    limit_threads(1)
    from mousefacelift.stages.sample import sample as stage

    stage(cameras, subject, output, section("sample", settings, config), split and split.value)


@app.command()
def shard(
    samples: Annotated[Path, typer.Option(help="samples.tsv of the capture.")],
    center: Annotated[Path, typer.Option(help="File that `center` wrote for the chunk.")],
    cameras: PosesOption,
    rig: RigFileOption,
    chunk: ChunkOption,
    output: Annotated[Path, typer.Option(help="Folder for {split}/{capture}-{chunk}.tar and .h5.")],
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Render a chunk's views; write WebDataset tars and HDF5 files."""
    threads = limit_threads(threads)
    from mousefacelift.config.sample import SPLITS
    from mousefacelift.stages.shard import shard as stage

    name = f"{center.parent.name}-{center.stem}"
    outputs = {split: (output / split / f"{name}.tar", output / split / f"{name}.h5") for split in SPLITS}
    stage(samples, center, cameras, rig, chunk, outputs, section("shard", settings, config), threads)


@app.command()
def manifest(
    shards: Annotated[list[Path], typer.Argument(help="All {split}/{capture}-{chunk}.h5 files.")],
    output: Annotated[Path, typer.Option(help="manifest.json to write.")],
    need: Annotated[list[SplitChoice], typer.Option(help="Splits that must have samples.")] = [SplitChoice.train],  # noqa: B006
    settings: Annotated[
        str | None, typer.Option(help="The sections of stages 1 to 5 as JSON, to be recorded; by default none are.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """List every shard with its samples, bytes and checksum, and the settings and code that made them."""
    threads = limit_threads(threads)
    from mousefacelift.shards.manifest import STAGES, write_manifest

    values = None if settings is None else parse_sections(STAGES, settings)
    write_manifest(shards, output, tuple(need), values, threads)


@app.command()
def train(
    manifest: ManifestOption,
    output: Annotated[
        Path | None, typer.Option(help="Folder for model.safetensors, metrics.csv, curves.png, config.yaml.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints; a killed run resumes from here.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only print the checks that come before the first step.")
    ] = False,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Fine-tune GS-LRM on the shards."""
    threads = limit_threads(threads)
    values = section("train", settings, config)
    from mousefacelift.stages.train import train as stage

    if not check and not (output and checkpoints):
        raise UserError("--output and --checkpoints: name the folders to write to (only --check does without)")
    stage(manifest, output or Path(), checkpoints or Path(), values, threads, check)


@app.command()
def evaluate(
    manifest: ManifestOption,
    train: TrainedOption,
    output: Annotated[Path, typer.Option(help="Folder for metrics, pictures, turntable and splats.")],
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Measure the model and the baselines on views never given as input; draw pictures of them."""
    threads = limit_threads(threads)
    values = section("evaluate", settings, config)
    from mousefacelift.stages.evaluate import evaluate as stage

    stage(manifest, train, output, values, threads)
