"""Models from files and into files."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.models.network import Network
from mousefacelift.models.registry import preset_config
from mousefacelift.models.weights.fitting import open_checked
from mousefacelift.models.weights.text import counted, listed


def save_weights(model: Network, path: Path) -> None:
    """Write weights and model config as .safetensors; the file appears whole or not at all.

    Args:
        model: what to write; its config stands in the file's metadata, under the network's name.
        path: the file; its folder is made.

    Raises:
        UserError: the file cannot be written, for want of space for instance.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={model.name: json.dumps(asdict(model.config), sort_keys=True)})
            temporary.chmod(0o666 & ~_umask())  # the library lets nobody else read it
        except SafetensorError as error:  # its word for a full disk
            raise UserError(f"{path}: the weights cannot be written ({error}); is the disk full?") from None


def load_weights(path: Path, preset: str | None = None, guide: str | None = None) -> Network:
    """Read a model.

    Args:
        path: a file of `save_weights`, or FaceLift's .pt or .ckpt: a dict with the state dict under "model", or that
            state dict alone, whose config is read off its shapes (see `infer_config`).
        preset: a name in PRESETS that the model must be of; None takes any model.
        guide: `train.guide` that the model is given; None for the preset's own. Without a preset the file's own counts.

    Returns:
        The model on the CPU, in float32; it does not depend on the file any more.

    Raises:
        UserError: as `check_weights`, and for values that are not finite.
    """
    contents = open_checked(path, preset, guide)
    config = preset_config(preset, guide) if preset else contents.config
    with torch.device("meta"):
        model = contents.network(config)
    state, broken = {}, []
    for name, shaped in model.state_dict().items():
        if name not in contents.model:  # what the guide adds changes nothing at first
            state[name] = torch.zeros(shaped.shape)
            continue
        # A copy: the model must not depend on the file from here on.
        tensor = contents.model.pop(name).detach()
        state[name] = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not state[name].isfinite().all():
            broken.append(name)
    if broken:
        raise UserError(
            f"{path}: NaN or infinity in {counted(broken, 'tensor')} ({listed(broken)}): the training run that wrote it "
            "diverged, or the file is damaged"
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def convert_weights(source: Path, target: Path) -> Network:
    """Write a file's model as our own .safetensors.

    Args:
        source: as `load_weights` takes it.
        target: the new .safetensors.

    Returns:
        The model.

    Raises:
        UserError: as `load_weights`, or the target exists, has another suffix, or cannot be written.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the file to write must end in .safetensors")
    if os.path.lexists(target):
        raise UserError(f"{target}: exists; nothing is overwritten")
    model = load_weights(source)
    save_weights(model, target)
    return model


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
