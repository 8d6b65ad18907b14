"""What matters in training? The configured run beside runs that differ from it in one setting each.

All have the same data, seed and budget, so every step of every run is shown the same samples.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, read_json, save_figure, write_json
from mousefacelift.base.tables import read_table
from mousefacelift.config.reading import load_yaml, validate
from mousefacelift.config.train import Train
from mousefacelift.evaluation.methods import MODEL, REFINED
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, Metric, metric, validation_metrics
from mousefacelift.evaluation.scores import Lead, estimates, is_clear, leads, paired_difference
from mousefacelift.evaluation.tables import (
    STANDARD_ERROR,
    comparison_table,
    difference_record,
    difference_text,
    few_samples_note,
    lead_table,
    uncertainty_records,
    warn_of_few_samples,
)
from mousefacelift.evaluation.variants import VARIANTS, applicable, left_out, variant
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


@dataclass(frozen=True)
class Run:
    """A training run and its evaluation, as they wrote them.

    record: config.yaml of the run. settings: its section `train`. curves: column of metrics.csv -> pairs of step and
    value, for the validation metrics in dB; empty without a validation split. evaluation: metrics.json. rows: sample and
    view of every row, [N * V]. scores: metric -> [N, V], of the model. baselines: name -> the same of each baseline.
    """

    folder: Path
    record: dict[str, Any]
    settings: Train
    curves: dict[str, list[tuple[int, float]]]
    evaluation: dict[str, Any]
    rows: list[tuple[str, str]]
    scores: dict[str, Array]
    baselines: dict[str, dict[str, Array]]


def ablation(train_dir: Path, evaluate_dir: Path, variants_dir: Path, out_dir: Path) -> None:
    """Compare the configured run with its variants: table.md, metrics.json and curves.png.

    Args:
        train_dir: config.yaml and metrics.csv of the configured run, as `train` wrote them.
        evaluate_dir: its metrics.json and metrics.tsv, as `evaluate` wrote them.
        variants_dir: the same files of each variant, in {variant}/train and {variant}/evaluate.
        out_dir: folder of the results.

    Raises:
        UserError: for a file that is missing or damaged, and for a run that differs from the configured one in anything
            but its variant's change.
    """
    base = read_run(train_dir, evaluate_dir)
    names = applicable(base.settings)
    others = {name: read_run(variants_dir / name / "train", variants_dir / name / "evaluate") for name in names}
    for name, run in others.items():
        check_comparable(base, run, name)
    sentences = {name: verdict(name, run.scores, base.scores) for name, run in others.items()}
    sentences |= {name: why for name in VARIANTS if (why := left_out(base.settings, name))}
    _write_table(out_dir / "table.md", base, others, sentences)
    _write_curves(out_dir / "curves.png", {CONFIGURED: base, **others})
    _write_metrics(out_dir / "metrics.json", base, others, sentences)
    warn_of_few_samples(len(base.scores[PRIMARY]))


def read_run(train_dir: Path, evaluate_dir: Path) -> Run:
    """Read a training run and its evaluation.

    Raises:
        UserError: for a file that is missing or damaged, for a run that ended before its last step, and for an
            evaluation of another run.
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
        raise UserError(
            f"{evaluate_dir / 'metrics.json'}: these are the metrics of run {found}, but {train_dir} holds run {settings.run}"
        )
    table: dict[str, list[dict[str, str]]] = {}
    for row in read_table(evaluate_dir / "metrics.tsv", "evaluate"):
        table.setdefault(row.get("method", ""), []).append(row)
    own = table.pop(MODEL, [])
    table.pop(REFINED, None)  # runs are compared as they were trained
    try:
        samples = len({row["key"] for row in own})
        scores = _by_sample(own, samples)
        baselines = {name: _by_sample(each, samples) for name, each in table.items()}
        rows = [(row["key"], row["view"]) for row in own]
        means = [float(evaluation[MODEL][name]) for name in METRICS]
        if not samples or not np.isfinite(means).all():
            raise ValueError("no metrics of the model")
        if any(each[PRIMARY].shape != scores[PRIMARY].shape for each in baselines.values()) or not baselines:
            raise ValueError("no metrics of the baselines for every sample and view")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{evaluate_dir}: damaged metrics ({error}); delete it and run `evaluate` again") from None
    return Run(train_dir, record, settings, curves, evaluation, rows, scores, baselines)


