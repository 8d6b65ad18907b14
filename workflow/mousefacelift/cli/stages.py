"""Commands of the stages: a rule of the workflow calls them, and a person can run them by hand."""

from pathlib import Path
from typing import Annotated

import typer

from mousefacelift.base.errors import UserError
from mousefacelift.cli.options import (
    CONFIG,
    BackgroundOption,
    CaptureOption,
    ConfigOption,
    ManifestOption,
    SettingsOption,
    SplitChoice,
    TableOption,
    ThreadsOption,
    find_capture,
    json_settings,
    limit_threads,
    section,
)

app = typer.Typer()


@app.command()
def center(
    capture: CaptureOption,
    chunk: Annotated[int, typer.Option(min=0, help="Which chunk of the capture.")],
    output: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    background: BackgroundOption = None,
    captures: TableOption = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Decode a chunk of a capture; write silhouettes, measures and crops."""
    threads = limit_threads(threads)
    from mousefacelift.stages.center import center as stage

    values = section("center", settings, config)
    stage(find_capture(captures, capture, config), chunk, output, values, threads, background)


@app.command()
def background(
    capture: CaptureOption,
    output: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    captures: TableOption = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Find the empty arena of every camera, for center.masks: background."""
    threads = limit_threads(threads)
    from mousefacelift.stages.center import background as stage

    stage(find_capture(captures, capture, config), output, section("center", settings, config), threads)


@app.command()
def preview(
    capture: CaptureOption,
    output: Annotated[Path, typer.Option(help="PNG file to write.")],
    background: BackgroundOption = None,
    captures: TableOption = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Draw a capture's silhouettes at a few moments, to be looked at before anything else is run."""
    threads = limit_threads(threads)
    from mousefacelift.stages.center import preview as stage

    stage(find_capture(captures, capture, config), output, section("center", settings, config), threads, background)


@app.command()
def cameras(
    chunks: Annotated[list[Path], typer.Argument(help="The capture's center/*.h5 files, in order.")],
    capture: CaptureOption,
    output: Annotated[Path, typer.Option(help="Folder for rig.json, subject.h5, qc.json and qc.png.")],
    captures: TableOption = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Read the calibration; find the mouse in each frame; check that the cameras agree, in place and in time."""
    threads = limit_threads(threads)
    from mousefacelift.stages.cameras import cameras as stage

    stage(find_capture(captures, capture, config), chunks, output, section("cameras", settings, config), threads)


@app.command()
def normalize(
    rig: Annotated[Path, typer.Option(help="rig.json of the capture.")],
    subject: Annotated[Path, typer.Option(help="subject.h5 of the capture.")],
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
    cameras: Annotated[Path, typer.Option(help="normalize's cameras.h5.")],
    subject: Annotated[Path, typer.Option(help="cameras' subject.h5.")],
    output: Annotated[Path, typer.Option(help="Folder for samples.tsv, rejected.tsv, summary.json and summary.png.")],
    split: Annotated[
        SplitChoice | None, typer.Option(help="The whole capture's split, for sample.split: capture or animal.")
    ] = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Choose frames and views, split train/val/test; give a reason for every rejected frame."""
    limit_threads(1)
    from mousefacelift.stages.sample import sample as stage

    stage(cameras, subject, output, section("sample", settings, config), split and split.value)


@app.command()
def shard(
    samples: Annotated[Path, typer.Option(help="samples.tsv of the capture.")],
    center: Annotated[Path, typer.Option(help="The chunk's center file.")],
    cameras: Annotated[Path, typer.Option(help="normalize's cameras.h5.")],
    rig: Annotated[Path, typer.Option(help="rig.json of the capture.")],
    chunk: Annotated[int, typer.Option(min=0, help="Which chunk of the capture.")],
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
        str | None, typer.Option(help="The sections of stages 1 to 5 as JSON, to be recorded; else none are.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """List every shard with its samples, bytes and checksum, and what all of it was made by."""
    threads = limit_threads(threads)
    from mousefacelift.shards.manifest import STAGES, write_manifest

    values = None if settings is None else json_settings(settings)
    if settings is not None and (not isinstance(values, dict) or set(values) != set(STAGES)):
        raise UserError(f"--settings: expected the sections {', '.join(STAGES)} in one JSON object")
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
    train: Annotated[Path, typer.Option(help="Folder that `train` wrote.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics, pictures, turntable and splats.")],
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Measure the model on views never given as input, beside three baselines; draw them."""
    threads = limit_threads(threads)
    values = section("evaluate", settings, config)
    from mousefacelift.stages.evaluate import evaluate as stage

    stage(manifest, train, output, values, threads)
