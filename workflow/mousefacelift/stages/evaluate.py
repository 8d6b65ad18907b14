"""Evaluation of a trained model on views it was not given: metrics beside baselines, pictures, video, splats."""

import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from mousefacelift.base.files import atomic, write_json
from mousefacelift.base.progress import track
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.evaluation.methods import MODEL, REFINED, at_once, method_labels, scored_samples
from mousefacelift.evaluation.metrics.registry import METRICS, PRIMARY
from mousefacelift.evaluation.pictures import write_bars, write_picture, write_turntable
from mousefacelift.evaluation.predict import Trained, open_trained, reconstruct
from mousefacelift.evaluation.record import described, provenance, write_rows
from mousefacelift.evaluation.refinement import (
    is_timed,
    median_seconds,
    refinement_record,
    refinement_text,
    time_text,
)
from mousefacelift.evaluation.scores import Lead, Scores, estimates, leads, mean_scores, stacked
from mousefacelift.evaluation.tables import (
    STANDARD_ERROR,
    comparison_table,
    few_samples_note,
    lead_sentences,
    uncertainty_records,
)
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.models.splats import write_ply
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.training.exhausted import evaluation_memory


@evaluation_memory()
def evaluate(manifest: Path | str, train_dir: Path, out_dir: Path, settings: Evaluate, threads: int) -> None:
    """Predict every view of every sample of a split from the other views, and score the predictions.

    Writes metrics.json (means, their standard errors, the differences to the best baselines), table.md (the same to read),
    metrics.tsv (one row per sample, view and method), metrics.png, pictures/{key}.png, turntable.mp4 and {key}.ply.

    Args:
        manifest: manifest.json of the shards, a path or a URL.
        train_dir: folder of `train`: model.safetensors, and config.yaml with the image size and the number of inputs.
        out_dir: folder of the results.
        settings: the split, refinement and further baselines, and how many pictures, splats and frames.
        threads: of this process.

    Raises:
        UserError: for missing or damaged inputs and for an empty split.
    """
    trained = open_trained(manifest, train_dir, settings.split, threads)
    refuse_damaged(trained.data, "h5", {"train"} - {settings.split}, threads)
    samples = trained.samples

    for stale in (*out_dir.glob("*.ply"), out_dir / "turntable.mp4"):
        stale.unlink(missing_ok=True)
    shutil.rmtree(out_dir / "pictures", ignore_errors=True)

    pictured = evenly_spaced(len(samples), settings.pictures).tolist()
    scored: list[dict[str, dict[str, Tensor]]] = []
    times: list[dict[str, float]] = []
    advance = track(len(samples), f"evaluating {settings.split}")
    for index, sample in enumerate(scored_samples(trained, settings)):
        scored.append(sample.scores)
        times.append(sample.seconds)
        if index in pictured:
            write_picture(out_dir / "pictures" / f"{sample.key}.png", sample, settings)
        advance()
    scores = {method: stacked(row[method] for row in scored) for method in method_labels(settings)}
    seconds = median_seconds(times, samples.views) if is_timed(settings) else {}
    _write_metrics(out_dir, scores, seconds, trained, settings)
    _write_splats(out_dir, trained, settings)


def _write_metrics(
    out_dir: Path, scores: Scores, seconds: dict[str, float], trained: Trained, settings: Evaluate
) -> None:
    """metrics.tsv with every value, metrics.json and table.md with the means, metrics.png with bars."""
    write_rows(out_dir / "metrics.tsv", trained.samples, "method", scores)
    means = {method: mean_scores(table) for method, table in scores.items()}
    own = {method: means.pop(method) for method in (MODEL, REFINED) if method in means}
    best = {name: max(each[name] for each in means.values()) for name in METRICS}
    found = {method: leads(scores[method], {name: scores[name] for name in means}) for method in own}
    result = {
        **own,
        "baselines": means,
        "gain": {name: own[MODEL][name] - best[name] for name in METRICS},
        "best_baseline": max(means, key=lambda method: means[method][PRIMARY]),
        **uncertainty_records(scores, found),
        **({"refinement": refinement_record(scores, settings)} if REFINED in own else {}),
        **({"seconds_per_view": seconds} if seconds else {}),
        **provenance(trained),
    }
    write_bars(out_dir / "metrics.png", scores, settings)
    write_json(out_dir / "metrics.json", result)

    text = _table(scores, found, trained, settings)
    if seconds:
        text += time_text(seconds, settings, _machine(trained))
    text += few_samples_note(len(trained.samples))
    with atomic(out_dir / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text, file=sys.stderr, flush=True)


def _table(scores: Scores, found: dict[str, dict[str, Lead]], trained: Trained, settings: Evaluate) -> str:
    """A row per method, and the model, refined and as it is, against the best baseline."""
    labels = method_labels(settings)
    text = comparison_table("method", [(label, estimates(scores[method]), "") for method, label in labels.items()])
    text += (
        f"\n\n{described(trained)} {STANDARD_ERROR}.\n\nThe model against the baseline that is best by each metric. Better and "
        "worse: by more than two standard errors.\n\n"
    )
    text += "".join(f"- {sentence}\n" for sentence in lead_sentences(MODEL, found[MODEL]))
    if REFINED in found:
        text += "\nThe refined model against the same baselines:\n\n"
        text += "".join(f"- {sentence}\n" for sentence in lead_sentences("refined model", found[REFINED]))
        text += refinement_text(scores, settings)
    return text


def _machine(trained: Trained) -> str:
    """Where an evaluation ran, in words."""
    if trained.device == "cuda":
        return f"one {torch.cuda.get_device_name()}"
    together = at_once(trained)
    threads = torch.get_num_threads() // together
    each = f"{threads} thread{'s' * (threads > 1)} of the CPU"
    return each + (f", {together} samples being worked on at once" if together > 1 else "")


def _write_splats(out_dir: Path, trained: Trained, settings: Evaluate) -> None:
    """{key}.ply of some samples' Gaussians, and turntable.mp4 of the sample in the middle of the split."""
    samples = trained.samples
    with torch.inference_mode():
        for index in evenly_spaced(len(samples), settings.splats).tolist():
            gaussians = reconstruct(trained, samples[index], 0, settings.refine_steps)
            write_ply(out_dir / f"{samples.keys[index]}.ply", gaussians, 0)
        if settings.turntable_frames:
            gaussians = reconstruct(trained, samples[len(samples) // 2], 0, settings.refine_steps)
            focal = samples.fxfycxcy[..., :2].mean().item() / samples.image_size
            write_turntable(out_dir / "turntable.mp4", gaussians, focal, settings)
