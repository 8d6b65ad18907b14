"""Weight files of GS-LRM: our own .safetensors, and the .pt or .ckpt that FaceLift's trainer writes with torch.save.

A file is read only if it holds exactly the tensors of one model: a weight that is silently left out makes a model that
runs and is wrong. Pickles are read by torch's restricted unpickler, which builds tensors and plain values and runs no code.
Names and shapes are checked before any value is read; until then the tensors are views of the mapped file.
"""

import difflib
import hashlib
import json
import math
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.models.gslrm import GSLRM, PRESETS, GSLRMConfig

# FaceLift's trainer keeps the networks of its losses inside the model; they are not trained and not needed here.
FROZEN = ("loss_calculator.perceptual_loss_module.", "loss_calculator.lpips_loss_module.")
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
OBSOLETE = {"recompute"}  # a setting of training, which older files hold among those of the model
# Larger than any GS-LRM; a damaged file must not ask for a model that takes minutes to lay out.
LARGEST = {"width": 65536, "head_width": 65536, "layers": 512, "patch": 256, "free_gaussians": 65536}
GROUPS = {
    "embedder": ("gaussian_position_embeddings", "patch_embedder", "input_layer_norm"),
    "layers": ("transformer_layers",),
    "heads": ("gaussian_upsampler", "pixel_gaussian_decoder"),
}
LISTED = 8  # names of a kind in one message
AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Group:
    """Values of a part of the model: their number, the range, mean and standard deviation of the finite ones, and how
    many are NaN or infinite.
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

    config: as the file states it, or read off the shapes (`inferred`); presets: those it is a model of; counters:
    numbers beside the model, such as FaceLift's steps; dtypes: number of tensors by type; optimizer: whether its state
    is inside; problems: why it cannot be used, empty if it can; groups: empty where names or shapes do not fit.
    """

    path: Path
    format: str
    sha256: str
    config: GSLRMConfig
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


@dataclass(frozen=True)
class _Contents:
    """An opened file: names and shapes are known, values still on disk (but for a legacy pickle's)."""

    path: Path
    format: str
    config: GSLRMConfig
    inferred: bool
    model: dict[str, Any]  # tensors, if the file is right
    frozen: dict[str, Any]
    counters: dict[str, int]
    optimizer: bool


def save_weights(model: GSLRM, path: Path) -> None:
    """Write weights and model config as .safetensors; the file appears whole or not at all.

    Raises UserError if it cannot be written, for want of space for instance.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"gslrm": json.dumps(asdict(model.config), sort_keys=True)})
            temporary.chmod(0o666 & ~_umask())  # the library lets nobody else read it
        except SafetensorError as error:  # its word for a full disk
            raise UserError(f"{path}: the weights cannot be written ({error}); is the disk full?") from None


def load_weights(path: Path, preset: str | None = None) -> GSLRM:
    """Read a model on the CPU, in float32, from a file of `save_weights` or FaceLift's .pt or .ckpt.

    A .pt is a dict with the state dict under "model", or that state dict alone; its config is read off its shapes (see
    `infer_config`). Raises UserError if the file is missing, damaged, could run code, or is not such a model, with the
    list of tensors that are missing, unknown or of another shape; for another model than the preset's, if one is named; and
    for values that are not finite.
    """
    contents = _checked(path, preset)
    with torch.device("meta"):
        model = GSLRM(contents.config)
    state, broken = {}, []
    for name in model.state_dict():
        # A copy: the model must not depend on the file from here on.
        tensor = contents.model.pop(name).detach()
        state[name] = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not state[name].isfinite().all():
            broken.append(name)
    if broken:
        raise UserError(
            f"{path}: NaN or infinity in {_count(broken, 'tensor')} ({_listed(broken)}): the training that wrote it "
            "diverged, or the file is damaged"
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def check_weights(path: Path, preset: str) -> None:
    """Check that a file is a model of the preset, by names and shapes; values are not read.

    Raises UserError as `load_weights` does, and with the differing settings if it is another model.
    """
    _checked(path, preset)


def _checked(path: Path, preset: str | None) -> _Contents:
    """An opened file whose names and shapes are those of its config and, if one is named, of a preset."""
    contents = _open(path)
    _refuse_misfits(contents)
    differing = _differences(contents.config, PRESETS[preset]) if preset else []
    if differing:
        fitting = _fitting(contents.config)
        hint = f"; it is one of preset {' or '.join(fitting)}" if fitting else ""
        if contents.inferred:
            hint += ". What shapes do not tell is taken to be as in FaceLift's models"
        raise UserError(f"{path} is not a model of preset {preset} ({', '.join(differing)}){hint}")
    return contents


def inspect_weights(path: Path) -> Report:
    """Say what a file holds, reading all of it. Raises UserError only if it cannot be read as weights at all."""
    contents = _open(path)
    problems = _misfits(contents)
    groups: tuple[Group, ...] = ()
    if not problems:
        groups = tuple(_measure(name, contents.model, prefixes) for name, prefixes in GROUPS.items())
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
        presets=() if problems else tuple(_fitting(contents.config)),
        tensors=len(contents.model),
        parameters=_parameters(contents.model.values()),
        frozen_tensors=len(contents.frozen),
        frozen_parameters=_parameters(contents.frozen.values()),
        dtypes=dict(Counter(_kind(tensor) for tensor in contents.model.values())),
        counters=contents.counters,
        optimizer=contents.optimizer,
        groups=groups,
        problems=tuple(problems),
    )


def convert_weights(source: Path, target: Path) -> GSLRM:
    """Write a file's model as our own .safetensors and return it. Raises UserError if the target exists."""
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the file to write must end in .safetensors")
    if os.path.lexists(target):
        raise UserError(f"{target}: exists; nothing is overwritten")
    model = load_weights(source)
    save_weights(model, target)
    return model


