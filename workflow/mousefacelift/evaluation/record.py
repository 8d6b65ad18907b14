"""What an evaluation writes down: its scores, one row per sample and view, and the data and weights behind them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mousefacelift.base.tables import write_table
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.predict import Trained
from mousefacelift.evaluation.scores import Scores
from mousefacelift.training.data import Samples


def provenance(trained: Trained) -> dict[str, Any]:
    """Which samples and weights the numbers of a metrics.json belong to."""
    return {
        "split": trained.split,
        "samples": len(trained.samples),
        "views": trained.samples.views,
        "num_input_views": trained.train.num_input_views,
        "image_size": trained.train.image_size,
        "run": trained.train.run,
        "trained_on": trained.record.get("data"),
        "data": trained.data.sha256,
    }


def described(trained: Trained) -> str:
    """The same as a sentence below a table."""
    samples = trained.samples
    count = f"{len(samples)} sample{'s' * (len(samples) != 1)}"
    return (
        f"Run {trained.train.run}: {count} of the {trained.split} split, each of {samples.views} views predicted from "
        f"{trained.train.num_input_views} others at {samples.image_size} px."
    )


def write_rows(path: Path, samples: Samples, column: str, scores: Scores) -> None:
    """Write metrics.tsv: a row per sample, view and name in `scores`; the name stands in `column`."""
    write_table(path, ["key", "frame", "view", column, *METRICS], _rows(samples, scores))


def _rows(samples: Samples, scores: Scores) -> Iterator[list[object]]:
    for index, (key, frame) in enumerate(zip(samples.keys, samples.frames, strict=True)):
        for view in range(samples.views):
            for name, table in scores.items():
                yield [key, frame, view, name, *(f"{table[each][index, view].item():.5g}" for each in METRICS)]
