"""What matters in training? The configured run beside runs that differ from it in one setting each.

All have the same data, seed and budget, so that every step of every run is shown the same sample.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, read_json, write_json
from mousefacelift.config.reading import load_yaml, validate
from mousefacelift.config.train import Guards, Loss, Train
from mousefacelift.evaluation.metrics import LABELS, METRICS, paired_difference
from mousefacelift.geometry.camera import Array

CONFIGURED = "configured"
# Where a run's files are, and which alarms would stop it, do not change what it learns.
FREE = {"run", "manifest", "guards"}
RECORDED = {
    "data": "data",
    "init_sha256": "weights to start from",
    "model": "model",
    "version": "version of `train`",
}
RESOLUTION = 0.01  # dB: a smaller difference is none, however sure
CURVES = {"val_psnr": LABELS["psnr"], "val_psnr_foreground": LABELS["psnr_foreground"]}


@dataclass(frozen=True)
class Variant:
    """One change against the configured run: what it is in words, and the keys of `train` that it sets."""

    label: str
    changes: dict[str, Any]


VARIANTS = {
    # A view cannot be dropped of one.
    "one_input": Variant(
        "one input view, in training and evaluation", {"num_input_views": 1, "i_know": True, "view_dropout": 0.0}
    ),
    "plain_loss": Variant(
        "mean squared error over the whole image as the only loss",
        {"loss": {name: float(name == "l2") for name in Loss.model_fields}},
    ),
    "canonical": Variant("cameras moved to distance 2.7, images as they were", {"cameras": "canonical"}),
    "random_order": Variant("input views in random order", {"view_order": "random"}),
}


@dataclass(frozen=True)
class Run:
    """A training and its evaluation, as they wrote them.

    record: the training's config.yaml; settings: its section `train`. curves: per column of CURVES the pairs of step and
    value, none without a validation split. evaluation: metrics.json. rows: sample and view of every row, [N * V];
    scores: per metric [N, V], of the model.
    """

    folder: Path
    record: dict[str, Any]
    settings: Train
    curves: dict[str, list[tuple[int, float]]]
    evaluation: dict[str, Any]
    rows: list[tuple[str, str]]
    scores: dict[str, Array]


def variant(train: Train, name: str) -> Train:
    """The settings of a variant of a configured training. Raises UserError for an unknown name.

    Alarms are off: a variant that fails is to be measured, not stopped.
    """
    if name not in VARIANTS:
        raise UserError(f"{name}: no such variant; there are {', '.join(VARIANTS)}")
    values = train.model_dump(mode="json") | VARIANTS[name].changes
    values |= {"run": f"{train.run}.{name}", "guards": dict.fromkeys(Guards.model_fields)}
    return validate(Train, values, f"ablation, {name}: train")


def applicable(train: Train) -> list[str]:
    """The variants that change something of a configured training."""
    values = train.model_dump(mode="json")
    return [name for name, v in VARIANTS.items() if any(values[key] != value for key, value in v.changes.items())]


def ablation(train_dir: Path, evaluate_dir: Path, variants_dir: Path, out_dir: Path) -> None:
    """Compare the configured run with its variants, which lie in {variants_dir}/{variant}/train and /evaluate.

    Reads of each run config.yaml and metrics.csv as `train` wrote them, metrics.json and metrics.tsv as `evaluate` did.
    Writes table.md, metrics.json and curves.png to `out_dir`. Raises UserError for a file that is missing or damaged, and
    for a run that differs from the configured one in anything but its variant's change.
    """
    base = read_run(train_dir, evaluate_dir)
    names = applicable(base.settings)
    others = {name: read_run(variants_dir / name / "train", variants_dir / name / "evaluate") for name in names}
    for name, run in others.items():
        check_comparable(base, run, name)
    sentences = {name: verdict(name, run.scores, base.scores) for name, run in others.items()}
    sentences |= {name: left_out(name) for name in VARIANTS if name not in names}
    _write_table(out_dir / "table.md", base, others, sentences)
    _write_curves(out_dir / "curves.png", {CONFIGURED: base, **others})
    _write_metrics(out_dir / "metrics.json", base, others, sentences)


def read_run(train_dir: Path, evaluate_dir: Path) -> Run:
    """One training and its evaluation.

    Raises UserError for what is missing or damaged, for a training that ended before its last step, and for an evaluation
    of another run.
    """
    record = load_yaml(train_dir / "config.yaml")
    settings = validate(Train, record.get("train"), f"{train_dir / 'config.yaml'}: train")
    path = train_dir / "metrics.csv"
    steps, curves = _read_curves(path)
    if steps != settings.steps:
        raise UserError(f"{path}: ends at step {steps} of {settings.steps}; train this run to its end")

    evaluation = read_json(evaluate_dir / "metrics.json", "evaluate")
    found = evaluation.get("run") if isinstance(evaluation, dict) else None
    if found != settings.run:
        raise UserError(f"{evaluate_dir / 'metrics.json'}: of run {found}, but {train_dir} holds run {settings.run}")
    table = [row for row in _rows(evaluate_dir / "metrics.tsv", "\t") if row.get("method") == "model"]
    try:
        samples = len({row["key"] for row in table})
        scores = {name: np.array([float(row[name]) for row in table]).reshape(samples, -1) for name in METRICS}
        rows = [(row["key"], row["view"]) for row in table]
        means = [float(evaluation["model"][name]) for name in METRICS]
        if not samples or not np.isfinite(means).all():
            raise ValueError("no metrics of the model")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{evaluate_dir}: damaged metrics ({error}); delete it and run `evaluate` again") from None
    return Run(train_dir, record, settings, curves, evaluation, rows, scores)


def _read_curves(path: Path) -> tuple[int, dict[str, list[tuple[int, float]]]]:
    """The last step of a metrics.csv, 0 if there is none, and its CURVES."""
    table = list(_rows(path, ","))
    try:
        curves = {name: [(int(row["step"]), float(row[name])) for row in table if row.get(name)] for name in CURVES}
        return (int(table[-1]["step"]) if table else 0), curves
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `train` again") from None


def check_comparable(base: Run, run: Run, name: str) -> None:
    """Raise UserError, naming what differs, unless a run is the configured one but for its variant's change."""
    expected, found = (settings.model_dump(mode="json") for settings in (variant(base.settings, name), run.settings))
    differing = [
        f"train.{key} is {found[key]}, not {value}"
        for key, value in expected.items()
        if key not in FREE and found[key] != value
    ]
    for key, what in RECORDED.items():
        if base.record.get(key) != run.record.get(key):
            differing.append(f"the {what} (config.yaml, {key}: {run.record.get(key)}, not {base.record.get(key)})")
    for key in ("split", "data", "trained_on"):
        if base.evaluation.get(key) != run.evaluation.get(key):
            differing.append(
                f"what was evaluated (metrics.json, {key}: {run.evaluation.get(key)}, not {base.evaluation.get(key)})"
            )
    if not differing and base.rows != run.rows:
        differing.append("the samples and views that were evaluated (metrics.tsv)")
    if differing:
        raise UserError(
            f"{run.folder}: this run and {base.folder} differ in more than the change of {name}, so that their comparison "
            f"would say nothing of it: {'; '.join(differing)}. Train both with the same settings, on the same data"
        )


