"""metrics.csv of a training run, as a logger of Lightning."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from mousefacelift.base.tables import write_table

INTERVAL = 10.0  # seconds from one writing of the table to the next
SHARE = (
    200  # times as long as a writing took, at least: it costs half a per cent, however long the table or slow the disk
)


class MetricsTable(Logger):
    """One row per step, kept in memory and in the checkpoints: a run that continues loses none and repeats none.

    The table is also written to `path` as it grows, if there is one. `seconds` is the time spent in training up to the row,
    over all restarts.
    """

    def __init__(self, columns: list[str], path: Path | None = None):
        super().__init__()
        self.columns, self.path = columns, path
        self._due = 0.0
        self.restore({})

    def restore(self, rows: dict[int, dict[str, float]]) -> None:
        """Continue with the rows of a checkpoint, and with its clock."""
        self.rows = rows
        self._begin = time.monotonic() - max((row["seconds"] for row in rows.values()), default=0.0)

    @property
    def name(self) -> str:
        """The logger's name, for Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """The run's version, for Lightning: there is one run per folder."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: settings go to config.yaml."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Merge values into the step's row."""
        assert step is not None
        row = self.rows.setdefault(step, {"step": step})
        row |= metrics | {"seconds": round(time.monotonic() - self._begin, 2)}
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Replace the table at `path` by the rows so far."""
        if self.path is None:
            return
        begin = time.monotonic()
        self.write(self.path)
        end = time.monotonic()
        self._due = end + max(INTERVAL, SHARE * (end - begin))

    def write(self, path: Path) -> None:
        """Write the table as CSV; a cell is empty where a value was not measured at that step."""
        rows = (row for _, row in sorted(self.rows.items()))
        cells = ([f"{row[name]:.7g}" if name in row else "" for name in self.columns] for row in rows)
        write_table(path, self.columns, cells, delimiter=",")
