"""Fine-tuning of GS-LRM on shards.

Everything that decides a run is a function of the settings, the data and the step: the weights at the start, the
samples of a step, their held-out views, the learning rate. So a checkpoint needs only weights, optimiser state, the
watch's counters and the metrics so far, and a run that was killed ends with the weights of one that was not.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, locked
from mousefacelift.config.train import Train
from mousefacelift.evaluation.metrics.registry import METRICS, MOUSE_ALONE, PRIMARY, validation_metrics
from mousefacelift.evaluation.tables import estimate_text, warn_of_few_samples
from mousefacelift.models.attention import AttentionChoice
from mousefacelift.models.network import Network
from mousefacelift.models.weights.files import save_weights
from mousefacelift.shards.integrity import refuse_damaged
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.checkpoints import best_validation, finished_model, keep_good, same_file
from mousefacelift.training.clock import MACHINE_COLUMNS
from mousefacelift.training.curves import write_curves
from mousefacelift.training.finetuning import FineTuning
from mousefacelift.training.gap import GapColumns, last_gap
from mousefacelift.training.guards import STATISTICS, AlarmError, Watch
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.loggers import require_wandb
from mousefacelift.training.machine import choose_accelerator, prepare_gpu, rank, set_threads, without_auto
from mousefacelift.training.metrics_table import MetricsTable
from mousefacelift.training.preflight import preflight, report
from mousefacelift.training.runs import identity, initial_model, run_record
from mousefacelift.training.trainer import fit

PRIMARY_COLUMN = f"val_{PRIMARY}"  # of metrics.csv
GAP = GapColumns(MOUSE_ALONE[0])


def train(
    manifest: Path | str, out_dir: Path, checkpoint_dir: Path, settings: Train, threads: int, check: bool = False
) -> None:
    """Fine-tune on the train split of shards.

    Writes model.safetensors, metrics.csv, curves.png and config.yaml, and best.safetensors if something was validated.
    metrics.csv grows with the run. A rerun continues after the last complete checkpoint. A second process with the same
    settings and data waits for the first one's lock.

    Args:
        manifest: manifest.json of the shards, a path or a URL.
        out_dir: folder of the results.
        checkpoint_dir: folder in which each run has a folder of checkpoints, named by the hash of settings and data.
        settings: of the run.
        threads: of this machine, which its processes share.
        check: only print the table of checks, which otherwise comes before the first step.

    Raises:
        UserError: before the first step, for unusable settings or data.
        AlarmError: when the run has failed.
        TerminatedError: after a SIGTERM or Ctrl-C.
    """
    require_wandb(settings.wandb)
    number, device = 0 if check else rank(settings), choose_accelerator(settings)
    if device == "cuda":  # before anything asks about the memory of this process's GPU
        torch.cuda.set_device(number % settings.devices)
    data = read_manifest(manifest)
    settings = without_auto(settings, device, data.views)
    if settings.num_input_views >= data.views:
        raise UserError(
            f"train.num_input_views is {settings.num_input_views}, but the shards have {data.views} views: none would "
            f"be held out; use {data.views - 1}"
        )
    # One process checks for all of them.
    if number == 0:
        refuse_damaged(data, settings.container, ("train",), threads)
        refuse_damaged(data, "h5", ("val",), threads)
    set_threads(threads // settings.devices)
    if not data.split("train"):
        raise UserError(f"{manifest}: no training samples; see why `sample` rejected them (rejected.tsv)")
    shards = ShardData(data, settings, number, settings.processes)

    model = initial_model(settings)
    if number == 0:
        report(preflight(shards, model, device))
    if check:
        return
    attention = AttentionChoice()
    if device == "cuda":
        attention = prepare_gpu(settings, model, shards.size, threads)
        if number == 0:
            print(attention, file=sys.stderr, flush=True)
    record = run_record(data, settings)
    checkpoint = checkpoint_dir / identity(record) / "last.ckpt"
    with attention.applied():
        if number == 0:
            _train_and_write(_module(model, settings, shards), record, checkpoint, out_dir, device)
        else:
            fit(_module(model, settings, shards), MetricsTable([]), checkpoint, out_dir, device)


def _train_and_write(module: FineTuning, record: dict[str, Any], checkpoint: Path, out_dir: Path, device: str) -> None:
    """Train and write the results. If the run fails, write the metrics and curves that show why."""
    settings, metrics = module.settings, out_dir / "metrics.csv"
    table = MetricsTable(_columns(module), metrics)
    title = f"{settings.run}: {settings.preset}, {settings.steps} steps of {settings.batch_size} samples"
    with locked(checkpoint.with_name("lock"), "another process trains this very run"):
        _note_other_runs(checkpoint)
        try:
            fit(module, table, checkpoint, out_dir, device)
        except AlarmError as alarm:
            for name in ("metrics.csv", "best.safetensors"):  # the latter is of an earlier run
                (out_dir / name).unlink(missing_ok=True)
            table.write(out_dir / "metrics-failed.csv")
            _write_curves(table, out_dir / "curves-failed.png", f"{title}: stopped at step {module.step}")
            kept = _keep_good(checkpoint, settings)
            raise AlarmError(f"{alarm}. See {out_dir / 'curves-failed.png'}. {kept}") from None
        # From the checkpoint, whether this process has just written it or finds the run finished.
        save_weights(finished_model(checkpoint, settings), out_dir / "model.safetensors")
        _write_best(checkpoint, settings, table, out_dir, len(module.data.val))
        for name in ("metrics-failed.csv", "curves-failed.png"):
            (out_dir / name).unlink(missing_ok=True)
        if sentence := gap_sentence(table, module.data):
            print(sentence, file=sys.stderr, flush=True)
            title += f"\n{sentence}"
        _write_curves(table, out_dir / "curves.png", title)
        with atomic(out_dir / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
        table.write(metrics)


def _write_best(checkpoint: Path, settings: Train, table: MetricsTable, out_dir: Path, samples: int) -> None:
    """Write best.safetensors, the weights with the best validation, and say which they are, and on how many samples."""
    path, best = out_dir / "best.safetensors", best_validation(checkpoint)
    if best is None:
        path.unlink(missing_ok=True)  # of an earlier run
        return
    last = table.rows.get(settings.steps, {}).get(PRIMARY_COLUMN)
    if (best.step, best.value) == (settings.steps, last):
        same_file(out_dir / "model.safetensors", path)
    else:
        save_weights(finished_model(best.path, settings), path)
    primary = METRICS[PRIMARY]
    value = f"{primary.text(best.value)} {primary.unit}".rstrip()
    where = f"{path}; mean over {samples} validation sample{'s' * (samples != 1)}"
    print(f"best validation: {primary.label} {value} after step {best.step} ({where})", file=sys.stderr, flush=True)
    warn_of_few_samples(samples)


def gap_sentence(table: MetricsTable, data: ShardData) -> str | None:
    """How much better the run knows its training samples than those of validation; None if that was not measured."""
    found, metric = last_gap(table.rows, GAP), METRICS[GAP.metric]
    if found is None:
        return None
    train, val, gap = (estimate_text(GAP.metric, *each) for each in (found.train, found.val, found.difference))
    return (
        f"{metric.label}, held-out views, after step {found.step}: {train} {metric.unit} in {data.seen} training samples, {val} in "
        f"{len(data.val)} validation samples; gap {gap} {metric.unit} (± one standard error over samples)"
    )


def _module(model: Network, settings: Train, shards: ShardData) -> FineTuning:
    model.recompute = settings.recompute  # type: ignore[assignment]  # auto was resolved
    if settings.compile:
        model.compile_layers()
    measures = {column: metric.measure for column, metric in validation_metrics().items()}
    return FineTuning(model, settings, shards, Watch(settings.guards), measures, PRIMARY_COLUMN, GAP)


def _columns(module: FineTuning) -> list[str]:
    """The columns of metrics.csv."""
    terms = [name for name, weight in module.settings.loss.terms.items() if weight]
    validation = [*GAP.added, *validation_metrics()] if len(module.data.val) else []
    return ["step", "loss", *terms, "lr", "grad_norm", "skipped", *STATISTICS, *validation, *MACHINE_COLUMNS]


def _note_other_runs(checkpoint: Path) -> None:
    """Tell the user why a run starts at step 0 although there are checkpoints."""
    folder = checkpoint.parents[1]
    if not checkpoint.exists() and (others := list(folder.glob("*/last.ckpt"))):
        text = f"starting at step 0: the checkpoints in {folder} ({len(others)}) belong to other settings or data"
        print(text, file=sys.stderr, flush=True)


def _keep_good(checkpoint: Path, settings: Train) -> str:
    """Where the last good weights are. A failure to write them must not hide the alarm."""
    try:
        return keep_good(checkpoint, settings)
    except (UserError, OSError) as error:
        return f"The last good weights could not be kept ({error})"


def _write_curves(table: MetricsTable, path: Path, title: str) -> None:
    unit = METRICS[PRIMARY].unit
    labels = {column: metric.label for column, metric in validation_metrics().items() if metric.unit == unit}
    labels[GAP.train] = f"{METRICS[GAP.metric].label}, training samples"
    write_curves(table.rows, path, title, labels)