def print_report(report: Report) -> None:
    """A report as tables on the terminal, as wide as the longest value needs."""
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
        table.add_row(_short(name), f"{value}")
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


def infer_config(shapes: dict[str, tuple[int, ...]]) -> GSLRMConfig:
    """The config that a state dict's shapes by name tell: width, layers, patch, free Gaussians.

    The rest is as in FaceLift's models: head width 64, or for a width that is no multiple of it the largest power of two
    that divides the width, and the class's defaults. What the shapes do not tell, or tell absurdly, is FaceLift's too.
    """
    # Where all names have the same prefix, the model is still known, and the message can name what is wrong with them.
    starts = Counter(name.partition("transformer_layers.")[0] for name in shapes if "transformer_layers." in name)
    prefix = starts.most_common(1)[0][0] if starts else ""
    shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    sizes: dict[str, Any] = {}
    # Every tensor of one dimension belongs to a LayerNorm. The most frequent length outvotes a wrong one.
    lengths = Counter(shape[0] for shape in shapes.values() if len(shape) == 1)
    if lengths:
        sizes["width"] = lengths.most_common(1)[0][0]
    layers = {int(m[1]) for name in shapes if (m := re.match(r"transformer_layers\.(\d{1,6})\.", name))}
    if layers:
        # A gap in the numbering is a missing layer; a number far off is a wrong name.
        sizes["layers"] = max(layers) + 1 if max(layers) < 2 * len(layers) else len(layers)
    for name, axis, per_pixel in (("pixel_gaussian_decoder.1.weight", 0, 14), ("patch_embedder.1.weight", 1, 9)):
        shape = shapes.get(name, ())
        if len(shape) == 2 and per_pixel * (side := math.isqrt(shape[axis] // per_pixel)) ** 2 == shape[axis]:
            sizes["patch"] = side
    free = shapes.get("gaussian_position_embeddings", ())
    if len(free) == 2:
        sizes["free_gaussians"] = free[0]
    sizes = {name: value for name, value in sizes.items() if 1 <= value <= LARGEST[name]}
    width = sizes.get("width", GSLRMConfig.width)
    sizes["head_width"] = math.gcd(width, GSLRMConfig.head_width)
    return replace(GSLRMConfig(), **sizes)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _open(path: Path) -> _Contents:
    """Recognise a file by its first bytes and read its names and shapes."""
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected a file of weights")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a regular file")
    try:
        with path.open("rb") as handle:
            start = handle.read(64)
    except OSError as error:
        raise UserError(f"{path}: not readable as weights: {error.strerror}") from None
    if not start:
        raise UserError(f"{path}: an empty file; {AGAIN}")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
    if start.startswith(b"PK\x03\x04"):
        return _read_torch(path, mmap=True)
    # A length of eight bytes comes first; no header is as long as 2**32.
    if start[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path)
    if start.startswith(b"\x80"):
        return _read_torch(path, mmap=False)
    what = "a text file" if _is_text(start) else "neither .safetensors nor written by torch.save"
    raise UserError(f"{path}: not readable as weights: {what} (it begins with {ascii(start[:24])[1:]})")


def _is_text(start: bytes) -> bool:
    # A multi-byte character may be cut at the end.
    text = start.decode("utf-8", errors="ignore")
    return len(text.encode()) > len(start) - 4 and all(c.isprintable() or c.isspace() for c in text)


def _read_safetensors(path: Path) -> _Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("gslrm")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not readable as weights, damaged or cut off ({error}); {AGAIN}") from None
    if text is None:
        raise UserError(
            f"{path}: holds tensors, but no model config; expected a model.safetensors written by train or weights convert"
        )
    try:
        values = {name: value for name, value in dict(json.loads(text)).items() if name not in OBSOLETE}
        unknown = sorted(values.keys() - {field.name for field in fields(GSLRMConfig)})
        wrong = [f"{n} {v!r:.40}" for n, v in values.items() if n not in unknown and not _possible(n, v)]
        if wrong:
            raise ValueError(", ".join(wrong))
        config = None if unknown else GSLRMConfig(**values)
    except (TypeError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path}: its model config is damaged ({error})") from None
    if config is None:
        raise UserError(f"{path}: written by another version; unknown model settings: {_listed(unknown)}")
    return _Contents(path, "safetensors", config, False, state, {}, {}, False)


def _possible(name: str, value: object) -> bool:
    """Whether a model can have this setting."""
    default = getattr(GSLRMConfig, name)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, int):
        return isinstance(value, int) and 1 <= value <= LARGEST[name]
    return isinstance(value, int | float) and math.isfinite(value)


