"""Times on a GPU or a CPU, and tables of them that are written as JSON too."""

import itertools
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mousefacelift.config.train import Train
from mousefacelift.training.clock import DeviceClock
from mousefacelift.training.machine import choose_accelerator

Row = dict[str, Any]


class Clock(DeviceClock):
    """Instants on a device, and the times of calls."""

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def times(self, function: Callable[[], Any], repeat: int, warm_up: int, alone: bool = False) -> list[float]:
        """Seconds of each of `repeat` calls, after `warm_up` calls that compile kernels and allocate memory.

        A GPU is given the calls one after the other, as in a training run, so that it does not wait for Python while it
        has work. With `alone`, each call begins when the one before has ended, and the time is the caller's.
        """
        for _ in range(warm_up):
            function()
        self.wait()
        if alone:
            return [self._alone(function) for _ in range(repeat)]
        instants = [self.now()]
        for _ in range(repeat):
            function()
            instants.append(self.now())
        self.wait()
        return [self.seconds(*pair) for pair in itertools.pairwise(instants)]

    def _alone(self, function: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - begin


def chosen_device(accelerator: str) -> torch.device:
    """The device that the trainer would use. Raises UserError if it is missing, or a GPU without gsplat."""
    found = choose_accelerator(Train(accelerator=accelerator))
    return torch.device(found, torch.cuda.current_device()) if found == "cuda" else torch.device(found)


def summary(seconds: list[float]) -> tuple[float, float]:
    """Median, and half the distance between the quartiles."""
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    return float(middle), float(high - low) / 2


def machine(device: torch.device) -> Row:
    """The machine that was measured."""
    found: Row = {"device": str(device), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return found | {"name": platform.processor() or platform.machine()}
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "name": properties.name,
        "memory_gib": properties.total_memory / 2**30,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


class Report:
    """Prints tables and keeps the same rows for `save`."""

    def __init__(self) -> None:
        self.tables: dict[str, Any] = {}
        self.console = Console(highlight=False)
        # In a log file a table must not be cut.
        self.console.width = max(self.console.width, 200)

    def say(self, name: str, value: Any, text: str) -> None:
        """Print a line of text."""
        self.tables[name] = value
        self.console.print(escape(text))

    def show(self, name: str, title: str, columns: dict[str, tuple[str, str]], rows: list[Row]) -> None:
        """Print a table.

        columns: key in the rows -> (heading with the unit, format). rows: one that failed holds the reason under
        `failed`, which is printed in place of its first missing number.
        """
        self.tables[name] = rows
        table = Table(title=title, title_justify="left")
        for heading, form in columns.values():
            table.add_column(heading, justify="right" if form else "left")
        for row in rows:
            cells, failed = [], row.get("failed")
            for key, (_, form) in columns.items():
                value = row.get(key)
                if value is None and failed:
                    cells.append(f"[yellow]{escape(failed)}")
                    failed = None
                else:
                    cells.append("" if value is None else escape(format(value, form)))
            table.add_row(*cells)
        self.console.print(table)

    def verdict(self, target: str, met: bool | None, found: str) -> None:
        """Print whether one of the project's targets is met; None: not measured here, for the reason in `found`."""
        word = {True: "met", False: "not met", None: "not measured here"}[met]
        style = {True: "green", False: "bold red", None: "yellow"}[met]
        self.tables.setdefault("verdicts", []).append({"target": target, "verdict": word, "found": found})
        self.console.print(f"[{style}]{word}[/]: {escape(target)}: {escape(found)}")

    def save(self, path: Path | None) -> None:
        """Write everything shown as JSON; None: nowhere."""
        if path:
            path.write_text(json.dumps(self.tables, indent=1), encoding="utf-8")
