"""The command line: one command per stage, which a rule of the workflow calls and a person can run by hand."""

import json
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mousefacelift.errors import UserError

app = typer.Typer(
    name="mousefacelift", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="From multi-camera videos of a mouse to a fine-tuned, evaluated GS-LRM. `snakemake --cores 8` runs all of it.",
)  # fmt: skip

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
COMPARED = (
    "A calibration (file or folder), shards (manifest.json, .h5, .tar or a folder), FaceLift's opencv_cameras.json or a folder "
    "of samples with one each, or the word facelift: its training views."
)
CONFIG = Path("config/config.yaml")
MAX_PROBLEMS = 50  # printed


class Split(StrEnum):
    """Names of the splits, for typer to check."""

    train = "train"
    val = "val"
    test = "test"


class Layout(StrEnum):
    """Layouts of other programs that samples can be exported to."""

    facelift = "facelift"
    transforms = "transforms"


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


def main() -> None:
    """Run the command line: a user's mistake is one message and exit status 1, never a traceback."""
    try:
        app()
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        # A loader process hands its error on with its traceback around it.
        text = str(error).rpartition("mousefacelift.errors.UserError: ")[2].strip()
        if getattr(error, "shared", False) and os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
            # The first process says it, once it has saved; for another's bad status it would be killed before.
            sys.exit(0)
        print(f"mousefacelift: error: {text}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1))


def _section(stage: str, settings: str | None, config: Path) -> Any:
    """A stage's checked settings, from JSON or from the configuration file."""
    from mousefacelift.config import Config, load_config, validate

    if settings is None:
        return getattr(load_config(config), stage)
    values = _json(settings)
    model: Any = Config.model_fields[stage].annotation
    return validate(model, values, f"--settings, section {stage}")


def _json(settings: str) -> Any:
    try:
        return json.loads(settings)
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not valid JSON ({error})") from None


def _capture(table: Path | None, name: str, config: Path) -> Any:
    from mousefacelift.captures import captures_table, read_captures
    from mousefacelift.config import load_config

    path = table or captures_table(load_config(config).captures)
    captures = read_captures(path)
    if name not in captures:
        raise UserError(f"{path}: no capture {name!r}; the table has {', '.join(captures)}")
    return captures[name]


def _limit_threads(threads: int) -> int:
    """Keep every library's thread pool to `threads`; must run before NumPy and torch are imported."""
    threads = min(threads, len(os.sched_getaffinity(0)))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Idle OpenMP threads sleep: spinning, as is their custom, they take the CPU from the rasteriser's own threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return threads


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
    threads = _limit_threads(threads)
    from mousefacelift.center import center as stage

    values = _section("center", settings, config)
    stage(_capture(captures, capture, config), chunk, output, values, threads, background)


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
    threads = _limit_threads(threads)
    from mousefacelift.center import background as stage

    stage(_capture(captures, capture, config), output, _section("center", settings, config), threads)


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
    threads = _limit_threads(threads)
    from mousefacelift.center import preview as stage

    stage(_capture(captures, capture, config), output, _section("center", settings, config), threads, background)


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
    threads = _limit_threads(threads)
    from mousefacelift.cameras import cameras as stage

    stage(_capture(captures, capture, config), chunks, output, _section("cameras", settings, config), threads)


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
    _limit_threads(1)
    from mousefacelift.normalize import normalize as stage

    stage(rig, subject, cameras, world, _section("normalize", settings, config))


@app.command()
def sample(
    cameras: Annotated[Path, typer.Option(help="normalize's cameras.h5.")],
    subject: Annotated[Path, typer.Option(help="cameras' subject.h5.")],
    output: Annotated[Path, typer.Option(help="Folder for samples.tsv, rejected.tsv, summary.json and summary.png.")],
    split: Annotated[
        Split | None, typer.Option(help="The whole capture's split, for sample.split: capture or animal.")
    ] = None,
    settings: SettingsOption = None,
    config: ConfigOption = CONFIG,
) -> None:
    """Choose frames and views, split train/val/test; give a reason for every rejected frame."""
    _limit_threads(1)
    from mousefacelift.sample import sample as stage

    stage(cameras, subject, output, _section("sample", settings, config), split and split.value)


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
    threads = _limit_threads(threads)
    from mousefacelift.config import SPLITS
    from mousefacelift.shard import shard as stage

    name = f"{center.parent.name}-{center.stem}"
    outputs = {split: (output / split / f"{name}.tar", output / split / f"{name}.h5") for split in SPLITS}
    stage(samples, center, cameras, rig, chunk, outputs, _section("shard", settings, config), threads)


@app.command()
def manifest(
    shards: Annotated[list[Path], typer.Argument(help="All {split}/{capture}-{chunk}.h5 files.")],
    output: Annotated[Path, typer.Option(help="manifest.json to write.")],
    need: Annotated[list[Split], typer.Option(help="Splits that must have samples.")] = [Split.train],  # noqa: B006
    settings: Annotated[
        str | None, typer.Option(help="The sections of stages 1 to 5 as JSON, to be recorded; else none are.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """List every shard with its samples, bytes and checksum, and what all of it was made by."""
    threads = _limit_threads(threads)
    from mousefacelift.manifest import STAGES, write_manifest

    values = None if settings is None else _json(settings)
    if settings is not None and (not isinstance(values, dict) or set(values) != set(STAGES)):
        raise UserError(f"--settings: expected the sections {', '.join(STAGES)} in one JSON object")
    write_manifest(shards, output, tuple(need), values, threads)


@app.command()
def verify(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of the shards.")],
    output: Annotated[Path | None, typer.Option(help="JSON receipt to write if nothing is wrong.")] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Re-read all shards completely; name every damaged file and sample."""
    threads = _limit_threads(threads)
    from mousefacelift.verify import verify as stage
    from mousefacelift.verify import write_receipt

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
            "workflow, which makes those that are wanted again"
        )
    print(f"{manifest}: {write_receipt(manifest, output)}: no problem found in {time.monotonic() - begin:.1f} s")


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
    threads = _limit_threads(threads)
    values = _section("train", settings, config)
    from mousefacelift.train import train as stage

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
    threads = _limit_threads(threads)
    values = _section("evaluate", settings, config)
    from mousefacelift.evaluate import evaluate as stage

    stage(manifest, train, output, values, threads)


@app.command()
def poc(
    manifest: ManifestOption,
    train: Annotated[Path, typer.Option(help="Folder that `train` wrote.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics, table and picture grid.")],
    split: Annotated[Split | None, typer.Option(help="Split to compare on; else evaluate's, of --config.")] = None,
    config: ConfigOption = CONFIG,
    threads: ThreadsOption = 1,
) -> None:
    """Compare four camera conventions on the same images and the same weights."""
    threads = _limit_threads(threads)
    chosen: Any = split.value if split else _section("evaluate", None, config).split
    from mousefacelift.poc import poc as stage

    stage(manifest, train, output, chosen, threads)


@app.command()
def ablation(
    train: Annotated[Path, typer.Option(help="Folder that `train` wrote of the configured run.")],
    evaluate: Annotated[Path, typer.Option(help="Folder that `evaluate` wrote of it.")],
    variants: Annotated[Path, typer.Option(help="Folder of {variant}/train and {variant}/evaluate.")],
    output: Annotated[Path, typer.Option(help="Folder for table.md, metrics.json and curves.png.")],
) -> None:
    """Compare a training with others that differ from it in one setting each."""
    _limit_threads(1)
    from mousefacelift.ablation import ablation as stage

    stage(train, evaluate, variants, output)


@app.command("compare-cameras")
def compare_cameras(
    a: Annotated[str, typer.Argument(metavar="A", help=COMPARED)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one, of any kind too.")],
    output: Annotated[Path, typer.Option(help="Folder for comparison.md, .html and .json.")] = Path("compare-cameras"),
    origin: Annotated[
        Origin, typer.Option(help="Of a calibration: its world's origin, or target, where the optical axes meet.")
    ] = Origin.world,
    up_axis: Annotated[UpAxis, typer.Option(help="The axis of a calibration's world that points up.")] = UpAxis.plus_z,
    unit: UnitOption = "mm",
) -> None:
    """Put two data sets' cameras side by side: what matches, what differs, and what to do about it."""
    _limit_threads(1)
    from mousefacelift.camerasets import read_cameras
    from mousefacelift.compare import compare
    from mousefacelift.compareview import check_folder, print_comparison, write_comparison

    check_folder(output)
    sets = (read_cameras(source, origin.value, up_axis.value, unit) for source in (a, b))
    comparison = compare(*sets)
    print_comparison(comparison)
    for path in write_comparison(comparison, output):
        print(path)


@app.command("export")
def export_(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of the shards.")],
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    to: Annotated[Layout, typer.Option(help="FaceLift's sample folders and lists, or nerfstudio's transforms.json.")],
    split: Annotated[list[Split], typer.Option(help="Splits to write; may be given several times.")] = list(Split),  # noqa: B006
    threads: ThreadsOption = 1,
) -> None:
    """Write the shards' samples as folders for FaceLift's own trainer, or for nerfstudio."""
    threads = _limit_threads(threads)
    from mousefacelift.exports import export_facelift, export_transforms

    write = export_facelift if to is Layout.facelift else export_transforms
    write(manifest, folder, [each.value for each in split], threads)
    print(folder)


@app.command("import")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="Folder of FaceLift samples (opencv_cameras.json, images), with lists or not.")
    ],
    output: Annotated[Path, typer.Argument(help="New folder for {split}/{name}-{chunk}.tar, .h5 and manifest.json.")],
    fractions: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of train, val and test, where no lists (data_train.txt, …) tell; 0.8 0.1 0.1 if not given."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the shards; else the folder's.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help=f"Configuration whose section shard names the codecs; else {CONFIG}, if it is there."),
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Write folders of FaceLift samples as shards."""
    threads = _limit_threads(threads)
    from mousefacelift.config import Shard, Split, validate
    from mousefacelift.exports import import_facelift

    config = config or (CONFIG if CONFIG.exists() else None)
    settings = _section("shard", None, config) if config else Shard()
    parts = fractions and validate(Split, dict(zip(Split.model_fields, fractions, strict=True)), "--fractions")
    import_facelift(folder, output, settings, parts, name, threads)
    print(output / "manifest.json")


@app.command()
def show(
    shard: Annotated[Path, typer.Argument(help="A shard, .tar or .h5, or a manifest.json.")],
    output: Annotated[Path, typer.Option(help="PNG file to draw samples in.")] = Path("contact-sheet.png"),
    samples: Annotated[int, typer.Option(min=1, max=100, help="How many samples to draw.")] = 8,
) -> None:
    """Print what a shard holds, and draw a contact sheet of it."""
    _limit_threads(1)
    from mousefacelift.show import show as look

    look(shard, output, samples)


rig_app = typer.Typer(no_args_is_help=True, help="Look at a calibration, or convert it.")
app.add_typer(rig_app, name="rig")

RigOption = Annotated[str, typer.Option("--format", help="The file's format; auto recognises its content.")]
OriginOption = Annotated[
    str | None,
    typer.Option(help="transforms.json alone: the first pixel's centre is (0.5, 0.5) (corner) or (0, 0) (center)."),
]


def _rig(source: list[Path], format: str, unit: str, pixel_origin: str | None) -> Any:
    from mousefacelift.rigs import read_rig

    options = {"pixel_origin": pixel_origin} if pixel_origin else {}
    files: Any = source[0] if len(source) == 1 else {path.stem.removesuffix("_params"): path for path in source}
    return read_rig(files, format, unit, **options)


@rig_app.command("show")
def rig_show(
    source: Annotated[list[Path], typer.Argument(help="A calibration file or folder, or one file per camera.")],
    format: RigOption = "auto",
    unit: UnitOption = "mm",
    pixel_origin: OriginOption = None,
    page: Annotated[Path, typer.Option(help="HTML file to draw the rig in, for a browser.")] = Path("rig.html"),
) -> None:
    """Print a rig as a table and draw it as an interactive 3D page."""
    from rich.console import Console

    from mousefacelift.rigview import rig_tables, write_page

    rig = _rig(source, format, unit, pixel_origin)
    title = f"{source[0]}{f' and {len(source) - 1} more' if len(source) > 1 else ''}: {len(rig)} cameras"
    # Wide enough for every number: in a file or a narrow terminal a table must not be cut.
    console = Console(width=max(Console().width, 110))
    for table in rig_tables(rig, title):
        console.print(table)
    write_page(rig, page, title)
    print(f"3D page: {page}")


@rig_app.command("convert")
def rig_convert(
    source: Annotated[Path, typer.Argument(help="A calibration file or folder.")],
    target: Annotated[Path, typer.Argument(help="File to write; for colmap a folder.")],
    to: Annotated[str, typer.Option(help="Format to write.")],
    format: RigOption = "auto",
    unit: UnitOption = "mm",
    pixel_origin: OriginOption = None,
    size: Annotated[
        str | None, typer.Option(help="Width x height in px, 1152x1024, of cameras whose size the file does not state.")
    ] = None,
) -> None:
    """Write a rig in another format, in millimetres. What the format cannot hold is refused, not dropped."""
    import re
    from dataclasses import replace

    from mousefacelift.rigs import write_rig

    rig = _rig([source], format, unit, pixel_origin)
    if size is not None:
        if not re.fullmatch(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", size):
            raise UserError(f"--size: {size!r} is not width x height in px, such as 1152x1024")
        width, height = map(int, size.split("x"))
        rig = tuple(camera if camera.width else replace(camera, width=width, height=height) for camera in rig)
    write_rig(rig, target, to)
    print(f"{target}: {len(rig)} cameras as {to}")


@rig_app.command("formats")
def rig_formats() -> None:
    """List the formats that can be read and written."""
    from rich.console import Console
    from rich.table import Table

    from mousefacelift.rigs import FORMATS

    table = Table("format", "recognised by", "written")
    for name, each in FORMATS.items():
        table.add_row(name, each.description, "yes" if each.write else "")
    Console().print(table)


weights_app = typer.Typer(no_args_is_help=True, help="Look at a file of weights, or convert it.")
app.add_typer(weights_app, name="weights")


@weights_app.command("inspect")
def weights_inspect(
    file: Annotated[Path, typer.Argument(help="model.safetensors, or FaceLift's .pt or .ckpt.")],
) -> None:
    """Print which model a file holds, which preset it fits and its values' range, or why it cannot be used."""
    _limit_threads(1)
    from mousefacelift.weights import inspect_weights, print_report

    report = inspect_weights(file)
    print_report(report)
    if report.problems:
        raise UserError(f"{file}: cannot be used:\n  " + "\n  ".join(report.problems))


@weights_app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="FaceLift's .pt or .ckpt.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New .safetensors to write.")],
) -> None:
    """Write a file's model as .safetensors with its config, in float32 and without what only FaceLift's trainer needs."""
    _limit_threads(1)
    from mousefacelift.weights import convert_weights

    model = convert_weights(source, target)
    print(f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters")


@app.command()
def schema() -> None:
    """Print the configuration's JSON schema (config/schema.json)."""
    from mousefacelift.config import json_schema

    sys.stdout.write(json_schema())