def _read_torch(path: Path, mmap: bool) -> _Contents:
    """A zip of torch.save is mapped; the pickle that torch wrote before version 1.6 can only be read as a whole."""
    if path.suffix == ".safetensors":  # torch.load goes by this suffix, whatever is inside
        raise UserError(f"{path}: written by torch.save in spite of its suffix; rename it to .pt")
    if mmap:
        _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it then refuses
            loaded = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path}: refused: its pickle holds more than tensors and plain values"
            f"{f' ({_short(named[1])})' if named else ''}, and reading that could run code (or it is damaged). If you "
            "trust its source, load it in a program of your own and torch.save its state dict alone"
        ) from None
    except Exception as error:  # torch.load has no error of its own for a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: not readable as weights, damaged or cut off ({_short(reason)}); {AGAIN}") from None
    if isinstance(loaded, dict) and {"watch", "averages", "rows"} <= loaded.keys():
        raise UserError(
            f"{path}: a checkpoint to continue a training from, not a model; take the run's model.safetensors, or "
            "good.safetensors of one that was stopped"
        )
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}; expected a dict with a state dict as 'model'")
    state, beside = (loaded["model"], loaded) if "model" in loaded else (loaded, {})
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: holds no model: expected a state dict as 'model', or tensors by name; it has "
            f"{_listed(map(str, loaded)) or 'nothing'}"
        )
    state = {str(name): value for name, value in state.items()}
    frozen = {name: value for name, value in state.items() if name.startswith(FROZEN)}
    model = {name: value for name, value in state.items() if name not in frozen}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.items() if _is_plain(tensor)}
    optimizer = beside.get("optimizer")
    return _Contents(
        path=path,
        format="torch.save (zip)" if mmap else "torch.save (legacy pickle)",
        config=infer_config(shapes),
        inferred=True,
        model=model,
        frozen=frozen,
        counters={str(name): value for name, value in beside.items() if type(value) is int},
        optimizer=isinstance(optimizer, dict) and bool(optimizer.get("state")),
    )