def verdict(name: str, scores: dict[str, Array], base: dict[str, Array]) -> str:
    """What the numbers say of one variant, as one sentence. scores and base: per metric [N, V].

    A difference is clear if its mean over the samples is more than twice its paired standard error.
    """
    samples = len(base["psnr"])
    parts = []
    for metric, subject in (("psnr", "PSNR is"), ("psnr_foreground", "inside the silhouette it is")):
        mean, error = paired_difference(scores[metric], base[metric])
        if not math.isfinite(error):
            return (
                f"`{name}` against `{CONFIGURED}`: PSNR differs by {mean:+.2f} dB, of which nothing follows: {samples} sample "
                "has no spread to judge a difference by."
            )
        if abs(mean) < RESOLUTION / 2:
            parts.append(f"{subject} the same to {RESOLUTION} dB")
            continue
        size = f"{abs(mean):.2f} ± {error:.2f} dB {'higher' if mean > 0 else 'lower'}"
        parts.append(f"{subject} {size}, {'a clear' if is_clear(mean, error) else 'no clear'} difference")
    return f"`{name}` against `{CONFIGURED}`: {'; '.join(parts)} (paired, {samples} samples)."


def is_clear(mean: float, error: float) -> bool:
    """Whether a difference exceeds two standard errors."""
    return abs(mean) > 2 * error


def left_out(name: str) -> str:
    """Why a variant is not among the runs."""
    return f"`{name}` is left out: the configured run has this setting ({VARIANTS[name].label}) already."


