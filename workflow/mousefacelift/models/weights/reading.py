"""Opening weight files without trust: our own .safetensors, and the .pt or .ckpt that FaceLift's trainer writes.

Pickles are read by torch's restricted unpickler, which builds tensors and plain values and runs no code. Names and
shapes are checked before any value is read; until then the tensors are views of the mapped file.
"""

import json
import math
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mousefacelift.base.errors import UserError
from mousefacelift.models.gslrm import GSLRM
from mousefacelift.models.network import Network
from mousefacelift.models.registry import NETWORKS
from mousefacelift.models.weights.facelift import FROZEN, infer_config
from mousefacelift.models.weights.text import listed, short

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
OBSOLETE = {"recompute"}  # a setting of training, which older files hold among those of the model
AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Contents:
    """An opened file: names and shapes are known, values still on disk (but for a legacy pickle's).

    Attributes:
        path: the file.
        format: how it is written, for people.
        network: the network that it holds.
        config: the network's `Config`.
        inferred: whether the config is read off the shapes; else the file states it.
        model: the network's tensors by name; in a wrong file anything else.
        frozen: tensors of FaceLift's losses, which are not needed.
        counters: whole numbers beside the model, such as FaceLift's steps.
        optimizer: whether an optimiser's state is inside.
    """

    path: Path
    format: str
    network: type[Network]
    config: Any
    inferred: bool
    model: dict[str, Any]
    frozen: dict[str, Any]
    counters: dict[str, int]
    optimizer: bool


def open_weights(path: Path) -> Contents:
    """Recognise a file by its first bytes and read its names and shapes.

    Raises:
        UserError: the file is missing, of another kind, damaged, or could run code.
    """
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
        raise UserError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
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
    """Whether a file that begins so is a text."""
    # A multi-byte character may be cut at the end.
    text = start.decode("utf-8", errors="ignore")
    return len(text.encode()) > len(start) - 4 and all(c.isprintable() or c.isspace() for c in text)


def _read_safetensors(path: Path) -> Contents:
    """Open our own file: its metadata hold the config as JSON, under the network's name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not readable as weights, damaged or cut off ({error}); {AGAIN}") from None
    network = next((network for name, network in NETWORKS.items() if name in metadata), None)
    if network is None:
        raise UserError(
            f"{path}: holds tensors, but no model config; expected a model.safetensors written by train or weights convert"
        )
    config = _stated_config(path, network, metadata[network.name])
    return Contents(path, "safetensors", network, config, False, state, {}, {}, False)


def _stated_config(path: Path, network: type[Network], text: str) -> Any:
    """The network's config that a file states as JSON. Raises UserError if no model can have it."""
    try:
        values = {name: value for name, value in dict(json.loads(text)).items() if name not in OBSOLETE}
        unknown = sorted(values.keys() - {field.name for field in fields(network.Config)})
        wrong = [f"{n} {v!r:.40}" for n, v in values.items() if n not in unknown and not _possible(network, n, v)]
        if wrong:
            raise ValueError(", ".join(wrong))
        config = None if unknown else network.Config(**values)
    except (TypeError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path}: its model config is damaged ({error})") from None
    if config is None:
        raise UserError(f"{path}: written by another version; unknown model settings: {listed(unknown)}")
    return config


def _possible(network: type[Network], name: str, value: object) -> bool:
    """Whether a model of the network can have this setting."""
    default = getattr(network.Config, name)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, str) or isinstance(value, str):
        return type(value) is type(default)
    if isinstance(default, int):
        return isinstance(value, int) and 1 <= value <= network.largest[name]
    return isinstance(value, int | float) and math.isfinite(value)


def _read_torch(path: Path, mmap: bool) -> Contents:
    """Open a file of torch.save. A zip is mapped; the pickle that torch wrote before version 1.6 is read as a whole."""
    if path.suffix == ".safetensors":  # torch.load goes by this suffix, whatever is inside
        raise UserError(f"{path}: written by torch.save, despite its suffix; rename it to .pt")
    if mmap:
        _check_zip(path)
    loaded = _unpickled(path, mmap)
    if isinstance(loaded, dict) and {"watch", "averages", "rows"} <= loaded.keys():
        raise UserError(
            f"{path}: a checkpoint from which a training run continues, not a model; use the run's model.safetensors, or "
            "good.safetensors if an alarm stopped the run"
        )
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}; expected a dict with a state dict as 'model'")
    state, beside = (loaded["model"], loaded) if "model" in loaded else (loaded, {})
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: holds no model: expected a state dict as 'model', or tensors by name; it has "
            f"{listed(map(str, loaded)) or 'nothing'}"
        )
    # FaceLift's config is not in the file: it is read off the shapes of what is not frozen.
    state = {str(name): value for name, value in state.items()}
    frozen = {name: value for name, value in state.items() if name.startswith(FROZEN)}
    model = {name: value for name, value in state.items() if name not in frozen}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.items() if is_plain(tensor)}
    optimizer = beside.get("optimizer")
    return Contents(
        path=path,
        format="torch.save (zip)" if mmap else "torch.save (legacy pickle)",
        network=GSLRM,
        config=infer_config(shapes),
        inferred=True,
        model=model,
        frozen=frozen,
        counters={str(name): value for name, value in beside.items() if type(value) is int},
        optimizer=isinstance(optimizer, dict) and bool(optimizer.get("state")),
    )


def _unpickled(path: Path, mmap: bool) -> Any:
    """What torch's restricted unpickler makes of a file. Raises UserError if it is damaged or could run code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it then refuses
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path}: refused: its pickle holds more than tensors and plain values"
            f"{f' ({short(named[1])})' if named else ''}, and reading that could run code (or it is damaged). If you "
            "trust its source, load it in your own program and torch.save its state dict alone"
        ) from None
    except Exception as error:  # torch.load has no error of its own for a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: not readable as weights, damaged or cut off ({short(reason)}); {AGAIN}") from None


def _check_zip(path: Path) -> None:
    """Refuse a zip that torch would read wrongly when mapped, or with a message that helps nobody."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile has half a dozen kinds of errors for damaged files
        raise UserError(f"{path}: damaged or cut off ({short(str(error))}); {AGAIN}") from None
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise UserError(f"{path}: a zip archive, but not one of torch.save")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: repacked with compression, which torch.save does not use; use the original file")


def is_plain(value: object) -> bool:
    """A dense tensor of floats in memory or in the mapped file."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in FLOATS
    )


def kind(value: object) -> str:
    """The type of a value that should be a dense tensor of floats."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    text = str(value.dtype).removeprefix("torch.")
    return text if is_plain(value) or value.dtype not in FLOATS else f"{text}, not dense"
