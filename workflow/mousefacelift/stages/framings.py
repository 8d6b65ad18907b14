"""Which framing suits the weights? The same moments, framed anew from what the earlier stages know, by the same weights."""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from mousefacelift.artifacts.poses import Poses
from mousefacelift.artifacts.samples import SampleRow, Samples
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, read_json, save_figure, write_json
from mousefacelift.base.progress import track
from mousefacelift.base.tables import markdown_table
from mousefacelift.config.normalize import Normalize
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Train
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.framings import FRAMINGS, framed, verdict
from mousefacelift.evaluation.methods import MODEL, predict_baselines
from mousefacelift.evaluation.metrics.registry import MOUSE_ALONE, metric, score
from mousefacelift.evaluation.predict import Sample, Trained, open_trained, predict_views
from mousefacelift.evaluation.record import described, provenance, write_rows
from mousefacelift.evaluation.scores import Scores, estimates, mean_scores, paired_difference, stacked
from mousefacelift.evaluation.tables import (
    STANDARD_ERROR,
    difference_record,
    difference_text,
    estimate_text,
    few_samples_note,
    warn_of_few_samples,
)
from mousefacelift.models.weights.files import load_weights, save_weights
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.stages.normalize import normalize
from mousefacelift.stages.shard import shard
from mousefacelift.training.data import SplitName
from mousefacelift.training.exhausted import evaluation_memory
from mousefacelift.training.machine import choose_accelerator, without_auto

HULL = "visual_hull"
NOTE = (
    "The framings show the same moments at different scales, so only the mouse is compared: pixels inside the silhouette and the "
    "mask. PSNR and SSIM over a whole picture would reward a small mouse, as most of its picture is white. A larger mouse also "
    "shows more detail, which must be right: so the last word has the difference to the visual hull of the same pictures. Weights that "
    "were trained in one framing are favoured by it: for a choice before fine-tuning, compare the weights that you start from"
)


@dataclass(frozen=True)
class Framed:
    """The captures' samples in one framing.

    settings: of `normalize`. share, fits: [N, V] of the samples' views, the mouse's share of the picture, and whether the view
    holds what it must (`Poses.fits`). error_px: [N] median disagreement of images and cameras. world: world.json of each capture.
    """

    settings: Normalize
    share: np.ndarray
    fits: np.ndarray
    error_px: np.ndarray
    world: list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """What the weights make of a framing. methods: model or visual hull -> metric -> [N, V]. picture: of one sample."""

    framed: Framed
    methods: Scores
    picture: tuple[Tensor, Tensor]  # the images, and what the model predicts, [V, 3, S, S]