def _check_zip(path: Path) -> None:
    """Refuse a zip that torch would read wrongly when mapped, or with a message that helps nobody."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises half a dozen kinds for damaged files
        raise UserError(f"{path}: damaged or cut off ({_short(str(error))}); {AGAIN}") from None
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise UserError(f"{path}: a zip archive, but not one of torch.save")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: packed anew with compression, which torch.save does not use; get the original file")


def _is_plain(value: object) -> bool:
    """A dense tensor of floats in memory or in the mapped file."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in FLOATS
    )


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    text = str(value.dtype).removeprefix("torch.")
    return text if _is_plain(value) or value.dtype not in FLOATS else f"{text}, not dense"


def _refuse_misfits(contents: _Contents) -> None:
    problems = _misfits(contents)
    if problems:
        c = contents.config
        raise UserError(
            f"{contents.path}: does not hold the tensors of a GS-LRM of width {c.width}, {c.layers} layers, patch {c.patch}"
            f"{', as its shapes suggest' if contents.inferred else ''}:\n  " + "\n  ".join(problems)
        )


def _misfits(contents: _Contents) -> list[str]:
    """One line per kind of tensors that are not as the config has them: missing, unknown, of another type or shape."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in GSLRM(contents.config).state_dict().items()}
    found = contents.model
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    kinds, shapes = [], []
    for name, shape in expected.items():
        if name in found and not _is_plain(found[name]):
            kinds.append(f"{name} is {_kind(found[name])}")
        elif name in found and tuple(found[name].shape) != shape:
            shapes.append(f"{name} {list(found[name].shape)} instead of {list(shape)}")
    lines = []
    if missing:
        lines.append(f"{len(missing)} missing: {_listed(missing)}")
    if unknown:
        lines.append(f"{len(unknown)} unknown: {_listed(unknown)}")
        lines.extend(_renamed(unknown, missing))
    if kinds:
        lines.append(f"{len(kinds)} not of floats: {_listed(kinds)}")
    if shapes:
        lines.append(f"{len(shapes)} of another shape: {_listed(shapes)}")
    return lines


def _renamed(unknown: list[str], missing: list[str]) -> list[str]:
    """Guesses at which unknown names are missing ones in disguise."""
    absent = set(missing)
    prefixes: Counter[str] = Counter()
    others = []
    for name in unknown:
        parts = name.split(".")
        tail = next((t for t in (".".join(parts[k:]) for k in range(1, min(len(parts), 12))) if t in absent), None)
        if tail:
            prefixes[name.removesuffix(tail)] += 1
            absent.remove(tail)
        else:
            others.append(name)
    lines = [
        f"{number} of the unknown {'is a missing one' if number == 1 else 'are missing ones'} behind the prefix "
        f"'{_short(prefix)}': save them without it"
        for prefix, number in prefixes.most_common(LISTED)
    ]
    for name in others[:LISTED]:
        near = difflib.get_close_matches(name[:200], absent, n=1, cutoff=0.8)
        if near:
            lines.append(f"{_short(name)} looks like the missing {near[0]}")
    return lines


def _differences(config: GSLRMConfig, wanted: GSLRMConfig) -> list[str]:
    here, there = asdict(config), asdict(wanted)
    return [f"{n} {here[n]} instead of {there[n]}" for n in there if here[n] != there[n]]


def _fitting(config: GSLRMConfig) -> list[str]:
    return [name for name, preset in PRESETS.items() if not _differences(config, preset)]


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


def _count(things: list[str], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _listed(names: Iterable[str]) -> str:
    """The first names, each cut to a readable length, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(_short(name) for name in names[:LISTED]) + more


def _short(text: str) -> str:
    """Text of a file as it may be printed: nothing that a terminal obeys, and no more than a line."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 160 else f"{text[:157]}..."
