"""What a weight file holds, for people to read."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mousefacelift.models.weights.fitting import fitting_presets, misfits
from mousefacelift.models.weights.reading import kind, open_weights
from mousefacelift.models.weights.text import short


@dataclass(frozen=True)
class Group:
    """Values of a part of a model.

    Attributes:
        name: the part.
        parameters: number of values.
        low: least finite value.
        high: greatest finite value.
        mean: of the finite values.
        std: standard deviation of the finite values.
        not_finite: number of values that are NaN or infinite.
    """

    name: str
    parameters: int
    low: float
    high: float
    mean: float
    std: float
    not_finite: int


@dataclass(frozen=True)
class Report:
    """What a weight file holds.

    Attributes:
        path, format, config, inferred, counters, optimizer: as in `Contents`.
        sha256: of the whole file.
        presets: those whose model it is.
        tensors: number of tensors of the model.
        parameters: number of values of the model.
        frozen_tensors: number of tensors of FaceLift's losses.
        frozen_parameters: number of values of FaceLift's losses.
        dtypes: number of the model's tensors by type.
        groups: the model's values by part; empty where names or shapes do not fit.
        problems: why the file cannot be used; empty if it can.
    """

    path: Path
    format: str
    sha256: str
    config: Any
    inferred: bool
    presets: tuple[str, ...]
    tensors: int
    parameters: int
    frozen_tensors: int
    frozen_parameters: int
    dtypes: dict[str, int]
    counters: dict[str, int]
    optimizer: bool
    groups: tuple[Group, ...]
    problems: tuple[str, ...]


def inspect_weights(path: Path) -> Report:
    """Say what a file holds, reading all of it.

    Args:
        path: a file of `save_weights`, or FaceLift's .pt or .ckpt.

    Returns:
        The report, which lists what is wrong where the file is not exactly a model.

    Raises:
        UserError: the file cannot be read as weights at all.
    """
    contents = open_weights(path)
    problems = misfits(contents)
    groups: tuple[Group, ...] = ()
    if not problems:
        groups = tuple(_measure(name, contents.model, prefixes) for name, prefixes in contents.network.parts.items())
        broken = sum(group.not_finite for group in groups)
        problems = [f"NaN or infinity in {broken} of its values"] if broken else []
    with path.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    return Report(
        path=path,
        format=contents.format,
        sha256=sha256,
        config=contents.config,
        inferred=contents.inferred,
        presets=() if problems else tuple(fitting_presets(contents)),
        tensors=len(contents.model),
        parameters=_parameters(contents.model.values()),
        frozen_tensors=len(contents.frozen),
        frozen_parameters=_parameters(contents.frozen.values()),
        dtypes=dict(Counter(kind(tensor) for tensor in contents.model.values())),
        counters=contents.counters,
        optimizer=contents.optimizer,
        groups=groups,
        problems=tuple(problems),
    )


def _measure(name: str, model: dict[str, Tensor], prefixes: tuple[str, ...]) -> Group:
    """Statistics of the tensors whose names begin so, one tensor at a time, summed in float64."""
    count = finite = 0
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    for key, tensor in model.items():
        if not key.startswith(prefixes):
            continue
        values = tensor.detach().flatten()
        count += len(values)
        usable = values.isfinite()
        if not usable.all():  # choosing is slower than all else here
            values = values[usable]
        finite += len(values)
        if len(values):
            low, high = min(low, values.min().item()), max(high, values.max().item())
            total += values.sum(dtype=torch.float64).item()
            squares += torch.linalg.vector_norm(values, dtype=torch.float64).item() ** 2
    mean = total / finite if finite else math.nan
    std = math.sqrt(max(squares / finite - mean**2, 0.0)) if finite else math.nan
    return Group(name, count, low, high, mean, std, count - finite)


def _parameters(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))


def print_report(report: Report) -> None:
    """Print a report as tables, as wide as the longest value needs."""
    from rich.console import Console
    from rich.table import Table

    settings = ", ".join(f"{name} {value}" for name, value in asdict(report.config).items())
    rows = {
        "format": report.format,
        "model": settings + (" (sizes read off the shapes, the rest as FaceLift's)" if report.inferred else ""),
        "fits preset": ", ".join(report.presets) or "none",
        "tensors": f"{report.tensors:,} of {report.parameters:,} parameters",
        "dtype": ", ".join(f"{name} ({number} tensors)" for name, number in report.dtypes.items()),
        "dropped": f"{report.frozen_tensors} frozen tensors of FaceLift's losses, {report.frozen_parameters:,} parameters"
        if report.frozen_tensors
        else "nothing",
        "optimiser state": "inside, not read" if report.optimizer else "none",
        **report.counters,
        "sha256": report.sha256,
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(short(name), f"{value}")
    tables = [table]
    if report.groups:
        table = Table(title="values", title_justify="left")
        for column in ("part", "parameters", "least", "greatest", "mean", "std", "NaN or infinite"):
            table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
        for g in report.groups:
            numbers = (f"{value:.4g}" for value in (g.low, g.high, g.mean, g.std))
            table.add_row(g.name, f"{g.parameters:,}", *numbers, f"{g.not_finite:,}")
        tables.append(table)
    # In a file or a narrow terminal a table must not be cut. Names are no markup.
    console = Console(width=max(Console().width, 110), markup=False, emoji=False, highlight=False)
    console.print(str(report.path), soft_wrap=True)
    console.print(*tables)