def _by_sample(rows: list[dict[str, str]], samples: int) -> dict[str, Array]:
    """The rows of one method as metric -> [N, V]. Raises KeyError or ValueError for damaged ones."""
    return {name: np.array([float(row[name]) for row in rows]).reshape(samples, -1) for name in METRICS}


def _read_curves(path: Path) -> tuple[int, dict[str, list[tuple[int, float]]]]:
    """The last step of a metrics.csv, 0 if there is none, and the curves of a Run."""
    table = read_table(path, "train", ",")
    try:
        curves = {
            name: [(int(row["step"]), float(row[name])) for row in table if row.get(name)]
            for name in _in_decibels(validation_metrics())
        }
        return (int(table[-1]["step"]) if table else 0), curves
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `train` again") from None


def _in_decibels(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Those of the primary metric's unit: they share a panel's axis and a RESOLUTION."""
    return {name: each for name, each in metrics.items() if each.unit == metric(PRIMARY).unit}


def check_comparable(base: Run, run: Run, name: str) -> None:
    """Raise UserError, naming what differs, unless a run is the configured one but for its variant's change."""
    expected, found = (settings.model_dump(mode="json") for settings in (variant(base.settings, name), run.settings))
    differing = [
        f"train.{key} is {found[key]}, not {value}"
        for key, value in expected.items()
        if key not in FREE and found[key] != value
    ]
    for key, what in RECORDED.items():
        here, there = (_without_guide(each.record.get(key)) for each in (run, base))
        if here != there:
            differing.append(f"the {what} (config.yaml, {key}: {here}, not {there})")
    for key in ("split", "data", "trained_on"):
        if base.evaluation.get(key) != run.evaluation.get(key):
            differing.append(
                f"what was evaluated (metrics.json, {key}: {run.evaluation.get(key)}, not {base.evaluation.get(key)})"
            )
    if not differing and base.rows != run.rows:
        differing.append("the samples and views that were evaluated (metrics.tsv)")
    if differing:
        raise UserError(
            f"{run.folder}: this run and {base.folder} differ in more than the change of {name}, so their comparison would "
            f"say nothing about it: {'; '.join(differing)}. Train both with the same settings, on the same data"
        )


def _without_guide(record: Any) -> Any:
    """A record of a run less what `train.guide` decides of a model: the guide is compared among the settings."""
    if not isinstance(record, dict):
        return record
    return {key: value for key, value in record.items() if key not in ("guide", "residual")}


def verdict(name: str, scores: dict[str, Array], base: dict[str, Array]) -> str:
    """What the numbers say about one variant, as one sentence.

    A difference is clear if its mean over the samples exceeds two paired standard errors.

    Args:
        name: of the variant.
        scores: metric -> [N, V] of the variant.
        base: metric -> [N, V] of the configured run.
    """
    samples = len(base[PRIMARY])
    parts = []
    for key, each in _in_decibels(METRICS).items():
        mean, error = paired_difference(scores[key], base[key])
        if not math.isfinite(error):
            return (
                f"`{name}` against `{CONFIGURED}`: {each.label} differs by {difference_text(key, mean, error)} {each.unit}, from which nothing "
                f"follows: {samples} sample has no spread to judge a difference by."
            )
        if abs(mean) < RESOLUTION / 2:
            parts.append(f"{each.label} is the same to {RESOLUTION} {each.unit}")
            continue
        size = f"{each.text(abs(mean))} ± {each.text(error)} {each.unit} {'higher' if mean > 0 else 'lower'}"
        parts.append(f"{each.label} is {size}, {'a clear' if is_clear(mean, error) else 'no clear'} difference")
    return f"`{name}` against `{CONFIGURED}`: {'; '.join(parts)} (paired, {samples} samples)."


def _write_table(path: Path, base: Run, others: dict[str, Run], sentences: dict[str, str]) -> None:
    """table.md: a row per run, and the sentences."""
    rows = [(f"`{CONFIGURED}`: run {base.settings.run}", estimates(base.scores), "")]
    for name, run in others.items():
        difference = difference_text(PRIMARY, *paired_difference(run.scores[PRIMARY], base.scores[PRIMARY]))
        rows.append((f"`{name}`: {VARIANTS[name].label}", estimates(run.scores), difference))
    settings, (samples, views) = base.settings, base.scores[PRIMARY].shape
    text = comparison_table("run", rows, CONFIGURED)
    text += (
        f"\n\nEvery run: {settings.steps} steps at batch size {settings.batch_size}, seed {settings.seed}, preset {settings.preset}, "
        f"from {'the same earlier weights' if settings.init else 'nothing'}, on the same data. {samples} samples of the "
        f"{base.evaluation.get('split')} split, {views} views each, predicted from {settings.num_input_views} other views"
        f"{' (`one_input`: from 1)' * ('one_input' in others)} at {settings.image_size} px. {STANDARD_ERROR}, and training "
        "runs that differ in their seed alone differ too.\n"
    )
    if "random_order" in others:
        text += (
            "\nThe order of the input views changes nothing that GS-LRM computes, but for rounding. `random_order` shows how "
            "far rounding alone drives two training runs apart: a difference of that size means nothing for the other runs "
            "either.\n"
        )
    text += "".join(f"\n- {sentences[name]}" for name in VARIANTS) + "\n"
    text += f"\n{lead_table('run', _leads(base, others))}\n{few_samples_note(samples)}"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _leads(base: Run, others: dict[str, Run]) -> dict[str, dict[str, Lead]]:
    """Every run against the best baselines of its own evaluation: `one_input` gives them one input, too."""
    return {name: leads(run.scores, run.baselines) for name, run in {CONFIGURED: base, **others}.items()}


def _write_metrics(path: Path, base: Run, others: dict[str, Run], sentences: dict[str, str]) -> None:
    """metrics.json: means per run, and their paired differences to the configured one and to the best baselines."""
    runs: dict[str, Any] = {}
    for name, run in {CONFIGURED: base, **others}.items():
        runs[name] = {key: run.evaluation["model"][key] for key in METRICS}
        if name == CONFIGURED:
            continue
        differences = {key: paired_difference(run.scores[key], base.scores[key]) for key in METRICS}
        runs[name]["difference"] = {
            key: difference_record(*difference) | {"clear": is_clear(*difference)}
            for key, difference in differences.items()
        }
    result = {
        "runs": runs,
        "sentences": sentences,
        "left_out": [name for name in VARIANTS if name not in others],
        **uncertainty_records(
            {name: run.scores for name, run in {CONFIGURED: base, **others}.items()}, _leads(base, others)
        ),
        "run": base.settings.run,
        "steps": base.settings.steps,
        "batch_size": base.settings.batch_size,
        "seed": base.settings.seed,
        "split": base.evaluation.get("split"),
        "samples": len(base.scores[PRIMARY]),
        "views": base.scores[PRIMARY].shape[1],
        "trained_on": base.record.get("data"),
        "data": base.evaluation.get("data"),
    }
    write_json(path, result)


def _write_curves(path: Path, runs: dict[str, Run]) -> None:
    """Validation against steps, a line per run. Losses are not drawn: those of different terms cannot be compared."""
    metrics = _in_decibels(validation_metrics())
    figure = Figure(figsize=(5 * len(metrics), 4), layout="constrained", dpi=120)
    figure.suptitle("Held-out views of the validation split")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (column, each) in zip(panels, metrics.items(), strict=True):
        for number, (name, run) in enumerate(runs.items()):
            curve = run.curves[column]
            steps, values = [step for step, _ in curve], [value for _, value in curve]
            # A broad line shows under a variant that makes no difference.
            axes.plot(steps, values, f"C{number}.-", label=name, linewidth=4 if name == CONFIGURED else 1.2)
        axes.set(xlabel="optimiser steps", ylabel=each.title)
        axes.grid(alpha=0.3)
        if not any(run.curves[column] for run in runs.values()):
            axes.text(0.5, 0.5, "no validation samples", ha="center", transform=axes.transAxes)
    panels[0].legend(fontsize=8)
    save_figure(figure, path)