def _rows(path: Path, delimiter: str) -> list[dict[str, str]]:
    """The rows of a table. Raises UserError for a missing file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter=delimiter))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; it is written by `{'train' if delimiter == ',' else 'evaluate'}`"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and make it again") from None


def _write_table(path: Path, base: Run, others: dict[str, Run], sentences: dict[str, str]) -> None:
    """table.md: a row per run, and the sentences."""
    lines = [["run", LABELS["psnr"], f"to `{CONFIGURED}`, dB", *(LABELS[metric] for metric in METRICS[1:])]]
    lines.append(["---"] * len(lines[0]))
    for name, run in {CONFIGURED: base, **others}.items():
        label, difference = f"run {base.settings.run}", ""
        if name != CONFIGURED:
            label = VARIANTS[name].label
            mean, error = paired_difference(run.scores["psnr"], base.scores["psnr"])
            difference = f"{mean:+.2f}" + (f" ± {error:.2f}" if math.isfinite(error) else "")
        psnr, foreground, ssim, iou = (run.evaluation["model"][metric] for metric in METRICS)
        cells = [f"`{name}`: {label}", f"{psnr:.2f}", difference, f"{foreground:.2f}", f"{ssim:.3f}", f"{iou:.2f}"]
        lines.append(cells)
    settings, (samples, views) = base.settings, base.scores["psnr"].shape
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text += (
        f"\n\nEvery run: {settings.steps} steps at batch size {settings.batch_size}, seed {settings.seed}, preset {settings.preset}, "
        f"from {'the same earlier weights' if settings.init else 'nothing'}, on the same data. {samples} samples of the "
        f"{base.evaluation.get('split')} split, {views} views each, predicted from {settings.num_input_views} other views"
        f"{' (`one_input`: from 1)' * ('one_input' in others)} at {settings.image_size} px. ± is the standard error of the paired "
        "difference over samples; moments of one recording are alike, so the true one is larger, and trainings that differ in "
        "their seed alone differ too.\n"
    )
    if "random_order" in others:
        text += (
            "\nGS-LRM makes the same of its input views in any order, up to rounding: `random_order` differs by what rounding "
            "grows to over a training, and for the other runs too a difference of that size means nothing.\n"
        )
    text += "".join(f"\n- {sentences[name]}" for name in VARIANTS) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_metrics(path: Path, base: Run, others: dict[str, Run], sentences: dict[str, str]) -> None:
    """metrics.json: means per run and their paired differences to the configured one; of one sample the error is null."""
    runs: dict[str, Any] = {}
    for name, run in {CONFIGURED: base, **others}.items():
        runs[name] = {metric: run.evaluation["model"][metric] for metric in METRICS}
        if name == CONFIGURED:
            continue
        runs[name]["difference"] = {}
        for metric in METRICS:
            mean, error = paired_difference(run.scores[metric], base.scores[metric])
            runs[name]["difference"][metric] = {
                "mean": mean,
                "standard_error": error if math.isfinite(error) else None,
                "clear": is_clear(mean, error),
            }
    result = {
        "runs": runs,
        "sentences": sentences,
        "left_out": [name for name in VARIANTS if name not in others],
        "run": base.settings.run,
        "steps": base.settings.steps,
        "batch_size": base.settings.batch_size,
        "seed": base.settings.seed,
        "split": base.evaluation.get("split"),
        "samples": len(base.scores["psnr"]),
        "views": base.scores["psnr"].shape[1],
        "trained_on": base.record.get("data"),
        "data": base.evaluation.get("data"),
    }
    write_json(path, result)


def _write_curves(path: Path, runs: dict[str, Run]) -> None:
    """Validation against steps, a line per run: the losses of different terms could not be compared."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    figure.suptitle("Held-out views of the validation split")
    panels = figure.subplots(1, len(CURVES))
    for axes, (column, label) in zip(panels, CURVES.items(), strict=True):
        for number, (name, run) in enumerate(runs.items()):
            curve = run.curves.get(column, [])
            steps, values = [step for step, _ in curve], [value for _, value in curve]
            # Broad, so that it shows under a variant that makes no difference.
            axes.plot(steps, values, f"C{number}.-", label=name, linewidth=4 if name == CONFIGURED else 1.2)
        axes.set(xlabel="optimiser steps", ylabel=label)
        axes.grid(alpha=0.3)
        if not any(run.curves.get(column) for run in runs.values()):
            axes.text(0.5, 0.5, "no validation samples", ha="center", transform=axes.transAxes)
    panels[0].legend(fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary)
