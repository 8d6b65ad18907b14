"""Which cameras do the weights want? Four camera conditions on the same images and the same weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from mousefacelift.base.files import atomic, save_figure, write_json
from mousefacelift.base.progress import track
from mousefacelift.evaluation.baselines.registry import BASELINES
from mousefacelift.evaluation.conditions import CONDITIONS, camera_conditions, similarities
from mousefacelift.evaluation.methods import predict_baselines
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY, metric, score
from mousefacelift.evaluation.predict import Trained, open_trained, predict_views
from mousefacelift.evaluation.record import described, provenance, write_rows
from mousefacelift.evaluation.scores import (
    Scores,
    estimates,
    leads,
    mean_score,
    mean_scores,
    paired_difference,
    stacked,
)
from mousefacelift.evaluation.tables import (
    STANDARD_ERROR,
    baseline_label,
    comparison_table,
    difference_record,
    difference_text,
    few_samples_note,
    lead_table,
    uncertainty_records,
    warn_of_few_samples,
)
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.training.data import SplitName
from mousefacelift.training.exhausted import evaluation_memory

REFERENCE = "z_up"  # the condition that the others are compared with
WHITE = "white"  # metrics.json has this baseline by its name, too
PICTURED = 2


@dataclass(frozen=True)
class Drawn:
    """What each condition makes of the V views of one sample.

    target: [V, 3, S, S]. mask: [V, S, S]. rgb: condition -> [V, 3, S, S]. scores: condition or baseline -> metric -> [V].
    """

    key: str
    target: Tensor
    mask: Tensor
    rgb: dict[str, Tensor]
    scores: dict[str, dict[str, Tensor]]


@evaluation_memory()
def poc(manifest: Path | str, train_dir: Path, out_dir: Path, split: SplitName, threads: int) -> None:
    """Predict every view of a split from the others under each camera condition, and score the predictions.

    A held-out view is drawn with its condition's own camera; the target is always the same image. Writes metrics.json
    (means, differences to z_up and to the best baselines, the sentence), metrics.tsv (a row per sample, view and condition), table.md and grid.png.

    Args:
        manifest: manifest.json of the shards, a path or a URL.
        train_dir: folder of `train`: model.safetensors and config.yaml.
        out_dir: folder of the results.
        split: whose samples are predicted.
        threads: of this process.

    Raises:
        UserError: before any prediction, for missing or damaged inputs and for an empty split.
    """
    trained = open_trained(manifest, train_dir, split, threads)
    samples = trained.samples
    pictured, pictures = evenly_spaced(len(samples), PICTURED).tolist(), []
    rows: list[dict[str, dict[str, Tensor]]] = []
    advance = track(len(samples), f"comparing cameras on {split}")
    for index, drawn in enumerate(_drawn_samples(trained)):
        rows.append(drawn.scores)
        if index in pictured:
            pictures.append(drawn)
        advance()

    scores = {name: stacked(row[name] for row in rows) for name in CONDITIONS}
    baselines = {name: stacked(row[name] for row in rows) for name in BASELINES}
    write_rows(out_dir / "metrics.tsv", samples, "condition", scores)
    _write_grid(out_dir / "grid.png", pictures)
    sentence = f"{verdict(scores, baselines)} {checkpoint_note(trained)}"
    _write_table(out_dir / "table.md", scores, baselines, sentence, trained)
    _write_metrics(out_dir / "metrics.json", scores, baselines, sentence, trained)
    warn_of_few_samples(len(samples))


def _drawn_samples(trained: Trained) -> Iterator[Drawn]:
    """Every sample of the split under every condition."""
    samples, baselines = trained.samples, predict_baselines(trained, BASELINES)
    world_from_mm = similarities(samples)
    for index in range(len(samples)):
        sample = samples[index]
        posed = camera_conditions(sample, world_from_mm[index])
        drawn = {name: predict_views(trained, each) for name, each in posed.items()}
        drawn |= {name: predict(sample) for name, predict in baselines.items()}
        truth = sample["image"], sample["alpha"], sample.get("unknown")
        scores = {name: score(rgb, alpha, *truth) for name, (rgb, alpha) in drawn.items()}
        rgb_of = {name: drawn[name][0] for name in posed}
        yield Drawn(samples.keys[index], sample["image"], sample["alpha"], rgb_of, scores)


def verdict(values: Scores, baselines: Scores) -> str:
    """What the numbers say: which condition is best by the primary metric, by how much, and whether that is clear.

    A difference is clear if its mean over the samples exceeds two paired standard errors.

    Args:
        values: condition -> metric -> [N, V].
        baselines: baseline -> metric -> [N, V].
    """
    primary = metric(PRIMARY)
    means = {name: mean_scores(table) for name, table in values.items()}
    values_text = {name: f"{primary.text(each[PRIMARY])} {primary.unit}" for name, each in means.items()}
    ranked = sorted(means, key=lambda name: means[name][PRIMARY], reverse=True)
    best, second = ranked[:2]
    gaps = {name: paired_difference(values[best][PRIMARY], values[name][PRIMARY]) for name in ranked[1:]}
    level = [name for name, (gap, error) in gaps.items() if gap <= 2 * error]
    samples = len(values[best][PRIMARY])
    if level:
        names = _listed([f"`{name}` ({values_text[name]})" for name in (best, *level)])
        reason = (
            f"the differences are within two standard errors (paired, {samples} samples)"
            if samples > 1
            else "one sample has no spread to judge a difference by"
        )
        below = [name for name in ranked[1:] if name not in level]
        text = f"No clear difference in {primary.label} between {names}: {reason}"
        text += f"; {_listed([f'`{name}`' for name in below])} clearly below." if below else "."
    else:
        gap, error = gaps[second]
        text = (
            f"`{best}` has the best {primary.label}, {values_text[best]}, {primary.text(gap)} {primary.unit} above the next, "
            f"`{second}`: a clear difference, its standard error is {primary.text(error)} {primary.unit} (paired, {samples} "
            "samples)."
        )
        others = {name: each.label for name, each in METRICS.items() if name != PRIMARY}
        winners = {name: max(means, key=lambda condition: means[condition][name]) for name in others}
        differing = [f"by {others[name]} it is `{winner}`" for name, winner in winners.items() if winner != best]
        text += f" But {_listed(differing)}." if differing else " The other metrics agree."
    levels = {name: mean_score(table[PRIMARY]) for name, table in baselines.items()}
    floor = max(levels, key=lambda name: levels[name])
    worse = [f"`{name}`" for name in ranked if means[name][PRIMARY] <= levels[floor]]
    if worse:
        what = f"the best baseline, {baseline_label(floor)}"
        text += f" No better than {what} ({primary.text(levels[floor])} {primary.unit}): {_listed(worse)}."
    return text


def checkpoint_note(trained: Trained) -> str:
    """On which cameras the weights were trained: this decides the comparison too, not the conditions alone."""
    data, settings = trained.record.get("data"), trained.train
    purpose = "the comparison says which cameras these weights want, not which are best to train with."
    if not isinstance(data, dict):
        return f"config.yaml does not say on which cameras the weights were trained: {purpose}"
    where = "the train split of these very shards" if data.get("sha256") == trained.data.sha256 else "other shards"
    begin = "earlier weights" if settings.init else "nothing"
    return (
        f"The weights were trained from {begin} for {settings.steps} steps on {where}, whose cameras are Z-up, as `train` "
        f"demands; this favours `z_up`: {purpose}"
    )


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _write_metrics(path: Path, values: Scores, baselines: Scores, sentence: str, trained: Trained) -> None:
    """metrics.json: means per condition, and their paired differences to the reference and to the best baselines."""
    conditions: dict[str, Any] = {}
    for name, table in values.items():
        differences = {key: paired_difference(table[key], values[REFERENCE][key]) for key in METRICS}
        conditions[name] = mean_scores(table) | {
            f"difference_to_{REFERENCE}": {key: difference_record(*each) for key, each in differences.items()}
        }
    means = {name: mean_scores(table) for name, table in baselines.items()}
    found = {name: leads(table, baselines) for name, table in values.items()}
    result = {
        "sentence": sentence,
        "conditions": conditions,
        "baselines": means,
        WHITE: means[WHITE],
        **uncertainty_records(values | baselines, found),
        "steps": trained.train.steps,
        "init_sha256": trained.record.get("init_sha256"),
        **provenance(trained),
    }
    write_json(path, result)


def _write_table(path: Path, values: Scores, baselines: Scores, sentence: str, trained: Trained) -> None:
    """table.md: a row per condition, the baselines for reference, the sentence, and the leads over the baselines."""
    rows = []
    for name, table in values.items():
        difference = difference_text(PRIMARY, *paired_difference(table[PRIMARY], values[REFERENCE][PRIMARY]))
        label = f"`{name}`: {CONDITIONS[name]}"
        rows.append((label, estimates(table), "" if name == REFERENCE else difference))
    rows += [(f"{baseline_label(name)}, for reference", estimates(table), "") for name, table in baselines.items()]
    text = comparison_table("cameras", rows, REFERENCE)
    text += f"\n\n{described(trained)} {STANDARD_ERROR}.\n"
    found = {name: leads(table, baselines) for name, table in values.items()}
    text += f"\n{sentence}\n\n{lead_table('cameras', found)}\n{few_samples_note(len(trained.samples))}"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_grid(path: Path, pictures: list[Drawn]) -> None:
    """For each sample a block: a column per view; a row for the target and one per condition, the silhouette outlined."""
    views = len(pictures[0].target)
    figure = Figure(figsize=(1.6 * views + 0.6, 9.4 * len(pictures)), layout="constrained", dpi=120)
    for block, drawn in zip(figure.subfigures(len(pictures), 1, squeeze=False)[:, 0], pictures, strict=True):
        block.suptitle(f"{drawn.key}: every view predicted from the others; red: the target's silhouette", fontsize=10)
        grid = block.subplots(1 + len(CONDITIONS), views, squeeze=False)
        for line, name in zip(grid, ("target", *CONDITIONS), strict=True):
            images = drawn.target if name == "target" else drawn.rgb[name]
            for view, axes in enumerate(line):
                axes.imshow(images[view].movedim(0, -1).numpy(), interpolation="nearest")
                if name != "target" and (drawn.mask[view] > 0.5).any():
                    axes.contour(drawn.mask[view].numpy(), [0.5], colors="tab:red", linewidths=0.6)
                axes.set(xticks=[], yticks=[])
                label = f"view {view}"
                if name != "target":
                    label = f"{drawn.scores[name][PRIMARY][view]:.1f} {metric(PRIMARY).unit}"
                axes.set_xlabel(label, fontsize=9)
            line[0].set_ylabel(name, fontsize=11)
    save_figure(figure, path)