@evaluation_memory()
def framings(
    results: Path, captures: list[str], settings: tuple[Normalize, Shard], weights: Path | Train, out_dir: Path, split: SplitName,
    threads: int, recordings: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Frame a split's samples in every way of FRAMINGS, and predict every view from the others with the same weights.

    Writes metrics.json, metrics.tsv (a row per sample, view, framing and method), table.md with a sentence on what the numbers
    say, and grid.png.

    Args:
        results: folder of the workflow's results, of which center, cameras and sample are read.
        captures: their names.
        settings: sections `normalize` and `shard`.
        weights: folder of `train`, with model.safetensors and config.yaml; or settings whose `init` is taken as it is.
        out_dir: folder of the results.
        split: whose samples are framed, those that `sample` chose in the configured framing.
        threads: of this process.
        recordings: the recording that a capture is an animal of, whose name the folder of `center` bears; by default the
            capture itself.

    Raises:
        UserError: for missing or damaged inputs, an empty split, and if no framing can be made.
    """
    rows = {name: _rows(results, name, split) for name in captures}
    if not any(rows.values()):
        raise UserError(f"{results / 'sample'}: no {split} samples; see why `sample` rejected them (rejected.tsv)")
    found: dict[str, Result] = {}
    failed: dict[str, str] = {}
    extent: float | None = None
    trained: Trained | None = None  # of the last framing: one model in memory is enough
    with tempfile.TemporaryDirectory() as folder:
        views = next(len(chosen[0].views) for chosen in rows.values() if chosen)
        train_dir = weights if isinstance(weights, Path) else _untrained(weights, views, Path(folder, "weights"))
        for name in FRAMINGS:
            try:
                settings_of_name = framed(settings[0], name, extent), settings[1]
                made = _framed(results, rows, settings_of_name, Path(folder, name), threads, recordings or {})
            except UserError as error:
                failed[name] = str(error)
                print(f"framing {name} is left out: {error}", file=sys.stderr, flush=True)
                continue
            extents = [world["subject"]["filling_canonical_extent"] for world in made.world]
            extent = extent or min((each for each in extents if each), default=None)
            trained = open_trained(Path(folder, name, "shard", "manifest.json"), train_dir, split, threads)
            found[name] = _scored(name, made, trained)
            shutil.rmtree(Path(folder, name))  # images of a large split would fill the disk
    if trained is None:
        raise UserError(f"no framing can be made: {'; '.join(dict.fromkeys(failed.values()))}")
    _write(out_dir, found, failed, trained)


def _untrained(settings: Train, views: int, folder: Path) -> Path:
    """The weights of train.init as `train` would write them after no step."""
    if settings.init is None:
        raise UserError("name a run with --train, or set train.init: framings are compared for given weights")
    settings = without_auto(settings, choose_accelerator(settings), views)
    save_weights(load_weights(Path(str(settings.init)), settings.preset, settings.guide), folder / "model.safetensors")
    record = {"train": settings.model_dump(mode="json")}
    (folder / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    return folder


def _rows(results: Path, capture: str, split: str) -> list[SampleRow]:
    rows = Samples.read(results / "sample" / capture / "samples.tsv").rows
    return [row for row in rows if row.split == split]


def _framed(
    results: Path,
    rows: dict[str, list[SampleRow]],
    settings: tuple[Normalize, Shard],
    folder: Path,
    threads: int,
    recordings: Mapping[str, str],
) -> Framed:
    """Stages 3 and 5 on the chosen frames; shards and their manifest in folder/shard."""
    share, fits, error, worlds, files = [], [], [], [], []
    for capture, chosen in rows.items():
        if not chosen:
            continue
        where, stage = folder / capture, results / "cameras" / capture
        poses_file, samples_file, rig = where / "cameras.h5", where / "samples.tsv", stage / "rig.json"
        normalize(rig, stage / "subject.h5", poses_file, where / "world.json", settings[0])
        worlds.append(read_json(where / "world.json", "normalize"))
        Samples(tuple(chosen)).write(samples_file)
        for chunk in sorted({row.chunk for row in chosen}):
            stem = folder / "shard" / chosen[0].split / f"{capture}-{chunk:04d}.h5"
            outputs = {chosen[0].split: (stem.with_suffix(".tar"), stem)}
            center = results / "center" / recordings.get(capture, capture) / f"{chunk:04d}.h5"
            shard(samples_file, center, poses_file, rig, chunk, outputs, settings[1], threads)
            files.append(stem)
        poses = Poses.read(poses_file)
        at = np.searchsorted(poses.frame, [row.frame for row in chosen])
        views = np.array([[poses.cameras.index(name) for name in row.views] for row in chosen])
        share.append(poses.fill[at[:, None], views])
        fits.append(poses.fits[at[:, None], views])
        error.append(poses.reprojection_px[at, 0])
    write_manifest(files, folder / "shard" / "manifest.json", needed=())
    return Framed(settings[0], np.concatenate(share), np.concatenate(fits), np.concatenate(error), worlds)


def _scored(name: str, made: Framed, trained: Trained) -> Result:
    """Predict and score every sample by the model and by the visual hull of its input views."""
    samples = trained.samples
    hull = predict_baselines(trained, {HULL: BASELINES[HULL]})[HULL]
    rows: dict[str, list[dict[str, Tensor]]] = {MODEL: [], HULL: []}
    picture: tuple[Tensor, Tensor] | None = None
    advance = track(len(samples), f"framing {name}")
    for index in range(len(samples)):
        sample: Sample = samples[index]
        drawn = {MODEL: predict_views(trained, sample), HULL: hull(sample)}
        for method, (rgb, alpha) in drawn.items():
            rows[method].append(score(rgb, alpha, sample["image"], sample["alpha"], sample.get("unknown")))
        if index == len(samples) // 2:
            picture = sample["image"], drawn[MODEL][0]
        advance()
    assert picture is not None
    return Result(made, {method: stacked(each) for method, each in rows.items()}, picture)


def _write(out_dir: Path, found: dict[str, Result], failed: dict[str, str], trained: Trained) -> None:
    models, hulls = ({name: result.methods[method] for name, result in found.items()} for method in (MODEL, HULL))
    sentence = verdict(models, hulls)
    every = {f"{name}.{method}": result.methods[method] for name, result in found.items() for method in (MODEL, HULL)}
    write_rows(out_dir / "metrics.tsv", trained.samples, "framing", every)
    _write_grid(out_dir / "grid.png", found)
    with atomic(out_dir / "table.md") as temporary:
        temporary.write_text(_table(found, failed, sentence, trained), encoding="utf-8")
    origin = {key: value for key, value in provenance(trained).items() if key != "data"}  # of images that are gone
    framings_record = {name: _record(result) for name, result in found.items()}
    write_json(
        out_dir / "metrics.json",
        {"sentence": sentence, "framings": framings_record, "left_out": failed, **origin},
    )
    print(sentence, file=sys.stderr, flush=True)
    warn_of_few_samples(len(trained.samples))


def _record(result: Result) -> dict[str, Any]:
    made = result.framed
    keys = ("distance", "zoom", "canonical_extent", "fit")
    return {
        "normalize": {key: value for key, value in made.settings.model_dump(mode="json").items() if key in keys},
        "share_of_image": float(np.nanmean(made.share)),
        "views_that_hold_the_mouse": float(made.fits.mean()),
        "camera_error_px": _median(made.error_px),
        **{method: mean_scores(table) for method, table in result.methods.items()},
        "to_visual_hull": {name: difference_record(*_lead(result, name)) for name in MOUSE_ALONE},
    }


def _lead(result: Result, name: str) -> tuple[float, float]:
    return paired_difference(result.methods[MODEL][name], result.methods[HULL][name])


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _table(found: dict[str, Result], failed: dict[str, str], sentence: str, trained: Trained) -> str:
    columns = [
        "framing",
        "mouse of the picture, %",
        "views that hold it whole (fit_body: its body), %",
        "images against cameras, px (median)",
    ]
    columns += [
        f"{metric(name).title}: {what}" for name in MOUSE_ALONE for what in ("model", "visual hull", "model - hull")
    ]
    rows = []
    for name, result in found.items():
        made, error = result.framed, _median(result.framed.error_px)
        extent = f" (canonical_extent {made.settings.canonical_extent:.2f})" if FRAMINGS[name].fills else ""
        row = [
            f"`{name}`: {FRAMINGS[name].label}{extent}",
            f"{100 * np.nanmean(made.share):.1f}",
            f"{100 * made.fits.mean():.0f}",
        ]
        row.append("unknown" if error is None else f"{error:.2f}")
        for each in MOUSE_ALONE:
            row += [
                estimate_text(each, *estimates(table)[each]) for table in (result.methods[MODEL], result.methods[HULL])
            ]
            row.append(difference_text(each, *_lead(result, each)))
        rows.append(row)
    text = f"{markdown_table(columns, rows)}\n\n{described(trained)} {STANDARD_ERROR}.\n\n{NOTE}.\n\n{sentence}\n"
    text += "".join(f"\n`{name}` is left out: {why}\n" for name, why in failed.items())
    return text + few_samples_note(len(trained.samples))


def _write_grid(path: Path, found: dict[str, Result]) -> None:
    """One sample: for each framing the images, and below them what the model predicts of each from the others."""
    views = len(next(iter(found.values())).picture[0])
    figure = Figure(figsize=(1.6 * views + 0.6, 3.5 * len(found)), layout="constrained", dpi=120)
    for block, (name, result) in zip(figure.subfigures(len(found), 1, squeeze=False)[:, 0], found.items(), strict=True):
        block.suptitle(f"{name}: {FRAMINGS[name].label}", fontsize=10)
        grid = block.subplots(2, views, squeeze=False)
        for line, label, images in zip(grid, ("image", "model"), result.picture, strict=True):
            for view, axes in enumerate(line):
                axes.imshow(images[view].movedim(0, -1).numpy(), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
            line[0].set_ylabel(label, fontsize=11)
    save_figure(figure, path)
