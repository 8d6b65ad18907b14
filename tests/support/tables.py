"""Tables that the stages write, read without the package's readers."""

import csv

from mousefacelift.training.clock import MACHINE_COLUMNS


def rows_of(path):
    """The rows of a .csv or .tsv with a header, as dictionaries of text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


def metrics_of(folder):
    """The rows of a training run's metrics.csv but for what tells of the machine, which no two runs share."""
    return [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in rows_of(folder / "metrics.csv")]
